//! The configurations in `bootstrap/` do what their comments say.

use std::path::Path;
use std::process::Command;

use crate::common::tls::{Authority, TlsClient};
use crate::common::{H2, Home, Origin, Port, Program, Proxy, Value, client, eventually, get, with};

/// The repository, from which the paths in the files are relative.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A shipped file with the given ports in the place of the fixed ones.
fn shipped(name: &str, ports: &[(u16, &Port)]) -> Value {
    let path = Path::new(ROOT).join("bootstrap").join(name);
    let mut text = std::fs::read_to_string(path).expect("the file is there");
    for (fixed, port) in ports {
        text = text.replace(
            &format!("port_value: {fixed} "),
            &format!("port_value: {} ", port.number()),
        );
    }
    let mut value: Value = serde_yaml::from_str(&text).expect("YAML");
    // The harness brings its own.
    if let Some(bootstrap) = value.as_object_mut() {
        bootstrap.remove("admin");
    }
    value
}

#[test]
fn all_of_them_are_valid() {
    for name in [
        "demo.yaml",
        "demo-offline.yaml",
        "file-watched.yaml",
        "two-hosts.yaml",
        "container.yaml",
    ] {
        let path = format!("bootstrap/{name}");
        let output = Program::under_test()
            .command(&["--mode", "validate", "-c", &path])
            .current_dir(ROOT)
            .output()
            .expect("it runs");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(
            text.contains(&format!("configuration '{path}' OK")),
            "{text}"
        );
        assert!(output.status.success());
    }
}

#[tokio::test]
async fn the_offline_demo_answers_over_tls() {
    let (home, public, site) = (Home::new(), Port::free(), Port::free());
    let bootstrap = shipped("demo-offline.yaml", &[(10000, &public), (10443, &site)]);
    let _proxy = Proxy::start(&home, &bootstrap, &["--file-flush-interval-msec", "20"]).await;
    let reply = get(public.number(), "/").await;
    assert_eq!(reply.text(), "Hello from demo.internal, over TLS.\n");
    eventually("a line in the access log", || async {
        let line = home.read("stdout.txt");
        (line.contains("\"GET / HTTP/1.1\" 200 - 0 36 ") && line.contains("\"demo.internal\""))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_watched_files_can_be_moved() {
    let (home, public, greeter) = (Home::new(), Port::free(), Port::free());
    let ports = [(10000, &public), (10001, &greeter)];
    let lds = shipped("lds.yaml", &ports);
    home.mv_value("lds.yaml", &lds);
    home.mv_value("cds.yaml", &shipped("cds.yaml", &ports));
    let mut bootstrap = shipped("file-watched.yaml", &[]);
    for (key, file) in [("lds_config", "lds.yaml"), ("cds_config", "cds.yaml")] {
        bootstrap["dynamic_resources"][key]["path_config_source"]["path"] = home.text(file).into();
    }
    let _proxy = Proxy::start(&home, &bootstrap, &[]).await;
    let reply = get(public.number(), "/").await;
    assert_eq!(
        (&*reply.text(), reply.header("x-version")),
        ("Hello.\n", "1")
    );
    // As the walk-through of the README does it.
    let changed = lds
        .to_string()
        .replace("\"value\":\"1\"", "\"value\":\"2\"");
    home.mv("lds.yaml", changed);
    client::get_until(public.number(), "/", |reply| {
        reply.header("x-version") == "2"
    })
    .await;
}

#[tokio::test]
async fn two_hosts_behind_one_address() {
    let (home, public) = (Home::new(), Port::free());
    let (a, b) = (Origin::http("a").await, Origin::http("b").await);
    let mut bootstrap = shipped("two-hosts.yaml", &[(10000, &public)]);
    lead_to(&mut bootstrap, &[&a, &b]);
    let _proxy = Proxy::start(&home, &bootstrap, &[]).await;
    for (host, origin) in [
        ("a.example.com", "a"),
        ("b.example.com", "b"),
        ("a.example.com:10000", "a"),
    ] {
        let seen = client::get_from(public.number(), host, "/").await.seen();
        assert_eq!(seen.origin, origin, "{host}");
    }
    let reply = client::get_from(public.number(), "c.example.com", "/").await;
    assert_eq!(reply.status, 404);
}

/// Puts origins in the place of the clusters' hosts.
fn lead_to(bootstrap: &mut Value, origins: &[&Origin]) {
    for (number, origin) in origins.iter().enumerate() {
        let cluster = &mut bootstrap["static_resources"]["clusters"][number];
        let name = cluster["name"].as_str().expect("a name").to_owned();
        cluster["load_assignment"] = crate::common::config::assignment(&name, &[origin.port()]);
    }
}

#[tokio::test]
async fn two_hosts_behind_one_address_over_tls() {
    let home = Home::new();
    let (https, http) = (Port::free(), Port::free());
    let (a, b) = (Origin::http("a").await, Origin::http("b").await);
    let authority = Authority::new();
    for host in ["a", "b"] {
        let name = format!("{host}.example.com");
        let params = rcgen::CertificateParams::new(vec![name.clone()]).expect("a name");
        let identity = authority.issue_for(&name, params);
        home.mv(&format!("{host}.pem"), identity.certificate);
        home.mv(&format!("{host}.key"), identity.key);
    }
    let file = shipped("two-https-hosts.yaml", &[(10443, &https), (10080, &http)]);
    let file = file
        .to_string()
        .replace("bootstrap/certificates/", &home.text(""));
    let mut bootstrap: Value = serde_json::from_str(&file).expect("JSON");
    lead_to(&mut bootstrap, &[&a, &b]);
    let _proxy = Proxy::start(&home, &bootstrap, &[]).await;

    let (client, port) = (TlsClient::new(), https.number());
    for host in ["a", "b"] {
        let name = format!("{host}.example.com");
        let request = format!("GET / HTTP/1.1\r\nhost: {name}:10443\r\nconnection: close\r\n\r\n");
        let answer = client.ask(port, &name, &request).await.expect("an answer");
        assert_eq!(answer.shown, name);
        assert!(
            answer.text.contains(&format!("\"origin\":\"{host}\"")),
            "{}",
            answer.text
        );
        assert!(
            answer.text.contains(r#"["x-forwarded-proto","https"]"#),
            "{}",
            answer.text
        );
    }
    let stream = client.clone().offering(&["h2", "http/1.1"]);
    let stream = stream.connect(port, "b.example.com").await.expect("TLS");
    let connection = H2::over(stream).await.expect("HTTP/2");
    let request = client::request("GET", "b.example.com", "/");
    let reply = connection.send(request).await.expect("an answer");
    assert_eq!(reply.seen().origin, "b");

    let reply = client::get_from(http.number(), "a.example.com:10080", "/x?y").await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("location")),
        (301, "https://a.example.com:10443/x?y")
    );

    // A renewed certificate is taken once its key is there too.
    let params = rcgen::CertificateParams::new(vec!["a.example.com".to_owned()]).expect("a name");
    let renewed = authority.issue_for("renewed", params);
    home.mv("a.pem", renewed.certificate);
    home.mv("a.key", renewed.key);
    eventually("the renewed certificate", || async {
        let answer = client.get(port, "a.example.com", "").await.ok()?;
        (answer.shown == "renewed").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_container_needs_one_argument() {
    let (home, public) = (Home::new(), Port::free());
    let admin = Port::free();
    let bootstrap = with(
        shipped("container.yaml", &[(10000, &public)]),
        crate::common::json!({ "admin": { "address": crate::common::config::address(admin.number()) } }),
    );
    let mut command: Command = Program::under_test().command(&[
        "--config-yaml",
        &bootstrap.to_string(),
        "--disable-hot-restart",
        "--concurrency",
        "1",
    ]);
    let log = std::fs::File::create(home.path("log.txt")).expect("a file");
    let mut child = command.stderr(log).spawn().expect("it starts");
    let reply = client::get_until(public.number(), "/healthz", |reply| reply.status == 200).await;
    child.kill().expect("still running");
    child.wait().expect("ended");
    assert_eq!(reply.text(), "ok\n");
}

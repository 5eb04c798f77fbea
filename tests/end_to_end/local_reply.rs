//! `local_reply_config`: what the answers of the proxy itself look like.

use crate::common::client::{header, request};
use crate::common::config::{access_log, answer, any_host, cluster, http_with, route};
use crate::common::{Home, Origin, Reply, Site, Value, eventually, json, with};

fn status(code: u16) -> Value {
    json!({ "status_code_filter": { "comparison": { "op": "EQ", "value": {
        "default_value": code, "runtime_key": "none",
    } } } })
}

fn asked(name: &str) -> Value {
    json!({ "header_filter": { "header": { "name": name, "present_match": true } } })
}

fn set(name: &str, value: &str) -> Value {
    json!({
        "header": { "key": name, "value": value },
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    })
}

fn text(format: &str) -> Value {
    json!({ "text_format_source": { "inline_string": format } })
}

struct Scene {
    site: Site,
    home: Home,
    _origin: Origin,
}

impl Scene {
    /// A site whose answers are rewritten; below `/origin` they are not its own.
    async fn start(config: Value) -> Self {
        let (home, origin) = (Home::new(), Origin::http("origin").await);
        let format = "%REQ(:path)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %BYTES_SENT%";
        let fields = json!({
            "local_reply_config": config,
            "access_log": [access_log(&home.text("log"), format)],
        });
        let redirect =
            json!({ "match": { "prefix": "/moved" }, "redirect": { "path_redirect": "/" } });
        let routes = vec![
            answer("/ok", 200, "fine"),
            json!({ "match": { "prefix": "/bare" }, "direct_response": { "status": 404 } }),
            redirect,
            route("/origin", "origin"),
            route("/dead", "dead"),
        ];
        let clusters = vec![cluster("origin", &[origin.port()]), cluster("dead", &[])];
        let usual = json!({ "route_config": { "virtual_hosts": [any_host(routes)] } });
        let args = ["--file-flush-interval-msec", "20"];
        let site = Site::with_args(http_with(with(usual, fields)), clusters, &args).await;
        Self {
            site,
            home,
            _origin: origin,
        }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let request = request(method, "site", path);
        let with = |request, (name, value): &(&str, &str)| header(request, name, value);
        self.site.send(headers.iter().fold(request, with)).await
    }

    async fn get(&self, path: &str, asks: &str) -> Reply {
        self.ask("GET", path, &[(asks, "1")]).await
    }
}

fn seen(reply: &Reply) -> (u16, &str, String) {
    let status = reply.status.as_u16();
    (status, reply.header("content-type"), reply.text())
}

#[tokio::test]
async fn the_first_mapper_that_accepts_an_answer_changes_it() {
    let seen_before = set(
        "x-before",
        "%RESPONSE_CODE% %RESP(:status)% [%LOCAL_REPLY_BODY%]",
    );
    let scene = Scene::start(json!({ "mappers": [
        {
            "filter": status(404),
            "status_code": 401,
            "body": { "inline_string": "not here" },
            "headers_to_add": [seen_before, set("content-type", "text/x")],
        },
        {
            "filter": asked("x-json"),
            "body_format_override": { "json_format": {
                "text": "%LOCAL_REPLY_BODY%", "status": "%RESPONSE_CODE%", "path": "%REQ(:path)%",
            } },
        },
        {
            "filter": asked("x-html"),
            "body": { "inline_string": "<b>" },
            "body_format_override": {
                "text_format_source": { "inline_string": "%LOCAL_REPLY_BODY% %RESPONSE_CODE_DETAILS%" },
                "content_type": "text/html; charset=UTF-8",
            },
        },
        { "filter": asked("x-type"), "headers_to_add": [set("content-type", "a/b")] },
        { "filter": asked("x-none"), "body": { "inline_string": "" } },
        { "filter": { "response_flag_filter": { "flags": ["UH"] } }, "status_code": 599 },
    ] }))
    .await;
    let reply = scene.get("/bare", "x-json").await;
    assert_eq!(seen(&reply), (401, "text/x", "not here".into()));
    assert_eq!(reply.header("x-before"), "404 404 []");
    let reply = scene.get("/ok", "x-none-of-them").await;
    assert_eq!(seen(&reply), (200, "text/plain", "fine".into()));
    let reply = scene.get("/ok", "x-json").await;
    let body = "{\"path\":\"/ok\",\"status\":200,\"text\":\"fine\"}\n";
    assert_eq!(seen(&reply), (200, "application/json", body.into()));
    assert_eq!(reply.header("content-length"), body.len().to_string());
    let reply = scene.get("/ok", "x-html").await;
    let html = "text/html; charset=UTF-8";
    assert_eq!(seen(&reply), (200, html, "<b> direct_response".into()));
    let reply = scene.get("/ok", "x-type").await;
    assert_eq!(seen(&reply), (200, "a/b", "fine".into()));
    let reply = scene.get("/ok", "x-none").await;
    assert_eq!(seen(&reply), (200, "", String::new()));
    // A body that comes of nothing.
    let reply = scene.get("/moved", "x-json").await;
    let body = "{\"path\":\"/moved\",\"status\":301,\"text\":\"\"}\n";
    assert_eq!(seen(&reply), (301, "application/json", body.into()));
    let reply = scene.get("/dead", "x-nothing").await;
    assert_eq!(
        (reply.status.as_u16(), reply.text().as_str()),
        (599, "no healthy upstream")
    );
    let reply = scene.get("/origin", "x-json").await;
    assert_eq!(reply.seen().origin, "origin", "it is not the proxy's own");
    // A HEAD is told of what it does not get.
    let reply = scene.ask("HEAD", "/ok", &[("x-html", "1")]).await;
    assert_eq!(reply.header("content-length"), "19");
    let home = &scene.home;
    let log = |line: &'static str| async move { home.read("log").contains(line).then_some(()) };
    eventually("the log", || log("/bare 401 direct_response 8\n")).await;
    eventually("the log", || log("/dead 599 no_healthy_upstream 19\n")).await;
}

#[tokio::test]
async fn a_format_writes_every_body() {
    let format = "<%RESPONSE_CODE%|%LOCAL_REPLY_BODY%|%RESPONSE_FLAGS%|%RESPONSE_CODE_DETAILS%>";
    let own = json!({ "filter": asked("x-own"), "body_format_override": text("own") });
    let scene = Scene::start(json!({ "mappers": [own], "body_format": text(format) })).await;
    let reply = scene.get("/ok", "x-nothing").await;
    let body = "<200|fine|-|direct_response>";
    assert_eq!(seen(&reply), (200, "text/plain", body.into()));
    let reply = scene.get("/nowhere", "x-nothing").await;
    let body = "<404||NR|route_not_found>";
    assert_eq!(seen(&reply), (404, "text/plain", body.into()));
    let reply = scene.get("/ok", "x-own").await;
    assert_eq!(seen(&reply), (200, "text/plain", "own".into()));
    // Over HTTP/2, too.
    let reply = scene.site.http2().await;
    let reply = reply
        .send(request("GET", "site", "/nowhere"))
        .await
        .expect("an answer");
    assert_eq!(
        seen(&reply),
        (404, "text/plain", "<404||NR|route_not_found>".into())
    );
}

/// As Envoy writes them.
#[tokio::test]
async fn a_body_need_not_be_text() {
    let body = json!({ "inline_bytes": "Yf8iw6k=" });
    let as_text = json!({ "filter": asked("x-text"), "body": body,
        "body_format_override": text("[%LOCAL_REPLY_BODY%]") });
    let as_json = json!({ "filter": asked("x-json"), "body": body,
        "body_format_override": { "json_format": { "body": "%LOCAL_REPLY_BODY%" } } });
    let scene = Scene::start(json!({ "mappers": [as_text, as_json] })).await;
    let reply = scene.get("/ok", "x-text").await;
    assert_eq!(&reply.body[..], b"[a\xff\"\xc3\xa9]");
    let reply = scene.get("/ok", "x-json").await;
    let escaped = r#"{"body":"a\u00ff\u0022\u00c3\u00a9"}"#;
    assert_eq!(reply.text(), format!("{escaped}\n"));

    let direct = json!({ "match": { "prefix": "/" }, "direct_response": {
        "status": 200, "body": body, "body_format": text("[%LOCAL_REPLY_BODY%]") } });
    let site = Site::routes(vec![direct], vec![]).await;
    assert_eq!(&site.get("/").await.body[..], b"[a\xff\"\xc3\xa9]");
}

#[tokio::test]
async fn a_grpc_client_is_told_what_became_of_the_answer() {
    let scene = Scene::start(json!({ "mappers": [
        {
            "filter": asked("x-own"),
            "status_code": 429,
            "headers_to_add": [set("grpc-status", "9")],
            "body": { "inline_string": "a body é" },
        },
        { "filter": asked("x-denied"), "status_code": 403 },
    ] }))
    .await;
    let grpc = ("content-type", "application/grpc");
    for (asks, status, message) in [
        ("x-own", "9", "a body %C3%A9"),
        ("x-denied", "7", "fine"),
        ("x-nothing", "2", "fine"),
    ] {
        let reply = scene.ask("POST", "/ok", &[grpc, (asks, "1")]).await;
        assert_eq!(
            seen(&reply),
            (200, "application/grpc", String::new()),
            "{asks}"
        );
        assert_eq!(reply.header("grpc-status"), status, "{asks}");
        assert_eq!(reply.header("grpc-message"), message, "{asks}");
    }
}

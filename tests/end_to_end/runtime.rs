//! Layers of the runtime that change: by RTDS, and on disk.

use crate::common::config::{answer, any_host, bootstrap, discovery, file_source, http, listener};
use crate::common::{Home, Port, Program, Proxy, Value, eventually, get, json, with};
use std::fs;
use std::os::unix::fs::symlink;

const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";

/// Two routes, of which `share` percent of requests take the first.
fn split(port: &Port) -> Value {
    let chosen = json!({
        "match": {
            "prefix": "/",
            "runtime_fraction": {
                "default_value": { "numerator": 0 },
                "runtime_key": "share",
            },
        },
        "direct_response": { "status": 200, "body": { "inline_string": "chosen" } },
    });
    let routes = vec![chosen, answer("/", 200, "other")];
    listener("main", port.number(), http(vec![any_host(routes)]))
}

fn with_layers(port: &Port, layers: Value) -> Value {
    with(
        bootstrap(vec![split(port)], vec![]),
        json!({
            "node": { "id": "test-node", "cluster": "test-cluster" },
            "layered_runtime": { "layers": layers },
        }),
    )
}

fn layer(values: Value) -> Value {
    discovery(RUNTIME, vec![json!({ "name": "some", "layer": values })])
}

async fn says(port: &Port, text: &str) {
    eventually(text, || async {
        (get(port.number(), "/").await.text() == text).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_layer_by_rtds_is_in_force_when_its_file_is_moved() {
    let (home, port) = (Home::new(), Port::free());
    home.mv_value("rtds.json", &layer(json!({ "share": 0 })));
    let source = file_source(&home.text("rtds.json"));
    let layers = json!([
        { "name": "base", "static_layer": { "share": 100, "kept": "here" } },
        { "name": "found", "rtds_layer": { "name": "some", "rtds_config": source } },
        { "name": "admin", "admin_layer": {} },
    ]);
    let proxy = Proxy::start(&home, &with_layers(&port, layers), &[]).await;
    let admin = proxy.admin();
    assert_eq!(get(port.number(), "/").await.text(), "other");
    home.mv_value(
        "rtds.json",
        &layer(json!({ "share": 100, "a": { "b": "c" } })),
    );
    says(&port, "chosen").await;
    let runtime = admin.json("/runtime").await;
    assert_eq!(runtime["layers"], json!(["base", "found", "admin"]));
    let entries = &runtime["entries"];
    assert_eq!(entries["a.b"]["layer_values"], json!(["", "c", ""]));
    assert_eq!(entries["kept"]["final_value"], "here");
    assert_eq!(admin.stat("runtime.num_keys").await, Some(3));
    assert_eq!(admin.stat("runtime.num_layers").await, Some(3));
    assert_eq!(admin.stat("runtime.update_success").await, Some(2));

    // The last good values stay.
    home.mv_value("rtds.json", &layer(json!({ "share": [0] })));
    admin.stat_reaches("runtime.update_rejected", 1).await;
    assert_eq!(get(port.number(), "/").await.text(), "chosen");
    let other = json!({ "name": "other", "layer": { "share": 0 } });
    home.mv_value("rtds.json", &discovery(RUNTIME, vec![other]));
    admin.stat_reaches("runtime.update_rejected", 2).await;
    home.mv_value("rtds.json", &discovery(RUNTIME, vec![]));
    admin.stat_reaches("runtime.update_rejected", 3).await;
    assert_eq!(get(port.number(), "/").await.text(), "chosen");
    // What was set by hand goes before.
    let modified = admin.post("/runtime_modify?share=0").await.unwrap();
    assert_eq!(modified.text(), "OK\n");
    says(&port, "other").await;
}

#[tokio::test]
async fn a_swapped_link_changes_a_layer_on_disk() {
    let (home, port) = (Home::new(), Port::free());
    for (version, share) in [("one", "0"), ("two", "100")] {
        for directory in ["base", "app/test-cluster"] {
            fs::create_dir_all(home.path(&format!("{version}/{directory}"))).unwrap();
        }
        fs::write(home.path(&format!("{version}/base/share")), "50").unwrap();
        let own = home.path(&format!("{version}/app/test-cluster/share"));
        fs::write(own, share).unwrap();
    }
    symlink("one", home.path("current")).unwrap();
    let root = home.text("current");
    let layers = json!([
        { "name": "base", "disk_layer": { "symlink_root": root, "subdirectory": "base" } },
        { "name": "own", "disk_layer": {
            "symlink_root": root, "subdirectory": "app", "append_service_cluster": true,
        } },
        { "name": "none", "disk_layer": { "symlink_root": root, "subdirectory": "none" } },
    ]);
    let proxy = Proxy::start(&home, &with_layers(&port, layers), &[]).await;
    let admin = proxy.admin();
    assert_eq!(get(port.number(), "/").await.text(), "other");
    assert_eq!(
        admin.json("/runtime").await["layers"],
        json!(["base", "own"]),
        "a directory that does not exist is no layer"
    );
    let before = admin.stat("runtime.load_success").await.unwrap();
    symlink("two", home.path("next")).unwrap();
    fs::rename(home.path("next"), home.path("current")).unwrap();
    says(&port, "chosen").await;
    admin.stat_reaches("runtime.load_success", before + 1).await;
    let exists = admin.stat("runtime.override_dir_exists").await.unwrap();
    let loads = admin.stat("runtime.load_success").await.unwrap();
    assert_eq!(exists, loads);
    assert_eq!(admin.stat("runtime.override_dir_not_exists").await, Some(0));
}

#[test]
fn a_layer_by_rtds_is_read_in_validation() {
    let (home, port) = (Home::new(), Port::free());
    home.mv_value("rtds.json", &layer(json!({ "list": [1] })));
    let source = file_source(&home.text("rtds.json"));
    let layers = json!([
        { "name": "found", "rtds_layer": { "name": "some", "rtds_config": source } },
    ]);
    home.mv_value("bootstrap.json", &with_layers(&port, layers));
    let validated =
        Program::under_test().run(&["--mode", "validate", "-c", &home.text("bootstrap.json")]);
    let said = String::from_utf8_lossy(&validated.stderr);
    assert!(!validated.status.success());
    assert!(
        said.contains("rtds.json") && said.contains("layer: invalid runtime entry value"),
        "{said}"
    );
}

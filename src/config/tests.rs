//! What each kind of bad input is answered with.

use std::{fs, path::PathBuf};

use super::*;
use crate::api::envoy::config::bootstrap::v3::Bootstrap;

/// Reads a bootstrap from a file with this name and content.
fn bootstrap(name: &str, content: impl AsRef<[u8]>) -> Result<Bootstrap, String> {
    bootstrap_with(name, content, Strictness::default())
}

fn bootstrap_with(
    name: &str,
    content: impl AsRef<[u8]>,
    strictness: Strictness,
) -> Result<Bootstrap, String> {
    let (_folder, path) = file(name, content);
    let report = Report::new();
    read(&path, &strictness, &report).map_err(|_| without_folder(&report.to_string()))
}

fn file(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::Builder::new().prefix("nuncio").tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

/// Error texts with file names only, so that they can be compared.
fn without_folder(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let place = line.split(' ').find(|word| word.contains("/nuncio"));
        match place.and_then(|place| place.rsplit_once('/')) {
            Some((folder, _)) => line.replace(&format!("{folder}/"), ""),
            None => line.to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn error(name: &str, content: &str) -> String {
    bootstrap(name, content).expect_err(content)
}

#[test]
fn a_bootstrap_is_read_in_every_format() {
    use prost::Message;
    let yaml = bootstrap("b.yaml", "node: {id: a}\nstats_flush_interval: 5s\n").unwrap();
    let camel = bootstrap("b.json", r#"{"node":{"id":"a"},"statsFlushInterval":"5s"}"#).unwrap();
    let text = bootstrap(
        "b.pb_text",
        "node { id: 'a' } stats_flush_interval { seconds: 5 }",
    );
    assert_eq!(yaml, camel);
    assert_eq!(yaml, text.unwrap());
    assert_eq!(yaml, bootstrap("b.pb", yaml.encode_to_vec()).unwrap());
    assert_eq!(yaml.node.unwrap().id, "a");
}

#[test]
fn every_error_has_its_place() {
    let text = "\
node: {id: 5}
stats_flush_interval: 5
static_resources:
  clusterz: []
  clusters:
  - name: x
    type: STATICC
    connect_timeout: -1s
  - name: ''
admin: [1]
";
    assert_eq!(
        error("b.yaml", text),
        "\
b.yaml:1:12: node.id: expected a string, found the number 5; put it in quotes
b.yaml:2:23: stats_flush_interval: expected a duration in seconds, such as \"5s\" or \"0.25s\", found the number 5
b.yaml:4:3: static_resources.clusterz: unknown field in envoy.config.bootstrap.v3.Bootstrap.StaticResources, did you mean clusters?
b.yaml:7:11: static_resources.clusters[0].type: unknown value \"STATICC\", did you mean STATIC?
b.yaml:8:5: static_resources.clusters[0].connect_timeout: must be greater than 0s, is -1s
b.yaml:9:5: static_resources.clusters[1].name: must not be empty
b.yaml:10:8: admin: expected a map of envoy.config.bootstrap.v3.Admin, found a list"
    );
}

#[test]
fn syntax_errors_have_their_place() {
    assert_eq!(error("b.yaml", ""), "b.yaml:1:1: the file is empty");
    assert_eq!(error("b.json", ""), "b.json:1:1: the file is empty");
    assert_eq!(
        error("b.json", "{\n \"node\": {\"id\": \"a\""),
        "b.json:2:20: expected ',' or '}', the file ends inside the map that starts at line 2, column 10"
    );
    assert_eq!(
        error("b.json", "{\"node\": {}} x"),
        "b.json:1:14: expected the end of the file after the value, found 'x'"
    );
    assert_eq!(
        error("b.yaml", "node:\n  id: a\nnode: {}\n"),
        "b.yaml:3:1: duplicate key \"node\", first at line 1, column 1"
    );
    assert_eq!(
        error("b.json", "{\"node\":{\"id\":\"a\",\n\"id\":\"b\"}}"),
        "b.json:2:1: duplicate key \"id\", first at line 1, column 10"
    );
    assert_eq!(
        error("b.yaml", "stats_config: {}\nstatsConfig: {}\n"),
        "b.yaml:2:1: stats_config: is set a second time, first as stats_config at line 1, column 1"
    );
    assert_eq!(
        error("b.yaml", "node: {id: a}\n---\nnode: {id: b}\n"),
        "b.yaml:3:1: a second document in the same file would be ignored: remove it"
    );
    assert_eq!(
        bootstrap("b.yaml", b"node:\n  id: \xff\n").unwrap_err(),
        "b.yaml:2:7: the byte 0xff is not valid UTF-8"
    );
    assert!(error("b.pb", "x").starts_with("b.pb: is not a envoy.config.bootstrap.v3.Bootstrap"));
}

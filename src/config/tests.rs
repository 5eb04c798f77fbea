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
b.yaml:1:12: node.id: expected a string, found 5; put it in quotes
b.yaml:2:23: stats_flush_interval: expected a duration in seconds, such as \"5s\", found 5
b.yaml:4:3: static_resources.clusterz: unknown field in envoy.config.bootstrap.v3.Bootstrap.StaticResources, did you mean clusters?
b.yaml:7:11: static_resources.clusters[0].type: unknown value \"STATICC\", did you mean STATIC?
b.yaml:8:5: static_resources.clusters[0].connect_timeout: must be greater than 0s, is -1s
b.yaml:9:5: static_resources.clusters[1].name: must not be empty
b.yaml:10:8: admin: expected a map of envoy.config.bootstrap.v3.Admin, found a list"
    );
}

#[test]
fn a_text_of_protobuf_is_wrong_at_its_place() {
    let cases = [
        ("node {\n  id: 5\n}", "b.pb_text:2:7: ", "expected a string"),
        ("\nnope: 1", "b.pb_text:2:1: ", "field 'nope' not found"),
        ("node {\n  id: 'a'", "b.pb_text:2:10: ", "end of input"),
    ];
    for (text, place, says) in cases {
        let error = error("b.pb_text", text);
        assert!(error.starts_with(place) && error.contains(says), "{error}");
    }
}

#[test]
fn a_file_whose_name_says_nothing_is_read_as_json() {
    assert_eq!(
        error("envoy.conf", "node: {id: a}"),
        "envoy.conf:1:1: expected a value, found 'n'; a file is read as JSON unless its name \
         ends in .yaml, .yml, .pb or .pb_text"
    );
}

#[test]
fn no_duration_is_negative() {
    assert_eq!(
        error(
            "b.yaml",
            "static_resources: {listeners: [{listener_filters_timeout: -1s}]}"
        ),
        "b.yaml:1:33: static_resources.listeners[0].listener_filters_timeout: \
         must be at least 0s, is -1s"
    );
}

#[test]
fn syntax_errors_have_their_place() {
    assert_eq!(error("b.yaml", ""), "b.yaml:1:1: the file is empty");
    for nothing in ["# nothing\n", "---\n", "~"] {
        assert!(error("b.yaml", nothing).ends_with(" is empty"), "{nothing}");
    }
    assert_eq!(error("b.json", "null"), "b.json:1:1: the document is empty");
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

fn merged(base: &str, over: &str) -> Result<Bootstrap, String> {
    let (_folder, path) = file("b.yaml", base);
    let mut report = Report::new();
    let origin = Origin::load(Some(&path), Some(over), &report).unwrap();
    let Ok(bootstrap) = origin.read(&Strictness::default(), &report) else {
        return Err(without_folder(&report.to_string()));
    };
    report.root().field("node").field("id").error("found later");
    origin.locate(&mut report);
    assert_eq!(
        report.to_string(),
        "--config-yaml:1:8: node.id: found later"
    );
    Ok(bootstrap)
}

#[test]
fn config_yaml_is_merged_over_the_file() {
    let merged = merged(
        "node: {id: a, cluster: c, metadata: {x: 1}}\nstatic_resources: {clusters: [{name: a}]}\n",
        "node: {id: b, metadata: {y: 2}}\nstatic_resources: {clusters: [{name: b}]}\n",
    )
    .unwrap();
    let node = merged.node.unwrap();
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("b", "c"));
    let keys: Vec<_> = node.metadata.unwrap().fields.into_keys().collect();
    assert_eq!(keys, ["x", "y"]);
    let names = merged.static_resources.unwrap().clusters;
    let names: Vec<_> = names.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_broken_rule_of_a_merged_bootstrap_is_found_in_its_text() {
    assert_eq!(
        merged(
            "node: {id: a}\nstatic_resources: {clusters: [{name: a}]}\n",
            "node: {id: b}\nstatic_resources:\n  clusters:\n  - name: ''\n",
        )
        .unwrap_err(),
        "--config-yaml:4:5: static_resources.clusters[1].name: must not be empty"
    );
}

#[test]
fn a_bootstrap_has_to_come_from_somewhere() {
    let report = Report::new();
    assert!(Origin::load(None, None, &report).is_err());
    let text = Some("node: {id: a}");
    let alone = Origin::load(None, text, &report).unwrap();
    let alone = alone.read(&Strictness::default(), &report).unwrap();
    assert_eq!(alone.node.unwrap().id, "a");
    let nowhere = Some(std::path::Path::new("/nonexistent.yaml"));
    assert!(Origin::load(nowhere, text, &report).is_err());
    assert_eq!(
        report.to_string(),
        "at least one of --config-path and --config-yaml has to be given\n\
         unable to read file: /nonexistent.yaml: No such file or directory (os error 2)"
    );
}

#[test]
fn unknown_fields_pass_when_they_may() {
    let text = "nodee: {}\nstatic_resources: {clusters: [{name: a, type: NEW}]}\n";
    assert!(bootstrap("b.yaml", text).is_err());
    for unknown in [Unknown::Warn, Unknown::Ignore] {
        let read = bootstrap_with("b.yaml", text, Strictness { unknown }).unwrap();
        assert_eq!(read.static_resources.unwrap().clusters[0].name, "a");
    }
    let (_folder, path) = file("b.yaml", text);
    let report = Report::new();
    read::<Bootstrap>(&path, &Strictness::for_static(true), &report).unwrap();
    let warnings = report.take_warnings();
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].to_string().ends_with(
        "b.yaml:1:1: nodee: unknown field in envoy.config.bootstrap.v3.Bootstrap, \
         did you mean node?"
    ));
}

#[test]
fn deprecated_fields_are_warned_of() {
    let (_folder, path) = file(
        "b.yaml",
        "admin:\n  access_log_path: /dev/null\n  address: {pipe: {path: x}}\n",
    );
    let report = Report::new();
    read::<Bootstrap>(&path, &Strictness::default(), &report).unwrap();
    let warnings = report.take_warnings();
    assert!(warnings[0].to_string().ends_with(
        "b.yaml:2:3: admin.access_log_path: deprecated field \
         envoy.config.bootstrap.v3.Admin.access_log_path"
    ));
}

#[test]
fn a_wrong_any_says_what_is_wrong() {
    let with = |config: &str| {
        error(
            "b.yaml",
            &format!(
                "admin:\n  address: {{pipe: {{path: x}}}}\n  access_log:\n  - name: x\n    typed_config: {config}\n"
            ),
        )
    };
    let place = "b.yaml:5:19: admin.access_log[0].typed_config:";
    assert_eq!(
        with("{path: x}"),
        format!("{place} \"@type\" is missing, which says what this is")
    );
    let place = "b.yaml:5:29: admin.access_log[0].typed_config:";
    assert_eq!(
        with("{\"@type\": envoy.extensions.access_loggers.file.v3.FileAccessLog}"),
        format!(
            "{place} \"envoy.extensions.access_loggers.file.v3.FileAccessLog\" is not a type URL, \
             did you mean \"type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\"?"
        )
    );
    assert_eq!(
        with(
            "{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAcessLog}"
        ),
        format!(
            "{place} the type \"envoy.extensions.access_loggers.file.v3.FileAcessLog\" is not \
             supported, did you mean envoy.extensions.access_loggers.file.v3.FileAccessLog?"
        )
    );
    let typed_struct = with("{\"@type\": type.googleapis.com/xds.type.v3.TypedStruct}");
    assert!(
        typed_struct.contains("the type \"xds.type.v3.TypedStruct\" is not supported"),
        "{typed_struct}"
    );
    let inside = with(
        "{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, pathh: x}",
    );
    assert!(
        inside.ends_with(
            "admin.access_log[0].typed_config.pathh: unknown field in \
             envoy.extensions.access_loggers.file.v3.FileAccessLog, did you mean path?"
        ) && !inside.contains('\n'),
        "{inside}"
    );
}

#[test]
fn a_yaml_bomb_and_deep_nesting_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..10 {
        let alias = format!("*a{}", i - 1);
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![alias; 10].join(", "));
    }
    let text = error("b.yaml", &bomb);
    assert!(
        text.ends_with("aliases expand to more than 100000 values"),
        "{text}"
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for name in ["b.yaml", "b.json"] {
        let text = error(name, &deep);
        assert!(
            text.contains("nested deeper than 100 levels")
                || text.contains("too deep")
                || text.contains("recursion"),
            "{text}"
        );
    }
    let text = error("b.yaml", "a: &a [*a]\n");
    assert!(
        text.ends_with("the alias refers to the node that contains it"),
        "{text}"
    );
}

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

fn discovery(name: &str, content: impl AsRef<[u8]>) -> Result<Discovery, String> {
    let (_folder, path) = file(name, content);
    read_discovery(&path, CLUSTER).map_err(|error| without_folder(&error.to_string()))
}

#[test]
fn resources_are_told_apart_in_every_format() {
    use crate::api::envoy::{
        config::cluster::v3::Cluster, service::discovery::v3::DiscoveryResponse,
    };
    use prost::Message;
    let json = format!(
        r#"{{"version_info": "7", "resources": [
             {{"@type": "{CLUSTER}", "name": "a", "connectTimeout": "1s"}},
             {{"@type": "type.googleapis.com/envoy.service.discovery.v3.Resource", "name": "b",
               "resource": {{"@type": "{CLUSTER}", "name": "b"}}}}]}}"#
    );
    let yaml = format!(
        "version_info: '7'\nresources:\n- {{'@type': {CLUSTER}, name: a, connect_timeout: 1s}}\n- {{'@type': {CLUSTER}, name: b}}\n"
    );
    let report = Report::new();
    let decode = |discovery: &Discovery| -> Vec<Cluster> {
        let decode = |raw: &RawResource| raw.decode(&Strictness::default(), &report).unwrap();
        discovery.resources.iter().map(decode).collect()
    };
    let from_yaml = discovery("c.yaml", yaml).unwrap();
    let clusters = decode(&from_yaml);
    assert_eq!(from_yaml.version_info, "7");
    assert_eq!(from_yaml.resources[1].name(), "b");
    assert_ne!(from_yaml.resources[0].hash(), from_yaml.resources[1].hash());
    assert_eq!(decode(&discovery("c.json", json).unwrap()), clusters);

    let encoded = DiscoveryResponse {
        resources: clusters
            .iter()
            .map(|cluster| prost_types::Any {
                type_url: CLUSTER.into(),
                value: cluster.encode_to_vec(),
            })
            .collect(),
        ..Default::default()
    };
    assert_eq!(
        decode(&discovery("c.pb", encoded.encode_to_vec()).unwrap()),
        clusters
    );
    assert!(report.is_empty());
}

#[test]
fn what_is_wrong_with_an_answer_is_said_with_its_place() {
    let wrong = |text: &str| discovery("c.yaml", text).unwrap_err();
    assert_eq!(wrong(""), "c.yaml:1:1: the file is empty");
    assert_eq!(
        wrong("resourcez: []"),
        "c.yaml:1:1: resourcez: unknown field in envoy.service.discovery.v3.DiscoveryResponse, did you mean resources?"
    );
    assert_eq!(
        wrong(
            "resources:\n- {'@type': type.googleapis.com/envoy.config.listener.v3.Listener, name: x}\n- name: y\n"
        ),
        "c.yaml:2:13: resources[0]: expected envoy.config.cluster.v3.Cluster, found envoy.config.listener.v3.Listener\n\
         c.yaml:3:3: resources[1]: \"@type\" is missing, expected envoy.config.cluster.v3.Cluster"
    );
    assert_eq!(
        wrong(&format!("resources:\n- '@type': {CLUSTER}\n")),
        "c.yaml:2:3: resources[0]: name is required"
    );
    assert_eq!(
        wrong("type_url: type.googleapis.com/envoy.config.listener.v3.Listener\n"),
        "c.yaml:1:11: type_url: expected envoy.config.cluster.v3.Cluster, found envoy.config.listener.v3.Listener"
    );
    assert_eq!(
        discovery("c.json", "{\"resources\": [{\"@type\": \"x\"").unwrap_err(),
        "c.json:1:29: expected ',' or '}', the file ends inside the map that starts at line 1, column 16"
    );
    assert!(
        discovery("c.yaml", "resources: []")
            .unwrap()
            .resources
            .is_empty()
    );
}

/// A listener in JSON and in YAML whose routes have `count` virtual hosts; those
/// named in `changed` have another route.
fn many_hosts(count: usize, changed: &[(usize, &str)]) -> String {
    let hosts = (0..count).map(|i| {
        let of = changed.iter().find(|(number, _)| *number == i);
        let route = of.map_or("\"route\": {\"cluster\": \"a\"}", |(_, route)| route);
        format!(
            "{{\"name\": \"h{i}\", \"domains\": [\"h{i}\"],\n\"routes\": \
             [{{\"match\": {{\"prefix\": \"/\"}}, {route}}}]}}"
        )
    });
    let hosts = hosts.collect::<Vec<_>>().join(",\n");
    format!(
        r#"{{"resources": [{{"@type": "t/envoy.config.listener.v3.Listener", "name": "l",
"address": {{"socket_address": {{"address": "127.0.0.1", "port_value": 1}}}},
"filter_chains": [{{"filters": [{{"name": "f", "typed_config": {{
"@type": "t/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
"stat_prefix": "x", "route_config": {{"name": "r", "virtual_hosts": [
{hosts}
], "ignore_port_in_host_matching": true}}}}}}]}}]}}]}}"#
    )
}

#[test]
fn elements_of_a_long_list_are_read_once() {
    use crate::api::envoy::{
        config::listener::v3::{Listener, filter::ConfigType},
        extensions::filters::network::http_connection_manager::v3::{
            HttpConnectionManager, http_connection_manager::RouteSpecifier,
        },
    };
    const LISTENER: &str = "envoy.config.listener.v3.Listener";
    let resource = |name: &str, text: &str| {
        let (_folder, path) = file(name, text);
        read_discovery(&path, LISTENER).unwrap().resources.remove(0)
    };
    let decode = |resource: &RawResource| {
        let mut report = Report::new();
        let message: Result<Listener, _> = resource.decode(&Strictness::default(), &report);
        resource.locate(&mut report);
        message.map_err(|_| without_folder(&report.to_string()))
    };
    let hosts = |listener: &Listener| {
        let filter = &listener.filter_chains[0].filters[0];
        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
            panic!("{filter:?}");
        };
        let report = Report::new();
        let manager: HttpConnectionManager = unpack(any, &report.root()).unwrap();
        match manager.route_specifier {
            Some(RouteSpecifier::RouteConfig(routes)) => {
                assert!(routes.ignore_port_in_host_matching);
                assert_eq!(routes.name, "r");
                let hosts = routes.virtual_hosts.into_iter();
                hosts.map(|host| host.decode().unwrap()).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    // Short lists are read as a whole: that both ways give the same is the point.
    let short = hosts(&decode(&resource("l.json", &many_hosts(3, &[]))).unwrap());
    for name in ["l.json", "l.yaml"] {
        let first = resource(name, &many_hosts(200, &[]));
        let all = hosts(&decode(&first).unwrap());
        assert_eq!(all.len(), 200);
        assert_eq!(all[..3], short);
        let names: Vec<_> = all.iter().map(|host| host.name.clone()).collect();
        assert_eq!(names, (0..200).map(|i| format!("h{i}")).collect::<Vec<_>>());

        // Of those behind the first few the text alone is looked at.
        let other = r#""route": {"cluster": "b"}"#;
        let changed = many_hosts(200, &[(7, other), (150, other)]);
        let second = resource(name, &changed);
        let alone = decode(&resource(name, &changed)).unwrap();
        second.follow(&first);
        assert_eq!(decode(&second).unwrap(), alone);
        for (i, host) in hosts(&alone).iter().enumerate() {
            assert_eq!(*host == all[i], ![7, 150].contains(&i), "{i}");
        }

        let wrong = r#""route": {"clutser": "b"}"#;
        let third = resource(name, &many_hosts(200, &[(9, wrong), (161, wrong)]));
        third.follow(&second);
        let path = "filter_chains[0].filters[0].typed_config.route_config.virtual_hosts";
        let expected = [(9, 25), (161, 329)].map(|(host, line)| {
            format!(
                "{name}:{line}:49: {path}[{host}].routes[0].route.clutser: unknown field in \
                 envoy.config.route.v3.RouteAction, did you mean cluster?"
            )
        });
        assert_eq!(decode(&third).unwrap_err(), expected.join("\n"));
        // It is said again, and the next one is good again.
        assert_eq!(decode(&third).unwrap_err(), expected.join("\n"));
        let fourth = resource(name, &many_hosts(200, &[]));
        fourth.follow(&third);
        assert_eq!(hosts(&decode(&fourth).unwrap()), all);
    }
}

#[test]
fn a_resource_is_located_in_its_file() {
    use crate::api::envoy::config::cluster::v3::Cluster;
    let json = format!(
        "{{\"resources\": [\n  {{\"@type\": \"{CLUSTER}\", \"name\": \"a\"}}, {{\"@type\": \"{CLUSTER}\",\n   \"name\": \"b\", \"connectTimeout\": \"0s\"}}]}}"
    );
    let (_folder, path) = file("c.json", json);
    let discovery = read_discovery(&path, CLUSTER).unwrap();
    let mut report = Report::new();
    let raw = &discovery.resources[1];
    assert!(
        raw.decode::<Cluster>(&Strictness::default(), &report)
            .is_err()
    );
    report.root().field("name").error("found later");
    raw.locate(&mut report);
    assert_eq!(
        without_folder(&report.to_string()),
        "c.json:3:4: name: found later\nc.json:3:17: connect_timeout: must be greater than 0s, is 0s"
    );
}

#[test]
fn a_required_field_of_a_oneof_is_required_only_when_chosen() {
    let with = |matcher: &str| {
        bootstrap(
            "b.yaml",
            format!(
                "watchdogs: {{}}\nstats_config: {{stats_matcher: {{exclusion_list: {{patterns: [{matcher}]}}}}}}\n"
            ),
        )
    };
    assert!(with("{prefix: a}").is_ok());
    assert!(with("{safe_regex: {regex: a}}").is_ok());
    assert_eq!(
        with("{}").unwrap_err(),
        "b.yaml:2:60: stats_config.stats_matcher.exclusion_list.patterns[0]: \
         one of exact, prefix, suffix, safe_regex, contains, custom is required"
    );
}

#[test]
fn what_envoy_reads_otherwise_than_the_mapping_is_read_so() {
    let yaml = "\
stats_flush_interval: {seconds: 5}
use_tcp_for_dns_lookups: 'True'
static_resources:
  clusters:
    name: c
    type: '1'
    lb_policy: random
    per_connection_buffer_limit_bytes: {value: 1e3}
    eds_cluster_config: ~
    metadata: {filter_metadata: {a: ~}}
    upstream_config: ~
";
    let read = bootstrap("b.yaml", yaml).unwrap();
    assert_eq!(read.stats_flush_interval.unwrap().seconds, 5);
    assert!(read.use_tcp_for_dns_lookups);
    let cluster = &read.static_resources.unwrap().clusters[0];
    assert_eq!(cluster.lb_policy, 3);
    assert_eq!(cluster.per_connection_buffer_limit_bytes, Some(1000));
}

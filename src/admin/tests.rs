//! The texts of endpoints, compared with what Envoy 1.40 answers.

use std::sync::Arc;

use http::Method;

use super::{
    state::{Kind, Origin, Refusal, Resource},
    testing::{ask, get, moment, post, state, version},
};
use crate::api::envoy::{
    admin::v3::ClientResourceStatus,
    config::{cluster::v3::Cluster, listener::v3::Listener},
};

fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        ..Default::default()
    }
}

fn resource(name: &str, origin: Origin) -> Resource {
    Resource {
        name: name.into(),
        origin,
        active: None,
        warming: None,
        draining: None,
        error: None,
        status: ClientResourceStatus::Acked,
    }
}

fn dynamic() -> Origin {
    Origin::Dynamic(Arc::from("cds.yaml"))
}

#[test]
fn what_changes_something_is_asked_by_post() {
    let (state, _) = state();
    let (status, text) = ask(&state, Method::GET, "/quitquitquit");
    assert_eq!(status, 405);
    assert_eq!(text, "Method GET not allowed, POST required.");
    assert_eq!(post(&state, "/quitquitquit"), "OK\n");
}

#[test]
fn an_unknown_path_is_answered_with_help() {
    let (state, _) = state();
    let (status, text) = ask(&state, Method::GET, "/nothing");
    assert_eq!(status, 404);
    assert!(text.starts_with("invalid path. admin commands are:\n  /: Admin home page\n"));
}

#[test]
fn ready_tells_the_state() {
    let (state, _) = state();
    assert_eq!(
        ask(&state, Method::GET, "/ready"),
        (http::StatusCode::OK, "LIVE\n".to_owned())
    );
    post(&state, "/healthcheck/fail");
    let (status, text) = ask(&state, Method::GET, "/ready");
    assert_eq!((status.as_u16(), text.as_str()), (503, "DRAINING\n"));
}

#[test]
fn listeners_are_drained_as_asked() {
    let (state, fake) = state();
    post(&state, "/drain_listeners?graceful&skip_exit");
    assert_eq!(
        fake.deeds.borrow()[..],
        ["DrainListeners { graceful: true, skip_exit: true, inbound_only: false }"]
    );
}

#[test]
fn levels_are_listed_and_changed_all_or_none() {
    let (state, _) = state();
    assert_eq!(
        post(&state, "/logging"),
        "active loggers:\n  admin: info\n  upstream: info\n\n"
    );
    assert!(post(&state, "/logging?paths=admin:debug,upstream:off").contains("  upstream: off\n"));
    let text = post(&state, "/logging?paths=admin:trace,nonesuch:off");
    assert!(text.starts_with("error: unknown logger name\n\nusage: /logging?<name>=<level>"));
    assert!(text.contains("  admin: debug\n"), "{text}");
    let (status, text) = ask(&state, Method::POST, "/logging?level=loud");
    assert_eq!(status, 400);
    assert!(text.starts_with("error: unknown logger level\n\n"));
}

#[test]
fn runtime_values_are_modified_and_shown() {
    let (state, _) = state();
    assert_eq!(
        get(&state, "/runtime"),
        "{\n \"entries\": {},\n \"layers\": [\n  \"admin\"\n ]\n}\n"
    );
    assert_eq!(post(&state, "/runtime_modify?a.b=3"), "OK\n");
    assert_eq!(
        get(&state, "/runtime"),
        "{\n \"entries\": {\n  \"a.b\": {\n   \"final_value\": \"3\",\n   \"layer_values\": [\n    \"3\"\n   ]\n  }\n },\n \"layers\": [\n  \"admin\"\n ]\n}\n"
    );
    assert!(post(&state, "/runtime_modify").starts_with("usage: /runtime_modify?key1=value1"));
}

#[test]
fn a_dump_has_every_state_of_a_resource() {
    let (state, fake) = state();
    *fake.resources.borrow_mut() = vec![
        (
            Kind::Cluster,
            Resource {
                active: Some(version(&cluster("fixed"))),
                ..resource("fixed", Origin::Static)
            },
        ),
        (
            Kind::Cluster,
            Resource {
                active: Some(version(&cluster("web"))),
                error: Some(Refusal {
                    message: Some(version(&cluster("web")).message),
                    version_info: "v2".into(),
                    at: moment(),
                    details: "cds.yaml:3:4: wrong".into(),
                }),
                status: ClientResourceStatus::Nacked,
                ..resource("web", dynamic())
            },
        ),
        (
            Kind::Cluster,
            Resource {
                warming: Some(version(&cluster("slow"))),
                ..resource("slow", dynamic())
            },
        ),
    ];
    assert_eq!(
        get(&state, "/config_dump"),
        include_str!("testdata/config_dump.json")
    );
    assert_eq!(
        get(
            &state,
            "/config_dump?resource=static_clusters&mask=cluster.name"
        ),
        "{\n \"configs\": [\n  {\n   \"@type\": \"type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster\",\n   \"cluster\": {\n    \"@type\": \"type.googleapis.com/envoy.config.cluster.v3.Cluster\",\n    \"name\": \"fixed\"\n   }\n  }\n ]\n}\n"
    );
    assert_eq!(
        get(&state, "/config_dump?resource=static_listeners"),
        "{}\n"
    );
    let named = get(
        &state,
        "/config_dump?resource=dynamic_active_clusters&name_regex=we",
    );
    assert_eq!(named, "{}\n", "the expression has to match as a whole");
}

#[test]
fn a_dump_that_makes_no_sense_is_refused_with_envoys_words() {
    let (state, _) = state();
    for (query, status, text) in [
        ("resource=foo", 404, "foo not found in config dump"),
        (
            "resource=bootstrap",
            400,
            "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field",
        ),
        (
            "mask=foo",
            400,
            "FieldMask foo could not be successfully applied to any configs.",
        ),
        (
            "mask=static_clusters.cluster",
            400,
            "FieldMask static_clusters.cluster could not be successfully applied to any configs.",
        ),
    ] {
        let answer = ask(&state, Method::GET, &format!("/config_dump?{query}"));
        assert_eq!((answer.0.as_u16(), answer.1.as_str()), (status, text));
    }
    let (_, text) = ask(&state, Method::GET, "/config_dump?name_regex=(");
    assert!(text.starts_with("INVALID_ARGUMENT: Error while parsing name_regex from (: "));
}

#[test]
fn a_mask_picks_parts_of_the_dump() {
    let (state, _) = state();
    assert_eq!(
        get(&state, "/config_dump?mask=bootstrap.node.id"),
        "{\n \"configs\": [\n  {\n   \"@type\": \"type.googleapis.com/envoy.admin.v3.BootstrapConfigDump\",\n   \"bootstrap\": {\n    \"node\": {\n     \"id\": \"n1\"\n    }\n   }\n  }\n ]\n}\n"
    );
}

#[test]
fn a_listener_that_was_only_ever_refused_is_shown() {
    let (state, fake) = state();
    let listener = Listener {
        name: "l".to_owned(),
        ..Default::default()
    };
    *fake.resources.borrow_mut() = vec![(
        Kind::Listener,
        Resource {
            error: Some(Refusal {
                message: Some(version(&listener).message),
                version_info: "".into(),
                at: moment(),
                details: "lds.yaml:1:1: address: is required".into(),
            }),
            status: ClientResourceStatus::Nacked,
            ..resource("l", dynamic())
        },
    )];
    let dump = get(&state, "/config_dump?resource=dynamic_listeners");
    assert!(
        dump.contains("\"details\": \"lds.yaml:1:1: address: is required\""),
        "{dump}"
    );
    assert!(dump.contains("\"client_status\": \"NACKED\""), "{dump}");
    let page = get(&state, "/");
    assert!(
        page.contains("listener l: nothing serves in its place"),
        "{page}"
    );
    assert!(page.contains("lds.yaml:1:1: address: is required"));
}

crate::stat_table! {
    mod sample {
        counters { rq_total, upstream_rq_timeout }
        gauges { rq_active }
        histograms { rq_time: Milliseconds }
        texts { note }
    }
}

#[test]
fn stats_are_listed_in_every_format() {
    let (state, _) = state();
    let block = state.stats.block("cluster.web.", &sample::TABLE);
    block.add(sample::rq_total, 3);
    block.count_code("upstream_rq", 204);
    block.set_text(sample::note, "a<b");
    for value in [0, 1] {
        block.record(sample::rq_time, value);
    }
    state.stats.flush();
    let filter = "filter=^cluster";
    assert_eq!(
        get(&state, &format!("/stats?usedonly&{filter}")),
        "cluster.web.note: \"a&lt;b\"\n\
         cluster.web.rq_total: 3\n\
         cluster.web.upstream_rq_204: 1\n\
         cluster.web.upstream_rq_2xx: 1\n\
         cluster.web.upstream_rq_completed: 1\n\
         cluster.web.rq_time: P0(0,0) P25(0,0) P50(0,0) P75(1.05,1.05) P90(1.05,1.05) \
         P95(1.05,1.05) P99(1.05,1.05) P99.5(1.05,1.05) P99.9(1.05,1.05) P100(1.05,1.05)\n"
    );
    assert_eq!(
        get(&state, &format!("/stats?format=json&type=Gauges&{filter}")),
        "{\"stats\":[{\"name\":\"cluster.web.rq_active\",\"value\":0}]}"
    );
    let text = get(
        &state,
        &format!("/stats?format=json&type=Histograms&{filter}"),
    );
    assert!(text.starts_with(
        "{\"stats\":[{\"histograms\":{\"supported_quantiles\":[0,25,50,75,90,95,99,99.5,99.9,100],\
         \"computed_quantiles\":[{\"name\":\"cluster.web.rq_time\",\"values\":[{\"cumulative\":0,\
         \"interval\":0},"
    ));
    assert!(text.ends_with("]}]}}]}"), "{text}");
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
    for mode in ["cumulative", "disjoint", "detailed"] {
        let text = get(
            &state,
            &format!("/stats?format=json&histogram_buckets={mode}"),
        );
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }
    post(&state, "/reset_counters");
    assert!(get(&state, "/stats").contains("cluster.web.rq_total: 0\n"));
}

#[test]
fn prometheus_has_the_samples_of_a_metric_together() {
    let (state, _) = state();
    let blocks = ["b", "a"].map(|name| {
        state
            .stats
            .block(&format!("cluster.{name}."), &sample::TABLE)
    });
    blocks[0].inc(sample::rq_total);
    blocks[1].count_code("upstream_rq", 204);
    blocks[0].record(sample::rq_time, 7);
    state.stats.flush();
    let text = get(&state, "/stats/prometheus?filter=^cluster&usedonly");
    assert!(
        text.starts_with(
            "# TYPE envoy_cluster_rq_total counter\n\
         envoy_cluster_rq_total{envoy_cluster_name=\"b\"} 1\n\
         # TYPE envoy_cluster_upstream_rq counter\n\
         envoy_cluster_upstream_rq{envoy_response_code=\"204\",envoy_cluster_name=\"a\"} 1\n\
         # TYPE envoy_cluster_upstream_rq_completed counter\n\
         envoy_cluster_upstream_rq_completed{envoy_cluster_name=\"a\"} 1\n\
         # TYPE envoy_cluster_upstream_rq_xx counter\n\
         envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"a\"} 1\n\
         # TYPE envoy_cluster_rq_time histogram\n\
         envoy_cluster_rq_time_bucket{envoy_cluster_name=\"b\",le=\"0.5\"} 0\n"
        ),
        "{text}"
    );
    assert!(
        text.ends_with("envoy_cluster_rq_time_count{envoy_cluster_name=\"b\"} 1\n"),
        "{text}"
    );
    let all = get(&state, "/stats/prometheus?filter=^cluster");
    assert!(all.contains(
        "envoy_cluster_rq_total{envoy_cluster_name=\"a\"} 0\nenvoy_cluster_rq_total{envoy_cluster_name=\"b\"} 1\n"
    ));
    let (status, _) = ask(
        &state,
        Method::GET,
        "/stats/prometheus?histogram_buckets=detailed",
    );
    assert_eq!(status, 400);
}

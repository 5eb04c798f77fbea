use super::*;
use crate::log::Level;

fn options(line: &str) -> Options {
    match parse(line.split_whitespace()) {
        Ok(Asked::Run(options)) => *options,
        other => panic!("{line}: {other:?}"),
    }
}

fn refused(line: &str) -> String {
    parse(line.split_whitespace()).expect_err(line)
}

#[test]
fn every_flag_of_envoy_is_taken() {
    let line = "nuncio -c a.yaml --config-yaml {} --mode serve -l debug \
        --component-log-level upstream:debug,connection:trace --log-path /tmp/l --log-format %v \
        --log-format-escaped --concurrency 2 --service-cluster c --service-node n --service-zone z \
        --admin-address-path a --local-address-ip-version v6 --drain-time-s 3 \
        --drain-strategy immediate --parent-shutdown-time-s 4 --base-id 5 --use-dynamic-base-id \
        --base-id-path b --restart-epoch 0 --disable-hot-restart --reject-unknown-dynamic-fields \
        --allow-unknown-static-fields --file-flush-interval-msec 6 --file-flush-min-size-kb 7 \
        --cpuset-threads --stats-tag a:b --stats-tag c:d --enable-core-dump --socket-mode 644 \
        --socket-path @s --disable-extensions x,y --enable-mutex-tracing \
        --skip-hot-restart-parent-stats --skip-hot-restart-on-no-parent --skip-deprecated-logs \
        --log-stacktrace-single-entry";
    let options = options(line);
    assert_eq!(options.config_path.as_deref(), Some("a.yaml".as_ref()));
    assert_eq!(options.log_level, Level::Debug);
    assert_eq!(
        options.component_log_level.to_string(),
        "upstream:debug,connection:trace"
    );
    assert_eq!(options.workers(), 2);
    assert_eq!(options.drain_strategy, DrainStrategy::Immediate);
    assert_eq!(options.local_address_ip_version, IpVersion::V6);
    assert_eq!(options.socket_mode, 0o644);
    assert_eq!(options.stats_tag.len(), 2);
    assert!(options.has_log_format());
    let said = options.without_effect.join("\n");
    assert!(said.contains("--base-id has no effect: "), "{said}");
    assert!(!said.contains("--concurrency"), "{said}");
}

#[test]
fn defaults_are_envoys() {
    let options = options("nuncio -c a.yaml");
    assert_eq!(options.log_level, Level::Info);
    assert_eq!(options.mode, Mode::Serve);
    assert_eq!(options.drain_time_s, 600);
    assert_eq!(options.parent_shutdown_time_s, 900);
    assert_eq!(options.file_flush_interval_msec, 10_000);
    assert_eq!(options.drain_strategy, DrainStrategy::Gradual);
    assert_eq!(options.local_address_ip_version, IpVersion::V4);
    assert!(!options.has_log_format());
    assert!(options.without_effect.is_empty());
    assert!(options.workers() > 0);
}

#[test]
fn no_workers_means_one() {
    assert_eq!(options("nuncio --concurrency 0").workers(), 1);
}

#[test]
fn faults_are_named_with_what_is_allowed() {
    let said = refused("nuncio --cofig-path a.yaml");
    assert!(said.contains("--config-path"), "{said}");
    let said = refused("nuncio -l loud");
    assert!(
        said.contains("'loud'") && said.contains("critical"),
        "{said}"
    );
    let said = refused("nuncio --component-log-level htp:debug");
    assert!(said.contains("did you mean 'http'?"), "{said}");
    let said = refused("nuncio --mode validat");
    assert!(said.contains("'validate'"), "{said}");
    let said = refused("nuncio --restart-epoch 1 --use-dynamic-base-id");
    assert_eq!(
        said,
        "error: cannot use --restart-epoch=1 with --use-dynamic-base-id\n"
    );
    let said = refused("nuncio --stats-tag a:b --stats-tag a:c");
    assert!(said.contains("more than one value"), "{said}");
    assert!(refused("nuncio --stats-tag a.b:c").contains("'a.b'"));
    assert!(refused("nuncio --stats-tag ab").contains("tag:value is expected"));
    assert!(refused("nuncio --concurrency -1").contains("--concurrency"));
    assert!(refused("nuncio -c a.yaml b.yaml").contains("b.yaml"));
    assert!(refused("nuncio -c a.yaml -c b.yaml").contains("--config-path"));
}

#[test]
fn questions_are_answered() {
    let text = |line: &str| match parse(line.split_whitespace()) {
        Ok(Asked::Text(text)) => text,
        other => panic!("{line}: {other:?}"),
    };
    let version = text("nuncio --version");
    let parts: Vec<_> = version.trim().split('/').collect();
    assert!(parts[0].starts_with("nuncio  version: "), "{version}");
    assert_eq!(parts.len(), 5, "{version}");
    assert_eq!(parts[1], env!("CARGO_PKG_VERSION"));
    assert!(text("nuncio --help").contains("--component-log-level <LEVELS>"));
    assert_eq!(text("nuncio --hot-restart-version"), "disabled\n");
}

use std::{fs, sync::Arc, time::Duration};

use super::{AccessLogs, Buffers, Settings, Sink, Sinks, Target, stats};
use crate::{
    config::Report,
    formatter::testing::{context, stream_info},
    model::testing::{World, read},
    stats::Registry,
};

fn files(interval: Duration) -> (Arc<Registry>, Sinks) {
    let registry = Registry::new(1);
    let settings = Settings {
        interval,
        ..Settings::default()
    };
    let files = Sinks::new(settings, &registry);
    (registry, files)
}

fn append(buffers: &std::rc::Rc<Buffers>, sink: &Arc<Sink>, line: &str) {
    buffers.append(sink, |out| out.extend_from_slice(line.as_bytes()));
}

async fn local<F: Future>(future: F) -> F::Output {
    tokio::task::LocalSet::new().run_until(future).await
}

#[tokio::test(start_paused = true)]
async fn lines_gather_until_the_interval_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let (registry, files) = files(Duration::from_secs(10));
    let block = registry.block("filesystem.", &stats::TABLE);
    local(async {
        let buffers = Buffers::new();
        let sink = files.open_file(Target::File(path.clone())).unwrap();
        append(&buffers, &sink, "1\n");
        append(&buffers, &sink, "2\n");
        append(&buffers, &sink, "3\n");
        files.finish(Duration::from_secs(5)).await;
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "1\n",
            "the first goes at once"
        );
        tokio::time::sleep(Duration::from_secs(11)).await;
        files.finish(Duration::from_secs(5)).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n2\n3\n");
        append(&buffers, &sink, "4\n");
        append(&buffers, &sink, "5\n");
        drop(buffers);
        files.finish(Duration::from_secs(5)).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n2\n3\n4\n5\n");
    })
    .await;
    assert_eq!(block.counter(stats::write_buffered), 5);
    assert_eq!(block.counter(stats::write_completed), 4);
    assert_eq!(block.counter(stats::flushed_by_timer), 1);
    assert_eq!(block.gauge(stats::write_total_buffered), 0);
}

#[tokio::test]
async fn a_reopened_file_goes_on_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("a.log"), folder.path().join("old.log"));
    let (registry, files) = files(Duration::ZERO);
    local(async {
        let buffers = Buffers::new();
        let sink = files.open_file(Target::File(path.clone())).unwrap();
        let again = files.open_file(Target::File(path.clone())).unwrap();
        assert!(Arc::ptr_eq(&sink, &again), "a file is opened once");
        append(&buffers, &sink, "1\n");
        buffers.flush();
        files.finish(Duration::from_secs(5)).await;
        fs::rename(&path, &moved).unwrap();
        files.reopen();
        append(&buffers, &sink, "2\n");
        buffers.flush();
        files.finish(Duration::from_secs(5)).await;
        // A file that cannot be opened again goes on as it was.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        files.reopen();
        append(&buffers, &sink, "3\n");
        buffers.flush();
        files.finish(Duration::from_secs(5)).await;
    })
    .await;
    assert_eq!(fs::read_to_string(&moved).unwrap(), "1\n");
    let block = registry.block("filesystem.", &stats::TABLE);
    assert_eq!(block.counter(stats::reopen_failed), 1);
    assert_eq!(block.counter(stats::write_completed), 3);
}

#[tokio::test]
async fn a_full_disk_is_counted() {
    let (registry, files) = files(Duration::ZERO);
    local(async {
        let buffers = Buffers::new();
        let sink = files.open_file(Target::File("/dev/full".into())).unwrap();
        append(&buffers, &sink, "1\n");
        buffers.flush();
        files.finish(Duration::from_secs(5)).await;
    })
    .await;
    let block = registry.block("filesystem.", &stats::TABLE);
    assert_eq!(block.counter(stats::write_failed), 1);
    assert_eq!(block.gauge(stats::write_total_buffered), 0);
}

fn compile(yaml: &str) -> Result<AccessLogs, String> {
    let world = World::new();
    let report = Report::new();
    AccessLogs::compile(vec![read(yaml)], &world.cx(), &report.root())
        .map_err(|_| report.to_string())
}

#[tokio::test]
async fn filters_decide_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let log = |filter: &str, file: &str| {
        format!(
            "name: x\nfilter: {filter}\ntyped_config:\n  '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n  path: {file}\n  log_format: {{text_format_source: {{inline_string: \"%RESPONSE_CODE%\\n\"}}}}\n"
        )
    };
    let comparison = |op: &str, n: u32| {
        format!(
            "{{status_code_filter: {{comparison: {{op: {op}, value: {{default_value: {n}, runtime_key: k}}}}}}}}"
        )
    };
    let mut info = stream_info();
    info.response_code = Some(http::StatusCode::NOT_FOUND);
    info.flags.set(crate::formatter::ResponseFlag::NoRouteFound);
    for (filter, accepts) in [
        (comparison("GE", 400), true),
        (comparison("EQ", 400), false),
        (comparison("LE", 404), true),
        (comparison("NE", 404), false),
        ("{response_flag_filter: {}}".to_owned(), true),
        ("{response_flag_filter: {flags: [UH, NR]}}".to_owned(), true),
        ("{response_flag_filter: {flags: [UH]}}".to_owned(), false),
        ("{not_health_check_filter: {}}".to_owned(), true),
        (
            "{log_type_filter: {types: [DownstreamEnd], exclude: true}}".to_owned(),
            false,
        ),
        (
            "{grpc_status_filter: {statuses: [UNIMPLEMENTED]}}".to_owned(),
            true,
        ),
        (
            "{runtime_filter: {runtime_key: k, percent_sampled: {numerator: 0}}}".to_owned(),
            false,
        ),
        (
            format!(
                "{{and_filter: {{filters: [{}, {}]}}}}",
                comparison("GE", 400),
                comparison("GE", 500)
            ),
            false,
        ),
        (
            format!(
                "{{or_filter: {{filters: [{}, {}]}}}}",
                comparison("GE", 400),
                comparison("GE", 500)
            ),
            true,
        ),
        ("{header_filter: {header: {name: x-a}}}".to_owned(), false),
    ] {
        fs::write(&path, "").unwrap();
        let world = World::new();
        let report = Report::new();
        let message = read(&log(&filter, path.to_str().unwrap()));
        let logs = AccessLogs::compile(vec![message], &world.cx(), &report.root());
        let logs = logs.unwrap_or_else(|_| panic!("{report}"));
        local(async {
            let buffers = Buffers::new();
            logs.log(&context(&info), &buffers, 0);
            buffers.flush();
            world
                .server
                .access_logs
                .finish(Duration::from_secs(5))
                .await;
        })
        .await;
        let expected = if accepts { "404\n" } else { "" };
        assert_eq!(fs::read_to_string(&path).unwrap(), expected, "{filter}");
    }
}

#[test]
fn an_unusable_log_is_refused() {
    let unknown = "name: x\ntyped_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /nonexistent/folder/a.log}";
    let error = compile(unknown).unwrap_err();
    assert!(
        error.starts_with(
            "[0].typed_config.path: unable to open file '/nonexistent/folder/a.log': "
        ),
        "{error}"
    );
    let traceable = "name: x\nfilter: {traceable_filter: {}}\ntyped_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}";
    assert_eq!(
        compile(traceable).unwrap_err(),
        "[0].filter.traceable_filter: is not supported yet"
    );
}

use std::fs;

use super::*;

/// What is written while `body` runs with this log.
fn written(settings: &Settings, body: impl FnOnce(&Log)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = Log::new(settings, Sink::file(&path).unwrap());
    let subscriber = subscriber::Subscriber::new(log.clone());
    tracing::subscriber::with_default(subscriber, || body(&log));
    fs::read_to_string(path).unwrap()
}

fn plain(level: Level, components: &str) -> Settings {
    Settings {
        level,
        components: match components {
            "" => Vec::new(),
            list => parse_levels(list).unwrap(),
        },
        format: "%l %n %v".to_owned(),
        escaped: false,
    }
}

fn speak() {
    tracing::trace!(target: "connection", "closing");
    tracing::debug!(target: "upstream", "picked");
    tracing::trace!(target: "upstream", "looked");
    tracing::info!(target: "main", "started");
    crate::critical!(target: "main", "cannot {}", "go on");
}

#[test]
fn two_components_and_nothing_else() {
    let said = written(
        &plain(Level::Off, "upstream:debug,connection:trace"),
        |_| speak(),
    );
    assert_eq!(said, "trace connection closing\ndebug upstream picked\n");
}

#[test]
fn critical_is_above_error() {
    let said = written(&plain(Level::Critical, ""), |_| {
        speak();
        tracing::error!(target: "main", "failed");
    });
    assert_eq!(said, "critical main cannot go on\n");
}

#[test]
fn levels_and_format_change_while_it_runs() {
    let said = written(&plain(Level::Error, ""), |log| {
        let say = |text| tracing::debug!(target: "http", "{text}");
        say("unheard");
        log.set(Component::named("http").unwrap(), Level::Debug);
        say("heard");
        log.set_all(Level::Off);
        say("unheard again");
        log.set_all(Level::Trace);
        log.set_format("%n=%v");
        say("other");
        assert!(log.levels().all(|(_, level)| level == Level::Trace));
    });
    assert_eq!(said, "debug http heard\nhttp=other\n");
}

#[test]
fn fields_are_tags() {
    let said = written(&plain(Level::Info, ""), |_| {
        tracing::info!(target: "http", connection_id = 7, host = "a\"b", "new stream");
    });
    assert_eq!(
        said,
        "info http [Tags: \"ConnectionId\":\"7\",\"Host\":\"a\\\"b\"] new stream\n"
    );
}

#[test]
fn json_formats_are_checked() {
    let text = |text: &str| prost_types::Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let format = |value| Struct {
        fields: [("level".to_owned(), text("%l")), ("text".to_owned(), value)].into(),
    };
    let said = written(&plain(Level::Info, ""), |log| {
        log.set_json_format(&format(text("%j"))).unwrap();
        tracing::info!(target: "main", "a \"quote\"");
        let error = log.set_json_format(&format(text("%v"))).unwrap_err();
        assert!(error.to_string().starts_with("usage of %v"));
    });
    assert_eq!(said, "{\"level\":\"info\",\"text\":\"a \\\"quote\\\"\"}\n");
}

#[test]
fn escaped_lines_stay_lines() {
    let mut settings = plain(Level::Info, "");
    settings.escaped = true;
    let said = written(&settings, |_| tracing::info!(target: "main", "a\nb"));
    assert_eq!(said, "info main a\\nb\n");
}

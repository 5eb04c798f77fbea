//! The binary's flags, as whoever starts it sees them.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

fn nuncio(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nuncio"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn write(folder: &Path, name: &str, content: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn version_has_envoys_shape() {
    let output = nuncio(&["--version"]);
    assert!(output.status.success());
    let version = text(&output.stdout).trim();
    let facts: Vec<_> = version
        .strip_prefix("nuncio  version: ")
        .expect(version)
        .split('/')
        .collect();
    let [revision, number, status, build, tls] = facts[..] else {
        panic!("{version}");
    };
    assert!(!revision.is_empty());
    assert_eq!(number, env!("CARGO_PKG_VERSION"));
    assert!(["Clean", "Modified", "Distribution"].contains(&status));
    assert!(["RELEASE", "DEBUG"].contains(&build));
    assert_eq!(tls, "AWS-LC");
}

#[test]
fn help_names_the_flags() {
    let output = nuncio(&["--help"]);
    assert!(output.status.success());
    for flag in [
        "-c, --config-path",
        "-l, --log-level",
        "--drain-time-s",
        "--concurrency",
    ] {
        assert!(text(&output.stdout).contains(flag), "{flag}");
    }
}

#[test]
fn a_wrong_flag_is_an_error_with_a_suggestion() {
    let output = nuncio(&["--drain-tim-s", "3"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("'--drain-time-s'"));
}

#[test]
fn nothing_to_read_is_an_error() {
    let output = nuncio(&[]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("[critical][main]"), "{said}");
    assert!(said.contains("--config-path or --config-yaml"), "{said}");
}

#[test]
fn an_error_is_seen_even_when_the_log_is_off() {
    let output = nuncio(&["-l", "off"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--config-path or --config-yaml"));
}

#[test]
fn a_log_file_that_cannot_be_opened_is_an_error() {
    let output = nuncio(&["--config-yaml", "{}", "--log-path", "/nonexistent/log"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot open the log file '/nonexistent/log'"));
}

#[test]
fn what_is_given_but_empty_is_not_given() {
    let output = nuncio(&[
        "-c",
        "",
        "--config-yaml",
        "{}",
        "--log-path",
        "",
        "--mode",
        "validate",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "configuration '' OK\n");
    let output = nuncio(&["-c", "", "--config-yaml", ""]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--config-path or --config-yaml"));
}

#[test]
fn a_missing_bootstrap_is_an_error() {
    let output = nuncio(&["-c", "/nonexistent/bootstrap.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("/nonexistent/bootstrap.yaml"), "{said}");
    assert!(said.contains("No such file"), "{said}");
}

#[test]
fn a_start_that_ends_before_it_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = write(folder.path(), "bootstrap.yaml", "node: {id: a, cluster: b}");
    let id = folder.path().join("base-id");
    let output = nuncio(&[
        "-c",
        &bootstrap,
        "--mode",
        "init_only",
        "--base-id",
        "7",
        "--base-id-path",
        id.to_str().unwrap(),
        "--concurrency",
        "1",
    ]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(fs::read_to_string(id).unwrap(), "7");
    assert_eq!(said.matches("--base-id has no effect").count(), 1, "{said}");
    assert!(said.contains("[info][config]"), "{said}");
    assert!(said.contains("all dependencies initialized. starting workers"));
}

#[test]
fn the_bootstrap_can_set_the_log_format() {
    let yaml = "application_log_config: {log_format: {json_format: {level: '%l', text: '%j'}}}";
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = write(folder.path(), "bootstrap.yaml", yaml);
    let output = nuncio(&["-c", &bootstrap, "--mode", "init_only"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = said
        .lines()
        .find(|line| line.contains("starting workers"))
        .expect(said);
    let line: serde_json::Value = serde_json::from_str(line).expect(line);
    assert_eq!(line["level"], "info");
    let output = nuncio(&[
        "--config-yaml",
        yaml,
        "--log-format",
        "%v",
        "--mode",
        "validate",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("only one of this and --log-format"), "{said}");
}

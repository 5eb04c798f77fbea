//! `pgo/rustc`: the profile goes to optimised builds, and to no others.

use std::process::Command;

/// The arguments with which the compiler is called.
fn called_with(arguments: &[&str]) -> String {
    let wrapper = concat!(env!("CARGO_MANIFEST_DIR"), "/pgo/rustc");
    let output = Command::new(wrapper)
        .arg("echo")
        .args(arguments)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn optimised_builds_are_given_the_profile() {
    let release = ["--crate-name", "a", "-C", "opt-level=3"];
    let line = called_with(&release);
    let (given, added) = line.trim().split_once(" -Cprofile-use=").expect(&line);
    assert_eq!(given, release.join(" "));
    let (profile, _) = added.split_once(' ').expect(added);
    assert!(std::fs::metadata(profile).is_ok_and(|file| file.len() > 0));
}

#[test]
fn other_calls_go_through_as_they_are() {
    for arguments in [
        &["-vV"][..],
        &["--crate-name", "a", "-C", "opt-level=1"],
        &["-C", "opt-level=3", "-Cprofile-generate=/tmp"],
        &["-C", "opt-level=3", "-Cprofile-use=other"],
    ] {
        assert_eq!(called_with(arguments).trim(), arguments.join(" "));
    }
}

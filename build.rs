//! Compiles the API description under `proto/` into Rust types and into the
//! descriptor set from which documents are read, checked and printed; and tells
//! the code which revision it is built from.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    tell_revision();

    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from("proto")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(&files)?;
    // The encoded form keeps the constraint options, which the decoded one drops.
    fs::write(out.join("api.bin"), compiler.encode_file_descriptor_set())?;
    prost_build::Config::new()
        .include_file("api.rs")
        .enable_type_names()
        // Equal messages are equal bytes: some are told apart by what they encode to.
        .btree_map(["."])
        .compile_fds(compiler.file_descriptor_set())?;
    leave_encoded(&out)
}

/// Lets the virtual hosts of a route table be decoded one by one, when each is
/// wanted: there may be ten thousand, of which one has changed.
fn leave_encoded(out: &Path) -> Result<(), Box<dyn Error>> {
    const FIELD: &str = "pub virtual_hosts: ::prost::alloc::vec::Vec<VirtualHost>";
    const LAZY: &str = "pub virtual_hosts: ::prost::alloc::vec::Vec<crate::api::Lazy<VirtualHost>>";
    let file = out.join("envoy.config.route.v3.rs");
    let code = fs::read_to_string(&file)?;
    match code.matches(FIELD).count() {
        1 => Ok(fs::write(&file, code.replace(FIELD, LAZY))?),
        count => Err(format!("{FIELD} stands {count} times in what prost generates").into()),
    }
}

/// Sets `NUNCIO_REVISION` and `NUNCIO_REVISION_STATUS` for the code: from the
/// environment, or from git, or as unknown where there is neither.
fn tell_revision() {
    println!("cargo:rerun-if-env-changed=NUNCIO_REVISION");
    println!("cargo:rerun-if-env-changed=NUNCIO_REVISION_STATUS");
    let given = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let revision = given("NUNCIO_REVISION").or_else(|| git(&["rev-parse", "HEAD"]));
    let status = given("NUNCIO_REVISION_STATUS").unwrap_or_else(|| {
        // Envoy's words. Built outside of a working tree, it is a distribution.
        let changes = git(&["status", "--porcelain", "--untracked-files=no"]);
        match changes.as_deref() {
            Some("") => "Clean",
            Some(_) => "Modified",
            None => "Distribution",
        }
        .to_owned()
    });
    // A debug build keeps what was true when this last ran: following git would
    // compile everything again after each commit.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rerun-if-changed=src");
        if let Some(head) = git(&["rev-parse", "--git-path", "logs/HEAD"])
            && Path::new(&head).exists()
        {
            println!("cargo:rerun-if-changed={head}");
        }
    }
    println!(
        "cargo:rustc-env=NUNCIO_REVISION={}",
        revision.as_deref().unwrap_or("unknown")
    );
    println!("cargo:rustc-env=NUNCIO_REVISION_STATUS={status}");
}

/// What a git command prints, when there is a git and a working tree of this package.
fn git(arguments: &[&str]) -> Option<String> {
    let package = env::var_os("CARGO_MANIFEST_DIR")?;
    if !Path::new(&package).join(".git").exists() {
        return None;
    }
    let output = Command::new("git")
        .current_dir(package)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

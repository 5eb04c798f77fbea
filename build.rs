//! Compiles the API description under `proto/` into Rust types and into the
//! descriptor set from which documents are read, checked and printed.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");

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
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

//! Any bytes as a bootstrap in any format: an error or a message, never a panic,
//! and every error of a text has a place in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::{
    api::envoy::config::bootstrap::v3::Bootstrap,
    config::{Document, Format, Report, Strictness},
};

fuzz_target!(|input: (u8, &[u8])| {
    let (format, bytes) = input;
    let format = match format % 4 {
        0 => Format::Yaml,
        1 => Format::Json,
        2 => Format::Binary,
        _ => Format::ProtoText,
    };
    let Ok(document) = Document::new("fuzz", format, bytes.to_owned()) else {
        return;
    };
    let report = Report::new();
    match document.read::<Bootstrap>(&Strictness::default(), &report) {
        Ok(_) => assert!(report.is_empty()),
        Err(_) => assert!(report.into_errors().iter().all(|e| e.position.is_some())),
    }
});

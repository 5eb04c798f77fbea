//! Any bytes as a resource from a stream: checked without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::{
    api::envoy::config::listener::v3::Listener,
    config::{RawResource, Report, Strictness},
};

fuzz_target!(|bytes: &[u8]| {
    let type_url = "type.googleapis.com/envoy.config.listener.v3.Listener";
    let any = prost_types::Any {
        type_url: type_url.to_owned(),
        value: bytes.to_owned(),
    };
    let Ok(resource) = RawResource::from_any(any, type_url) else {
        return;
    };
    let report = Report::new();
    // What is wrong with it is in the report.
    let _ = resource.decode::<Listener>(&Strictness::default(), &report);
});

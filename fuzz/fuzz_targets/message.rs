//! Any bytes as a resource from a stream: checked and printed without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::{
    api::envoy::config::listener::v3::Listener,
    config::{RawResource, Report, Strictness, to_dynamic, to_json},
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
    if let Ok(listener) = resource.decode::<Listener>(&Strictness::default(), &report) {
        to_json(&to_dynamic(&listener));
    }
});

//! Any text as an answer of a discovery service, with every resource decoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::{
    api::envoy::config::cluster::v3::Cluster,
    config::{Discovery, Document, Format, Report, Strictness},
};

fuzz_target!(|input: (bool, &[u8])| {
    let (json, bytes) = input;
    let format = if json { Format::Json } else { Format::Yaml };
    let Ok(document) = Document::new("fuzz", format, bytes.to_owned()) else {
        return;
    };
    let type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    let Ok(discovery) = Discovery::of(&document, type_url) else {
        return;
    };
    let report = Report::new();
    for resource in &discovery.resources {
        assert!(!resource.name().is_empty());
        if let Ok(cluster) = resource.decode::<Cluster>(&Strictness::default(), &report) {
            assert_eq!(cluster.name, resource.name());
        }
    }
});

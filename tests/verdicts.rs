//! What the real Envoy says of a bad document, nuncio says too.
//!
//! Each case changes one thing in a good bootstrap. The verdicts were recorded
//! from Envoy 1.40; where `NUNCIO_ORACLE_ENVOY` names a binary they are compared with it.

use std::{env, fs, path::Path, process::Command};

const GOOD: &str = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          codec_type: AUTO
          request_timeout: 5s
          generate_request_id: true
          route_config: {name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: "/"}, direct_response: {status: 200}}]}]}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;

enum Verdict {
    /// Both take it.
    Good,
    /// Neither takes it.
    Bad,
    /// nuncio refuses what Envoy silently drops.
    Stricter,
}
use Verdict::{Bad, Good, Stricter};

/// What is replaced in the good bootstrap, by what, and what follows.
const CASES: &[(&str, &str, Verdict)] = &[
    ("", "", Good),
    ("stat_prefix: x", "statPrefix: x", Good),
    ("stat_prefix: x", "Stat_Prefix: x", Bad),
    ("stat_prefix: x", "stat_prefixx: x", Bad),
    ("stat_prefix: x", "stat_prefix: ''", Bad),
    ("stat_prefix: x", "stat_prefix: 5", Bad),
    ("stat_prefix: x", "stat_prefix: yes", Bad),
    ("stat_prefix: x", "stat_prefix: 1.5", Good),
    (
        "stat_prefix: x",
        "stat_prefix: x\n          stat_prefix: z",
        Stricter,
    ),
    ("codec_type: AUTO", "codec_type: HTTP1", Good),
    ("codec_type: AUTO", "codec_type: http1", Good),
    ("codec_type: AUTO", "codec_type: '1'", Good),
    ("codec_type: AUTO", "codec_type: HTTP9", Bad),
    ("codec_type: AUTO", "codec_type: 42", Bad),
    ("request_timeout: 5s", "request_timeout: 0.25s", Good),
    ("request_timeout: 5s", "request_timeout: {seconds: 1}", Good),
    ("request_timeout: 5s", "request_timeout: 5", Bad),
    ("request_timeout: 5s", "request_timeout: 5ms", Bad),
    ("request_timeout: 5s", "request_timeout: .5s", Bad),
    ("request_timeout: 5s", "request_timeout: -1s", Bad),
    ("generate_request_id: true", "generate_request_id: no", Good),
    (
        "generate_request_id: true",
        "generate_request_id: 'True'",
        Good,
    ),
    ("generate_request_id: true", "generate_request_id: 1", Bad),
    ("status: 200", "status: 0xc8", Good),
    ("status: 200", "status: 0310", Good),
    ("status: 200", "status: 2e2", Good),
    ("status: 200", "status: '200'", Good),
    ("status: 200", "status: 200.5", Bad),
    ("status: 200", "status: 99", Bad),
    ("status: 200", "status: 600", Bad),
    ("domains: [\"*\"]", "domains: '*'", Good),
    ("domains: [\"*\"]", "domains: []", Bad),
    ("domains: [\"*\"]", "domains: {a: b}", Bad),
    ("match: {prefix: \"/\"}", "match: {}", Bad),
    ("match: {prefix: \"/\"}", "match: {prefix: /, path: /}", Bad),
    ("match: {prefix: \"/\"}, ", "", Bad),
    ("port_value: 0", "port_value: 65536", Bad),
    ("port_value: 0", "port_value: -1", Bad),
    ("address: 127.0.0.1", "address: ''", Bad),
    (".v3.Router", ".v3.Rooter", Bad),
    (
        "type.googleapis.com/envoy.extensions.filters.http",
        "envoy.extensions.filters.http",
        Bad,
    ),
    ("static_resources:", "static_resourcez:", Bad),
    ("static_resources:", "static_resources:\n\tx:", Bad),
];

#[test]
fn documents_are_judged_as_envoy_judges_them() {
    let folder = tempfile::tempdir().expect("a place for documents");
    let path = folder.path().join("bootstrap.yaml");
    let envoy = env::var_os("NUNCIO_ORACLE_ENVOY");
    if envoy.is_none() {
        eprintln!("NUNCIO_ORACLE_ENVOY names no Envoy: comparing with recorded verdicts only");
    }
    for (from, to, verdict) in CASES {
        assert!(GOOD.contains(from), "{from}");
        fs::write(&path, GOOD.replacen(from, to, 1)).expect("a document");
        let (accepted, said) = validate(env!("CARGO_BIN_EXE_nuncio").as_ref(), &path);
        assert_eq!(accepted, matches!(verdict, Good), "{to}: {said}");
        if !accepted {
            let place = format!("{}:", path.display());
            assert!(said.contains(&place), "{to} has no place: {said}");
        }
        if let Some(envoy) = &envoy {
            let (accepted, said) = validate(envoy.as_ref(), &path);
            assert_eq!(accepted, !matches!(verdict, Bad), "Envoy, {to}: {said}");
        }
    }
}

/// Whether a proxy accepts a bootstrap, and what it says.
fn validate(proxy: &Path, bootstrap: &Path) -> (bool, String) {
    let output = Command::new(proxy)
        .args(["--mode", "validate", "--use-dynamic-base-id", "-c"])
        .arg(bootstrap)
        .output()
        .expect("a proxy that starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

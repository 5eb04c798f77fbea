//! Expectations were observed at Envoy 1.40.

use std::{rc::Rc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};

use super::{
    DEFAULT_FORMAT, FormatContext, Formatter, HeaderView, JsonFormatter, Protocol, RequestView,
    ResponseFlag, StreamInfo, UpstreamHost,
    testing::{context, stream_info},
};
use crate::{
    api::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string::Format},
    codec::Headers,
    config::Report,
    model::testing::read,
};

fn headers(pairs: &[(&'static str, &'static str)]) -> Headers {
    let mut map = Headers::new();
    for (name, value) in pairs {
        map.append(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    map
}

fn parse(format: &str) -> Result<Formatter, String> {
    let report = Report::new();
    Formatter::parse(format, &report.root()).map_err(|_| report.to_string())
}

fn finished() -> StreamInfo {
    let mut info = stream_info();
    info.protocol = Some(Protocol::Http11);
    info.response_code = Some(StatusCode::OK);
    info.response_code_details = Some("via upstream".into());
    info.bytes_sent = 217;
    info.end = Some(info.start + Duration::from_micros(4_900));
    info.timing.first_upstream_rx = Some(info.start + Duration::from_millis(3));
    info.timing.last_downstream_tx = Some(info.start + Duration::from_millis(4));
    info.upstream_host = Some(Rc::new(UpstreamHost {
        address: "[::1]:8080".into(),
        hostname: "web.example".into(),
    }));
    info.upstream_cluster = Some("web".into());
    info.attempt_count = 1;
    info
}

fn text(format: &str, info: &StreamInfo) -> String {
    let formatter = parse(format).unwrap();
    let request = headers(&[("user-agent", "curl"), ("x-a", "1"), ("x-a", "2")]);
    let response = headers(&[("x-envoy-upstream-service-time", "3")]);
    let cx = FormatContext {
        request: RequestView {
            method: "GET",
            scheme: "http",
            authority: "h.com",
            path: "/foo?a=1&b",
            headers: HeaderView::Map(&request),
        },
        response: HeaderView::Map(&response),
        ..context(info)
    };
    let mut out = Vec::new();
    formatter.write(&mut out, &cx);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_default_format_is_envoys() {
    assert_eq!(
        text(DEFAULT_FORMAT, &finished()),
        "[1970-01-01T00:00:01.002Z] \"GET /foo?a=1&b HTTP/1.1\" 200 - 0 217 4 3 \"-\" \"curl\" \"-\" \"h.com\" \"[::1]:8080\"\n"
    );
    assert_eq!(
        text(DEFAULT_FORMAT, &{
            let mut info = stream_info();
            info.end = Some(info.start);
            info.flags.set(ResponseFlag::NoRouteFound);
            info.flags
                .set(ResponseFlag::DownstreamConnectionTermination);
            info
        }),
        "[1970-01-01T00:00:01.002Z] \"GET /foo?a=1&b -\" 0 NR,DC 0 0 0 3 \"-\" \"curl\" \"-\" \"h.com\" \"-\"\n"
    );
}

#[test]
fn operators_give_what_envoys_give() {
    let info = finished();
    for (format, expected) in [
        (
            "%REQ(X-NONE?:path):4%|%REQ(x-a)%|%REQ(host)%",
            "/foo|1|h.com",
        ),
        ("%START_TIME(%s.%3f %E3S)%", "1.002 01.002"),
        ("%RESPONSE_CODE_DETAILS%", "via_upstream"),
        ("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "via upstream"),
        ("%QUERY_PARAM(a)%%QUERY_PARAM(b)%%QUERY_PARAM(c)%", "1-"),
        ("%PATH%|%PATH(NQ)%|%PATH(WQ:ORIG)%", "/foo?a=1&b|/foo|-"),
        ("%RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "3 1"),
        ("%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%", "3000"),
        ("%COMMON_DURATION(US_RX_BEG:DS_RX_BEG)%", "-"),
        (
            "%UPSTREAM_HOST_NAME% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%",
            "web.example ::1 8080",
        ),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_PORT% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
            "10.1.2.3:4000 4000 10.9.9.9",
        ),
        (
            "%UPSTREAM_CLUSTER% %CONNECTION_ID% %ACCESS_LOG_TYPE%",
            "web 7 DownstreamEnd",
        ),
        (
            "%RESP(:status)% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%",
            "200 - -",
        ),
        (
            "100%% %ENVIRONMENT(NUNCIO_NOT_SET)% %GRPC_STATUS%",
            "100% - -",
        ),
        ("%UPSTREAM_HOST% %ROUTE_NAME% %STREAM_ID%", "[::1]:8080 - -"),
    ] {
        assert_eq!(text(format, &info), expected, "{format}");
    }
}

#[test]
fn what_is_wrong_with_a_format_is_said() {
    for (format, expected) in [
        ("50%", "no valid command at position 2"),
        ("%req(x)%", "no valid command at position 0"),
        ("%REQ(x", "no valid command"),
        ("%REQ%", "REQ needs an argument"),
        ("%REQ(a?b?c)%", "more than one alternative"),
        ("%RESPONSE_CODE:2%", "RESPONSE_CODE does not take"),
        ("%RESPONSE_COED%", "did you mean RESPONSE_CODE?"),
        ("%START_TIME(%Q)%", "unknown time format specifier"),
        ("%START_TIME(%n)%", "line feed"),
        ("%START_TIME(%%n)%", "line feed"),
        ("%DYNAMIC_METADATA(a:b)%", "is not supported yet"),
        (
            "%COMMON_DURATION(DS_RX_BEG:US_RX_BG)%",
            "did you mean US_RX_BEG?",
        ),
    ] {
        let error = parse(format).unwrap_err();
        assert!(error.contains(expected), "{format}: {error}");
    }
}

#[test]
fn needed_headers_are_listed_once() {
    let needs = parse("%REQ(x-a?:path)% %REQ(x-b?x-a)% %RESP(x-c)% %TRAILER(x-d)%")
        .unwrap()
        .needs();
    assert_eq!(needs.request, ["x-a", "x-b"]);
    assert_eq!(needs.response, ["x-c"]);
    assert_eq!(needs.trailers, ["x-d"]);
}

fn json(yaml: &str, omit: bool) -> String {
    let report = Report::new();
    let message: SubstitutionFormatString = read(&format!("json_format: {yaml}"));
    let Some(Format::JsonFormat(format)) = message.format else {
        panic!("not a JSON format");
    };
    let format = JsonFormatter::parse(format, omit, &report.root());
    let format = format.unwrap_or_else(|_| panic!("{report}"));
    let mut request = headers(&[("user-agent", "q\"uo")]);
    request.insert(
        HeaderName::from_static("x-bytes"),
        HeaderValue::from_bytes(b"q\"uo\\te\xff").unwrap(),
    );
    let info = finished();
    let cx = FormatContext {
        request: RequestView {
            headers: HeaderView::Map(&request),
            ..RequestView::default()
        },
        ..context(&info)
    };
    let mut out = Vec::new();
    format.write(&mut out, &cx);
    String::from_utf8(out).unwrap()
}

#[test]
fn json_keeps_types_and_sorts_keys() {
    let yaml = r#"{zeta: 1, alpha: "%RESPONSE_CODE%", none: "%REQ(x-none)%", mixed: "a %REQ(x-none)% %RESPONSE_CODE% b", n: null, t: true, f: 1.5, nested: {b: "%PROTOCOL%", a: ["%DURATION%", "x", 3]}, ua: "%REQ(user-agent)%", raw: "%REQ(x-bytes)%", lit: "just \"text\" é", empty: ""}"#;
    assert_eq!(
        json(yaml, false),
        "{\"alpha\":200,\"empty\":\"\",\"f\":\"1.5\",\"lit\":\"just \\\"text\\\" é\",\"mixed\":\"a - 200 b\",\"n\":null,\"nested\":{\"a\":[4,\"x\",3],\"b\":\"HTTP/1.1\"},\"none\":null,\"raw\":\"q\\u0022uo\\u005cte\\u00ff\",\"t\":true,\"ua\":\"q\\\"uo\",\"zeta\":1}\n"
    );
    let yaml = r#"{alpha: "%RESPONSE_CODE%", none: "%REQ(x-none)%", mixed: "a %REQ(x-none)% %RESPONSE_CODE% b", nested: {b: "%REQ(x-none)%"}, list: ["%REQ(x-none)%"], n: null}"#;
    assert_eq!(
        json(yaml, true),
        "{\"alpha\":200,\"list\":[],\"mixed\":\"a  200 b\"}\n"
    );
}

/// Prints what a line costs. Run it in release:
/// `cargo test --release access_log_line_figures -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
fn access_log_line_figures() {
    let formatter = Formatter::default_access_log();
    let mut info = finished();
    info.end = None;
    let request = headers(&[
        ("user-agent", "curl/7.88.1"),
        ("x-request-id", "5caf7374-0d12-4442-b905-106436b33385"),
    ]);
    let response = headers(&[("x-envoy-upstream-service-time", "3")]);
    let cx = FormatContext {
        request: RequestView {
            method: "GET",
            scheme: "http",
            authority: "h.com",
            path: "/foo?a=1&b",
            headers: HeaderView::Map(&request),
        },
        response: HeaderView::Map(&response),
        ..context(&info)
    };
    const ROUNDS: u32 = 200_000;
    let mut out = Vec::new();
    let start = std::time::Instant::now();
    for _ in 0..ROUNDS {
        out.clear();
        formatter.write(&mut out, std::hint::black_box(&cx));
        std::hint::black_box(&out);
    }
    println!(
        "a line of the default format: {:?}",
        start.elapsed() / ROUNDS
    );
}

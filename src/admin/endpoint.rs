//! Every endpoint: its path, its help, its parameters, and who answers.

use std::{fmt::Write, rc::Rc};

use http::{Method, StatusCode};

use super::answer::Answer;
use super::{
    State, certs, clusters, config_dump, control, home, info, listeners, logging, request::Request,
    stats,
};

/// One endpoint.
pub struct Endpoint {
    /// What it is asked by.
    pub path: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// Whether it changes something, so that it has to be asked by `POST`.
    pub mutates: bool,
    /// What it can be told.
    pub params: &'static [Param],
    answer: fn(&Rc<State>, &Request) -> Answer,
}

/// One parameter of an endpoint.
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// What it may be.
    pub kind: ParamKind,
}

/// What a parameter may be.
#[derive(Clone, Copy)]
pub enum ParamKind {
    /// Given or not.
    Flag,
    /// Any text.
    Text,
    /// One of these.
    Choice(&'static [&'static str]),
}

const fn param(name: &'static str, kind: ParamKind, help: &'static str) -> Param {
    Param { name, help, kind }
}

type Handler = fn(&Rc<State>, &Request) -> Answer;

const fn read(
    path: &'static str,
    help: &'static str,
    params: &'static [Param],
    answer: Handler,
) -> Endpoint {
    Endpoint {
        path,
        help,
        mutates: false,
        params,
        answer,
    }
}

const fn change(
    path: &'static str,
    help: &'static str,
    params: &'static [Param],
    answer: Handler,
) -> Endpoint {
    Endpoint {
        path,
        help,
        mutates: true,
        params,
        answer,
    }
}

const USED_ONLY: Param = param(
    "usedonly",
    ParamKind::Flag,
    "Only include stats that have been written by system since restart",
);
const FILTER: Param = param(
    "filter",
    ParamKind::Text,
    "Regular expression (Google re2) for filtering stats",
);
const INVERT_FILTER: Param = param("invert_filter", ParamKind::Flag, "Invert the filter regex");
const fn enable(help: &'static str) -> Param {
    param("enable", ParamKind::Choice(&["y", "n"]), help)
}

/// All there are, by path.
pub static ENDPOINTS: [Endpoint; 33] = [
    read("/", "Admin home page", &[], home::page),
    change(
        "/allocprofiler",
        "enable/disable the allocation profiler (if supported)",
        &[enable("enable/disable the allocation profiler")],
        info::no_profiler,
    ),
    read("/certs", "print certs on machine", &[], certs::answer),
    read(
        "/clusters",
        "upstream cluster status",
        &[param(
            "filter",
            ParamKind::Text,
            "Regular expression (Google re2) for filtering clusters by name",
        )],
        clusters::answer,
    ),
    read(
        "/config_dump",
        "dump current Envoy configs",
        &[
            param("resource", ParamKind::Text, "The resource to dump"),
            param(
                "mask",
                ParamKind::Text,
                "The mask to apply. When both resource and mask are specified, the mask is applied to every element in the desired repeated field so that only a subset of fields are returned. The mask is parsed as a Protobuf::FieldMask",
            ),
            param(
                "name_regex",
                ParamKind::Text,
                "Dump only the currently loaded configurations whose names match the specified regex. Can be used with both resource and mask query parameters.",
            ),
            param(
                "include_eds",
                ParamKind::Flag,
                "Dump currently loaded configuration including EDS. See the response definition for more information",
            ),
        ],
        config_dump::answer,
    ),
    read(
        "/contention",
        "dump current Envoy mutex contention stats (if enabled)",
        &[],
        info::contention,
    ),
    change(
        "/cpuprofiler",
        "enable/disable the CPU profiler",
        &[enable("enables the CPU profiler")],
        info::no_profiler,
    ),
    change(
        "/drain_listeners",
        "drain listeners",
        &[
            param(
                "graceful",
                ParamKind::Flag,
                "When draining listeners, enter a graceful drain period prior to closing listeners. This behaviour and duration is configurable via server options or CLI",
            ),
            param(
                "skip_exit",
                ParamKind::Flag,
                "When draining listeners, drain the connections but never stop the listeners. The graceful parameter has no effect when this is set, since the drain period only delays stopping the listeners",
            ),
            param(
                "inboundonly",
                ParamKind::Flag,
                "Drains all inbound listeners. traffic_direction field in envoy_v3_api_msg_config.listener.v3.Listener is used to determine whether a listener is inbound or outbound.",
            ),
        ],
        control::drain_listeners,
    ),
    change(
        "/healthcheck/fail",
        "cause the server to fail health checks",
        &[],
        control::fail_health_checks,
    ),
    change(
        "/healthcheck/ok",
        "cause the server to pass health checks",
        &[],
        control::pass_health_checks,
    ),
    read(
        "/heap_dump",
        "dump current Envoy heap (if supported)",
        &[],
        info::no_profiler,
    ),
    change(
        "/heapprofiler",
        "enable/disable the heap profiler",
        &[enable("enable/disable the heap profiler")],
        info::no_profiler,
    ),
    read("/help", "print out list of admin commands", &[], info::help),
    read(
        "/hot_restart_version",
        "print the hot restart compatibility version",
        &[],
        info::hot_restart_version,
    ),
    read(
        "/init_dump",
        "dump current Envoy init manager information (experimental)",
        &[param(
            "mask",
            ParamKind::Text,
            "The desired component to dump unready targets. The mask is parsed as a Protobuf::FieldMask. For example, get the unready targets of all listeners with /init_dump?mask=listener`",
        )],
        info::init_dump,
    ),
    read(
        "/listeners",
        "print listener info",
        &[param(
            "format",
            ParamKind::Choice(&["text", "json"]),
            "File format to use",
        )],
        listeners::answer,
    ),
    change(
        "/logging",
        "query/change logging levels",
        &[
            param(
                "paths",
                ParamKind::Text,
                "Change multiple logging levels by setting to <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>. If fine grain logging is enabled, use __FILE__ or a glob experision as the logger name. For example, source/common*:warning",
            ),
            param(
                "group",
                ParamKind::Text,
                "Change given logger group to desired level, set to <logger_group_name>:<desired_level>. logger_group_name must be a logger name.",
            ),
            param(
                "level",
                ParamKind::Choice(&[
                    "", "trace", "debug", "info", "warning", "error", "critical", "off",
                ]),
                "desired logging level, this will change all loggers's level",
            ),
        ],
        logging::answer,
    ),
    read(
        "/memory",
        "print current allocation/heap usage",
        &[],
        info::memory,
    ),
    read(
        "/memory/tcmalloc",
        "print TCMalloc stats",
        &[],
        info::no_profiler,
    ),
    read(
        "/peak_heap_dump",
        "dump peak Envoy heap (if supported)",
        &[],
        info::no_profiler,
    ),
    change("/quitquitquit", "exit the server", &[], control::quit),
    read(
        "/ready",
        "print server state, return 200 if LIVE, otherwise return 503",
        &[],
        info::ready,
    ),
    change(
        "/reopen_logs",
        "reopen access logs",
        &[],
        control::reopen_logs,
    ),
    change(
        "/reset_counters",
        "reset all counters to zero",
        &[],
        control::reset_counters,
    ),
    read("/runtime", "print runtime values", &[], info::runtime),
    change(
        "/runtime_modify",
        "Adds or modifies runtime values as passed in query parameters. To delete a previously added key, use an empty string as the value. Note that deletion only applies to overrides added via this endpoint; values loaded from disk can be modified via override but not deleted. E.g. ?key1=value1&key2=value2...",
        &[],
        control::runtime_modify,
    ),
    read(
        "/server_info",
        "print server version/status information",
        &[],
        info::server_info,
    ),
    read(
        "/stats",
        "print server stats",
        &[
            USED_ONLY,
            FILTER,
            INVERT_FILTER,
            param(
                "format",
                ParamKind::Choice(&["html", "active-html", "text", "json"]),
                "Format to use",
            ),
            param(
                "type",
                ParamKind::Choice(&["All", "Counters", "Histograms", "Gauges", "TextReadouts"]),
                "Stat types to include.",
            ),
            param(
                "histogram_buckets",
                ParamKind::Choice(&["cumulative", "disjoint", "detailed", "summary"]),
                "Histogram bucket display mode",
            ),
        ],
        stats::answer,
    ),
    read(
        "/stats/prometheus",
        "print server stats in prometheus format",
        &[
            USED_ONLY,
            param(
                "text_readouts",
                ParamKind::Flag,
                "Render text_readouts as new gaugues with value 0 (increases Prometheus data size)",
            ),
            FILTER,
            INVERT_FILTER,
            param(
                "histogram_buckets",
                ParamKind::Choice(&["cumulative", "summary"]),
                "Histogram bucket display mode",
            ),
        ],
        stats::prometheus,
    ),
    read(
        "/stats/recentlookups",
        "Show recent stat-name lookups",
        &[],
        info::recent_lookups,
    ),
    change(
        "/stats/recentlookups/clear",
        "clear list of stat-name lookups and counter",
        &[],
        info::ok,
    ),
    change(
        "/stats/recentlookups/disable",
        "disable recording of reset stat-name lookup names",
        &[],
        info::ok,
    ),
    change(
        "/stats/recentlookups/enable",
        "enable recording of reset stat-name lookup names",
        &[],
        info::no_lookups,
    ),
];

/// Answers a request, whichever endpoint it is for.
pub fn route(state: &Rc<State>, method: &Method, request: &Request) -> Answer {
    if !state.paths.allow(&request.path) {
        return Answer::error(
            StatusCode::FORBIDDEN,
            format!("request to path {} not allowed", request.path),
        );
    }
    match ENDPOINTS
        .iter()
        .find(|endpoint| endpoint.path == request.path)
    {
        None => Answer::error(
            StatusCode::NOT_FOUND,
            format!("invalid path. {}", help_text()),
        ),
        Some(endpoint) if endpoint.mutates && method != Method::POST => Answer::error(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Method {method} not allowed, POST required."),
        ),
        Some(endpoint) => (endpoint.answer)(state, request),
    }
}

/// The list of endpoints, as `/help` prints it.
pub fn help_text() -> String {
    let mut text = String::from("admin commands are:\n");
    for endpoint in &ENDPOINTS {
        let post = if endpoint.mutates { " (POST)" } else { "" };
        writeln!(text, "  {}{post}: {}", endpoint.path, endpoint.help).expect(WRITE);
        for param in endpoint.params {
            write!(text, "      {}: {}", param.name, param.help).expect(WRITE);
            if let ParamKind::Choice(choices) = param.kind {
                write!(text, "; One of ({})", choices.join(", ")).expect(WRITE);
            }
            text.push('\n');
        }
    }
    text
}

/// Why writing to a string is expected to go well.
pub const WRITE: &str = "writing to a string cannot fail";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_sorted_as_envoy_lists_them() {
        assert!(ENDPOINTS.iter().map(|endpoint| endpoint.path).is_sorted());
    }

    #[test]
    fn help_has_the_shape_of_envoys() {
        let help = help_text();
        assert!(help.starts_with("admin commands are:\n  /: Admin home page\n"));
        assert!(help.contains(
            "  /listeners: print listener info\n      format: File format to use; One of (text, json)\n"
        ));
        assert!(help.contains("  /quitquitquit (POST): exit the server\n"));
    }
}

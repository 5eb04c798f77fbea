//! Short answers about the process.

use std::rc::Rc;

use http::StatusCode;
use serde_json::json;

use crate::{api::envoy::admin::v3 as pb, server::stats::Memory};

use super::{
    State,
    answer::{Answer, JSON},
    endpoint,
    json::{self, Defaults},
    request::Request,
    state::ServerState,
};

pub(super) fn ok(_: &Rc<State>, _: &Request) -> Answer {
    Answer::ok()
}

pub(super) fn help(_: &Rc<State>, _: &Request) -> Answer {
    Answer::text(endpoint::help_text())
}

pub(super) fn ready(state: &Rc<State>, _: &Request) -> Answer {
    let now = state.lifecycle.state();
    let status = match now {
        ServerState::Live => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    Answer::error(status, format!("{}\n", now.name()))
}

/// What a build without hot restart answers in Envoy, too.
const HOT_RESTART: &str = "disabled";

pub(super) fn hot_restart_version(_: &Rc<State>, _: &Request) -> Answer {
    Answer::text(HOT_RESTART)
}

pub(super) fn server_info(state: &Rc<State>, _: &Request) -> Answer {
    let uptime = prost_types::Duration {
        seconds: state.server.uptime().as_secs().cast_signed(),
        nanos: 0,
    };
    let info = pb::ServerInfo {
        version: state.server.version.clone(),
        state: match state.lifecycle.state() {
            ServerState::Live => pb::server_info::State::Live,
            ServerState::Draining => pb::server_info::State::Draining,
            ServerState::PreInitializing => pb::server_info::State::PreInitializing,
            ServerState::Initializing => pb::server_info::State::Initializing,
        }
        .into(),
        uptime_current_epoch: Some(uptime),
        uptime_all_epochs: Some(uptime),
        hot_restart_version: HOT_RESTART.to_owned(),
        hot_restart_initializing: false,
        command_line_options: Some(state.server.options.clone()),
        node: Some(state.server.node.clone()),
    };
    Answer::json(json::document(&info, Defaults::Print))
}

pub(super) fn memory(_: &Rc<State>, _: &Request) -> Answer {
    let now = Memory::now().unwrap_or_default();
    let memory = pb::Memory {
        allocated: now.allocated,
        heap_size: now.heap,
        // What only Envoy's allocator has.
        pageheap_unmapped: 0,
        pageheap_free: 0,
        total_thread_cache: 0,
        total_physical_bytes: now.physical,
    };
    Answer::json(json::document(&memory, Defaults::Print))
}

pub(super) fn runtime(state: &Rc<State>, _: &Request) -> Answer {
    let (layers, entries) = state.runtime.entries();
    let entries: serde_json::Map<_, _> = entries
        .into_iter()
        .map(|(key, entry)| {
            let value = json!({
                "final_value": entry.final_value,
                "layer_values": entry.layer_values,
            });
            (key, value)
        })
        .collect();
    let mut text = String::new();
    json::write_value(
        &mut text,
        &json!({ "entries": entries, "layers": layers }),
        0,
    );
    text.push('\n');
    Answer::json(text)
}

pub(super) fn init_dump(state: &Rc<State>, request: &Request) -> Answer {
    // The one component that Envoy can be asked for.
    let listeners_only = request.param("mask") == Some("listener");
    let dumps = state.config.unready().into_iter();
    let dump = pb::UnreadyTargetsDumps {
        unready_targets_dumps: dumps
            .filter(|unready| !listeners_only || unready.name.contains("Listener"))
            .map(|unready| pb::unready_targets_dumps::UnreadyTargetsDump {
                name: unready.name,
                target_names: unready.targets,
            })
            .collect(),
    };
    Answer::whole(JSON, json::document(&dump, Defaults::Skip))
}

pub(super) fn contention(_: &Rc<State>, _: &Request) -> Answer {
    Answer::text(
        "Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.",
    )
}

pub(super) fn recent_lookups(_: &Rc<State>, _: &Request) -> Answer {
    Answer::text(
        "Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n",
    )
}

pub(super) fn no_lookups(_: &Rc<State>, _: &Request) -> Answer {
    Answer::error(
        StatusCode::NOT_IMPLEMENTED,
        "There are no stat-name lookups to track: stats are found by index.\n",
    )
}

pub(super) fn no_profiler(_: &Rc<State>, request: &Request) -> Answer {
    let what = match request.path.as_str() {
        "/cpuprofiler" => "cpu profiler",
        "/allocprofiler" => "allocation profiler",
        "/heap_dump" | "/peak_heap_dump" => "heap dump",
        "/memory/tcmalloc" => "tcmalloc stats",
        _ => "heap profiler",
    };
    Answer::error(
        StatusCode::NOT_IMPLEMENTED,
        format!("The current build does not support {what}"),
    )
}

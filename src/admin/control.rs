//! The switches: what changes something, and is asked by `POST`.

use std::rc::Rc;

use http::StatusCode;

use super::{State, answer::Answer, request::Request, state::DrainListeners};

pub(super) fn fail_health_checks(state: &Rc<State>, _: &Request) -> Answer {
    state.lifecycle.fail_health_checks();
    Answer::ok()
}

pub(super) fn pass_health_checks(state: &Rc<State>, _: &Request) -> Answer {
    state.lifecycle.pass_health_checks();
    Answer::ok()
}

pub(super) fn drain_listeners(state: &Rc<State>, request: &Request) -> Answer {
    state.lifecycle.drain_listeners(DrainListeners {
        graceful: request.has("graceful"),
        skip_exit: request.has("skip_exit"),
        inbound_only: request.has("inboundonly"),
    });
    Answer::ok()
}

pub(super) fn quit(state: &Rc<State>, _: &Request) -> Answer {
    state.lifecycle.quit();
    Answer::ok()
}

pub(super) fn reopen_logs(state: &Rc<State>, _: &Request) -> Answer {
    state.lifecycle.reopen_logs();
    Answer::ok()
}

pub(super) fn reset_counters(state: &Rc<State>, _: &Request) -> Answer {
    state.stats.reset_counters();
    for cluster in state.snapshot.load().clusters.values() {
        for endpoint in cluster.hosts().load().endpoints() {
            endpoint.host.reset_counters();
        }
    }
    Answer::ok()
}

const MODIFY_USAGE: &str = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       \
     or send the parameters as form values\n\
     use an empty value to remove a previously added override";

pub(super) fn runtime_modify(state: &Rc<State>, request: &Request) -> Answer {
    if request.params.is_empty() {
        return Answer::bad_request(MODIFY_USAGE);
    }
    match state.runtime.modify(&request.params) {
        Ok(()) => Answer::ok(),
        Err(error) => Answer::error(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

//! `/listeners`: names and addresses.

use std::{fmt::Write, rc::Rc};

use crate::{
    api::envoy::{admin::v3 as pb, config::core::v3 as core},
    model::listener::Listener,
    net::Address,
};

use super::{
    State,
    answer::Answer,
    endpoint::WRITE,
    json::{self, Defaults},
    request::Request,
    state::Kind,
};

pub(super) fn answer(state: &Rc<State>, request: &Request) -> Answer {
    let snapshot = state.snapshot.load();
    let added = state.config.added(Kind::Listener);
    let mut listeners: Vec<_> = snapshot.listeners.values().collect();
    // Those of the bootstrap first.
    listeners.sort_by_key(|listener| (added.contains(&*listener.name), listener.name.clone()));
    match request.param("format") {
        Some("json") => {
            let listener_statuses = listeners.iter().map(|listener| status(listener)).collect();
            let message = pb::Listeners { listener_statuses };
            Answer::json(json::document(&message, Defaults::Skip))
        }
        _ => {
            let mut text = String::new();
            for listener in listeners {
                for address in listener.local_addresses() {
                    writeln!(text, "{}::{address}", listener.name).expect(WRITE);
                }
            }
            Answer::text(text)
        }
    }
}

fn status(listener: &Listener) -> pb::ListenerStatus {
    let mut addresses = listener.local_addresses().map(message_of);
    pb::ListenerStatus {
        name: listener.name.to_string(),
        local_address: addresses.next(),
        additional_local_addresses: addresses.collect(),
    }
}

/// An address as the API writes it.
pub(super) fn message_of(address: &Address) -> core::Address {
    let address = match address {
        Address::Ip(address) => core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(
                address.port().into(),
            )),
            ..Default::default()
        }),
        Address::Pipe(path) => core::address::Address::Pipe(core::Pipe {
            path: path.display().to_string(),
            mode: 0,
        }),
    };
    core::Address {
        address: Some(address),
    }
}

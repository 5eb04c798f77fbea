//! Network filters: what a connection passes on its way, and what serves it in
//! the end. One folder each, and one line of `FILTERS`.

mod connection_limit;
pub mod direct_response;
pub mod echo;
mod local_ratelimit;
mod sni_cluster;

pub use connection_limit::ConnectionLimit;
pub use local_ratelimit::{LocalRateLimit, TokenBucket};

use std::{sync::Arc, time::Duration};

use prost_types::Any;

use super::{ConnectionInfo, limits::Place};
use crate::{
    api::envoy::{
        config::listener::v3::{Filter, filter::ConfigType},
        extensions::filters::network::{echo::v3::Echo, sni_cluster::v3::SniCluster},
    },
    config::{At, Reported, type_name, unpack},
    http,
    model::{Context, listener::NetworkFilter},
    tcp,
};

/// A filter that a new connection passes before anything is read of it.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is documented where it is")]
pub enum Gate {
    ConnectionLimit(ConnectionLimit),
    LocalRateLimit(LocalRateLimit),
    SniCluster,
}

/// What a gate does with a connection.
#[derive(Debug)]
pub enum Passage {
    /// It goes on, and gives a place back when it ends.
    Open(Option<Held>),
    /// It is closed, at once or after this time.
    Closed(Duration),
}

/// What a connection holds of the gates it has passed.
#[derive(Debug)]
pub enum Held {
    /// A place of `connection_limit`.
    Limit(connection_limit::Active, Place),
}

impl Gate {
    /// Lets a new connection pass, or not.
    pub fn pass(&self, info: &mut ConnectionInfo) -> Passage {
        match self {
            Self::ConnectionLimit(limit) => limit.pass(),
            Self::LocalRateLimit(limit) => match limit.takes() {
                true => Passage::Open(None),
                false => Passage::Closed(Duration::ZERO),
            },
            Self::SniCluster => {
                sni_cluster::run(info);
                Passage::Open(None)
            }
        }
    }
}

/// Lets a new connection pass all of some gates; what it holds of them, or how
/// long it stays open although it is refused.
///
/// # Errors
/// That time.
pub fn pass(gates: &[Gate], info: &mut ConnectionInfo) -> Result<Vec<Held>, Duration> {
    let mut held = Vec::new();
    for gate in gates {
        match gate.pass(info) {
            Passage::Open(place) => held.extend(place),
            Passage::Closed(delay) => return Err(delay),
        }
    }
    Ok(held)
}

/// The filters of a chain.
#[derive(Debug)]
pub struct Filters {
    /// What connections pass, in this order.
    pub gates: Box<[Gate]>,
    /// What serves them.
    pub terminal: NetworkFilter,
}

enum Compiled {
    Gate(Gate),
    Terminal(NetworkFilter),
}

/// `site` tells a filter from its like in other chains; it stays the same when its
/// listener changes.
type Compile = fn(&Any, &str, &Context<'_>, &At<'_>) -> Result<Compiled, Reported>;

/// By the type of their configuration.
const FILTERS: &[(&str, Compile)] = &[
    (
        "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
        |any, site, cx, at| {
            let limit = ConnectionLimit::compile(unpack(any, at)?, site, cx, at)?;
            Ok(Compiled::Gate(Gate::ConnectionLimit(limit)))
        },
    ),
    (
        "envoy.extensions.filters.network.direct_response.v3.Config",
        |any, _, cx, at| {
            let response = direct_response::compile(unpack(any, at)?, cx, at)?;
            Ok(Compiled::Terminal(NetworkFilter::DirectResponse(response)))
        },
    ),
    (
        "envoy.extensions.filters.network.echo.v3.Echo",
        |any, _, _, at| {
            let Echo {} = unpack(any, at)?;
            Ok(Compiled::Terminal(NetworkFilter::Echo))
        },
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        |any, _, cx, at| {
            let manager = http::ConnectionManager::compile(unpack(any, at)?, cx, at)?;
            Ok(Compiled::Terminal(NetworkFilter::Http(Arc::new(manager))))
        },
    ),
    (
        "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit",
        |any, site, cx, at| {
            let limit = LocalRateLimit::compile(unpack(any, at)?, site, cx, at)?;
            Ok(Compiled::Gate(Gate::LocalRateLimit(limit)))
        },
    ),
    (
        "envoy.extensions.filters.network.sni_cluster.v3.SniCluster",
        |any, _, _, at| {
            let SniCluster {} = unpack(any, at)?;
            Ok(Compiled::Gate(Gate::SniCluster))
        },
    ),
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        |any, _, cx, at| {
            let proxy = tcp::TcpProxy::compile(unpack(any, at)?, cx, at)?;
            Ok(Compiled::Terminal(NetworkFilter::Tcp(Arc::new(proxy))))
        },
    ),
];

impl Filters {
    /// Compiles the filters of a chain; `site` tells the chain from all others.
    ///
    /// # Errors
    /// When one is wrong, or the last does not serve, or another one does.
    pub fn compile(
        messages: Vec<Filter>,
        site: &str,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let count = messages.len();
        let (mut gates, mut terminal) = (Vec::new(), None);
        let mut outcome = Ok(());
        for (index, message) in messages.into_iter().enumerate() {
            let at = at.index(index);
            let last = index + 1 == count;
            match compile(message, &format!("{site}.{index}"), cx, &at) {
                Ok(Compiled::Gate(_)) if last => {
                    outcome = Err(at.error("ends the chain, but is not a filter that serves"));
                }
                Ok(Compiled::Gate(gate)) => gates.push(gate),
                Ok(Compiled::Terminal(_)) if !last => {
                    outcome =
                        Err(at.error("this filter ends the chain, so no other may follow it"));
                }
                Ok(Compiled::Terminal(filter)) => terminal = Some(filter),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome?;
        match terminal {
            Some(terminal) => Ok(Self {
                gates: gates.into(),
                terminal,
            }),
            None => Err(at.error(format_args!(
                "is empty; a filter that serves is required, of {:?}",
                known()
            ))),
        }
    }
}

fn known() -> Vec<&'static str> {
    types().collect()
}

/// The messages that configure filters.
pub fn types() -> impl Iterator<Item = &'static str> {
    FILTERS.iter().map(|(name, _)| *name)
}

fn compile(
    message: Filter,
    site: &str,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Compiled, Reported> {
    // The type of the configuration names the filter; the name is for people.
    let Filter {
        name: _,
        config_type,
    } = message;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            return Err(at.field("config_discovery").unsupported());
        }
        None => return Err(at.field("typed_config").error("is required")),
    };
    let at = at.field("typed_config");
    let kind = type_name(&any);
    match FILTERS.iter().find(|(name, _)| *name == kind) {
        Some((_, compile)) => compile(&any, site, cx, &at),
        None => Err(at.error(format_args!(
            "the network filter {kind:?} is not supported; there are {:?}",
            known()
        ))),
    }
}

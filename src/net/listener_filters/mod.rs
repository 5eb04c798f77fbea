//! Listener filters: what looks at a connection before its filter chain is
//! chosen. One folder each, and one line of `FILTERS`.

mod http_inspector;
mod original_dst;
mod predicate;
mod proxy_protocol;
mod start;
mod tls_inspector;

pub use http_inspector::HttpInspector;
pub use predicate::Predicate;
pub use proxy_protocol::ProxyProtocol;
pub use tls_inspector::TlsInspector;

use prost_types::Any;

use super::{ConnectionInfo, Plain};
use crate::{
    api::envoy::{
        config::listener::v3 as pb,
        extensions::filters::listener::original_dst::v3::OriginalDst as OriginalDstMessage,
    },
    config::{At, Reported, type_name, unpack},
    model::Context,
};
use start::LookError;

/// One listener filter.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is documented where it is")]
pub enum ListenerFilter {
    HttpInspector(HttpInspector),
    OriginalDst,
    ProxyProtocol(ProxyProtocol),
    TlsInspector(TlsInspector),
}

type Compile = fn(&Any, &Context<'_>, &At<'_>) -> Result<ListenerFilter, Reported>;

/// By the type of their configuration.
const FILTERS: &[(&str, Compile)] = &[
    (
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
        |any, cx, at| {
            let filter = HttpInspector::compile(unpack(any, at)?, cx);
            Ok(ListenerFilter::HttpInspector(filter))
        },
    ),
    (
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        |any, _, at| {
            let OriginalDstMessage {} = unpack(any, at)?;
            Ok(ListenerFilter::OriginalDst)
        },
    ),
    (
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        |any, cx, at| {
            let filter = ProxyProtocol::compile(unpack(any, at)?, cx, at)?;
            Ok(ListenerFilter::ProxyProtocol(filter))
        },
    ),
    (
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        |any, cx, at| {
            let filter = TlsInspector::compile(unpack(any, at)?, cx, at)?;
            Ok(ListenerFilter::TlsInspector(filter))
        },
    ),
];

/// The messages that configure filters.
pub fn types() -> impl Iterator<Item = &'static str> {
    FILTERS.iter().map(|(name, _)| *name)
}

/// Why a connection ends before a filter chain is chosen.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// A filter refuses it.
    #[error("{0}")]
    Refused(&'static str),
    /// It ended by itself.
    #[error(transparent)]
    Ended(#[from] LookError),
}

impl Stop {
    /// Whether the client closed before it said enough.
    pub fn is_remote_close(&self) -> bool {
        matches!(self, Self::Ended(LookError::Closed))
    }
}

/// The filters of one listener, in their order.
#[derive(Debug, Default)]
pub struct ListenerFilters(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    filter: ListenerFilter,
    disabled: Option<Predicate>,
}

impl Entry {
    fn is_for(&self, info: &ConnectionInfo) -> bool {
        self.disabled.as_ref().is_none_or(|rule| !rule.is_met(info))
    }
}

impl ListenerFilters {
    /// Compiles `listener_filters`.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        messages: Vec<pb::ListenerFilter>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let mut entries = Vec::with_capacity(messages.len());
        let mut outcome = Ok(());
        for (index, message) in messages.into_iter().enumerate() {
            match Entry::compile(message, cx, &at.index(index)) {
                Ok(entry) => entries.push(entry),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| Self(entries))
    }

    /// Puts a filter that is configured elsewhere after all others.
    pub fn push(&mut self, filter: ListenerFilter) {
        let disabled = None;
        self.0.push(Entry { filter, disabled });
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them reads the start of TLS on some connections.
    pub fn inspect_tls(&self) -> bool {
        let is = |entry: &Entry| matches!(entry.filter, ListenerFilter::TlsInspector(_));
        self.0.iter().any(is)
    }

    /// Whether this connection's start of TLS is read.
    pub fn see_tls(&self, info: &ConnectionInfo) -> bool {
        let is = |entry: &Entry| matches!(entry.filter, ListenerFilter::TlsInspector(_));
        self.0.iter().any(|entry| is(entry) && entry.is_for(info))
    }

    /// Whether this connection's start of HTTP is read.
    pub fn see_http(&self, info: &ConnectionInfo) -> bool {
        let is = |entry: &Entry| matches!(entry.filter, ListenerFilter::HttpInspector(_));
        self.0.iter().any(|entry| is(entry) && entry.is_for(info))
    }

    /// Runs them on a connection that has just been accepted.
    ///
    /// # Errors
    /// When it ends here. Cancel-safe, but see [`Plain::watch_anew`].
    pub async fn run(&self, stream: &Plain, info: &mut ConnectionInfo) -> Result<(), Stop> {
        for entry in &self.0 {
            if !entry.is_for(info) {
                continue;
            }
            match &entry.filter {
                ListenerFilter::HttpInspector(filter) => filter.run(stream, info).await?,
                ListenerFilter::OriginalDst => original_dst::run(stream, info),
                ListenerFilter::ProxyProtocol(filter) => filter.run(stream, info).await?,
                ListenerFilter::TlsInspector(filter) => filter.run(stream, info).await?,
            }
        }
        Ok(())
    }
}

impl Entry {
    fn compile(
        message: pb::ListenerFilter,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        // The type of the configuration names the filter; the name is for people.
        let pb::ListenerFilter {
            name: _,
            filter_disabled,
            config_type,
        } = message;
        let disabled = filter_disabled
            .map(|rule| Predicate::compile(rule, &at.field("filter_disabled")))
            .transpose();
        let any = match config_type {
            Some(pb::listener_filter::ConfigType::TypedConfig(any)) => any,
            Some(pb::listener_filter::ConfigType::ConfigDiscovery(_)) => {
                return Err(at.field("config_discovery").unsupported());
            }
            None => return Err(at.field("typed_config").error("is required")),
        };
        let at = at.field("typed_config");
        let kind = type_name(&any);
        match FILTERS.iter().find(|(name, _)| *name == kind) {
            Some((_, compile)) => {
                let filter = compile(&any, cx, &at);
                Ok(Self {
                    disabled: disabled?,
                    filter: filter?,
                })
            }
            None => {
                let known: Vec<&str> = types().collect();
                Err(at.error(format_args!(
                    "the listener filter {kind:?} is not supported; there are {known:?}"
                )))
            }
        }
    }
}

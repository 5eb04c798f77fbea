//! What is said to a management server, and what its answers mean: state
//! machines without I/O, one for each variant of the protocol.
//!
//! ```text
//!  subscribe, unsubscribe ──┐                        ┌──▶ next_request ──▶ server
//!                           ├──▶ state of each type ─┤
//!  verdict (ACK, NACK) ─────┘                        └──◀ receive ◀──────── server
//!                                                            │
//!                                                            └──▶ Push, to be applied
//! ```
//!
//! Requests are made from the state when they can be sent, not when something
//! changes: however much changes meanwhile, one request says it. In delta every
//! answer has a verdict of its own, so there they are queued.

pub mod delta;
mod hold;
pub mod rate_limit;
pub mod sotw;
#[cfg(test)]
mod testing;
pub mod ttl;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use prost_types::Any;

use crate::{
    api::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{
                DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
                Resource, ResourceError,
            },
        },
        google::rpc,
    },
    config::{RawResource, wrapper},
    xds::{
        api_source::Variant,
        update::{Received, Update},
    },
};

/// A type URL, such as `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
pub type TypeUrl = Arc<str>;

/// Virtual hosts of route tables.
const VIRTUAL_HOST: &str = "/envoy.config.route.v3.VirtualHost";
/// Scopes of connection managers.
const SCOPE: &str = "/envoy.config.route.v3.ScopedRouteConfiguration";

/// Whether all that is accepted of a type is remembered: who asks for it comes and
/// goes, and the server does not say it again to whoever asks next.
fn is_remembered(type_url: &str) -> bool {
    [VIRTUAL_HOST, SCOPE]
        .iter()
        .any(|kind| type_url.ends_with(kind))
}

/// The name that stands for every resource of a type.
pub const WILDCARD: &str = "*";

/// What a NACK says at most, in bytes.
const MAX_ERROR: usize = 64 << 10;

/// What is sent to a server.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// State of the world.
    Sotw(DiscoveryRequest),
    /// Delta.
    Delta(DeltaDiscoveryRequest),
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// State of the world.
    Sotw(DiscoveryResponse),
    /// Delta.
    Delta(DeltaDiscoveryResponse),
}

impl Response {
    /// `control_plane.identifier`, when the server says who it is.
    pub fn identifier(&self) -> Option<&str> {
        let control_plane = match self {
            Self::Sotw(response) => response.control_plane.as_ref(),
            Self::Delta(response) => response.control_plane.as_ref(),
        };
        control_plane.map(|plane| plane.identifier.as_str())
    }

    /// The type of its resources.
    pub fn type_url(&self) -> &str {
        match self {
            Self::Sotw(response) => &response.type_url,
            Self::Delta(response) => &response.type_url,
        }
    }
}

/// An answer that has to be applied.
#[derive(Clone, Debug)]
pub struct Push {
    /// The type of its resources.
    pub type_url: TypeUrl,
    /// Names it in the verdict. `None`: no server said it, a TTL ran out.
    pub nonce: Option<String>,
    /// What it says; why not, when it cannot be taken as a whole.
    pub update: Result<Update, String>,
}

/// What came of a [`Push`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All of it is in force, or warms.
    Ack,
    /// Something of it was refused.
    Nack {
        /// Why, for the server.
        details: Arc<str>,
        /// Which resources; `None` when the answer was refused as a whole.
        refused: Option<HashSet<Arc<str>>>,
    },
}

impl Verdict {
    /// The whole answer is refused.
    pub fn refused(details: impl Into<Arc<str>>) -> Self {
        Self::Nack {
            details: details.into(),
            refused: None,
        }
    }

    /// The verdict on an answer that was applied in two places.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (
            Self::Nack { details, refused },
            Self::Nack {
                details: more,
                refused: others,
            },
        ) = (&self, &other)
        else {
            return match self {
                Self::Ack => other,
                Self::Nack { .. } => self,
            };
        };
        let details = match details == more {
            true => details.clone(),
            false => format!("{details}\n{more}").into(),
        };
        let refused = refused.as_ref().zip(others.as_ref());
        Self::Nack {
            details,
            refused: refused.map(|(a, b)| a.union(b).cloned().collect()),
        }
    }

    /// Whether this resource of the answer is accepted.
    fn accepts(&self, name: &str) -> bool {
        match self {
            Self::Ack => true,
            Self::Nack { refused: None, .. } => false,
            Self::Nack {
                refused: Some(refused),
                ..
            } => !refused.contains(name),
        }
    }

    /// `error_detail`, when it is a NACK.
    fn error(&self) -> Option<rpc::Status> {
        let Self::Nack { details, .. } = self else {
            return None;
        };
        let mut message = details.to_string();
        if message.len() > MAX_ERROR {
            let end = (0..=MAX_ERROR).rev().find(|&i| message.is_char_boundary(i));
            message.truncate(end.unwrap_or(0));
            message.push_str(" ... (truncated)");
        }
        Some(rpc::Status {
            code: tonic::Code::Internal as i32,
            message,
            details: Vec::new(),
        })
    }
}

/// How this proxy introduces itself on a stream.
#[derive(Debug)]
struct Introduction {
    node: Arc<Node>,
    first_only: bool,
    done: bool,
}

impl Introduction {
    fn new(node: Arc<Node>, first_only: bool) -> Self {
        Self {
            node,
            first_only,
            done: false,
        }
    }

    /// A new stream: nobody has been told yet.
    fn again(&mut self) {
        self.done = false;
    }

    /// The node for the next message, where it is due.
    fn node(&mut self) -> Option<Node> {
        let due = !self.first_only || !self.done;
        self.done = true;
        due.then(|| (*self.node).clone())
    }
}

/// Both variants, behind one face.
#[derive(Debug)]
pub enum Machine {
    /// State of the world.
    Sotw(sotw::Sotw),
    /// Delta.
    Delta(delta::Delta),
}

macro_rules! either {
    ($self:expr, $machine:ident => $body:expr) => {
        match $self {
            Self::Sotw($machine) => $body,
            Self::Delta($machine) => $body,
        }
    };
}

impl Machine {
    /// Asks for nothing yet. `first_only`: `set_node_on_first_message_only`.
    pub fn new(variant: Variant, node: Arc<Node>, first_only: bool) -> Self {
        match variant {
            Variant::Sotw | Variant::Rest => Self::Sotw(sotw::Sotw::new(node, first_only)),
            Variant::Delta => Self::Delta(delta::Delta::new(node, first_only)),
        }
    }

    /// Asks for a resource, or for all with [`WILDCARD`]. Asked for more than
    /// once, it has to be given up as often.
    pub fn subscribe(&mut self, type_url: &TypeUrl, name: &str) {
        either!(self, machine => machine.subscribe(type_url, name));
    }

    /// Gives a resource up.
    pub fn unsubscribe(&mut self, type_url: &TypeUrl, name: &str) {
        either!(self, machine => machine.unsubscribe(type_url, name));
    }

    /// What was last accepted under a name that the server still believes to be
    /// asked for: it does not send it again to whoever asks next.
    pub fn known(&self, type_url: &str, name: &str) -> Option<Received> {
        either!(self, machine => machine.known(type_url, name))
    }

    /// All that was accepted of a type that is remembered, as an answer; `None` when
    /// there was none yet.
    pub fn accepted(&self, type_url: &str) -> Option<Update> {
        either!(self, machine => machine.accepted(type_url))
    }

    /// A new stream to a server that knows nothing.
    pub fn connected(&mut self) {
        either!(self, machine => machine.connected());
    }

    /// Says nothing more of a type, but for what a new stream begins with, until it is
    /// no longer held.
    pub fn hold(&mut self, type_url: &TypeUrl, held: bool) {
        either!(self, machine => machine.hold(type_url, held));
    }

    /// What is to be sent next; `None` when there is nothing to say.
    pub fn next_request(&mut self) -> Option<Request> {
        match self {
            Self::Sotw(machine) => machine.next_request().map(Request::Sotw),
            Self::Delta(machine) => machine.next_request().map(Request::Delta),
        }
    }

    /// How many requests wait to be sent.
    pub fn pending(&self) -> usize {
        either!(self, machine => machine.pending())
    }

    /// Takes an answer; `None` when nobody asked for what it holds.
    pub fn receive(&mut self, response: Response, now: Instant) -> Option<Push> {
        match (self, response) {
            (Self::Sotw(machine), Response::Sotw(response)) => machine.receive(response, now),
            (Self::Delta(machine), Response::Delta(response)) => machine.receive(response, now),
            _ => None,
        }
    }

    /// Says what came of an answer.
    pub fn verdict(&mut self, push: &Answered, verdict: &Verdict) {
        either!(self, machine => machine.verdict(push, verdict));
    }

    /// When the next TTL runs out.
    pub fn next_expiry(&self) -> Option<Instant> {
        either!(self, machine => machine.ttls.next())
    }

    /// What has outlived its TTL: it is gone, unless the server sends it again.
    pub fn expire(&mut self, now: Instant) -> Vec<Push> {
        either!(self, machine => machine.expire(now))
    }
}

/// What the verdict needs of a [`Push`] once it has been applied.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The type of its resources.
    pub type_url: TypeUrl,
    /// Its nonce.
    pub nonce: Option<String>,
    version: Arc<str>,
    resources: Vec<Received>,
    gone: Vec<Arc<str>>,
    /// What it does not hold is gone.
    is_whole: bool,
}

impl Push {
    /// What the verdict will need of it.
    pub fn answered(&self) -> Answered {
        let update = self.update.as_ref().ok();
        Answered {
            type_url: self.type_url.clone(),
            nonce: self.nonce.clone(),
            version: update.map(|u| u.version_info.clone()).unwrap_or_default(),
            resources: update.map(|u| u.resources.clone()).unwrap_or_default(),
            gone: match update.map(|u| &u.gone) {
                Some(super::update::Gone::Named(names)) => names.clone(),
                _ => Vec::new(),
            },
            is_whole: update.is_some_and(|u| u.gone == super::update::Gone::Absent),
        }
    }
}

/// One resource of an answer, out of its wrapper.
struct Unwrapped {
    name: Arc<str>,
    aliases: Vec<Arc<str>>,
    version: Option<Arc<str>>,
    ttl: Option<Duration>,
    /// `None`: a heartbeat, which says that what is known goes on; without a time to
    /// live, that there is no such virtual host.
    raw: Option<RawResource>,
}

fn unwrap_any(any: Any, type_url: &str) -> Result<Unwrapped, String> {
    if let Some(resource) = wrapper(&any, type_url)? {
        return unwrap(resource, type_url);
    }
    let raw = RawResource::from_any(any, type_url)?;
    Ok(Unwrapped {
        name: raw.name().into(),
        aliases: Vec::new(),
        version: None,
        ttl: None,
        raw: Some(raw),
    })
}

fn unwrap(resource: Resource, type_url: &str) -> Result<Unwrapped, String> {
    let Resource {
        version,
        resource,
        name,
        aliases,
        ttl,
        // Nothing is cached beyond what is in force.
        cache_control: _,
        resource_name,
        metadata: _,
    } = resource;
    if resource_name.is_some_and(|name| name.dynamic_parameter_constraints.is_some()) {
        return Err(format!(
            "{name}: resource_name.dynamic_parameter_constraints is not supported yet"
        ));
    }
    let raw = match resource {
        Some(any) => {
            let place = |error| match name.is_empty() {
                true => error,
                false => format!("{name}: {error}"),
            };
            Some(RawResource::from_any(any, type_url).map_err(place)?)
        }
        None if ttl.is_some() => None,
        // What was asked for by this name is not there.
        None if type_url.ends_with(VIRTUAL_HOST) && !aliases.is_empty() => None,
        None => return Err(format!("{name}: resource is required")),
    };
    let name = match (&raw, name.is_empty()) {
        (Some(raw), true) => raw.name().into(),
        (None, true) => return Err("name is required".to_owned()),
        (_, false) => name.into(),
    };
    let ttl =
        ttl.map(|ttl| Duration::try_from(ttl).map_err(|_| format!("{name}: ttl is negative")));
    Ok(Unwrapped {
        version: (!version.is_empty()).then(|| version.into()),
        ttl: ttl.transpose()?,
        aliases: aliases.into_iter().map(Arc::from).collect(),
        name,
        raw,
    })
}

/// What a TTL took away.
fn expired(type_url: TypeUrl, version_info: Arc<str>, names: Vec<Arc<str>>) -> Push {
    Push {
        type_url,
        nonce: None,
        update: Ok(Update {
            version_info,
            resources: Vec::new(),
            gone: super::update::Gone::Named(names),
        }),
    }
}

/// The server says that it cannot serve a resource.
fn log_resource_error(type_url: &str, error: ResourceError) {
    let ResourceError {
        resource_name,
        error_detail,
    } = error;
    let name = resource_name
        .map(|resource| resource.name)
        .unwrap_or_default();
    let reason = error_detail
        .map(|status| status.message)
        .unwrap_or_default();
    tracing::warn!(
        target: "config",
        "the management server has no {type_url} '{name}' for this proxy: {reason}"
    );
}

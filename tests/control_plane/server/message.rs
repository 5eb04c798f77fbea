//! What goes over a stream, in one form for both variants.

use std::collections::BTreeMap;

use nuncio::api::envoy::config::core::v3::{ControlPlane, Node};
use nuncio::api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};

use super::Variant;
use super::encode::wrapped;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which stream, counted from 1 since the server was made.
    pub stream: u64,
    /// The path of the stream's method.
    pub method: String,
    /// The headers with which the stream began.
    pub metadata: http::HeaderMap,
    /// `:authority` of the stream.
    pub authority: String,
    /// Of which type.
    pub type_url: String,
    /// The node, if it was sent along.
    pub node: Option<Node>,
    /// The nonce of the answer that is acknowledged or refused.
    pub nonce: String,
    /// Why it is refused.
    pub error: Option<String>,
    /// All names (state of the world), or those that are added (delta).
    pub names: Vec<String>,
    /// Names that are given up (delta).
    pub unsubscribed: Vec<String>,
    /// The version that is in force (state of the world).
    pub version: String,
    /// Versions of what is there (delta).
    pub initial_versions: BTreeMap<String, String>,
}

impl Asked {
    /// Whether it acknowledges an answer.
    pub fn is_ack(&self) -> bool {
        !self.nonce.is_empty() && self.error.is_none()
    }
}

/// The messages of a variant.
pub trait Dialect: Send + 'static {
    /// What a client sends.
    type Request: prost::Message + Default + 'static;
    /// What a server sends.
    type Response: prost::Message + Default + 'static;
    /// Which one it is.
    const VARIANT: Variant;

    /// A request as it arrived.
    fn read(request: Self::Request) -> Asked;
    /// An answer to be sent.
    fn write(answer: Answer) -> Self::Response;
}

/// State of the world.
#[derive(Debug)]
pub struct Sotw;

/// Incremental.
#[derive(Debug)]
pub struct Delta;

/// An answer; a field that a variant does not have is not sent.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The version of the whole.
    pub version: String,
    /// Its nonce.
    pub nonce: String,
    /// Of which type it says it is.
    pub type_url: String,
    /// Each with name and version; state of the world sends what is in it alone,
    /// unless it has a time to live.
    pub resources: Vec<Resource>,
    /// Names that are no more (delta).
    pub removed: Vec<String>,
    /// `control_plane.identifier`.
    pub identifier: String,
}

impl Answer {
    fn control_plane(&self) -> Option<ControlPlane> {
        (!self.identifier.is_empty()).then(|| ControlPlane {
            identifier: self.identifier.clone(),
        })
    }
}

fn asked(type_url: String, node: Option<Node>) -> Asked {
    Asked {
        stream: 0,
        method: String::new(),
        metadata: http::HeaderMap::new(),
        authority: String::new(),
        type_url,
        node,
        nonce: String::new(),
        error: None,
        names: Vec::new(),
        unsubscribed: Vec::new(),
        version: String::new(),
        initial_versions: BTreeMap::new(),
    }
}

impl Dialect for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const VARIANT: Variant = Variant::Sotw;

    fn read(request: DiscoveryRequest) -> Asked {
        Asked {
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            names: request.resource_names,
            version: request.version_info,
            ..asked(request.type_url, request.node)
        }
    }

    fn write(answer: Answer) -> DiscoveryResponse {
        let control_plane = answer.control_plane();
        let resources = answer.resources.into_iter().filter_map(|resource| {
            match resource.ttl.is_some() || resource.resource.is_none() {
                true => Some(wrapped(&resource)),
                false => resource.resource,
            }
        });
        DiscoveryResponse {
            version_info: answer.version,
            resources: resources.collect(),
            type_url: answer.type_url,
            nonce: answer.nonce,
            control_plane,
            ..DiscoveryResponse::default()
        }
    }
}

impl Dialect for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const VARIANT: Variant = Variant::Delta;

    fn read(request: DeltaDiscoveryRequest) -> Asked {
        Asked {
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            names: request.resource_names_subscribe,
            unsubscribed: request.resource_names_unsubscribe,
            initial_versions: request.initial_resource_versions.into_iter().collect(),
            ..asked(request.type_url, request.node)
        }
    }

    fn write(answer: Answer) -> DeltaDiscoveryResponse {
        let control_plane = answer.control_plane();
        DeltaDiscoveryResponse {
            system_version_info: answer.version,
            resources: answer.resources,
            type_url: answer.type_url,
            nonce: answer.nonce,
            removed_resources: answer.removed,
            control_plane,
            ..DeltaDiscoveryResponse::default()
        }
    }
}

//! Resources that are subscribed to by name.

use crate::{
    admin::state,
    api::{
        Lazy,
        envoy::{
            config::{
                core::v3::TypedExtensionConfig, endpoint::v3::ClusterLoadAssignment,
                route::v3::RouteConfiguration,
            },
            extensions::transport_sockets::tls::v3::Secret as SecretMessage,
            service::runtime::v3::Runtime as RuntimeMessage,
        },
    },
    config::{At, Reported, Strictness},
    http::filters,
    model::{
        Context,
        cluster::EndpointSet,
        context::{Extension, FilterWanted},
        route::RouteTable,
        secret::{Secret, SecretWanted},
    },
    runtime::{self, Values},
    xds::{api_source::Through, named::NamedKind, resource::Encoded},
};

/// Route tables, by RDS.
pub enum RouteKind {}
/// Secrets, by SDS.
pub enum SecretKind {}
/// Endpoints, by EDS.
pub enum EndpointKind {}
/// Layers of the runtime, by RTDS.
pub enum RuntimeKind {}
/// HTTP filters, by ECDS.
pub enum ExtensionKind {}

impl NamedKind for RouteKind {
    type Message = RouteConfiguration;
    type Value = RouteTable;
    const SHORT: &'static str = "rds";
    const KIND: state::Kind = state::Kind::Route;
    const TARGET: &'static str = "shared target RdsRouteConfigSubscription RDS init";
    type Want = ();

    fn add_parts(
        message: &mut Self::Message,
        parts: impl Iterator<Item = Encoded>,
        strictness: &Strictness,
    ) {
        let hosts = parts.filter_map(|host| host.peek(strictness));
        let hosts = hosts.map(|host| Lazy::of(&host));
        message.virtual_hosts.extend(hosts);
    }

    fn name(message: &Self::Message) -> &str {
        &message.name
    }

    fn compile(
        message: Self::Message,
        (): &(),
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self::Value, Reported> {
        RouteTable::compile(message, cx, at)
    }
}

impl NamedKind for SecretKind {
    type Message = SecretMessage;
    type Value = Secret;
    const SHORT: &'static str = "sds";
    const KIND: state::Kind = state::Kind::Secret;
    const TARGET: &'static str = "shared target SdsApi";
    const THROUGH: Through = Through::Any;
    type Want = SecretWanted;

    fn name(message: &Self::Message) -> &str {
        &message.name
    }

    fn compile(
        message: Self::Message,
        wanted: &SecretWanted,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self::Value, Reported> {
        let secret = Secret::compile(message, cx, at)?;
        secret.check(*wanted, at)?;
        Ok(secret)
    }
}

impl NamedKind for EndpointKind {
    type Message = ClusterLoadAssignment;
    type Value = EndpointSet;
    const SHORT: &'static str = "eds";
    const KIND: state::Kind = state::Kind::Endpoint;
    const TARGET: &'static str = "EDS";
    type Want = ();

    fn name(message: &Self::Message) -> &str {
        &message.cluster_name
    }

    fn compile(
        message: Self::Message,
        (): &(),
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self::Value, Reported> {
        EndpointSet::compile(message, cx, at)
    }
}

impl NamedKind for RuntimeKind {
    type Message = RuntimeMessage;
    type Value = Values;
    const SHORT: &'static str = "rtds";
    const KIND: state::Kind = state::Kind::Runtime;
    const TARGET: &'static str = "RTDS";
    const ENDS: bool = true;
    type Want = ();

    fn name(message: &Self::Message) -> &str {
        &message.name
    }

    fn compile(
        message: Self::Message,
        (): &(),
        _cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self::Value, Reported> {
        let RuntimeMessage { name: _, layer } = message;
        runtime::flatten(&layer.unwrap_or_default()).map_err(|error| at.field("layer").error(error))
    }
}

impl NamedKind for ExtensionKind {
    type Message = TypedExtensionConfig;
    type Value = Extension;
    const SHORT: &'static str = "ecds";
    const KIND: state::Kind = state::Kind::Extension;
    const TARGET: &'static str = "shared target FilterConfigSubscription init";
    // Its default takes its place, where there is one.
    const ENDS: bool = true;
    type Want = FilterWanted;

    fn name(message: &Self::Message) -> &str {
        &message.name
    }

    fn compile(
        message: Self::Message,
        want: &FilterWanted,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self::Value, Reported> {
        let TypedExtensionConfig {
            name: _,
            typed_config,
        } = message;
        let at = at.field("typed_config");
        let any = typed_config.ok_or_else(|| at.error("is required"))?;
        let filter = filters::compile_discovered(&any, want, cx, &at)?;
        Ok(Extension { filter })
    }
}

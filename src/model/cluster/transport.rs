//! `transport_socket`, compiled.

use std::{hash::Hash, sync::Arc};

use crate::{
    api::envoy::{
        config::core::v3::{TransportSocket, transport_socket::ConfigType},
        extensions::transport_sockets::raw_buffer::v3::RawBuffer,
    },
    config::{At, Reported, unpack},
    model::Context,
    upstream::UpstreamTls,
};

const RAW: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// What carries the bytes of a connection.
#[derive(Debug)]
pub enum Transport {
    /// Nothing but the socket.
    Raw,
    /// TLS.
    Tls(Arc<UpstreamTls>),
}

impl Transport {
    /// TLS, if it is that.
    pub fn tls(&self) -> Option<&Arc<UpstreamTls>> {
        match self {
            Self::Raw => None,
            Self::Tls(tls) => Some(tls),
        }
    }
}

impl Hash for Transport {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.tls().map(|tls| tls.identity()).hash(state);
    }
}

/// `check_name`: the certificate has to be for the server name, by `auto_san_validation`.
pub(super) fn compile(
    message: Option<TransportSocket>,
    check_name: bool,
    stat_prefix: &str,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Transport, Reported> {
    let at = at.field("transport_socket");
    let Some(TransportSocket { name, config_type }) = message else {
        return Ok(Transport::Raw);
    };
    let place = at.field("typed_config");
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        return match name.as_str() {
            "envoy.transport_sockets.raw_buffer" | "raw_buffer" => Ok(Transport::Raw),
            _ => Err(place.error(format_args!("is required by {name:?}"))),
        };
    };
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        RAW => {
            let RawBuffer {} = unpack(&any, &place)?;
            Ok(Transport::Raw)
        }
        TLS => {
            let tls =
                UpstreamTls::compile(unpack(&any, &place)?, check_name, stat_prefix, cx, &place)?;
            Ok(Transport::Tls(Arc::new(tls)))
        }
        other => Err(place.error(format_args!(
            "{other:?} is not supported; supported are {RAW:?} and {TLS:?}"
        ))),
    }
}

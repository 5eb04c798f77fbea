//! What can be asked of a connection
//! (`envoy.extensions.matching.common_inputs.network` and `.ssl`).

use prost_types::Any;

use super::Value;
use crate::{
    config::{At, Reported, type_name},
    model::listener::Facts,
    net::{Address, tls::CertificateText},
};

/// A value of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named as its message in the API")]
pub enum NetworkInput {
    ApplicationProtocol,
    DestinationIp,
    DestinationPort,
    DirectSourceIp,
    NetworkNamespace,
    ServerName,
    SourceIp,
    SourcePort,
    SourceType,
    TransportProtocol,
    UriSan,
    DnsSan,
    Subject,
}

/// By the type of their configuration, which has no fields. Filter state, which
/// has some, is not supported.
const INPUTS: [(&str, NetworkInput); 13] = {
    macro_rules! inputs {
        ($($package:ident: $($message:ident $input:ident)*;)*) => {
            [$($((
                concat!(
                    "envoy.extensions.matching.common_inputs.", stringify!($package), ".v3.",
                    stringify!($message), "Input"
                ),
                NetworkInput::$input,
            ),)*)*]
        };
    }
    inputs! {
        network:
            ApplicationProtocol ApplicationProtocol
            DestinationIP DestinationIp
            DestinationPort DestinationPort
            DirectSourceIP DirectSourceIp
            NetworkNamespace NetworkNamespace
            ServerName ServerName
            SourceIP SourceIp
            SourcePort SourcePort
            SourceType SourceType
            TransportProtocol TransportProtocol;
        ssl:
            UriSan UriSan
            DnsSan DnsSan
            Subject Subject;
    }
};

impl NetworkInput {
    /// Compiles an input.
    ///
    /// # Errors
    /// When it is none of a connection's, or filter state.
    pub fn compile(any: &Any, at: &At<'_>) -> Result<Self, Reported> {
        let kind = type_name(any);
        match INPUTS.iter().find(|(name, _)| *name == kind) {
            Some((_, input)) => Ok(*input),
            None => {
                let known: Vec<&str> = INPUTS.iter().map(|(name, _)| *name).collect();
                Err(at.error(format_args!(
                    "the input {kind:?} is not supported; there are {known:?}"
                )))
            }
        }
    }

    /// The value of a connection, where it has one.
    pub fn read<'v>(self, facts: &Facts<'v>) -> Option<Value<'v>> {
        let info = facts.info;
        match self {
            Self::ApplicationProtocol => application_protocols(facts.application_protocols),
            Self::DestinationIp => ip(&info.local),
            Self::DestinationPort => port(&info.local),
            Self::DirectSourceIp => ip(&info.direct_remote),
            // Listeners of another one are refused.
            Self::NetworkNamespace => None,
            Self::ServerName => some(facts.server_name),
            Self::SourceIp => ip(&info.remote),
            Self::SourcePort => port(&info.remote),
            Self::SourceType => facts.is_local().then(|| Value::text_of("local")),
            Self::TransportProtocol => Some(Value::text_of(facts.transport_protocol())),
            Self::UriSan => names(certificate(facts)?.uris()),
            Self::DnsSan => names(certificate(facts)?.dns()),
            Self::Subject => some(&certificate(facts)?.subject),
        }
    }
}

fn some(text: &str) -> Option<Value<'_>> {
    (!text.is_empty()).then(|| Value::text_of(text))
}

fn ip(address: &Address) -> Option<Value<'static>> {
    Some(Value::Ip(address.ip()?.ip()))
}

fn port(address: &Address) -> Option<Value<'static>> {
    Some(Value::text_of(address.ip()?.port().to_string()))
}

/// In single quotes, with commas between them: `'h2','http/1.1'`.
fn application_protocols(protocols: &[Box<[u8]>]) -> Option<Value<'static>> {
    if protocols.is_empty() {
        return None;
    }
    let quoted: Vec<Vec<u8>> = protocols
        .iter()
        .map(|protocol| [b"'", &**protocol, b"'"].concat())
        .collect();
    Some(Value::Text(quoted.join(&b","[..]).into()))
}

fn certificate<'v>(facts: &Facts<'v>) -> Option<&'v CertificateText> {
    facts.info.tls.as_ref()?.peer.as_ref()?.text()
}

fn names<'v>(names: impl Iterator<Item = &'v str>) -> Option<Value<'v>> {
    let names: Vec<&str> = names.collect();
    match &names[..] {
        [] => None,
        [one] => Some(Value::text_of(*one)),
        several => Some(Value::text_of(several.join(","))),
    }
}

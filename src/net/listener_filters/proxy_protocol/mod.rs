//! `envoy.filters.listener.proxy_protocol`: a proxy in front says who the client
//! is, before the client's own first byte.
//!
//! What it says is in force for everything that follows: filter chain matching,
//! logs, `x-forwarded-for`. Whoever can reach the listener can say anything, so
//! it belongs on listeners that proxies alone can reach.

mod header;

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};

use header::{Header, Parsed, Version, may_be, parse, version};

use super::{
    Stop,
    start::{Look, LookError, look, take},
};
use crate::{
    api::envoy::{
        config::core::v3::{
            ProxyProtocolPassThroughTlVs as PassThrough, proxy_protocol_config::Version as Pb,
            proxy_protocol_pass_through_tl_vs::PassTlVsMatchType as MatchType,
        },
        extensions::filters::listener::proxy_protocol::v3::{
            ProxyProtocol as Message,
            proxy_protocol::{
                KeyValuePair, Rule as RuleMessage, TlvLocation,
                key_value_pair::ValueStringEncoding as Encoding,
            },
        },
    },
    config::{At, Reported},
    model::Context,
    net::{ConnectionInfo, ConnectionMetadata, Plain, connection::Tlv},
    stats,
};

crate::stat_table! {
    /// `proxy_proto.`, or `proxy_proto.STAT_PREFIX.`
    pub mod proxy_protocol_stats {
        counters {
            not_found_allowed, not_found_disallowed,
            v1_disallowed = "versions.v1.disallowed", v1_error = "versions.v1.error",
            v1_found = "versions.v1.found", v2_disallowed = "versions.v2.disallowed",
            v2_error = "versions.v2.error", v2_found = "versions.v2.found",
        }
        gauges {}
        histograms {}
        texts {}
    }
}
use proxy_protocol_stats as names;

crate::stat_table! {
    /// What Envoy counts at the root, under no prefix.
    pub mod root_stats {
        counters { downstream_cx_proxy_proto_error }
        gauges {}
        histograms {}
        texts {}
    }
}

/// Metadata namespace of rules that name none.
const NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";
/// How much is looked at before a header has told its length.
const FIRST_LOOK: usize = 232;

/// The filter's settings.
#[derive(Debug)]
pub struct ProxyProtocol {
    stats: Arc<stats::Block>,
    root: Arc<stats::Block>,
    optional: bool,
    allowed: Allowed,
    rules: Box<[Rule]>,
    pass: Pass,
}

#[derive(Clone, Copy, Debug)]
struct Allowed {
    v1: bool,
    v2: bool,
}

impl Allowed {
    fn is(self, version: Version) -> bool {
        match version {
            Version::V1 => self.v1,
            Version::V2 => self.v2,
        }
    }
}

/// A type whose value goes into the connection's metadata.
#[derive(Debug)]
struct Rule {
    kind: u8,
    namespace: Arc<str>,
    key: Arc<str>,
    base64: bool,
}

/// Which types and values are kept for an upstream proxy protocol.
#[derive(Debug)]
enum Pass {
    All,
    Only(Box<[u8]>),
}

impl ProxyProtocol {
    /// Compiles the settings.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(message: Message, cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let Message {
            rules,
            allow_requests_without_proxy_protocol,
            pass_through_tlvs,
            disallowed_versions,
            stat_prefix,
            tlv_location,
        } = message;
        if TlvLocation::try_from(tlv_location) == Ok(TlvLocation::FilterState) {
            return Err(at
                .field("tlv_location")
                .error("FILTER_STATE is not supported yet; DYNAMIC_METADATA is"));
        }
        let refused = |version: Pb| disallowed_versions.contains(&version.into());
        let allowed = Allowed {
            v1: !refused(Pb::V1),
            v2: !refused(Pb::V2),
        };
        let prefix = match stat_prefix.is_empty() {
            true => "proxy_proto.".to_owned(),
            false => format!("proxy_proto.{stat_prefix}."),
        };
        let mut compiled: Vec<Rule> = Vec::with_capacity(rules.len());
        for rule in rules {
            // A rule without a key has nowhere to put the value, as in Envoy.
            let Some(rule) = Rule::compile(rule) else {
                continue;
            };
            // The last of a type is the one.
            compiled.retain(|other| other.kind != rule.kind);
            compiled.push(rule);
        }
        Ok(Self {
            stats: cx.stats.block(&prefix, &names::TABLE),
            root: cx.stats.block("", &root_stats::TABLE),
            optional: allow_requests_without_proxy_protocol,
            allowed,
            rules: compiled.into(),
            pass: Pass::compile(pass_through_tlvs),
        })
    }

    /// What `use_proxy_proto` of a filter chain stands for.
    pub fn new(cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        Self::compile(Message::default(), cx, at)
    }

    /// Takes the header from the connection and what it says for true.
    ///
    /// # Errors
    /// When there is none and one is required, and when it is malformed.
    pub async fn run(&self, stream: &Plain, info: &mut ConnectionInfo) -> Result<(), Stop> {
        let found = look(stream, FIRST_LOOK, |bytes| self.inspect(bytes)).await?;
        let stats = &self.stats;
        let reason = match found {
            Found::Header(header) => {
                stats.inc(match header.version {
                    Version::V1 => names::v1_found,
                    Version::V2 => names::v2_found,
                });
                take(stream, header.length).map_err(LookError::from)?;
                self.adopt(header, info);
                return Ok(());
            }
            Found::Nothing => {
                stats.inc(names::not_found_allowed);
                return Ok(());
            }
            Found::Disallowed(version) => {
                let (found, disallowed) = match version {
                    Version::V1 => (names::v1_found, names::v1_disallowed),
                    Version::V2 => (names::v2_found, names::v2_disallowed),
                };
                stats.inc(found);
                stats.inc(disallowed);
                return Err(Stop::Refused(
                    "this version of the PROXY protocol is not allowed",
                ));
            }
            Found::Malformed(version) => {
                stats.inc(match version {
                    Some(Version::V1) => names::v1_error,
                    Some(Version::V2) => names::v2_error,
                    None => names::not_found_disallowed,
                });
                "no valid PROXY protocol header"
            }
        };
        self.root.inc(root_stats::downstream_cx_proxy_proto_error);
        Err(Stop::Refused(reason))
    }

    fn inspect(&self, bytes: &[u8]) -> Look<Found> {
        let may_follow = |version| self.allowed.is(version) && may_be(version, bytes);
        if self.optional && !may_follow(Version::V1) && !may_follow(Version::V2) {
            return Look::Done(Found::Nothing);
        }
        if let Some(version) = version(bytes)
            && !self.allowed.is(version)
        {
            return Look::Done(Found::Disallowed(version));
        }
        match parse(bytes) {
            Parsed::Header(header) => Look::Done(Found::Header(header)),
            Parsed::Malformed(version) => Look::Done(Found::Malformed(version)),
            Parsed::Long(length) => Look::Need(length),
            Parsed::Partial => Look::More,
        }
    }

    fn adopt(&self, header: Header, info: &mut ConnectionInfo) {
        let Header {
            addresses, tlvs, ..
        } = header;
        if let Some((source, destination)) = addresses {
            info.remote = source.into();
            info.restore_local(destination.into());
        }
        let mut metadata = ConnectionMetadata::default();
        for rule in &self.rules {
            // The last of a type is the one.
            if let Some((_, value)) = tlvs.iter().rev().find(|(kind, _)| *kind == rule.kind) {
                let value = match rule.base64 {
                    true => BASE64_STANDARD.encode(value),
                    false => sanitized(value),
                };
                metadata.set(&rule.namespace, &rule.key, value.into());
            }
        }
        let kept = tlvs.into_iter().filter(|(kind, _)| self.pass.keeps(*kind));
        let tlvs = kept.map(|(kind, value)| Tlv { kind, value }).collect();
        info.noted(metadata, tlvs);
    }
}

enum Found {
    Header(Header),
    Nothing,
    Disallowed(Version),
    Malformed(Option<Version>),
}

impl Rule {
    fn compile(message: RuleMessage) -> Option<Self> {
        let RuleMessage {
            tlv_type,
            on_tlv_present,
        } = message;
        let KeyValuePair {
            metadata_namespace,
            key,
            value_string_encoding,
        } = on_tlv_present?;
        Some(Self {
            // The rules of the API keep it below 256.
            kind: tlv_type as u8,
            namespace: match metadata_namespace.is_empty() {
                true => NAMESPACE.into(),
                false => metadata_namespace.into(),
            },
            key: key.into(),
            base64: Encoding::try_from(value_string_encoding) == Ok(Encoding::Base64),
        })
    }
}

impl Pass {
    fn compile(message: Option<PassThrough>) -> Self {
        match message {
            None => Self::Only(Box::default()),
            Some(PassThrough {
                match_type,
                tlv_type,
            }) => match MatchType::try_from(match_type) {
                Ok(MatchType::IncludeAll) => Self::All,
                // The rules of the API keep them below 256.
                _ => Self::Only(tlv_type.into_iter().map(|kind| kind as u8).collect()),
            },
        }
    }

    fn keeps(&self, kind: u8) -> bool {
        match self {
            Self::All => true,
            Self::Only(kinds) => kinds.contains(&kind),
        }
    }
}

/// A value as text: Envoy puts a `!` for each byte that is not part of any.
fn sanitized(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Report,
        model::testing::{World, read},
    };

    fn filter(yaml: &str) -> ProxyProtocol {
        let (world, report) = (World::new(), Report::new());
        ProxyProtocol::compile(read(yaml), &world.cx(), &report.root()).unwrap()
    }

    fn found(filter: &ProxyProtocol, bytes: &[u8]) -> &'static str {
        match filter.inspect(bytes) {
            Look::More | Look::Need(_) => "more",
            Look::Done(Found::Header(_)) => "header",
            Look::Done(Found::Nothing) => "nothing",
            Look::Done(Found::Disallowed(_)) => "disallowed",
            Look::Done(Found::Malformed(_)) => "malformed",
        }
    }

    const LINE: &[u8] = b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n";
    const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

    #[test]
    fn what_is_not_a_header_passes_where_none_is_required() {
        let (strict, lenient) = (
            filter("{}"),
            filter("allow_requests_without_proxy_protocol: true"),
        );
        assert_eq!(found(&strict, b"GET / HTTP/1.1\r\n"), "malformed");
        assert_eq!(found(&lenient, b"G"), "nothing");
        assert_eq!(found(&lenient, b"PROX"), "more");
        assert_eq!(found(&lenient, b"PROXY\r\n"), "nothing");
        assert_eq!(found(&lenient, LINE), "header");
    }

    #[test]
    fn a_version_can_be_disallowed() {
        let second = filter("disallowed_versions: [V1]");
        assert_eq!(found(&second, LINE), "disallowed");
        assert_eq!(found(&second, LOCAL), "header");
        let lenient = "{ disallowed_versions: [V2], allow_requests_without_proxy_protocol: true }";
        assert_eq!(found(&filter(lenient), LOCAL), "nothing");
        assert_eq!(
            found(&filter("disallowed_versions: [V2]"), LOCAL),
            "disallowed"
        );
    }

    #[test]
    fn values_go_where_rules_say() {
        let filter = filter(
            "{ rules: [ { tlv_type: 2, on_tlv_present: { key: host } },
               { tlv_type: 3, on_tlv_present: { key: raw, metadata_namespace: mine,
                 value_string_encoding: BASE64 } } ],
               pass_through_tlvs: { match_type: INCLUDE, tlv_type: [3] } }",
        );
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let mut info = ConnectionInfo::new(1, address.into(), address.into());
        let tlv = |kind, value: &[u8]| (kind, value.into());
        filter.adopt(
            Header {
                version: Version::V2,
                length: 0,
                addresses: None,
                tlvs: vec![tlv(2, b"first"), tlv(2, b"a\xffb"), tlv(3, b"\x00\x01")],
            },
            &mut info,
        );
        assert_eq!(info.metadata(NAMESPACE, "host"), Some("a!b"));
        assert_eq!(info.metadata("mine", "raw"), Some("AAE="));
        assert_eq!(info.metadata("mine", "host"), None);
        let kept: Vec<u8> = info.tlvs().iter().map(|tlv| tlv.kind).collect();
        assert_eq!(kept, [3]);
    }
}

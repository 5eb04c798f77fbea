//! Which filter chain serves a connection: `FilterChainMatch`, to the letter.
//!
//! The criteria are tried in Envoy's order, and each picks its most specific
//! value and never goes back: destination port, destination address, server
//! name, transport protocol, application protocols, direct source address,
//! source type, source address, source port. The rules become a tree with one
//! level for each criterion that any chain uses, so a listener without rules is
//! a single leaf and one with ten thousand server names is one hash lookup.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    api::envoy::config::{core::v3::CidrRange, listener::v3 as pb},
    config::{At, Reported},
    net::ConnectionInfo,
    refuse,
};

use super::FilterChain;
use pb::filter_chain_match::ConnectionSourceType;

/// A listener's filter chains and the rules to choose one.
#[derive(Debug)]
pub struct FilterChains {
    all: Vec<Arc<FilterChain>>,
    rules: Option<Node>,
    default: Option<usize>,
}

impl FilterChains {
    /// The chains with their rules, and the one for connections that match none.
    ///
    /// # Errors
    /// When two chains have the same rule, or a rule cannot be compiled.
    pub fn compile(
        chains: Vec<(Arc<FilterChain>, Option<pb::FilterChainMatch>)>,
        default: Option<Arc<FilterChain>>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let mut all = Vec::with_capacity(chains.len() + 1);
        let mut rules = Vec::with_capacity(chains.len());
        let mut outcome = Ok(());
        for (index, (chain, rule)) in chains.into_iter().enumerate() {
            let at = at.index(index);
            match Rule::compile(rule.unwrap_or_default(), &at.field("filter_chain_match")) {
                Ok(rule) => rules.push((index, rule)),
                Err(reported) => outcome = Err(reported),
            }
            all.push(chain);
        }
        outcome?;
        let rules = match rules.is_empty() {
            true => None,
            false => {
                let rules: Vec<_> = rules.iter().map(|(index, rule)| (*index, rule)).collect();
                Some(Node::build(&rules, 0).map_err(|(first, second)| {
                    at.index(second)
                        .field("filter_chain_match")
                        .error(format_args!(
                            "has the same matching rules as filter_chains[{first}]; \
                         no connection could ever reach it"
                        ))
                })?)
            }
        };
        let default = default.map(|chain| {
            all.push(chain);
            all.len() - 1
        });
        Ok(Self {
            all,
            rules,
            default,
        })
    }

    /// Every chain, the default one last.
    pub fn all(&self) -> &[Arc<FilterChain>] {
        &self.all
    }

    /// The index in [`FilterChains::all`] of the chain for a connection.
    pub fn find(&self, info: &ConnectionInfo) -> Option<usize> {
        self.rules
            .as_ref()
            .and_then(|rules| rules.find(info))
            .or(self.default)
    }

    /// Whether any rule needs the start of the connection to be read.
    pub fn need_inspection(&self) -> bool {
        self.rules.as_ref().is_some_and(Node::needs_inspection)
    }
}

/// One chain's rule; an empty list matches everything.
#[derive(Debug, Default)]
struct Rule {
    destination_ports: Vec<u16>,
    destinations: Vec<IpNet>,
    server_names: Vec<Box<str>>,
    transport_protocols: Vec<Box<str>>,
    application_protocols: Vec<Box<str>>,
    direct_sources: Vec<IpNet>,
    source_types: Vec<bool>,
    sources: Vec<IpNet>,
    source_ports: Vec<u16>,
}

impl Rule {
    fn compile(message: pb::FilterChainMatch, at: &At<'_>) -> Result<Self, Reported> {
        let pb::FilterChainMatch {
            prefix_ranges,
            address_suffix,
            suffix_len,
            source_prefix_ranges,
            source_ports,
            destination_port,
            transport_protocol,
            application_protocols,
            server_names,
            source_type,
            direct_source_prefix_ranges,
        } = message;
        refuse!(at; address_suffix, suffix_len)?;
        let mut names = Vec::with_capacity(server_names.len());
        // `*` is the same as no name at all.
        if !server_names.iter().any(|name| name == "*") {
            for (index, name) in server_names.iter().enumerate() {
                names.push(server_name(name, &at.field("server_names").index(index))?);
            }
        }
        // The rules of the API keep ports below 65536.
        let port = |port: u32| port as u16;
        Ok(Self {
            destination_ports: destination_port.into_iter().map(port).collect(),
            destinations: ranges(&prefix_ranges, &at.field("prefix_ranges"))?,
            server_names: names,
            transport_protocols: match transport_protocol.is_empty() {
                true => Vec::new(),
                false => vec![transport_protocol.into()],
            },
            application_protocols: application_protocols.into_iter().map(Into::into).collect(),
            direct_sources: ranges(
                &direct_source_prefix_ranges,
                &at.field("direct_source_prefix_ranges"),
            )?,
            source_types: match ConnectionSourceType::try_from(source_type) {
                Ok(ConnectionSourceType::SameIpOrLoopback) => vec![true],
                Ok(ConnectionSourceType::External) => vec![false],
                Ok(ConnectionSourceType::Any) | Err(_) => Vec::new(),
            },
            sources: ranges(&source_prefix_ranges, &at.field("source_prefix_ranges"))?,
            source_ports: source_ports.into_iter().map(port).collect(),
        })
    }
}

fn server_name(name: &str, at: &At<'_>) -> Result<Box<str>, Reported> {
    let name = name.to_ascii_lowercase();
    match name.strip_prefix('*') {
        // Kept without its star: `.example.com`.
        Some(suffix) if suffix.starts_with('.') && !suffix.contains('*') => Ok(suffix.into()),
        Some(_) => Err(at.error(format_args!(
            "{name:?}: a wildcard stands for whole labels at the start, as in \"*.example.com\""
        ))),
        None if name.contains('*') => Err(at.error(format_args!(
            "{name:?}: a wildcard can only stand at the start, as in \"*.example.com\""
        ))),
        None => Ok(name.into()),
    }
}

fn ranges(messages: &[CidrRange], at: &At<'_>) -> Result<Vec<IpNet>, Reported> {
    messages
        .iter()
        .enumerate()
        .map(
            |(
                index,
                CidrRange {
                    address_prefix,
                    prefix_len,
                },
            )| {
                let at = at.index(index);
                let ip: IpAddr = address_prefix.parse().map_err(|_| {
                    at.field("address_prefix")
                        .error(format_args!("{address_prefix:?} is not an IP address"))
                })?;
                let len = prefix_len.unwrap_or(0);
                u8::try_from(len)
                    .ok()
                    .and_then(|len| IpNet::new(ip, len).ok())
                    .map(|n| n.trunc())
                    .ok_or_else(|| {
                        at.field("prefix_len").error(format_args!(
                            "{len} is longer than an address of {ip}'s family"
                        ))
                    })
            },
        )
        .collect()
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Destination,
    DirectSource,
    Source,
}

/// One level of the tree. `any` serves the chains that do not use the criterion.
#[derive(Debug)]
enum Node {
    Chain(usize),
    Port {
        source: bool,
        ports: HashMap<u16, Node>,
        any: Option<Box<Node>>,
    },
    /// Longest first, so that the first that contains the address is the one.
    Range {
        side: Side,
        ranges: Vec<(IpNet, Node)>,
        any: Option<Box<Node>>,
    },
    ServerName {
        names: HashMap<Box<str>, Node>,
        any: Option<Box<Node>>,
    },
    TransportProtocol {
        names: HashMap<Box<str>, Node>,
        any: Option<Box<Node>>,
    },
    ApplicationProtocol {
        names: HashMap<Box<str>, Node>,
        any: Option<Box<Node>>,
    },
    SourceType {
        local: Option<Box<Node>>,
        external: Option<Box<Node>>,
        any: Option<Box<Node>>,
    },
}

type Rules<'a> = [(usize, &'a Rule)];
/// Two chains with the same rule.
type Clash = (usize, usize);
type Branches<K> = (BTreeMap<K, Node>, Option<Box<Node>>);

/// Splits the rules by the values they have for one criterion.
fn branch<K: Ord + Clone>(
    rules: &Rules<'_>,
    level: usize,
    keys: impl Fn(&Rule) -> &Vec<K>,
) -> Result<Branches<K>, Clash> {
    let mut groups: BTreeMap<K, Vec<(usize, &Rule)>> = BTreeMap::new();
    let mut unkeyed = Vec::new();
    for (chain, rule) in rules {
        let keys = keys(rule);
        if keys.is_empty() {
            unkeyed.push((*chain, *rule));
        }
        for key in keys {
            let group = groups.entry(key.clone()).or_default();
            // A value written twice in one rule is one value.
            if group.last().is_none_or(|(last, _)| last != chain) {
                group.push((*chain, *rule));
            }
        }
    }
    let nodes = groups
        .into_iter()
        .map(|(key, group)| Ok((key, Node::build(&group, level + 1)?)))
        .collect::<Result<_, Clash>>()?;
    let any = match unkeyed.is_empty() {
        true => None,
        false => Some(Box::new(Node::build(&unkeyed, level + 1)?)),
    };
    Ok((nodes, any))
}

impl Node {
    /// Builds the levels from `level` on, one for each criterion, in the order
    /// in which they are tried.
    fn build(rules: &Rules<'_>, level: usize) -> Result<Self, Clash> {
        fn hashed<K: std::hash::Hash + Eq>(
            (nodes, any): Branches<K>,
        ) -> (HashMap<K, Node>, Option<Box<Node>>) {
            (nodes.into_iter().collect(), any)
        }
        fn ranged(side: Side, (nodes, any): Branches<IpNet>) -> Node {
            let mut ranges: Vec<_> = nodes.into_iter().collect();
            ranges.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
            Node::Range { side, ranges, any }
        }
        let used = |of: fn(&Rule) -> bool| rules.iter().any(|(_, rule)| of(rule));
        Ok(match level {
            0 if used(|r| !r.destination_ports.is_empty()) => {
                let (ports, any) = hashed(branch(rules, level, |r| &r.destination_ports)?);
                Self::Port {
                    source: false,
                    ports,
                    any,
                }
            }
            1 if used(|r| !r.destinations.is_empty()) => ranged(
                Side::Destination,
                branch(rules, level, |r| &r.destinations)?,
            ),
            2 if used(|r| !r.server_names.is_empty()) => {
                let (names, any) = hashed(branch(rules, level, |r| &r.server_names)?);
                Self::ServerName { names, any }
            }
            3 if used(|r| !r.transport_protocols.is_empty()) => {
                let (names, any) = hashed(branch(rules, level, |r| &r.transport_protocols)?);
                Self::TransportProtocol { names, any }
            }
            4 if used(|r| !r.application_protocols.is_empty()) => {
                let (names, any) = hashed(branch(rules, level, |r| &r.application_protocols)?);
                Self::ApplicationProtocol { names, any }
            }
            5 if used(|r| !r.direct_sources.is_empty()) => ranged(
                Side::DirectSource,
                branch(rules, level, |r| &r.direct_sources)?,
            ),
            6 if used(|r| !r.source_types.is_empty()) => {
                let (mut types, any) = branch(rules, level, |r| &r.source_types)?;
                Self::SourceType {
                    local: types.remove(&true).map(Box::new),
                    external: types.remove(&false).map(Box::new),
                    any,
                }
            }
            7 if used(|r| !r.sources.is_empty()) => {
                ranged(Side::Source, branch(rules, level, |r| &r.sources)?)
            }
            8 if used(|r| !r.source_ports.is_empty()) => {
                let (ports, any) = hashed(branch(rules, level, |r| &r.source_ports)?);
                Self::Port {
                    source: true,
                    ports,
                    any,
                }
            }
            0..=8 => Self::build(rules, level + 1)?,
            _ => match rules {
                [(first, _), (second, _), ..] => return Err((*first, *second)),
                [(chain, _)] => Self::Chain(*chain),
                [] => unreachable!("a group has at least one rule"),
            },
        })
    }

    fn find(&self, info: &ConnectionInfo) -> Option<usize> {
        let (chosen, any) = match self {
            Self::Chain(chain) => return Some(*chain),
            Self::Port { source, ports, any } => {
                let address = if *source { &info.remote } else { &info.local };
                (address.ip().and_then(|ip| ports.get(&ip.port())), any)
            }
            Self::Range { side, ranges, any } => {
                let address = match side {
                    Side::Destination => &info.local,
                    Side::DirectSource => &info.direct_remote,
                    Side::Source => &info.remote,
                };
                let ip = address.ip().map(|a| a.ip().to_canonical());
                let range = ip.and_then(|ip| ranges.iter().find(|(net, _)| net.contains(&ip)));
                (range.map(|(_, node)| node), any)
            }
            Self::ServerName { names, any } => (
                info.server_name
                    .as_deref()
                    .and_then(|name| find_server_name(names, name)),
                any,
            ),
            Self::TransportProtocol { names, any } => (
                names.get(if info.offers_tls { "tls" } else { "raw_buffer" }),
                any,
            ),
            Self::ApplicationProtocol { names, any } => {
                let offered = info.application_protocols.iter();
                let mut offered = offered.filter_map(|p| std::str::from_utf8(p).ok());
                (offered.find_map(|p| names.get(p)), any)
            }
            Self::SourceType {
                local,
                external,
                any,
            } => {
                let chosen = if is_local(info) { local } else { external };
                (chosen.as_deref(), any)
            }
        };
        chosen.or(any.as_deref())?.find(info)
    }

    fn needs_inspection(&self) -> bool {
        let (nodes, any): (Vec<&Node>, _) = match self {
            Self::Chain(_) => return false,
            Self::ServerName { .. }
            | Self::TransportProtocol { .. }
            | Self::ApplicationProtocol { .. } => return true,
            Self::Port { ports, any, .. } => (ports.values().collect(), any),
            Self::Range { ranges, any, .. } => (ranges.iter().map(|(_, n)| n).collect(), any),
            Self::SourceType {
                local,
                external,
                any,
            } => (
                local.iter().chain(external).map(AsRef::as_ref).collect(),
                any,
            ),
        };
        nodes
            .into_iter()
            .chain(any.as_deref())
            .any(Node::needs_inspection)
    }
}

/// The exact name, then wildcards from the longest suffix to the shortest.
fn find_server_name<'a>(names: &'a HashMap<Box<str>, Node>, name: &str) -> Option<&'a Node> {
    let suffixes = memchr::memchr_iter(b'.', name.as_bytes()).map(|dot| &name[dot..]);
    std::iter::once(name)
        .chain(suffixes)
        .find_map(|name| names.get(name))
}

/// `SAME_IP_OR_LOOPBACK`: from this host.
fn is_local(info: &ConnectionInfo) -> bool {
    match (info.remote.ip(), info.local.ip()) {
        (Some(remote), Some(local)) => remote.ip().is_loopback() || remote.ip() == local.ip(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn info(local: &str, remote: &str, server_name: Option<&str>) -> ConnectionInfo {
        let address = |a: &str| crate::net::Address::Ip(a.parse().unwrap());
        ConnectionInfo {
            id: 0,
            local: address(local),
            remote: address(remote),
            direct_remote: address(remote),
            server_name: server_name.map(Into::into),
            application_protocols: Box::default(),
            offers_tls: server_name.is_some(),
            tls: None,
            accepted: Instant::now(),
        }
    }

    fn build(rules: Vec<pb::FilterChainMatch>) -> Result<Node, Clash> {
        let report = crate::config::Report::new();
        let rules: Vec<Rule> = rules
            .into_iter()
            .map(|r| Rule::compile(r, &report.root()).unwrap())
            .collect();
        Node::build(&rules.iter().enumerate().collect::<Vec<_>>(), 0)
    }

    fn names(names: &[&str]) -> pb::FilterChainMatch {
        pb::FilterChainMatch {
            server_names: names.iter().map(|n| (*n).to_owned()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_most_specific_server_name_wins() {
        let tree = build(vec![
            names(&["*.example.com"]),
            names(&["a.example.com"]),
            names(&["*.com"]),
            names(&[]),
        ])
        .unwrap();
        let find = |name| tree.find(&info("10.0.0.1:443", "10.0.0.2:5", name));
        assert_eq!(find(Some("a.example.com")), Some(1));
        assert_eq!(find(Some("b.a.example.com")), Some(0));
        assert_eq!(find(Some("example.com")), Some(2));
        assert_eq!(find(Some("example.org")), Some(3));
        assert_eq!(find(None), Some(3));
    }

    #[test]
    fn a_criterion_once_chosen_is_not_gone_back_on() {
        let mut by_port = names(&["a.example.com"]);
        by_port.destination_port = Some(443);
        let tree = build(vec![by_port, names(&[])]).unwrap();
        let find = |local, name| tree.find(&info(local, "10.0.0.2:5", name));
        assert_eq!(find("10.0.0.1:443", Some("a.example.com")), Some(0));
        assert_eq!(find("10.0.0.1:443", Some("b.example.com")), None);
        assert_eq!(find("10.0.0.1:80", Some("b.example.com")), Some(1));
    }

    #[test]
    fn the_longest_source_range_wins() {
        let from = |prefix: &str, len| pb::FilterChainMatch {
            source_prefix_ranges: vec![CidrRange {
                address_prefix: prefix.to_owned(),
                prefix_len: Some(len),
            }],
            ..Default::default()
        };
        let tree = build(vec![from("10.0.0.0", 8), from("10.1.0.0", 16)]).unwrap();
        let find = |remote| tree.find(&info("127.0.0.1:80", remote, None));
        assert_eq!(find("10.1.2.3:9"), Some(1));
        assert_eq!(find("10.2.2.3:9"), Some(0));
        assert_eq!(find("11.2.2.3:9"), None);
    }

    #[test]
    fn two_chains_with_one_rule_clash() {
        assert_eq!(
            build(vec![names(&["a"]), names(&["b", "a"])]).unwrap_err(),
            (0, 1)
        );
        assert_eq!(build(vec![names(&["*"]), names(&[])]).unwrap_err(), (0, 1));
    }
}

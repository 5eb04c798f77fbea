//! `FilterChainMatch`, to the letter.
//!
//! The criteria are tried in Envoy's order, and each picks its most specific
//! value and never goes back: destination port, destination address, server
//! name, transport protocol, application protocols, direct source address,
//! source type, source address, source port. The rules become a tree with one
//! level for each criterion that any chain uses, so a listener without rules is
//! a single leaf and one with ten thousand server names is one hash lookup.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use super::Facts;
use crate::{
    api::envoy::config::listener::v3 as pb,
    config::{At, Reported},
    model::matcher::{IpTable, ip::ranges},
    net::Address,
    refuse,
};
use pb::filter_chain_match::ConnectionSourceType;

/// One chain's rule; an empty list matches everything.
#[derive(Debug, Default)]
pub(super) struct Rule {
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
    pub(super) fn compile(message: pb::FilterChainMatch, at: &At<'_>) -> Result<Self, Reported> {
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
        for (index, name) in server_names.iter().enumerate() {
            names.push(server_name(name, &at.field("server_names").index(index))?);
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

impl Rule {
    /// Whether it can only be met by what a TLS client says first.
    pub(super) fn needs_tls(&self) -> bool {
        match self.transport_protocols.first() {
            Some(protocol) => &**protocol == "tls",
            None => !self.server_names.is_empty() || !self.application_protocols.is_empty(),
        }
    }
}

/// A wildcard is kept without its star: `.example.com`. Names are compared with
/// what clients ask for in lower case, so one in upper case is met by none.
fn server_name(name: &str, at: &At<'_>) -> Result<Box<str>, Reported> {
    match name.strip_prefix("*.") {
        Some(_) => Ok(name[1..].into()),
        None if name.contains('*') => Err(at.error(format_args!(
            "{name:?}: a wildcard stands for whole labels at the start, as in \"*.example.com\"; \
             no name at all stands for every one"
        ))),
        None => Ok(name.into()),
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Destination,
    DirectSource,
    Source,
}

/// One level of the tree. `any` serves the chains that do not use the criterion.
#[derive(Debug)]
pub(super) enum Node {
    Chain(usize),
    Port {
        source: bool,
        ports: HashMap<u16, Node>,
        any: Option<Box<Node>>,
    },
    Range {
        side: Side,
        ranges: IpTable<Node>,
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
/// Two chains with a rule in common, or twice the one that says it twice.
type Clash = (usize, usize);
type Branches<K> = (BTreeMap<K, Node>, Option<Box<Node>>);

/// Splits the rules by the values they have for one criterion. A value that
/// `is_any` is as good as none.
fn branch<K: Ord + Clone>(
    rules: &Rules<'_>,
    level: usize,
    keys: impl Fn(&Rule) -> &Vec<K>,
    is_any: impl Fn(&K) -> bool,
) -> Result<Branches<K>, Clash> {
    let mut groups: BTreeMap<K, Vec<(usize, &Rule)>> = BTreeMap::new();
    let mut unkeyed = Vec::new();
    for (chain, rule) in rules {
        let keys = keys(rule);
        if keys.is_empty() {
            unkeyed.push((*chain, *rule));
        }
        for key in keys {
            let group = match is_any(key) {
                true => &mut unkeyed,
                false => groups.entry(key.clone()).or_default(),
            };
            group.push((*chain, *rule));
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
    pub(super) fn build(rules: &Rules<'_>, level: usize) -> Result<Self, Clash> {
        fn hashed<K: std::hash::Hash + Eq>(
            (nodes, any): Branches<K>,
        ) -> (HashMap<K, Node>, Option<Box<Node>>) {
            (nodes.into_iter().collect(), any)
        }
        fn ranged(side: Side, (nodes, any): Branches<IpNet>) -> Node {
            let ranges = IpTable::new(nodes);
            Node::Range { side, ranges, any }
        }
        let used = |of: fn(&Rule) -> bool| rules.iter().any(|(_, rule)| of(rule));
        Ok(match level {
            0 if used(|r| !r.destination_ports.is_empty()) => {
                let (ports, any) =
                    hashed(branch(rules, level, |r| &r.destination_ports, |_| false)?);
                Self::Port {
                    source: false,
                    ports,
                    any,
                }
            }
            1 if used(|r| !r.destinations.is_empty()) => ranged(
                Side::Destination,
                branch(rules, level, |r| &r.destinations, |_| false)?,
            ),
            2 if used(|r| !r.server_names.is_empty()) => {
                let (names, any) =
                    hashed(branch(rules, level, |r| &r.server_names, |k| k.is_empty())?);
                Self::ServerName { names, any }
            }
            3 if used(|r| !r.transport_protocols.is_empty()) => {
                let (names, any) = hashed(branch(
                    rules,
                    level,
                    |r| &r.transport_protocols,
                    |k| k.is_empty(),
                )?);
                Self::TransportProtocol { names, any }
            }
            4 if used(|r| !r.application_protocols.is_empty()) => {
                let (names, any) = hashed(branch(
                    rules,
                    level,
                    |r| &r.application_protocols,
                    |k| k.is_empty(),
                )?);
                Self::ApplicationProtocol { names, any }
            }
            5 if used(|r| !r.direct_sources.is_empty()) => ranged(
                Side::DirectSource,
                branch(rules, level, |r| &r.direct_sources, |_| false)?,
            ),
            6 if used(|r| !r.source_types.is_empty()) => {
                let (mut types, any) = branch(rules, level, |r| &r.source_types, |_| false)?;
                Self::SourceType {
                    local: types.remove(&true).map(Box::new),
                    external: types.remove(&false).map(Box::new),
                    any,
                }
            }
            7 if used(|r| !r.sources.is_empty()) => ranged(
                Side::Source,
                branch(rules, level, |r| &r.sources, |_| false)?,
            ),
            8 if used(|r| !r.source_ports.is_empty()) => {
                let (ports, any) = hashed(branch(rules, level, |r| &r.source_ports, |_| false)?);
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

    pub(super) fn find(&self, facts: &Facts<'_>) -> Option<usize> {
        let info = facts.info;
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
                (ranges.find(ip_of(address)), any)
            }
            Self::ServerName { names, any } => (find_server_name(names, facts.server_name), any),
            Self::TransportProtocol { names, any } => (names.get(facts.transport_protocol()), any),
            Self::ApplicationProtocol { names, any } => {
                let offered = facts.application_protocols.iter();
                let mut offered = offered.filter_map(|p| std::str::from_utf8(p).ok());
                (offered.find_map(|p| names.get(p)), any)
            }
            Self::SourceType {
                local,
                external,
                any,
            } => {
                let chosen = if facts.is_local() { local } else { external };
                (chosen.as_deref(), any)
            }
        };
        chosen.or(any.as_deref())?.find(facts)
    }
}

/// What stands for the address of a Unix domain socket, as in Envoy.
fn ip_of(address: &Address) -> IpAddr {
    let ip = address.ip().map(|address| address.ip());
    ip.unwrap_or(Ipv4Addr::BROADCAST.into())
}

/// The exact name, then wildcards from the longest suffix to the shortest.
fn find_server_name<'a>(names: &'a HashMap<Box<str>, Node>, name: &str) -> Option<&'a Node> {
    // A name begins with a label, and a dot at its end begins none.
    let dots = memchr::memchr_iter(b'.', name.as_bytes());
    let dots = dots.filter(|dot| (1..name.len() - 1).contains(dot));
    std::iter::once(name)
        .chain(dots.map(|dot| &name[dot..]))
        .find_map(|name| names.get(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::envoy::config::core::v3::CidrRange, net::ConnectionInfo};

    fn info(local: &str, remote: &str, server_name: Option<&str>) -> ConnectionInfo {
        let address = |a: &str| Address::Ip(a.parse().unwrap());
        let mut info = ConnectionInfo::new(0, address(local), address(remote));
        info.server_name = server_name.map(Into::into);
        info.offers_tls = server_name.is_some();
        info
    }

    fn find(tree: &Node, info: &ConnectionInfo) -> Option<usize> {
        tree.find(&Facts::found(info))
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
        let find = |name| find(&tree, &info("10.0.0.1:443", "10.0.0.2:5", name));
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
        let find = |local, name| find(&tree, &info(local, "10.0.0.2:5", name));
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
        let find = |remote| find(&tree, &info("127.0.0.1:80", remote, None));
        assert_eq!(find("10.1.2.3:9"), Some(1));
        assert_eq!(find("10.2.2.3:9"), Some(0));
        assert_eq!(find("11.2.2.3:9"), None);
    }

    #[test]
    fn this_host_is_the_canonical_loopback_address_or_the_same() {
        let local = |local, remote| Facts::found(&info(local, remote, None)).is_local();
        assert!(local("10.0.0.1:80", "127.0.0.1:5"));
        assert!(local("10.0.0.1:80", "10.0.0.1:5"));
        assert!(local("[1::1]:80", "[::1]:5"));
        assert!(!local("127.0.0.1:80", "127.0.0.2:5"));
        assert!(!local("10.0.0.1:80", "10.0.0.2:5"));
    }

    #[test]
    fn only_rules_about_tls_need_it_read() {
        let needs = |message: pb::FilterChainMatch| {
            let report = crate::config::Report::new();
            Rule::compile(message, &report.root()).unwrap().needs_tls()
        };
        let transport = |name: &str| pb::FilterChainMatch {
            transport_protocol: name.to_owned(),
            ..names(&["a"])
        };
        assert!(needs(names(&["a"])));
        assert!(!needs(names(&[])));
        assert!(needs(transport("tls")));
        assert!(!needs(transport("raw_buffer")));
    }

    #[test]
    fn two_chains_with_one_rule_clash() {
        assert_eq!(
            build(vec![names(&["a"]), names(&["b", "a"])]).unwrap_err(),
            (0, 1)
        );
        assert_eq!(build(vec![names(&[""]), names(&[])]).unwrap_err(), (0, 1));
        assert_eq!(build(vec![names(&["a", "a"])]).unwrap_err(), (0, 0));
    }
}

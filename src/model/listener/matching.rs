//! Which filter chain serves a connection: by `filter_chain_matcher`, which names
//! it, or else by `FilterChainMatch`, to the letter.
//!
//! The criteria are tried in Envoy's order, and each picks its most specific
//! value and never goes back: destination port, destination address, server
//! name, transport protocol, application protocols, direct source address,
//! source type, source address, source port. The rules become a tree with one
//! level for each criterion that any chain uses, so a listener without rules is
//! a single leaf and one with ten thousand server names is one hash lookup.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use prost_types::Any;

use crate::{
    api::{envoy::config::listener::v3 as pb, xds::r#type::matcher::v3::Matcher as MatcherMessage},
    config::{At, Reported, type_name, unpack},
    matcher::{Matcher, NetworkInput, Vocabulary},
    model::{
        Context,
        matcher::{IpTable, ip::ranges},
    },
    net::{Address, ConnectionInfo, listener_filters::ListenerFilters},
    refuse,
};

use super::FilterChain;
use pb::filter_chain_match::ConnectionSourceType;

/// A listener's filter chains and the rules to choose one.
#[derive(Debug)]
pub struct FilterChains {
    all: Vec<Arc<FilterChain>>,
    need_tls: bool,
    choice: Choice,
    default: Option<usize>,
}

#[derive(Debug)]
enum Choice {
    /// There is no rule.
    None,
    Rules(Node),
    /// The matcher leads to a chain of this listener, or to none.
    Matcher(Matcher<NetworkInput, Option<usize>>),
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
        let need_tls = rules.iter().any(|(_, rule)| rule.needs_tls());
        let choice = match rules.is_empty() {
            true => Choice::None,
            false => {
                let rules: Vec<_> = rules.iter().map(|(index, rule)| (*index, rule)).collect();
                Choice::Rules(Node::build(&rules, 0).map_err(|(first, second)| {
                    at.index(second)
                        .field("filter_chain_match")
                        .error(match first == second {
                            true => "says the same twice, which Envoy takes for two chains \
                                     with overlapping matching rules"
                                .to_owned(),
                            false => format!(
                                "has matching rules in common with filter_chains[{first}]; \
                                 a connection could not tell them apart"
                            ),
                        })
                })?)
            }
        };
        Ok(Self::new(all, need_tls, choice, default))
    }

    /// The chains, of which a matcher names one, and the one for connections for
    /// which it names none. `at` is the listener.
    ///
    /// # Errors
    /// When a chain has no name, or another's, or the matcher cannot be compiled.
    pub fn compile_named(
        chains: Vec<(Arc<FilterChain>, Option<pb::FilterChainMatch>)>,
        matcher: MatcherMessage,
        default: Option<Arc<FilterChain>>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let at_chains = at.field("filter_chains");
        let mut all = Vec::with_capacity(chains.len() + 1);
        let mut names = HashMap::with_capacity(chains.len());
        let mut outcome = Ok(());
        for (index, (chain, rule)) in chains.into_iter().enumerate() {
            let at = at_chains.index(index);
            let at_name = at.field("name");
            if chain.name.is_empty() {
                outcome = Err(at_name.error("is required beside filter_chain_matcher"));
            } else if names.insert(chain.name.clone(), index).is_some() {
                outcome = Err(at_name.error(format_args!(
                    "is duplicated with value {:?}; filter_chain_matcher could not tell them apart",
                    chain.name
                )));
            }
            if rule.is_some_and(|rule| rule != pb::FilterChainMatch::default()) {
                at.field("filter_chain_match")
                    .warn("has no effect beside filter_chain_matcher");
            }
            all.push(chain);
        }
        let at = at.field("filter_chain_matcher");
        let matcher = Matcher::compile(matcher, &ChainNames(&names), cx, &at);
        outcome?;
        Ok(Self::new(all, false, Choice::Matcher(matcher?), default))
    }

    fn new(
        mut all: Vec<Arc<FilterChain>>,
        need_tls: bool,
        choice: Choice,
        default: Option<Arc<FilterChain>>,
    ) -> Self {
        let default = default.map(|chain| {
            all.push(chain);
            all.len() - 1
        });
        Self {
            all,
            need_tls,
            choice,
            default,
        }
    }

    /// Every chain, the default one last.
    pub fn all(&self) -> &[Arc<FilterChain>] {
        &self.all
    }

    /// The index in [`FilterChains::all`] of the chain for a connection.
    pub fn find(&self, facts: &Facts<'_>) -> Option<usize> {
        let found = match &self.choice {
            Choice::None => None,
            Choice::Rules(rules) => rules.find(facts),
            Choice::Matcher(matcher) => match matcher.find(&|input| input.read(facts)) {
                // A name that is no chain's is an answer too: there is none.
                Some(named) => return *named,
                None => None,
            },
        };
        found.or(self.default)
    }

    /// Whether a rule can only be met by what a TLS client says first.
    pub fn need_tls_inspection(&self) -> bool {
        self.need_tls
    }
}

/// What a `filter_chain_matcher` asks for, and the chains it may lead to.
struct ChainNames<'a>(&'a HashMap<Arc<str>, usize>);

impl Vocabulary for ChainNames<'_> {
    type Input = NetworkInput;
    type Action = Option<usize>;

    fn input(&self, any: &Any, at: &At<'_>) -> Result<NetworkInput, Reported> {
        NetworkInput::compile(any, at)
    }

    fn action(&self, any: &Any, at: &At<'_>) -> Result<Option<usize>, Reported> {
        let kind = type_name(any);
        if kind != "google.protobuf.StringValue" {
            return Err(at.error(format_args!(
                "the action {kind:?} is not supported; a google.protobuf.StringValue names the \
                 filter chain"
            )));
        }
        let name: String = unpack(any, at)?;
        let index = self.0.get(&*name).copied();
        if index.is_none() {
            at.warn(format_args!(
                "{name:?} is the name of no filter chain: connections that come here are closed"
            ));
        }
        Ok(index)
    }
}

/// What a listener knows of a connection when it chooses its filter chain.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its addresses.
    pub info: &'a ConnectionInfo,
    /// Whether it was found to begin with TLS.
    pub tls: bool,
    /// The name it was found to ask for.
    pub server_name: &'a str,
    /// The protocols it was found to offer or to speak.
    pub application_protocols: &'a [Box<[u8]>],
}

impl<'a> Facts<'a> {
    /// What the listener filters have just found.
    pub fn found(info: &'a ConnectionInfo) -> Self {
        Self {
            info,
            tls: info.offers_tls,
            server_name: info.server_name.as_deref().unwrap_or(""),
            application_protocols: &info.application_protocols,
        }
    }

    /// `tls` or `raw_buffer`.
    pub fn transport_protocol(&self) -> &'static str {
        match self.tls {
            true => "tls",
            false => "raw_buffer",
        }
    }

    /// Whether it comes from this host (`SAME_IP_OR_LOOPBACK`). Of IPv4's loopback
    /// addresses the canonical one alone counts, as in Envoy.
    pub fn is_local(&self) -> bool {
        match (self.info.remote.ip(), self.info.local.ip()) {
            (Some(remote), _) if remote.ip() == Ipv4Addr::LOCALHOST => true,
            (Some(remote), _) if remote.ip() == Ipv6Addr::LOCALHOST => true,
            (Some(remote), Some(local)) => remote.ip() == local.ip(),
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    /// What these filters would find if an established connection came anew.
    pub fn would_find(filters: &ListenerFilters, info: &'a ConnectionInfo) -> Self {
        let nothing = Self {
            info,
            tls: false,
            server_name: "",
            application_protocols: &[],
        };
        let sees = match info.offers_tls {
            true => filters.see_tls(info),
            false => filters.see_http(info),
        };
        match sees {
            true => Self::found(info),
            false => nothing,
        }
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
    fn needs_tls(&self) -> bool {
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
    fn build(rules: &Rules<'_>, level: usize) -> Result<Self, Clash> {
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

    fn find(&self, facts: &Facts<'_>) -> Option<usize> {
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
    use crate::api::envoy::config::core::v3::CidrRange;

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

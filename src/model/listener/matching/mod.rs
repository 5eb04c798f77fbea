//! Which filter chain serves a connection: by `filter_chain_matcher`, which names
//! it, or else by `FilterChainMatch` (`rules`).

mod rules;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use prost_types::Any;

use crate::{
    api::{envoy::config::listener::v3 as pb, xds::r#type::matcher::v3::Matcher as MatcherMessage},
    config::{At, Reported, type_name, unpack},
    matcher::{Matcher, NetworkInput, Vocabulary},
    model::Context,
    net::{ConnectionInfo, listener_filters::ListenerFilters},
};

use super::FilterChain;
use rules::{Node, Rule};

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

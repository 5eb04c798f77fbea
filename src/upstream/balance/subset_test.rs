//! Expectations were observed at Envoy 1.40.

use std::collections::BTreeSet;

use super::*;
use crate::{
    api::envoy::config::core::v3::Metadata,
    stats::Registry,
    upstream::{
        Hosts,
        balance::{LbState, MetadataMatch},
        host::{EndpointStatus, Host, HostKey, LB_METADATA, Locality},
    },
};

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn labels(pairs: Pairs<'_>) -> Struct {
    let value = |text: &str| Value {
        kind: Some(Kind::StringValue(text.into())),
    };
    let fields = pairs.iter().map(|(k, v)| ((*k).into(), value(v)));
    Struct {
        fields: fields.collect(),
    }
}

fn metadata(pairs: Pairs<'_>) -> Metadata {
    Metadata {
        filter_metadata: [(LB_METADATA.into(), labels(pairs))].into(),
        ..Metadata::default()
    }
}

/// Hosts from `a` on, with these labels.
fn hosts(settings: SubsetSettings, all: &[Pairs<'_>]) -> (Hosts, Balancing) {
    let endpoints = all.iter().enumerate().map(|(at, pairs)| {
        let address = crate::net::Address::Ip(([127, 0, 0, 1], 1 + at as u16).into());
        let host = Host::new(HostKey::Address(address.clone()), address.into(), 1);
        let name = char::from(b'a' + at as u8).to_string();
        Arc::new(Endpoint {
            host,
            hostname: name.into(),
            weight: 1,
            priority: 0,
            locality: Arc::new(Locality::default()),
            status: EndpointStatus::Healthy,
            metadata: Some(Arc::new(metadata(pairs))),
            asks: Arc::default(),
            transport: Arc::default(),
        })
    });
    let balancing = Balancing {
        subsets: Some(Box::new(settings)),
        ..Balancing::default()
    };
    let membership = Membership {
        localities: vec![LocalityEndpoints {
            locality: Arc::new(Locality::default()),
            weight: 0,
            priority: 0,
            metadata: None,
            endpoints: endpoints.collect(),
        }],
        ..Membership::default()
    };
    let set = HostSet::new(membership, &balancing);
    (Hosts::new(set), balancing)
}

/// Who gets requests that ask for this.
fn who((hosts, balancing): &(Hosts, Balancing), asked: Pairs<'_>) -> String {
    let stats = Registry::new(0).block("cluster.test.", &cluster_stats::TABLE);
    let asked = MetadataMatch::new(Some(&metadata(asked)), None);
    let mut state = LbState::default();
    let mut who = BTreeSet::new();
    for _ in 0..10 {
        let cx = LbContext {
            metadata_match: asked.as_ref(),
            ..LbContext::default()
        };
        if let Choice::Host { endpoint, .. } = state.choose(hosts, balancing, &cx, &stats) {
            who.insert(endpoint.hostname.to_string());
        }
    }
    who.into_iter().collect()
}

fn selector(keys: &[&str], fallback: SelectorFallback) -> SubsetSelector {
    SubsetSelector {
        keys: keys.iter().map(|key| (*key).into()).collect(),
        fallback,
        single_host: false,
    }
}

const ALL: [Pairs<'static>; 5] = [
    &[("v", "1"), ("s", "p")],
    &[("v", "2"), ("s", "p")],
    &[("v", "2"), ("s", "d")],
    &[],
    &[("v", "1"), ("s", "d"), ("x", "1")],
];

#[test]
fn a_request_asks_for_the_keys_of_a_selector_and_no_others() {
    let selectors = || {
        let selectors = [&["v"][..], &["s", "v"], &["x"]];
        selectors.map(|keys| selector(keys, SelectorFallback::NotDefined))
    };
    for (fallback, nobodys) in [
        (FallbackPolicy::NoFallback, ""),
        (FallbackPolicy::AnyEndpoint, "abcde"),
        (FallbackPolicy::DefaultSubset, "bc"),
    ] {
        let hosts = hosts(
            SubsetSettings {
                fallback,
                default_subset: labels(&[("v", "2")]),
                selectors: selectors().into(),
                ..SubsetSettings::default()
            },
            &ALL,
        );
        assert_eq!(who(&hosts, &[("v", "1")]), "ae");
        assert_eq!(who(&hosts, &[("v", "2"), ("s", "p")]), "b");
        assert_eq!(who(&hosts, &[("x", "1")]), "e");
        for asked in [
            &[][..],
            &[("s", "p")],
            &[("v", "9")],
            &[("z", "1")],
            &[("v", "2"), ("s", "q")],
            &[("v", "2"), ("s", "p"), ("z", "1")],
        ] {
            assert_eq!(who(&hosts, asked), nobodys, "{asked:?}");
        }
    }
}

#[test]
fn a_selector_says_who_is_chosen_among_instead() {
    let keys_subset = SelectorFallback::KeysSubset(["v".into()].into());
    let hosts = hosts(
        SubsetSettings {
            default_subset: labels(&[("s", "d")]),
            selectors: [
                selector(
                    &["v"],
                    SelectorFallback::Policy(FallbackPolicy::AnyEndpoint),
                ),
                selector(&["s", "v"], keys_subset),
                selector(&["x"], SelectorFallback::Policy(FallbackPolicy::NoFallback)),
                selector(
                    &["z"],
                    SelectorFallback::Policy(FallbackPolicy::DefaultSubset),
                ),
            ]
            .into(),
            fallback: FallbackPolicy::DefaultSubset,
            ..SubsetSettings::default()
        },
        &ALL,
    );
    assert_eq!(who(&hosts, &[("v", "9")]), "abcde");
    assert_eq!(who(&hosts, &[("v", "2"), ("s", "q")]), "bc");
    assert_eq!(who(&hosts, &[("v", "9"), ("s", "q")]), "abcde");
    assert_eq!(who(&hosts, &[("x", "9")]), "");
    assert_eq!(who(&hosts, &[("z", "9")]), "ce");
    assert_eq!(who(&hosts, &[("s", "p")]), "ce");
}

#[test]
fn what_is_asked_beside_a_selectors_keys_may_be_overlooked() {
    let selectors = [&["s", "v"][..], &["v"]];
    let hosts = hosts(
        SubsetSettings {
            selectors: selectors
                .map(|keys| selector(keys, SelectorFallback::NotDefined))
                .into(),
            allow_redundant_keys: true,
            ..SubsetSettings::default()
        },
        &ALL,
    );
    assert_eq!(who(&hosts, &[("v", "1"), ("z", "9")]), "ae");
    assert_eq!(who(&hosts, &[("v", "2"), ("s", "p"), ("z", "9")]), "b");
    assert_eq!(who(&hosts, &[("v", "2"), ("s", "x")]), "");
    assert_eq!(who(&hosts, &[("z", "9")]), "");
}

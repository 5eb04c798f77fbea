//! Which virtual host a `host` belongs to.
//!
//! In Envoy's order: the exact domain, the longest `*suffix`, the longest
//! `prefix*`, then `*`. Each is a hash lookup; wildcards are looked up once for
//! each length there is.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

type Map = HashMap<Arc<str>, u32, RandomState>;

/// Domains of a route table, compiled.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    exact: Map,
    /// By length, longest first.
    suffixes: Vec<(usize, Map)>,
    prefixes: Vec<(usize, Map)>,
    default: Option<u32>,
}

impl Hosts {
    /// None yet, with room for so many exact domains.
    pub fn for_many(count: usize) -> Self {
        Self {
            exact: Map::with_capacity_and_hasher(count, RandomState::default()),
            ..Self::default()
        }
    }

    /// Adds a domain of a virtual host, in lower case; false when it is there already.
    #[must_use]
    pub fn insert(&mut self, domain: &Arc<str>, virtual_host: u32) -> bool {
        if **domain == *"*" {
            return match self.default {
                Some(_) => false,
                None => {
                    self.default = Some(virtual_host);
                    true
                }
            };
        } else if let Some(suffix) = domain.strip_prefix('*') {
            let map = by_length(&mut self.suffixes, suffix.len());
            return insert(map, suffix.into(), virtual_host);
        } else if let Some(prefix) = domain.strip_suffix('*') {
            let map = by_length(&mut self.prefixes, prefix.len());
            return insert(map, prefix.into(), virtual_host);
        }
        insert(&mut self.exact, Arc::clone(domain), virtual_host)
    }

    /// The virtual host of a `host`, in any case.
    pub fn find(&self, host: &str) -> Option<u32> {
        if !host.bytes().any(|b| b.is_ascii_uppercase()) {
            return self.find_lower(host);
        }
        let mut lower: SmallVec<[u8; 128]> = SmallVec::from_slice(host.as_bytes());
        lower.make_ascii_lowercase();
        let lower = std::str::from_utf8(&lower).expect("lower case of ASCII letters keeps UTF-8");
        self.find_lower(lower)
    }

    fn find_lower(&self, host: &str) -> Option<u32> {
        if let Some(found) = self.exact.get(host) {
            return Some(*found);
        }
        // A wildcard stands for at least one character.
        for (length, map) in &self.suffixes {
            let suffix = host.len().checked_sub(*length).filter(|start| *start > 0);
            if let Some(found) = suffix.and_then(|s| host.get(s..)).and_then(|s| map.get(s)) {
                return Some(*found);
            }
        }
        for (length, map) in &self.prefixes {
            let prefix = (host.len() > *length)
                .then(|| host.get(..*length))
                .flatten();
            if let Some(found) = prefix.and_then(|p| map.get(p)) {
                return Some(*found);
            }
        }
        self.default
    }
}

fn by_length(maps: &mut Vec<(usize, Map)>, length: usize) -> &mut Map {
    let at = match maps.binary_search_by(|(l, _)| length.cmp(l)) {
        Ok(at) => at,
        Err(at) => {
            maps.insert(at, (length, Map::default()));
            at
        }
    };
    &mut maps[at].1
}

fn insert(map: &mut Map, key: Arc<str>, virtual_host: u32) -> bool {
    match map.entry(key) {
        Entry::Occupied(_) => false,
        Entry::Vacant(place) => {
            place.insert(virtual_host);
            true
        }
    }
}

/// A `host` without its port: `a:1` is `a`, `[::1]:1` is `[::1]`.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(domains: &[&str]) -> Hosts {
        let mut hosts = Hosts::default();
        for (i, domain) in (0u32..).zip(domains) {
            assert!(
                hosts.insert(&domain.to_ascii_lowercase().into(), i),
                "{domain}"
            );
        }
        hosts
    }

    #[test]
    fn precedence_is_exact_suffix_prefix_default() {
        let hosts = hosts(&["*", "www.*", "*.com", "*.b.com", "a.b.com", "www.a.*"]);
        assert_eq!(hosts.find("A.b.Com"), Some(4));
        assert_eq!(hosts.find("x.b.com"), Some(3));
        assert_eq!(hosts.find("b.com"), Some(2));
        assert_eq!(hosts.find("www.a.org"), Some(5));
        assert_eq!(hosts.find("www.org"), Some(1));
        assert_eq!(hosts.find("www."), Some(0));
        assert_eq!(hosts.find(".com"), Some(0));
        assert_eq!(hosts.find(""), Some(0));
    }

    #[test]
    fn a_port_is_part_of_the_name() {
        let hosts = hosts(&["a.com", "b.com:*"]);
        assert_eq!(hosts.find("a.com:80"), None);
        assert_eq!(hosts.find("b.com:80"), Some(1));
        assert_eq!(without_port("a.com:80"), "a.com");
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("::1"), "::1");
    }

    #[test]
    fn a_domain_stands_once() {
        let mut hosts = hosts(&["A.com", "*"]);
        assert!(!hosts.insert(&"a.com".into(), 9));
        assert!(!hosts.insert(&"*".into(), 9));
    }
}

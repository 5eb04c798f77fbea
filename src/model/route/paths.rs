//! Which routes of a virtual host a path can belong to, in their order.
//!
//! Exact paths are found by hash, prefixes by a radix tree, regular expressions
//! by one [`RegexSet`](regex::bytes::RegexSet). Each gives ascending lists of
//! routes; [`Candidates`] merges them, so that the first route that matches is
//! found as a scan from the top would find it.

use std::{cell::OnceCell, collections::HashMap};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::tree::PrefixTree;

/// A path condition.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// `path`.
    Exact(Box<str>),
    /// `prefix`.
    Prefix(Box<str>),
    /// `path_separated_prefix`: the prefix, then `/` or the end.
    Separated(Box<str>),
    /// `safe_regex`: the whole path.
    Regex(crate::model::matcher::Regex),
    /// `connect_matcher`: any CONNECT, which has no path, and an upgrade to
    /// `connect-udp`.
    Connect,
}

/// Path conditions of the routes of one virtual host, compiled.
#[derive(Debug, Default)]
pub struct Paths {
    sensitive: Texts,
    /// In lower case.
    insensitive: Texts,
    regexes: Regexes,
    /// The routes of `connect_matcher`.
    connect: Vec<u32>,
}

#[derive(Debug, Default)]
struct Texts {
    exact: HashMap<Box<[u8]>, Vec<u32>, RandomState>,
    prefixes: PrefixTree,
    separated: PrefixTree,
}

#[derive(Debug, Default)]
struct Regexes {
    /// Ascending.
    routes: Vec<u32>,
    each: Vec<crate::model::matcher::Regex>,
    /// Built when there are enough for it to pay.
    set: Option<regex::bytes::RegexSet>,
}

/// So many expressions are tried one by one.
const REGEXES_WITHOUT_A_SET: usize = 4;

/// The memory a set of expressions may take, in bytes. One that needs more is
/// tried expression by expression.
const REGEX_SET_SIZE_LIMIT: usize = 64 << 20;

impl Paths {
    /// Compiles the conditions; the second says whether case matters, which it
    /// always does for regular expressions.
    pub fn new<'a>(routes: impl Iterator<Item = (&'a PathMatch, bool)>) -> Self {
        let mut paths = Self::default();
        for (route, (path, case_sensitive)) in (0u32..).zip(routes) {
            let texts = match case_sensitive {
                true => &mut paths.sensitive,
                false => &mut paths.insensitive,
            };
            let key = |text: &str| match case_sensitive {
                true => text.as_bytes().to_vec(),
                false => text.to_ascii_lowercase().into_bytes(),
            };
            match path {
                PathMatch::Exact(text) => {
                    texts.exact.entry(key(text).into()).or_default().push(route);
                }
                PathMatch::Prefix(text) => texts.prefixes.insert(&key(text), route),
                PathMatch::Separated(text) => texts.separated.insert(&key(text), route),
                PathMatch::Regex(regex) => {
                    paths.regexes.routes.push(route);
                    paths.regexes.each.push(regex.clone());
                }
                PathMatch::Connect => paths.connect.push(route),
            }
        }
        paths.regexes.finish();
        paths
    }

    /// The routes that a CONNECT can take, ascending.
    pub fn connect(&self) -> &[u32] {
        &self.connect
    }

    /// The routes whose path condition holds, ascending; with `connect_udp`, those
    /// of `connect_matcher` too.
    pub fn candidates<'a>(&'a self, path: &'a [u8], connect_udp: bool) -> Candidates<'a> {
        let mut lists = Lists::new();
        if connect_udp && !self.connect.is_empty() {
            lists.push(&self.connect);
        }
        self.sensitive.collect(path, &mut lists);
        if !self.insensitive.is_empty() {
            self.insensitive
                .collect(&path.to_ascii_lowercase(), &mut lists);
        }
        Candidates {
            lists,
            regexes: &self.regexes,
            path,
            next_regex: 0,
            matched: OnceCell::new(),
        }
    }
}

impl Texts {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.separated.is_empty()
    }

    fn collect<'a>(&'a self, path: &[u8], lists: &mut Lists<'a>) {
        if let Some(routes) = self.exact.get(path) {
            lists.push(routes);
        }
        self.prefixes.find(path, |_, routes| lists.push(routes));
        self.separated.find(path, |length, routes| {
            if matches!(path.get(length), None | Some(b'/')) {
                lists.push(routes);
            }
        });
    }
}

impl Regexes {
    fn finish(&mut self) {
        if self.each.len() <= REGEXES_WITHOUT_A_SET {
            return;
        }
        let patterns = self.each.iter().map(|regex| regex.pattern());
        self.set = regex::bytes::RegexSetBuilder::new(patterns)
            .octal(true)
            .size_limit(REGEX_SET_SIZE_LIMIT)
            .build()
            .ok();
    }
}

type Lists<'a> = SmallVec<[&'a [u32]; 8]>;

/// Routes whose path condition holds, in ascending order.
#[derive(Debug)]
pub struct Candidates<'a> {
    /// Ascending each; never empty.
    lists: Lists<'a>,
    regexes: &'a Regexes,
    path: &'a [u8],
    /// The first expression that has not been passed.
    next_regex: usize,
    matched: OnceCell<regex::bytes::SetMatches>,
}

impl Candidates<'_> {
    fn regex_matches(&self, index: usize) -> bool {
        match &self.regexes.set {
            Some(set) => self
                .matched
                .get_or_init(|| set.matches(self.path))
                .matched(index),
            None => self.regexes.each[index].is_match(self.path),
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let first = self
            .lists
            .iter()
            .enumerate()
            .min_by_key(|(_, list)| list[0])
            .map(|(at, list)| (at, list[0]));
        // Expressions are asked only as far as they come before the best text.
        while let Some(&route) = self.regexes.routes.get(self.next_regex) {
            if first.is_some_and(|(_, best)| best < route) {
                break;
            }
            self.next_regex += 1;
            if self.regex_matches(self.next_regex - 1) {
                return Some(route);
            }
        }
        let (at, route) = first?;
        match &self.lists[at][1..] {
            [] => {
                self.lists.swap_remove(at);
            }
            rest => self.lists[at] = rest,
        }
        Some(route)
    }
}

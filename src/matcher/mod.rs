//! The unified matcher (`xds.type.matcher.v3.Matcher`): a tree of questions about
//! values of a connection or a request that ends in an action.
//!
//! What may be asked, and what an action is, belongs to whoever uses it: see
//! [`Vocabulary`]. [`NetworkInput`] holds what can be asked of a connection.
//!
//! An answer that leads to a tree without an action is no answer: the next one in
//! line is tried, and `on_no_match` stands at the end of each line. An action with
//! `keep_matching` is passed over.

mod compile;
mod domains;
mod map;
mod network;
mod predicate;
mod value;

pub use compile::Vocabulary;
pub use network::NetworkInput;
pub use value::{Input, Value};

use domains::Domains;
use map::{ExactMap, PrefixMap};
use predicate::Predicate;

use crate::model::matcher::IpTable;

/// A matcher of inputs `I` that leads to actions `A`.
#[derive(Debug)]
pub struct Matcher<I, A> {
    kind: Kind<I, A>,
    on_no_match: Option<OnMatch<I, A>>,
}

/// What is done where something matches.
#[derive(Debug)]
struct OnMatch<I, A> {
    next: Next<I, A>,
    /// `keep_matching`: it counts as if it were not there.
    passed_over: bool,
}

#[derive(Debug)]
enum Next<I, A> {
    Action(A),
    Matcher(Box<Matcher<I, A>>),
}

#[derive(Debug)]
enum Kind<I, A> {
    /// Nothing is asked.
    Nothing,
    List(Box<[Field<I, A>]>),
    Exact(Input<I>, ExactMap<OnMatch<I, A>>),
    Prefix(Input<I>, PrefixMap<OnMatch<I, A>>),
    Ranges(Input<I>, Ranges<I, A>),
    Domains(Input<I>, Domains<OnMatch<I, A>>),
}

/// One of a `matcher_list`.
#[derive(Debug)]
struct Field<I, A> {
    predicate: Predicate<I>,
    on_match: OnMatch<I, A>,
}

/// `xds.type.matcher.v3.IPMatcher`.
#[derive(Debug)]
struct Ranges<I, A> {
    /// By range, the indices of what is done there, in their order.
    table: IpTable<Vec<usize>>,
    /// What is done, and whether only where its range is the most specific.
    matches: Box<[(OnMatch<I, A>, bool)]>,
}

impl<I, A> Matcher<I, A> {
    /// The action that the values lead to. `read` gives the value of an input,
    /// `None` where there is none.
    pub fn find<'v>(&self, read: &impl Fn(&I) -> Option<Value<'v>>) -> Option<&A> {
        self.kind
            .find(read)
            .or_else(|| self.on_no_match.as_ref()?.find(read))
    }
}

impl<I, A> OnMatch<I, A> {
    fn find<'v>(&self, read: &impl Fn(&I) -> Option<Value<'v>>) -> Option<&A> {
        if self.passed_over {
            return None;
        }
        match &self.next {
            Next::Action(action) => Some(action),
            Next::Matcher(matcher) => matcher.find(read),
        }
    }
}

impl<I, A> Kind<I, A> {
    fn find<'v>(&self, read: &impl Fn(&I) -> Option<Value<'v>>) -> Option<&A> {
        match self {
            Self::Nothing => None,
            Self::List(list) => {
                let mut met = list.iter().filter(|field| field.predicate.is_met(read));
                met.find_map(|field| field.on_match.find(read))
            }
            Self::Exact(input, map) => map.get(&input.read(read)?.text())?.find(read),
            Self::Prefix(input, map) => {
                let value = input.read(read)?;
                map.all(&value.text())
                    .find_map(|on_match| on_match.find(read))
            }
            Self::Ranges(input, ranges) => ranges.find(input.read(read)?.ip()?, read),
            Self::Domains(input, domains) => {
                let value = input.read(read)?;
                domains
                    .all(&value.text())
                    .find_map(|on_match| on_match.find(read))
            }
        }
    }
}

impl<I, A> Ranges<I, A> {
    fn find<'v>(
        &self,
        ip: std::net::IpAddr,
        read: &impl Fn(&I) -> Option<Value<'v>>,
    ) -> Option<&A> {
        let indices = self.table.all(ip).flatten().enumerate();
        let mut tried = indices.filter_map(|(rank, index)| {
            let (on_match, exclusive) = self.matches.get(*index)?;
            (rank == 0 || !exclusive).then_some(on_match)
        });
        tried.find_map(|on_match| on_match.find(read))
    }
}

#[cfg(test)]
mod tests;

//! `xds.type.matcher.v3.ServerNameMatcher`: values by domain.

use std::collections::HashMap;

use crate::config::{At, Reported};

/// Values by domain, of which an exact one comes first, then wildcards from the
/// longest suffix to the shortest, then the one for every name.
#[derive(Debug)]
pub struct Domains<T> {
    values: Box<[T]>,
    /// Indices of `values`; a wildcard is kept without its star: `.example.com`.
    by_name: HashMap<Box<[u8]>, usize, foldhash::fast::RandomState>,
    any: Option<usize>,
}

impl<T> Domains<T> {
    /// No domain.
    pub fn new(values: Vec<T>) -> Self {
        Self {
            values: values.into(),
            by_name: HashMap::default(),
            any: None,
        }
    }

    /// Leads a domain to the value of an index.
    ///
    /// # Errors
    /// When it is there already, or not the name of a domain.
    pub fn insert(&mut self, domain: &str, index: usize, at: &At<'_>) -> Result<(), Reported> {
        let twice = match domain {
            "" => return Err(at.error("is empty; \"*\" stands for every name")),
            "*" => self.any.replace(index).is_some(),
            _ => {
                let name = match domain.strip_prefix("*.") {
                    Some(rest) if !rest.is_empty() && !rest.contains('*') => &domain[1..],
                    None if !domain.contains('*') => domain,
                    _ => {
                        return Err(at.error(format_args!(
                            "{domain:?}: a wildcard is \"*\", or stands for whole labels at the \
                             start, as in \"*.example.com\""
                        )));
                    }
                };
                self.by_name.insert(name.as_bytes().into(), index).is_some()
            }
        };
        match twice {
            true => Err(at.error(format_args!("the domain {domain:?} comes twice"))),
            false => Ok(()),
        }
    }

    /// The values for a name, the most specific first.
    pub fn all<'a, 'n>(&'a self, name: &'n [u8]) -> impl Iterator<Item = &'a T> + use<'a, 'n, T> {
        let dots = memchr::memchr_iter(b'.', name);
        let suffixes = dots.map(|dot| &name[dot..]);
        let names = std::iter::once(name).chain(suffixes);
        let found = names.filter_map(|name| self.by_name.get(name).copied());
        let found = found.chain(self.any);
        found.filter_map(|index| self.values.get(index))
    }
}

//! `exact_match_map` and `prefix_match_map`.

use std::collections::HashMap;

type Map<T> = HashMap<Box<[u8]>, T, foldhash::fast::RandomState>;

/// Values by a text.
#[derive(Debug)]
pub struct ExactMap<T>(Map<T>);

impl<T> ExactMap<T> {
    /// The last value of a text that comes twice is the one.
    pub fn new(entries: impl IntoIterator<Item = (String, T)>) -> Self {
        let entries = entries.into_iter();
        Self(entries.map(|(k, v)| (k.into_bytes().into(), v)).collect())
    }

    /// The value of a text.
    pub fn get(&self, text: &[u8]) -> Option<&T> {
        self.0.get(text)
    }
}

/// Values by what a text begins with. Finding one takes a hash lookup for each
/// length that is in use, however many prefixes there are.
#[derive(Debug)]
pub struct PrefixMap<T> {
    /// The lengths in use, longest first.
    lengths: Box<[usize]>,
    by_prefix: Map<T>,
}

impl<T> PrefixMap<T> {
    /// The last value of a prefix that comes twice is the one.
    pub fn new(entries: impl IntoIterator<Item = (String, T)>) -> Self {
        let ExactMap(by_prefix) = ExactMap::new(entries);
        let mut lengths: Vec<usize> = by_prefix.keys().map(|prefix| prefix.len()).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        Self {
            lengths: lengths.into(),
            by_prefix,
        }
    }

    /// The values of all prefixes of a text, the longest first.
    pub fn all<'a, 'n>(&'a self, text: &'n [u8]) -> impl Iterator<Item = &'a T> + use<'a, 'n, T> {
        let prefixes = self.lengths.iter().filter_map(|length| text.get(..*length));
        prefixes.filter_map(|prefix| self.by_prefix.get(prefix))
    }
}

//! The header fields of a message, in the order in which they came.

use std::ops::Index;

use http::{HeaderMap, HeaderName, HeaderValue};

/// What fields are looked up by.
pub trait Name {
    /// Whether a field of this name is meant.
    fn is(&self, name: &HeaderName) -> bool;
}

impl Name for HeaderName {
    #[inline]
    fn is(&self, name: &HeaderName) -> bool {
        self == name
    }
}

/// In lower case.
impl Name for str {
    fn is(&self, name: &HeaderName) -> bool {
        name.as_str() == self
    }
}

impl<N: Name + ?Sized> Name for &N {
    #[inline]
    fn is(&self, name: &HeaderName) -> bool {
        (**self).is(name)
    }
}

/// The header fields of a message, in the order in which they came: a list.
///
/// A message has ten or twenty of them and is asked for a handful. To compare a
/// name with each costs less than to hash all of them once, and what is passed on
/// stays in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// No fields.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// No fields, and room for so many.
    pub fn with_capacity(fields: usize) -> Self {
        Self(Vec::with_capacity(fields))
    }

    /// How many fields there are; one that is repeated counts each time.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first field of this name.
    #[inline]
    pub fn get(&self, name: impl Name) -> Option<&HeaderValue> {
        let found = self.0.iter().find(|(n, _)| name.is(n));
        found.map(|(_, value)| value)
    }

    /// Every field of this name, in order.
    #[inline]
    pub fn get_all<N: Name>(&self, name: N) -> impl Iterator<Item = &HeaderValue> + use<'_, N> {
        let found = self.0.iter().filter(move |(n, _)| name.is(n));
        found.map(|(_, value)| value)
    }

    /// Whether there is a field of this name.
    #[inline]
    pub fn contains_key(&self, name: impl Name) -> bool {
        self.get(name).is_some()
    }

    /// Puts one field in place of all of its name, where the first of them stood.
    #[inline]
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        let Some(at) = self.0.iter().position(|(n, _)| *n == name) else {
            return self.0.push((name, value));
        };
        self.0[at].1 = value;
        if self.0[at + 1..].iter().any(|(n, _)| *n == name) {
            let mut index = 0;
            self.0.retain(|(n, _)| {
                index += 1;
                index - 1 <= at || *n != name
            });
        }
    }

    /// Adds a field, unless there is one of its name.
    #[inline]
    pub fn insert_if_absent(&mut self, name: HeaderName, value: impl FnOnce() -> HeaderValue) {
        if !self.contains_key(&name) {
            self.append(name, value());
        }
    }

    /// Adds a field, whether there are others of its name or not.
    #[inline]
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// Removes every field of this name; gives the first of them.
    #[inline]
    pub fn remove(&mut self, name: impl Name) -> Option<HeaderValue> {
        let at = self.0.iter().position(|(n, _)| name.is(n))?;
        let (_, value) = self.0.remove(at);
        if self.0[at..].iter().any(|(n, _)| name.is(n)) {
            self.0.retain(|(n, _)| !name.is(n));
        }
        Some(value)
    }

    /// Removes the fields for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName, &HeaderValue) -> bool) {
        self.0.retain(|(name, value)| keep(name, value));
    }

    /// The fields, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// The name of each field, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &HeaderName> {
        self.0.iter().map(|(name, _)| name)
    }
}

impl<N: Name> Index<N> for Headers {
    type Output = HeaderValue;

    /// # Panics
    /// When there is no field of this name.
    fn index(&self, name: N) -> &HeaderValue {
        self.get(name).expect("a field of this name")
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Headers {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

impl IntoIterator for Headers {
    type Item = (HeaderName, HeaderValue);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// From the form in which `h2` gives them.
impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Self {
        let mut headers = Self::with_capacity(map.len() + ROOM);
        let mut last: Option<HeaderName> = None;
        for (name, value) in map {
            // Without a name it is one more of the name before it.
            if name.is_some() {
                last = name;
            }
            if let Some(name) = &last {
                headers.append(name.clone(), value);
            }
        }
        headers
    }
}

/// Into the form in which `h2` takes them.
impl From<Headers> for HeaderMap {
    fn from(headers: Headers) -> Self {
        let mut map = Self::with_capacity(headers.len());
        for (name, value) in headers {
            map.append(name, value);
        }
        map
    }
}

/// Fields that the proxy adds to a message, usually.
const ROOM: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;
    use proptest::prelude::*;

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    fn name(n: u8) -> HeaderName {
        let names = ["host", "via", "x-a", "x-b"];
        HeaderName::from_static(names[usize::from(n) % names.len()])
    }

    #[test]
    fn what_is_replaced_stays_where_it_was() {
        let mut headers: Headers = [("via", "1"), ("x-a", "2"), ("via", "3"), ("te", "4")]
            .map(|(n, v)| (HeaderName::from_static(n), value(v)))
            .into_iter()
            .collect();
        headers.insert(header::VIA, value("5"));
        let lines: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v)).collect();
        assert_eq!(
            lines,
            [
                ("via", &value("5")),
                ("x-a", &value("2")),
                ("te", &value("4"))
            ]
        );
    }

    proptest! {
        /// But for the order it is the map that it replaces.
        #[test]
        fn it_holds_what_a_map_holds(steps in proptest::collection::vec((0..4_u8, any::<u8>(), 0..9_u8), 0..30)) {
            let (mut list, mut map) = (Headers::new(), HeaderMap::new());
            for (step, n, v) in steps {
                let (name, value) = (name(n), value(&v.to_string()));
                match step {
                    0 => {
                        list.insert(name.clone(), value.clone());
                        map.insert(name.clone(), value);
                    }
                    1 => prop_assert_eq!(list.remove(&name), map.remove(&name)),
                    2 => {
                        list.insert_if_absent(name.clone(), || value.clone());
                        map.entry(&name).or_insert(value);
                    }
                    _ => {
                        list.append(name.clone(), value.clone());
                        map.append(name.clone(), value);
                    }
                }
                prop_assert_eq!(list.len(), map.len());
                prop_assert_eq!(list.get(&name), map.get(&name));
                prop_assert!(list.get_all(&name).eq(map.get_all(&name)));
            }
            prop_assert_eq!(&HeaderMap::from(list.clone()), &map);
            prop_assert_eq!(HeaderMap::from(Headers::from(map.clone())), map);
        }
    }
}

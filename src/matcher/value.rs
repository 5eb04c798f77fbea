//! What a matcher compares.

use std::{borrow::Cow, net::IpAddr};

/// A value of a connection or a request.
#[derive(Clone, Debug)]
pub enum Value<'v> {
    /// A text, which need not be UTF-8.
    Text(Cow<'v, [u8]>),
    /// An IP address, which is written out only where it is taken for a text.
    Ip(IpAddr),
}

impl<'v> Value<'v> {
    /// A text.
    pub fn text_of(text: impl Into<Cow<'v, str>>) -> Self {
        Self::Text(match text.into() {
            Cow::Borrowed(text) => text.as_bytes().into(),
            Cow::Owned(text) => text.into_bytes().into(),
        })
    }

    /// The value as a text.
    pub fn text(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Ip(ip) => ip.to_string().into_bytes().into(),
        }
    }

    /// The value as an IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        }
    }
}

/// Where a value comes from.
#[derive(Debug)]
pub enum Input<I> {
    /// What its user knows.
    Own(I),
    /// What was known when it was compiled: a variable of the environment.
    Known(Option<Box<str>>),
}

impl<I> Input<I> {
    pub(super) fn read<'a, 'v: 'a>(
        &'a self,
        read: &impl Fn(&I) -> Option<Value<'v>>,
    ) -> Option<Value<'a>> {
        match self {
            Self::Own(input) => read(input),
            Self::Known(value) => value.as_deref().map(Value::text_of),
        }
    }
}

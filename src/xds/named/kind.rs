//! Kinds of resources that are subscribed to by name, and what an answer about
//! one may hold.

use std::hash::Hash;

use prost::{Message, Name};

use crate::{
    admin::state,
    config::{At, Reported, Strictness},
    model::Context,
    xds::{api_source::Through, resource::Encoded},
};

/// A kind of resource that is subscribed to by name.
pub trait NamedKind: 'static {
    /// As it comes.
    type Message: Message + Name + Default;
    /// As it is used.
    type Value: 'static;
    /// `rds`, `sds`, `eds`.
    const SHORT: &'static str;
    /// For the admin.
    const KIND: state::Kind;
    /// The subscription as `/init_dump` names it.
    const TARGET: &'static str;
    /// By which clusters its management server may be reached.
    const THROUGH: Through = Through::Primary;
    /// Whether it is no longer in force when its server takes it away, or its time is
    /// over. Most stay, so that traffic is not cut by a mistake.
    const ENDS: bool = false;
    /// What who asks for it says besides its name; most say nothing.
    type Want: Clone + Default + Eq + Hash;

    /// Adds what is part of it and came by itself, for the admin.
    fn add_parts(
        _message: &mut Self::Message,
        _parts: impl Iterator<Item = Encoded>,
        _strictness: &Strictness,
    ) {
    }

    /// The resource's name.
    fn name(message: &Self::Message) -> &str;

    /// Compiles it.
    ///
    /// # Errors
    /// What is wrong has been reported.
    fn compile(
        message: Self::Message,
        want: &Self::Want,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self::Value, Reported>;
}

/// What is subscribed to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(in crate::xds) struct Wanted<W> {
    /// The resource's name.
    pub name: Box<str>,
    /// Where the stats of the subscription stand.
    pub prefix: Box<str>,
    /// See [`NamedKind::Want`].
    pub want: W,
}

impl<W: Default> Wanted<W> {
    /// A resource of which nothing but its name is said.
    pub fn named(name: &str, prefix: &str) -> Self {
        Self {
            name: name.into(),
            prefix: prefix.into(),
            want: W::default(),
        }
    }
}

/// The one resource that an answer may hold; `None` when it holds none.
///
/// # Errors
/// Why the answer cannot be used, in Envoy's words.
pub(in crate::xds) fn the_only<K: NamedKind, R>(
    mut resources: Vec<R>,
    name: &str,
    place: &str,
) -> Result<Option<R>, String> {
    let short = K::SHORT.to_uppercase();
    match resources.len() {
        1 => Ok(resources.pop()),
        count if K::KIND == state::Kind::Extension => Err(format!(
            "{place}: Unexpected number of resources in ExtensionConfigDS response: {count}"
        )),
        0 if matches!(K::KIND, state::Kind::Secret | state::Kind::Runtime) => Err(format!(
            "{place}: Missing {short} resources for {name} in onConfigUpdate()"
        )),
        0 => Ok(None),
        count => Err(format!(
            "{place}: Unexpected {short} resource length: {count}; there has to be one, {name}"
        )),
    }
}

/// Refuses a resource that is not the one that was asked for.
///
/// # Errors
/// Reported in Envoy's words.
pub(in crate::xds) fn check_name<K: NamedKind>(
    message: &K::Message,
    name: &str,
    at: &At<'_>,
) -> Result<(), Reported> {
    let found = K::name(message);
    if found == name {
        return Ok(());
    }
    let short = K::SHORT.to_uppercase();
    Err(match K::KIND {
        state::Kind::Extension => at.error(format_args!(
            "Unexpected resource name in ExtensionConfigDS response: {found}"
        )),
        state::Kind::Runtime => at.error(format_args!(
            "Unexpected RTDS runtime (expecting {name}): {found}"
        )),
        _ => at.error(format_args!(
            "Unexpected {short} configuration (expecting {name}): {found}"
        )),
    })
}

//! `typed_per_filter_config`: what a route, a virtual host or a table says to
//! the HTTP filters.

use std::{any::Any, collections::BTreeMap, fmt, sync::Arc};

use prost_types::Any as AnyMessage;

use crate::{
    api::envoy::config::route::v3::FilterConfig,
    config::{At, Reported, type_name, unpack},
    http::filters::table,
    model::Context,
};

const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";

/// A filter's message of a route, compiled; the filter knows its type.
pub trait RouteConfig: Any + fmt::Debug + Send + Sync {}

impl<T: Any + fmt::Debug + Send + Sync> RouteConfig for T {}

/// What is said to filters, by the filter's name.
#[derive(Clone, Debug, Default)]
pub struct PerFilter(Box<[(Box<str>, Said)]>);

#[derive(Clone, Debug)]
struct Said {
    disabled: bool,
    config: Option<Arc<dyn RouteConfig>>,
}

impl PerFilter {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compiles the messages for filters.
    ///
    /// # Errors
    /// A message that no filter takes from a route, or that is not valid.
    pub fn compile(
        messages: BTreeMap<String, AnyMessage>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let at = at.field("typed_per_filter_config");
        let mut outcome = Ok(());
        let mut all = Vec::with_capacity(messages.len());
        for (name, any) in messages {
            match compile_one(&name, any, cx, &at.key(&name)) {
                Ok(said) => all.push((name.into(), said)),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| Self(all.into()))
    }

    fn said(&self, name: &str) -> Option<&Said> {
        let mut all = self.0.iter();
        all.find(|(known, _)| **known == *name)
            .map(|(_, said)| said)
    }

    /// Whether a filter is turned off, or on; `None` where nothing is said to it.
    pub(super) fn disabled(&self, name: &str) -> Option<bool> {
        self.said(name).map(|said| said.disabled)
    }

    /// What is said to a filter, when that is of the type it expects.
    pub(super) fn config<T: Any>(&self, name: &str) -> Option<&T> {
        let config: &dyn RouteConfig = &**self.said(name)?.config.as_ref()?;
        (config as &dyn Any).downcast_ref()
    }
}

fn compile_one(
    name: &str,
    any: AnyMessage,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Said, Reported> {
    let enabled = |config| Said {
        disabled: false,
        config,
    };
    if type_name(&any) != FILTER_CONFIG {
        return compile_message(name, &any, false, cx, at).map(enabled);
    }
    let FilterConfig {
        config,
        is_optional,
        disabled,
    } = unpack(&any, at)?;
    if disabled {
        return Ok(Said {
            disabled,
            config: None,
        });
    }
    match config {
        None => Err(at.error(format_args!(
            "Empty route/virtual host per filter configuration for {name} filter"
        ))),
        // Without a type it says only that the filter is on.
        Some(any) if any.type_url.is_empty() => Ok(enabled(None)),
        Some(any) => compile_message(name, &any, is_optional, cx, &at.field("config")).map(enabled),
    }
}

fn compile_message(
    name: &str,
    any: &AnyMessage,
    is_optional: bool,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<Option<Arc<dyn RouteConfig>>, Reported> {
    let message = type_name(any);
    let kind = table::of_route_message(message);
    match kind.and_then(|kind| kind.route) {
        Some((_, compile)) => compile(any, cx, at).map(Some),
        None if is_optional => Ok(None),
        None if table::of_message(message).is_some() => Err(at.error(format_args!(
            "The filter {name} doesn't support virtual host or route specific configurations"
        ))),
        None => Err(at.error(format_args!("{message} is not supported yet"))),
    }
}

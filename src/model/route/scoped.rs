//! `scoped_routes` of a connection manager, compiled: a request's headers make a
//! key, and the scope of that key says which route table serves it.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::{
    api::envoy::{
        config::{
            core::v3::ConfigSource,
            route::v3::{
                ScopedRouteConfiguration,
                scoped_route_configuration::{Key, key::Fragment, key::fragment},
            },
        },
        extensions::filters::network::http_connection_manager::v3::scoped_routes::{
            ScopeKeyBuilder as BuilderMessage,
            scope_key_builder::{
                FragmentBuilder as FragmentMessage,
                fragment_builder::{
                    HeaderValueExtractor, Type,
                    header_value_extractor::{ExtractType, KvElement},
                },
            },
        },
    },
    config::{At, Reported},
    formatter::{FieldName, RequestView},
    model::Context,
    xds::{
        demand::{Demand, What},
        slot::Slot,
    },
};

use super::table::RouteTable;

/// What a request or a scope is known by: its fragments in order, each behind its
/// length, so that no two lists of fragments are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ScopeKey(SmallVec<[u8; 64]>);

impl ScopeKey {
    /// The key of a scope.
    pub fn of(message: &Key) -> Self {
        let Key { fragments } = message;
        let mut key = Self::default();
        for Fragment { r#type } in fragments {
            match r#type {
                Some(fragment::Type::StringKey(text)) => key.push(text.as_bytes()),
                // Refused by the rules of the message.
                None => {}
            }
        }
        key
    }

    fn push(&mut self, fragment: &[u8]) {
        self.0.extend(fragment.len().to_le_bytes());
        self.0.extend_from_slice(fragment);
    }
}

/// `scope_key_builder`: how the key is made from a request.
#[derive(Debug)]
pub struct ScopeKeyBuilder {
    fragments: Box<[FragmentBuilder]>,
}

/// `header_value_extractor`.
#[derive(Debug)]
struct FragmentBuilder {
    name: FieldName,
    /// Between elements; empty when the whole value is one.
    separator: Box<[u8]>,
    element: Element,
}

/// Which element of a header's value.
#[derive(Debug)]
enum Element {
    /// The one at this place.
    Index(usize),
    /// The first with this key, and of it what follows the separator.
    Keyed {
        key: Box<[u8]>,
        separator: Box<[u8]>,
    },
}

impl ScopeKeyBuilder {
    /// Compiles a builder.
    ///
    /// # Errors
    /// What is wrong has been reported, in Envoy's words where it has some.
    pub fn compile(message: BuilderMessage, at: &At<'_>) -> Result<Self, Reported> {
        let BuilderMessage { fragments } = message;
        let at = at.field("fragments");
        let mut outcome = Ok(());
        let mut compiled = Vec::with_capacity(fragments.len());
        for (index, fragment) in fragments.into_iter().enumerate() {
            match FragmentBuilder::compile(fragment, &at.index(index)) {
                Ok(fragment) => compiled.push(fragment),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| Self {
            fragments: compiled.into(),
        })
    }

    /// The key of a request; `None` when it lacks a fragment.
    pub fn key(&self, request: &RequestView<'_>) -> Option<ScopeKey> {
        let mut key = ScopeKey::default();
        for fragment in &self.fragments {
            key.push(fragment.of(request)?);
        }
        Some(key)
    }
}

impl FragmentBuilder {
    fn compile(message: FragmentMessage, at: &At<'_>) -> Result<Self, Reported> {
        let FragmentMessage { r#type } = message;
        let at = at.field("header_value_extractor");
        let Some(Type::HeaderValueExtractor(extractor)) = r#type else {
            return Err(at.error("is required"));
        };
        let HeaderValueExtractor {
            name,
            element_separator,
            extract_type,
        } = extractor;
        let name = FieldName::parse(&name).map_err(|error| at.field("name").error(error));
        let element = match extract_type {
            Some(ExtractType::Index(index)) if index > 0 && element_separator.is_empty() => Err(at
                .field("index")
                .error("Index > 0 for empty string element separator.")),
            Some(ExtractType::Index(index)) => Ok(Element::Index(index as usize)),
            Some(ExtractType::Element(KvElement { separator, key })) => Ok(Element::Keyed {
                key: key.into_bytes().into(),
                separator: separator.into_bytes().into(),
            }),
            None => Err(at.error("HeaderValueExtractor extract_type not set.")),
        };
        Ok(Self {
            name: name?,
            separator: element_separator.into_bytes().into(),
            element: element?,
        })
    }

    /// The fragment of a request. Of several headers of that name the first counts.
    fn of<'a>(&self, request: &RequestView<'a>) -> Option<&'a [u8]> {
        let value = self.name.in_request(request)?;
        let mut elements = Elements {
            rest: Some(value),
            separator: &self.separator,
        };
        match &self.element {
            Element::Index(index) => elements.nth(*index),
            Element::Keyed { key, separator } => elements.find_map(|element| {
                let (found, value) = split_once(element, separator).unwrap_or((element, b""));
                (*found == **key).then_some(value)
            }),
        }
    }
}

/// What stands between separators.
struct Elements<'a, 'b> {
    rest: Option<&'a [u8]>,
    separator: &'b [u8],
}

impl<'a> Iterator for Elements<'a, '_> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.take()?;
        match split_once(rest, self.separator) {
            Some((element, rest)) => {
                self.rest = Some(rest);
                Some(element)
            }
            None => Some(rest),
        }
    }
}

/// `None` when the separator is empty, or not there.
fn split_once<'a>(text: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    if separator.is_empty() {
        return None;
    }
    let at = text
        .windows(separator.len())
        .position(|window| window == separator)?;
    Some((&text[..at], &text[at + separator.len()..]))
}

/// Where the route tables come from that scopes name.
#[derive(Clone, Copy, Debug)]
pub struct ScopeRoutes<'a> {
    /// `rds_config_source`; a scope with its routes inline needs none.
    pub source: Option<&'a ConfigSource>,
    /// `http.STAT_PREFIX.` of the connection manager.
    pub stat_prefix: &'a str,
}

/// `envoy.config.route.v3.ScopedRouteConfiguration`, compiled.
#[derive(Debug)]
pub struct Scope {
    /// What its requests are known by.
    pub key: ScopeKey,
    /// Its routes.
    pub routes: ScopedTable,
    /// `on_demand`, whether somebody has asked or not.
    pub on_demand: bool,
}

/// The routes of a scope.
#[derive(Clone, Debug)]
pub enum ScopedTable {
    /// They stand in the scope.
    Inline(Arc<Slot<RouteTable>>),
    /// They come by RDS.
    Discovered(Arc<Slot<RouteTable>>),
    /// They would come by RDS if somebody asked for them: `on_demand`.
    OnDemand,
}

impl ScopedTable {
    /// Where they are, unless nobody has asked for them.
    pub fn slot(&self) -> Option<&Arc<Slot<RouteTable>>> {
        match self {
            Self::Inline(slot) | Self::Discovered(slot) => Some(slot),
            Self::OnDemand => None,
        }
    }
}

impl Scope {
    /// Compiles a scope; `demanded` says that its routes are wanted although it is
    /// `on_demand`.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(
        message: ScopedRouteConfiguration,
        routes: ScopeRoutes<'_>,
        demanded: bool,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let ScopedRouteConfiguration {
            // Whoever compiles it knows it.
            name: _,
            route_configuration_name,
            key,
            on_demand,
            route_configuration,
        } = message;
        let key = key.ok_or_else(|| at.field("key").error("is required"))?;
        let routes = match route_configuration {
            // It counts also where there is a name, as in Envoy.
            Some(message) => {
                let at = at.field("route_configuration");
                let name = message.name.clone();
                let table = RouteTable::compile_inline(message, cx, &at)?;
                ScopedTable::Inline(Arc::new(Slot::fixed(name, Arc::new(table))))
            }
            None => {
                let at = at.field("route_configuration_name");
                if route_configuration_name.is_empty() {
                    return Err(at.error("route_configuration_name is empty."));
                }
                let source = routes.source.ok_or_else(|| {
                    at.error("scoped_routes has no rds_config_source to get it from")
                })?;
                if on_demand && !demanded {
                    ScopedTable::OnDemand
                } else {
                    let (name, prefix) = (&route_configuration_name, routes.stat_prefix);
                    let slot = cx.sources.routes(source, name, prefix, &at)?;
                    ScopedTable::Discovered(slot)
                }
            }
        };
        Ok(Self {
            key: ScopeKey::of(&key),
            on_demand: on_demand && !matches!(routes, ScopedTable::Inline(_)),
            routes,
        })
    }
}

/// All scopes of a connection manager, by key.
#[derive(Debug, Default)]
pub struct ScopeTable {
    scopes: HashMap<ScopeKey, ScopedTable, RandomState>,
}

impl ScopeTable {
    /// Of two scopes with the same key the second counts.
    pub fn new<'a>(scopes: impl IntoIterator<Item = &'a Scope>) -> Self {
        let scopes = scopes.into_iter();
        Self {
            scopes: scopes
                .map(|scope| (scope.key.clone(), scope.routes.clone()))
                .collect(),
        }
    }

    /// The routes of the scope with this key.
    pub fn find(&self, key: &ScopeKey) -> Option<&ScopedTable> {
        self.scopes.get(key)
    }
}

/// `envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes`.
#[derive(Debug)]
pub struct ScopedRoutes {
    /// How a request's key is made.
    pub key: ScopeKeyBuilder,
    /// The scopes, inline or by SRDS.
    pub scopes: Arc<Slot<ScopeTable>>,
    /// How the routes of a scope that is `on_demand` are asked for; by SRDS.
    pub demand: Option<Demand>,
}

/// Where a connection manager has its routes from.
#[derive(Debug)]
pub enum Routes {
    /// One table for all requests, inline or by RDS.
    Table(Arc<Slot<RouteTable>>),
    /// A table for each scope.
    Scoped(ScopedRoutes),
}

/// A table in force, without touching its reference count where possible.
pub type TableGuard = arc_swap::Guard<Option<Arc<RouteTable>>>;

impl Routes {
    /// The table in force for a request; none while it has not come, and where no
    /// scope has the request's key. Only scopes look at the request.
    pub fn of<'r>(&self, request: impl FnOnce() -> RequestView<'r>) -> TableGuard {
        match self {
            Self::Table(slot) => slot.get(),
            Self::Scoped(scoped) => scoped
                .of(&request())
                .unwrap_or_else(|| TableGuard::from_inner(None)),
        }
    }
}

impl ScopedRoutes {
    /// Asks for the routes of a request's scope. `None` when there is no such scope,
    /// or its routes have been asked for.
    pub fn ask(&self, request: &RequestView<'_>) -> Option<oneshot::Receiver<()>> {
        let demand = self.demand.as_ref()?;
        let key = self.key.key(request)?;
        match self.scopes.get().as_ref()?.find(&key)? {
            ScopedTable::OnDemand => demand.ask(What::Scope(key)),
            ScopedTable::Inline(_) | ScopedTable::Discovered(_) => None,
        }
    }

    fn of(&self, request: &RequestView<'_>) -> Option<TableGuard> {
        let key = self.key.key(request)?;
        let scopes = self.scopes.get();
        let routes = scopes.as_ref()?.find(&key)?.slot()?;
        Some(routes.get())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use crate::codec::Headers;

    use super::*;
    use crate::{config::Report, formatter::HeaderView, model::testing::read};

    fn builder(yaml: &str) -> Result<ScopeKeyBuilder, String> {
        let report = Report::new();
        ScopeKeyBuilder::compile(read(yaml), &report.root()).map_err(|_| report.to_string())
    }

    fn one(extractor: &str) -> String {
        format!("fragments: [{{header_value_extractor: {{{extractor}}}}}]")
    }

    fn key(builder: &ScopeKeyBuilder, headers: &[(&'static str, &str)]) -> Option<ScopeKey> {
        let map: Headers = headers
            .iter()
            .map(|(name, value)| {
                let value = HeaderValue::from_str(value).unwrap();
                (HeaderName::from_static(name), value)
            })
            .collect();
        builder.key(&RequestView {
            method: "GET",
            scheme: "http",
            authority: "a.com",
            path: "/",
            headers: HeaderView::Map(&map),
        })
    }

    fn of(fragments: &[&str]) -> Option<ScopeKey> {
        let mut key = ScopeKey::default();
        fragments.iter().for_each(|f| key.push(f.as_bytes()));
        Some(key)
    }

    #[test]
    fn an_element_is_found_by_its_key() {
        let builder = builder(&one(
            "name: X-Sel, element_separator: ';', element: {key: vip, separator: '='}",
        ))
        .unwrap();
        for (value, found) in [
            ("vip=a", of(&["a"])),
            ("x;vip=b;vip=c", of(&["b"])),
            ("vip=a=b", of(&["a=b"])),
            ("vip", of(&[""])),
            ("vip=", of(&[""])),
            ("x=vip", None),
            ("", None),
        ] {
            assert_eq!(key(&builder, &[("x-sel", value)]), found, "{value:?}");
        }
        assert_eq!(key(&builder, &[]), None);
        assert_eq!(
            key(&builder, &[("x-sel", "vip=a"), ("x-sel", "vip=b")]),
            of(&["a"])
        );
    }

    #[test]
    fn an_element_is_found_by_its_place() {
        let two = "fragments: [\
            {header_value_extractor: {name: x, element_separator: ', ', index: 1}}, \
            {header_value_extractor: {name: ':authority', index: 0}}]";
        let builder = builder(two).unwrap();
        assert_eq!(key(&builder, &[("x", "a, b, c")]), of(&["b", "a.com"]));
        assert_eq!(key(&builder, &[("x", "a")]), None);
        assert_ne!(of(&["b", "a.com"]), of(&["ba", ".com"]));
    }

    #[test]
    fn an_element_that_cannot_be_found_is_refused() {
        assert_eq!(
            builder(&one("name: x, index: 1")).unwrap_err(),
            "fragments[0].header_value_extractor.index: \
             Index > 0 for empty string element separator."
        );
        assert_eq!(
            builder(&one("name: x")).unwrap_err(),
            "fragments[0].header_value_extractor: HeaderValueExtractor extract_type not set."
        );
    }
}

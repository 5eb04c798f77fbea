//! The whole table.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use http::header::HeaderName;

use crate::{
    api::envoy::config::route::v3::RouteConfiguration,
    config::{At, Reported},
    formatter::RequestView,
    model::Context,
    refuse,
    xds::demand::Demand,
};

use super::{
    discovered::{self, HostTable, HostsWanted},
    entry::{Action, Limits, Route},
    headers::HeaderRules,
    hosts::{Hosts, without_port},
    mirror::{MIRRORS, Mirror},
    per_filter::PerFilter,
    virtual_host::{VirtualHost, lower_domains},
};

/// The largest body of a direct response unless the table says otherwise.
pub const DEFAULT_MAX_DIRECT_RESPONSE_BODY: u64 = 4096;

/// Virtual hosts and their routes, compiled for matching.
#[derive(Debug)]
pub struct RouteTable {
    name: Arc<str>,
    hosts: Hosts,
    virtual_hosts: Box<[Arc<VirtualHost>]>,
    /// Asks for hosts that are not here: `vhds`.
    demand: Option<Demand>,
    pub(super) request_headers: HeaderRules,
    pub(super) response_headers: HeaderRules,
    /// Rules are followed from the table to the route; else from the route to the table.
    pub(super) most_specific_wins: bool,
    internal_only_headers: Box<[HeaderName]>,
    ignore_port: bool,
    ignore_path_parameters: bool,
    /// Who gets a copy of requests for which neither route nor virtual host says it.
    pub(super) mirrors: Box<[Mirror]>,
    pub(super) per_filter: PerFilter,
}

/// A route in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteIndex {
    /// Index of the virtual host.
    pub virtual_host: u32,
    /// Index of the route in it.
    pub route: u32,
}

/// What became of looking for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No virtual host has this domain.
    NoVirtualHost,
    /// The virtual host of this index has no route for it.
    NoRoute(u32),
    /// The virtual host of this index wants https: 301 to its [`https_location`](super::https_location).
    TlsRequired(u32),
    /// This one.
    Found(RouteIndex),
}

impl RouteTable {
    /// Compiles a table that stands in another resource: it has to lead to clusters
    /// that exist, unless it says otherwise.
    ///
    /// # Errors
    /// As for [`RouteTable::compile`], and for `vhds`, which is for tables by RDS.
    pub fn compile_inline(
        mut message: RouteConfiguration,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        message.validate_clusters.get_or_insert(true);
        if message.vhds.take().is_some() {
            return Err(at
                .field("vhds")
                .error("is for route configurations that come by RDS"));
        }
        Self::compile(message, cx, at)
    }

    /// Compiles a table, with the virtual hosts that have come for it by VHDS.
    ///
    /// # Errors
    /// Every one there is in it: a domain that stands twice, whatever
    /// is wrong with a route, a field that is not supported.
    pub fn compile(
        message: RouteConfiguration,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let RouteConfiguration {
            name,
            virtual_hosts,
            internal_only_headers,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_add,
            validate_clusters,
            request_headers_to_remove,
            vhds,
            most_specific_header_mutations_wins,
            max_direct_response_body_size_bytes,
            cluster_specifier_plugins,
            request_mirror_policies,
            ignore_port_in_host_matching,
            ignore_path_parameters_in_path_matching,
            typed_per_filter_config,
            // For filters that read it; none does.
            metadata: _,
            vhost_header,
            route_specifiers,
        } = message;
        let refused = refuse!(at; cluster_specifier_plugins, vhost_header, route_specifiers);
        let mut outcome = refused;
        let per_filter = PerFilter::compile(typed_per_filter_config, cx, at);
        let mirrors = Mirror::compile_all(request_mirror_policies, cx, &at.field(MIRRORS));
        let (request_headers, response_headers) = HeaderRules::compile_both(
            (request_headers_to_add, request_headers_to_remove),
            (response_headers_to_add, response_headers_to_remove),
            at,
        );
        let limits = Limits {
            direct_response_body: max_direct_response_body_size_bytes
                .map_or(DEFAULT_MAX_DIRECT_RESPONSE_BODY, u64::from),
        };
        let mut internal = Vec::with_capacity(internal_only_headers.len());
        let internal_at = at.field("internal_only_headers");
        for (index, header) in internal_only_headers.iter().enumerate() {
            match HeaderName::from_bytes(header.as_bytes()) {
                Ok(header) => internal.push(header),
                Err(_) => {
                    outcome = Err(internal_at
                        .index(index)
                        .error(format_args!("{header:?} is not a valid header name")));
                }
            }
        }
        let mut hosts = Hosts::for_many(virtual_hosts.len());
        let mut compiled = Vec::with_capacity(virtual_hosts.len());
        let hosts_at = at.field("virtual_hosts");
        for (index, message) in (0u32..).zip(virtual_hosts) {
            let at = hosts_at.index(index as usize);
            let mut insert = |domains: &[Arc<str>]| {
                let at = at.field("domains");
                for (i, domain) in domains.iter().enumerate() {
                    if !hosts.insert(domain, index) {
                        outcome = Err(at.index(i).error(format_args!(
                            "the domain {domain:?} stands twice in the route table {name:?}"
                        )));
                    }
                }
            };
            match VirtualHost::shared(&message, limits, cx, &at) {
                Ok(host) => {
                    insert(host.domains());
                    compiled.push(host);
                }
                Err(reported) => {
                    insert(
                        &message
                            .decode()
                            .map_or_else(|_| Box::default(), lower_domains),
                    );
                    outcome = Err(reported);
                }
            }
        }
        let must_exist = validate_clusters.unwrap_or(false);
        let discovered = vhds.map(|vhds| {
            let wanted = HostsWanted {
                route_config: name.as_str().into(),
                max_direct_response_body: limits.direct_response_body,
                validate_clusters: must_exist,
            };
            discovered::subscribe(vhds, wanted, cx, &at.field("vhds"))
        });
        outcome?;
        let mirrors = mirrors?;
        if let Err(reported) = Mirror::check_clusters(&mirrors, must_exist, cx, at) {
            outcome = Err(reported);
        }
        for (index, host) in compiled.iter().enumerate() {
            let at = hosts_at.index(index);
            if let Err(reported) = check_clusters(host, must_exist, cx, &at) {
                outcome = Err(reported);
            }
        }
        let discovered = discovered.transpose()?;
        if let Some(found) = discovered.as_ref().and_then(|d| d.hosts.get().clone()) {
            let added = add_discovered(&found, &mut hosts, &mut compiled, &name, at);
            outcome = outcome.and(added);
        }
        outcome?;
        Ok(Self {
            name: name.into(),
            hosts,
            virtual_hosts: compiled.into(),
            demand: discovered.map(|discovered| discovered.demand),
            request_headers: request_headers?,
            response_headers: response_headers?,
            most_specific_wins: most_specific_header_mutations_wins,
            internal_only_headers: internal.into(),
            ignore_port: ignore_port_in_host_matching,
            ignore_path_parameters: ignore_path_parameters_in_path_matching,
            mirrors,
            per_filter: per_filter?,
        })
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The route of a request. `random` is the request's random number, against
    /// which `runtime_fraction` is held.
    pub fn find(&self, request: &RequestView<'_>, random: u64) -> Outcome {
        let host = match self.ignore_port {
            true => without_port(request.authority),
            false => request.authority,
        };
        let Some(index) = self.hosts.find(host) else {
            return Outcome::NoVirtualHost;
        };
        let virtual_host = &self.virtual_hosts[index as usize];
        if virtual_host.wants_tls(request) {
            return Outcome::TlsRequired(index);
        }
        let end = request.path.find(['?', '#']).unwrap_or(request.path.len());
        let mut path = Cow::Borrowed(&request.path[..end]);
        if self.ignore_path_parameters && path.contains(';') {
            path = without_parameters(&path).into();
        }
        match virtual_host.find(request, &path, random) {
            Some(route) => Outcome::Found(RouteIndex {
                virtual_host: index,
                route,
            }),
            None => Outcome::NoRoute(index),
        }
    }

    /// A route that [`RouteTable::find`] gave.
    pub fn route(&self, index: RouteIndex) -> &Route {
        &self.virtual_host(index.virtual_host).routes[index.route as usize]
    }

    /// A virtual host that [`RouteTable::find`] gave.
    pub fn virtual_host(&self, index: u32) -> &VirtualHost {
        &self.virtual_hosts[index as usize]
    }

    /// How a virtual host is asked for that is not here.
    pub fn demand(&self) -> Option<&Demand> {
        self.demand.as_ref()
    }

    /// Headers that a request from outside may not bring.
    pub fn internal_only_headers(&self) -> &[HeaderName] {
        &self.internal_only_headers
    }

    /// The clusters it names, each once.
    pub fn referenced_clusters(&self) -> HashSet<&Arc<str>> {
        let hosts = self.virtual_hosts.iter();
        let routes = hosts.clone().flat_map(|host| &host.routes);
        let forwards = routes.filter_map(|route| match &route.action {
            Action::Forward(forward) => Some(forward),
            _ => None,
        });
        let mirrors = forwards.clone().flat_map(|forward| &forward.mirrors);
        let mirrors = mirrors.chain(hosts.flat_map(|host| &host.mirrors));
        let mirrors = mirrors.chain(&self.mirrors).filter_map(Mirror::name);
        let named = forwards.flat_map(|forward| forward.cluster.names());
        named.map(|(_, name)| name).chain(mirrors).collect()
    }
}

/// A path without the `;parameters` of its segments.
fn without_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| segment.split(';').next());
    segments
        .map(Option::unwrap_or_default)
        .collect::<Vec<_>>()
        .join("/")
}

/// Adds the virtual hosts that came by VHDS to those of the table itself.
fn add_discovered(
    found: &HostTable,
    hosts: &mut Hosts,
    compiled: &mut Vec<Arc<VirtualHost>>,
    table: &str,
    at: &At<'_>,
) -> Result<(), Reported> {
    let mut outcome = Ok(());
    for (index, host) in (compiled.len() as u32..).zip(found.iter()) {
        for domain in host.domains() {
            if !hosts.insert(domain, index) {
                outcome = Err(at.field("vhds").error(format_args!(
                    "the domain {domain:?} of the virtual host {:?} stands twice in the route \
                     table {table:?}",
                    host.host().name()
                )));
            }
        }
        compiled.push(host.host().clone());
    }
    outcome
}

/// Says which clusters the routes of a virtual host lead to. `validate_clusters`
/// is false unless set; whoever compiles a table that is part of another resource
/// sets it.
pub(super) fn check_clusters(
    host: &VirtualHost,
    must_exist: bool,
    cx: &Context<'_>,
    at: &At<'_>,
) -> Result<(), Reported> {
    let mut outcome = Mirror::check_clusters(&host.mirrors, must_exist, cx, at);
    let at = at.field("routes");
    for (r, route) in host.routes.iter().enumerate() {
        let Action::Forward(forward) = &route.action else {
            continue;
        };
        let at = at.index(r);
        let at = at.field("route");
        if let Err(reported) = Mirror::check_clusters(&forward.mirrors, must_exist, cx, &at) {
            outcome = Err(reported);
        }
        for (weighted, name) in forward.cluster.names() {
            let known = match weighted {
                None => cx.sources.cluster(name, must_exist, &at.field("cluster")),
                Some(index) => {
                    let at = at.field("weighted_clusters");
                    let at = at.field("clusters");
                    let at = at.index(index);
                    cx.sources.cluster(name, must_exist, &at.field("name"))
                }
            };
            if let Err(reported) = known {
                outcome = Err(reported);
            }
        }
    }
    outcome
}

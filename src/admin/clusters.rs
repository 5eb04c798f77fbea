//! `/clusters`: clusters, their limits and their hosts.

use std::{fmt::Write, rc::Rc, sync::Arc, vec::IntoIter};

use crate::{
    api::envoy::{
        admin::v3 as pb,
        config::{
            cluster::v3::{CircuitBreakers, circuit_breakers::Thresholds as PbThresholds},
            core::v3::{HealthStatus, Locality, RoutingPriority},
        },
    },
    model::cluster::Cluster,
    upstream::{Endpoint, EndpointStatus, HealthFlag, HostStat, Priority, breakers::Thresholds},
};

use super::{
    State,
    answer::{Answer, JSON, Parts, TEXT},
    endpoint::WRITE,
    json::{self, Defaults},
    listeners,
    request::{self, Request},
    state::Kind,
};

pub(super) fn answer(state: &Rc<State>, request: &Request) -> Answer {
    let filter = match request.param("filter").filter(|filter| !filter.is_empty()) {
        None => None,
        Some(filter) => match request::regex(filter) {
            Ok(filter) => Some(filter),
            Err(_) => return Answer::bad_request("Invalid re2 regex"),
        },
    };
    let snapshot = state.snapshot.load();
    let chosen = |name: &str| filter.as_ref().is_none_or(|filter| filter.is_match(name));
    let mut clusters: Vec<_> = snapshot.clusters.values().cloned().collect();
    clusters.retain(|cluster| chosen(&cluster.name));
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    let listing = Listing {
        clusters: clusters.into_iter(),
        dynamic: state.config.added(Kind::Cluster),
        begun: false,
        done: false,
    };
    match request.param("format") {
        Some("json") => Answer::parts(JSON, JsonListing(listing)),
        _ => Answer::parts(TEXT, TextListing(listing)),
    }
}

struct Listing {
    clusters: IntoIter<Arc<Cluster>>,
    dynamic: std::collections::HashSet<Arc<str>>,
    begun: bool,
    done: bool,
}

struct TextListing(Listing);

impl Parts for TextListing {
    fn write_next(&mut self, out: &mut String) -> bool {
        let Some(cluster) = self.0.clusters.next() else {
            return false;
        };
        let added = self.0.dynamic.contains(&cluster.name);
        write_text(out, &cluster, added).expect(WRITE);
        true
    }
}

fn write_text(out: &mut String, cluster: &Cluster, added_via_api: bool) -> std::fmt::Result {
    let name = &cluster.name;
    writeln!(
        out,
        "{name}::observability_name::{}",
        cluster.observability_name
    )?;
    for (priority, label) in PRIORITIES {
        let Thresholds {
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            ..
        } = cluster.thresholds(priority);
        for (what, limit) in [
            ("max_connections", max_connections),
            ("max_pending_requests", max_pending_requests),
            ("max_requests", max_requests),
            ("max_retries", max_retries),
        ] {
            writeln!(out, "{name}::{label}_priority::{what}::{limit}")?;
        }
    }
    writeln!(out, "{name}::added_via_api::{added_via_api}")?;
    for endpoint in cluster.hosts().load().endpoints() {
        let host = &endpoint.host;
        let address = host.address();
        let mut line = |what: &str, value: &dyn std::fmt::Display| {
            writeln!(out, "{name}::{address}::{what}::{value}")
        };
        for (stat, label, _) in HostStat::ALL {
            line(label, &host.stat(stat))?;
        }
        line("hostname", &endpoint.hostname)?;
        line("health_flags", &endpoint.health_flags())?;
        line("weight", &endpoint.weight)?;
        line("region", &endpoint.locality.region)?;
        line("zone", &endpoint.locality.zone)?;
        line("sub_zone", &endpoint.locality.sub_zone)?;
        line("canary", &endpoint.is_canary())?;
        line("priority", &endpoint.priority)?;
        // Known only to outlier detection by success rate.
        line("success_rate", &-1)?;
        line("local_origin_success_rate", &-1)?;
    }
    Ok(())
}

const PRIORITIES: [(Priority, &str); 2] =
    [(Priority::Default, "default"), (Priority::High, "high")];

struct JsonListing(Listing);

impl Parts for JsonListing {
    fn write_next(&mut self, out: &mut String) -> bool {
        let listing = &mut self.0;
        if listing.done {
            return false;
        }
        match listing.clusters.next() {
            Some(cluster) => {
                out.push_str(match listing.begun {
                    false => "{\n \"cluster_statuses\": [\n  ",
                    true => ",\n  ",
                });
                listing.begun = true;
                let added = listing.dynamic.contains(&cluster.name);
                let status = json::reflect(&status(&cluster, added));
                json::write(out, &status, 2, Defaults::Skip);
            }
            None => {
                out.push_str(if listing.begun { "\n ]\n}\n" } else { "{}\n" });
                listing.done = true;
            }
        }
        true
    }
}

fn status(cluster: &Cluster, added_via_api: bool) -> pb::ClusterStatus {
    let thresholds = PRIORITIES.map(|(priority, _)| {
        let limits = cluster.thresholds(priority);
        PbThresholds {
            priority: match priority {
                Priority::Default => RoutingPriority::Default,
                Priority::High => RoutingPriority::High,
            }
            .into(),
            max_connections: Some(limits.max_connections),
            max_pending_requests: Some(limits.max_pending_requests),
            max_requests: Some(limits.max_requests),
            max_retries: Some(limits.max_retries),
            ..Default::default()
        }
    });
    pb::ClusterStatus {
        name: cluster.name.to_string(),
        added_via_api,
        host_statuses: cluster
            .hosts()
            .load()
            .endpoints()
            .map(|endpoint| host_status(endpoint))
            .collect(),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: thresholds.into(),
            per_host_thresholds: Vec::new(),
        }),
        observability_name: cluster.observability_name.to_string(),
        ..Default::default()
    }
}

fn host_status(endpoint: &Endpoint) -> pb::HostStatus {
    let host = &endpoint.host;
    let flag = |flag| host.has_flag(flag);
    // Counters first, as Envoy has them.
    let (gauges, counters): (Vec<_>, Vec<_>) = HostStat::ALL
        .into_iter()
        .partition(|(_, _, is_gauge)| *is_gauge);
    let stats = counters.into_iter().chain(gauges);
    pb::HostStatus {
        address: Some(listeners::message_of(&host.address())),
        stats: stats
            .map(|(stat, name, is_gauge)| pb::SimpleMetric {
                r#type: match is_gauge {
                    true => pb::simple_metric::Type::Gauge,
                    false => pb::simple_metric::Type::Counter,
                }
                .into(),
                value: host.stat(stat),
                name: name.to_owned(),
            })
            .collect(),
        health_status: Some(pb::HostHealthStatus {
            failed_active_health_check: flag(HealthFlag::FailedActiveHealthCheck),
            failed_outlier_check: flag(HealthFlag::FailedOutlierCheck),
            failed_active_degraded_check: flag(HealthFlag::DegradedActiveHealthCheck),
            pending_active_hc: flag(HealthFlag::PendingActiveHealthCheck),
            eds_health_status: health_status(endpoint).into(),
            ..Default::default()
        }),
        weight: endpoint.weight,
        hostname: endpoint.hostname.to_string(),
        priority: endpoint.priority,
        locality: Some(locality(endpoint)),
        ..Default::default()
    }
}

/// What the control plane says of a host's health, as the API names it.
pub(super) fn health_status(endpoint: &Endpoint) -> HealthStatus {
    match endpoint.status {
        EndpointStatus::Healthy => HealthStatus::Healthy,
        EndpointStatus::Unhealthy => HealthStatus::Unhealthy,
        EndpointStatus::Draining => HealthStatus::Draining,
        EndpointStatus::Timeout => HealthStatus::Timeout,
        EndpointStatus::Degraded => HealthStatus::Degraded,
    }
}

/// Where a host stands, as the API writes it.
pub(super) fn locality(endpoint: &Endpoint) -> Locality {
    Locality {
        region: endpoint.locality.region.to_string(),
        zone: endpoint.locality.zone.to_string(),
        sub_zone: endpoint.locality.sub_zone.to_string(),
    }
}

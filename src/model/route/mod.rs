//! `envoy.config.route.v3.RouteConfiguration`, compiled.

/// Virtual hosts and their routes, compiled for matching.
#[derive(Debug)]
pub struct RouteTable {}

//! `request_mirror_policies`, compiled: clusters that get a copy of each request.

use std::sync::Arc;

use crate::{
    api::envoy::config::route::v3::route_action::RequestMirrorPolicy as Message,
    codec::RequestHead,
    config::{At, Reported},
    formatter::{FieldName, RequestView},
    model::Context,
    refuse,
    runtime::RuntimeFraction,
};

use super::{cluster::ClusterName, hosts::without_port, set_host};

/// The field of routes, virtual hosts and tables.
pub(super) const MIRRORS: &str = "request_mirror_policies";

/// A cluster that gets a copy of requests, whose answers nobody reads.
#[derive(Clone, Debug)]
pub struct Mirror {
    cluster: ClusterName,
    /// Of how many; of all when `None`.
    fraction: Option<RuntimeFraction>,
    host: CopyHost,
}

/// What host a copy names.
#[derive(Clone, Debug)]
enum CopyHost {
    /// The request's, with `-shadow` behind its name.
    Shadow,
    /// The request's.
    Same,
    /// This one.
    Literal(Box<str>),
}

impl Mirror {
    /// Compiles policies in their order.
    ///
    /// # Errors
    /// A policy without a cluster, or with what is not supported.
    pub(super) fn compile_all(
        messages: Vec<Message>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Box<[Self]>, Reported> {
        let mut outcome = Ok(());
        let mut compiled = Vec::with_capacity(messages.len());
        for (index, message) in messages.into_iter().enumerate() {
            match Self::compile(message, cx, &at.index(index)) {
                Ok(mirror) => compiled.push(mirror),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| compiled.into())
    }

    fn compile(message: Message, cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let Message {
            cluster,
            runtime_fraction,
            // There are no traces.
            trace_sampled: _,
            cluster_header,
            disable_shadow_host_suffix_append,
            request_headers_mutations,
            host_rewrite_literal,
        } = message;
        refuse!(at; request_headers_mutations)?;
        let cluster = match (cluster.is_empty(), cluster_header.is_empty()) {
            (false, true) => ClusterName::Fixed(cluster.into()),
            (true, false) => {
                let at = at.field("cluster_header");
                let name = FieldName::parse(&cluster_header).map_err(|error| at.error(error))?;
                ClusterName::Header(name)
            }
            _ => return Err(at.error("exactly one of cluster and cluster_header is required")),
        };
        let fraction = runtime_fraction
            .map(|fraction| {
                RuntimeFraction::compile(fraction, cx.runtime, &at.field("runtime_fraction"))
            })
            .transpose()?;
        let host = match (
            host_rewrite_literal.is_empty(),
            disable_shadow_host_suffix_append,
        ) {
            (false, _) => CopyHost::Literal(host_rewrite_literal.into()),
            (true, true) => CopyHost::Same,
            (true, false) => CopyHost::Shadow,
        };
        Ok(Self {
            cluster,
            fraction,
            host,
        })
    }

    /// The cluster it names itself.
    pub(super) fn name(&self) -> Option<&Arc<str>> {
        match &self.cluster {
            ClusterName::Fixed(name) => Some(name),
            ClusterName::Header(_) => None,
        }
    }

    /// Says which clusters these lead to.
    pub(super) fn check_clusters(
        mirrors: &[Self],
        must_exist: bool,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<(), Reported> {
        let mut outcome = Ok(());
        let at = at.field(MIRRORS);
        for (index, mirror) in mirrors.iter().enumerate() {
            let at = at.index(index);
            let known = mirror
                .name()
                .map(|name| cx.sources.cluster(name, must_exist, &at.field("cluster")));
            if let Some(Err(reported)) = known {
                outcome = Err(reported);
            }
        }
        outcome
    }

    /// The cluster that gets a copy of this request. `random` is the same for all
    /// mirrors of a request.
    pub fn cluster<'a>(&'a self, request: &RequestView<'a>, random: u64) -> Option<&'a str> {
        let wants = |fraction: &RuntimeFraction| fraction.enabled(random);
        if !self.fraction.as_ref().is_none_or(wants) {
            return None;
        }
        match &self.cluster {
            ClusterName::Fixed(name) => Some(name),
            ClusterName::Header(name) => {
                let value = name.in_request(request)?;
                let name = std::str::from_utf8(value).ok()?;
                (!name.is_empty()).then_some(name)
            }
        }
    }

    /// Names the host of a copy.
    pub fn address(&self, copy: &mut RequestHead) {
        match &self.host {
            CopyHost::Same => {}
            CopyHost::Literal(host) => set_host(copy, host, false, false),
            CopyHost::Shadow => {
                let host = RequestView::of(copy, "").authority;
                let name = without_port(host);
                let shadow = format!("{name}-shadow{}", &host[name.len()..]);
                set_host(copy, &shadow, false, false);
            }
        }
    }
}

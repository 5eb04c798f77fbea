//! Which cluster a route leads to.

use std::sync::Arc;

use http::header::HeaderName;

use crate::{
    api::envoy::config::{
        core::v3::{Metadata, RuntimeUInt32},
        route::v3::{
            WeightedCluster,
            route_action::ClusterSpecifier,
            weighted_cluster::{
                ClusterWeight, RandomValueSpecifier, cluster_weight::HostRewriteSpecifier,
            },
        },
    },
    config::{At, Reported},
    formatter::{FieldName, RequestView},
    model::Context,
    refuse,
    runtime::RuntimeNumber,
    upstream::balance::MetadataMatch,
};

use super::headers::HeaderRules;

/// Where a route's cluster comes from.
#[derive(Clone, Debug)]
pub enum ClusterChoice {
    /// Always the same.
    Name(Arc<str>),
    /// Named by a request header; no such header is no such cluster.
    Header(FieldName),
    /// One of several, by weight.
    Weighted(Weighted),
}

/// Clusters with weights.
#[derive(Clone, Debug)]
pub struct Weighted {
    clusters: Box<[WeightedEntry]>,
    total: u64,
    /// Weights that the runtime may change; empty when it may not.
    weights: Box<[RuntimeNumber]>,
    /// A request header that holds the random number.
    random_header: Option<HeaderName>,
    /// The random number is the request's hash by `hash_policy`.
    use_hash_policy: bool,
}

/// One of several clusters.
#[derive(Clone, Debug)]
pub struct WeightedEntry {
    /// The cluster.
    pub cluster: ClusterName,
    /// `metadata_match`, with the route's besides.
    pub metadata_match: Option<MetadataMatch>,
    /// Rules for requests that go there.
    pub request_headers: HeaderRules,
    /// Rules for responses that come from there.
    pub response_headers: HeaderRules,
    /// `host_rewrite_literal`, before the route's.
    pub host_rewrite: Option<Box<str>>,
    /// Weights up to and with this one.
    up_to: u64,
}

/// The name of a weighted cluster.
#[derive(Clone, Debug)]
pub enum ClusterName {
    /// Given.
    Fixed(Arc<str>),
    /// In a request header.
    Header(FieldName),
}

/// The outcome of a [`ClusterChoice`] for one request.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a, 'r> {
    /// The cluster's name; empty when the header that holds it is missing.
    pub name: ChosenName<'a, 'r>,
    /// The entry, when it was one of several.
    pub entry: Option<&'a WeightedEntry>,
}

/// A chosen cluster's name: configured ones can be looked up by identity.
#[derive(Clone, Copy, Debug)]
pub enum ChosenName<'a, 'r> {
    /// From the configuration.
    Configured(&'a Arc<str>),
    /// From a request header.
    Requested(&'r str),
}

impl<'a: 'r, 'r> ChosenName<'a, 'r> {
    /// The name.
    pub fn as_str(self) -> &'r str {
        match self {
            Self::Configured(name) => name,
            Self::Requested(name) => name,
        }
    }
}

impl ClusterChoice {
    pub(super) fn compile(
        message: Option<ClusterSpecifier>,
        metadata_match: Option<&Metadata>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        match message {
            None => {
                Err(at.error("one of cluster, cluster_header and weighted_clusters is required"))
            }
            Some(ClusterSpecifier::Cluster(name)) => Ok(Self::Name(name.into())),
            Some(ClusterSpecifier::ClusterHeader(name)) => {
                header(&name, &at.field("cluster_header")).map(Self::Header)
            }
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                let at = at.field("weighted_clusters");
                Weighted::compile(weighted, metadata_match, cx, &at).map(Self::Weighted)
            }
            Some(ClusterSpecifier::ClusterSpecifierPlugin(_)) => {
                Err(at.field("cluster_specifier_plugin").unsupported())
            }
            Some(ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
                Err(at.field("inline_cluster_specifier_plugin").unsupported())
            }
        }
    }

    /// The cluster for a request. `hash` gives the request's hash when the route has
    /// a `hash_policy` that gives one.
    pub fn choose<'a, 'r>(
        &'a self,
        request: &RequestView<'r>,
        random: u64,
        hash: impl FnOnce() -> Option<u64>,
    ) -> Chosen<'a, 'r> {
        match self {
            Self::Name(name) => Chosen {
                name: ChosenName::Configured(name),
                entry: None,
            },
            Self::Header(name) => Chosen {
                name: requested(name, request),
                entry: None,
            },
            Self::Weighted(weighted) => {
                let entry = weighted.choose(request, random, hash);
                let name = match &entry.cluster {
                    ClusterName::Fixed(name) => ChosenName::Configured(name),
                    ClusterName::Header(name) => requested(name, request),
                };
                Chosen {
                    name,
                    entry: Some(entry),
                }
            }
        }
    }

    /// Names that stand in the configuration; of weighted clusters each with its index.
    pub fn names(&self) -> impl Iterator<Item = (Option<usize>, &Arc<str>)> {
        let (one, several) = match self {
            Self::Name(name) => (Some(name), None),
            Self::Header(_) => (None, None),
            Self::Weighted(weighted) => (None, Some(weighted)),
        };
        let several = several.into_iter().flat_map(|w| &w.clusters).enumerate();
        let several = several.filter_map(|(index, entry)| match &entry.cluster {
            ClusterName::Fixed(name) => Some((Some(index), name)),
            ClusterName::Header(_) => None,
        });
        one.into_iter().map(|name| (None, name)).chain(several)
    }
}

fn header(name: &str, at: &At<'_>) -> Result<FieldName, Reported> {
    FieldName::parse(name).map_err(|error| at.error(error))
}

fn requested<'a, 'r>(name: &FieldName, request: &RequestView<'r>) -> ChosenName<'a, 'r> {
    let value = name.in_request(request);
    let text = value.and_then(|v| std::str::from_utf8(v).ok());
    ChosenName::Requested(text.unwrap_or_default())
}

impl Weighted {
    fn compile(
        message: WeightedCluster,
        metadata_match: Option<&Metadata>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let WeightedCluster {
            clusters,
            runtime_key_prefix,
            // Deprecated: the sum of the weights counts, as in Envoy.
            total_weight: _,
            random_value_specifier,
        } = message;
        let mut outcome = Ok(());
        let mut entries = Vec::with_capacity(clusters.len());
        let mut total = 0;
        let clusters_at = at.field("clusters");
        let mut weights = Vec::new();
        for (index, cluster) in clusters.into_iter().enumerate() {
            if !runtime_key_prefix.is_empty() {
                let weight = RuntimeUInt32 {
                    default_value: cluster.weight.unwrap_or_default(),
                    runtime_key: format!("{runtime_key_prefix}.{}", cluster.name),
                };
                weights.push(RuntimeNumber::compile(weight, cx.runtime));
            }
            let at = clusters_at.index(index);
            match WeightedEntry::compile(cluster, metadata_match, &mut total, &at) {
                Ok(entry) => entries.push(entry),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome?;
        if total == 0 {
            return Err(clusters_at.error("the sum of the weights must be greater than 0"));
        }
        if total > u32::MAX.into() {
            return Err(clusters_at.error(format_args!(
                "the sum of the weights is {total}; at most {} is allowed",
                u32::MAX
            )));
        }
        let (mut random_header, mut use_hash_policy) = (None, false);
        match random_value_specifier {
            Some(RandomValueSpecifier::HeaderName(name)) if !name.is_empty() => {
                let header_at = at.field("header_name");
                let name = HeaderName::from_bytes(name.as_bytes());
                random_header =
                    Some(name.map_err(|_| header_at.error("is not a valid header name"))?);
            }
            Some(RandomValueSpecifier::UseHashPolicy(on)) => use_hash_policy = on,
            Some(RandomValueSpecifier::HeaderName(_)) | None => {}
        }
        Ok(Self {
            clusters: entries.into(),
            total,
            weights: weights.into(),
            random_header,
            use_hash_policy,
        })
    }

    fn choose(
        &self,
        request: &RequestView<'_>,
        random: u64,
        hash: impl FnOnce() -> Option<u64>,
    ) -> &WeightedEntry {
        let from_header = || {
            let value = request.headers.get(self.random_header.as_ref()?)?;
            value.to_str().ok()?.parse().ok()
        };
        let hashed = self.use_hash_policy.then(hash).flatten();
        let number = match hashed {
            Some(hash) => hash,
            None => from_header().unwrap_or(random),
        };
        if !self.weights.is_empty() {
            return self.choose_by_runtime(number);
        }
        let point = number % self.total;
        let at = self.clusters.partition_point(|c| c.up_to <= point);
        &self.clusters[at]
    }

    fn choose_by_runtime(&self, number: u64) -> &WeightedEntry {
        let weights = || self.weights.iter().map(|weight| u64::from(weight.get()));
        // All weights of 0 leave the first.
        let mut left = number % weights().sum::<u64>().max(1);
        let weighted = self.clusters.iter().zip(weights());
        for (entry, weight) in weighted {
            if left < weight {
                return entry;
            }
            left -= weight;
        }
        &self.clusters[0]
    }
}

impl WeightedEntry {
    fn compile(
        message: ClusterWeight,
        of_route: Option<&Metadata>,
        total: &mut u64,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let ClusterWeight {
            name,
            weight,
            metadata_match,
            request_headers_to_add,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_remove,
            typed_per_filter_config,
            cluster_header,
            host_rewrite_specifier,
        } = message;
        // Filters have seen the request before one of these is chosen.
        let refused = refuse!(at; typed_per_filter_config);
        let (request_headers, response_headers) = HeaderRules::compile_both(
            (request_headers_to_add, request_headers_to_remove),
            (response_headers_to_add, response_headers_to_remove),
            at,
        );
        let cluster = match (name.is_empty(), cluster_header.is_empty()) {
            (false, true) => Ok(ClusterName::Fixed(name.into())),
            (true, false) => {
                header(&cluster_header, &at.field("cluster_header")).map(ClusterName::Header)
            }
            _ => Err(at.error("exactly one of name and cluster_header is required")),
        };
        let weight = weight.ok_or_else(|| at.field("weight").error("is required"));
        refused?;
        *total += u64::from(weight?);
        Ok(Self {
            cluster: cluster?,
            metadata_match: MetadataMatch::new(metadata_match.as_ref(), of_route),
            request_headers: request_headers?,
            response_headers: response_headers?,
            host_rewrite: host_rewrite_specifier.and_then(
                |HostRewriteSpecifier::HostRewriteLiteral(host)| {
                    (!host.is_empty()).then(|| host.into())
                },
            ),
            up_to: *total,
        })
    }
}

//! The clusters that a TCP proxy sends to.

use std::sync::Arc;

use crate::{
    api::envoy::{config::core::v3::Metadata, extensions::filters::network::tcp_proxy::v3 as pb},
    config::{At, Reported},
    model::Context,
    upstream::balance::MetadataMatch,
};

/// Where a connection goes.
#[derive(Debug)]
pub struct Route {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// What is asked of the host's metadata.
    pub metadata_match: Option<MetadataMatch>,
}

/// `cluster` or `weighted_clusters`.
#[derive(Debug)]
pub(super) enum Clusters {
    One(Route),
    /// Each with the sum of the weights up to and including its own.
    Weighted {
        clusters: Vec<(Route, u64)>,
        total: u64,
    },
}

impl Clusters {
    /// One of them; `random` is uniform.
    pub(super) fn choose(&self, random: u64) -> &Route {
        match self {
            Self::One(route) => route,
            Self::Weighted { clusters, total } => {
                let point = random % total;
                let index = clusters.partition_point(|(_, up_to)| *up_to <= point);
                &clusters[index].0
            }
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<str>> {
        let (one, many) = match self {
            Self::One(route) => (Some(route), [].as_slice()),
            Self::Weighted { clusters, .. } => (None, clusters.as_slice()),
        };
        let all = one.into_iter().chain(many.iter().map(|(route, _)| route));
        all.map(|route| &route.cluster)
    }

    /// `metadata_match` is the proxy's, for all of them.
    pub(super) fn compile(
        message: Option<pb::tcp_proxy::ClusterSpecifier>,
        metadata_match: Option<&Metadata>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        match message {
            Some(pb::tcp_proxy::ClusterSpecifier::Cluster(name)) => {
                cx.sources.cluster(&name, false, &at.field("cluster"))?;
                Ok(Self::One(Route {
                    cluster: name.into(),
                    metadata_match: MetadataMatch::new(metadata_match, None),
                }))
            }
            Some(pb::tcp_proxy::ClusterSpecifier::WeightedClusters(
                pb::tcp_proxy::WeightedCluster { clusters },
            )) => {
                let at = at.field("weighted_clusters");
                let at = at.field("clusters");
                let mut total = 0;
                let mut outcome = Ok(());
                let mut weighted = Vec::with_capacity(clusters.len());
                for (index, cluster) in clusters.into_iter().enumerate() {
                    let at = at.index(index);
                    let pb::tcp_proxy::weighted_cluster::ClusterWeight {
                        name,
                        weight,
                        metadata_match: own,
                    } = cluster;
                    if let Err(reported) = cx.sources.cluster(&name, false, &at.field("name")) {
                        outcome = Err(reported);
                    }
                    total += u64::from(weight);
                    let route = Route {
                        cluster: name.into(),
                        metadata_match: MetadataMatch::new(own.as_ref(), metadata_match),
                    };
                    weighted.push((route, total));
                }
                if total == 0 {
                    return Err(at.error("the weights add up to 0"));
                }
                outcome.map(|()| Self::Weighted {
                    clusters: weighted,
                    total,
                })
            }
            None => Err(at.error("one of cluster, weighted_clusters is required")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_shares() {
        let route = |name: &str| Route {
            cluster: name.into(),
            metadata_match: None,
        };
        let clusters = Clusters::Weighted {
            clusters: vec![(route("a"), 1), (route("b"), 4)],
            total: 4,
        };
        let chosen: Vec<&str> = (0..4)
            .map(|point| &*clusters.choose(point).cluster)
            .collect();
        assert_eq!(chosen, ["a", "b", "b", "b"]);
    }
}

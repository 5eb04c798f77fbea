//! The clusters that a TCP proxy sends to.

use std::sync::Arc;

use crate::{
    api::envoy::extensions::filters::network::tcp_proxy::v3 as pb,
    config::{At, Reported},
    model::Context,
    refuse,
};

/// `cluster` or `weighted_clusters`.
#[derive(Debug)]
pub(super) enum Clusters {
    One(Arc<str>),
    /// Each with the sum of the weights up to and including its own.
    Weighted {
        clusters: Vec<(Arc<str>, u64)>,
        total: u64,
    },
}

impl Clusters {
    /// One of them; `random` is uniform.
    pub(super) fn choose(&self, random: u64) -> &Arc<str> {
        match self {
            Self::One(name) => name,
            Self::Weighted { clusters, total } => {
                let point = random % total;
                let index = clusters.partition_point(|(_, up_to)| *up_to <= point);
                &clusters[index].0
            }
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<str>> {
        let (one, many) = match self {
            Self::One(name) => (Some(name), [].as_slice()),
            Self::Weighted { clusters, .. } => (None, clusters.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|(name, _)| name))
    }

    pub(super) fn compile(
        message: Option<pb::tcp_proxy::ClusterSpecifier>,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        match message {
            Some(pb::tcp_proxy::ClusterSpecifier::Cluster(name)) => {
                cx.sources.cluster(&name, false, &at.field("cluster"))?;
                Ok(Self::One(name.into()))
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
                        metadata_match,
                    } = cluster;
                    if let Err(reported) = refuse!(at; metadata_match) {
                        outcome = Err(reported);
                    }
                    if let Err(reported) = cx.sources.cluster(&name, false, &at.field("name")) {
                        outcome = Err(reported);
                    }
                    total += u64::from(weight);
                    weighted.push((name.into(), total));
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
        let clusters = Clusters::Weighted {
            clusters: vec![("a".into(), 1), ("b".into(), 4)],
            total: 4,
        };
        let chosen: Vec<&str> = (0..4).map(|point| &**clusters.choose(point)).collect();
        assert_eq!(chosen, ["a", "b", "b", "b"]);
    }
}

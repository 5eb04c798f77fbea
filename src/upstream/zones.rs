//! What is counted of a cluster's requests by where they come from and go to,
//! where both zones are known.

use std::{cell::RefCell, sync::Arc};

use crate::{model::cluster::Cluster, stats::Block};

use super::Locality;

crate::stat_table! {
    /// `cluster.NAME.zone.FROM.TO.`
    pub mod zone_stats {
        counters {}
        gauges {}
        histograms { upstream_rq_time: Milliseconds }
        texts {}
        late { "upstream_rq_time" }
    }
}

/// The zones of a cluster to which one worker has sent requests.
#[derive(Debug, Default)]
pub struct WorkerZones(RefCell<Vec<(Box<str>, Arc<Block>)>>);

impl WorkerZones {
    /// Writes to the stats of the zone that a request went to.
    pub fn count(&self, cluster: &Cluster, to: &Locality, write: impl FnOnce(&Block)) {
        let Some(from) = cluster.zone.as_ref().filter(|_| !to.zone.is_empty()) else {
            return;
        };
        let mut known = self.0.borrow_mut();
        let index = known.iter().position(|(zone, _)| **zone == *to.zone);
        let index = index.unwrap_or_else(|| {
            let part = format!("zone.{from}.{}.", to.zone);
            let block = cluster.part(&part, &zone_stats::TABLE);
            known.push((to.zone.as_ref().into(), block));
            known.len() - 1
        });
        write(&known[index].1);
    }
}

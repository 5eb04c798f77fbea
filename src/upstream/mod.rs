//! Upstream.
#[derive(Debug)]
pub struct WorkerClusters {}
impl WorkerClusters {
    pub fn new(_worker: usize) -> Self {
        Self {}
    }
    pub fn snapshot_changed(&self) {}
}

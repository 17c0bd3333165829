//! What the producers say they wrote, over the whole run.

use walbench_metrics::sample::{ProducerCounts, Sample};

/// Sums of the producers' counters.
#[derive(Debug, Default)]
pub(super) struct Counted(ProducerCounts);

impl Counted {
    pub(super) fn add(&mut self, sample: &Sample) {
        if let Sample::Producer(sample) = sample {
            self.0.merge(&sample.counts);
        }
    }

    /// Rows the tables must hold.
    pub(super) fn rows_left(&self) -> u64 {
        self.0.inserts.saturating_sub(self.0.deletes)
    }
}

//! Which transactions became durable at the sink: the consumer's side of the proof.

use serde::{Deserialize, Serialize};
use walbench_metrics::ledger::Ledger;

use crate::stream::Ended;

/// What a consumer leaves at the end of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// Stamped transactions whose every row is durable, with their distinct row versions.
    pub ledger: Ledger,
    /// Row versions that came again in a transaction that was durable already.
    pub duplicated_rows: u64,
    /// Transactions whose commit position was not above that of the one before.
    pub out_of_order: u64,
    /// Row versions without a stamp of this run.
    pub unstamped_rows: u64,
    /// What a reader of the results must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Delivered {
    /// A transaction is durable.
    pub fn add(&mut self, ended: Ended) {
        let Ended { stamp, rows } = ended;
        match stamp {
            None => self.unstamped_rows += rows,
            Some((phase, producer, sequence)) => {
                if !self.ledger.insert(phase, producer, sequence, rows) {
                    self.duplicated_rows += rows;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replayed_transaction_counts_as_duplicated() {
        let mut delivered = Delivered::default();
        delivered.add(Ended { stamp: Some((0, 0, 3)), rows: 10 });
        delivered.add(Ended { stamp: Some((0, 0, 3)), rows: 10 });
        delivered.add(Ended { stamp: None, rows: 2 });
        assert_eq!(delivered.ledger.rows(), 10);
        assert_eq!((delivered.duplicated_rows, delivered.unstamped_rows), (10, 2));
    }
}

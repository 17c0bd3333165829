//! Which stamped transactions were acknowledged by PostgreSQL or delivered to the sink.
//!
//! A producer keeps one of what PostgreSQL acknowledged, a consumer one of what its sink did. Held
//! against each other they name every transaction that was lost, not just how many.

use std::collections::BTreeMap;

use rangemap::RangeInclusiveSet;
use serde::{Deserialize, Serialize};

/// Sequence numbers, kept as ranges: a run without loss is one range however long it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Sequences(RangeInclusiveSet<u64>);

impl Sequences {
    /// Adds one number; `false` when it was there already.
    pub fn insert(&mut self, sequence: u64) -> bool {
        if self.0.contains(&sequence) {
            return false;
        }
        self.0.insert(sequence..=sequence);
        true
    }

    /// Whether the number is there.
    #[must_use]
    pub fn contains(&self, sequence: u64) -> bool {
        self.0.contains(&sequence)
    }

    /// How many numbers there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().map(|r| r.end() - r.start() + 1).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, ascending, both ends included.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|r| (*r.start(), *r.end()))
    }

    /// The numbers that are here and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = self.clone();
        for (first, last) in other.ranges() {
            left.0.remove(first..=last);
        }
        left
    }
}

impl From<Vec<(u64, u64)>> for Sequences {
    fn from(ranges: Vec<(u64, u64)>) -> Self {
        Self(ranges.into_iter().filter(|(a, b)| a <= b).map(|(a, b)| a..=b).collect())
    }
}

impl From<Sequences> for Vec<(u64, u64)> {
    fn from(sequences: Sequences) -> Self {
        sequences.ranges().collect()
    }
}

/// Transactions and rows by phase and producer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct Ledger {
    accounts: BTreeMap<(u32, u32), Account>,
}

/// What is known of one producer's transactions in one phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The transactions.
    pub sequences: Sequences,
    /// Their row versions, each counted once.
    pub rows: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    phase: u32,
    producer: u32,
    sequences: Sequences,
    rows: u64,
}

impl Ledger {
    /// Adds a transaction with its row versions; `false`, and nothing is added, when the
    /// transaction was there already.
    pub fn insert(&mut self, phase: u32, producer: u32, sequence: u64, rows: u64) -> bool {
        let account = self.accounts.entry((phase, producer)).or_default();
        let new = account.sequences.insert(sequence);
        if new {
            account.rows += rows;
        }
        new
    }

    /// Whether the transaction is there.
    #[must_use]
    pub fn contains(&self, phase: u32, producer: u32, sequence: u64) -> bool {
        self.accounts.get(&(phase, producer)).is_some_and(|a| a.sequences.contains(sequence))
    }

    /// The account of one phase and producer.
    #[must_use]
    pub fn account(&self, phase: u32, producer: u32) -> Option<&Account> {
        self.accounts.get(&(phase, producer))
    }

    /// All accounts with their phase and producer.
    pub fn accounts(&self) -> impl Iterator<Item = ((u32, u32), &Account)> {
        self.accounts.iter().map(|(key, account)| (*key, account))
    }

    /// Row versions in all.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.accounts.values().map(|a| a.rows).sum()
    }

    /// Adds what another ledger holds of other transactions, as several producers' ledgers are
    /// put together.
    pub fn merge(&mut self, other: &Self) {
        for (key, theirs) in &other.accounts {
            let Account { sequences, rows } = theirs;
            let ours = self.accounts.entry(*key).or_default();
            for (first, last) in sequences.ranges() {
                ours.sequences.0.insert(first..=last);
            }
            ours.rows += rows;
        }
    }
}

impl From<Vec<Entry>> for Ledger {
    fn from(entries: Vec<Entry>) -> Self {
        let accounts = entries
            .into_iter()
            .map(|Entry { phase, producer, sequences, rows }| {
                ((phase, producer), Account { sequences, rows })
            })
            .collect();
        Self { accounts }
    }
}

impl From<Ledger> for Vec<Entry> {
    fn from(ledger: Ledger) -> Self {
        ledger
            .accounts
            .into_iter()
            .map(|((phase, producer), Account { sequences, rows })| Entry {
                phase,
                producer,
                sequences,
                rows,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_transaction_counts_once() {
        let mut ledger = Ledger::default();
        assert!(ledger.insert(0, 0, 7, 10));
        assert!(!ledger.insert(0, 0, 7, 10));
        assert!(ledger.insert(0, 1, 7, 10));
        assert_eq!(ledger.rows(), 20);
        assert!(ledger.contains(0, 1, 7) && !ledger.contains(1, 0, 7));
    }

    #[test]
    fn a_gapless_run_stays_one_range() {
        let mut sequences = Sequences::default();
        for n in (0..1_000).step_by(2).chain((1..1_000).step_by(2)) {
            sequences.insert(n);
        }
        assert_eq!(serde_json::to_string(&sequences).unwrap(), "[[0,999]]");
    }

    proptest! {
        #[test]
        fn sequences_behave_as_a_set(
            a in prop::collection::vec(0u64..60, 0..60),
            b in prop::collection::vec(0u64..60, 0..60),
        ) {
            let build = |values: &[u64]| {
                let mut sequences = Sequences::default();
                for &n in values { sequences.insert(n); }
                sequences
            };
            let (left, right) = (build(&a), build(&b));
            let (left_set, right_set): (BTreeSet<_>, BTreeSet<_>) =
                (a.into_iter().collect(), b.into_iter().collect());
            let difference: Vec<u64> = left_set.difference(&right_set).copied().collect();
            prop_assert_eq!(left.len(), left_set.len() as u64);
            let without: Vec<u64> =
                left.without(&right).ranges().flat_map(|(a, b)| a..=b).collect();
            prop_assert_eq!(without, difference);
            let json = serde_json::to_string(&left).unwrap();
            prop_assert_eq!(serde_json::from_str::<Sequences>(&json).unwrap(), left);
        }
    }
}

//! What happened, as numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use walbench_phases::plan::FaultKind;

use super::rows::Fates;

/// What happened since the mock began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Inserts whose rows were written.
    pub inserts: u64,
    /// Their rows.
    pub rows: u64,
    /// Their bytes as RowBinary.
    pub bytes: u64,
    /// Rows that were the first of their key.
    pub rows_new: u64,
    /// Rows of a higher version than was there.
    pub rows_newer: u64,
    /// Rows of the version that was there, with the same bytes.
    pub rows_replayed: u64,
    /// Rows of a lower version than was there.
    pub rows_late: u64,
    /// Rows of the version that was there, with other bytes.
    pub rows_conflicting: u64,
    /// Rows of tables without a key.
    pub rows_keyless: u64,
    /// Inserts that were left out, because their deduplication token had been there.
    pub inserts_deduplicated: u64,
    /// Inserts that were refused for what they were, by ClickHouse's code.
    pub inserts_refused: BTreeMap<i32, u64>,
    /// Faults by their kind: inserts that were struck, and outages that began.
    pub faults: BTreeMap<FaultKind, u64>,
}

impl Counters {
    pub(super) fn written(&mut self, fates: Fates, rows: u64, bytes: u64) {
        self.inserts += 1;
        self.rows += rows;
        self.bytes += bytes;
        self.rows_new += fates.new;
        self.rows_newer += fates.newer;
        self.rows_replayed += fates.replayed;
        self.rows_late += fates.late;
        self.rows_conflicting += fates.conflicting;
        self.rows_keyless += fates.keyless;
    }

    /// In one line, for a reader.
    #[must_use]
    pub fn line(&self) -> String {
        let counted: Vec<String> =
            self.named().into_iter().map(|(name, value)| format!("{name} {value}")).collect();
        format!("counters: {}", counted.join(", "))
    }

    /// As `system.walbench_mock` has them.
    #[must_use]
    pub fn named(&self) -> Vec<(String, u64)> {
        let fixed = [
            ("inserts", self.inserts),
            ("rows", self.rows),
            ("bytes", self.bytes),
            ("rows_new", self.rows_new),
            ("rows_newer", self.rows_newer),
            ("rows_replayed", self.rows_replayed),
            ("rows_late", self.rows_late),
            ("rows_conflicting", self.rows_conflicting),
            ("rows_keyless", self.rows_keyless),
            ("inserts_deduplicated", self.inserts_deduplicated),
        ];
        let fixed = fixed.into_iter().map(|(name, value)| (name.to_owned(), value));
        let refused = self.inserts_refused.iter();
        let refused = refused.map(|(code, value)| (format!("inserts_refused_{code}"), *value));
        let faults = self.faults.iter();
        let faults = faults.map(|(kind, value)| (format!("faults_{}", kind.name()), *value));
        fixed.chain(refused).chain(faults).collect()
    }
}

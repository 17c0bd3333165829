//! What ClickHouse's tables hold at the end of a run, against PostgreSQL's.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::human::{count, counted};
use crate::verdict::Verdict;

/// ClickHouse's state compared with PostgreSQL's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Destination {
    /// Each table.
    pub tables: Vec<DestinationTable>,
    /// Row versions that ClickHouse did not take and that were put aside, as the plan allows: so many
    /// rows may differ.
    pub set_aside: u64,
    /// What a mock counted, in place of a real ClickHouse; empty otherwise.
    pub mock: BTreeMap<String, u64>,
    /// Why they could not be compared, or not all of them; `null` if they were.
    pub problem: Option<String>,
}

/// One table's rows, there and here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DestinationTable {
    /// Its name in PostgreSQL.
    pub table: String,
    /// Rows in PostgreSQL.
    pub source_rows: u64,
    /// Rows in ClickHouse: the newest version of each key, deleted ones left out.
    pub rows: u64,
    /// The same as ClickHouse counts them with FINAL; `null` where there is no key.
    pub final_rows: Option<u64>,
    /// Row versions that ClickHouse stores: those that are no longer the newest are removed as it
    /// merges.
    pub stored_versions: u64,
    /// In PostgreSQL alone.
    pub missing: u64,
    /// In ClickHouse alone.
    pub extra: u64,
    /// An older state of the row.
    pub stale: u64,
    /// Another state of the row.
    pub wrong: u64,
    /// Stored with different values under one version, so that ClickHouse may show either.
    pub conflicting: u64,
    /// Versions stored more than once: written again, and not merged yet. They change nothing.
    pub duplicated: u64,
    /// Columns that could not be compared.
    pub columns_not_compared: u64,
    /// The first differences, a line each.
    pub findings: Vec<String>,
}

impl DestinationTable {
    /// Rows by which it differs.
    #[must_use]
    pub fn differing(&self) -> u64 {
        self.missing + self.extra + self.stale + self.wrong + self.conflicting
    }

    /// ClickHouse's own count of its rows, where it is another than ours.
    fn miscounted(&self) -> Option<u64> {
        self.final_rows.filter(|rows| *rows != self.rows)
    }

    /// Something is wrong with it beside single rows.
    fn is_wrong_as_a_whole(&self) -> bool {
        self.miscounted().is_some() || self.columns_not_compared > 0
    }
}

impl Destination {
    /// Whether it was to be compared.
    pub(crate) fn is_compared(&self) -> bool {
        !self.tables.is_empty() || self.problem.is_some()
    }

    /// What is to be said of it, the weightiest first.
    pub(crate) fn findings(&self) -> Vec<(Verdict, String)> {
        let mut findings = Vec::new();
        let rows = self.tables.iter().map(DestinationTable::differing).sum();
        let is_wrong = self.tables.iter().any(DestinationTable::is_wrong_as_a_whole);
        if rows > self.set_aside || is_wrong {
            let differing: Vec<String> = self.tables.iter().filter_map(difference).collect();
            let text = format!(
                "ClickHouse differs from PostgreSQL by {}: {}",
                counted(rows, "row"),
                differing.join("; ")
            );
            findings.push((Verdict::Fail, text));
        }
        if let Some(problem) = &self.problem {
            let text = format!("ClickHouse was not compared with PostgreSQL: {problem}");
            findings.push((Verdict::Inconclusive, text));
        }
        findings
    }
}

/// What is wrong with a table, in words.
fn difference(table: &DestinationTable) -> Option<String> {
    let DestinationTable { missing, extra, stale, wrong, conflicting, .. } = table;
    let kinds = [
        (missing, "missing"),
        (extra, "extra"),
        (stale, "stale"),
        (wrong, "wrong"),
        (conflicting, "conflicting"),
    ];
    let mut words: Vec<String> = kinds
        .into_iter()
        .filter(|(rows, _)| **rows > 0)
        .map(|(rows, kind)| format!("{} {kind}", count(*rows)))
        .collect();
    if let Some(rows) = table.miscounted() {
        let (theirs, ours) = (count(rows), count(table.rows));
        words.push(format!("{theirs} counted by ClickHouse with FINAL and {ours} stored"));
    }
    if table.columns_not_compared > 0 {
        words.push(format!("{} not compared", counted(table.columns_not_compared, "column")));
    }
    let first = table.findings.first().map(|first| format!(", the first: {first}"));
    (!words.is_empty())
        .then(|| format!("{} {}{}", table.table, words.join(", "), first.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(missing: u64, wrong: u64) -> DestinationTable {
        let findings = vec!["id = 7 is missing".into()];
        DestinationTable { table: "event".into(), missing, wrong, findings, ..Default::default() }
    }

    #[test]
    fn rows_that_agree_are_not_talked_about() {
        let destination = Destination { tables: vec![table(0, 0)], ..Default::default() };
        assert_eq!(destination.findings(), []);
    }

    #[test]
    fn rows_that_were_put_aside_may_differ() {
        for (set_aside, findings) in [(3, 0), (2, 1)] {
            let tables = vec![table(2, 1)];
            let destination = Destination { tables, set_aside, ..Default::default() };
            assert_eq!(destination.findings().len(), findings);
        }
    }

    #[test]
    fn differences_are_named_and_fail() {
        let destination = Destination {
            tables: vec![table(1_000, 2), table(0, 0)],
            set_aside: 0,
            mock: BTreeMap::new(),
            problem: Some("it went away".into()),
        };
        let findings = destination.findings();
        assert_eq!(findings[0].0, Verdict::Fail);
        assert_eq!(findings[1].0, Verdict::Inconclusive);
        insta::assert_snapshot!(
            format!("{}\n{}", findings[0].1, findings[1].1),
            @r"
        ClickHouse differs from PostgreSQL by 1,002 rows: event 1,000 missing, 2 wrong, the first: id = 7 is missing
        ClickHouse was not compared with PostgreSQL: it went away
        "
        );
    }
}

//! Whether every acknowledged row arrived.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use walbench_metrics::ledger::{Account, Ledger, Sequences};
use walbench_phases::Plan;
use walbench_phases::plan::Distribution;

use crate::destination::Destination;
use crate::human::counted;
use crate::outcome::{DrainVerdict, RunOutcome, TableRows};
use crate::verdict::Verdict;

/// Ranges of lost transactions that are named.
pub const NAMED_LOST: usize = 10;

/// What was acknowledged against what arrived, over the whole run, warm-ups included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verification {
    /// What is said of the delivery.
    pub verdict: Verdict,
    /// Why, one sentence each; empty for a pass.
    pub reasons: Vec<String>,
    /// Row versions that had to arrive: those PostgreSQL acknowledged, for every consumer that had
    /// to receive them. `null` when walbench wrote nothing or a worker left no account.
    pub expected_rows: Option<u64>,
    /// Distinct stamped row versions that arrived. More than expected where transactions of
    /// unknown outcome arrived.
    pub delivered_rows: u64,
    /// Row versions that had to arrive and did not. `null` where `expected_rows` is, and where the
    /// run was ended while rows were still on their way.
    pub lost: Option<u64>,
    /// Row versions that arrived again. Delivery is at least once and replays change nothing, so
    /// these alone don't fail a run. `null` where another program has the consumer's place.
    pub duplicated: Option<u64>,
    /// Transactions received behind a later one; likewise.
    pub out_of_order: Option<u64>,
    /// Row versions too many, and rows by which PostgreSQL's tables differ; `null` where
    /// `expected_rows` is.
    pub wrong: Option<u64>,
    /// A row counts as delivered because the plan's `consumer.command` has confirmed it: what it has
    /// made of it was not looked at.
    #[serde(default)]
    pub confirmed_by_command: bool,
    /// Row versions of transactions that arrived in part.
    pub incomplete_rows: u64,
    /// Row versions without a stamp of this run.
    pub unstamped_rows: u64,
    /// Transactions whose outcome the producers could not find out: each may have arrived or not.
    pub unknown_transactions: u64,
    /// The first ranges of lost transactions.
    pub lost_transactions: Vec<LostTransactions>,
    /// Delivery by phase.
    pub phases: Vec<PhaseDelivery>,
    /// Rows that PostgreSQL's tables hold, against those it acknowledged.
    pub tables: Vec<TableRows>,
    /// What ClickHouse's tables hold, against PostgreSQL's; `null` without a ClickHouse.
    #[serde(default)]
    pub destination: Option<Destination>,
}

/// A range of lost transactions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LostTransactions {
    /// Name of the phase.
    pub phase: String,
    /// Index of the producer.
    pub producer: u32,
    /// Index of the consumer that missed them; `null` when the consumers share the tables.
    pub consumer: Option<usize>,
    /// Sequence number of the first.
    pub first: u64,
    /// Sequence number of the last.
    pub last: u64,
}

/// Delivery of one phase's rows, warm-up included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseDelivery {
    /// Index of the phase in the plan.
    pub phase: u32,
    /// Row versions that had to arrive.
    pub expected_rows: u64,
    /// Row versions that arrived.
    pub delivered_rows: u64,
    /// Row versions that have not arrived.
    pub missing_rows: u64,
}

/// Holds what PostgreSQL acknowledged against what arrived.
#[must_use]
pub fn verify(plan: &Plan, outcome: &RunOutcome) -> Verification {
    let unaccounted = unaccounted(plan, outcome);
    let comparison = Comparison::new(plan, outcome);
    let known = unaccounted.is_empty();
    let ended_early = outcome.interrupted
        || outcome.failure.is_some()
        || outcome.phases.iter().any(|p| p.drain == DrainVerdict::Interrupted);
    let missing = comparison.missing_rows();
    let tables = if ended_early { 0 } else { comparison.table_difference(&outcome.table_rows) };
    // What another program has received it does not tell.
    let own = |count: u64| (!plan.consumer.is_external()).then_some(count);
    let mut verification = Verification {
        verdict: Verdict::Pass,
        reasons: Vec::new(),
        expected_rows: known.then(|| comparison.expected_rows()),
        delivered_rows: outcome.delivered.iter().map(|d| d.ledger.rows()).sum(),
        lost: (known && !(ended_early && missing > 0)).then_some(missing),
        duplicated: own(outcome.delivered.iter().map(|d| d.duplicated_rows).sum()),
        out_of_order: own(outcome.delivered.iter().map(|d| d.out_of_order).sum()),
        wrong: known.then_some(comparison.surplus_rows + tables),
        confirmed_by_command: plan.consumer.is_external(),
        incomplete_rows: outcome.delivered.iter().map(|d| d.incomplete_rows).sum(),
        unstamped_rows: outcome.delivered.iter().map(|d| d.unstamped_rows).sum(),
        unknown_transactions: comparison.unknown_transactions,
        lost_transactions: Vec::new(),
        phases: Vec::new(),
        tables: outcome.table_rows.clone(),
        destination: outcome.destination.clone(),
    };
    if known {
        verification.lost_transactions = comparison.lost_transactions;
        verification.phases = comparison.phases.into_values().collect();
    }
    let findings = findings(plan, outcome, &verification, missing, unaccounted);
    verification.verdict = findings.first().map_or(Verdict::Pass, |(verdict, _)| *verdict);
    verification.reasons = findings.into_iter().map(|(_, reason)| reason).collect();
    verification
}

/// Why nothing can be held against each other, if so.
fn unaccounted(plan: &Plan, outcome: &RunOutcome) -> Vec<String> {
    if !plan.producer.enabled {
        return vec![
            "walbench wrote no rows (producer.enabled = false), so it can't tell which had to \
             arrive"
                .into(),
        ];
    }
    let missing = |present: usize, all: u32, worker: &str| {
        let missing = (all as usize).saturating_sub(present);
        (missing > 0)
            .then(|| format!("{missing} of {} left no account", counted(all.into(), worker)))
    };
    [
        missing(outcome.acknowledged.len(), plan.producer.processes, "producer"),
        missing(outcome.delivered.len(), plan.consumer.processes, "consumer"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What is to be said, the weightiest first: it decides the verdict.
fn findings(
    plan: &Plan,
    outcome: &RunOutcome,
    verification: &Verification,
    missing: u64,
    unaccounted: Vec<String>,
) -> Vec<(Verdict, String)> {
    let Verification { lost, out_of_order, wrong, .. } = verification;
    let mut findings = Vec::new();
    if let Some(lost @ 1..) = *lost {
        findings.push((Verdict::Fail, lost_sentence(plan, outcome, verification, lost)));
    }
    if let Some(wrong @ 1..) = *wrong {
        findings.push((Verdict::Fail, wrong_sentence(outcome, wrong)));
    }
    if let Some(out_of_order @ 1..) = *out_of_order {
        let transactions = counted(out_of_order, "transaction");
        findings.push((Verdict::Fail, format!("{transactions} came behind a later one")));
    }
    findings.extend(outcome.destination.iter().flat_map(Destination::findings));
    findings.sort_by_key(|(verdict, _)| *verdict != Verdict::Fail);
    findings.extend(unaccounted.into_iter().map(|reason| (Verdict::Inconclusive, reason)));
    if verification.expected_rows.is_some() && lost.is_none() {
        let rows = counted(missing, "row");
        let reason = format!("{rows} had not arrived when the run was ended");
        findings.push((Verdict::Inconclusive, reason));
    }
    if verification.expected_rows == Some(0) {
        findings.push((Verdict::Inconclusive, "PostgreSQL acknowledged no row".into()));
    }
    findings
}

fn lost_sentence(
    plan: &Plan,
    outcome: &RunOutcome,
    verification: &Verification,
    lost: u64,
) -> String {
    let timed_out = outcome.phases.iter().any(|p| p.drain == DrainVerdict::TimedOut);
    let after = if timed_out {
        format!(" within {} s of the phase's end", plan.limits.drain_sec)
    } else {
        String::new()
    };
    let rows = counted(lost, "row");
    let named = match verification.lost_transactions.first() {
        None => String::new(),
        Some(LostTransactions { phase, producer, first, last, .. }) => {
            format!(
                "; the first: phase {phase}, producer {producer}, transactions {first} to {last}"
            )
        }
    };
    format!("{rows} that PostgreSQL acknowledged did not arrive{after}{named}")
}

fn wrong_sentence(outcome: &RunOutcome, wrong: u64) -> String {
    let differing: Vec<String> = outcome
        .table_rows
        .iter()
        .filter(|t| t.expected != t.counted)
        .map(|t| format!("{} holds {} of {}", t.table, t.counted, t.expected))
        .collect();
    let rows = counted(wrong, "row");
    if differing.is_empty() {
        format!("{rows} too many arrived in transactions that were complete or never acknowledged")
    } else {
        format!("PostgreSQL's tables differ by {rows}: {}", differing.join(", "))
    }
}

/// Acknowledged and delivered held against each other, account by account.
#[derive(Default)]
struct Comparison {
    phases: BTreeMap<u32, PhaseDelivery>,
    surplus_rows: u64,
    unknown_transactions: u64,
    unknown_rows: u64,
    lost_transactions: Vec<LostTransactions>,
}

impl Comparison {
    fn new(plan: &Plan, outcome: &RunOutcome) -> Self {
        let acknowledged = together(&outcome.acknowledged);
        let unknown = together(&outcome.unknown);
        let mut comparison = Self {
            unknown_transactions: unknown.accounts().map(|(_, a)| a.sequences.len()).sum(),
            unknown_rows: unknown.rows(),
            ..Self::default()
        };
        for (consumer, delivered) in receivers(plan, outcome) {
            let keys: BTreeSet<(u32, u32)> = [&acknowledged, &unknown, &delivered]
                .into_iter()
                .flat_map(Ledger::accounts)
                .map(|(key, _)| key)
                .collect();
            for key in keys {
                let of =
                    |ledger: &Ledger| ledger.account(key.0, key.1).cloned().unwrap_or_default();
                let accounts = Accounts::new(&of(&acknowledged), &of(&unknown), &of(&delivered));
                comparison.add(plan, consumer, key, &accounts);
            }
        }
        comparison
    }

    fn add(&mut self, plan: &Plan, consumer: Option<usize>, key: (u32, u32), accounts: &Accounts) {
        let (phase, producer) = key;
        let delivery = self.phases.entry(phase).or_default();
        delivery.phase = phase;
        delivery.expected_rows += accounts.expected_rows;
        delivery.delivered_rows += accounts.delivered_rows;
        delivery.missing_rows += accounts.missing_rows;
        self.surplus_rows += accounts.surplus_rows;
        let room = NAMED_LOST - self.lost_transactions.len();
        let name = plan.phases.get(phase as usize).map_or("?", |p| p.name.as_str());
        let lost = accounts.missing.ranges().take(room).map(|(first, last)| LostTransactions {
            phase: name.to_owned(),
            producer,
            consumer,
            first,
            last,
        });
        self.lost_transactions.extend(lost);
    }

    fn expected_rows(&self) -> u64 {
        self.phases.values().map(|phase| phase.expected_rows).sum()
    }

    fn missing_rows(&self) -> u64 {
        self.phases.values().map(|phase| phase.missing_rows).sum()
    }

    /// Rows by which PostgreSQL's tables differ beyond what unknown transactions explain.
    fn table_difference(&self, tables: &[TableRows]) -> u64 {
        let difference: u64 = tables.iter().map(|t| t.expected.abs_diff(t.counted)).sum();
        difference.saturating_sub(self.unknown_rows)
    }
}

fn together(ledgers: &[Ledger]) -> Ledger {
    let mut all = Ledger::default();
    ledgers.iter().for_each(|ledger| all.merge(ledger));
    all
}

/// Who has to have received everything: each consumer, or all together where they share the tables.
fn receivers(plan: &Plan, outcome: &RunOutcome) -> Vec<(Option<usize>, Ledger)> {
    let ledgers = outcome.delivered.iter().map(|delivered| delivered.ledger.clone());
    match plan.consumer.distribution {
        Distribution::All => ledgers.enumerate().map(|(i, ledger)| (Some(i), ledger)).collect(),
        Distribution::Divided => vec![(None, together(&ledgers.collect::<Vec<_>>()))],
    }
}

/// One producer's transactions in one phase, as acknowledged and as received.
struct Accounts {
    expected_rows: u64,
    delivered_rows: u64,
    missing: Sequences,
    missing_rows: u64,
    surplus_rows: u64,
}

impl Accounts {
    /// Ledgers know the rows of all transactions of an account together, not of each. Where
    /// transactions are missing, the rows of those that are unknown and did arrive can hide theirs:
    /// then a lost transaction counts as one row at least.
    fn new(acknowledged: &Account, unknown: &Account, delivered: &Account) -> Self {
        let missing = acknowledged.sequences.without(&delivered.sequences);
        let unasked =
            delivered.sequences.without(&acknowledged.sequences).without(&unknown.sequences);
        let not_arrived = unknown.sequences.without(&delivered.sequences).len();
        let (least, most) = match not_arrived {
            0 => (unknown.rows, unknown.rows),
            all if all == unknown.sequences.len() => (0, 0),
            _ => (0, unknown.rows),
        };
        let (least, most) = (acknowledged.rows + least, acknowledged.rows + most);
        Self {
            expected_rows: acknowledged.rows,
            delivered_rows: delivered.rows,
            missing_rows: least.saturating_sub(delivered.rows).max(missing.len()),
            surplus_rows: delivered.rows.saturating_sub(most).max(unasked.len()),
            missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::Delivered;
    use crate::testing::{outcome, plan};

    fn ledger(transactions: impl IntoIterator<Item = u64>) -> Ledger {
        let mut ledger = Ledger::default();
        transactions.into_iter().for_each(|n| {
            ledger.insert(0, 0, n, 10);
        });
        ledger
    }

    fn delivered(transactions: impl IntoIterator<Item = u64>) -> Delivered {
        Delivered { ledger: ledger(transactions), ..Delivered::default() }
    }

    fn run(acknowledged: Ledger, unknown: Ledger, delivered: Vec<Delivered>) -> RunOutcome {
        RunOutcome {
            acknowledged: vec![acknowledged],
            unknown: vec![unknown],
            delivered,
            table_rows: Vec::new(),
            ..outcome()
        }
    }

    #[test]
    fn all_that_was_acknowledged_arrived() {
        let seen = verify(&plan(), &run(ledger(0..5), ledger([]), vec![delivered(0..5)]));
        assert_eq!((seen.verdict, seen.expected_rows), (Verdict::Pass, Some(50)));
        assert_eq!((seen.lost, seen.wrong, seen.delivered_rows), (Some(0), Some(0), 50));
    }

    #[test]
    fn lost_transactions_are_named() {
        let left = delivered([0, 3, 4]);
        let seen = verify(&plan(), &run(ledger(0..5), ledger([]), vec![left]));
        assert_eq!((seen.verdict, seen.lost), (Verdict::Fail, Some(20)));
        insta::assert_snapshot!(seen.reasons.join("\n"), @"20 rows that PostgreSQL acknowledged did not arrive; the first: phase steady, producer 0, transactions 1 to 2");
        assert_eq!(seen.phases[0].missing_rows, 20);
    }

    #[test]
    fn a_row_too_few_is_lost_and_one_too_many_is_wrong() {
        for (rows, lost, wrong) in [(9, 1, 0), (11, 0, 1)] {
            let mut odd = ledger(0..4);
            odd.insert(0, 0, 4, rows);
            let odd = Delivered { ledger: odd, ..Delivered::default() };
            let seen = verify(&plan(), &run(ledger(0..5), ledger([]), vec![odd]));
            assert_eq!((seen.lost, seen.wrong), (Some(lost), Some(wrong)));
            assert_eq!(seen.verdict, Verdict::Fail);
        }
    }

    #[test]
    fn unknown_transactions_may_arrive_or_not() {
        for arrived in [5, 6, 7] {
            let seen =
                verify(&plan(), &run(ledger(0..5), ledger(5..7), vec![delivered(0..arrived)]));
            assert_eq!((seen.verdict, seen.lost), (Verdict::Pass, Some(0)), "{arrived}");
            assert_eq!(seen.unknown_transactions, 2);
        }
    }

    #[test]
    fn an_unknown_transaction_does_not_hide_a_lost_one() {
        let seen = verify(&plan(), &run(ledger(0..5), ledger(5..7), vec![delivered(1..6)]));
        assert_eq!(seen.verdict, Verdict::Fail);
        assert!(seen.lost.unwrap() > 0);
    }

    #[test]
    fn what_nobody_wrote_is_wrong() {
        let seen = verify(&plan(), &run(ledger(0..5), ledger([]), vec![delivered(0..6)]));
        assert_eq!((seen.verdict, seen.wrong), (Verdict::Fail, Some(10)));
    }

    #[test]
    fn each_consumer_must_have_all_unless_they_divide_the_tables() {
        let mut plan = plan();
        plan.consumer.processes = 2;
        let halves = run(ledger(0..4), ledger([]), vec![delivered(0..2), delivered(2..4)]);
        let seen = verify(&plan, &halves);
        assert_eq!((seen.expected_rows, seen.lost), (Some(80), Some(40)));
        assert_eq!(seen.lost_transactions[0].consumer, Some(0));
        plan.consumer.distribution = Distribution::Divided;
        let seen = verify(&plan, &halves);
        assert_eq!((seen.verdict, seen.expected_rows), (Verdict::Pass, Some(40)));
    }

    #[test]
    fn of_another_program_only_what_it_confirmed_is_known() {
        let mut plan = plan();
        plan.consumer.command = vec!["a".into()];
        let seen = verify(&plan, &run(ledger(0..4), ledger([]), vec![delivered(0..4)]));
        assert!(seen.confirmed_by_command && seen.verdict == Verdict::Pass);
        assert_eq!((seen.lost, seen.duplicated, seen.out_of_order), (Some(0), None, None));
        let seen = verify(&plan, &run(ledger(0..4), ledger([]), vec![delivered(0..3)]));
        assert_eq!((seen.lost, seen.verdict), (Some(10), Verdict::Fail));
    }

    #[test]
    fn a_missing_account_or_an_idle_run_says_nothing() {
        let mut plan = plan();
        let seen = verify(&plan, &run(ledger(0..4), ledger([]), vec![]));
        assert_eq!((seen.verdict, seen.lost), (Verdict::Inconclusive, None));
        let seen = verify(&plan, &run(ledger([]), ledger([]), vec![delivered([])]));
        assert_eq!((seen.verdict, seen.lost), (Verdict::Inconclusive, Some(0)));
        plan.producer.enabled = false;
        let seen = verify(&plan, &run(ledger([]), ledger([]), vec![delivered([])]));
        assert_eq!((seen.verdict, seen.expected_rows), (Verdict::Inconclusive, None));
    }

    #[test]
    fn rows_on_their_way_at_an_interruption_are_not_lost() {
        let mut early = run(ledger(0..4), ledger([]), vec![delivered(0..3)]);
        early.interrupted = true;
        let seen = verify(&plan(), &early);
        assert_eq!((seen.verdict, seen.lost), (Verdict::Inconclusive, None));
        assert_eq!(seen.reasons, ["10 rows had not arrived when the run was ended"]);
    }

    #[test]
    fn order_and_tables_are_looked_at() {
        let mut shuffled = run(ledger(0..4), ledger([]), vec![delivered(0..4)]);
        shuffled.delivered[0].out_of_order = 1;
        assert_eq!(verify(&plan(), &shuffled).verdict, Verdict::Fail);
        let mut short = run(ledger(0..4), ledger([]), vec![delivered(0..4)]);
        short.table_rows = vec![TableRows { table: "task_run".into(), expected: 40, counted: 39 }];
        let seen = verify(&plan(), &short);
        assert_eq!((seen.verdict, seen.wrong), (Verdict::Fail, Some(1)));
        insta::assert_snapshot!(seen.reasons.join("\n"), @"PostgreSQL's tables differ by 1 row: task_run holds 39 of 40");
    }

    #[test]
    fn duplicates_alone_are_no_failure() {
        let mut again = run(ledger(0..4), ledger([]), vec![delivered(0..4)]);
        again.delivered[0].duplicated_rows = 30;
        let seen = verify(&plan(), &again);
        assert_eq!((seen.verdict, seen.duplicated), (Verdict::Pass, Some(30)));
    }

    proptest! {
        /// Whatever was acknowledged, unknown and delivered: it passes exactly when every
        /// acknowledged transaction is there and none that nobody wrote.
        #[test]
        fn a_pass_is_exactly_a_complete_delivery(
            states in prop::collection::vec((0..3u8, any::<bool>()), 1..40),
        ) {
            let pick = |wanted: fn(&(u8, bool)) -> bool| {
                let numbered = states.iter().enumerate();
                ledger(numbered.filter(|(_, s)| wanted(s)).map(|(n, _)| n as u64).collect::<Vec<_>>())
            };
            let arrived = Delivered { ledger: pick(|s| s.1), ..Delivered::default() };
            let seen = verify(&plan(), &run(pick(|s| s.0 == 0), pick(|s| s.0 == 1), vec![arrived]));
            let lost = states.contains(&(0, false));
            let unasked = states.contains(&(2, true));
            let written = states.iter().any(|s| s.0 == 0);
            let expected = match (lost || unasked, written) {
                (true, _) => Verdict::Fail,
                (false, true) => Verdict::Pass,
                (false, false) => Verdict::Inconclusive,
            };
            prop_assert_eq!(seen.verdict, expected);
            prop_assert_eq!(seen.lost.unwrap() > 0, lost);
        }
    }
}

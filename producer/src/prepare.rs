//! What the orchestrator tells a producer, and what the producer leaves behind.

use serde::{Deserialize, Serialize};
use walbench_metrics::ledger::Ledger;
use walbench_phases::Plan;
use walbench_phases::address::PostgresAddress;

/// Everything a producer needs to connect and get ready: the content of
/// [`walbench_metrics::message::ToWorker::Prepare`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prepare {
    /// The run, as [`walbench_metrics::stamp::run_number`] of its id.
    pub run: u64,
    /// Which of the plan's producer processes this is, from 0.
    pub index: u32,
    /// Where to write, the database included.
    pub address: PostgresAddress,
    /// The whole plan.
    pub plan: Plan,
    /// What to subtract from this process's wall clock to have the orchestrator's, in µs.
    pub clock_correction_us: i64,
}

/// What a producer knows at its end: the content of
/// [`walbench_metrics::message::FromWorker::Done`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Transactions that PostgreSQL acknowledged.
    pub acknowledged: Ledger,
    /// Transactions whose outcome could not be found out: they may be there or not.
    pub unknown: Ledger,
}

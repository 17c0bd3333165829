//! What the orchestrator knows of a run beside the samples.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use walbench_metrics::Window;
use walbench_metrics::ceiling::Ceilings;
use walbench_metrics::ledger::Ledger;
use walbench_profiles::area::AreaSamples;
use walbench_profiles::heap::HeapFigures;
use walbench_profiles::profile::Quality;

use crate::destination::Destination;

/// How a run went. With the plan, the environment and `samples.jsonl` it holds everything that
/// figures and verdicts are computed from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunOutcome {
    /// Name of the run's folder.
    pub run_id: String,
    /// When the run started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// The phases that started, in the plan's order.
    pub phases: Vec<PhaseOutcome>,
    /// What PostgreSQL acknowledged, one ledger a producer.
    pub acknowledged: Vec<Ledger>,
    /// Transactions whose outcome could not be found out, one ledger a producer.
    pub unknown: Vec<Ledger>,
    /// What arrived, one account a consumer.
    pub delivered: Vec<Delivered>,
    /// Rows counted in PostgreSQL's tables; empty when they could not be counted.
    pub table_rows: Vec<TableRows>,
    /// ClickHouse's tables compared with PostgreSQL's; `None` without a ClickHouse.
    pub destination: Option<Destination>,
    /// What each part can do by itself; `None` where that was not asked for, or could not be measured.
    #[serde(default)]
    pub ceilings: Option<Ceilings>,
    /// The user interrupted the run.
    pub interrupted: bool,
    /// The component that failed and ended the run, in a sentence.
    pub failure: Option<String>,
}

/// How a phase went. Times are µs since the Unix epoch on the orchestrator's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseOutcome {
    /// Index in the plan.
    pub index: u32,
    /// Start of the phase, warm-up included.
    pub started_us: i64,
    /// End of the warm-up: start of the measured window.
    pub measured_from_us: i64,
    /// End of the measured window by the plan.
    pub scheduled_end_us: i64,
    /// When the producers had all rows acknowledged or given up; `None` if they never had.
    pub producers_done_us: Option<i64>,
    /// When the phase's last row was acknowledged by the sink; `None` if it never was.
    pub drained_us: Option<i64>,
    /// How the drain ended.
    pub drain: DrainVerdict,
    /// PostgreSQL's WAL position at the start of the measured window.
    pub wal_start_lsn: Option<u64>,
    /// PostgreSQL's WAL position when the producers were done.
    pub wal_end_lsn: Option<u64>,
    /// The phase ran to its end, drain included.
    pub completed: bool,
    /// Where the CPU time of its processes went, by process and window; empty without a profiler.
    #[serde(default)]
    pub profiles: Vec<WindowProfile>,
    /// Who held its workers' memory; empty unless heaps were profiled.
    #[serde(default)]
    pub heaps: Vec<HeapFigures>,
}

impl PhaseOutcome {
    /// Nobody cut the phase short: its window was run and its drain ended by itself.
    pub(crate) fn ran_to_its_end(&self) -> bool {
        self.completed || self.drain == DrainVerdict::TimedOut
    }
}

/// Where a process's CPU time went in one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowProfile {
    /// The process's name, as its resources have it.
    pub process: String,
    /// The window.
    pub window: Window,
    /// Where the samples came from.
    pub backend: String,
    /// CPU time that the process used in the window, in ns.
    pub cpu_ns: u64,
    /// How far the samples can be trusted.
    pub quality: Quality,
    /// The samples by area of code.
    pub areas: Vec<AreaSamples>,
    /// The files, by their places in the run's folder.
    pub files: Vec<String>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrainVerdict {
    /// Every row arrived.
    Drained,
    /// Rows were missing after `limits.drain_sec`.
    TimedOut,
    /// The run was ended before.
    Interrupted,
    /// No row was written, or none that walbench can wait for.
    NotNeeded,
}

/// What arrived at one consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// Distinct complete transactions and their distinct row versions.
    pub ledger: Ledger,
    /// Row versions that arrived again.
    pub duplicated_rows: u64,
    /// Transactions received with a commit position not above the one before, within a connection.
    pub out_of_order: u64,
    /// Row versions of transactions that did not arrive completely.
    pub incomplete_rows: u64,
    /// Row versions without a stamp of this run.
    pub unstamped_rows: u64,
}

/// Rows of one or more of PostgreSQL's tables at the end of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TableRows {
    /// Name of the table.
    pub table: String,
    /// Rows there must be: acknowledged inserts minus acknowledged deletes.
    pub expected: u64,
    /// Rows there are, each key once.
    pub counted: u64,
}

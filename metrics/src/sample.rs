//! One worker's counters and timings for one interval: the atom every figure is made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timing;
use crate::vitals::{ConsumerVitals, MachineUse, Scheduling, TcpUse, Waits};

/// The part of a phase that something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// Before the measured window; in no figure.
    Warmup,
    /// What the figures are made of. Rows belong to it when they were due in it, however late
    /// they were sent or delivered.
    Measured,
    /// After the phase's end, until its last row was delivered. Only what is attributed by the
    /// clock (CPU time, server state) belongs to it, never a row.
    Drain,
}

/// Where and when a sample was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// Index of the phase in the plan.
    pub phase: u32,
    /// The part of the phase.
    pub window: Window,
    /// Start in µs since the Unix epoch.
    pub start_us: i64,
    /// End in µs since the Unix epoch.
    pub end_us: i64,
}

impl Interval {
    /// Its middle, in µs since the Unix epoch. Clocks are read a moment after the cut that they were
    /// aimed at: the middle says surely on which side of a cut an interval is.
    #[must_use]
    pub fn middle_us(&self) -> i64 {
        self.start_us + (self.end_us - self.start_us) / 2
    }
}

/// One sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sample {
    /// From a producer.
    Producer(Box<ProducerSample>),
    /// From a consumer.
    Consumer(Box<ConsumerSample>),
    /// From the orchestrator: what processes and servers used.
    Resources(Box<ResourceSample>),
}

impl Sample {
    /// Where and when it was taken.
    #[must_use]
    pub fn interval(&self) -> Interval {
        match self {
            Self::Producer(s) => s.interval,
            Self::Consumer(s) => s.interval,
            Self::Resources(s) => s.interval,
        }
    }
}

/// What a producer did. Rows belong to the window in which they were due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProducerSample {
    /// Name of the worker.
    pub worker: String,
    /// When and in which phase.
    pub interval: Interval,
    /// Counters of the interval.
    pub counts: ProducerCounts,
    /// Due → sent, for every row.
    pub lateness: Timing,
    /// Sent → acknowledged, for every row.
    pub service: Timing,
    /// Due → acknowledged, for every row.
    pub response: Timing,
    /// Failed attempts by SQLSTATE (`connection` for a lost connection), retried or not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
}

/// A producer's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProducerCounts {
    /// Row versions PostgreSQL acknowledged: inserts + updates + deletes.
    pub rows: u64,
    /// Rows inserted.
    pub inserts: u64,
    /// Rows updated.
    pub updates: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// Transactions acknowledged.
    pub transactions: u64,
    /// Rows sent later than the plan tolerates after they were due.
    pub late_rows: u64,
    /// Rows given up on after an error.
    pub failed_rows: u64,
    /// Rows due and not sent when the phase was over.
    pub unsent_rows: u64,
    /// Rows of transactions whose outcome could not be found out.
    pub unknown_rows: u64,
    /// Updates that found no row.
    pub missed_updates: u64,
    /// Attempts that failed and were tried again.
    pub retries: u64,
    /// Bytes of row data handed to PostgreSQL.
    pub bytes: u64,
}

impl ProducerCounts {
    /// Adds another's counters.
    pub fn merge(&mut self, other: &Self) {
        // Taken apart by name, so that a new counter does not compile until it is added here.
        let Self {
            rows,
            inserts,
            updates,
            deletes,
            transactions,
            late_rows,
            failed_rows,
            unsent_rows,
            unknown_rows,
            missed_updates,
            retries,
            bytes,
        } = other;
        self.rows += rows;
        self.inserts += inserts;
        self.updates += updates;
        self.deletes += deletes;
        self.transactions += transactions;
        self.late_rows += late_rows;
        self.failed_rows += failed_rows;
        self.unsent_rows += unsent_rows;
        self.unknown_rows += unknown_rows;
        self.missed_updates += missed_updates;
        self.retries += retries;
        self.bytes += bytes;
    }
}

/// What a consumer did. Rows belong to the window in which they were due, which their stamp says;
/// rows without a stamp of this run belong to the window the clock is in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConsumerSample {
    /// Name of the worker.
    pub worker: String,
    /// When and in which phase.
    pub interval: Interval,
    /// Counters of the interval.
    pub counts: ConsumerCounts,
    /// Time one flush took at the sink, from its start to its acknowledgement.
    pub flush: Timing,
    /// Lag by stage.
    pub lag: Lag,
    /// Where the stream stands at the end of the interval.
    pub position: StreamPosition,
    /// How the interval was spent; in the one sample of several that is of the window the clock was
    /// in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vitals: Option<Box<ConsumerVitals>>,
}

/// Lag of every row, by stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lag {
    /// Commit in PostgreSQL → received by the consumer.
    pub commit_to_received: Timing,
    /// Received → acknowledged by the sink.
    pub received_to_flushed: Timing,
    /// Commit → acknowledged by the sink.
    pub commit_to_flushed: Timing,
    /// Due → acknowledged by the sink; stamped rows only.
    pub due_to_flushed: Timing,
    /// Commit → to be read in ClickHouse; of probe rows, where they were asked for.
    #[serde(default, skip_serializing_if = "Timing::is_empty")]
    pub commit_to_visible: Timing,
}

impl Lag {
    /// Adds another's timings.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            commit_to_received,
            received_to_flushed,
            commit_to_flushed,
            due_to_flushed,
            commit_to_visible,
        } = other;
        self.commit_to_received.merge(commit_to_received);
        self.received_to_flushed.merge(received_to_flushed);
        self.commit_to_flushed.merge(commit_to_flushed);
        self.due_to_flushed.merge(due_to_flushed);
        self.commit_to_visible.merge(commit_to_visible);
    }

    /// Negative samples of all stages: evidence that two clocks disagree.
    #[must_use]
    pub fn negative(&self) -> u64 {
        let Self {
            commit_to_received,
            received_to_flushed,
            commit_to_flushed,
            due_to_flushed,
            commit_to_visible,
        } = self;
        commit_to_received.negative()
            + received_to_flushed.negative()
            + commit_to_flushed.negative()
            + due_to_flushed.negative()
            + commit_to_visible.negative()
    }
}

/// A consumer's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerCounts {
    /// Row versions the sink acknowledged.
    pub rows: u64,
    /// Row versions received from PostgreSQL.
    pub received_rows: u64,
    /// Batches the sink acknowledged.
    pub batches: u64,
    /// Transactions received whole.
    pub transactions: u64,
    /// Bytes received on the replication stream. They belong to the window in which they came.
    pub received_bytes: u64,
    /// Bytes of encoded rows, before compression.
    pub encoded_bytes: u64,
    /// Bytes handed to the sink, after compression.
    pub sent_bytes: u64,
    /// Flushes tried again.
    pub retries: u64,
    /// Errors of the sink or of the stream, retried or not.
    pub errors: u64,
    /// Row versions without a stamp of this run.
    pub unstamped_rows: u64,
    /// Values that ClickHouse's type can't hold and that the nearest one took the place of.
    pub clamped_values: u64,
    /// Replication connections that took the place of a lost one.
    pub reconnects: u64,
    /// Row versions that the destination does not take, put aside.
    pub rejected_rows: u64,
}

impl ConsumerCounts {
    /// Adds another's counters.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            rows,
            received_rows,
            batches,
            transactions,
            received_bytes,
            encoded_bytes,
            sent_bytes,
            retries,
            errors,
            unstamped_rows,
            clamped_values,
            reconnects,
            rejected_rows,
        } = other;
        self.rows += rows;
        self.received_rows += received_rows;
        self.batches += batches;
        self.transactions += transactions;
        self.received_bytes += received_bytes;
        self.encoded_bytes += encoded_bytes;
        self.sent_bytes += sent_bytes;
        self.retries += retries;
        self.errors += errors;
        self.unstamped_rows += unstamped_rows;
        self.clamped_values += clamped_values;
        self.reconnects += reconnects;
        self.rejected_rows += rejected_rows;
    }
}

/// Where a replication stream stands. Positions are byte offsets in the WAL (LSN).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamPosition {
    /// Position of the last message received; 0 before the first.
    pub message_lsn: u64,
    /// End of the last transaction or keepalive received.
    pub received_lsn: u64,
    /// Everything before it is durable.
    pub confirmed_lsn: u64,
    /// Bytes received and not yet acknowledged by the sink.
    pub in_flight_bytes: u64,
}

/// What processes and servers used in an interval, as seen by the orchestrator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResourceSample {
    /// When and in which phase; the window is that of the clock.
    pub interval: Interval,
    /// Every process of the pipeline.
    pub processes: Vec<ProcessUse>,
    /// State of PostgreSQL at the end of the interval; absent when it did not answer in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresState>,
    /// What ClickHouse did in the interval; absent without one, and when it did not answer in time:
    /// then it stands in the next sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clickhouse: Option<ClickhouseUse>,
    /// How the machine spent the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineUse>,
    /// What PostgreSQL's processes waited for, as the doctor saw it: `walsender-0`, … and `backends`,
    /// those that carry out a statement.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub waits: BTreeMap<String, Waits>,
    /// The ends of the replication connections over TCP that are on this machine, as the server knows
    /// them, by the process that has them: `walsender-0`, `consumer-0`, … (or who passes on what is
    /// sent).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub connections: BTreeMap<String, TcpUse>,
}

/// What a process is to the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Writes rows.
    Producer,
    /// Follows replication.
    Consumer,
    /// walbench itself.
    Orchestrator,
    /// A PostgreSQL process that sends a consumer its changes.
    Walsender,
    /// All processes of the PostgreSQL server together, walsenders included.
    Postgres,
    /// The ClickHouse server, or the mock in its place.
    Clickhouse,
}

/// CPU time and memory of one process in an interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUse {
    /// `producer-0`, `walsender-0`, `postgres`, …
    pub name: String,
    /// What it is to the pipeline.
    pub role: Role,
    /// CPU time used in the interval, in µs.
    pub cpu_us: u64,
    /// Resident memory at the interval's end, in bytes.
    pub rss_bytes: u64,
    /// How its threads were scheduled; of a single process alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
}

/// State of the source server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresState {
    /// Position up to which WAL was flushed.
    pub wal_lsn: u64,
    /// The run's slots.
    pub slots: Vec<SlotState>,
    /// Checkpoints since the server's statistics were reset.
    #[serde(default)]
    pub checkpoints: u64,
}

/// State of one replication slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    /// The slot's name.
    pub name: String,
    /// Flushed and not yet confirmed, in bytes.
    pub lag_bytes: u64,
    /// WAL kept on disk for the slot, in bytes.
    pub retained_bytes: u64,
    /// Bytes the decoder spilled to disk since the slot was made; 0 before PostgreSQL 14.
    pub spill_bytes: u64,
    /// Bytes it streamed of transactions before their commit since then; 0 before PostgreSQL 14.
    #[serde(default)]
    pub stream_bytes: u64,
    /// Position up to which changes were sent; absent without a walsender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_lsn: Option<u64>,
    /// Position up to which the consumer has confirmed.
    #[serde(default)]
    pub confirmed_lsn: u64,
    /// What PostgreSQL says of the WAL kept for the slot: `reserved`, `extended`, `unreserved` or
    /// `lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_status: Option<String>,
    /// Bytes of WAL that can be written before it is lost; absent where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safe_wal_bytes: Option<i64>,
}

/// What a ClickHouse server did in an interval, by its own account (`system.events`), and what it
/// holds at the end of it. The account is the whole server's, others' work included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClickhouseUse {
    /// CPU time of its queries and merges, in µs; absent where it does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
    /// Inserts.
    pub inserts: u64,
    /// Rows of inserts.
    pub inserted_rows: u64,
    /// Uncompressed bytes of inserts.
    pub inserted_bytes: u64,
    /// Merges begun.
    pub merges: u64,
    /// Rows read by merges.
    pub merged_rows: u64,
    /// Inserts held up because a table had too many parts.
    pub delayed_inserts: u64,
    /// Inserts refused because a table had too many parts.
    pub rejected_inserts: u64,
    /// Parts that the run's tables consist of now.
    pub active_parts: u64,
    /// Bytes of these on disk now.
    pub disk_bytes: u64,
}

impl ClickhouseUse {
    /// Adds what was done in a later interval.
    pub fn merge(&mut self, later: &Self) {
        let Self {
            cpu_us,
            inserts,
            inserted_rows,
            inserted_bytes,
            merges,
            merged_rows,
            delayed_inserts,
            rejected_inserts,
            active_parts,
            disk_bytes,
        } = later;
        self.cpu_us = self.cpu_us.zip(*cpu_us).map(|(ours, theirs)| ours + theirs);
        self.inserts += inserts;
        self.inserted_rows += inserted_rows;
        self.inserted_bytes += inserted_bytes;
        self.merges += merges;
        self.merged_rows += merged_rows;
        self.delayed_inserts += delayed_inserts;
        self.rejected_inserts += rejected_inserts;
        self.active_parts = self.active_parts.max(*active_parts);
        self.disk_bytes = self.disk_bytes.max(*disk_bytes);
    }
}

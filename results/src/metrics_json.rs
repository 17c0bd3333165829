//! The document `metrics.json`: every figure of a run and what is said of it.
//!
//! Times are in µs unless the name says `sec`, sizes in bytes, throughputs in rows/s, a CPU share
//! in cores. What was not measured is `null`, never 0.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use walbench_metrics::Timing;
use walbench_metrics::sample::Role;
use walbench_profiles::doctor::Finding;
use walbench_profiles::heap::HeapFigures;

use crate::ceilings::{CeilingFigures, CeilingShare};
use crate::limit::Limit;
use crate::outcome::DrainVerdict;
use crate::verdict::Verdict;
use crate::verification::Verification;

/// Version of the document. Rises when a key changes its meaning or goes; new keys don't raise it.
pub const SCHEMA_VERSION: u32 = 1;

/// Every figure of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metrics {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Name of the run's folder.
    pub run_id: String,
    /// The plan's name.
    pub name: String,
    /// The plan's description.
    pub description: String,
    /// When the run started.
    #[schemars(with = "String")]
    pub started_at: Timestamp,
    /// When it ended.
    #[schemars(with = "String")]
    pub finished_at: Timestamp,
    /// What is said of the run.
    pub verdict: Verdict,
    /// Why, one sentence each; empty for a pass.
    pub reasons: Vec<String>,
    /// What limited the run.
    pub limit: Limit,
    /// The user interrupted the run: what is here is partial.
    pub interrupted: bool,
    /// The component that failed and ended the run.
    pub failure: Option<String>,
    /// What a reader must know to judge the figures, one sentence each.
    pub notes: Vec<String>,
    /// The phases that started.
    pub phases: Vec<PhaseFigures>,
    /// What each part can do by itself; `null` where that was not measured (`profiling.ceiling`).
    #[serde(default)]
    pub ceiling: Option<CeilingFigures>,
    /// Whether every row arrived.
    pub verification: Verification,
    /// Every threshold in every phase.
    pub thresholds: Vec<ThresholdResult>,
}

/// Figures of one phase. Only rows due in the measured window are in them, however late they were
/// sent or delivered; the warm-up is in none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PhaseFigures {
    /// The phase's name.
    pub name: String,
    /// The plan's target rate.
    pub target_throughput: f64,
    /// Mean rate the plan asks for in the measured window: differs from the target where the phase
    /// ramps or bursts.
    pub planned_throughput: f64,
    /// Length of the measured window; shorter than planned when the run ended within it.
    pub duration_sec: f64,
    /// Length of the warm-up by the plan.
    pub warmup_sec: f64,
    /// What is said of the phase.
    pub verdict: Verdict,
    /// Why, one sentence each; empty for a pass.
    pub reasons: Vec<String>,
    /// What limited the phase.
    pub limit: Limit,
    /// All that the doctor's rules found, the weightiest first: what limited the phase or that
    /// nothing did, then what did no harm yet.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// How much of what each part can do by itself was used, the lowest ceiling first; empty where
    /// that was not measured.
    #[serde(default)]
    pub ceiling_shares: Vec<CeilingShare>,
    /// Pictures of how far each part of the pipeline was in the WAL, by their places in the run's
    /// folder; empty without the doctor.
    #[serde(default)]
    pub ladders: Vec<String>,
    /// From the end of the measured window until the last row was acknowledged by the sink.
    pub drain_sec: Option<f64>,
    /// How the drain ended.
    pub drain: DrainVerdict,
    /// The producers; `null` when walbench wrote nothing.
    pub producer: Option<ProducerFigures>,
    /// The consumers.
    pub consumer: ConsumerFigures,
    /// The source server.
    pub postgres: PostgresFigures,
    /// ClickHouse, or the mock server in its place; `null` without a server.
    #[serde(default)]
    pub clickhouse: Option<ClickhouseFigures>,
    /// Each process of the pipeline.
    pub processes: Vec<ProcessFigures>,
    /// Where the CPU time of each sampled process went; empty without a profiler.
    #[serde(default)]
    pub profiles: Vec<ProfileFigures>,
    /// Who held each worker's memory; empty unless heaps were profiled.
    #[serde(default)]
    pub heaps: Vec<HeapFigures>,
}

/// A timing as its count and quantiles, in µs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TimingFigures {
    /// Durations recorded, without those over an hour.
    pub count: u64,
    /// The shortest.
    pub min: Option<u64>,
    /// The median.
    pub p50: Option<u64>,
    /// The 90th percentile.
    pub p90: Option<u64>,
    /// The 95th percentile.
    pub p95: Option<u64>,
    /// The 99th percentile.
    pub p99: Option<u64>,
    /// The 99.9th percentile.
    pub p999: Option<u64>,
    /// The longest.
    pub max: Option<u64>,
    /// The mean.
    pub mean: Option<f64>,
    /// Durations over an hour, which are in no other figure here.
    pub over: u64,
}

impl From<&Timing> for TimingFigures {
    fn from(timing: &Timing) -> Self {
        Self {
            count: timing.count(),
            min: timing.min_us(),
            p50: timing.quantile_us(0.5),
            p90: timing.quantile_us(0.9),
            p95: timing.quantile_us(0.95),
            p99: timing.quantile_us(0.99),
            p999: timing.quantile_us(0.999),
            max: timing.max_us(),
            mean: timing.mean_us(),
            over: timing.over(),
        }
    }
}

/// What the producers did, all together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProducerFigures {
    /// Row versions PostgreSQL acknowledged.
    pub rows: u64,
    /// Rows inserted.
    pub inserts: u64,
    /// Rows updated.
    pub updates: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// Transactions acknowledged.
    pub transactions: u64,
    /// Rows that were due: acknowledged, failed, unsent and unknown ones.
    pub due_rows: u64,
    /// `rows` over the measured window, plus the time the producers needed beyond its end to catch
    /// up. Whoever sends all rows, but too slowly, shows the rate at which they were really sent.
    pub achieved_throughput: Option<f64>,
    /// How far `achieved_throughput` is below the rate at which rows were due, in percent; 0 when
    /// it is not below.
    pub shortfall_percent: Option<f64>,
    /// Attempts that failed, retried or not.
    pub errors: u64,
    /// The same by SQLSTATE; `connection` for a lost connection.
    pub errors_by_sqlstate: BTreeMap<String, u64>,
    /// Rows sent later than the plan tolerates.
    pub late_rows: u64,
    /// Rows given up on after an error.
    pub failed_rows: u64,
    /// Rows due and not sent when the phase was over.
    pub unsent_rows: u64,
    /// Rows of transactions whose outcome could not be found out.
    pub unknown_rows: u64,
    /// Updates that found no row.
    pub missed_updates: u64,
    /// Attempts that were tried again.
    pub retries: u64,
    /// Bytes of row data handed to PostgreSQL.
    pub bytes: u64,
    /// Due → sent.
    pub lateness_us: TimingFigures,
    /// Sent → acknowledged.
    pub service_us: TimingFigures,
    /// Due → acknowledged.
    pub response_us: TimingFigures,
    /// CPU time of all producers in the measured window and the drain, for each of `rows`.
    pub cpu_us_per_row: Option<f64>,
    /// Resident memory of the largest producer.
    pub max_rss_bytes: Option<u64>,
}

/// What the consumers did, all together: a row that each of two consumers received is two rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConsumerFigures {
    /// Row versions the sink acknowledged.
    pub rows: u64,
    /// Row versions received from PostgreSQL.
    pub received_rows: u64,
    /// Batches the sink acknowledged; of another program in the consumer's place, confirmations of its
    /// slot.
    pub batches: u64,
    /// Mean rows of a batch.
    pub mean_batch_rows: Option<f64>,
    /// Transactions whose every row the sink acknowledged.
    pub transactions: u64,
    /// Rows acknowledged by the sink before the measured window's end, over its length.
    pub throughput: Option<f64>,
    /// Rows acknowledged after it, over the length of the drain; `null` for a drain that was too
    /// short to say.
    pub drain_throughput: Option<f64>,
    /// All rows, over the time from the window's start to the end of the drain.
    pub end_to_end_throughput: Option<f64>,
    /// Bytes handed to the sink, after compression; like all that another program in the consumer's
    /// place does not tell, `null` then.
    pub bytes: Option<u64>,
    /// Bytes received on the replication stream; of another program, those that the same changes have
    /// in pgoutput's text form.
    pub received_bytes: u64,
    /// Bytes of encoded rows, before compression.
    pub encoded_bytes: Option<u64>,
    /// Longest time, in steps of a second, in which rows were written and none was delivered,
    /// warm-up and drain included; `null` where none was of two seconds.
    #[serde(default)]
    pub longest_stall_sec: Option<f64>,
    /// From its end until no more rows were left than were written in the last two seconds; `null`
    /// without a stall, and where that never was.
    #[serde(default)]
    pub catch_up_sec: Option<f64>,
    /// Flushes tried again, drain included.
    pub retries: Option<u64>,
    /// Errors of the sink or the stream, retried or not, drain included.
    pub errors: Option<u64>,
    /// Replication connections that took the place of a lost one, drain included.
    #[serde(default)]
    pub reconnects: u64,
    /// Values written as the nearest that ClickHouse's type can hold, drain included.
    #[serde(default)]
    pub clamped_values: Option<u64>,
    /// Row versions that ClickHouse does not take, put aside, drain included.
    #[serde(default)]
    pub rejected_rows: Option<u64>,
    /// Row versions without a stamp of this run.
    pub unstamped_rows: u64,
    /// Time of one flush.
    pub flush_us: TimingFigures,
    /// Lag of every row, by stage.
    pub lag_us: LagFigures,
    /// Negative lag samples: two clocks disagree.
    pub negative_lag_samples: u64,
    /// CPU time of all consumers in the measured window and the drain, for each of `rows`.
    pub cpu_us_per_row: Option<f64>,
    /// Resident memory of the largest consumer.
    pub max_rss_bytes: Option<u64>,
}

/// Lag of every row, by stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LagFigures {
    /// Commit in PostgreSQL → received by the consumer.
    pub commit_to_received: TimingFigures,
    /// Received → acknowledged by the sink.
    pub received_to_flushed: TimingFigures,
    /// Commit → acknowledged by the sink.
    pub commit_to_flushed: TimingFigures,
    /// Due → acknowledged by the sink; stamped rows only.
    pub due_to_flushed: TimingFigures,
    /// Commit → to be read in ClickHouse, of probe rows; `null` where they were not asked for.
    #[serde(default)]
    pub commit_to_visible: Option<TimingFigures>,
}

/// The source server in the measured window and the drain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PostgresFigures {
    /// CPU time of the walsenders for each row the consumers delivered.
    pub walsender_cpu_us_per_row: Option<f64>,
    /// CPU time of the whole server, walsenders included, for each row written.
    pub cpu_us_per_row: Option<f64>,
    /// CPU time of the whole server, walsenders included.
    pub cpu_seconds: Option<f64>,
    /// Memory of the whole server.
    pub max_rss_bytes: Option<u64>,
    /// Largest lag of a slot: flushed and not yet confirmed.
    pub slot_lag_bytes_max: Option<u64>,
    /// Most WAL kept on disk for a slot.
    pub retained_bytes_max: Option<u64>,
    /// WAL written from the measured window's start until the producers were done.
    pub wal_bytes: Option<u64>,
    /// Bytes the decoders spilled to disk, warm-up included.
    pub spill_bytes: Option<u64>,
}

/// ClickHouse in the measured window and the drain. What it tells of itself is the whole server's,
/// others' work included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClickhouseFigures {
    /// CPU time of the server for each row the consumers delivered.
    pub cpu_us_per_row: Option<f64>,
    /// CPU time of the server: of its process where that is on this machine, else of its queries
    /// and merges, as it tells.
    pub cpu_seconds: Option<f64>,
    /// Memory of the server, where its process is on this machine.
    pub max_rss_bytes: Option<u64>,
    /// Inserts.
    pub inserts: Option<u64>,
    /// Rows of inserts.
    pub inserted_rows: Option<u64>,
    /// Uncompressed bytes of inserts.
    pub inserted_bytes: Option<u64>,
    /// Merges begun.
    pub merges: Option<u64>,
    /// Rows read by merges: over `inserted_rows`, how often a row is written again.
    pub merged_rows: Option<u64>,
    /// Most parts that the run's tables consisted of.
    pub active_parts_max: Option<u64>,
    /// Most bytes of these on disk.
    pub disk_bytes_max: Option<u64>,
    /// Inserts held up because a table had too many parts.
    pub delayed_inserts: Option<u64>,
    /// Inserts refused because a table had too many parts.
    pub rejected_inserts: Option<u64>,
}

/// One process in the measured window and the drain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessFigures {
    /// `producer-0`, `walsender-0`, `postgres`, …
    pub name: String,
    /// `producer`, `consumer`, `orchestrator`, `walsender`, `postgres` (the whole server, walsenders
    /// included) or `clickhouse`.
    #[schemars(with = "String")]
    pub role: Role,
    /// CPU time used.
    pub cpu_seconds: f64,
    /// CPU time for each row of the process; of PostgreSQL and of the orchestrator, for each row
    /// written.
    pub cpu_us_per_row: Option<f64>,
    /// CPU time over time passed: 1 is one core.
    pub cpu_share: Option<f64>,
    /// The same in the measured window alone.
    pub measured_cpu_share: Option<f64>,
    /// Most resident memory.
    pub max_rss_bytes: u64,
    /// Most memory that the process had from its allocator and did not give back; of consumers alone.
    #[serde(default)]
    pub max_allocated_bytes: Option<u64>,
}

/// Where a process's CPU time went, by samples, in the measured window and the drain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileFigures {
    /// The process, as in `processes`.
    pub process: String,
    /// Where the samples came from.
    pub backend: String,
    /// CPU time that it used.
    pub cpu_seconds: f64,
    /// Rows that it worked on.
    pub rows: u64,
    /// How far the samples can be trusted.
    pub quality: ProfileQuality,
    /// What is wrong with the samples; no share is to be trusted then.
    pub flaw: Option<String>,
    /// CPU time by area of code, in the order of a row's way. All areas together are all of the
    /// process's CPU time.
    pub areas: Vec<AreaFigures>,
    /// Its flamegraphs and profiles, by their places in the run's folder, warm-up included.
    pub files: Vec<String>,
}

/// How far samples can be trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileQuality {
    /// Samples in all.
    pub samples: u64,
    /// Samples for each one that the CPU time should have brought: about 1.
    pub ratio: f64,
    /// Share of samples without a stack.
    pub empty: f64,
    /// Share of samples whose stack does not reach the thread's beginning.
    pub truncated: f64,
    /// Share of samples whose innermost function has no name.
    pub unresolved: f64,
    /// Samples that were taken and could not be kept.
    pub lost: u64,
}

/// CPU time of an area of code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AreaFigures {
    /// `read`, `decode`, `encode`, `compress`, `send`, `metrics`, `runtime`, `allocator`, `kernel` or
    /// `other`.
    pub area: String,
    /// CPU time for each row of the process.
    pub cpu_us_per_row: Option<f64>,
    /// It is at least this, with a certainty of 95 % that it is within both bounds.
    pub cpu_us_per_row_low: Option<f64>,
    /// It is at most this.
    pub cpu_us_per_row_high: Option<f64>,
    /// Share of the process's CPU time.
    pub share: f64,
    /// Share of the area's time that was spent in the kernel.
    pub kernel_share: f64,
}

/// A threshold in one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ThresholdResult {
    /// The plan's name for it.
    pub name: String,
    /// The expression.
    pub expression: String,
    /// The phase's name.
    pub phase: String,
    /// The figure, in its own unit; `null` when there is no data.
    pub value: Option<f64>,
    /// Whether it held; `null` when there is no data.
    pub met: Option<bool>,
}

/// The JSON Schema of `metrics.json`.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Metrics).to_value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_document_keeps_its_keys() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&testing::failing()).unwrap());
    }

    /// The keys that others rely on: DESIGN.md, section "metrics.json".
    #[test]
    fn the_promised_keys_are_there() {
        let json = serde_json::to_value(testing::passing()).unwrap();
        let promised: [(&str, &[&str]); 7] = [
            ("", &["schema_version", "run_id", "name", "started_at", "verdict", "limit", "phases"]),
            ("/phases/0", &["name", "target_throughput", "duration_sec", "verdict", "drain_sec"]),
            (
                "/phases/0/producer",
                &[
                    "rows",
                    "inserts",
                    "updates",
                    "deletes",
                    "transactions",
                    "achieved_throughput",
                    "errors",
                    "late_rows",
                    "lateness_us",
                    "service_us",
                    "response_us",
                    "cpu_us_per_row",
                    "max_rss_bytes",
                ],
            ),
            (
                "/phases/0/consumer",
                &[
                    "rows",
                    "batches",
                    "throughput",
                    "bytes",
                    "retries",
                    "errors",
                    "flush_us",
                    "lag_us",
                    "negative_lag_samples",
                    "cpu_us_per_row",
                    "max_rss_bytes",
                ],
            ),
            (
                "/phases/0/consumer/lag_us/commit_to_flushed",
                &["count", "min", "p50", "p90", "p95", "p99", "p999", "max", "mean"],
            ),
            (
                "/phases/0/postgres",
                &["walsender_cpu_us_per_row", "cpu_seconds", "slot_lag_bytes_max", "wal_bytes"],
            ),
            (
                "/verification",
                &[
                    "expected_rows",
                    "delivered_rows",
                    "lost",
                    "duplicated",
                    "out_of_order",
                    "wrong",
                    "verdict",
                ],
            ),
        ];
        for (place, keys) in promised {
            for key in keys {
                let value = json.pointer(place).and_then(|object| object.get(key));
                assert!(value.is_some_and(|value| !value.is_null()), "{place}/{key}");
            }
        }
    }

    #[test]
    fn the_schema_keeps_its_keys() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&schema()).unwrap());
    }

    #[test]
    fn what_is_written_is_read_and_fits_the_schema() {
        let validator = jsonschema::validator_for(&schema()).unwrap();
        for metrics in
            [testing::passing(), testing::failing(), testing::invalid(), testing::interrupted()]
        {
            let json = serde_json::to_value(&metrics).unwrap();
            assert!(validator.is_valid(&json), "{:?}", validator.validate(&json).err());
            assert_eq!(serde_json::from_value::<Metrics>(json).unwrap(), metrics);
        }
    }
}

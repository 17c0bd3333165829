//! The plan: every section and key a plan file may hold, with its default beside it.
//!
//! These types are the single description of a plan. Their JSON Schema (ranges and choices
//! included) is what `walbench schema` prints and what [`crate::load()`] checks a file against, so a
//! key, its bounds and its documentation stand in one place. What needs more than one field to be
//! judged is in `validate.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the pattern of a name says, in words. Stands beside each pattern as `x-form`, so that a
/// message need not show a regular expression.
const NAME_FORM: &str = r#"letters, digits, ".", "_" and "-", the first a letter or digit"#;

/// A whole plan, resolved: what shall happen in one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Names the run and its folder. Letters, digits, `-`, `_` and `.`.
    #[serde(default = "default_name")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
        extend("x-form" = NAME_FORM)
    )]
    pub name: String,
    /// A sentence for the reader of the report.
    #[serde(default)]
    pub description: String,
    /// The phases, run one after the other; at least one.
    #[schemars(length(min = 1))]
    pub phases: Vec<Phase>,
    /// The source database.
    #[serde(default)]
    pub postgres: Postgres,
    /// The destination.
    #[serde(default)]
    pub clickhouse: Clickhouse,
    /// The processes that write rows.
    #[serde(default)]
    pub producer: Producer,
    /// The processes that follow replication.
    #[serde(default)]
    pub consumer: Consumer,
    /// The CPU profiler.
    #[serde(default)]
    pub profiling: Profiling,
    /// How long walbench waits for what should come.
    #[serde(default)]
    pub limits: Limits,
    /// Where the run is written.
    #[serde(default)]
    pub output: Output,
    /// Named expressions that must hold in every phase, such as
    /// `"lag stays low" = "lag.commit_to_flushed.p99 < 500ms"`. One that does not fails the run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub thresholds: BTreeMap<String, String>,
}

impl Plan {
    /// There is a ClickHouse to write into, be it a mock server.
    #[must_use]
    pub fn has_clickhouse(&self) -> bool {
        self.clickhouse.mode != ClickhouseMode::Mock || self.consumer.mock_level == MockLevel::Http
    }
}

fn default_name() -> String {
    "run".into()
}

/// One stretch of load: an optional warm-up, then a measured window, then the drain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Name of the phase, unique within the plan.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
        extend("x-form" = NAME_FORM)
    )]
    pub name: String,
    /// Length of the measured window, in seconds.
    #[schemars(range(max = 604_800.0), extend("exclusiveMinimum" = 0))]
    pub duration_sec: f64,
    /// Rows a second over all producers. A ceiling the generator must really hold: a run that
    /// falls short of it is invalid, not slow.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 100_000_000.0))]
    pub target_throughput: f64,
    /// Seconds of load before the measured window, left out of every figure.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 86_400.0))]
    pub warmup_sec: f64,
    /// Makes the measured window a linear ramp from this rate to `target_throughput`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100_000_000.0))]
    pub start_throughput: Option<f64>,
    /// Adds regular bursts above `target_throughput`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<Burst>,
}

/// Regular bursts: for the first `length_sec` of every `every_sec` the rate is `throughput`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Burst {
    /// Rows a second while the burst lasts.
    #[schemars(range(max = 100_000_000.0), extend("exclusiveMinimum" = 0))]
    pub throughput: f64,
    /// Seconds from one burst's start to the next.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub every_sec: f64,
    /// Seconds a burst lasts; less than `every_sec`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub length_sec: f64,
}

/// `[postgres]`: the source database. Without a `url` walbench runs a private server of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Postgres {
    /// Connection URL of an existing server (`postgres://user:password@host:port/`, with `sslmode`
    /// and `sslrootcert` as libpq knows them). Absent: a private, throw-away server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The database walbench makes, marks as its own and drops at the end.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// Connection URL of a database whose schema is copied with `pg_dump --schema-only`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_from: Option<String>,
    /// `REPLICA IDENTITY` set on every table that is written.
    pub replica_identity: ReplicaIdentity,
    /// Name of the publication; with several consumers that share the tables, the stem of theirs.
    #[schemars(
        length(min = 1, max = 48),
        regex(pattern = r"^[a-z_][a-z0-9_]*$"),
        extend("x-form" = "lower-case letters, digits and \"_\", the first no digit")
    )]
    pub publication: String,
    /// Stem of the replication slots' names: `<slot>_0`, `<slot>_1`, …
    #[schemars(
        length(min = 1, max = 48),
        regex(pattern = r"^[a-z0-9_]+$"),
        extend("x-form" = "lower-case letters, digits and \"_\"")
    )]
    pub slot: String,
    /// `synchronous_commit` of the producers' sessions.
    pub synchronous_commit: SynchronousCommit,
    /// How workers reach the private server.
    pub transport: Transport,
    /// Settings of the private server, over walbench's own (`shared_buffers = "1GB"`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

impl Default for Postgres {
    fn default() -> Self {
        Self {
            url: None,
            database: "walbench".into(),
            schema_from: None,
            replica_identity: ReplicaIdentity::Default,
            publication: "walbench".into(),
            slot: "walbench".into(),
            synchronous_commit: SynchronousCommit::On,
            transport: Transport::Unix,
            settings: BTreeMap::new(),
        }
    }
}

/// `REPLICA IDENTITY` of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaIdentity {
    /// The primary key identifies old rows.
    Default,
    /// The whole old row is logged.
    Full,
    /// Nothing is logged of old rows; updates and deletes are refused by PostgreSQL.
    Nothing,
}

/// PostgreSQL's `synchronous_commit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SynchronousCommit {
    /// A commit is acknowledged once its WAL is flushed.
    On,
    /// A commit is acknowledged before its WAL is flushed; decoding waits for the WAL writer.
    Off,
}

/// How workers reach the private PostgreSQL server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// A Unix socket in the server's private folder.
    Unix,
    /// TCP over loopback.
    Tcp,
}

/// `[clickhouse]`: the destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Clickhouse {
    /// What receives the rows.
    pub mode: ClickhouseMode,
    /// HTTP URL of an existing server, for `mode = "url"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Database the tables are made in, unless the URL names one.
    #[schemars(length(min = 1))]
    pub database: String,
    /// Cluster that tables are made on: replicated ones on each of its servers, and distributed ones
    /// over them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Settings of every insert (`max_insert_threads = "2"`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// Seconds an insert may take once it was sent; it is tried again then.
    #[schemars(range(min = 0.001, max = 86_400))]
    pub insert_timeout_sec: f64,
    /// Whether ClickHouse's tables are compared with PostgreSQL's, row by row, at the run's end.
    pub verify: bool,
    /// What becomes of a row that ClickHouse does not take.
    pub on_bad_row: BadRow,
    /// File that such rows are put aside in; absent: they are counted alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad_rows_file: Option<PathBuf>,
    /// The mock server.
    #[serde(skip_serializing_if = "MockServer::is_default")]
    pub mock: MockServer,
}

impl Default for Clickhouse {
    fn default() -> Self {
        Self {
            mode: ClickhouseMode::Mock,
            url: None,
            database: "walbench".into(),
            cluster: None,
            settings: BTreeMap::new(),
            insert_timeout_sec: 60.0,
            verify: true,
            on_bad_row: BadRow::Fail,
            bad_rows_file: None,
            mock: MockServer::default(),
        }
    }
}

/// `[clickhouse.mock]`: the mock ClickHouse server, for `consumer.mock_level = "http"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MockServer {
    /// Time each insert takes beyond its work, in ms, on average; absent: `consumer.mock_delay_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3_600_000))]
    pub delay_ms: Option<u64>,
    /// How that time is spread around its average.
    pub delay_distribution: DelayDistribution,
    /// Rows a second that are taken over all connections; 0: as many as come.
    #[schemars(range(min = 0.0, max = 1_000_000_000.0))]
    pub rows_per_sec: f64,
    /// What goes wrong, and when.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

impl MockServer {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for MockServer {
    fn default() -> Self {
        Self {
            delay_ms: None,
            delay_distribution: DelayDistribution::Fixed,
            rows_per_sec: 0.0,
            faults: Vec::new(),
        }
    }
}

/// How delays are spread around their average.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DelayDistribution {
    /// Each is the average.
    Fixed,
    /// From nothing to twice the average, each as likely.
    Uniform,
    /// Exponentially.
    Exponential,
    /// Log-normally, with a sigma of 1: half of them are below 0.61 of the average, 1 % above 6.2
    /// times it.
    Lognormal,
}

/// `[[clickhouse.mock.faults]]`: something that goes wrong with the mock server for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// Phase from whose start, warm-up included, the time is counted; absent: the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Seconds from there to the fault's beginning.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 604_800.0))]
    pub at_sec: f64,
    /// Seconds it lasts, also beyond its phase; absent: to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 604_800.0), extend("exclusiveMinimum" = 0))]
    pub for_sec: Option<f64>,
    /// Share of the inserts that it strikes.
    #[serde(default = "whole")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// Share of the struck inserts whose rows are written all the same, of which nobody hears;
    /// absent: half of those that are cut, and none of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub applied_share: Option<f64>,
    /// HTTP status of an error that is none of ClickHouse's (429, 503).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 400, max = 599))]
    pub status: Option<u16>,
    /// ClickHouse's code of an error (252: too many parts, 241: memory limit, 202: too many queries).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1023))]
    pub code: Option<u16>,
    /// Time that a delay adds, in ms, on average, spread as `delay_distribution` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3_600_000))]
    pub delay_ms: Option<u64>,
    /// Rows a second that a throttle leaves over all connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000_000.0), extend("exclusiveMinimum" = 0))]
    pub rows_per_sec: Option<f64>,
}

impl Fault {
    /// One that strikes every insert from the first phase's start to the end, with nothing said of
    /// how.
    #[must_use]
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            phase: None,
            at_sec: 0.0,
            for_sec: None,
            share: whole(),
            applied_share: None,
            status: None,
            code: None,
            delay_ms: None,
            rows_per_sec: None,
        }
    }
}

fn whole() -> f64 {
    1.0
}

/// What goes wrong with the mock server.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Nobody listens, and open connections are cut.
    Outage,
    /// Inserts are answered with an error: `status` or `code`.
    Error,
    /// Inserts are taken and never answered.
    Hang,
    /// Connections are cut in mid-insert.
    Cut,
    /// Inserts take longer, by `delay_ms`.
    Delay,
    /// Inserts are taken more slowly, by `rows_per_sec`.
    Throttle,
}

impl FaultKind {
    /// As a plan has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Outage => "outage",
            Self::Error => "error",
            Self::Hang => "hang",
            Self::Cut => "cut",
            Self::Delay => "delay",
            Self::Throttle => "throttle",
        }
    }
}

/// What becomes of a row that ClickHouse does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BadRow {
    /// The consumer ends with an error that says why.
    Fail,
    /// It is put aside with the reason, and counted; the rows beside it are written.
    SetAside,
}

/// What receives the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClickhouseMode {
    /// No server: see `consumer.mock_level`.
    Mock,
    /// A private ClickHouse that walbench starts and stops.
    Managed,
    /// The existing server at `clickhouse.url`.
    Url,
}

/// `[producer]`: the processes that write rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Producer {
    /// `false`: walbench writes nothing and measures what others write.
    pub enabled: bool,
    /// Separate producer processes; they share the target rate evenly.
    #[schemars(range(min = 1, max = 256))]
    pub processes: u32,
    /// Connections of each process. Each carries one transaction at a time.
    #[schemars(range(min = 1, max = 1000))]
    pub connections: u32,
    /// Tables that are written, transaction by transaction in turn: `task_run` (about 40 columns,
    /// 1 KB), `event` (narrow, 200 B), or tables of the copied schema.
    #[schemars(length(min = 1))]
    pub tables: Vec<String>,
    /// Share of rows that are inserts; the rest are updates of rows written before.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub insert_update_ratio: f64,
    /// Rows of one transaction, all due at one moment.
    #[schemars(range(min = 1, max = 100_000))]
    pub batch_size: u32,
    /// Size of a built-in table's payload column; absent: 512 for `task_run`, 64 for `event`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 104_857_600))]
    pub payload_bytes: Option<u32>,
    /// Share of the payload that a compressor can take away: 0 is noise, 1 is one repeated word.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub payload_compressibility: f64,
    /// How due times are spread.
    pub arrivals: Arrivals,
    /// How rows are written.
    pub write_method: WriteMethod,
    /// Row n of a seed is always the same row.
    pub seed: u64,
    /// A transaction sent later than this after its due time counts its rows as late, in ms.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub late_after_ms: f64,
    /// Tries of one transaction before its rows count as failed.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: u32,
    /// Command that starts walbench elsewhere (`["ssh", "host", "walbench"]`); empty: here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub launcher: Vec<String>,
}

impl Default for Producer {
    fn default() -> Self {
        Self {
            enabled: true,
            processes: 1,
            connections: 4,
            tables: vec!["task_run".into()],
            insert_update_ratio: 0.8,
            batch_size: 10,
            payload_bytes: None,
            payload_compressibility: 0.5,
            arrivals: Arrivals::Uniform,
            write_method: WriteMethod::Insert,
            seed: 42,
            late_after_ms: 10.0,
            max_attempts: 5,
            launcher: Vec::new(),
        }
    }
}

/// Tables that walbench can make; all others come with a copied schema.
pub const BUILTIN_TABLES: [&str; 2] = ["task_run", "event"];

/// How the due times of transactions are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Evenly.
    Uniform,
    /// As a Poisson process: exponential gaps, as independent users make them.
    Poisson,
}

/// How the rows of a transaction are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteMethod {
    /// One multi-row insert.
    Insert,
    /// Single-row inserts, sent without waiting for each other.
    Pipelined,
    /// Binary COPY.
    Copy,
}

/// `[consumer]`: the processes that follow logical replication.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Consumer {
    /// Separate consumer processes, each with its own slot.
    #[schemars(range(min = 1, max = 64))]
    pub processes: u32,
    /// What each of several consumers receives.
    pub distribution: Distribution,
    /// Rows at which a batch is flushed.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub flush_batch_size: u32,
    /// Encoded bytes at which a batch is flushed.
    #[schemars(range(min = 1024, max = 1_073_741_824))]
    pub flush_batch_bytes: u64,
    /// Age of its first row at which a batch is flushed, in ms.
    #[schemars(range(min = 1, max = 3_600_000))]
    pub flush_interval_ms: u64,
    /// Flushes under way at once.
    #[schemars(range(min = 1, max = 256))]
    pub max_flush_concurrency: u32,
    /// Bytes of rows received and not yet acknowledged by the sink, at which reading stops.
    #[schemars(range(min = 65_536))]
    pub max_in_flight_bytes: u64,
    /// Seconds a flush that fails may take to succeed, if what is wrong may pass; 0 gives up at once.
    /// What was received waits in memory meanwhile, up to `max_in_flight_bytes`, and then PostgreSQL.
    #[schemars(range(min = 0, max = 86_400))]
    pub flush_retry_sec: f64,
    /// Seconds a lost replication connection may take to come back, and a slot that is held at the
    /// start to become free (no more than 10 s); 0 gives up at once.
    #[schemars(range(min = 0, max = 86_400))]
    pub reconnect_sec: f64,
    /// Seconds without a byte from PostgreSQL, asked for a sign of life after half of them, at which
    /// the connection counts as lost, as PostgreSQL's own `wal_receiver_timeout`; 0 waits for ever.
    #[schemars(range(min = 0, max = 86_400))]
    pub receive_timeout_sec: f64,
    /// Version of pgoutput's protocol; absent: the newest the server has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4))]
    pub protocol_version: Option<u32>,
    /// Whether large transactions are received before they are committed (protocol 2).
    pub streaming: Streaming,
    /// Whether prepared transactions are received when they are prepared (protocol 3).
    pub two_phase: bool,
    /// The form column values are asked for in.
    pub column_format: ColumnFormat,
    /// `true` reads as soon as there is anything, also while the stream is busy: for measuring what
    /// reading late and large saves.
    pub eager_reads: bool,
    /// Which changes are received, by where they were made first (PostgreSQL 16).
    pub origin: Origin,
    /// Memory for transactions received before they are committed; beyond it they go to a file.
    #[schemars(range(min = 65_536))]
    pub spool_memory_bytes: u64,
    /// Folder of those files; absent: `TMPDIR`, else `/var/tmp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spool_dir: Option<PathBuf>,
    /// What becomes of values that ClickHouse's type can't hold.
    pub out_of_range: OutOfRange,
    /// What PostgreSQL's arrays become.
    pub arrays: Arrays,
    /// Copy the rows that exist before following the changes.
    pub initial_copy: bool,
    /// Connections that copy at once.
    #[schemars(range(min = 1, max = 64))]
    pub copy_connections: u32,
    /// File that remembers how far the copy has come, so that a killed one is resumed; absent: it
    /// starts again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_state: Option<PathBuf>,
    /// How much of a flush the mock does.
    pub mock_level: MockLevel,
    /// Time each mock flush takes beyond its CPU cost, in ms; `clickhouse.mock` can spread it.
    #[schemars(range(min = 0, max = 3_600_000))]
    pub mock_delay_ms: u64,
    /// Folder that the mock of level `files` writes into; consumers may share it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mock_dir: Option<PathBuf>,
    /// `false` leaves out lag and flush timings: for measuring what measuring costs.
    pub record_timings: bool,
    /// Command that starts walbench elsewhere (`["ssh", "host", "walbench"]`); empty: here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub launcher: Vec<String>,
    /// Any other program in the consumers' place: it and its arguments, with placeholders such as
    /// `{postgres_url}`, `{slot}` and `{publication}`; empty: walbench's own consumer. Beside it
    /// only `processes`, `distribution`, `launcher`, `record_timings`, `visible_sql` and
    /// `mock_level = "http"` mean something in this section.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// With a command: a query for ClickHouse that says the largest `id` of `walbench_probe` that is
    /// to be read there, such as `SELECT max(id) FROM {clickhouse_database}.walbench_probe`. Ten rows
    /// a second are written into that table, and asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visible_sql: Option<String>,
}

impl Consumer {
    /// Another program takes the consumers' place.
    #[must_use]
    pub fn is_external(&self) -> bool {
        !self.command.is_empty()
    }
}

impl Default for Consumer {
    fn default() -> Self {
        Self {
            processes: 1,
            distribution: Distribution::All,
            flush_batch_size: 1_000,
            flush_batch_bytes: 8 * 1024 * 1024,
            flush_interval_ms: 100,
            max_flush_concurrency: 4,
            max_in_flight_bytes: 24 * 1024 * 1024,
            flush_retry_sec: 300.0,
            reconnect_sec: 120.0,
            receive_timeout_sec: 60.0,
            protocol_version: None,
            streaming: Streaming::Off,
            two_phase: false,
            column_format: ColumnFormat::Auto,
            eager_reads: false,
            origin: Origin::Any,
            spool_memory_bytes: 8 * 1024 * 1024,
            spool_dir: None,
            out_of_range: OutOfRange::Refuse,
            arrays: Arrays::Array,
            initial_copy: false,
            copy_connections: 4,
            copy_state: None,
            mock_level: MockLevel::Encode,
            mock_delay_ms: 0,
            mock_dir: None,
            record_timings: true,
            launcher: Vec::new(),
            command: Vec::new(),
            visible_sql: None,
        }
    }
}

/// What each of several consumers receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Every consumer receives every table.
    All,
    /// The tables are divided among the consumers.
    Divided,
}

/// How much of a flush the mock ClickHouse does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MockLevel {
    /// Rows are decoded and dropped.
    Discard,
    /// Rows are encoded as RowBinary and compressed with LZ4: the whole CPU cost, no server.
    Encode,
    /// The same rows as `encode`, and each flush is kept as files of RowBinary in
    /// `consumer.mock_dir`.
    Files,
    /// The same bytes are sent to a mock ClickHouse server over HTTP.
    Http,
}

/// Whether large transactions are received before they are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Streaming {
    /// Each transaction comes whole, once it is committed; PostgreSQL spools large ones.
    Off,
    /// One that outgrows `logical_decoding_work_mem` comes as it is decoded; walbench spools it.
    On,
    /// The same, with positions in aborts (PostgreSQL 16).
    Parallel,
}

/// The form column values are asked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnFormat {
    /// Binary as long as every published column's type can be read in it, else text.
    Auto,
    /// Text.
    Text,
    /// Binary; a type that can't be read in it is refused at the start.
    Binary,
}

/// Which changes are received, by where they were made first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// All.
    Any,
    /// Those made on this server; not those that it replicated itself.
    None,
}

/// What becomes of values that ClickHouse's type can't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutOfRange {
    /// The consumer ends with an error that names the value.
    Refuse,
    /// The nearest value that it can hold is written, and counted.
    Clamp,
}

/// What PostgreSQL's arrays become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arrays {
    /// `Array(Nullable(…))`: one dimension; a NULL array is an empty one.
    Array,
    /// Their text, whatever their dimensions.
    Text,
}

/// `[profiling]`: flamegraphs, and what limits the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Profiling {
    /// What is recorded.
    pub tool: ProfilingTool,
    /// Where samples of running functions come from.
    pub backend: ProfilingBackend,
    /// Samples of each second that a thread runs.
    #[schemars(range(min = 1, max = 1_000))]
    pub rate_hz: u32,
    /// Whether producers are profiled as well; consumers always are.
    pub producers: bool,
    /// Whether the slots' walsenders are sampled as well, if they run on this machine and we may look
    /// into them.
    pub walsenders: bool,
    /// Whether the run ends with what its parts can do by themselves: the walsenders, the consumers and
    /// the sink, with the run's own first rows. A second slot for each consumer holds the run's WAL
    /// until then.
    pub ceiling: bool,
    /// Whether the consumers' heaps are profiled: which functions hold memory and what grew, in each
    /// phase. The producers' as well with `profiling.producers`.
    pub heap: bool,
}

impl Default for Profiling {
    fn default() -> Self {
        Self {
            tool: ProfilingTool::Doctor,
            backend: ProfilingBackend::Auto,
            rate_hz: 499,
            producers: false,
            walsenders: true,
            ceiling: false,
            heap: false,
        }
    }
}

impl Profiling {
    /// Flamegraphs are asked for.
    #[must_use]
    pub fn wants_flames(&self) -> bool {
        matches!(self.tool, ProfilingTool::Flame | ProfilingTool::Both)
    }

    /// The heaps of producers are profiled.
    #[must_use]
    pub fn wants_producers_heap(&self) -> bool {
        self.heap && self.producers
    }

    /// The doctor is asked for.
    #[must_use]
    pub fn wants_doctor(&self) -> bool {
        matches!(self.tool, ProfilingTool::Doctor | ProfilingTool::Both)
    }
}

/// Where samples of running functions come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProfilingBackend {
    /// `perf-event` where that is permitted, else `pprof`.
    Auto,
    /// The kernel's sampler, perf_event_open(2), from outside of the processes.
    PerfEvent,
    /// pprof, a timer and a signal in each worker, at 99 samples a second at most: needs no permission,
    /// and sees walbench's own processes alone.
    Pprof,
}

/// What the profiler records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProfilingTool {
    /// What is counted at all times alone.
    None,
    /// Flamegraphs of the workers.
    Flame,
    /// What PostgreSQL's processes wait for, and how the consumers' runtimes and connections are, ten
    /// times a second: for findings that are surer.
    Doctor,
    /// Both.
    Both,
}

/// `[limits]`: how long walbench waits for what should come, before it says that it did not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Seconds a phase's last rows may take to reach the sink after they were written.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub drain_sec: f64,
    /// Seconds producers may go on sending late rows after the phase's end; what is left counts as
    /// unsent.
    #[schemars(range(min = 0.0))]
    pub catch_up_sec: f64,
    /// Seconds without a word from a worker after which it counts as hung.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub worker_silence_sec: f64,
    /// Seconds that `consumer.command` may take until it streams from its slot.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub command_start_sec: f64,
    /// Largest shortfall of the achieved rate against the target before the run is invalid, in
    /// percent.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub rate_tolerance_percent: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            drain_sec: 60.0,
            catch_up_sec: 30.0,
            worker_silence_sec: 30.0,
            command_start_sec: 60.0,
            rate_tolerance_percent: 1.0,
        }
    }
}

/// `[output]`: where the run is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    /// Folder that holds one folder a run.
    pub dir: PathBuf,
}

impl Default for Output {
    fn default() -> Self {
        Self { dir: "runs".into() }
    }
}

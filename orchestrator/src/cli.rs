//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  walbench run                          the built-in plan quickstart, everything private
  walbench run my-plan.toml -d 30       each phase for 30 s
  walbench run cpu-only -t 20000 --set consumer.flush_batch_size=5000
  walbench check my-plan.toml           what would run

Exit codes: 0 success · 1 a verification or threshold failed · 2 wrong usage or plan ·
3 invalid or inconclusive · 4 a component failed · 130 interrupted";

const FOLLOW_EXAMPLES: &str = "\
Examples:
  walbench follow --postgres postgres://me@localhost/app --publication p --slot s --create-slot --mock-clickhouse
  walbench follow … --until-lsn current --json      drain what is there, report as JSON
  walbench follow … --for 60 --set consumer.flush_batch_size=5000
  walbench follow … --create-slot --initial-copy --copy-state copy.json      existing rows first

A slot that follow makes stays, and keeps WAL until it is dropped; --drop-slot drops it at the end.";

const CEILING_EXAMPLES: &str = "\
Examples:
  walbench ceiling --postgres postgres://me@localhost/app --publication p --slot s
  walbench ceiling … --clickhouse http://localhost:8123        and what ClickHouse takes
  walbench ceiling … --eager --json                            one reader alone, once

Nothing is confirmed: the slot stays where it is.";

const FLAME_DIFF_EXAMPLES: &str = "\
Examples:
  walbench flame-diff runs/20260101T120000Z-cpu-only runs/20260101T130000Z-cpu-only
  walbench flame-diff BEFORE AFTER --phase steady --worker walsender-0 -o walsender.svg";

const VERIFY_EXAMPLES: &str = "\
Examples:
  walbench verify --postgres postgres://me@localhost/app --publication p --clickhouse http://localhost:8123
  walbench verify … --table orders --show 50        one table, and more of what differs
  walbench verify … --settle 30                     while rows are being replicated

Exit codes: 0 all rows are the same · 1 some differ · 2 wrong usage · 3 there is nothing to compare ·
4 a server failed · 130 interrupted";
const CLICKHOUSE_EXAMPLES: &str = "\
Examples:
  walbench clickhouse                                    a real one
  walbench clickhouse --mock --set clickhouse.mock.delay_ms=20
  walbench clickhouse --mock --set 'clickhouse.mock.faults=[{kind=\"outage\",at_sec=10,for_sec=5}]'";

/// Load-tests, profiles and proves a PostgreSQL → ClickHouse replication pipeline.
#[derive(Debug, Parser)]
#[command(name = "walbench", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a plan and write its results
    #[command(after_help = EXAMPLES)]
    Run(RunArgs),
    /// Check a plan and print it resolved, defaults included
    Check(PlanArgs),
    /// List the built-in plans
    Plans,
    /// Print the JSON Schema of plans, or of metrics.json
    Schema {
        /// Which schema
        #[arg(value_enum, default_value = "plan")]
        of: SchemaOf,
    },
    /// Follow a publication of yours into ClickHouse or the mock: the consumer alone
    #[command(after_help = FOLLOW_EXAMPLES)]
    Follow(FollowArgs),
    /// Prove that everything arrived: compare a publication's tables with ClickHouse's, row by row
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// What the parts of a pipeline can do by themselves: a slot's walsender, the consumer, the sink
    #[command(after_help = CEILING_EXAMPLES)]
    Ceiling(CeilingArgs),
    /// What changed between two profiled runs: CPU time for each row, function by function
    #[command(after_help = FLAME_DIFF_EXAMPLES)]
    FlameDiff(FlameDiffArgs),
    /// Find and remove what a killed run left behind
    Clean(CleanArgs),
    /// Have a private ClickHouse, or a mock of one, for as long as this command runs
    #[command(after_help = CLICKHOUSE_EXAMPLES)]
    Clickhouse(ClickHouseArgs),
    /// Get what walbench needs and this machine lacks: an embedded ClickHouse, by npm
    Setup,
    /// Run a command, and end it when standard input is closed; started by walbench itself
    #[command(hide = true)]
    Guard {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Be a worker process; started by walbench itself
    #[command(hide = true)]
    Worker {
        /// Which one
        role: WorkerRole,
        /// Speak over standard input and output instead of a socket
        #[arg(long)]
        stdio: bool,
        /// Sample itself by pprof, so many times for each second that it runs
        #[arg(long, value_name = "HZ")]
        pprof: Option<u32>,
        /// Profile the heap
        #[arg(long)]
        heap: bool,
    },
}

/// What a schema describes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SchemaOf {
    Plan,
    Metrics,
}

/// What a worker process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WorkerRole {
    Producer,
    Consumer,
    Postgres,
    Clickhouse,
    Mock,
    Ceiling,
}

/// What a private ClickHouse is made of.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClickHouseProgramArgs {
    /// A ClickHouse server, or the folder it is in [default: from PATH, else the embedded engine]
    #[arg(long, value_name = "PATH")]
    pub(crate) clickhouse_bin: Option<PathBuf>,
    /// The embedded engine, libchdb.so [default: the one `walbench setup` gets]
    #[arg(long, value_name = "FILE", env = "WALBENCH_CHDB_LIB")]
    pub(crate) chdb_lib: Option<PathBuf>,
}

/// Which private ClickHouse.
#[derive(Debug, Args)]
pub(crate) struct ClickHouseArgs {
    #[command(flatten)]
    pub(crate) program: ClickHouseProgramArgs,
    /// Keep its folder
    #[arg(long)]
    pub(crate) keep: bool,
    /// A mock: it checks what it is sent, keeps each key's newest row, and fails as it is told to
    #[arg(long, conflicts_with_all = ["clickhouse_bin", "keep"])]
    pub(crate) mock: bool,
    /// Port the mock listens on [default: a free one]
    #[arg(long, value_name = "PORT", requires = "mock")]
    pub(crate) port: Option<u16>,
    /// Change any key of the plan's [clickhouse.mock], or producer.seed; later ones win
    #[arg(long, value_name = "KEY=VALUE", requires = "mock")]
    pub(crate) set: Vec<String>,
}

/// Which profiles are compared.
#[derive(Debug, Args)]
pub(crate) struct FlameDiffArgs {
    /// Folder of the run before
    pub(crate) before: PathBuf,
    /// Folder of the run after
    pub(crate) after: PathBuf,
    /// Phase that both have [default: the last one]
    #[arg(long, value_name = "NAME")]
    pub(crate) phase: Option<String>,
    /// Process that both have profiles of: consumer-0, walsender-0, … [default: the first consumer]
    #[arg(long, value_name = "NAME")]
    pub(crate) worker: Option<String>,
    /// Where the differential flamegraph goes
    #[arg(short, long, value_name = "FILE", default_value = "flame-diff.svg")]
    pub(crate) output: PathBuf,
}

/// Which plan, and what to change in it.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// A plan file, or the name of a built-in plan [default: quickstart]
    pub(crate) plan: Option<String>,
    /// The same, for those used to it
    #[arg(short, long, value_name = "PLAN", conflicts_with = "plan")]
    pub(crate) config: Option<String>,
    /// Change any key of the plan; later ones win, and flags below win over it
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Name of the run
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// A sentence for the report
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// Target rate of every phase, in rows/s
    #[arg(short, long, value_name = "ROWS_PER_S", allow_negative_numbers = true)]
    pub(crate) throughput: Option<String>,
    /// Length of every phase's measured window, in seconds
    #[arg(short, long, value_name = "SEC", allow_negative_numbers = true)]
    pub(crate) duration: Option<String>,
    /// Number of producer processes
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) workers: Option<String>,
    /// Use the mock instead of the plan's ClickHouse
    #[arg(long)]
    pub(crate) mock_clickhouse: bool,
    /// What is looked at beside the figures: doctor (what limits the pipeline), flame (flamegraphs),
    /// both, or none [default: doctor]
    #[arg(long, value_name = "TOOL")]
    pub(crate) profile: Option<String>,
    /// End with what the walsenders, the consumers and the sink can do by themselves
    #[arg(long)]
    pub(crate) ceiling: bool,
    /// Folder that holds one folder a run
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) plan: PlanArgs,
    /// Keep the database; of a private server, its data folder
    #[arg(long)]
    pub(crate) keep: bool,
    /// Folder of PostgreSQL's programs (initdb, postgres) for the private server
    #[arg(long, value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) clickhouse: ClickHouseProgramArgs,
    /// Say more: each step, and a line each second
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    /// Also look on this PostgreSQL server
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) postgres: Option<String>,
    /// Also look on this ClickHouse server
    #[arg(long, value_name = "URL", env = "CLICKHOUSE_URL", hide_env_values = true)]
    pub(crate) clickhouse: Option<String>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Which stream.
#[derive(Debug, Args)]
pub(crate) struct StreamArgs {
    /// The database
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) postgres: String,
    /// The publication; it exists
    #[arg(long, value_name = "NAME")]
    pub(crate) publication: String,
    /// The slot
    #[arg(long, value_name = "NAME")]
    pub(crate) slot: String,
    /// End once everything before this position is received; `current` is where the WAL ends now
    #[arg(long, value_name = "LSN")]
    pub(crate) until_lsn: Option<String>,
    /// Report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Change any key of the plan's [consumer]; later ones win
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct FollowArgs {
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// Use the mock
    #[arg(long, required_unless_present = "clickhouse", conflicts_with = "clickhouse")]
    pub(crate) mock_clickhouse: bool,
    /// HTTP URL of the ClickHouse to write into
    #[arg(long, value_name = "URL")]
    pub(crate) clickhouse: Option<String>,
    /// How much of a flush the mock does: discard, encode, files (in consumer.mock_dir), or http
    #[arg(long, value_name = "LEVEL", requires = "mock_clickhouse")]
    pub(crate) mock_level: Option<String>,
    /// Make the slot if it is not there
    #[arg(long)]
    pub(crate) create_slot: bool,
    /// Drop the slot at the end, if this very command made it
    #[arg(long, requires = "create_slot", conflicts_with = "copy_state")]
    pub(crate) drop_slot: bool,
    /// Copy the rows that exist before following the changes
    #[arg(long)]
    pub(crate) initial_copy: bool,
    /// File that remembers how far the copy has come, so that a killed one is resumed
    #[arg(long, value_name = "FILE")]
    pub(crate) copy_state: Option<PathBuf>,
    /// End after so many seconds
    #[arg(long = "for", value_name = "SEC", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) for_sec: Option<f64>,
}

/// What is compared with what.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The database
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) postgres: String,
    /// The publication; it exists
    #[arg(long, value_name = "NAME")]
    pub(crate) publication: String,
    /// HTTP URL of the ClickHouse that its rows are in
    #[arg(long, value_name = "URL")]
    pub(crate) clickhouse: String,
    /// ClickHouse's database [default: the one that the URL names, else that of the plan's default]
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// Compare this table of the publication's alone; may come several times
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Vec<String>,
    /// Show so many of a table's rows that differ
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) show: usize,
    /// Compare this share of the rows, such as 0.01: ranges of the key, and nothing else is read, where
    /// it begins with an integer, text or varchar; else all is read, and some keys compared
    #[arg(long, value_name = "FRACTION", value_parser = share)]
    pub(crate) sample: Option<f64>,
    /// Memory for what is kept of rows; what is more goes into a file in TMPDIR
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..1 << 24))]
    pub(crate) memory_mib: u64,
    /// Look at rows that differ again for so many seconds: they may be on their way
    #[arg(long, value_name = "SEC", value_parser = seconds, default_value = "0")]
    pub(crate) settle: f64,
    /// Report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Change a key of the plan's [consumer], as for `follow`; later ones win
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// A part of something, and not nothing.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("a number above 0 and up to 1".into()),
    }
}

/// A length of time that a clock can hold.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=1e9).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0 to a thousand million".into()),
    }
}

impl FollowArgs {
    pub(crate) fn level(&self) -> Option<&str> {
        self.mock_level.as_deref()
    }
}

#[derive(Debug, Args)]
pub(crate) struct CeilingArgs {
    #[command(flatten)]
    pub(crate) stream: StreamArgs,
    /// Rounds, in each of which all have a turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Also the sink: HTTP URL of a ClickHouse, in a database of its own that is dropped at the end
    #[arg(long, value_name = "URL")]
    pub(crate) clickhouse: Option<String>,
    /// Also the sink: the mock
    #[arg(long, conflicts_with = "clickhouse")]
    pub(crate) mock_clickhouse: bool,
    /// How much of a flush the mock does: encode, or http
    #[arg(long, value_name = "LEVEL", requires = "mock_clickhouse")]
    pub(crate) mock_level: Option<String>,
    /// Only a bare reader, once, that reads as soon as there is anything
    #[arg(long, conflicts_with_all = ["rounds", "clickhouse", "mock_clickhouse"])]
    pub(crate) eager: bool,
    /// Only a bare reader, once, that reads late and large
    #[arg(long, conflicts_with_all = ["rounds", "clickhouse", "mock_clickhouse", "eager"])]
    pub(crate) late: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}

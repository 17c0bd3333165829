//! All numbers from which a rule fires, in one table.

/// Shares are of the measured window's time, from 0 to 1, unless the name says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Cores of the machine that are busy or stolen, from which it has none left.
    pub busy_machine: f64,
    /// Cores that a process's threads would have used beside those they had, had they been free.
    pub run_delay_cores: f64,
    /// Time in which some process waited for a core.
    pub cpu_pressure: f64,
    /// Cores used by others from which they are named.
    pub others_cores: f64,
    /// Cores taken by other machines from which that is said.
    pub stolen_cores: f64,
    /// Time in which some process waited for a disk.
    pub io_pressure: f64,
    /// Waits for WAL to be written, of all waits and work of the backends.
    pub wal_waits: f64,
    /// The producers' connections that wait for PostgreSQL.
    pub busy_connections: f64,
    /// The same, from which slow commits are felt.
    pub used_connections: f64,
    /// CPU of one thread that has no more to give.
    pub busy_thread: f64,
    /// The walsender without a wait, where it is looked at.
    pub walsender_runs: f64,
    /// The walsender waiting for new WAL: it has nothing to do.
    pub walsender_idle: f64,
    /// The walsender waiting for its consumer to take what it sends.
    pub walsender_writes: f64,
    /// The walsender reading or writing spilled changes.
    pub walsender_spills: f64,
    /// The consumer without room for more.
    pub receiver_blocked: f64,
    /// The consumer waiting for data: it is not what is slow.
    pub receiver_waits: f64,
    /// The consumer's thread at work, and its CPU.
    pub receiver_works: f64,
    /// A batch waiting for a place among the flushes.
    pub queued: f64,
    /// Flushes under way, of those that may be.
    pub busy_flushes: f64,
    /// Bytes of WAL that were sent and not received: more than a way that keeps up has under way.
    pub in_transit_bytes: f64,
    /// The walsender's connection with data that are not acknowledged.
    pub busy_connection: f64,
    /// The consumer's end of it without room for more.
    pub window_limited: f64,
    /// Segments sent again, of those with data.
    pub retransmitted: f64,
    /// How full batches are, below which not their size ends them.
    pub full_batches: f64,
    /// Mean bytes in the stream's socket below which nothing waits there.
    pub empty_socket_bytes: f64,
    /// Threads of the runtime that do not come back from a task, added up.
    pub blocked_runtime: f64,
    /// The same, from which a consumer may be behind for it.
    pub starved_runtime: f64,
    /// The consumer without a connection.
    pub disconnected: f64,
    /// The 99th percentile of a heartbeat's lateness, in µs. Undisturbed it is 1,000 to 2,000: the
    /// runtime's clock has ticks of 1 ms.
    pub late_heartbeat_us: u64,
    /// Time without progress that is a stall, in seconds.
    pub stall_sec: f64,
    /// Growth of memory in a minute, of what there was.
    pub memory_growth: f64,
    /// And its least sum in the window, in bytes.
    pub memory_growth_bytes: f64,
    /// And the shortest window that says anything of it, in seconds.
    pub memory_window_sec: f64,
}

/// The table. Calibrated by planted causes (`orchestrator/tests/it/doctor.rs`) on a machine of two
/// cores.
pub const THRESHOLDS: Thresholds = Thresholds {
    busy_machine: 0.95,
    run_delay_cores: 0.1,
    cpu_pressure: 0.1,
    others_cores: 0.25,
    stolen_cores: 0.05,
    io_pressure: 0.1,
    wal_waits: 0.2,
    busy_connections: 0.8,
    used_connections: 0.5,
    busy_thread: 0.9,
    walsender_runs: 0.8,
    walsender_idle: 0.8,
    walsender_writes: 0.6,
    walsender_spills: 0.1,
    receiver_blocked: 0.5,
    receiver_waits: 0.6,
    receiver_works: 0.9,
    queued: 0.8,
    busy_flushes: 0.8,
    in_transit_bytes: 1_048_576.0,
    busy_connection: 0.5,
    window_limited: 0.5,
    retransmitted: 0.001,
    full_batches: 0.5,
    empty_socket_bytes: 65_536.0,
    blocked_runtime: 0.02,
    starved_runtime: 0.3,
    disconnected: 0.1,
    late_heartbeat_us: 12_000,
    stall_sec: 10.0,
    memory_growth: 0.01,
    memory_growth_bytes: 16_777_216.0,
    memory_window_sec: 15.0,
};

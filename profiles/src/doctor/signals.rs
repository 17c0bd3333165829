//! What the rules look at: one phase's measured window. Absent: not measured.

use std::collections::BTreeMap;

/// See the module. Shares are of the window's time, from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signals {
    /// Anything was measured at all.
    pub measured: bool,
    /// Length of the window, in seconds.
    pub window_sec: f64,
    /// How the generator fell short, in a sentence; `None` when it held the rate.
    pub short: Option<String>,
    /// How the consumers fell behind, in a sentence; `None` when they kept up.
    pub behind: Option<String>,
    /// What was held, in a sentence.
    pub held: String,
    /// What PostgreSQL refused, however often it was tried.
    pub errors: Option<Errors>,
    /// Cores there are.
    pub cores: f64,
    /// Cores that all processes of the run used.
    pub used_cores: Option<f64>,
    /// The machine.
    pub machine: Option<MachineShares>,
    /// The producers.
    pub producers: Vec<ProcessShares>,
    /// The producers' connections that waited for PostgreSQL.
    pub connections: Option<Busy>,
    /// What PostgreSQL's backends waited for, of all their waits and work.
    pub backends: Option<WaitShares>,
    /// The ways from PostgreSQL to each consumer.
    pub lanes: Vec<Lane>,
    /// The sink.
    pub sink: SinkSignals,
    /// What is flushed in PostgreSQL and not confirmed, of the slot that has most.
    pub backlog: Option<Backlog>,
    /// Bytes that decoders spilled.
    pub spilled_bytes: Option<u64>,
    /// Longest time in which rows became durable and the slot was not confirmed, in seconds.
    pub confirm_stall_sec: Option<f64>,
    /// Longest time in which rows came and none became durable, beyond what is by design, in seconds.
    pub durable_stall_sec: Option<f64>,
    /// PostgreSQL says that the WAL kept for a slot is about to be lost, or is: in its own word.
    pub endangered_slot: Option<String>,
    /// Memory of workers that grew for sure.
    pub memory: Vec<MemoryGrowth>,
    /// The replication stream does not leave the machine.
    pub is_local: bool,
    /// The lowest of what the parts can do by themselves, in words, and the share of it that was used.
    pub ceiling: Option<(String, f64)>,
    /// The consumers are another program than walbench.
    pub is_external: bool,
}

/// A consumer, and the walsender that sends to it: what one of them does says nothing of others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lane {
    /// The consumer's name.
    pub consumer: String,
    /// Its process; `None` where that is elsewhere.
    pub process: Option<ProcessShares>,
    /// Its receiving thread.
    pub receiver: Option<ReceiverShares>,
    /// Its walsender.
    pub walsender: Option<Walsender>,
    /// Bytes of WAL that were decoded by the walsender and not received, at the window's end.
    pub in_transit_bytes: Option<u64>,
    /// Bytes of WAL that were decoded by the walsender and not confirmed, at the window's end; of a
    /// consumer that tells nothing of itself.
    pub unconfirmed_bytes: Option<u64>,
    /// The walsender's end of the connection; `None` over a Unix socket, and on another machine.
    pub connection: Option<ConnectionShares>,
}

/// The sending end of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ConnectionShares {
    /// Had data that were not acknowledged.
    pub busy: f64,
    /// Of all time: the other end had no room for more.
    pub window_limited: f64,
    /// Of all time: its own buffer had none.
    pub buffer_limited: f64,
    /// Segments that it sent again, of those with data.
    pub retransmitted: f64,
    /// Mean of the way there and back, in µs.
    pub round_trip_us: Option<f64>,
}

/// A process, and the busiest of its threads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessShares {
    /// Its name.
    pub name: String,
    /// Cores that it used.
    pub cores: f64,
    /// Cores more that it would have used, had they been free.
    pub run_delay_cores: Option<f64>,
    /// The busiest thread and the CPU that it used.
    pub busiest_thread: Option<(String, f64)>,
}

/// How the machine spent the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MachineShares {
    /// Cores that were busy, stolen ones included.
    pub busy_cores: f64,
    /// Cores that other machines on the same hardware took.
    pub stolen_cores: f64,
    /// Cores that programs used which are not of the run; `None` where not all of the run's are
    /// known.
    pub others_cores: Option<f64>,
    /// Time in which some process waited for a core.
    pub cpu_pressure: Option<f64>,
    /// Time in which some process waited for a disk.
    pub io_pressure: Option<f64>,
    /// Time in which the busiest disk was busy.
    pub disk_busy: f64,
}

/// What PostgreSQL refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    /// Rows that were given up on.
    pub rows: u64,
    /// They and their errors, in a sentence.
    pub said: String,
}

/// Some of a number of equal places, on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Busy {
    /// Share of them that were taken.
    pub share: f64,
    /// How many there are.
    pub of: u32,
}

/// How often each wait event was seen, of all looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WaitShares {
    /// Looks.
    pub looks: u64,
    /// By `type/event` in small letters.
    pub events: BTreeMap<String, f64>,
}

impl WaitShares {
    /// All events whose name, without its type, begins so.
    #[must_use]
    pub fn of(&self, prefix: &str) -> f64 {
        let is_it = |event: &&String| {
            event.rsplit_once('/').map_or(event.as_str(), |(_, name)| name).starts_with(prefix)
        };
        // The sum of nothing would be a negative zero.
        self.events.keys().filter(is_it).fold(0.0, |sum, event| sum + self.events[event])
    }

    /// The most frequent event.
    #[must_use]
    pub fn most(&self) -> Option<(&str, f64)> {
        let most = self.events.iter().max_by(|a, b| a.1.total_cmp(b.1));
        most.map(|(event, share)| (event.as_str(), *share))
    }
}

/// A walsender.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Walsender {
    /// Its process; with its name alone where that is on another machine.
    pub name: String,
    /// Cores that it used.
    pub cores: Option<f64>,
    /// What it waited for.
    pub waits: Option<WaitShares>,
}

/// What a consumer's receiving thread did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReceiverShares {
    /// Waited for data, or let it pile up.
    pub waits: f64,
    /// Read, decoded and encoded.
    pub works: f64,
    /// Had no room for more.
    pub blocked: f64,
    /// Had no connection.
    pub disconnected: f64,
    /// CPU of the thread, in cores.
    pub cores: Option<f64>,
    /// What the doctor saw beside it.
    pub looks: Option<LooksShares>,
}

/// What the doctor saw in a consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LooksShares {
    /// The 99th percentile of the heartbeat's lateness, in µs.
    pub heartbeat_p99_us: Option<u64>,
    /// Time in which a thread of the runtime was in one task from one look to the next, added up over
    /// the threads.
    pub blocked_runtime: f64,
    /// Mean bytes in the stream's socket.
    pub socket_bytes: Option<f64>,
    /// Mean age of the oldest flush, in µs.
    pub flush_age_us: Option<f64>,
}

/// The sink, as all consumers see it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SinkSignals {
    /// Flushes under way, of those that may be.
    pub flushes: Option<Busy>,
    /// A batch waited for a place among them.
    pub queued: Option<f64>,
    /// How full batches are, by rows or by bytes, whichever is more.
    pub batch_fill: Option<f64>,
    /// The 99th percentile of a flush, in µs.
    pub flush_p99_us: Option<u64>,
    /// Flushes tried again.
    pub retries: u64,
    /// Inserts that ClickHouse held up because a table had too many parts.
    pub delayed_inserts: u64,
    /// And those that it refused.
    pub rejected_inserts: u64,
    /// Most active parts of the run's tables.
    pub active_parts: Option<u64>,
}

/// A slot's lag over the window, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backlog {
    /// At its beginning and its end.
    pub first_bytes: u64,
    /// See before.
    pub last_bytes: u64,
    /// It grew for sure.
    pub growth: Option<Growth>,
}

/// A process's memory that grew for sure, by one of two measures or both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryGrowth {
    /// The process.
    pub process: String,
    /// What is resident, without what the allocator needs for its books and its profiler.
    pub resident: Option<Growth>,
    /// What the program has of its allocator.
    pub allocated: Option<Growth>,
    /// Where its heap's profile is, if there is one.
    pub heap: Option<String>,
}

/// A growth that is no chance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Bytes in a second.
    pub bytes_per_sec: f64,
    /// Mean over the window, in bytes.
    pub mean_bytes: f64,
}

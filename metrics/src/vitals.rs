//! How workers, servers and the machine spent an interval: what the doctor reads.
//!
//! What can be counted is counted all the time and exact. What can only be looked at is looked at ten
//! times a second, by the doctor alone, and says how often.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Timing;
use crate::allocator::AllocatorUse;

/// A value that was looked at again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauge {
    /// How often.
    pub looks: u64,
    /// What was seen, added up.
    pub sum: u64,
    /// The most that was seen.
    pub max: u64,
}

impl Gauge {
    /// Takes in what is seen now.
    pub fn see(&mut self, value: u64) {
        self.merge(&Self { looks: 1, sum: value, max: value });
    }

    /// Adds another's looks.
    pub fn merge(&mut self, other: &Self) {
        let Self { looks, sum, max } = other;
        self.looks += looks;
        self.sum = self.sum.saturating_add(*sum);
        self.max = self.max.max(*max);
    }

    /// The mean of what was seen; `None` without a look.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.looks > 0).then(|| self.sum as f64 / self.looks as f64)
    }
}

/// How a consumer spent an interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerVitals {
    /// Its receiving thread.
    pub receiver: ReceiverTime,
    /// Its flushes.
    pub flushes: FlushTime,
    /// Reads of the replication stream that brought bytes.
    pub reads: u64,
    /// What its allocator held at the interval's end; of several intervals, the most of each. Absent
    /// where another allocator is at work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocator: Option<AllocatorUse>,
    /// What the doctor saw; absent without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looks: Option<ConsumerLooks>,
}

impl ConsumerVitals {
    /// Adds those of a later interval of the same consumer.
    pub fn merge(&mut self, later: &Self) {
        let Self { receiver, flushes, reads, allocator, looks } = later;
        self.receiver.merge(receiver);
        self.flushes.merge(flushes);
        self.reads += reads;
        if let Some(other) = allocator {
            self.allocator.get_or_insert_default().raise(other);
        }
        if let Some(later) = looks {
            self.looks.get_or_insert_default().merge(later);
        }
    }
}

/// What the receiving thread did, in µs. All of it together is the time that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReceiverTime {
    /// Waited for data, with room for it.
    pub waiting_us: u64,
    /// Let data pile up before the next read.
    pub pacing_us: u64,
    /// Read, decoded and encoded.
    pub working_us: u64,
    /// Read nothing, because as much as may be was in flight.
    pub blocked_us: u64,
    /// Had no connection.
    pub disconnected_us: u64,
}

impl ReceiverTime {
    /// Adds another's times.
    pub fn merge(&mut self, other: &Self) {
        let Self { waiting_us, pacing_us, working_us, blocked_us, disconnected_us } = other;
        self.waiting_us += waiting_us;
        self.pacing_us += pacing_us;
        self.working_us += working_us;
        self.blocked_us += blocked_us;
        self.disconnected_us += disconnected_us;
    }

    /// All of it, in µs.
    #[must_use]
    pub fn total_us(&self) -> u64 {
        let Self { waiting_us, pacing_us, working_us, blocked_us, disconnected_us } = *self;
        waiting_us + pacing_us + working_us + blocked_us + disconnected_us
    }
}

/// What flushes there were, in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlushTime {
    /// Time that passed.
    pub passed_us: u64,
    /// Time in which one or more were under way.
    pub busy_us: u64,
    /// Time of all of them, each for itself: over the time that passed, how many were under way.
    pub under_way_us: u64,
    /// Time in which a batch waited for a place among them.
    pub queued_us: u64,
}

impl FlushTime {
    /// Adds another's times.
    pub fn merge(&mut self, other: &Self) {
        let Self { passed_us, busy_us, under_way_us, queued_us } = other;
        self.passed_us += passed_us;
        self.busy_us += busy_us;
        self.under_way_us += under_way_us;
        self.queued_us += queued_us;
    }
}

/// What the doctor saw in a consumer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerLooks {
    /// Time in which it looked, in µs.
    pub looked_us: u64,
    /// How much later than due a task of the runtime ran that waited for a moment.
    pub heartbeat: Timing,
    /// Time in which a thread of the runtime did not come back from one task, in µs, each thread's for
    /// itself; what is shorter than the time between two looks is not seen.
    pub blocked_us: u64,
    /// Time in which the runtime's threads were busy, in µs, all together.
    pub busy_us: u64,
    /// How often they slept and woke.
    pub parks: u64,
    /// The runtime's threads.
    pub threads: u64,
    /// Bytes that waited in the replication stream's socket.
    pub socket_bytes: Gauge,
    /// Bytes in flight.
    pub in_flight_bytes: Gauge,
    /// Batches that waited for a place among the flushes.
    pub queue: Gauge,
    /// Age of the oldest flush under way, in µs.
    pub flush_age_us: Gauge,
}

impl ConsumerLooks {
    /// Adds those of a later interval.
    pub fn merge(&mut self, later: &Self) {
        let Self {
            looked_us,
            heartbeat,
            blocked_us,
            busy_us,
            parks,
            threads,
            socket_bytes,
            in_flight_bytes,
            queue,
            flush_age_us,
        } = later;
        self.looked_us += looked_us;
        self.heartbeat.merge(heartbeat);
        self.blocked_us += blocked_us;
        self.busy_us += busy_us;
        self.parks += parks;
        self.threads = self.threads.max(*threads);
        self.socket_bytes.merge(socket_bytes);
        self.in_flight_bytes.merge(in_flight_bytes);
        self.queue.merge(queue);
        self.flush_age_us.merge(flush_age_us);
    }
}

/// A thread's part of its process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadUse {
    /// Its name and number: `receiver/1234`.
    pub name: String,
    /// CPU time used, in µs.
    pub cpu_us: u64,
    /// Time in which it could have run and no core was free, in µs.
    pub run_delay_us: u64,
}

/// How the threads of a process were scheduled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scheduling {
    /// Time in which its threads could have run and no core was free, in µs, all together.
    pub run_delay_us: u64,
    /// How often a thread gave its core away to wait for something.
    pub voluntary_switches: u64,
    /// How often a core was taken from a thread.
    pub involuntary_switches: u64,
    /// Threads that used 1 % of a core or more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub threads: Vec<ThreadUse>,
}

impl Scheduling {
    /// Adds another process's.
    pub fn merge(&mut self, other: Self) {
        let Self { run_delay_us, voluntary_switches, involuntary_switches, threads } = other;
        self.run_delay_us += run_delay_us;
        self.voluntary_switches += voluntary_switches;
        self.involuntary_switches += involuntary_switches;
        self.threads.extend(threads);
    }
}

/// What PostgreSQL's processes of one kind waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waits {
    /// How often they were looked at.
    pub looks: u64,
    /// How often each wait event was seen, as `type/event` in small letters; `running` where there
    /// was none. Of several processes each counts.
    pub events: BTreeMap<String, u64>,
}

impl Waits {
    /// Adds another's looks.
    pub fn merge(&mut self, other: &Self) {
        let Self { looks, events } = other;
        self.looks += looks;
        for (event, seen) in events {
            *self.events.entry(event.clone()).or_default() += seen;
        }
    }
}

/// What one end of a replication connection over TCP did in an interval, as the kernel counts it.
/// Source: `struct tcp_info` of Linux's `linux/tcp.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpUse {
    /// Time that passed, in µs.
    pub passed_us: u64,
    /// Its estimate of the way there and back, in µs.
    pub round_trip_us: Gauge,
    /// Bytes that the other end has acknowledged.
    pub acknowledged_bytes: u64,
    /// Segments with data that it sent.
    pub sent_segments: u64,
    /// Segments that it sent again.
    pub retransmits: u64,
    /// Time in which it had data that were not acknowledged, in µs.
    pub busy_us: u64,
    /// Part of that in which the other end had no room for more.
    pub window_limited_us: u64,
    /// Part of that in which its own buffer had none.
    pub buffer_limited_us: u64,
}

impl TcpUse {
    /// Adds a later interval.
    pub fn merge(&mut self, later: &Self) {
        let Self {
            passed_us,
            round_trip_us,
            acknowledged_bytes,
            sent_segments,
            retransmits,
            busy_us,
            window_limited_us,
            buffer_limited_us,
        } = later;
        self.passed_us += passed_us;
        self.round_trip_us.merge(round_trip_us);
        self.acknowledged_bytes += acknowledged_bytes;
        self.sent_segments += sent_segments;
        self.retransmits += retransmits;
        self.busy_us += busy_us;
        self.window_limited_us += window_limited_us;
        self.buffer_limited_us += buffer_limited_us;
    }
}

/// How the machine spent an interval. Source: proc(5), `/proc/stat`, `/proc/pressure`,
/// `/proc/diskstats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MachineUse {
    /// Time that passed, in µs.
    pub passed_us: u64,
    /// CPU time of programs, in µs, all cores together.
    pub user_us: u64,
    /// CPU time of the kernel, interrupts included.
    pub system_us: u64,
    /// Time in which a core had nothing to do.
    pub idle_us: u64,
    /// Time in which a core had nothing to do but to wait for a disk.
    pub disk_wait_us: u64,
    /// Time that other machines on the same hardware took from ours.
    pub stolen_us: u64,
    /// Time in which some process waited for a core, in µs; absent where the kernel does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_pressure_us: Option<u64>,
    /// The same for disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_pressure_us: Option<u64>,
    /// The same for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_pressure_us: Option<u64>,
    /// Time in which the busiest disk was busy, in µs.
    pub disk_busy_us: u64,
    /// Bytes written to all disks.
    pub disk_written_bytes: u64,
}

impl MachineUse {
    /// Adds a later interval.
    pub fn merge(&mut self, later: &Self) {
        let Self {
            passed_us,
            user_us,
            system_us,
            idle_us,
            disk_wait_us,
            stolen_us,
            cpu_pressure_us,
            io_pressure_us,
            memory_pressure_us,
            disk_busy_us,
            disk_written_bytes,
        } = *later;
        self.passed_us += passed_us;
        self.user_us += user_us;
        self.system_us += system_us;
        self.idle_us += idle_us;
        self.disk_wait_us += disk_wait_us;
        self.stolen_us += stolen_us;
        self.disk_busy_us += disk_busy_us;
        self.disk_written_bytes += disk_written_bytes;
        for (ours, theirs) in [
            (&mut self.cpu_pressure_us, cpu_pressure_us),
            (&mut self.io_pressure_us, io_pressure_us),
            (&mut self.memory_pressure_us, memory_pressure_us),
        ] {
            *ours = ours.map_or(theirs, |ours| Some(ours + theirs.unwrap_or_default()));
        }
    }

    /// CPU time of all programs and the kernel, and what was stolen, in µs.
    #[must_use]
    pub fn busy_us(&self) -> u64 {
        self.user_us + self.system_us + self.stolen_us
    }
}

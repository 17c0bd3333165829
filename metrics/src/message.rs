//! What orchestrator and workers say to each other, one JSON object a line.
//!
//! ```text
//! orchestrator  Hello ─►        Ping… ─►        Prepare ─►         Start ─►              Finish ─►           Stop ─►
//! worker              ◄─ Hello        ◄─ Pong…          ◄─ Ready          ◄─ Sample…            ◄─ Finished         ◄─ Done
//! ```
//!
//! A worker may say `Failed` at any time, after which it ends. One whose heap is profiled says `Heap`
//! after each window of a phase, before `Finished`.

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::allocator::HeapDump;
use crate::sample::Sample;
use crate::stacks::SampledStacks;

/// Version of this protocol. Both ends must have the same: they are the same executable, except
/// where a launcher starts another machine's.
pub const PROTOCOL_VERSION: u32 = 2;

/// To a worker. `P` is what the worker's role needs to prepare itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker<P> {
    /// First message.
    Hello {
        /// The sender's [`PROTOCOL_VERSION`].
        protocol: u32,
        /// The worker's name, which its samples carry.
        worker: String,
    },
    /// Asks for the worker's clock.
    Ping {
        /// The orchestrator's clock in µs.
        sent_us: i64,
    },
    /// Everything needed to connect and get ready.
    Prepare(P),
    /// Begins a phase.
    Start(PhaseStart),
    /// Ends a phase: a producer sends no more than what is due already; a consumer flushes what it
    /// has. Both then send their last samples of the phase.
    Finish(Finish),
    /// Ends the worker.
    Stop,
}

/// When a phase begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseStart {
    /// Index of the phase in the plan.
    pub phase: u32,
    /// Its start in µs of the orchestrator's clock, a little ahead, so that all start together.
    pub start_us: i64,
}

/// Which phase ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finish {
    /// Index of the phase in the plan.
    pub phase: u32,
}

/// From a worker. `D` is what the worker's role leaves at the end.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromWorker<D> {
    /// First message.
    Hello {
        /// The sender's [`PROTOCOL_VERSION`].
        protocol: u32,
        /// Version of its walbench.
        version: String,
        /// Its process id, on its machine.
        pid: u32,
    },
    /// Answers a ping.
    Pong {
        /// As the ping had it.
        sent_us: i64,
        /// The worker's clock in µs.
        now_us: i64,
    },
    /// Connected and waiting for the first phase.
    Ready,
    /// Counters and timings of an interval.
    Sample(Sample),
    /// What it sampled of itself, if it was started to do that.
    Stacks(SampledStacks),
    /// Who holds its memory; of workers whose heap is profiled.
    Heap(HeapDump),
    /// All of the phase's samples are sent: a producer's rows are all acknowledged or given up, a
    /// consumer was asked to finish the phase.
    Finished {
        /// Index of the phase in the plan.
        phase: u32,
    },
    /// The worker ends as asked.
    Done(D),
    /// The worker ends because it can't go on.
    Failed(Failure),
}

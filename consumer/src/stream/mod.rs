//! What a consumer does with a replication stream, as a state machine: no socket, no thread, no
//! clock of its own. What arrives is handed in, what is to be done is asked for:
//!
//! ```text
//!  CopyData ─► machine ─► rows ─► open batch ─cut─► flushes ─► sink      (jobs to start)
//!                │ └► spool (not yet committed)       │
//!                └──── status updates ◄── confirmations ◄── acknowledged (jobs that ended)
//! ```
//!
//! So a simulation can drive it through every order of events, and the receiving thread is left
//! with nothing but input and output.

mod batch;
mod confirmations;
mod fault;
mod flushes;
mod machine;
mod rows;
#[cfg(test)]
mod simulation;
mod spool;

pub(crate) use batch::{Batch, Bounds, Due, Part, Segment};
pub(crate) use confirmations::Ended;
pub(crate) use flushes::{FIRST_RETRY, GivenUp, Job, Work};
pub(crate) use machine::{Describe, Machine, Settings, Status};
pub(crate) use rows::{Account, Writing};

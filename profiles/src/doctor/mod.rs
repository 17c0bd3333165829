//! The doctor: what limits a pipeline, by rules over measured signals.
//!
//! ```text
//! signals (of one phase) ─► rules, each by the thresholds ─► findings, ranked
//! ```
//!
//! Each rule is a small pure function that says nothing where its signals are missing or below its
//! thresholds. All that fire are reported. Signals that contradict each other give `unknown`: there
//! is no rule for a guess.

mod finding;
mod rules;
mod signals;
#[cfg(test)]
mod tests;
mod thresholds;

pub use finding::{Advice, Cause, Change, Confidence, Figure, Finding, Unit};
pub use rules::findings;
pub use signals::{
    Backlog, Busy, ConnectionShares, Errors, Growth, Lane, LooksShares, MachineShares,
    MemoryGrowth, ProcessShares, ReceiverShares, Signals, SinkSignals, WaitShares, Walsender,
};
pub use thresholds::{THRESHOLDS, Thresholds};

//! Faults planted into the machine, to show that the simulation finds them.

use std::cell::Cell;

/// What can be wrong with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::stream) enum Fault {
    /// What is on its way to the sink counts as durable.
    ConfirmEarly,
    /// A transaction's end counts with the last batch that was cut, while its last rows are not
    /// cut yet.
    MarkEarly,
    /// A batch that is acknowledged counts though one before it is not.
    ConfirmOutOfOrder,
    /// A failed flush is not tried again.
    DropRetry,
    /// Flushes overtake a truncation.
    ReorderFlushes,
    /// A failed flush is tried for ever.
    RetryForever,
    /// A lost connection is replaced by one that brings again what is on its way to the sink.
    ResumeAtConfirmed,
    /// The slot is confirmed beyond transactions that are prepared and not decided.
    ForgetHold,
    /// Nothing holds back a stream that comes faster than the sink takes it.
    IgnoreRoom,
}

thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Whether a machine on this thread has this fault.
pub(in crate::stream) fn is_planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}

/// Machines on this thread have a fault as long as this is.
pub(super) struct Planted(());

impl Planted {
    pub(super) fn new(fault: Fault) -> Self {
        PLANTED.set(Some(fault));
        Self(())
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        PLANTED.set(None);
    }
}

//! Faults that tests plant into the machine, to show that the simulation finds them. Outside of
//! tests there are none, and nothing is left of where they would be.

#[cfg(test)]
use std::cell::Cell;

/// What can be wrong with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
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
    /// What was received of uncommitted transactions outlives its connection.
    KeepSpool,
    /// Parts of transactions that were rolled back are kept.
    KeepAborted,
    /// What a prepared transaction describes is known to none but itself.
    DescribeLate,
    /// Rows of a prepared transaction are read with the tables as they are when it is committed.
    ReadAnew,
    /// The open batch outlives its connection.
    KeepBatch,
    /// A lost connection takes along that transactions are prepared.
    ForgetHoldWhenCut,
    /// A lost connection leaves what was received as received.
    KeepReceived,
    /// Nothing holds back a stream that comes faster than the sink takes it.
    IgnoreRoom,
    /// What can't be looked up is passed over.
    PassOverUnanswered,
    /// The slot is confirmed at the end behind what was not durable in time. As the two that follow
    /// it is of what drives a machine.
    #[cfg(test)]
    ConfirmGivenUp,
    /// The end that was set is one when it was received, durable or not.
    #[cfg(test)]
    EndWhenReceived,
    /// A server whose WAL ends before what was received is followed on.
    #[cfg(test)]
    FollowOlderServer,
    /// A server may have lost a transaction that was received in part.
    ForgetBegun,
}

#[cfg(test)]
thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Whether machines on this thread have this fault.
#[cfg(test)]
pub(super) fn is_planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}

/// Whether machines have this fault.
#[cfg(not(test))]
#[inline]
pub(super) const fn is_planted(_fault: Fault) -> bool {
    false
}

/// Machines on this thread have a fault as long as this is.
#[cfg(test)]
pub(super) struct Planted(());

#[cfg(test)]
impl Planted {
    pub(super) fn new(fault: Fault) -> Self {
        PLANTED.set(Some(fault));
        Self(())
    }
}

#[cfg(test)]
impl Drop for Planted {
    fn drop(&mut self) {
        PLANTED.set(None);
    }
}

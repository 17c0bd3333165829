//! Where and how the cycles of a consumer's life end.

/// Between two of these a fault is different from one before or after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boundary {
    BeforeReceive,
    AfterReceive,
    BeforeDecode,
    AfterDecode,
    BeforeReplay,
    AfterReplay,
    BeforeBatch,
    AfterBatch,
    BeforeSend,
    AfterSend,
    BeforeAcknowledge,
    AfterAcknowledge,
    BeforeConfirm,
    AfterConfirm,
}

/// All of them.
pub(super) const BOUNDARIES: [Boundary; 14] = [
    Boundary::BeforeReceive,
    Boundary::AfterReceive,
    Boundary::BeforeDecode,
    Boundary::AfterDecode,
    Boundary::BeforeReplay,
    Boundary::AfterReplay,
    Boundary::BeforeBatch,
    Boundary::AfterBatch,
    Boundary::BeforeSend,
    Boundary::AfterSend,
    Boundary::BeforeAcknowledge,
    Boundary::AfterAcknowledge,
    Boundary::BeforeConfirm,
    Boundary::AfterConfirm,
];

/// How a cycle ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection is lost.
    Cut,
    /// The server dies, and with it what of the slot was not written to disk.
    Crash,
    /// The consumer dies.
    Kill,
    /// The consumer dies, and what it had under way goes on beside the next one.
    Overtake,
    /// Both die.
    CrashAndKill,
    /// The consumer is stopped.
    Stop,
    /// Nothing more happens until everything is where it belongs.
    Quiet,
    /// The sink fails for good, and the consumer with it.
    Dead,
    /// The catalogue could not be asked, and the stream begins anew.
    Unanswered,
    /// The consumer is stopped, and the sink is too slow for it.
    GiveUp,
    /// The consumer ends by itself at a position that was set.
    Until,
    /// The server comes back as it was before.
    Rewind,
}

/// All of them.
pub(super) const ENDS: [End; 12] = [
    End::Cut,
    End::Crash,
    End::Kill,
    End::Overtake,
    End::CrashAndKill,
    End::Stop,
    End::Quiet,
    End::Dead,
    End::Unanswered,
    End::GiveUp,
    End::Until,
    End::Rewind,
];

/// How often what happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub cycles: u64,
    /// Cycles that ended at each boundary.
    pub at: [u64; BOUNDARIES.len()],
    /// Cycles that ended in each way.
    pub ends: [u64; ENDS.len()],
    /// Servers that were refused because they had lost WAL.
    pub refusals: u64,
    pub messages: u64,
    pub transactions: u64,
}

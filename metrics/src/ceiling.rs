//! Ceilings: what each part of the way from PostgreSQL to the sink can do by itself, measured with the
//! same rows.

use serde::{Deserialize, Serialize};

/// Whose ceiling it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contestant {
    /// The walsender, read by a bare reader that reads as soon as there is anything.
    EagerReader,
    /// The walsender, read by a bare reader that lets data pile up while the stream is busy.
    LateReader,
    /// The consumer, which decodes, encodes and compresses what the walsender sends, for no sink.
    Consumer,
    /// The sink, which is given the consumer's blocks from memory.
    Sink,
}

/// What one of them did in one round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Row versions.
    pub rows: u64,
    /// Time from the first byte that came to the last, or until all of it was taken, in seconds.
    pub seconds: f64,
    /// CPU time of the process that reads, or that gives the sink its blocks, in µs.
    pub cpu_us: u64,
}

/// All turns, as they were measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Turns by who had them, in the order of the rounds; all have had a turn in each.
    pub rounds: Vec<Vec<(Contestant, Turn)>>,
    /// The stretch of the stream that was read ends at this position of the WAL.
    pub until_lsn: u64,
    /// The stream goes on behind the stretch: it holds the first rows alone.
    pub is_bounded: bool,
    /// What the sink's ceiling is of; `None` where it was not measured.
    pub sink: Option<SinkAlone>,
}

/// What was measured as the sink by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkAlone {
    /// What takes what, in a sentence.
    pub said: String,
    /// Row versions whose blocks were kept in memory.
    pub rows: u64,
    /// The stretch has more rows than these, its first ones.
    pub is_bounded: bool,
}

//! What a rule says.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a finding names, in the order in which they are told: what explains others comes first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// PostgreSQL refused rows.
    WriteErrors,
    /// The machine has no CPU left.
    HostCpu,
    /// Commits wait for the WAL's disk.
    DiskWal,
    /// The generator itself could not keep up.
    HarnessBound,
    /// PostgreSQL's answers to the producers.
    ProducerBound,
    /// The consumer had no connection.
    Disconnected,
    /// The sink takes rows more slowly than they come.
    SinkBound,
    /// The consumer's runtime was held up by one of its own tasks.
    StarvedRuntime,
    /// The consumer's receiving thread: reading, decoding and encoding.
    DecodeCpu,
    /// The way from PostgreSQL to the consumer.
    Network,
    /// The walsender decodes changes on one core, and that is full.
    WalsenderBound,
    /// The walsender spills large transactions to disk.
    WalsenderSpill,
    /// The consumer; nothing says which part of it.
    ConsumerBound,
    /// What was durable was not confirmed.
    ConfirmStall,
    /// A process's memory grows.
    MemoryGrowth,
    /// Nothing: the rate was held and the consumers kept up.
    Healthy,
    /// Signals contradict each other, or no rule explains them.
    Unknown,
    /// Nothing was measured.
    NoData,
}

/// How sure a finding is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Signals of several parts say the same.
    High,
    /// One signal says it and none speaks against it.
    Medium,
    /// What is left when nothing else fits.
    Low,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What it names.
    pub cause: Cause,
    /// It kept the phase from what was asked for; else it is there and did no harm yet.
    pub is_limit: bool,
    /// How sure it is.
    pub confidence: Confidence,
    /// In a sentence, without a full stop.
    pub said: String,
    /// The figures that say so, in the measured window.
    pub evidence: Vec<Figure>,
    /// What to change.
    pub advice: Vec<Advice>,
}

/// A measured value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Figure {
    /// What it is of.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: Unit,
    /// The threshold that it was held against, if it was.
    pub threshold: Option<f64>,
}

/// A figure's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A part of 1.
    Share,
    /// Cores of CPU.
    Cores,
    /// Bytes.
    Bytes,
    /// Bytes in a second.
    BytesPerSec,
    /// Microseconds.
    Us,
    /// Seconds.
    Sec,
    /// How many.
    Count,
    /// How many times as much.
    Times,
}

/// Something that can be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Advice {
    /// A key of the plan; `null` where it is something else.
    pub key: Option<String>,
    /// What to do with the key.
    pub change: Option<Change>,
    /// Why; without a key, what to do.
    pub why: String,
}

/// What to do with a key of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A larger value.
    Raise,
    /// A smaller value.
    Lower,
    /// This value, or such a one.
    Set(String),
}

impl Cause {
    /// Why a generator falls short.
    #[must_use]
    pub fn explains_short(self) -> bool {
        matches!(
            self,
            Self::WriteErrors
                | Self::HostCpu
                | Self::DiskWal
                | Self::HarnessBound
                | Self::ProducerBound
        )
    }

    /// Why consumers fall behind.
    #[must_use]
    pub fn explains_behind(self) -> bool {
        matches!(self, Self::HostCpu) || self >= Self::Disconnected && self < Self::Healthy
    }
}

impl Finding {
    pub(super) fn new(cause: Cause, said: impl Into<String>) -> Self {
        Self {
            cause,
            is_limit: true,
            confidence: Confidence::Medium,
            said: said.into(),
            evidence: Vec::new(),
            advice: Vec::new(),
        }
    }

    /// It did no harm yet, unless it did.
    pub(super) fn limits_if(self, is_limit: bool) -> Self {
        Self { is_limit, ..self }
    }

    pub(super) fn sure(self, confidence: Confidence) -> Self {
        Self { confidence, ..self }
    }

    pub(super) fn because(mut self, figures: impl IntoIterator<Item = Figure>) -> Self {
        self.evidence.extend(figures);
        self
    }

    /// Advises to change a key.
    fn change(mut self, key: &str, change: Change, why: &str) -> Self {
        self.advice.push(Advice { key: Some(key.into()), change: Some(change), why: why.into() });
        self
    }

    /// Advises a larger value.
    pub(super) fn raise(self, key: &str, why: &str) -> Self {
        self.change(key, Change::Raise, why)
    }

    /// Advises a smaller value.
    pub(super) fn lower(self, key: &str, why: &str) -> Self {
        self.change(key, Change::Lower, why)
    }

    /// Advises a value.
    pub(super) fn set(self, key: &str, value: &str, why: &str) -> Self {
        self.change(key, Change::Set(value.into()), why)
    }

    /// Advises something else.
    pub(super) fn advise(mut self, why: &str) -> Self {
        self.advice.push(Advice { key: None, change: None, why: why.into() });
        self
    }
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self { name: name.into(), value, unit, threshold: None }
    }

    pub(super) fn against(self, threshold: f64) -> Self {
        Self { threshold: Some(threshold), ..self }
    }

    pub(super) fn share(name: impl Into<String>, value: f64) -> Self {
        Self::new(name, value, Unit::Share)
    }
}

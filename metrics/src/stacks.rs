//! Stacks of a program's functions, as addresses: what samplers take.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackSample {
    /// When it was taken, in µs since the Unix epoch.
    pub time_us: i64,
    /// The thread that ran.
    pub thread: u32,
    /// Which of the stacks beside it the thread stood in.
    pub stack: u32,
}

/// A stack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RawStack {
    /// Addresses, innermost first. One that calls the one before is within the call, not where that
    /// returns to.
    pub addresses: Box<[u64]>,
    /// Its outer part is missing.
    pub is_truncated: bool,
}

/// What a process sampled of itself in a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampledStacks {
    /// Names of its threads. Their numbers are those of `samples` and mean nothing else.
    pub threads: BTreeMap<u32, String>,
    /// The stacks.
    pub stacks: Vec<RawStack>,
    /// The samples.
    pub samples: Vec<StackSample>,
}

/// Samples the process that it is in, all its threads. A worker is handed one and asks it; what it is
/// made of is another room's.
pub trait OwnSampler: Send {
    /// What was sampled since the last time; the first time nothing was, and sampling begins.
    ///
    /// # Errors
    ///
    /// In a sentence: why nothing more is sampled.
    fn take(&mut self) -> Result<SampledStacks, String>;
}

/// What a worker's sampler took since the last time, if it has one. One that fails has said why, and is
/// let go.
pub fn take_stacks(sampler: &mut Option<Box<dyn OwnSampler>>) -> Option<SampledStacks> {
    match sampler.as_mut()?.take() {
        Ok(stacks) => (!stacks.samples.is_empty()).then_some(stacks),
        Err(why) => {
            eprintln!("note: {why}");
            *sampler = None;
            None
        }
    }
}

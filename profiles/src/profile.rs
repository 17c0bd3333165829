//! A profile: where a process's CPU time of a window went.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::recording::{Recording, is_kernel};
use crate::symbols::{Frame, Symbols};

/// What a thread begins in: a stack that does not end there was cut off.
const ROOTS: [&str; 7] =
    ["_start", "__clone3", "clone3", "__clone", "clone", "start_thread", "ret_from_fork_asm"];

/// A window of a process's recording, with its functions' names.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The process: `consumer-0`.
    pub process: String,
    /// Its number.
    pub pid: u32,
    /// CPU time that it used in the window, in ns: measured, not counted from samples.
    pub cpu_ns: u64,
    /// Its stacks, in an order that says nothing.
    pub stacks: Vec<Stack>,
    /// How far it can be trusted.
    pub quality: Quality,
}

/// A stack of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The thread's name.
    pub thread: String,
    /// Functions, innermost first.
    pub frames: Vec<Frame>,
    /// How many samples stood in it.
    pub samples: u64,
}

/// How far a profile can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Samples in all.
    pub samples: u64,
    /// Those that the CPU time should have brought: CPU seconds × rate.
    pub expected: f64,
    /// Samples without any stack.
    pub empty: u64,
    /// Samples whose stack does not reach the thread's beginning.
    pub truncated: u64,
    /// Samples whose innermost function has no name.
    pub unresolved: u64,
    /// Samples that were taken and could not be kept, in this and the process's other windows.
    pub lost: u64,
}

impl Quality {
    /// Fewest samples that shares are drawn from.
    pub const FEWEST_SAMPLES: u64 = 100;
    /// Fewest samples for each one that the CPU time should have brought, and most.
    pub const RATIO: std::ops::RangeInclusive<f64> = 0.8..=1.25;
    /// Largest share of samples without a stack.
    pub const MOST_EMPTY: f64 = 0.05;
    /// Largest share of samples whose innermost function has no name.
    pub const MOST_UNRESOLVED: f64 = 0.2;

    /// Samples for each one that the CPU time should have brought.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        if self.expected > 0.0 { self.samples as f64 / self.expected } else { 0.0 }
    }

    /// A count of samples as a share of all.
    #[must_use]
    pub fn share(&self, samples: u64) -> f64 {
        if self.samples == 0 { 0.0 } else { samples as f64 / self.samples as f64 }
    }

    /// What is wrong with it, if no verdict may be drawn from it.
    #[must_use]
    pub fn flaw(&self) -> Option<String> {
        let percent = |share: f64| (share * 100.0).round();
        let (ratio, empty) = (self.ratio(), self.share(self.empty));
        let unresolved = self.share(self.unresolved);
        if self.samples < Self::FEWEST_SAMPLES {
            Some(format!("{} samples are too few to draw shares from", self.samples))
        } else if !Self::RATIO.contains(&ratio) {
            let percent = percent(ratio);
            Some(format!("{percent} % of the samples that its CPU time should have brought"))
        } else if empty > Self::MOST_EMPTY {
            Some(format!("{} % of the samples have no stack", percent(empty)))
        } else if unresolved > Self::MOST_UNRESOLVED {
            Some(format!("{} % of the samples are in functions without a name", percent(unresolved)))
        } else {
            None
        }
    }
}

impl Profile {
    /// The profile of a recording's window, from `from_us` to before `to_us`, in which the process
    /// used `cpu_ns` and was sampled `rate_hz` times for each second of that.
    #[must_use]
    pub fn of(
        recording: &Recording,
        (from_us, to_us): (i64, i64),
        cpu_ns: u64,
        rate_hz: u32,
        symbols: &mut Symbols,
    ) -> Self {
        let Recording { process, pid, stacks, threads, lost, .. } = recording;
        let mut quality = Quality {
            expected: cpu_ns as f64 / 1e9 * f64::from(rate_hz),
            lost: *lost,
            ..Quality::default()
        };
        let mut merged: BTreeMap<(&str, Vec<Frame>), u64> = BTreeMap::new();
        for ((thread, stack), samples) in recording.between(from_us, to_us) {
            let addresses = stacks.get(stack);
            let frames = symbols.stack(recording, addresses);
            quality.samples += samples;
            if frames.is_empty() {
                quality.empty += samples;
            } else if is_truncated(addresses, &frames) {
                quality.truncated += samples;
            }
            if frames.first().is_some_and(|frame| frame.is_unknown) {
                quality.unresolved += samples;
            }
            let thread = threads.get(&thread).map_or("[unknown]", String::as_str);
            *merged.entry((thread, frames)).or_default() += samples;
        }
        let stack = |((thread, frames), samples): ((&str, Vec<Frame>), u64)| Stack {
            thread: thread.into(),
            frames,
            samples,
        };
        let stacks = merged.into_iter().map(stack).collect();
        Self { process: process.clone(), pid: *pid, cpu_ns, stacks, quality }
    }

    /// CPU time that a number of its samples stands for, in ns: all samples together stand for all
    /// that was measured.
    #[must_use]
    pub fn cpu_ns_of(&self, samples: u64) -> u64 {
        if self.quality.samples == 0 {
            return 0;
        }
        let ns = u128::from(self.cpu_ns) * u128::from(samples) / u128::from(self.quality.samples);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

/// A stack that the kernel alone is in is whole.
fn is_truncated(addresses: &[u64], frames: &[Frame]) -> bool {
    let has_user_part = addresses.last().is_some_and(|address| !is_kernel(*address));
    let outermost = frames.last().map_or("", |frame| &frame.function);
    has_user_part && !ROOTS.contains(&outermost)
}

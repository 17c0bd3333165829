//! A profile: where a process's CPU time of a window went, or its memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::recording::Recording;
use crate::symbols::{Function, KERNEL, Location, Symbols};

/// What a profile measures, by stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// CPU time, in ns.
    #[default]
    Cpu,
    /// Memory that is held, in bytes.
    Heap,
    /// Memory that is held and was not before, in bytes.
    HeapGrowth,
}

/// What a process did in a window, or held, with its functions' names.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// The process: `consumer-0`.
    pub process: String,
    /// What it measures.
    pub measure: Measure,
    /// All of it; CPU time is measured, not counted from samples.
    pub total: u64,
    /// What lies between two samples: CPU time in ns, or allocated bytes.
    pub period: u64,
    /// Its stacks, each one once.
    pub stacks: Vec<Stack>,
    /// How far it can be trusted.
    pub quality: Quality,
}

/// A stack of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The thread's name; empty for memory, which is no thread's.
    pub thread: String,
    /// Where it stood, innermost first.
    pub locations: Vec<Arc<Location>>,
    /// How many samples stood in it; of memory, how many pieces of it.
    pub samples: u64,
    /// What it stands for.
    pub value: u64,
}

impl Stack {
    /// Its functions, innermost first, inlined ones too.
    pub fn functions(&self) -> impl DoubleEndedIterator<Item = &Function> {
        self.locations.iter().flat_map(|location| &location.functions)
    }
}

/// How far a profile can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// Samples in all.
    pub samples: u64,
    /// Those that the CPU time should have brought: CPU seconds × rate.
    pub expected: u64,
    /// Samples without any stack.
    pub empty: u64,
    /// Samples whose stack does not reach the thread's beginning.
    pub truncated: u64,
    /// Samples whose innermost function outside of the kernel has no name.
    pub unresolved: u64,
    /// Samples that were taken in the phase and could not be kept, of whatever ran.
    pub lost: u64,
}

impl Quality {
    /// Fewest samples that shares are drawn from.
    pub const FEWEST_SAMPLES: u64 = 100;
    /// Fewest samples for each one that the CPU time should have brought, and most. While interrupts are
    /// off nothing is sampled: of a thread that sleeps 3,000 times a second, and uses a tenth of a core,
    /// 15 % are missing.
    pub const RATIO: std::ops::RangeInclusive<f64> = 0.7..=1.3;
    /// Largest share of samples without a stack.
    pub const MOST_EMPTY: f64 = 0.05;
    /// Largest share of samples whose innermost function has no name. It is not small because what
    /// calls it has one in most: a server without its own functions' names still has those that it lends
    /// to its extensions.
    pub const MOST_UNRESOLVED: f64 = 0.5;

    /// Samples for each one that the CPU time should have brought.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        if self.expected > 0 { self.samples as f64 / self.expected as f64 } else { 0.0 }
    }

    /// A count of samples as a share of all.
    #[must_use]
    pub fn share(&self, samples: u64) -> f64 {
        if self.samples == 0 { 0.0 } else { samples as f64 / self.samples as f64 }
    }

    /// Two windows' samples together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let Self { samples, expected, empty, truncated, unresolved, lost } = other;
        Self {
            samples: self.samples + samples,
            expected: self.expected + expected,
            empty: self.empty + empty,
            truncated: self.truncated + truncated,
            unresolved: self.unresolved + unresolved,
            // Each window has those of its phase.
            lost: self.lost.max(lost),
        }
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
            Some(format!(
                "{} % of the samples are in functions without a name",
                percent(unresolved)
            ))
        } else {
            None
        }
    }
}

/// Samples by thread and stack.
type Merged = BTreeMap<(String, Vec<Arc<Location>>), u64>;

impl Quality {
    /// Counts a recording's samples of a window, and adds them to others'.
    fn count(
        &mut self,
        recording: &Recording,
        (from_us, to_us): (i64, i64),
        symbols: &mut Symbols,
        merged: &mut Merged,
    ) {
        for ((thread, stack), samples) in recording.between(from_us, to_us) {
            let Some(stack) = recording.stacks.get(stack) else { continue };
            let locations = symbols.stack(recording, &stack.addresses);
            self.samples += samples;
            if locations.is_empty() {
                self.empty += samples;
            } else if stack.is_truncated {
                self.truncated += samples;
            }
            // The kernel's functions have no names for users without privileges, and need none.
            let innermost = locations.iter().find(|location| location.module != KERNEL);
            if innermost.is_some_and(|location| !location.is_known) {
                self.unresolved += samples;
            }
            let thread = recording.threads.get(&thread).map_or("[unknown]", String::as_str);
            *merged.entry((thread.to_owned(), locations)).or_default() += samples;
        }
    }
}

impl Profile {
    /// The profile of a window of a process's recordings (more than one, if another process took its
    /// place), from `from_us` to before `to_us`, in which it used `cpu_ns` and was sampled `rate_hz`
    /// times for each second of that.
    #[must_use]
    pub fn of(
        recordings: &[Recording],
        (from_us, to_us): (i64, i64),
        cpu_ns: u64,
        rate_hz: u32,
        symbols: &mut Symbols,
    ) -> Self {
        let mut profile = Self {
            total: cpu_ns,
            quality: Quality {
                expected: (cpu_ns as f64 / 1e9 * f64::from(rate_hz)).round() as u64,
                ..Quality::default()
            },
            ..Self::default()
        };
        let mut merged = BTreeMap::new();
        for recording in recordings {
            profile.process.clone_from(&recording.process);
            profile.quality.lost = profile.quality.lost.max(recording.lost);
            profile.quality.count(recording, (from_us, to_us), symbols, &mut merged);
        }
        let all = profile.quality.samples;
        let stacks = merged.into_iter().map(|((thread, locations), samples)| Stack {
            thread,
            locations,
            samples,
            value: part(cpu_ns, samples, all),
        });
        profile.stacks = stacks.collect();
        profile.period = part(cpu_ns, 1, all);
        profile
    }
}

/// What a number of all samples stands for: all together stand for all that was measured.
fn part(total: u64, samples: u64, of: u64) -> u64 {
    let part = (u128::from(total) * u128::from(samples)).checked_div(u128::from(of));
    u64::try_from(part.unwrap_or_default()).unwrap_or(u64::MAX)
}

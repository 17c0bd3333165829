//! What was sampled of a process: stacks of addresses, each with its time and thread.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use walbench_metrics::stacks::SampledStacks;
pub use walbench_metrics::stacks::{RawStack, StackSample as Sample};

/// A part of a file that a process has mapped to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The first address behind it.
    pub end: u64,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// The file, as the process knows it.
    pub path: PathBuf,
}

/// Stacks, each one kept once.
#[derive(Clone, Debug, Default)]
pub struct Stacks {
    numbers: HashMap<Arc<RawStack>, u32>,
    stacks: Vec<Arc<RawStack>>,
}

impl Stacks {
    /// The stack's number.
    pub fn number(&mut self, stack: RawStack) -> u32 {
        let next = u32::try_from(self.stacks.len()).expect("no run has as many stacks");
        if let Some(number) = self.numbers.get(&stack) {
            return *number;
        }
        let stack = Arc::new(stack);
        self.stacks.push(Arc::clone(&stack));
        self.numbers.insert(stack, next);
        next
    }

    /// The stack with this number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&RawStack> {
        self.stacks.get(number as usize).map(|stack| &**stack)
    }
}

/// Whether an address is the kernel's: on 64 bits its half is the upper one, on all machines that we
/// run on.
#[must_use]
pub fn is_kernel(address: u64) -> bool {
    address >> 63 == 1
}

/// What was sampled of a process.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The process's name in the run: `consumer-0`.
    pub process: String,
    /// Its number.
    pub pid: u32,
    /// The samples.
    pub samples: Vec<Sample>,
    /// Their stacks.
    pub stacks: Stacks,
    /// Its threads' names.
    pub threads: BTreeMap<u32, String>,
    /// What it had mapped.
    pub mappings: Vec<Mapping>,
    /// Samples that were taken and had no place to be kept.
    pub lost: u64,
}

/// How often a thread was seen in a stack.
pub type Counts = BTreeMap<(u32, u32), u64>;

impl Recording {
    /// Adds what the process sampled of itself. Samples of stacks that are not there are lost.
    pub fn add(&mut self, own: SampledStacks) {
        let SampledStacks { threads, stacks, samples } = own;
        self.threads.extend(threads);
        let numbers: Vec<u32> = stacks.into_iter().map(|it| self.stacks.number(it)).collect();
        for sample in samples {
            match numbers.get(sample.stack as usize) {
                Some(stack) => self.samples.push(Sample { stack: *stack, ..sample }),
                None => self.lost += 1,
            }
        }
    }

    /// The samples of a time, counted by thread and stack: from `from_us` to before `to_us`.
    #[must_use]
    pub fn between(&self, from_us: i64, to_us: i64) -> Counts {
        let mut counts = Counts::new();
        let inside = |sample: &&Sample| (from_us..to_us).contains(&sample.time_us);
        for sample in self.samples.iter().filter(inside) {
            *counts.entry((sample.thread, sample.stack)).or_default() += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_kept_once() {
        let stack = |addresses: &[u64], is_truncated| RawStack {
            addresses: addresses.into(),
            is_truncated,
        };
        let all = [
            stack(&[1, 2], false),
            stack(&[2, 1], false),
            stack(&[1, 2], false),
            stack(&[1, 2], true),
        ];
        let mut stacks = Stacks::default();
        assert_eq!(all.clone().map(|stack| stacks.number(stack)), [0, 1, 0, 2]);
        assert_eq!(stacks.get(1), Some(&all[1]));
        assert_eq!(stacks.get(9), None);
    }

    #[test]
    fn what_a_process_sampled_of_itself_is_added_by_stack() {
        let stack = |address| RawStack { addresses: [address].into(), is_truncated: false };
        let sample = |stack| Sample { time_us: 5, thread: 1, stack };
        let own = |stacks: &[u64], samples: &[u32]| SampledStacks {
            threads: [(1, "one".to_owned())].into(),
            stacks: stacks.iter().map(|address| stack(*address)).collect(),
            samples: samples.iter().map(|number| sample(*number)).collect(),
        };
        let mut recording = Recording::default();
        recording.add(own(&[7, 8], &[0, 1, 1]));
        recording.add(own(&[8], &[0, 1]));
        assert_eq!(recording.between(0, 10), Counts::from([((1, 0), 1), ((1, 1), 3)]));
        assert_eq!((recording.lost, &*recording.threads[&1]), (1, "one"));
    }

    #[test]
    fn a_window_has_its_first_moment_and_not_the_next_ones() {
        let sample = |time_us, thread, stack| Sample { time_us, thread, stack };
        let samples = vec![sample(9, 1, 0), sample(10, 1, 0), sample(19, 1, 0), sample(20, 2, 1)];
        let recording = Recording { samples, ..Recording::default() };
        assert_eq!(recording.between(10, 20), Counts::from([((1, 0), 2)]));
        assert_eq!(recording.between(20, i64::MAX), Counts::from([((2, 1), 1)]));
    }
}

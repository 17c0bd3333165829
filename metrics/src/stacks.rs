//! Stacks of a program's functions, as addresses: what samplers take.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Window;

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

/// A worker's sampler, if it has one, and when it is asked.
#[derive(Default)]
pub struct OwnStacks {
    sampler: Option<Box<dyn OwnSampler>>,
    /// What it has belongs to this window, from then on.
    since: Option<(Window, Instant)>,
}

impl OwnStacks {
    /// To be asked seldom: a sampler that is started anew loses what its timer had still to count.
    const INTERVAL: Duration = Duration::from_secs(5);

    /// Of a worker that has this sampler.
    #[must_use]
    pub fn of(sampler: Option<Box<dyn OwnSampler>>) -> Self {
        Self { sampler, since: None }
    }

    /// A phase begins: what was run before belongs to none.
    pub fn begin(&mut self, window: Window) {
        drop(self.take());
        self.since = Some((window, Instant::now()));
    }

    /// What was sampled up to now, if it is time to hand it over: the clock has come into another
    /// window, or nothing was for a while.
    pub fn until(&mut self, window: Window) -> Option<SampledStacks> {
        let (before, since) = self.since?;
        if window == before && since.elapsed() < Self::INTERVAL {
            return None;
        }
        self.since = Some((window, Instant::now()));
        self.take()
    }

    /// The phase is over: what is left of it.
    pub fn end(&mut self) -> Option<SampledStacks> {
        self.since.take()?;
        self.take()
    }

    /// One that fails says why, and is let go.
    fn take(&mut self) -> Option<SampledStacks> {
        match self.sampler.as_mut()?.take() {
            Ok(stacks) => (!stacks.samples.is_empty()).then_some(stacks),
            Err(why) => {
                eprintln!("note: {why}");
                self.sampler = None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has one sample more each time, and fails at the third.
    struct Counting(usize);

    impl OwnSampler for Counting {
        fn take(&mut self) -> Result<SampledStacks, String> {
            let sample = StackSample { time_us: 0, thread: 0, stack: 0 };
            self.0 += 1;
            let samples = vec![sample; self.0];
            let taken = SampledStacks { samples, ..SampledStacks::default() };
            if self.0 < 4 { Ok(taken) } else { Err("no more".into()) }
        }
    }

    #[test]
    fn it_is_asked_where_a_window_ends_and_not_in_between() {
        let mut stacks = OwnStacks::of(Some(Box::new(Counting(0))));
        let count = |taken: Option<SampledStacks>| taken.map(|it| it.samples.len());
        assert_eq!(count(stacks.until(Window::Warmup)), None, "no phase");
        stacks.begin(Window::Warmup);
        assert_eq!(count(stacks.until(Window::Warmup)), None);
        assert_eq!(count(stacks.until(Window::Measured)), Some(2));
        assert_eq!(count(stacks.until(Window::Measured)), None);
        assert_eq!(count(stacks.end()), Some(3));
        assert_eq!(count(stacks.end()), None, "it has ended");
        stacks.begin(Window::Warmup);
        assert!(stacks.sampler.is_none(), "it has failed");
        assert_eq!(count(stacks.until(Window::Measured)), None);
    }
}

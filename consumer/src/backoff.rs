//! How long to wait before something that failed is tried again.

use std::time::Duration;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// No wait is longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Waits that double with each failure, each drawn from the upper half of what it may be: those who
/// failed together do not come back together, and nobody comes back at once ("equal jitter"). Its
/// seed decides all of them.
#[derive(Clone, Debug)]
pub(crate) struct Backoff(Xoshiro256PlusPlus);

impl Backoff {
    /// The waits of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// Waits that are others in each process, and each time.
    pub(crate) fn of_now() -> Self {
        Self::new(random_seed())
    }

    /// The wait behind a number of failures, one or more; `first` is the longest behind the first.
    pub(crate) fn wait(&mut self, first: Duration, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let half = first.saturating_mul(1 << doublings).min(LONGEST_WAIT) / 2;
        // 53 bits are what a fraction holds.
        let fraction = (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        half + half.mul_f64(fraction)
    }
}

/// Random, from the operating system: the state of a hasher is.
pub(crate) fn random_seed() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_double_up_to_the_longest(seed: u64, first_ms in 1u64..1_000, failures in 1u32..100) {
            let first = Duration::from_millis(first_ms);
            let whole = first.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_WAIT);
            let wait = Backoff::new(seed).wait(first, failures);
            prop_assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
            prop_assert_eq!(Backoff::new(seed).wait(first, failures), wait);
        }
    }

    #[test]
    fn waits_are_spread() {
        let first = Duration::from_secs(1);
        let mut backoff = Backoff::new(7);
        let waits: std::collections::HashSet<_> =
            (0..100).map(|_| backoff.wait(first, 1).as_millis() / 50).collect();
        assert!(waits.len() > 8, "{waits:?}");
    }
}

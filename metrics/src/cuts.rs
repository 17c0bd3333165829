//! When samples are cut: each second of a phase, and where one of its windows ends.

use crate::Window;

const SECOND_US: i64 = 1_000_000;

/// The boundaries of one phase, in µs since the Unix epoch by one clock.
///
/// Every worker cuts at the same moments, so that their samples can be laid side by side and a
/// window's figures are made of whole samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cuts {
    /// Start of the warm-up, or of the measured window where there is none.
    pub start_us: i64,
    /// Start of the measured window.
    pub measured_us: i64,
    /// End of the measured window, where the drain starts.
    pub end_us: i64,
}

impl Cuts {
    /// The boundaries of a phase that starts at `start_us`.
    #[must_use]
    pub fn new(start_us: i64, warmup_sec: f64, duration_sec: f64) -> Self {
        let after = |sec: f64| start_us + (sec * 1e6).round() as i64;
        Self { start_us, measured_us: after(warmup_sec), end_us: after(warmup_sec + duration_sec) }
    }

    /// The same as many µs later: of boundaries that are counted from a phase's start.
    #[must_use]
    pub fn later(self, by_us: i64) -> Self {
        let Self { start_us, measured_us, end_us } = self;
        Self {
            start_us: start_us + by_us,
            measured_us: measured_us + by_us,
            end_us: end_us + by_us,
        }
    }

    /// The first cut after a moment. They go on through the drain.
    #[must_use]
    pub fn next_after(&self, now_us: i64) -> i64 {
        let seconds = (now_us - self.start_us).div_euclid(SECOND_US) + 1;
        let next_second = (self.start_us + seconds * SECOND_US).max(self.start_us + SECOND_US);
        [self.measured_us, self.end_us]
            .into_iter()
            .filter(|boundary| *boundary > now_us)
            .fold(next_second, i64::min)
    }

    /// The last cut up to a moment; the start, before it.
    #[must_use]
    pub fn last_until(&self, now_us: i64) -> i64 {
        let seconds = (now_us - self.start_us).div_euclid(SECOND_US).max(0);
        [self.measured_us, self.end_us]
            .into_iter()
            .filter(|boundary| *boundary <= now_us)
            .fold(self.start_us + seconds * SECOND_US, i64::max)
    }

    /// The window a moment lies in.
    #[must_use]
    pub fn window_at(&self, now_us: i64) -> Window {
        if now_us < self.measured_us {
            Window::Warmup
        } else if now_us < self.end_us {
            Window::Measured
        } else {
            Window::Drain
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_boundaries_are_cuts() {
        let cuts = Cuts::new(10_000_000, 1.5, 2.0);
        let (mut now, mut seen) = (9_900_000, Vec::new());
        while now < 15_000_000 {
            now = cuts.next_after(now);
            seen.push((now - 10_000_000) / 100_000);
        }
        assert_eq!(seen, [10, 15, 20, 30, 35, 40, 50]);
    }

    #[test]
    fn each_moment_lies_between_two_cuts() {
        let cuts = Cuts::new(10_000_000, 1.5, 2.0);
        for (now, last, next) in
            [(99, 100, 110), (100, 100, 110), (114, 110, 115), (115, 115, 120), (151, 150, 160)]
        {
            let (last_us, next_us) =
                (cuts.last_until(now * 100_000), cuts.next_after(now * 100_000));
            assert_eq!((last_us / 100_000, next_us / 100_000), (last, next), "{now}");
        }
    }

    #[test]
    fn windows_follow_each_other() {
        let cuts = Cuts::new(0, 1.0, 2.0);
        let windows = [0, 999_999, 1_000_000, 2_999_999, 3_000_000].map(|us| cuts.window_at(us));
        assert_eq!(
            windows,
            [Window::Warmup, Window::Warmup, Window::Measured, Window::Measured, Window::Drain]
        );
    }
}

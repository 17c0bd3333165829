//! When samples are taken.

use std::time::Duration;

use walbench_metrics::Window;

const SECOND: u128 = 1_000_000_000;

/// The first tick after `after`: every whole second since the phase's start, the warm-up's end and
/// the load's end.
#[must_use]
pub(crate) fn next_tick(after: Duration, warmup: Duration, end: Duration) -> Duration {
    let nanos = (after.as_nanos() / SECOND + 1) * SECOND;
    let second = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    [warmup, end].into_iter().filter(|cut| *cut > after).fold(second, Duration::min)
}

/// The part of the phase that a moment is in.
#[must_use]
pub(crate) fn window_at(moment: Duration, warmup: Duration, end: Duration) -> Window {
    if moment >= end {
        Window::Drain
    } else if moment < warmup {
        Window::Warmup
    } else {
        Window::Measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn seconds_are_cut_at_the_windows_ends() {
        let mut ticks = vec![ms(0)];
        while ticks[ticks.len() - 1] < ms(5_000) {
            ticks.push(next_tick(ticks[ticks.len() - 1], ms(1_500), ms(3_700)));
        }
        let expected = [0, 1_000, 1_500, 2_000, 3_000, 3_700, 4_000, 5_000];
        assert_eq!(ticks, expected.map(ms));
    }

    #[test]
    fn a_moment_on_the_cut_belongs_to_what_follows() {
        let at = |moment| window_at(ms(moment), ms(1_500), ms(3_700));
        assert_eq!(at(1_499), Window::Warmup);
        assert_eq!(at(1_500), Window::Measured);
        assert_eq!(at(3_700), Window::Drain);
    }
}

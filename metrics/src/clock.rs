//! Wall-clock time in microseconds, and how far two wall clocks are apart.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// PostgreSQL counts microseconds from 2000-01-01 00:00 UTC; this is that moment in microseconds of
/// the Unix epoch.
pub const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// The wall clock now, in µs since the Unix epoch.
///
/// Every time that crosses a process is one of these. What starts and ends inside one process is
/// measured with [`std::time::Instant`] instead, which never steps.
#[must_use]
pub fn wall_us() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)
}

/// How far another wall clock is ahead of ours, as seen through a round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffset {
    /// Their clock minus ours, in µs.
    pub offset_us: i64,
    /// Half of the shortest round trip, in µs: the true offset lies within this of `offset_us`.
    pub uncertainty_us: i64,
}

/// One round trip to another clock; all in µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Our clock when the question left.
    pub sent_us: i64,
    /// Their clock when they answered.
    pub theirs_us: i64,
    /// Our clock when the answer came.
    pub received_us: i64,
}

impl ClockOffset {
    /// The offset shown by the shortest of the round trips, as NTP's clock filter picks it
    /// (RFC 5905, section 10); `None` without a usable one.
    pub fn from_probes(probes: impl IntoIterator<Item = Probe>) -> Option<Self> {
        probes
            .into_iter()
            .filter(|p| p.received_us >= p.sent_us)
            .map(|p| {
                let round_trip = p.received_us - p.sent_us;
                Self {
                    offset_us: p.theirs_us - (p.sent_us + round_trip / 2),
                    uncertainty_us: (round_trip + 1) / 2,
                }
            })
            .min_by_key(|o| o.uncertainty_us)
    }

    /// What to subtract from their times to have ours, in µs.
    ///
    /// Zero while the measured offset is within its own uncertainty: two readings of one clock
    /// must not be "corrected" by the noise of the measurement.
    #[must_use]
    pub fn correction_us(self) -> i64 {
        if self.offset_us.abs() <= self.uncertainty_us { 0 } else { self.offset_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(sent_us: i64, theirs_us: i64, received_us: i64) -> Probe {
        Probe { sent_us, theirs_us, received_us }
    }

    #[test]
    fn the_shortest_round_trip_decides() {
        let offset =
            ClockOffset::from_probes([probe(0, 5_900, 2_000), probe(10_000, 15_050, 10_100)])
                .unwrap();
        assert_eq!(offset, ClockOffset { offset_us: 5_000, uncertainty_us: 50 });
        assert_eq!(offset.correction_us(), 5_000);
    }

    #[test]
    fn an_offset_within_its_uncertainty_is_not_corrected() {
        let offset = ClockOffset::from_probes([probe(0, 60, 100)]).unwrap();
        assert_eq!(offset, ClockOffset { offset_us: 10, uncertainty_us: 50 });
        assert_eq!(offset.correction_us(), 0);
    }

    #[test]
    fn a_clock_that_stepped_back_in_mid_probe_is_no_evidence() {
        assert_eq!(ClockOffset::from_probes([probe(100, 60, 50)]), None);
        assert_eq!(ClockOffset::from_probes([]), None);
    }
}

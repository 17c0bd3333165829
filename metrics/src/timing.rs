//! An HDR histogram of durations, with bounds that are the same everywhere.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::{Deserialize, Serialize};

/// Shortest duration that is told apart, in µs. Anything shorter is recorded as this.
pub const LOWEST_US: u64 = 1;
/// Longest duration that fits, in µs: one hour. Anything longer is counted in [`Timing::over`].
pub const HIGHEST_US: u64 = 3_600_000_000;
/// Significant decimal digits kept: a value is known within 0.1 %.
pub const DIGITS: u8 = 3;

/// Durations in µs. Merges without loss, since the bounds are fixed; serialises whole (HDR V2,
/// base64), never as percentiles, so that intervals, workers and runs can be added up later.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    histogram: Histogram<u64>,
    over: u64,
    negative: u64,
}

impl Default for Timing {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(LOWEST_US, HIGHEST_US, DIGITS);
        Self {
            histogram: histogram.expect("the bounds are constants that HDR accepts"),
            over: 0,
            negative: 0,
        }
    }
}

impl Timing {
    /// Records one duration in µs.
    pub fn record(&mut self, us: i64) {
        self.record_n(us, 1);
    }

    /// Records `count` durations of the same length, at the price of one.
    ///
    /// A negative duration (two clocks disagree) is counted in [`Timing::negative`] and one beyond
    /// an hour in [`Timing::over`]; neither is clamped into the histogram.
    pub fn record_n(&mut self, us: i64, count: u64) {
        match u64::try_from(us) {
            Err(_) => self.negative += count,
            Ok(us) if us > HIGHEST_US => self.over += count,
            Ok(us) => self
                .histogram
                .record_n(us.max(LOWEST_US), count)
                .expect("the value is within the bounds"),
        }
    }

    /// Adds everything `other` holds.
    pub fn merge(&mut self, other: &Self) {
        let Self { histogram, over, negative } = other;
        self.histogram.add(histogram).expect("the bounds are the same everywhere");
        self.over += over;
        self.negative += negative;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let Self { histogram, over, negative } = self;
        histogram.reset();
        *over = 0;
        *negative = 0;
    }

    /// Durations in the histogram.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Durations longer than an hour, which are in no percentile.
    #[must_use]
    pub fn over(&self) -> u64 {
        self.over
    }

    /// Negative durations, which are in no percentile.
    #[must_use]
    pub fn negative(&self) -> u64 {
        self.negative
    }

    /// Nothing was recorded, in range or out of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count() == 0 && self.over == 0 && self.negative == 0
    }

    /// The duration, in µs, that `quantile` (0 to 1) of all durations do not exceed; `None` when
    /// there are none.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> Option<u64> {
        (self.count() > 0)
            .then(|| self.histogram.value_at_quantile(quantile).min(self.histogram.max()))
    }

    /// The shortest duration in µs, `None` when there are none.
    #[must_use]
    pub fn min_us(&self) -> Option<u64> {
        (self.count() > 0).then(|| self.histogram.min())
    }

    /// The longest duration in µs, `None` when there are none.
    #[must_use]
    pub fn max_us(&self) -> Option<u64> {
        (self.count() > 0).then(|| self.histogram.max())
    }

    /// The mean in µs, `None` when there are none.
    #[must_use]
    pub fn mean_us(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.histogram.mean())
    }

    /// The histogram itself, for charts and other tools' formats.
    #[must_use]
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }
}

/// The serialised form; a histogram with no entry is left out.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    /// HDR V2 bytes in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    hdr: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    over: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    negative: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Serialize for Timing {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { histogram, over, negative } = self;
        let mut hdr = String::new();
        if !histogram.is_empty() {
            let mut bytes = Vec::new();
            V2Serializer::new()
                .serialize(histogram, &mut bytes)
                .map_err(|e| serde::ser::Error::custom(format!("histogram: {e}")))?;
            hdr = STANDARD_NO_PAD.encode(bytes);
        }
        Wire { hdr, over: *over, negative: *negative }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Timing {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Wire { hdr, over, negative } = Wire::deserialize(deserializer)?;
        let mut timing = Self { over, negative, ..Self::default() };
        if !hdr.is_empty() {
            timing.histogram = decode_histogram(&hdr).map_err(serde::de::Error::custom)?;
        }
        Ok(timing)
    }
}

fn decode_histogram(hdr: &str) -> Result<Histogram<u64>, String> {
    let bytes = STANDARD_NO_PAD.decode(hdr).map_err(|e| format!("histogram is not base64: {e}"))?;
    // The header states bounds and payload length, and the decoder allocates what it states: held
    // against ours first, so that nonsense on the link can't ask for gigabytes.
    let mut expected = Vec::new();
    V2Serializer::new()
        .serialize(&Timing::default().histogram, &mut expected)
        .expect("an empty histogram serialises");
    let payload = bytes.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let same = |range: std::ops::Range<usize>| {
        bytes.get(range.clone()).is_some_and(|b| Some(b) == expected.get(range))
    };
    if !same(0..4) || !same(8..32) || payload.map(|p| p as usize + 40) != Some(bytes.len()) {
        return Err("histogram does not have walbench's bounds".into());
    }
    Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|e| format!("histogram can't be read: {e}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timing(values: &[i64]) -> Timing {
        let mut timing = Timing::default();
        for &us in values {
            timing.record(us);
        }
        timing
    }

    #[test]
    fn values_out_of_range_are_counted_apart() {
        let t = timing(&[-5, 0, 1, 3_600_000_000, 3_600_000_001]);
        assert_eq!((t.negative(), t.over(), t.count()), (1, 1, 3));
        assert_eq!(t.min_us(), Some(1));
        assert!(t.max_us().unwrap() >= 3_600_000_000);
    }

    #[test]
    fn nothing_recorded_has_no_figures() {
        let t = Timing::default();
        assert_eq!(
            (t.quantile_us(0.5), t.min_us(), t.max_us(), t.mean_us()),
            (None, None, None, None)
        );
        assert_eq!(serde_json::to_string(&t).unwrap(), "{}");
    }

    #[test]
    fn record_n_is_n_records() {
        let mut once = Timing::default();
        once.record_n(1_234, 3);
        assert_eq!(once, timing(&[1_234; 3]));
    }

    #[test]
    fn nonsense_is_refused_without_a_large_allocation() {
        let mut bytes = Vec::new();
        let wide = Histogram::<u64>::new_with_bounds(1, u64::MAX / 2, 5).unwrap();
        V2Serializer::new().serialize(&wide, &mut bytes).unwrap();
        for hdr in ["!", "AAAA", &STANDARD_NO_PAD.encode(bytes)] {
            assert!(serde_json::from_str::<Timing>(&format!(r#"{{"hdr":"{hdr}"}}"#)).is_err());
        }
    }

    proptest! {
        #[test]
        fn serialising_keeps_everything(values in prop::collection::vec(-10i64..4_000_000_000, 0..50)) {
            let t = timing(&values);
            let json = serde_json::to_string(&t).unwrap();
            prop_assert_eq!(serde_json::from_str::<Timing>(&json).unwrap(), t);
        }

        #[test]
        fn merging_is_recording_together(
            a in prop::collection::vec(-10i64..4_000_000_000, 0..50),
            b in prop::collection::vec(-10i64..4_000_000_000, 0..50),
        ) {
            let mut merged = timing(&a);
            merged.merge(&timing(&b));
            let together: Vec<i64> = a.iter().chain(&b).copied().collect();
            prop_assert_eq!(merged, timing(&together));
        }

        #[test]
        fn any_text_is_read_or_refused(hdr in "[A-Za-z0-9+/]{0,200}") {
            let _ = serde_json::from_str::<Timing>(&format!(r#"{{"hdr":"{hdr}"}}"#));
        }
    }
}

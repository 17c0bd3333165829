//! How many rows of a transaction are inserts.

/// Inserts among the `batch_size` rows of transaction `number` (from 0), so that of all rows of the
/// first N transactions, for every N, `ratio` are inserts to within one row.
#[must_use]
pub fn inserts(number: u64, batch_size: u32, ratio: f64) -> u32 {
    let until = |number: u64| (number as f64 * f64::from(batch_size) * ratio).round() as u64;
    u32::try_from(until(number + 1) - until(number)).unwrap_or(u32::MAX).min(batch_size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_share_is_exact_at_any_time(batch in 1u32..1_000, ratio in 0.0..=1.0, count in 1u64..2_000) {
            let sum: u64 = (0..count).map(|number| u64::from(inserts(number, batch, ratio))).sum();
            let meant = count as f64 * f64::from(batch) * ratio;
            prop_assert!((sum as f64 - meant).abs() <= 1.0, "{} instead of {}", sum, meant);
        }
    }

    #[test]
    fn the_ends_are_all_or_nothing() {
        assert!((0..100).all(|number| inserts(number, 7, 1.0) == 7));
        assert!((0..100).all(|number| inserts(number, 7, 0.0) == 0));
    }
}

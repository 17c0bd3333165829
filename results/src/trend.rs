//! Whether something grows: a straight line through points of time, by least squares.

/// How many times its own error a slope must be to be no chance. Points of one second follow from
/// those before, so that this is more than the 2.6 that independent ones would need.
const CERTAIN: f64 = 5.0;

/// Fewer points show no trend.
const FEWEST: i128 = 8;

/// Points, summed up: their number does not matter, nor the order in which they come. The sums are
/// whole numbers, so that nothing is rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trend {
    n: i128,
    /// Sums of time in ms, of the value, and of their products.
    t: i128,
    y: i128,
    tt: i128,
    ty: i128,
    yy: i128,
}

/// A line that rises for sure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rise {
    /// In a second.
    pub(crate) per_sec: f64,
    /// Mean of all points.
    pub(crate) mean: f64,
}

impl Trend {
    /// Takes in a point.
    pub(crate) fn see(&mut self, at_us: i64, value: u64) {
        let (t, y) = (i128::from(at_us / 1_000), i128::from(value));
        self.merge(&Self { n: 1, t, y, tt: t * t, ty: t * y, yy: y * y });
    }

    /// Adds another's points.
    pub(crate) fn merge(&mut self, other: &Self) {
        let Self { n, t, y, tt, ty, yy } = other;
        self.n += n;
        self.t += t;
        self.y += y;
        self.tt += tt;
        self.ty += ty;
        self.yy += yy;
    }

    /// The rise, if it is no chance.
    pub(crate) fn rise(&self) -> Option<Rise> {
        let Self { n, t, y, tt, ty, yy } = *self;
        if n < FEWEST {
            return None;
        }
        // Sums of squares around the means, times n.
        let (s_tt, s_ty, s_yy) = (n * tt - t * t, n * ty - t * y, n * yy - y * y);
        if s_tt == 0 || s_ty <= 0 {
            return None;
        }
        let slope = s_ty as f64 / s_tt as f64;
        let unexplained = (s_yy as f64 - slope * s_ty as f64).max(0.0);
        let error = (unexplained / ((n - 2) as f64 * s_tt as f64)).sqrt();
        let mean = y as f64 / n as f64;
        (slope > CERTAIN * error).then_some(Rise { per_sec: 1_000.0 * slope, mean })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trend(values: impl IntoIterator<Item = u64>) -> Trend {
        let mut trend = Trend::default();
        for (second, value) in (0..).zip(values) {
            trend.see(1_767_225_600_000_000 + second * 1_000_000, value);
        }
        trend
    }

    #[test]
    fn a_line_is_found_as_it_is() {
        let rise = trend((0..60).map(|s| 50_000_000 + 1_000_000 * s)).rise().unwrap();
        assert!((rise.per_sec - 1e6).abs() < 1e-3, "{rise:?}");
        assert!((rise.mean - 79_500_000.0).abs() < 1.0, "{rise:?}");
    }

    #[test]
    fn what_falls_stands_or_goes_up_and_down_does_not_rise() {
        assert_eq!(trend((0..60).map(|s| 100 - s)).rise(), None);
        assert_eq!(trend([7; 60]).rise(), None);
        assert_eq!(trend((0..60).map(|s| 1_000 + s % 7)).rise(), None);
        assert_eq!(trend(0..7).rise(), None, "too few");
        assert_eq!(Trend::default().rise(), None);
    }

    /// Numbers that follow no order, from 0 to 999.
    fn noise(seed: u64) -> impl Iterator<Item = u64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        std::iter::repeat_with(move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) % 1_000
        })
    }

    #[test]
    fn noise_alone_seldom_rises_and_a_rise_is_seen_through_it() {
        let rises = |slope: u64| {
            let of = |seed| {
                let values = noise(seed).zip(0..).take(60).map(|(noise, s)| noise + slope * s);
                trend(values).rise().is_some()
            };
            (1..=1_000).filter(|seed| of(*seed)).count()
        };
        assert!(rises(0) <= 2, "{} of 1,000", rises(0));
        assert!(rises(30) >= 998, "{} of 1,000", rises(30));
    }

    proptest! {
        #[test]
        fn the_order_of_points_makes_no_difference(values in prop::collection::vec(0..1u64 << 40, 8..40)) {
            let points: Vec<(i64, u64)> = (0..).step_by(1_000_000).zip(values).collect();
            let of = |points: &[(i64, u64)]| {
                let mut trend = Trend::default();
                points.iter().for_each(|(at, value)| trend.see(*at, *value));
                trend
            };
            let mut turned = points.clone();
            turned.reverse();
            prop_assert_eq!(of(&points), of(&turned));
        }
    }
}

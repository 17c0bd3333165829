//! What becomes of an insert by the plan: how long it takes, and what goes wrong with it.
//!
//! A pure function of the plan, the faults that are active, the seed and the insert's number, so
//! that a run can be repeated.

use std::time::Duration;

use rand_distr::{Distribution, Exp1, LogNormal};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use walbench_phases::plan::{DelayDistribution, Fault, FaultKind};

/// The spread of log-normal delays.
const SIGMA: f64 = 1.0;

/// No insert waits longer.
const LONGEST_DELAY_MS: f64 = 3_600_000.0;

/// A cut connection's rows are written this often, where the plan does not say.
const CUT_APPLIED_SHARE: f64 = 0.5;

/// Delays as the plan has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delay {
    /// Their average.
    pub mean_ms: u64,
    /// How they are spread around it.
    pub distribution: DelayDistribution,
}

/// What becomes of an insert.
#[derive(Clone, Debug, PartialEq)]
pub struct Fate {
    /// What it takes beyond its work.
    pub delay: Duration,
    /// The rate at which rows are taken.
    pub rows_per_sec: Option<f64>,
    /// What goes wrong.
    pub strike: Option<Strike>,
    /// Kinds of the faults that strike it, in the plan's order.
    pub kinds: Vec<FaultKind>,
}

/// What goes wrong with an insert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strike {
    /// How it ends.
    pub end: End,
    /// Its rows are written all the same.
    pub is_applied: bool,
}

/// How an insert ends that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With an HTTP status that is none of ClickHouse's.
    Status(u16),
    /// With an error of ClickHouse's.
    Code(u16),
    /// Never.
    Hang,
    /// With its connection, after some of its data or before.
    Cut {
        /// Data were read before.
        reads: bool,
    },
}

/// Decides over the insert of that number.
#[must_use]
pub fn decide<'a>(
    delay: Delay,
    rows_per_sec: f64,
    active: impl Iterator<Item = &'a Fault>,
    seed: u64,
    number: u64,
) -> Fate {
    // Numbers that follow each other give seeds that don't.
    let mut random =
        Xoshiro256PlusPlus::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut fate = Fate {
        delay: drawn(delay, &mut random),
        rows_per_sec: Some(rows_per_sec).filter(|rate| *rate > 0.0),
        strike: None,
        kinds: Vec::new(),
    };
    for fault in active.filter(|fault| fault.kind != FaultKind::Outage) {
        if share(&mut random) >= fault.share {
            continue;
        }
        match (fault.kind, end(fault, &mut random)) {
            (FaultKind::Delay, _) => {
                let mean_ms = fault.delay_ms.unwrap_or_default();
                fate.delay += drawn(Delay { mean_ms, ..delay }, &mut random);
            }
            (FaultKind::Throttle, _) => {
                let rates = [fate.rows_per_sec, fault.rows_per_sec];
                fate.rows_per_sec = rates.into_iter().flatten().reduce(f64::min);
            }
            // What goes wrong first is what goes wrong.
            (_, Some(end)) if fate.strike.is_none() => {
                let cut = if fault.kind == FaultKind::Cut { CUT_APPLIED_SHARE } else { 0.0 };
                let is_applied = share(&mut random) < fault.applied_share.unwrap_or(cut);
                fate.strike = Some(Strike { end, is_applied });
            }
            _ => continue,
        }
        fate.kinds.push(fault.kind);
    }
    fate
}

fn end(fault: &Fault, random: &mut Xoshiro256PlusPlus) -> Option<End> {
    match (fault.kind, fault.status, fault.code) {
        (FaultKind::Error, Some(status), _) => Some(End::Status(status)),
        (FaultKind::Error, None, Some(code)) => Some(End::Code(code)),
        (FaultKind::Hang, ..) => Some(End::Hang),
        (FaultKind::Cut, ..) => Some(End::Cut { reads: share(random) < 0.5 }),
        _ => None,
    }
}

/// From 0 up to 1 and not 1.
fn share(random: &mut Xoshiro256PlusPlus) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn drawn(delay: Delay, random: &mut Xoshiro256PlusPlus) -> Duration {
    if delay.mean_ms == 0 {
        return Duration::ZERO;
    }
    let mean_ms = delay.mean_ms as f64;
    let ms = match delay.distribution {
        DelayDistribution::Fixed => mean_ms,
        DelayDistribution::Uniform => 2.0 * mean_ms * share(random),
        DelayDistribution::Exponential => mean_ms * Distribution::<f64>::sample(&Exp1, random),
        DelayDistribution::Lognormal => {
            let mu = mean_ms.ln() - SIGMA * SIGMA / 2.0;
            LogNormal::new(mu, SIGMA).map_or(mean_ms, |spread| spread.sample(random))
        }
    };
    Duration::from_secs_f64(ms.clamp(0.0, LONGEST_DELAY_MS) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Delay = Delay { mean_ms: 0, distribution: DelayDistribution::Fixed };

    fn fates(delay: Delay, faults: &[Fault], seed: u64) -> Vec<Fate> {
        (0..20_000).map(|number| decide(delay, 0.0, faults.iter(), seed, number)).collect()
    }

    fn share_of(fates: &[Fate], holds: impl Fn(&Fate) -> bool) -> f64 {
        fates.iter().filter(|fate| holds(fate)).count() as f64 / fates.len() as f64
    }

    #[test]
    fn the_same_seed_has_the_same_fates() {
        let faults = [Fault { share: 0.3, ..Fault::new(FaultKind::Cut) }];
        let delay = Delay { mean_ms: 5, distribution: DelayDistribution::Lognormal };
        assert_eq!(fates(delay, &faults, 42), fates(delay, &faults, 42));
        assert_ne!(fates(delay, &faults, 42), fates(delay, &faults, 43));
    }

    #[test]
    fn delays_have_their_average() {
        use DelayDistribution::{Exponential, Fixed, Lognormal, Uniform};
        for distribution in [Fixed, Uniform, Exponential, Lognormal] {
            let all = fates(Delay { mean_ms: 20, distribution }, &[], 7);
            let sum: Duration = all.iter().map(|fate| fate.delay).sum();
            let mean_ms = sum.as_secs_f64() * 1e3 / all.len() as f64;
            assert!((19.0..21.0).contains(&mean_ms), "{distribution:?}: {mean_ms}");
        }
    }

    #[test]
    fn faults_strike_their_share() {
        let faults = [Fault { share: 0.25, ..Fault::new(FaultKind::Cut) }];
        let all = fates(NONE, &faults, 1);
        let struck = share_of(&all, |fate| fate.strike.is_some());
        assert!((0.23..0.27).contains(&struck), "{struck}");
        let applied = share_of(&all, |fate| fate.strike.is_some_and(|s| s.is_applied));
        assert!((0.11..0.14).contains(&applied), "half of those that are cut: {applied}");
        let never = [Fault { share: 0.0, ..Fault::new(FaultKind::Hang) }];
        assert!(fates(NONE, &never, 1).iter().all(|fate| fate.strike.is_none()));
    }

    #[test]
    fn what_goes_wrong_first_is_what_goes_wrong_and_delays_add() {
        let faults = [
            Fault { delay_ms: Some(5), ..Fault::new(FaultKind::Delay) },
            Fault { status: Some(503), applied_share: Some(1.0), ..Fault::new(FaultKind::Error) },
            Fault::new(FaultKind::Hang),
            Fault::new(FaultKind::Outage),
            Fault { rows_per_sec: Some(50.0), ..Fault::new(FaultKind::Throttle) },
        ];
        let delay = Delay { mean_ms: 10, distribution: DelayDistribution::Fixed };
        let fate = decide(delay, 100.0, faults.iter(), 1, 1);
        assert_eq!(fate.delay, Duration::from_millis(15));
        assert_eq!(fate.rows_per_sec, Some(50.0));
        assert_eq!(fate.strike, Some(Strike { end: End::Status(503), is_applied: true }));
        assert_eq!(fate.kinds, [FaultKind::Delay, FaultKind::Error, FaultKind::Throttle]);
    }
}

//! The open-loop schedule: when each transaction of a phase is due.
//!
//! Everything follows from one function, A(t): the rows due up to `t` seconds after the phase's
//! start. Each stretch of a phase has A and its inverse in closed form, so a due time is computed
//! from its transaction's number and not from the due time before it: nothing adds up, and the last
//! transaction of a week is as exact as the first.
//!
//! Does not sleep, read a clock or know what a row is.

use std::time::Duration;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use walbench_metrics::Window;

use crate::plan::{Arrivals, Phase};

/// A ceiling far above every bound of the plan, so that no sum of seconds or rows can overflow.
const LARGEST: f64 = 1e9;

/// The rate of a phase over time: rows a second over all producers.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    warmup: Stretch,
    measured: Stretch,
}

impl Shape {
    /// The shape of `phase`. What a valid plan can't hold (NaN, negative or endless numbers) counts
    /// as zero or as a very large number, never as a hang.
    #[must_use]
    pub fn new(phase: &Phase) -> Self {
        let target = sane(phase.target_throughput);
        let start = phase.start_throughput.map(sane);
        let length = sane(phase.duration_sec);
        let rate = match (&phase.burst, start) {
            (Some(burst), _) => Rate::bursts(
                target,
                sane(burst.throughput),
                sane(burst.every_sec),
                sane(burst.length_sec),
            ),
            (None, Some(from)) => Rate::Ramp { from, to: target },
            (None, None) => Rate::Constant(target),
        };
        Self {
            warmup: Stretch {
                length: sane(phase.warmup_sec),
                rate: Rate::Constant(start.unwrap_or(target)),
            },
            measured: Stretch { length, rate },
        }
    }

    /// Rows planned in `window`, over all producers.
    #[must_use]
    pub fn rows(&self, window: Window) -> f64 {
        match window {
            Window::Warmup => self.warmup.rows(),
            Window::Measured => self.measured.rows(),
            // Nothing is due in the drain: it carries what was due before.
            Window::Drain => 0.0,
        }
    }

    /// Rows a second planned at `since_start`; zero after the phase's end.
    #[must_use]
    pub fn rate_at(&self, since_start: Duration) -> f64 {
        if since_start >= self.total() {
            0.0
        } else if since_start < self.warmup() {
            self.warmup.rate_at(since_start.as_secs_f64())
        } else {
            self.measured.rate_at(since_start.as_secs_f64() - self.warmup.length)
        }
    }

    /// Warm-up and measured window together.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_secs_f64(self.warmup.length + self.measured.length)
    }

    /// The part of the phase that is left out of every figure.
    #[must_use]
    pub fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup.length)
    }

    /// When A reaches `rows`; `None` if it doesn't within the phase.
    ///
    /// Where A is flat, the end of the flat part is the answer: nothing is due while the rate is
    /// zero.
    fn due(&self, rows: f64) -> Option<Duration> {
        let warmup_rows = self.warmup.rows();
        let seconds = if rows < warmup_rows {
            self.warmup.when(rows)
        } else if rows < warmup_rows + self.measured.rows() {
            self.warmup.length + self.measured.when(rows - warmup_rows)
        } else {
            return None;
        };
        Some(Duration::from_secs_f64(seconds)).filter(|due| *due < self.total())
    }

    fn window(&self, due: Duration) -> Window {
        if due < self.warmup() { Window::Warmup } else { Window::Measured }
    }
}

/// `number` as a finite, non-negative one. NaN becomes zero.
fn sane(number: f64) -> f64 {
    number.clamp(0.0, LARGEST).max(0.0)
}

/// A part of a phase whose rate follows one rule. Times are seconds since its own start.
#[derive(Clone, Debug, PartialEq)]
struct Stretch {
    length: f64,
    rate: Rate,
}

#[derive(Clone, Debug, PartialEq)]
enum Rate {
    Constant(f64),
    Ramp { from: f64, to: f64 },
    Bursts { base: f64, burst: f64, every: f64, length: f64 },
}

impl Rate {
    fn bursts(base: f64, burst: f64, every: f64, length: f64) -> Self {
        // Bursts that fill their whole period are a constant rate; said here once, so that no
        // period is ever empty below.
        if length >= every {
            Self::Constant(burst)
        } else {
            Self::Bursts { base, burst, every, length }
        }
    }
}

impl Stretch {
    fn rate_at(&self, t: f64) -> f64 {
        match self.rate {
            Rate::Constant(rate) => rate,
            Rate::Ramp { from, to } => from + (to - from) * (t / self.length).clamp(0.0, 1.0),
            Rate::Bursts { base, burst, every, length } => {
                if t.rem_euclid(every) < length {
                    burst
                } else {
                    base
                }
            }
        }
    }

    /// Rows of the whole stretch.
    fn rows(&self) -> f64 {
        self.rows_until(self.length)
    }

    /// A(t) within this stretch.
    fn rows_until(&self, t: f64) -> f64 {
        if self.length == 0.0 {
            return 0.0;
        }
        match self.rate {
            Rate::Constant(rate) => rate * t,
            Rate::Ramp { from, to } => from * t + (to - from) * t * t / (2.0 * self.length),
            Rate::Bursts { base, burst, every, length } => {
                let periods = (t / every).floor();
                let rest = (t - periods * every).clamp(0.0, every);
                let in_burst = rest.min(length);
                periods * (burst * length + base * (every - length))
                    + burst * in_burst
                    + base * (rest - in_burst)
            }
        }
    }

    /// The inverse of A, for `0 <= rows < rows_until(length)`.
    fn when(&self, rows: f64) -> f64 {
        let t = match self.rate {
            Rate::Constant(rate) => rows / rate,
            Rate::Ramp { from, to } => self.when_ramp(from, to, rows),
            Rate::Bursts { base, burst, every, length } => {
                when_bursts(base, burst, every, length, rows)
            }
        };
        t.clamp(0.0, self.length)
    }

    fn when_ramp(&self, from: f64, to: f64, rows: f64) -> f64 {
        let slope = (to - from).abs() / self.length;
        // A falling ramp is a rising one seen from its end. Seen from its start, the square root
        // would subtract two numbers that are almost equal.
        if from <= to {
            seconds_to_climb(from, slope, rows)
        } else {
            let left = (self.rows() - rows).max(0.0);
            self.length - seconds_to_climb(to, slope, left)
        }
    }
}

/// Solves `rate·t + slope·t²/2 = rows`, in the form that divides by a sum and so stays exact when
/// the slope is almost zero.
fn seconds_to_climb(rate: f64, slope: f64, rows: f64) -> f64 {
    if rows <= 0.0 { 0.0 } else { 2.0 * rows / (rate + (rate * rate + 2.0 * slope * rows).sqrt()) }
}

fn when_bursts(base: f64, burst: f64, every: f64, length: f64, rows: f64) -> f64 {
    let in_burst = burst * length;
    let in_period = in_burst + base * (every - length);
    let periods = (rows / in_period).floor();
    let rest = (rows - periods * in_period).max(0.0);
    let into = if rest < in_burst {
        rest / burst
    } else if base > 0.0 {
        (length + (rest - in_burst) / base).min(every)
    } else {
        // Reached through rounding alone: without a base rate the next row opens the next burst.
        every
    };
    periods * every + into
}

/// One transaction that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Number of the transaction in its phase, over all producers, from 0.
    pub sequence: u64,
    /// When it is due, since the phase's start.
    pub due: Duration,
    /// Which part of the phase that is.
    pub window: Window,
}

/// The due times of one producer process in one phase, in order. All rows of a transaction are due
/// at one moment.
#[derive(Clone, Debug)]
pub struct Schedule {
    shape: Shape,
    batch_size: f64,
    process: u64,
    processes: u64,
    gaps: Option<Gaps>,
    next: u64,
}

impl Schedule {
    /// The schedule of producer `process` (from 0) of `processes`, whose transactions hold
    /// `batch_size` rows each. The same arguments give the same schedule; each process draws from
    /// its own part of the random sequence that `seed` starts.
    #[must_use]
    pub fn new(
        shape: Shape,
        arrivals: Arrivals,
        batch_size: u32,
        process: u32,
        processes: u32,
        seed: u64,
    ) -> Self {
        Self {
            shape,
            batch_size: f64::from(batch_size.max(1)),
            process: process.into(),
            processes: processes.max(1).into(),
            gaps: match arrivals {
                Arrivals::Uniform => None,
                Arrivals::Poisson => Some(Gaps::new(process, seed)),
            },
            next: 0,
        }
    }

    /// What A must reach for the next transaction to be due.
    ///
    /// Poisson arrivals are made by time-rescaling: a process of rate 1 whose clock is A itself. Of
    /// all rows, `1 / processes` are this process's.
    fn rows_at_next(&mut self, sequence: u64) -> f64 {
        match &mut self.gaps {
            None => sequence as f64 * self.batch_size,
            Some(gaps) => gaps.next() * self.processes as f64 * self.batch_size,
        }
    }
}

impl Iterator for Schedule {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        let sequence = self.process + self.next * self.processes;
        let rows = self.rows_at_next(sequence);
        let due = self.shape.due(rows)?;
        self.next += 1;
        Some(Due { sequence, due, window: self.shape.window(due) })
    }
}

/// The moments of a Poisson process of rate 1: exponential gaps, added up.
#[derive(Clone, Debug)]
struct Gaps {
    random: Xoshiro256PlusPlus,
    sum: f64,
}

impl Gaps {
    fn new(process: u32, seed: u64) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        // A jump skips 2^128 numbers, so that no two processes ever draw the same ones.
        for _ in 0..process {
            random.jump();
        }
        Self { random, sum: 0.0 }
    }

    fn next(&mut self) -> f64 {
        // The 53 bits a float holds, shifted into (0, 1]: the logarithm of zero is never taken.
        let uniform = ((self.random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        self.sum -= uniform.ln();
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::Burst;

    fn phase(duration_sec: f64, target_throughput: f64) -> Phase {
        Phase {
            name: "phase".into(),
            duration_sec,
            target_throughput,
            warmup_sec: 0.0,
            start_throughput: None,
            burst: None,
        }
    }

    fn uniform(phase: &Phase, batch_size: u32) -> Schedule {
        Schedule::new(Shape::new(phase), Arrivals::Uniform, batch_size, 0, 1, 42)
    }

    fn milliseconds(schedule: Schedule) -> Vec<u128> {
        schedule.map(|due| due.due.as_millis()).collect()
    }

    #[test]
    fn a_constant_rate_is_even() {
        let phase = Phase { warmup_sec: 0.2, ..phase(0.3, 100.0) };
        let due: Vec<Due> = uniform(&phase, 10).collect();
        let moments: Vec<u128> = due.iter().map(|due| due.due.as_millis()).collect();
        assert_eq!(moments, [0, 100, 200, 300, 400]);
        assert_eq!(due.iter().filter(|due| due.window == Window::Warmup).count(), 2);
        assert_eq!(due.iter().map(|due| due.sequence).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_ramp_from_zero_rises_and_one_to_zero_falls() {
        let rising = Phase { start_throughput: Some(0.0), ..phase(10.0, 10.0) };
        let due = milliseconds(uniform(&rising, 10));
        assert_eq!(due, [0, 4472, 6324, 7745, 8944]);
        let falling = Phase { start_throughput: Some(10.0), ..phase(10.0, 0.0) };
        let due = milliseconds(uniform(&falling, 10));
        assert_eq!(due, [0, 1055, 2254, 3675, 5527]);
    }

    #[test]
    fn bursts_stand_out() {
        let burst = Burst { throughput: 10.0, every_sec: 2.0, length_sec: 0.5 };
        let bursts = Phase { burst: Some(burst), ..phase(4.0, 0.0) };
        let due = milliseconds(uniform(&bursts, 1));
        assert_eq!(due, [0, 100, 200, 300, 400, 2000, 2100, 2200, 2300, 2400]);
        let shape = Shape::new(&Phase { target_throughput: 2.0, ..bursts });
        assert_eq!(shape.rows(Window::Measured), 16.0);
        let rates =
            [0, 499, 500, 2499, 2500, 4000].map(|at| shape.rate_at(Duration::from_millis(at)));
        assert_eq!(rates, [10.0, 10.0, 2.0, 10.0, 2.0, 0.0]);
    }

    #[test]
    fn nothing_is_due_while_the_rate_is_zero() {
        let ramp = Phase { warmup_sec: 5.0, start_throughput: Some(0.0), ..phase(10.0, 10.0) };
        let first = uniform(&ramp, 1).next().unwrap();
        assert_eq!((first.due, first.window), (Duration::from_secs(5), Window::Measured));
        for arrivals in [Arrivals::Uniform, Arrivals::Poisson] {
            let nothing = Shape::new(&phase(10.0, 0.0));
            assert_eq!(Schedule::new(nothing, arrivals, 1, 0, 1, 42).next(), None);
        }
    }

    #[test]
    fn numbers_no_plan_holds_do_no_harm() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, f64::MAX, 5e-324] {
            let burst = Burst { throughput: number, every_sec: number, length_sec: number };
            for phase in [
                phase(number, number),
                phase(1.0, number),
                phase(number, 1.0),
                Phase { start_throughput: Some(number), warmup_sec: number, ..phase(1.0, 1.0) },
                Phase { burst: Some(burst), ..phase(1.0, 1.0) },
            ] {
                for arrivals in [Arrivals::Uniform, Arrivals::Poisson] {
                    let shape = Shape::new(&phase);
                    assert!(shape.rows(Window::Measured).is_finite());
                    let due = Schedule::new(shape, arrivals, 0, 0, 0, 42).take(100);
                    assert!(due.is_sorted_by_key(|due| due.due), "{phase:?}");
                }
            }
        }
    }

    #[test]
    fn a_week_at_a_high_rate_does_not_drift() {
        let week = phase(604_800.0, 100_000_000.0);
        let mut schedule = uniform(&week, 1_000);
        // The last second's first transaction, reached without the 60 thousand million before it.
        schedule.next = 604_799 * 100_000;
        let due = schedule.next().unwrap();
        assert_eq!(due.due, Duration::from_secs(604_799));
        schedule.next = 604_800 * 100_000 - 1;
        assert_eq!(schedule.next().unwrap().due, Duration::from_nanos(604_799_999_990_000));
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn poisson_gaps_are_exponential() {
        let rate = 10_000.0;
        let shape = Shape::new(&phase(20.0, rate));
        let due: Vec<f64> = Schedule::new(shape, Arrivals::Poisson, 1, 0, 1, 7)
            .map(|due| due.due.as_secs_f64())
            .collect();
        let gaps: Vec<f64> = due.windows(2).map(|pair| (pair[1] - pair[0]) * rate).collect();
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
        // Of exponential gaps, 1/e are longer than the mean.
        let long = gaps.iter().filter(|gap| **gap > 1.0).count() as f64 / count;
        assert!((long - (-1.0_f64).exp()).abs() < 0.01, "{long}");
    }

    fn any_phase() -> impl Strategy<Value = Phase> {
        let rate = || prop_oneof![Just(0.0), 0.1..2_000.0];
        let burst = (0.1..2_000.0, 0.01..5.0, 0.01..1.0).prop_map(|(throughput, every, share)| {
            Some(Burst { throughput, every_sec: every, length_sec: every * share })
        });
        let start = rate().prop_map(Some);
        let shape = prop_oneof![
            Just((None, None)),
            start.prop_map(|start| (start, None)),
            burst.prop_map(|burst| (None, burst)),
        ];
        (0.01..10.0, rate(), prop_oneof![Just(0.0), 0.0..3.0], shape).prop_map(
            |(duration, target, warmup_sec, (start_throughput, burst))| Phase {
                warmup_sec,
                start_throughput,
                burst,
                ..phase(duration, target)
            },
        )
    }

    fn arrivals() -> impl Strategy<Value = Arrivals> {
        prop_oneof![Just(Arrivals::Uniform), Just(Arrivals::Poisson)]
    }

    /// A(t) by adding up many small steps, so that it owes nothing to the closed forms.
    fn rows_by_steps(shape: &Shape, until: f64) -> f64 {
        const STEPS: u32 = 20_000;
        let step = until / f64::from(STEPS);
        let middle = |index: u32| Duration::from_secs_f64((f64::from(index) + 0.5) * step);
        (0..STEPS).map(|index| shape.rate_at(middle(index)) * step).sum()
    }

    fn planned(shape: &Shape) -> f64 {
        shape.rows(Window::Warmup) + shape.rows(Window::Measured)
    }

    proptest! {
        #[test]
        fn due_times_rise_and_end_with_the_phase(
            phase in any_phase(), arrivals in arrivals(), batch in 1..50u32, seed in any::<u64>(),
        ) {
            let shape = Shape::new(&phase);
            let total = shape.total();
            let warmup = shape.warmup();
            let mut last = Duration::ZERO;
            for due in Schedule::new(shape, arrivals, batch, 0, 1, seed) {
                prop_assert!(last <= due.due && due.due < total);
                prop_assert_eq!(due.window == Window::Warmup, due.due < warmup);
                last = due.due;
            }
        }

        #[test]
        fn processes_share_what_is_planned(
            phase in any_phase(), batch in 1..50u32, processes in 1..6u32,
        ) {
            let shape = Shape::new(&phase);
            let mut all: Vec<Due> = (0..processes)
                .flat_map(|process| {
                    let shape = shape.clone();
                    Schedule::new(shape, Arrivals::Uniform, batch, process, processes, 42)
                })
                .collect();
            all.sort_by_key(|due| due.sequence);
            let alone: Vec<Due> =
                Schedule::new(shape.clone(), Arrivals::Uniform, batch, 0, 1, 42).collect();
            prop_assert_eq!(&all, &alone);
            prop_assert!(all.iter().enumerate().all(|(at, due)| due.sequence == at as u64));
            let expected = planned(&shape) / f64::from(batch);
            prop_assert!((all.len() as f64 - expected).abs() <= 1.0);
        }

        #[test]
        fn poisson_sequences_never_clash(phase in any_phase(), processes in 1..6u32) {
            let shape = Shape::new(&phase);
            let mut seen = std::collections::BTreeSet::new();
            for process in 0..processes {
                let shape = shape.clone();
                for due in Schedule::new(shape, Arrivals::Poisson, 5, process, processes, 42) {
                    prop_assert!(seen.insert(due.sequence));
                }
            }
        }

        #[test]
        fn due_is_the_inverse_of_rows(phase in any_phase(), share in 0.0..1.0) {
            let shape = Shape::new(&phase);
            let rows = planned(&shape) * share;
            if let Some(due) = shape.due(rows) {
                let due = due.as_secs_f64();
                let warmup = shape.warmup.length;
                let reached = shape.warmup.rows_until(due.min(warmup))
                    + shape.measured.rows_until((due - warmup).max(0.0));
                // A due time is rounded to 1 ns, in which at most 2e-6 rows come.
                prop_assert!((reached - rows).abs() <= 1e-5, "{reached} for {rows}");
            }
        }

        #[test]
        fn planned_rows_are_the_area_under_the_rate(phase in any_phase()) {
            let shape = Shape::new(&phase);
            let total = shape.total().as_secs_f64();
            let steps = rows_by_steps(&shape, total);
            // A step may straddle each edge of a burst: two for every period.
            let edges = phase.burst.as_ref().map_or(1.0, |burst| 2.0 * total / burst.every_sec + 2.0);
            let tolerance = edges * 2_000.0 * total / 20_000.0 + 1e-6;
            prop_assert!((steps - planned(&shape)).abs() <= tolerance);
        }

        #[test]
        fn the_number_of_poisson_arrivals_is_as_planned(
            phase in any_phase(), processes in 1..4u32, seed in any::<u64>(),
        ) {
            let shape = Shape::new(&phase);
            let arrivals: usize = (0..processes)
                .map(|process| {
                    let shape = shape.clone();
                    Schedule::new(shape, Arrivals::Poisson, 2, process, processes, seed).count()
                })
                .sum();
            let expected = planned(&shape) / 2.0;
            // Seven standard deviations, and a few for the smallest counts.
            prop_assert!((arrivals as f64 - expected).abs() <= 7.0 * expected.sqrt() + 7.0);
        }

        #[test]
        fn a_seed_makes_one_schedule(phase in any_phase(), seed in any::<u64>()) {
            let schedule = |process, seed| {
                let shape = Shape::new(&phase);
                Schedule::new(shape, Arrivals::Poisson, 1, process, 2, seed).collect::<Vec<_>>()
            };
            prop_assert_eq!(schedule(0, seed), schedule(0, seed));
            if schedule(0, seed).len() > 5 {
                prop_assert_ne!(schedule(0, seed), schedule(0, seed.wrapping_add(1)));
                let times = |due: Vec<Due>| due.into_iter().map(|due| due.due).collect::<Vec<_>>();
                prop_assert_ne!(times(schedule(0, seed)), times(schedule(1, seed)));
            }
        }
    }
}

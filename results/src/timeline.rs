//! When rows were written and when they were delivered, in steps of time: what stalls and catching up
//! are seen by.

use std::collections::BTreeMap;

use crate::steps::Steps;

/// Rows by step of a phase, warm-up and drain included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    time: Steps,
    steps: BTreeMap<i64, Step>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Step {
    written: u64,
    delivered: u64,
}

/// The longest time in which rows were there and none was delivered, and what it took to make up for
/// it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stall {
    /// How long none was delivered, in seconds.
    pub(crate) sec: f64,
    /// From its end until no more than what was just written was left, in seconds; `None` if that
    /// never was.
    pub(crate) catch_up_sec: Option<f64>,
}

impl Timeline {
    /// Of a phase of this length.
    pub(crate) fn new(length_us: i64) -> Self {
        Self { time: Steps::new(length_us), steps: BTreeMap::new() }
    }

    pub(crate) fn starts(&mut self, start_us: i64) {
        self.time.starts(start_us);
    }

    /// Rows that PostgreSQL acknowledged around this time.
    pub(crate) fn written(&mut self, at_us: i64, rows: u64) {
        self.step(at_us).written += rows;
    }

    /// Rows that the sink acknowledged around this time.
    pub(crate) fn delivered(&mut self, at_us: i64, rows: u64) {
        self.step(at_us).delivered += rows;
    }

    fn step(&mut self, at_us: i64) -> &mut Step {
        self.steps.entry(self.time.number(at_us)).or_default()
    }

    /// The longest stall of two steps or more; each written row is delivered `times` times.
    pub(crate) fn longest_stall(&self, times: u64) -> Option<Stall> {
        let steps = self.backlogs(times);
        let mut longest: Option<(usize, usize)> = None;
        let mut from = 0;
        for (end, step) in steps.iter().enumerate() {
            if step.delivered > 0 || step.backlog == 0 {
                from = end + 1;
                continue;
            }
            let length = end + 1 - from;
            if length >= 2 && longest.is_none_or(|(start, last)| length > last + 1 - start) {
                longest = Some((from, end));
            }
        }
        let (start, last) = longest?;
        let caught_up = steps[last + 1..].iter().position(|step| step.backlog <= step.fresh);
        let sec = |steps: usize| steps as f64 * self.time.step_us as f64 / 1e6;
        Some(Stall { sec: sec(last + 1 - start), catch_up_sec: caught_up.map(|n| sec(n + 1)) })
    }

    /// Every step from the first to the last, also those in which nothing happened.
    fn backlogs(&self, times: u64) -> Vec<Backlog> {
        let (Some((first, _)), Some((last, _))) =
            (self.steps.first_key_value(), self.steps.last_key_value())
        else {
            return Vec::new();
        };
        let (mut written, mut delivered, mut before) = (0, 0, 0);
        let step = |number| {
            let step: Step = self.steps.get(&number).copied().unwrap_or_default();
            let now = step.written * times;
            written += now;
            delivered += step.delivered;
            let fresh = now + std::mem::replace(&mut before, now);
            let backlog = u64::saturating_sub(written, delivered);
            Backlog { backlog, delivered: step.delivered, fresh }
        };
        (*first..=*last).map(step).collect()
    }
}

struct Backlog {
    /// Rows that are written and not delivered at the step's end.
    backlog: u64,
    delivered: u64,
    /// Rows written in this step and the one before.
    fresh: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::STEPS;

    /// Rows written and delivered, second by second.
    fn timeline(seconds: &[(u64, u64)]) -> Timeline {
        let mut timeline = Timeline::new(10_000_000);
        timeline.starts(5);
        for (second, (written, delivered)) in seconds.iter().enumerate() {
            let at_us = 5 + 1_000_000 * second as i64 + 500_000;
            timeline.written(at_us, *written);
            timeline.delivered(at_us, *delivered);
        }
        timeline
    }

    #[test]
    fn what_keeps_up_has_no_stall() {
        assert_eq!(timeline(&[(100, 90), (100, 100), (0, 10), (0, 0)]).longest_stall(1), None);
        // A batch that waits for its age.
        assert_eq!(timeline(&[(100, 0), (100, 150), (0, 50)]).longest_stall(1), None);
        assert_eq!(Timeline::new(1).longest_stall(1), None);
    }

    #[test]
    fn a_stall_is_as_long_as_nothing_came_and_caught_up_when_little_is_left() {
        let seconds =
            [(100, 100), (100, 0), (100, 0), (100, 0), (100, 150), (100, 150), (100, 300)];
        let stall = timeline(&seconds).longest_stall(1).unwrap();
        assert_eq!(stall, Stall { sec: 3.0, catch_up_sec: Some(2.0) });
        let stall = timeline(&seconds[..5]).longest_stall(1).unwrap();
        assert_eq!(stall, Stall { sec: 3.0, catch_up_sec: None });
    }

    #[test]
    fn each_consumer_has_every_row_to_deliver() {
        let seconds = [(100, 200), (100, 100), (0, 0), (0, 0), (0, 100)];
        assert_eq!(timeline(&seconds).longest_stall(1), None);
        let stall = timeline(&seconds).longest_stall(2).unwrap();
        assert_eq!((stall.sec, stall.catch_up_sec), (2.0, Some(1.0)));
    }

    #[test]
    fn a_long_phase_takes_no_more_room() {
        let mut timeline = Timeline::new(86_400_000_000);
        (0..200_000).for_each(|second| timeline.written(second * 1_000_000, 1));
        assert!(timeline.steps.len() as i64 <= 2 * STEPS + 2);
    }
}

//! The schedule of the mock server's faults: which of them are active at a time.
//!
//! A pure function of the plan and of when its phases began.

use crate::plan::{Fault, FaultKind};

/// When phases began, in µs of one clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PhaseStarts {
    /// By the phase's name, in the order in which they came.
    starts: Vec<(String, i64)>,
}

impl PhaseStarts {
    /// A phase begins, now or a little later. One that begins again counts from then.
    pub fn begin(&mut self, phase: &str, start_us: i64) {
        match self.starts.iter_mut().find(|(name, _)| name == phase) {
            Some((_, start)) => *start = start_us,
            None => self.starts.push((phase.to_owned(), start_us)),
        }
    }

    /// Where a fault's time is counted from; `None` as long as that is not known.
    fn origin_us(&self, fault: &Fault) -> Option<i64> {
        let found = match &fault.phase {
            Some(phase) => self.starts.iter().find(|(name, _)| name == phase),
            None => self.starts.first(),
        };
        found.map(|(_, start_us)| *start_us)
    }
}

/// Whether a fault is active: from its beginning on, up to its end and not at it.
#[must_use]
pub fn is_active(fault: &Fault, starts: &PhaseStarts, now_us: i64) -> bool {
    span_us(fault, starts).is_some_and(|(begin, end)| begin <= now_us && now_us < end)
}

/// The next time after this one at which a fault of that kind begins or ends.
#[must_use]
pub fn next_change_us(
    faults: &[Fault],
    kind: FaultKind,
    starts: &PhaseStarts,
    now_us: i64,
) -> Option<i64> {
    let spans = faults.iter().filter(|fault| fault.kind == kind);
    let edges = spans.filter_map(|fault| span_us(fault, starts)).flat_map(|(a, b)| [a, b]);
    edges.filter(|at| *at > now_us && *at < i64::MAX).min()
}

fn span_us(fault: &Fault, starts: &PhaseStarts) -> Option<(i64, i64)> {
    let begin = starts.origin_us(fault)?.saturating_add(us(fault.at_sec));
    let end = fault.for_sec.map_or(i64::MAX, |length| begin.saturating_add(us(length)));
    Some((begin, end))
}

fn us(sec: f64) -> i64 {
    (sec * 1e6).round() as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(phase: Option<&str>, at_sec: f64, for_sec: Option<f64>) -> Fault {
        Fault { phase: phase.map(Into::into), at_sec, for_sec, ..Fault::new(FaultKind::Outage) }
    }

    fn two_phases() -> PhaseStarts {
        let mut starts = PhaseStarts::default();
        starts.begin("one", 1_000_000);
        starts.begin("two", 61_000_000);
        starts
    }

    #[test]
    fn a_fault_is_active_from_its_beginning_up_to_its_end() {
        let starts = two_phases();
        let fault = fault(None, 2.0, Some(3.0));
        for (now_us, expected) in [
            (0, false),
            (2_999_999, false),
            (3_000_000, true),
            (5_999_999, true),
            (6_000_000, false),
        ] {
            assert_eq!(is_active(&fault, &starts, now_us), expected, "{now_us}");
        }
    }

    #[test]
    fn its_time_is_counted_from_its_phase() {
        let starts = two_phases();
        let of_two = fault(Some("two"), 1.5, None);
        assert!(!is_active(&of_two, &starts, 62_499_999));
        assert!(is_active(&of_two, &starts, 62_500_000));
        assert!(is_active(&of_two, &starts, i64::MAX - 1), "it has no end");
        assert!(!is_active(&fault(Some("three"), 0.0, None), &starts, i64::MAX - 1));
        assert!(!is_active(&of_two, &PhaseStarts::default(), i64::MAX - 1));
    }

    #[test]
    fn a_phase_that_begins_again_counts_from_then() {
        let mut starts = two_phases();
        starts.begin("one", 100_000_000);
        assert!(!is_active(&fault(None, 0.0, None), &starts, 99_999_999));
    }

    proptest! {
        /// Between two changes nothing changes.
        #[test]
        fn changes_are_told_beforehand(
            spans in prop::collection::vec((0u32..50, prop::option::of(1u32..50), any::<bool>()), 0..6),
            now in 0i64..200,
        ) {
            let faults: Vec<Fault> = spans
                .iter()
                .map(|(at, length, second)| {
                    fault(second.then_some("two"), f64::from(*at), length.map(f64::from))
                })
                .collect();
            let starts = two_phases();
            let active = |us| -> Vec<bool> {
                faults.iter().map(|fault| is_active(fault, &starts, us)).collect()
            };
            let now_us = now * 1_000_000;
            match next_change_us(&faults, FaultKind::Outage, &starts, now_us) {
                Some(next) => {
                    prop_assert!(next > now_us);
                    prop_assert_eq!(active(next - 1), active(now_us));
                    let edges = |us| faults.iter().filter_map(|f| span_us(f, &starts)).any(|(a, b)| a == us || b == us);
                    prop_assert!(edges(next));
                }
                None => prop_assert_eq!(active(now_us), active(i64::MAX - 1)),
            }
        }
    }
}

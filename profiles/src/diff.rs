//! What changed between two profiles: CPU time for each row, function by function.

use std::collections::{BTreeMap, BTreeSet};

use crate::formats::folded::from_ours;

/// How many standard errors a change must be away from none: by chance one function of 400 is. Many
/// functions are looked at.
const STANDARD_ERRORS: f64 = 3.0;

/// A change that is smaller than this share of all CPU time is of no interest, however sure it is.
const SMALLEST_SHARE: f64 = 0.005;

/// One of two profiles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Side {
    /// Folded stacks with their CPU time in ns.
    pub stacks: BTreeMap<String, u64>,
    /// Samples that they were found by.
    pub samples: u64,
    /// Rows that the time was spent on.
    pub rows: u64,
}

/// A line that is no folded stack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is no stack with its CPU time")]
pub struct FoldedError {
    /// The line's number, from 1.
    pub line: usize,
}

impl Side {
    /// Adds folded stacks ([`crate::formats::folded`]), without what begins each thread.
    ///
    /// # Errors
    ///
    /// The text is something else.
    pub fn add(&mut self, folded: &str) -> Result<(), FoldedError> {
        for (n, line) in folded.lines().enumerate() {
            let read = || {
                let (stack, ns) = line.rsplit_once(' ')?;
                Some((stack, ns.parse::<u64>().ok()?))
            };
            let (stack, ns) = read().ok_or(FoldedError { line: n + 1 })?;
            let functions: Vec<&str> = stack.split(';').collect();
            // Process and thread lead.
            let (of, functions) = functions.split_at(functions.len().min(2));
            let stack = [of, from_ours(functions)].concat().join(";");
            *self.stacks.entry(stack).or_default() += ns;
        }
        Ok(())
    }

    /// CPU time for each row, in ns.
    #[must_use]
    pub fn ns_per_row(&self) -> f64 {
        self.per_row(self.cpu_ns())
    }

    fn cpu_ns(&self) -> u64 {
        self.stacks.values().sum()
    }

    fn per_row(&self, ns: u64) -> f64 {
        ns as f64 / self.rows.max(1) as f64
    }

    /// Each function with all it calls: its CPU time in ns, once for each stack that it is in, and how
    /// deep it is at most.
    fn inclusive(&self) -> BTreeMap<&str, (u64, usize)> {
        let mut times: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
        for (stack, ns) in &self.stacks {
            let depths: BTreeMap<&str, usize> = stack.split(';').zip(0..).collect();
            for (function, depth) in depths {
                let (time, deepest) = times.entry(function).or_default();
                *time += ns;
                *deepest = depth.max(*deepest);
            }
        }
        times
    }

    /// The standard error of a function's time for each row: that of counting samples.
    fn standard_error(&self, ns: u64) -> f64 {
        let share = ns as f64 / self.cpu_ns().max(1) as f64;
        self.ns_per_row() * (share * (1.0 - share) / self.samples.max(1) as f64).sqrt()
    }
}

/// A function in both profiles, with all it calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The function.
    pub function: String,
    /// CPU time for each row before, in ns.
    pub before_ns: f64,
    /// The same after.
    pub after_ns: f64,
    /// How far the change may be off, up or down, by the samples alone and with 95 % certainty, in ns.
    pub margin_ns: f64,
    /// How many functions call it, at most.
    pub depth: usize,
    /// It is no chance of the samples, and large enough to be of interest.
    pub is_significant: bool,
}

impl Change {
    /// The change, in ns for each row.
    #[must_use]
    pub fn ns(&self) -> f64 {
        self.after_ns - self.before_ns
    }
}

/// Functions that changed, each one without those that do nothing but call it: they have its numbers.
#[must_use]
pub fn innermost(changes: &[Change]) -> Vec<&Change> {
    let mut deepest: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    let key = |change: &Change| (change.before_ns.to_bits(), change.after_ns.to_bits());
    for change in changes {
        let depth = deepest.entry(key(change)).or_default();
        *depth = change.depth.max(*depth);
    }
    let is_innermost = |change: &&Change| deepest.get(&key(change)) == Some(&change.depth);
    changes.iter().filter(is_innermost).filter(|change| change.is_significant).collect()
}

/// All functions of both profiles, those with the largest changes first.
#[must_use]
pub fn changes(before: &Side, after: &Side) -> Vec<Change> {
    let times = [before.inclusive(), after.inclusive()];
    let functions: BTreeSet<&str> = times.iter().flat_map(BTreeMap::keys).copied().collect();
    let smallest = SMALLEST_SHARE * before.ns_per_row().max(after.ns_per_row());
    let change = |function: &str| {
        let [was, is] = [&times[0], &times[1]].map(|times| times.get(function).copied());
        let ((was, was_at), (is, is_at)) = (was.unwrap_or_default(), is.unwrap_or_default());
        let error = before.standard_error(was).hypot(after.standard_error(is));
        let (before_ns, after_ns) = (before.per_row(was), after.per_row(is));
        let size = (after_ns - before_ns).abs();
        Change {
            function: function.into(),
            before_ns,
            after_ns,
            margin_ns: 1.96 * error,
            depth: was_at.max(is_at),
            is_significant: size > STANDARD_ERRORS * error && size >= smallest,
        }
    };
    let mut changes: Vec<Change> = functions.into_iter().map(change).collect();
    changes.sort_by(|a, b| b.ns().abs().total_cmp(&a.ns().abs()).then(a.function.cmp(&b.function)));
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn side(folded: &str, samples: u64, rows: u64) -> Side {
        let mut side = Side { samples, rows, ..Side::default() };
        side.add(folded).unwrap();
        side
    }

    #[test]
    fn changes_are_by_row_and_with_all_that_is_called() {
        let before = side("a;b;c 8000\na;d 2000\n", 1_000, 10);
        // Twice the rows: b is as it was, d takes three times as long.
        let after = side("a;b;c 16000\na;d 12000\na;d;a 0\n", 1_000, 20);
        let changes = changes(&before, &after);
        let of = |name: &str| changes.iter().find(|change| change.function == name).unwrap();
        assert_eq!((of("d").before_ns, of("d").after_ns), (200.0, 600.0));
        assert_eq!((of("b").ns(), of("c").ns()), (0.0, 0.0));
        // In a stack that it is in twice it counts once.
        assert_eq!((of("a").before_ns, of("a").after_ns), (1_000.0, 1_400.0));
        assert!(of("d").is_significant && of("a").is_significant && !of("b").is_significant);
        assert_eq!(changes[0].function, "a");
    }

    #[test]
    fn callers_with_the_same_numbers_are_left_out() {
        let before = side("p;t;run;step;work 9000\np;t;run;idle 1000", 1_000, 10);
        let after = side("p;t;run;step;work 4000\np;t;run;idle 1000", 1_000, 10);
        let changes = changes(&before, &after);
        let names: Vec<_> = innermost(&changes).iter().map(|it| it.function.as_str()).collect();
        assert_eq!(names, ["run", "work"]);
    }

    #[test]
    fn few_samples_make_nothing_significant() {
        let (before, after) = ("a;b 5000\na;c 5000", "a;b 6000\na;c 4000");
        let b = |samples| {
            let all = changes(&side(before, samples, 10), &side(after, samples, 10));
            all.into_iter().find(|change| change.function == "b").unwrap()
        };
        assert!(!b(50).is_significant && b(5_000).is_significant);
        assert!(b(50).margin_ns > 9.0 * b(5_000).margin_ns);
    }

    #[test]
    fn what_is_no_folded_text_is_refused_by_its_line() {
        let mut side = Side::default();
        assert_eq!(side.add("a;b 1\nc\n").unwrap_err(), FoldedError { line: 2 });
        assert_eq!(side.add("a;b -1\n").unwrap_err(), FoldedError { line: 1 });
    }

    proptest! {
        #[test]
        fn a_profile_does_not_differ_from_itself(
            stacks in prop::collection::btree_map("[a-d](;[a-d]){0,3}", 0_u64..1_000_000, 1..9),
            samples in 1_u64..10_000,
            rows in 1_u64..1_000,
        ) {
            let side = Side { stacks, samples, rows };
            for change in changes(&side, &side) {
                prop_assert_eq!(change.ns(), 0.0);
                prop_assert!(!change.is_significant);
            }
        }
    }
}

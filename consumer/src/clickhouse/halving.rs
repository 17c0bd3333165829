//! Which rows of a batch a server does not take: found by halves, while the others are written.

use std::ops::Range;

/// Ranges of rows that are still to be written, in order.
#[derive(Debug)]
pub(super) struct Halving {
    /// The next is the last.
    left: Vec<Range<usize>>,
}

impl Halving {
    /// Of so many rows together some are refused.
    pub(super) fn new(rows: usize) -> Self {
        let mut halving = Self { left: Vec::new() };
        // A single one is tried once more: what was wrong may have been the way to the server.
        if halving.refused(0..rows).is_some() {
            halving.left.push(0..rows);
        }
        halving
    }

    /// The rows to try next.
    pub(super) fn next(&mut self) -> Option<Range<usize>> {
        self.left.pop()
    }

    /// Those are refused together. Returns the one that is to blame, if it is clear.
    pub(super) fn refused(&mut self, rows: Range<usize>) -> Option<usize> {
        if rows.len() == 1 {
            return Some(rows.start);
        }
        let middle = rows.start + rows.len() / 2;
        let halves = [middle..rows.end, rows.start..middle];
        self.left.extend(halves.into_iter().filter(|half| !half.is_empty()));
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bad_rows_are_found_and_the_others_written_once(
            rows in 0usize..200, bad in prop::collection::btree_set(0usize..200, 1..6),
        ) {
            let bad: BTreeSet<_> = bad.into_iter().filter(|row| *row < rows).collect();
            let (mut halving, mut tries) = (Halving::new(rows), 0);
            let (mut written, mut blamed) = (Vec::new(), Vec::new());
            while let Some(range) = halving.next() {
                tries += 1;
                match range.clone().any(|row| bad.contains(&row)) {
                    true => blamed.extend(halving.refused(range)),
                    false => written.extend(range),
                }
            }
            prop_assert_eq!(blamed, Vec::from_iter(bad.iter().copied()));
            prop_assert_eq!(written, Vec::from_iter((0..rows).filter(|row| !bad.contains(row))));
            // Two for each of at most eight times that a bad row's range is halved.
            prop_assert!(tries <= 2 + 2 * 8 * bad.len(), "{} tries", tries);
        }
    }
}

//! The rows that are known to be in a table.

use super::draw::Draw;

/// Row counts k that PostgreSQL acknowledged, as ranges: a run without failures is one range
/// however long it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// First and one past the last, ascending, never touching.
    ranges: Vec<(u64, u64)>,
    count: u64,
}

impl Written {
    /// Adds `count` rows from `first`. They must not be there yet.
    pub fn add(&mut self, first: u64, count: u64) {
        if count == 0 {
            return;
        }
        let (mut start, mut end) = (first, first + count);
        // Rows are acknowledged nearly in order, so the place is nearly always at the back.
        let mut at = self.ranges.len();
        while at > 0 && self.ranges[at - 1].0 > start {
            at -= 1;
        }
        if at < self.ranges.len() && self.ranges[at].0 == end {
            end = self.ranges.remove(at).1;
        }
        if at > 0 && self.ranges[at - 1].1 == start {
            start = self.ranges[at - 1].0;
            at -= 1;
            self.ranges.remove(at);
        }
        self.ranges.insert(at, (start, end));
        self.count += count;
    }

    /// Rows in all.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Puts `count` different rows into `out`, ascending, each set of rows as likely as any other;
    /// all rows when there are no more than that.
    pub fn choose(&self, count: u64, draw: &mut Draw, out: &mut Vec<u64>) {
        out.clear();
        if count.saturating_mul(2) > self.count {
            self.choose_most(count.min(self.count), draw, out);
        } else {
            distinct(self.count, count, draw, out);
        }
        self.places_to_rows(out);
    }

    /// When most are chosen, those that are left out are drawn instead: drawing until all are
    /// different would not end.
    fn choose_most(&self, count: u64, draw: &mut Draw, out: &mut Vec<u64>) {
        let mut left_out = Vec::new();
        distinct(self.count, self.count - count, draw, &mut left_out);
        let mut left_out = left_out.into_iter().peekable();
        out.extend((0..self.count).filter(|place| left_out.next_if_eq(place).is_none()));
    }

    /// Turns places among all rows, ascending, into the rows at those places.
    fn places_to_rows(&self, places: &mut [u64]) {
        let mut ranges = self.ranges.iter();
        let (mut before, mut range) = (0, ranges.next());
        for place in places {
            while let Some((first, end)) = range {
                if *place < before + (end - first) {
                    *place = first + (*place - before);
                    break;
                }
                before += end - first;
                range = ranges.next();
            }
        }
    }
}

/// `count` different numbers below `bound`, ascending.
fn distinct(bound: u64, count: u64, draw: &mut Draw, out: &mut Vec<u64>) {
    while (out.len() as u64) < count {
        for _ in 0..count - out.len() as u64 {
            out.push(draw.below(bound));
        }
        out.sort_unstable();
        out.dedup();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn written(blocks: &[(u64, u64)]) -> Written {
        let mut written = Written::default();
        for &(first, count) in blocks {
            written.add(first, count);
        }
        written
    }

    proptest! {
        #[test]
        fn chosen_rows_are_different_and_there(
            sizes in prop::collection::vec((0u64..5, 1u64..9), 1..30),
            order: u64, count in 0u64..200, seed: u64,
        ) {
            let mut next = 0;
            let mut blocks: Vec<(u64, u64)> = sizes
                .into_iter()
                .map(|(gap, size)| { next += gap + size; (next - size, size) })
                .collect();
            let length = blocks.len();
            blocks.rotate_left(order as usize % length);
            let all: BTreeSet<u64> = blocks.iter().flat_map(|(f, c)| *f..f + c).collect();
            let written = written(&blocks);
            prop_assert_eq!(written.len(), all.len() as u64);
            let mut rows = Vec::new();
            written.choose(count, &mut Draw::new(seed), &mut rows);
            prop_assert_eq!(rows.len() as u64, count.min(written.len()));
            prop_assert!(rows.is_sorted_by(|a, b| a < b));
            prop_assert!(rows.iter().all(|row| all.contains(row)));
        }
    }

    #[test]
    fn what_touches_becomes_one() {
        assert_eq!(written(&[(10, 5), (0, 5), (5, 5), (15, 1)]).ranges, [(0, 16)]);
        assert_eq!(written(&[(10, 5), (0, 5)]).ranges, [(0, 5), (10, 15)]);
    }

    #[test]
    fn every_row_is_as_likely_as_any_other() {
        let written = written(&[(0, 10), (100, 30)]);
        let mut draw = Draw::new(1);
        let mut hits = std::collections::BTreeMap::<u64, u32>::new();
        let mut rows = Vec::new();
        for count in [3, 35] {
            for _ in 0..10_000 {
                written.choose(count, &mut draw, &mut rows);
                for row in &rows {
                    *hits.entry(*row).or_default() += 1;
                }
            }
        }
        let expected = 10_000 * 38 / 40;
        assert_eq!(hits.len(), 40);
        assert!(hits.values().all(|h| h.abs_diff(expected) < expected / 10), "{hits:?}");
    }
}

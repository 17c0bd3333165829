//! Both sides' records, held against each other key by key.

use std::io;

use serde::Serialize;

use super::record::{GONE, Hash, Record};
use super::sorter::Sorted;

/// How ClickHouse's final state of a row differs from PostgreSQL's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// PostgreSQL has the row, and ClickHouse has nothing, or its end as the newest.
    Missing,
    /// ClickHouse has the row, and PostgreSQL has not.
    Extra,
    /// ClickHouse has an older state of the row.
    Stale,
    /// ClickHouse has another state of the row, and nothing says that it is an older one.
    Wrong,
    /// ClickHouse has several states of the row under its newest version: which of them is read is
    /// left to chance.
    Conflicting,
}

impl Class {
    pub(super) const ALL: [Self; 5] =
        [Self::Missing, Self::Extra, Self::Stale, Self::Wrong, Self::Conflicting];
}

/// What there is of a table on both sides, and how it compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Rows in PostgreSQL.
    pub postgres_rows: u64,
    /// Rows that are there in ClickHouse's final state.
    pub clickhouse_rows: u64,
    /// Row versions that ClickHouse stores, tombstones and what is superseded included.
    pub stored_versions: u64,
    /// Row versions of those that say that a row is gone.
    pub tombstones: u64,
    /// Rows that are the same on both sides.
    pub matched: u64,
    /// See [`Class::Missing`].
    pub missing: u64,
    /// See [`Class::Extra`].
    pub extra: u64,
    /// See [`Class::Stale`].
    pub stale: u64,
    /// See [`Class::Wrong`].
    pub wrong: u64,
    /// See [`Class::Conflicting`].
    pub conflicting: u64,
    /// Row versions that are stored once more though they are there already: replays, which change
    /// nothing. In a table without a key, only where there is a row too many.
    pub duplicated: u64,
}

impl Counts {
    /// Rows that differ.
    #[must_use]
    pub fn differing(&self) -> u64 {
        let Self { missing, extra, stale, wrong, conflicting, .. } = self;
        missing + extra + stale + wrong + conflicting
    }

    fn count(&mut self, class: Class, rows: u64) {
        *match class {
            Class::Missing => &mut self.missing,
            Class::Extra => &mut self.extra,
            Class::Stale => &mut self.stale,
            Class::Wrong => &mut self.wrong,
            Class::Conflicting => &mut self.conflicting,
        } += rows;
    }
}

/// A key whose states differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Differing {
    pub(super) class: Class,
    /// PostgreSQL's row.
    pub(super) here: Option<Record>,
    /// ClickHouse's newest version of it.
    pub(super) there: Option<Record>,
    /// The newest version there, older than that, under which PostgreSQL's state is stored. Without a
    /// key: of a tombstone of such a row.
    pub(super) same_below: Option<u64>,
    /// How many rows; more than one only where there is no key.
    pub(super) rows: u64,
}

impl Differing {
    /// Hash of the key.
    pub(super) fn key(&self) -> Hash {
        self.here.or(self.there).map_or(GONE, |record| record.key)
    }
}

/// Compares all records of both sides, in their order; differing keys go to `each`.
///
/// # Errors
/// Those of the records.
pub(super) fn compare(
    here: Sorted,
    there: Sorted,
    has_key: bool,
    mut each: impl FnMut(Differing),
) -> io::Result<Counts> {
    let (mut here, mut there) = (Side::new(here)?, Side::new(there)?);
    let mut counts = Counts::default();
    let next_key = |here: &Side, there: &Side| {
        here.head.into_iter().chain(there.head).map(|record| record.key).min()
    };
    while let Some(key) = next_key(&here, &there) {
        let differing = match has_key {
            true => one_key(key, &mut here, &mut there, &mut counts)?,
            false => equal_rows(key, &mut here, &mut there, &mut counts)?,
        };
        for differing in differing.into_iter().flatten() {
            counts.count(differing.class, differing.rows);
            each(differing);
        }
    }
    Ok(counts)
}

/// A side's records, with a look at the next one.
struct Side {
    head: Option<Record>,
    records: Sorted,
}

impl Side {
    fn new(mut records: Sorted) -> io::Result<Self> {
        Ok(Self { head: records.next()?, records })
    }

    /// The next record of this key.
    fn take(&mut self, key: Hash) -> io::Result<Option<Record>> {
        match self.head {
            Some(record) if record.key == key => {
                self.head = self.records.next()?;
                Ok(Some(record))
            }
            _ => Ok(None),
        }
    }
}

/// A row, and its versions. A second row of the same key is one that can't be there as well.
fn one_key(
    key: Hash,
    here: &mut Side,
    there: &mut Side,
    counts: &mut Counts,
) -> io::Result<[Option<Differing>; 2]> {
    let row = here.take(key)?;
    let mut more_rows = 0;
    while here.take(key)?.is_some() {
        more_rows += 1;
    }
    counts.postgres_rows += u64::from(row.is_some()) + more_rows;
    let mut versions = Versions::of(row);
    while let Some(version) = there.take(key)? {
        versions.add(version, counts);
    }
    let is_live = versions.newest.is_some_and(|newest| !newest.is_gone());
    counts.clickhouse_rows += u64::from(is_live);
    let differing = versions.differing(row);
    counts.matched += u64::from(row.is_some() && differing.is_none());
    let more = Differing {
        class: Class::Missing,
        here: row,
        there: None,
        same_below: None,
        rows: more_rows,
    };
    Ok([differing, (more_rows > 0).then_some(more)])
}

/// The versions of a row, from the oldest on.
struct Versions {
    /// What the newest one should say.
    wanted: Hash,
    /// The newest one; if it says several things, one that it should not.
    newest: Option<Record>,
    is_tied: bool,
    /// The newest one says what it should, whatever else it says.
    is_met: bool,
    same_below: Option<u64>,
    last: Option<Record>,
}

impl Versions {
    fn of(row: Option<Record>) -> Self {
        let wanted = row.map_or(GONE, |row| row.values);
        let (newest, is_tied, is_met, same_below, last) = (None, false, false, None, None);
        Self { wanted, newest, is_tied, is_met, same_below, last }
    }

    fn add(&mut self, version: Record, counts: &mut Counts) {
        counts.stored_versions += 1;
        counts.tombstones += u64::from(version.is_gone());
        let is_wanted = version.values == self.wanted;
        match self.newest {
            Some(newest) if newest.version == version.version => {
                if self.last.is_some_and(|last| last.values == version.values) {
                    counts.duplicated += 1;
                    return;
                }
                self.is_tied = true;
                if !is_wanted {
                    self.newest = Some(version);
                }
                self.is_met |= is_wanted;
            }
            older => {
                if self.is_met {
                    self.same_below = older.map(|older| older.version);
                }
                (self.newest, self.is_tied, self.is_met) = (Some(version), false, is_wanted);
            }
        }
        self.last = Some(version);
    }

    fn differing(&self, row: Option<Record>) -> Option<Differing> {
        let Self { wanted, newest, is_tied, same_below, .. } = *self;
        let is_as_wanted = newest.map_or(GONE, |newest| newest.values) == wanted;
        let class = match (row, newest) {
            _ if is_tied => Class::Conflicting,
            _ if is_as_wanted => return None,
            (Some(_), None) => Class::Missing,
            (Some(_), Some(newest)) if newest.is_gone() => Class::Missing,
            (None, _) => Class::Extra,
            (Some(row), Some(newest)) if same_below.is_some() || newest.clock < row.clock => {
                Class::Stale
            }
            (Some(_), Some(_)) => Class::Wrong,
        };
        Some(Differing { class, here: row, there: newest, same_below, rows: 1 })
    }
}

/// Rows of a table without a key that are the same: how many there are on either side.
fn equal_rows(
    key: Hash,
    here: &mut Side,
    there: &mut Side,
    counts: &mut Counts,
) -> io::Result<[Option<Differing>; 2]> {
    let (mut row, mut rows) = (None, 0);
    while let Some(record) = here.take(key)? {
        (row, rows) = (Some(record), rows + 1);
    }
    let (mut newest, mut gone, mut live, mut repeated): (Option<Record>, _, _, _) =
        (None, None, 0, 0);
    while let Some(record) = there.take(key)? {
        counts.stored_versions += 1;
        if record.is_gone() {
            counts.tombstones += 1;
            gone = Some(record.version);
            continue;
        }
        live += 1;
        repeated += u64::from(newest.is_some_and(|newest| newest.version == record.version));
        newest = Some(record);
    }
    counts.postgres_rows += rows;
    counts.clickhouse_rows += live;
    counts.matched += rows.min(live);
    let (class, surplus) = match live > rows {
        true => (Class::Extra, live - rows),
        false => (Class::Missing, rows - live),
    };
    if class == Class::Extra {
        counts.duplicated += repeated.min(surplus);
    }
    let differing = Differing { class, here: row, there: newest, same_below: gone, rows: surplus };
    Ok([(surplus > 0).then_some(differing), None])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::verify::record::RECORD_BYTES;
    use crate::verify::sorter::Sorter;

    fn record(key: u64, version: u64, values: u64, clock: i64) -> Record {
        Record { key: [key, 0], version, values: [values, values], clock }
    }

    fn compared(
        here: &[Record],
        there: &[Record],
        has_key: bool,
        memory_records: usize,
    ) -> (Counts, Vec<Differing>) {
        let sorted = |records: &[Record]| {
            let mut sorter = Sorter::new((memory_records * RECORD_BYTES) as u64);
            records.iter().for_each(|record| sorter.push(*record).unwrap());
            sorter.sorted().unwrap()
        };
        let mut found = Vec::new();
        let each = |differing| found.push(differing);
        let counts = compare(sorted(here), sorted(there), has_key, each).unwrap();
        (counts, found)
    }

    /// The classes of what differs, and the counts, where one key is like this.
    fn of_key(here: Option<Record>, there: &[Record]) -> (Vec<Class>, Counts) {
        let here: Vec<_> = here.into_iter().collect();
        let (counts, found) = compared(&here, there, true, 100);
        (found.iter().map(|differing| differing.class).collect(), counts)
    }

    #[test]
    fn what_a_key_is_depends_on_its_newest_version() {
        let row = Some(record(1, 0, 7, 50));
        let version = |version, values| record(1, version, values, 50);
        let gone = |version| Record { values: GONE, clock: i64::MIN, ..record(1, version, 0, 0) };
        for (here, there, expected) in [
            (row, vec![version(5, 7)], None),
            (row, vec![version(4, 8), gone(5), version(6, 7)], None),
            (None, vec![version(4, 8), gone(5)], None),
            (None, vec![gone(5)], None),
            (row, vec![], Some(Class::Missing)),
            (row, vec![version(4, 7), gone(5)], Some(Class::Missing)),
            (None, vec![version(4, 7)], Some(Class::Extra)),
            (None, vec![gone(4), version(5, 7)], Some(Class::Extra)),
            (row, vec![version(4, 7), version(5, 8)], Some(Class::Stale)),
            (row, vec![record(1, 5, 8, 49)], Some(Class::Stale)),
            (row, vec![version(5, 8)], Some(Class::Wrong)),
            (row, vec![record(1, 5, 8, 51)], Some(Class::Wrong)),
            (row, vec![version(5, 7), version(5, 8)], Some(Class::Conflicting)),
            (row, vec![version(5, 7), gone(5)], Some(Class::Conflicting)),
            // What is superseded may be what it likes: a copy that was resumed brings that.
            (row, vec![version(4, 9), version(4, 8), version(5, 7)], None),
        ] {
            let (classes, counts) = of_key(here, &there);
            assert_eq!(classes, Vec::from_iter(expected), "{here:?} {there:?}");
            assert_eq!(counts.stored_versions, there.len() as u64);
        }
    }

    #[test]
    fn replays_are_counted_and_change_nothing() {
        let version = |version, values| record(1, version, values, 0);
        let there = [version(5, 7), version(5, 7), version(4, 8), version(4, 8), version(5, 7)];
        let (classes, counts) = of_key(Some(record(1, 0, 7, 0)), &there);
        assert_eq!((classes, counts.duplicated, counts.matched), (vec![], 3, 1));
    }

    #[test]
    fn of_a_conflict_the_value_is_named_that_is_not_the_right_one() {
        for right in [6, 7, 8] {
            let there = [6, 7, 8].map(|values| record(1, 5, values, 0));
            let (_, found) = compared(&[record(1, 0, right, 0)], &there, true, 100);
            assert_ne!(found[0].there.unwrap().values, [right, right]);
        }
    }

    #[test]
    fn equal_rows_without_a_key_are_counted() {
        let row = |version| record(3, version, 3, 0);
        let count = |here: usize, there: &[Record]| {
            let (counts, found) = compared(&vec![row(0); here], there, false, 100);
            (counts.matched, counts.missing, counts.extra, counts.duplicated, found.len())
        };
        assert_eq!(count(2, &[row(5), row(6)]), (2, 0, 0, 0, 0));
        // Rows of one COPY have one position.
        assert_eq!(count(2, &[row(5), row(5)]), (2, 0, 0, 0, 0));
        assert_eq!(count(2, &[row(5)]), (1, 1, 0, 0, 1));
        assert_eq!(count(1, &[row(5), row(5), row(6)]), (1, 0, 2, 1, 1));
        let gone = Record { values: GONE, ..row(9) };
        assert_eq!(count(1, &[row(5), row(6), gone]), (1, 0, 1, 0, 1));
    }

    /// How often a value is stored under a version, and the row's clock.
    type Stored = BTreeMap<Hash, (u64, i64)>;

    /// The same over maps, as slowly as it likes.
    fn model(here: &BTreeMap<u64, (u64, i64)>, there: &[Record]) -> Counts {
        let mut counts = Counts { postgres_rows: here.len() as u64, ..Counts::default() };
        let mut versions: BTreeMap<u64, BTreeMap<u64, Stored>> = BTreeMap::new();
        for record in there {
            let of_key = versions.entry(record.key[0]).or_default();
            let values = of_key.entry(record.version).or_default();
            values.entry(record.values).or_insert((0, record.clock)).0 += 1;
            counts.stored_versions += 1;
            counts.tombstones += u64::from(record.is_gone());
        }
        for values in versions.values().flat_map(BTreeMap::values) {
            counts.duplicated += values.values().map(|(times, _)| times - 1).sum::<u64>();
        }
        let keys: std::collections::BTreeSet<_> = here.keys().chain(versions.keys()).collect();
        for key in keys {
            let wanted = here.get(key);
            let wanted_values = wanted.map_or(GONE, |(values, _)| [*values, *values]);
            let all = versions.get(key).cloned().unwrap_or_default();
            let newest = all.last_key_value().map(|(_, values)| values.clone()).unwrap_or_default();
            let is_below = all.values().rev().skip(1).any(|v| v.contains_key(&wanted_values));
            let (values, clock) =
                newest.iter().next().map_or((GONE, i64::MIN), |(v, (_, clock))| (*v, *clock));
            if newest.len() > 1 {
                counts.conflicting += 1;
                continue;
            }
            counts.clickhouse_rows += u64::from(values != GONE);
            *match wanted {
                Some(_) if values == wanted_values => &mut counts.matched,
                None if values == GONE => continue,
                None => &mut counts.extra,
                Some(_) if values == GONE => &mut counts.missing,
                Some((_, at)) if is_below || clock < *at => &mut counts.stale,
                Some(_) => &mut counts.wrong,
            } += 1;
        }
        counts
    }

    proptest! {
        #[test]
        fn memory_and_file_compare_as_maps_do(
            here in prop::collection::btree_map(0u64..40, (1u64..4, 0i64..3), 0..40),
            there in prop::collection::vec((0u64..40, 0u64..5, 0u64..4), 0..300),
            memory_records in 1usize..200,
        ) {
            let clock = |values: u64| if values == 0 { i64::MIN } else { values as i64 };
            let there: Vec<_> = there
                .into_iter()
                .map(|(key, version, values)| record(key, version, values, clock(values)))
                .collect();
            let rows: Vec<_> =
                here.iter().map(|(key, (values, at))| record(*key, 0, *values, *at)).collect();
            let (mut counts, found) = compared(&rows, &there, true, 10_000);
            prop_assert_eq!(&compared(&rows, &there, true, memory_records), &(counts, found.clone()));
            prop_assert_eq!(found.len() as u64, counts.differing());
            // Of a conflict, whether there is a row is left to chance.
            let tied = found.iter().filter(|differing| differing.class == Class::Conflicting);
            let tied = tied.filter(|differing| !differing.there.unwrap().is_gone()).count();
            counts.clickhouse_rows -= tied as u64;
            prop_assert_eq!(counts, model(&here, &there));
        }

        #[test]
        fn without_a_key_all_rows_are_accounted_for(
            here in prop::collection::vec(1u64..10, 0..50),
            there in prop::collection::vec((1u64..10, 0u64..5), 0..50),
            memory_records in 1usize..40,
        ) {
            let there: Vec<_> = there.into_iter().map(|(v, at)| record(v, at, v, 0)).collect();
            let here: Vec<_> = here.into_iter().map(|v| record(v, 0, v, 0)).collect();
            let (counts, _) = compared(&here, &there, false, memory_records);
            prop_assert_eq!(counts.matched + counts.missing, here.len() as u64);
            prop_assert_eq!(counts.matched + counts.extra, there.len() as u64);
            let number = |rows: &[Record], v| rows.iter().filter(|row| row.key[0] == v).count();
            let matched: usize = (1..10).map(|v| number(&here, v).min(number(&there, v))).sum();
            prop_assert_eq!(counts.matched, matched as u64);
        }
    }
}

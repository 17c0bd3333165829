//! What is kept of a row for the comparison: of fixed size, whatever the row's.

use cityhash_rs::cityhash_102_128;

use crate::rowbinary::{Codec, NotRows, Table};

/// A hash of 128 bits, in halves: so a [`Record`] has no padding.
pub(super) type Hash = [u64; 2];

/// What the values of a deleted row hash to: it has none.
pub(super) const GONE: Hash = [0, 0];

/// A row version. Records are in the order of their keys, and those of a key in that of their
/// versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Record {
    /// Hash of the key; of all values where the table has no key.
    pub(super) key: Hash,
    /// `_version`; none of a row of PostgreSQL's.
    pub(super) version: u64,
    /// Hash of the values that are compared.
    pub(super) values: Hash,
    /// The greatest of its timestamps, in µs since 1970; the least number where it has none.
    pub(super) clock: i64,
}

/// Bytes of a record in a file.
pub(super) const RECORD_BYTES: usize = 48;

impl Record {
    /// What it says is that the row is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.values == GONE
    }

    pub(super) fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let Self { key: [k1, k2], version, values: [v1, v2], clock } = self;
        let mut bytes = [0; RECORD_BYTES];
        let words = [k1, k2, version, v1, v2, clock.cast_unsigned()];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Self {
        let mut words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let [k1, k2, version, v1, v2, clock] = std::array::from_fn(|_| words.next().unwrap_or(0));
        Self { key: [k1, k2], version, values: [v1, v2], clock: clock.cast_signed() }
    }
}

/// Makes records of a side's encoded rows.
#[derive(Debug)]
pub(super) struct Recorder {
    table: Table,
    has_key: bool,
    /// Which of the columns are compared.
    compared: Vec<bool>,
    compares_all: bool,
    key: Vec<u8>,
    values: Vec<u8>,
}

impl Recorder {
    /// Of rows of this table, as far as their columns are compared.
    pub(super) fn new(table: Table, compared: Vec<bool>) -> Self {
        let (has_key, compares_all) = (table.has_key(), compared.iter().all(|compared| *compared));
        Self { table, has_key, compared, compares_all, key: Vec::new(), values: Vec::new() }
    }

    /// The rows' table.
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// The record of the row that the bytes begin with, and the row's length.
    ///
    /// # Errors
    /// They don't begin with one.
    #[inline]
    pub(super) fn record(&mut self, bytes: &[u8]) -> Result<(Record, usize), NotRows> {
        let Self { table, has_key, compared, compares_all, key, values } = self;
        key.clear();
        values.clear();
        let (mut clock, mut index, mut values_bytes) = (i64::MIN, 0, 0);
        let marks = table.walk(bytes, |column, value| {
            if column.key {
                key.extend_from_slice(value);
            }
            if !*compares_all && compared[index] {
                values.extend_from_slice(value);
            }
            if column.codec == Codec::Timestamp
                && compared[index]
                && let Some(micros) = value.last_chunk()
            {
                clock = clock.max(i64::from_le_bytes(*micros));
            }
            values_bytes += value.len();
            index += 1;
        })?;
        let values = hash(if *compares_all { &bytes[..values_bytes] } else { values });
        let key = if *has_key { hash(key) } else { values };
        let (values, clock) = if marks.deleted { (GONE, i64::MIN) } else { (values, clock) };
        Ok((Record { key, version: marks.version, values, clock }, marks.row_bytes))
    }
}

/// CityHash of 128 bits, as ClickHouse has it for its blocks.
#[inline]
fn hash(bytes: &[u8]) -> Hash {
    let hash = cityhash_102_128(bytes);
    [(hash >> 64) as u64, hash as u64]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rowbinary::{BinaryForm, Column};

    fn column(name: &str, codec: Codec, nullable: bool, key: bool) -> Column {
        let type_name = "t".into();
        Column { name: name.into(), codec, nullable, key, loses_null: false, type_name }
    }

    fn table() -> Table {
        let columns = vec![
            column("at", Codec::Timestamp, true, false),
            column("id", Codec::Int16, false, true),
            column("note", Codec::Text(BinaryForm::Text), false, false),
        ];
        Table { name: "public.t".into(), columns, clamps: false }
    }

    fn row(at: Option<i64>, id: i16, note: &[u8], version: u64, deleted: bool) -> Vec<u8> {
        let at = at.map_or(vec![1], |at| [&[0][..], &at.to_le_bytes()].concat());
        let length = [u8::try_from(note.len()).unwrap()];
        let marks = [&version.to_le_bytes()[..], &[deleted.into()]].concat();
        [&at[..], &id.to_le_bytes(), &length, note, &marks].concat()
    }

    #[test]
    fn a_row_is_told_by_its_key_and_its_values_by_what_is_compared() {
        let record = |compared: [bool; 3], row: Vec<u8>| {
            let (record, bytes) = Recorder::new(table(), compared.into()).record(&row).unwrap();
            assert_eq!(bytes, row.len());
            record
        };
        let first = record([true; 3], row(Some(7), 1, b"x", 9, false));
        assert_eq!((first.version, first.clock, first.is_gone()), (9, 7, false));
        let other = record([true; 3], row(None, 1, b"y", 9, false));
        assert_eq!((other.key, other.clock), (first.key, i64::MIN));
        assert_ne!(other.values, first.values);
        let gone = record([true; 3], row(Some(7), 1, b"x", 9, true));
        assert_eq!((gone.key, gone.values), (first.key, GONE));
        let without_at = [false, true, true];
        let narrow = record(without_at, row(Some(7), 1, b"x", 9, false));
        let narrow_other = record(without_at, row(None, 1, b"x", 8, false));
        assert_eq!((narrow.values, narrow.clock), (narrow_other.values, i64::MIN));
    }

    #[test]
    fn what_ends_inside_a_row_is_told_from_nonsense() {
        let mut recorder = Recorder::new(table(), vec![true; 3]);
        let whole = row(Some(7), 1, b"note", 9, false);
        for end in 0..whole.len() {
            assert!(recorder.record(&whole[..end]).unwrap_err().is_cut(), "{end}");
        }
        let marked = [&whole[..whole.len() - 1], &[2]].concat();
        assert_eq!(recorder.record(&marked), Err(NotRows::NoFlag(2)));
    }

    proptest::proptest! {
        #[test]
        fn records_are_read_as_they_are_written(
            key: [u64; 2], version: u64, values: [u64; 2], clock: i64,
        ) {
            let record = Record { key, version, values, clock };
            proptest::prop_assert_eq!(Record::from_bytes(&record.to_bytes()), record);
        }
    }
}

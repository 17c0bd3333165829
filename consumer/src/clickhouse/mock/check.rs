//! A block of RowBinary, checked byte for byte, and what the store needs of each row, in one pass.

use std::fmt::Display;

use crate::clickhouse::column_type::ColumnType;
use crate::clickhouse::exception::{
    ATTEMPT_TO_READ_AFTER_EOF, CANNOT_PARSE_BOOL, CANNOT_READ_ALL_DATA, Exception, INCORRECT_DATA,
    TOO_LARGE_ARRAY_SIZE, TOO_LARGE_STRING_SIZE,
};
use crate::rowbinary::{NotRows, skip};

/// A row that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// A hash of its key.
    pub key: u128,
    /// Its version; 0 without one.
    pub version: u64,
    /// Where it begins in the block.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// The columns of a block, in its order, and which of them say what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Names and types.
    pub columns: Vec<(String, ColumnType)>,
    /// The key's, in the order of the key.
    pub key: Vec<usize>,
    /// The version's.
    pub version: Option<usize>,
}

impl Shape {
    /// Checks a block, and says of each row what it is.
    ///
    /// # Errors
    /// It is not whole rows of these columns: the error that ClickHouse has for that.
    pub fn check(&self, bytes: &[u8]) -> Result<Vec<Row>, Exception> {
        let mut rows = Vec::with_capacity(bytes.len() / 64);
        let (mut rest, mut ends) = (bytes, vec![0; self.columns.len() + 1]);
        let mut key = Vec::new();
        while !rest.is_empty() {
            let start = bytes.len() - rest.len();
            ends[0] = start;
            for (n, (name, column_type)) in self.columns.iter().enumerate() {
                skip(column_type, &mut rest)
                    .map_err(|why| refuse(why, rows.len() + 1, name, column_type))?;
                ends[n + 1] = bytes.len() - rest.len();
            }
            let value = |n: usize| &bytes[ends[n]..ends[n + 1]];
            let version = self.version.map_or(0, |n| number(value(n)));
            let hash = match self.key.as_slice() {
                [n] => hash(value(*n)),
                several => {
                    key.clear();
                    several.iter().for_each(|n| key.extend_from_slice(value(*n)));
                    hash(&key)
                }
            };
            rows.push(Row { key: hash, version, start, end: bytes.len() - rest.len() });
        }
        Ok(rows)
    }

    /// The encoded values of a row that was checked, column by column.
    pub(super) fn values<'a>(&self, mut rest: &'a [u8], values: &mut Vec<&'a [u8]>) -> &'a [u8] {
        values.clear();
        for (_, column_type) in &self.columns {
            let before = rest;
            // What was checked once is right.
            let _ = skip(column_type, &mut rest);
            values.push(&before[..before.len() - rest.len()]);
        }
        rest
    }
}

fn hash(key: &[u8]) -> u128 {
    cityhash_rs::cityhash_102_128(key)
}

/// An unsigned number of up to 64 bits.
fn number(bytes: &[u8]) -> u64 {
    let mut wide = [0; 8];
    let length = bytes.len().min(8);
    wide[..length].copy_from_slice(&bytes[..length]);
    u64::from_le_bytes(wide)
}

/// As ClickHouse refuses such bytes.
fn refuse(why: NotRows, row: usize, name: impl Display, column_type: &ColumnType) -> Exception {
    let kind = match why {
        NotRows::CutShort { .. } => CANNOT_READ_ALL_DATA,
        NotRows::NoLength => ATTEMPT_TO_READ_AFTER_EOF,
        NotRows::LongString(_) => TOO_LARGE_STRING_SIZE,
        NotRows::LongArray(_) => TOO_LARGE_ARRAY_SIZE,
        // ClickHouse takes any other byte for 1. Nobody means that.
        NotRows::NoBool(_) => CANNOT_PARSE_BOOL,
        NotRows::NoFlag(_) => INCORRECT_DATA,
    };
    Exception::new(kind, format!("{why}: (at row {row}, column {name} {column_type})"))
}

//! Encoded rows, read only as far as it takes to tell one value from the next.
//!
//! There is one walker, for whoever can say what a value is made of: our own [`Codec`]s, and
//! ClickHouse's types by their names.

use super::codec::Codec;
use super::table::{Column, Table};

/// Bytes that are not the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRows {
    /// A value is cut short.
    #[error("the bytes end inside a value: {left} of its {expected} bytes are there")]
    CutShort {
        /// Bytes that are there.
        left: usize,
        /// Bytes that it has.
        expected: u64,
    },
    /// A length is cut short.
    #[error("the bytes end where the length of a value should be")]
    NoLength,
    /// A string is longer than any may be.
    #[error("a string of {0} bytes is longer than any may be")]
    LongString(u64),
    /// An array or map has more elements than any may have.
    #[error("an array of {0} elements is longer than any may be")]
    LongArray(u64),
    /// A `Bool` is neither 0 nor 1.
    #[error("a Bool is {0}, which is neither 0 nor 1")]
    NoBool(u8),
    /// What says whether a value is NULL is neither 0 nor 1.
    #[error("the flag of a NULL is {0}, which is neither 0 nor 1")]
    NoFlag(u8),
}

impl NotRows {
    /// Whether more bytes behind them may make rows of them.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        matches!(self, Self::CutShort { .. } | Self::NoLength)
    }
}

/// What stands behind the values of an encoded row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// `_version`.
    pub version: u64,
    /// `_is_deleted`.
    pub deleted: bool,
    /// Bytes of the whole row.
    pub row_bytes: usize,
}

/// The longest string and array that ClickHouse reads (its settings `format_binary_max_string_size`
/// and `format_binary_max_array_size`, by default).
const LONGEST: u64 = 1 << 30;

/// What an encoded value is made of.
#[derive(Debug)]
pub enum Parts<'a, T> {
    /// So many bytes, whatever they are.
    Fixed(usize),
    /// A byte that is 0 or 1.
    Bool,
    /// A length, and so many bytes.
    Counted,
    /// A flag, and a value if that is 0.
    Nullable(&'a T),
    /// A value of each of these.
    Each(&'a [T]),
    /// A length, and so often a value of each of these.
    Repeated {
        /// What each element is made of.
        of: &'a [T],
        /// Whether elements have the flag of a NULL before them.
        nullable: bool,
    },
}

/// Something that says what its values are made of.
pub trait Walk: Sized {
    /// What an encoded value is made of.
    fn parts(&self) -> Parts<'_, Self>;
}

impl Walk for Codec {
    fn parts(&self) -> Parts<'_, Self> {
        match self {
            Self::Bool => Parts::Bool,
            Self::Int16 => Parts::Fixed(2),
            Self::Int32 | Self::UInt32 | Self::Float32 | Self::Date => Parts::Fixed(4),
            Self::Int64 | Self::Float64 | Self::Timestamp => Parts::Fixed(8),
            Self::Uuid => Parts::Fixed(16),
            Self::Decimal { precision, .. } => Parts::Fixed(decimal_bytes(*precision)),
            Self::Bytes | Self::Text(_) => Parts::Counted,
            Self::Array { element, .. } => {
                Parts::Repeated { of: std::slice::from_ref(element), nullable: true }
            }
        }
    }
}

/// Bytes of a decimal of so many digits.
pub(crate) fn decimal_bytes(precision: u32) -> usize {
    match precision {
        0..=9 => 4,
        10..=18 => 8,
        19..=38 => 16,
        _ => 32,
    }
}

/// Bytes of `_version` and `_is_deleted`.
const MARKS_BYTES: usize = 9;

impl Table {
    /// The length of the encoded row that the bytes begin with.
    ///
    /// # Errors
    /// They don't begin with one.
    pub fn row_bytes(&self, bytes: &[u8]) -> Result<usize, NotRows> {
        let mut rest = bytes;
        for column in &self.columns {
            skip_column(column, &mut rest)?;
        }
        take(&mut rest, MARKS_BYTES)?;
        Ok(bytes.len() - rest.len())
    }

    /// Hands each encoded value of the row that the bytes begin with to `each`, column by column, and
    /// returns what stands behind them.
    ///
    /// # Errors
    /// They don't begin with one.
    #[inline]
    pub fn walk<'a>(
        &self,
        bytes: &'a [u8],
        mut each: impl FnMut(&Column, &'a [u8]),
    ) -> Result<Marks, NotRows> {
        let mut rest = bytes;
        for column in &self.columns {
            let before = rest;
            skip_column(column, &mut rest)?;
            each(column, &before[..before.len() - rest.len()]);
        }
        let version = u64::from_le_bytes(fixed(&mut rest)?);
        let deleted = is_null(&mut rest)?;
        Ok(Marks { version, deleted, row_bytes: bytes.len() - rest.len() })
    }

    /// Where each of the encoded rows ends.
    ///
    /// # Errors
    /// The bytes are not whole rows.
    pub fn row_ends(&self, bytes: &[u8]) -> Result<Vec<usize>, NotRows> {
        let (mut ends, mut end) = (Vec::new(), 0);
        while end < bytes.len() {
            end += self.row_bytes(&bytes[end..])?;
            ends.push(end);
        }
        Ok(ends)
    }

    /// The encoded values of the row that the bytes begin with, column by column.
    ///
    /// # Errors
    /// They don't begin with one.
    pub fn values<'a>(&self, bytes: &'a [u8]) -> Result<Vec<&'a [u8]>, NotRows> {
        let mut rest = bytes;
        let value = |column| {
            let before = rest;
            skip_column(column, &mut rest)?;
            Ok(&before[..before.len() - rest.len()])
        };
        self.columns.iter().map(value).collect()
    }
}

fn skip_column(column: &Column, rest: &mut &[u8]) -> Result<(), NotRows> {
    if column.nullable && is_null(rest)? {
        return Ok(());
    }
    skip(&column.codec, rest)
}

/// Leaves out the value that the bytes begin with.
///
/// # Errors
/// They don't begin with one.
#[inline]
pub fn skip<T: Walk>(what: &T, rest: &mut &[u8]) -> Result<(), NotRows> {
    match what.parts() {
        Parts::Fixed(bytes) => take(rest, bytes).map(drop),
        Parts::Bool => match byte(rest)? {
            0 | 1 => Ok(()),
            other => Err(NotRows::NoBool(other)),
        },
        Parts::Counted => {
            let length = varint(rest)?;
            if length > LONGEST {
                return Err(NotRows::LongString(length));
            }
            take(rest, length as usize).map(drop)
        }
        Parts::Nullable(value) => match is_null(rest)? {
            true => Ok(()),
            false => skip(value, rest),
        },
        Parts::Each(values) => values.iter().try_for_each(|value| skip(value, rest)),
        Parts::Repeated { of, nullable } => {
            let length = varint(rest)?;
            if length > LONGEST {
                return Err(NotRows::LongArray(length));
            }
            for _ in 0..length {
                for value in of {
                    if !(nullable && is_null(rest)?) {
                        skip(value, rest)?;
                    }
                }
            }
            Ok(())
        }
    }
}

pub(crate) fn is_null(rest: &mut &[u8]) -> Result<bool, NotRows> {
    match byte(rest)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(NotRows::NoFlag(other)),
    }
}

/// An unsigned LEB128 integer. As in ClickHouse, the tenth byte is the last one whatever it says.
pub(crate) fn varint(rest: &mut &[u8]) -> Result<u64, NotRows> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, left) = rest.split_first().ok_or(NotRows::NoLength)?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(value)
}

fn byte(rest: &mut &[u8]) -> Result<u8, NotRows> {
    take(rest, 1).map(|taken| taken[0])
}

#[inline]
pub(crate) fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], NotRows> {
    match rest.split_at_checked(bytes) {
        Some((taken, left)) => {
            *rest = left;
            Ok(taken)
        }
        None => Err(NotRows::CutShort { left: rest.len(), expected: bytes as u64 }),
    }
}

/// So many bytes, whatever they are.
#[inline]
pub(crate) fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], NotRows> {
    let cut = NotRows::CutShort { left: rest.len(), expected: N as u64 };
    let (value, left) = rest.split_first_chunk().ok_or(cut)?;
    *rest = left;
    Ok(*value)
}

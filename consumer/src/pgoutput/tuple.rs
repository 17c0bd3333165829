//! A row's values.

use super::cursor::{Cursor, Malformed};

/// A column's value, borrowed from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// A TOASTed value that the update did not change: its bytes were not sent.
    Unchanged,
    /// In the type's text form.
    Text(&'a [u8]),
    /// In the type's binary form.
    Binary(&'a [u8]),
}

/// The values of one row, still encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    bytes: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// A tuple that reaches to the message's end. Its values are checked as they are read, so that
    /// a row is walked once.
    #[inline]
    pub(super) fn last(mut cursor: Cursor<'a>) -> Result<Self, Malformed> {
        let columns = cursor.u16("tuple")?;
        Ok(Self { columns, bytes: cursor.0 })
    }

    /// A tuple that something follows: walked here to find its end.
    pub(super) fn followed(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        let whole = Self::last(*cursor)?;
        let mut values = whole.values();
        for _ in 0..whole.columns {
            values.next().ok_or(Malformed::Short("tuple"))??;
        }
        let length = whole.bytes.len() - values.cursor.0.len();
        cursor.bytes(2 + length, "tuple")?;
        Ok(Self { columns: whole.columns, bytes: &whole.bytes[..length] })
    }

    /// Number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        usize::from(self.columns)
    }

    /// Length of the encoded values in bytes.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The values in the relation's order of columns.
    #[inline]
    #[must_use]
    pub fn values(&self) -> Values<'a> {
        Values { left: self.columns, cursor: Cursor(self.bytes) }
    }
}

/// Iterates over a tuple's values; ends at the first that can't be read.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    left: u16,
    cursor: Cursor<'a>,
}

impl<'a> Values<'a> {
    /// Checks that every value was read and nothing is left.
    ///
    /// # Errors
    /// Bytes follow the last value.
    #[inline]
    pub fn finish(self) -> Result<(), Malformed> {
        self.cursor.end()
    }

    #[inline]
    fn value(&mut self) -> Result<Value<'a>, Malformed> {
        match self.cursor.u8("value")? {
            b't' => self.sized().map(Value::Text),
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            b'b' => self.sized().map(Value::Binary),
            tag => Err(Malformed::Tag("value", tag.into())),
        }
    }

    #[inline]
    fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.cursor.u32("value")? as usize;
        self.cursor.bytes(length, "value")
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<Value<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let value = self.value();
        if value.is_err() {
            self.left = 0;
        }
        Some(value)
    }
}

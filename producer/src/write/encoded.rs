//! Parameters that are in PostgreSQL's binary format already.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// A parameter's content; `None` is NULL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoded<'a>(pub(super) Option<&'a [u8]>);

impl ToSql for Encoded<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        Ok(match self.0 {
            Some(content) => {
                out.put_slice(content);
                IsNull::No
            }
            None => IsNull::Yes,
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Values one after the other, each behind its length.
#[derive(Clone, Debug)]
pub(super) struct Values<'a> {
    rest: &'a [u8],
    count: usize,
}

impl<'a> Values<'a> {
    /// `count` values.
    pub(super) fn new(bytes: &'a [u8], count: usize) -> Self {
        Self { rest: bytes, count }
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Encoded<'a>;

    fn next(&mut self) -> Option<Encoded<'a>> {
        self.count = self.count.checked_sub(1)?;
        let (length, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        // A negative length stands for NULL.
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            return Some(Encoded(None));
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Encoded(Some(content)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for Values<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::encode;

    #[test]
    fn values_are_read_as_they_were_written() {
        let mut out = Vec::new();
        encode::bytes(&mut out, b"one");
        encode::null(&mut out);
        encode::bytes(&mut out, b"");
        let values: Vec<_> = Values::new(&out, 3).map(|value| value.0).collect();
        assert_eq!(values, [Some(&b"one"[..]), None, Some(&b""[..])]);
        assert_eq!(Values::new(&out, 2).len(), 2);
    }
}

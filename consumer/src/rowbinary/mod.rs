//! From PostgreSQL's text values to ClickHouse's RowBinary (ClickHouse manual, formats:
//! `RowBinary`), straight into a batch's buffer: no value is built in between.

mod codec;
mod datetime;
mod decimal;
mod table;
mod unencodable;

pub use codec::Codec;
pub use table::{Column, EncodeError, Facts, Policy, RowKind, Table};
pub use unencodable::Unencodable;

/// Appends an unsigned LEB128 integer, as RowBinary writes lengths.
#[inline]
pub(crate) fn put_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

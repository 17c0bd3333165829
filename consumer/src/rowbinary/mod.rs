//! From PostgreSQL's values, in their text or binary form, to ClickHouse's RowBinary (ClickHouse
//! manual, formats: `RowBinary`), straight into a batch's buffer: no value is built in between.

mod array;
mod binary_form;
mod clamp;
mod codec;
mod datetime;
mod decimal;
mod digits;
mod encode_error;
mod facts;
mod inet;
mod notes;
mod readable;
mod source_type;
mod table;
mod text;
mod unencodable;
mod walk;

pub use binary_form::BinaryForm;
pub use codec::Codec;
pub use encode_error::{EncodeError, FULL_IDENTITY};
pub use facts::{Facts, TableFacts};
pub use source_type::SourceType;
pub use table::{Column, Policy, RowKind, Table};
pub use unencodable::Unencodable;
pub use walk::{Marks, NotRows, Parts, Walk, skip};
pub(crate) use walk::{decimal_bytes, fixed, is_null, take, varint};

/// Appends an unsigned LEB128 integer, as RowBinary writes lengths.
#[inline]
pub(crate) fn put_varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends what `put` writes, with its length in bytes in front.
#[inline]
fn put_counted<E>(
    out: &mut Vec<u8>,
    put: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let at = out.len();
    out.push(0);
    put(out)?;
    put_count(out.len() - at - 1, at, out);
    Ok(())
}

/// Puts a count into the byte that was left for it at `at`, or into more if it needs more.
#[inline]
fn put_count(count: usize, at: usize, out: &mut Vec<u8>) {
    if count < 0x80 {
        out[at] = count as u8;
        return;
    }
    let end = out.len();
    put_varint(count as u64, out);
    let written = out.len() - end;
    // It was written behind what it counts, and goes to the front, over the byte left there.
    out[at..].rotate_right(written);
    out.remove(at + written);
}

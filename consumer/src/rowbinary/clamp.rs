//! The nearest value that ClickHouse's type can hold, for one that it can't. Never on the hot path:
//! a value is looked at again after it was refused.

use super::array::{self, Element, Elements};
use super::codec::Codec;
use super::unencodable::Unencodable;
use super::{datetime, decimal};
use crate::pgoutput::Value;

/// Appends a value or what is nearest to it, behind the mark of NULL or not if it is `nullable`;
/// returns how many values were replaced.
#[cold]
pub(super) fn encode(
    codec: &Codec,
    nullable: bool,
    value: Value<'_>,
    out: &mut Vec<u8>,
) -> Result<u32, Unencodable> {
    let start = out.len();
    if nullable {
        out.push(0);
    }
    let Err(error) = codec.encode(value, out) else { return Ok(0) };
    out.truncate(start);
    match (error, codec) {
        (
            Unencodable::OutOfRange | Unencodable::NotANumber,
            Codec::Array { element, delimiter },
        ) => {
            let mut replaced = 0;
            array::write(Elements::of(value, *delimiter)?, out, |value, out| {
                replaced += encode_element(element, value, out)?;
                Ok(())
            })?;
            Ok(replaced)
        }
        // Nothing is near to it; where there may be nothing, nothing is written.
        (Unencodable::NotANumber, _) if nullable => {
            out.push(1);
            Ok(1)
        }
        (Unencodable::OutOfRange, _) => {
            if nullable {
                out.push(0);
            }
            put_bound(codec, is_low(codec, value), out);
            Ok(1)
        }
        (error, _) => Err(error),
    }
}

fn encode_element(
    codec: &Codec,
    element: Element<'_>,
    out: &mut Vec<u8>,
) -> Result<u32, Unencodable> {
    let value = match element {
        Element::Text(text) => Value::Text(text),
        Element::Binary(binary) => Value::Binary(binary),
        // What is NULL or needs escapes is in range.
        Element::Null | Element::Escaped(_) => {
            codec.encode_element(element, out)?;
            return Ok(0);
        }
    };
    encode(codec, true, value, out)
}

/// Whether a value that is out of range lies below it.
fn is_low(codec: &Codec, value: Value<'_>) -> bool {
    match (codec, value) {
        (Codec::Decimal { .. }, Value::Text(text)) => text.first() == Some(&b'-'),
        (Codec::Decimal { .. }, Value::Binary(numeric)) => decimal::is_negative(numeric),
        (_, Value::Text(text)) => datetime::is_early(text),
        // A count since 2000; its first bit is its sign.
        (_, Value::Binary(count)) => count.first().is_some_and(|byte| *byte >= 0x80),
        (_, Value::Null | Value::Unchanged) => false,
    }
}

fn put_bound(codec: &Codec, low: bool, out: &mut Vec<u8>) {
    match codec {
        Codec::Date => {
            let (first, last) = datetime::DAYS.into_inner();
            out.extend_from_slice(&if low { first } else { last }.to_le_bytes());
        }
        Codec::Timestamp => {
            let (first, last) = datetime::MICROS.into_inner();
            out.extend_from_slice(&if low { first } else { last }.to_le_bytes());
        }
        Codec::Decimal { precision, .. } => {
            let greatest = decimal::greatest(*precision);
            codec.put_units(if low { -greatest } else { greatest }, out);
        }
        // No other type has values that are out of range.
        _ => codec.encode_default(out),
    }
}

//! Encoded values as a person reads them.

use std::fmt::Write;

use jiff::civil::date;
use jiff::{SignedDuration, Timestamp};

use super::codec::Codec;
use super::table::Column;
use super::walk::{NotRows, fixed, is_null, take, varint};

impl Column {
    /// An encoded value of this column as text: strings in quotes, bytes in hexadecimal digits.
    ///
    /// # Errors
    /// The bytes are none.
    pub fn readable(&self, mut value: &[u8]) -> Result<String, NotRows> {
        let mut out = String::new();
        match self.nullable {
            true => put_nullable(&self.codec, &mut value, &mut out)?,
            false => put(&self.codec, &mut value, &mut out)?,
        }
        Ok(out)
    }
}

fn put_nullable(codec: &Codec, rest: &mut &[u8], out: &mut String) -> Result<(), NotRows> {
    if !is_null(rest)? {
        return put(codec, rest, out);
    }
    out.push_str("NULL");
    Ok(())
}

fn put(codec: &Codec, rest: &mut &[u8], out: &mut String) -> Result<(), NotRows> {
    match codec {
        Codec::Bool => show(out, u8::from_le_bytes(fixed(rest)?) != 0),
        Codec::Int16 => show(out, i16::from_le_bytes(fixed(rest)?)),
        Codec::Int32 => show(out, i32::from_le_bytes(fixed(rest)?)),
        Codec::Int64 => show(out, i64::from_le_bytes(fixed(rest)?)),
        Codec::UInt32 => show(out, u32::from_le_bytes(fixed(rest)?)),
        Codec::Float32 => show(out, f32::from_le_bytes(fixed(rest)?)),
        Codec::Float64 => show(out, f64::from_le_bytes(fixed(rest)?)),
        Codec::Decimal { precision, scale } => {
            let units = match precision {
                0..=9 => i32::from_le_bytes(fixed(rest)?).into(),
                10..=18 => i64::from_le_bytes(fixed(rest)?).into(),
                _ => i128::from_le_bytes(fixed(rest)?),
            };
            put_decimal(units, *scale as usize, out);
        }
        Codec::Uuid => {
            let [high, low] = [fixed(rest)?, fixed(rest)?].map(u64::from_le_bytes);
            let hex = format!("{high:016x}{low:016x}");
            let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
            out.push_str(&parts.join("-"));
        }
        Codec::Date => put_date(i32::from_le_bytes(fixed(rest)?), out),
        Codec::Timestamp => put_timestamp(i64::from_le_bytes(fixed(rest)?), out),
        Codec::Text(_) | Codec::Bytes => {
            let length = varint(rest)?;
            let bytes = usize::try_from(length).map_err(|_| NotRows::LongString(length))?;
            put_string(take(rest, bytes)?, matches!(codec, Codec::Bytes), out);
        }
        Codec::Array { element, .. } => {
            out.push('[');
            for index in 0..varint(rest)? {
                out.push_str(if index > 0 { ", " } else { "" });
                put_nullable(element, rest, out)?;
            }
            out.push(']');
        }
    }
    Ok(())
}

fn show(out: &mut String, value: impl std::fmt::Display) {
    let _ = write!(out, "{value}");
}

fn put_decimal(units: i128, scale: usize, out: &mut String) {
    let digits = format!("{:01$}", units.unsigned_abs(), scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    let (sign, point) = (if units < 0 { "-" } else { "" }, if scale > 0 { "." } else { "" });
    let _ = write!(out, "{sign}{whole}{point}{part}");
}

/// Days since 1970, or their number where that is no date.
fn put_date(days: i32, out: &mut String) {
    let since = SignedDuration::from_hours(i64::from(days) * 24);
    match date(1970, 1, 1).checked_add(since) {
        Ok(date) => show(out, date),
        Err(_) => show(out, days),
    }
}

/// µs since 1970, or their number where that is no time.
fn put_timestamp(micros: i64, out: &mut String) {
    match Timestamp::from_microsecond(micros) {
        Ok(time) => show(out, time.strftime("%Y-%m-%d %H:%M:%S%.6f")),
        Err(_) => show(out, micros),
    }
}

fn put_string(bytes: &[u8], is_binary: bool, out: &mut String) {
    match std::str::from_utf8(bytes) {
        Ok(text) if !is_binary => {
            let _ = write!(out, "'{}'", text.escape_debug().to_string().replace("\\\"", "\""));
        }
        _ => {
            out.push_str("\\x");
            bytes.iter().for_each(|byte| show(out, format_args!("{byte:02x}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use walbench_phases::plan::Arrays;

    use super::*;
    use crate::rowbinary::SourceType;

    fn column(oid: u32, modifier: i32, nullable: bool) -> Column {
        let codec = Codec::of(&SourceType::of(oid), modifier, Arrays::Array);
        let (name, type_name) = ("v".into(), "t".into());
        Column { name, codec, nullable, key: false, loses_null: false, type_name }
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        for (oid, modifier, text, expected) in [
            (16, -1, "t", "true"),
            (21, -1, "-2", "-2"),
            (26, -1, "4294967295", "4294967295"),
            (701, -1, "-Infinity", "-inf"),
            (700, -1, "NaN", "NaN"),
            (25, -1, "it's \"hé\"\n", r#"'it\'s "hé"\n'"#),
            (17, -1, "\\x00ff", "\\x00ff"),
            (1082, -1, "1899-12-31", ""),
            (1082, -1, "1900-01-01", "1900-01-01"),
            (1114, -1, "2299-12-31 23:59:59.999999", "2299-12-31 23:59:59.999999"),
            (1184, -1, "1969-12-31 23:59:59.5+00", "1969-12-31 23:59:59.500000"),
            (1700, (12 << 16 | 2) + 4, "-1.50", "-1.50"),
            (1700, (38 << 16 | 38) + 4, "-0.01", "-0.01000000000000000000000000000000000000"),
            (1009, -1, "{a,NULL,\"b,c\"}", "['a', NULL, 'b,c']"),
            (
                2950,
                -1,
                "00112233-4455-6677-8899-aabbccddeeff",
                "00112233-4455-6677-8899-aabbccddeeff",
            ),
        ] {
            let column = column(oid, modifier, true);
            let mut value = vec![0];
            if column.codec.encode_text(text.as_bytes(), &mut value).is_ok() {
                assert_eq!(column.readable(&value).as_deref(), Ok(expected), "{oid} {text}");
            }
            assert_eq!(column.readable(&[1]).as_deref(), Ok("NULL"));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            oid in prop::sample::select(vec![16u32, 17, 20, 25, 700, 1082, 1184, 1009, 1115, 2950]),
            nullable: bool,
            value in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let _ = column(oid, -1, nullable).readable(&value);
        }
    }
}

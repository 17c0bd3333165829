//! Rows as they were encoded, for a destination whose columns have become wider: another
//! description of the table was on its way at the same time, or the table is an older one. They are
//! converted here and not by ClickHouse, because not every server can while it inserts.

use std::fmt::Write;

use super::kind::{ColumnKind, Kind};
use crate::rowbinary::{NotRows, fixed, is_null, put_varint, skip, take, varint};

/// Bytes of `_version` and `_is_deleted`.
const MARKS_BYTES: usize = 9;

/// Rows of columns that are `from`, as rows of columns that are `to`, each of which holds the values
/// of the one before ([`ColumnKind::join`]).
///
/// # Errors
/// The bytes are not whole rows.
pub fn convert(from: &[ColumnKind], to: &[ColumnKind], rows: &[u8]) -> Result<Vec<u8>, NotRows> {
    let (mut rest, mut out) = (rows, Vec::with_capacity(rows.len() + rows.len() / 4));
    while !rest.is_empty() {
        for (from, to) in from.iter().zip(to) {
            column(from, to, &mut rest, &mut out)?;
        }
        out.extend_from_slice(take(&mut rest, MARKS_BYTES)?);
    }
    Ok(out)
}

fn column(
    from: &ColumnKind,
    to: &ColumnKind,
    rest: &mut &[u8],
    out: &mut Vec<u8>,
) -> Result<(), NotRows> {
    let is_null = from.nullable && is_null(rest)?;
    if to.nullable {
        out.push(u8::from(is_null));
    }
    match is_null {
        // What is wider may be NULL as well, or is an array, which has no NULL.
        true => Ok(()),
        false => value(&from.kind, &to.kind, take_value(&from.kind, rest)?, out),
    }
}

/// Appends a value of one kind as one of another.
fn value(from: &Kind, to: &Kind, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), NotRows> {
    match (from, to) {
        _ if from == to => out.extend_from_slice(bytes),
        (Kind::Array(from), Kind::Array(to)) => {
            let mut rest = bytes;
            let length = varint(&mut rest)?;
            put_varint(length, out);
            for _ in 0..length {
                let is_null = is_null(&mut rest)?;
                out.push(u8::from(is_null));
                if !is_null {
                    value(from, to, take_value(from, &mut rest)?, out)?;
                }
            }
        }
        (_, Kind::String) => {
            let mut text = String::new();
            put_text(from, bytes, &mut text)?;
            put_varint(text.len() as u64, out);
            out.extend_from_slice(text.as_bytes());
        }
        (Kind::Float32, Kind::Float64) => {
            out.extend_from_slice(&f64::from(f32::from_le_bytes(whole(bytes)?)).to_le_bytes());
        }
        (Kind::Date, Kind::Timestamp) => {
            let micros = i64::from(i32::from_le_bytes(whole(bytes)?)) * MICROS_OF_A_DAY;
            out.extend_from_slice(&micros.to_le_bytes());
        }
        _ => {
            let by = 10i128.pow(scale(to).saturating_sub(scale(from)));
            let number = integer(from, bytes)? * by;
            out.extend_from_slice(&number.to_le_bytes()[..to.fixed_bytes()]);
        }
    }
    Ok(())
}

const MICROS_OF_A_DAY: i64 = 86_400_000_000;

fn scale(kind: &Kind) -> u32 {
    if let Kind::Decimal { scale, .. } = kind { *scale } else { 0 }
}

/// An integer, or a Decimal's units.
fn integer(kind: &Kind, bytes: &[u8]) -> Result<i128, NotRows> {
    Ok(match (kind, bytes.len()) {
        (Kind::UInt32, _) => u32::from_le_bytes(whole(bytes)?).into(),
        (_, 2) => i16::from_le_bytes(whole(bytes)?).into(),
        (_, 4) => i32::from_le_bytes(whole(bytes)?).into(),
        (_, 8) => i64::from_le_bytes(whole(bytes)?).into(),
        _ => i128::from_le_bytes(whole(bytes)?),
    })
}

/// A value's text, as PostgreSQL writes it as far as that is known here.
fn put_text(kind: &Kind, bytes: &[u8], out: &mut String) -> Result<(), NotRows> {
    match kind {
        Kind::Bool => out.push_str(if bytes == [0] { "false" } else { "true" }),
        Kind::Int16 | Kind::Int32 | Kind::UInt32 | Kind::Int64 | Kind::Decimal { .. } => {
            put_decimal(integer(kind, bytes)?, scale(kind), out);
        }
        Kind::Float32 => put_float(&format!("{:?}", f32::from_le_bytes(whole(bytes)?)), out),
        Kind::Float64 => put_float(&format!("{:?}", f64::from_le_bytes(whole(bytes)?)), out),
        Kind::Date => put_date(i32::from_le_bytes(whole(bytes)?).into(), out),
        Kind::Timestamp => put_timestamp(i64::from_le_bytes(whole(bytes)?), out),
        Kind::Uuid => {
            let digits = u128::from_le_bytes(whole(bytes)?).rotate_left(64);
            let digits = format!("{digits:032x}");
            let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
            out.push_str(&parts.join("-"));
        }
        Kind::String => {
            let mut rest = bytes;
            varint(&mut rest)?;
            out.push_str(&String::from_utf8_lossy(rest));
        }
        Kind::Array(element) => return put_array(element, bytes, out),
    }
    Ok(())
}

fn put_decimal(units: i128, scale: u32, out: &mut String) {
    let digits = format!("{:0width$}", units.unsigned_abs(), width = scale as usize + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
    out.push_str(if units < 0 { "-" } else { "" });
    out.push_str(whole);
    if scale > 0 {
        out.push('.');
        out.push_str(fraction);
    }
}

/// From Rust's form.
fn put_float(text: &str, out: &mut String) {
    let text = text.strip_suffix(".0").unwrap_or(text);
    out.push_str(&text.replace("inf", "Infinity"));
}

/// From days since 1970, in the proleptic Gregorian calendar: years begin in March, so that a leap
/// day is the last of its year, and 400 years have 146,097 days.
fn put_date(days: i64, out: &mut String) {
    let since_march_0 = days + 719_468;
    let (era, day_of_era) = (since_march_0.div_euclid(146_097), since_march_0.rem_euclid(146_097));
    let leaps = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leaps) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = 400 * era + year_of_era + i64::from(month <= 2);
    let _ = write!(out, "{year:04}-{month:02}-{day:02}");
}

fn put_timestamp(micros: i64, out: &mut String) {
    let (days, micros) = (micros.div_euclid(MICROS_OF_A_DAY), micros.rem_euclid(MICROS_OF_A_DAY));
    put_date(days, out);
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let _ = write!(out, " {hour:02}:{minute:02}:{second:02}");
    if micros > 0 {
        out.push_str(format!(".{micros:06}").trim_end_matches('0'));
    }
}

fn put_array(element: &Kind, bytes: &[u8], out: &mut String) -> Result<(), NotRows> {
    let mut rest = bytes;
    out.push('{');
    for index in 0..varint(&mut rest)? {
        if index > 0 {
            out.push(',');
        }
        if is_null(&mut rest)? {
            out.push_str("NULL");
            continue;
        }
        let mut text = String::new();
        put_text(element, take_value(element, &mut rest)?, &mut text)?;
        match element {
            Kind::String | Kind::Timestamp => {
                let _ = write!(out, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            }
            _ => out.push_str(&text),
        }
    }
    out.push('}');
    Ok(())
}

fn take_value<'a>(kind: &Kind, rest: &mut &'a [u8]) -> Result<&'a [u8], NotRows> {
    let before = *rest;
    skip(kind, rest)?;
    Ok(&before[..before.len() - rest.len()])
}

/// A value of a fixed length, which is all that is there.
fn whole<const N: usize>(mut bytes: &[u8]) -> Result<[u8; N], NotRows> {
    fixed(&mut bytes)
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use proptest::prelude::*;

    use super::super::kind::tests::column_kind;
    use super::*;

    fn kind(text: &str) -> ColumnKind {
        ColumnKind::parse(text).unwrap()
    }

    /// A row of one column, converted.
    fn converted(from: &str, to: &str, bytes: &[u8]) -> Vec<u8> {
        let row = [bytes, &[7; MARKS_BYTES]].concat();
        let mut row = convert(&[kind(from)], &[kind(to)], &row).unwrap();
        assert_eq!(row.split_off(row.len() - MARKS_BYTES), [7; MARKS_BYTES]);
        row
    }

    #[test]
    fn numbers_stay_what_they_are() {
        let minus_two = (-2i16).to_le_bytes();
        assert_eq!(converted("Int16", "Int64", &minus_two), (-2i64).to_le_bytes());
        assert_eq!(converted("UInt32", "Int64", &[0xff; 4]), 4_294_967_295i64.to_le_bytes());
        assert_eq!(converted("Int16", "Decimal(12, 2)", &minus_two), (-200i64).to_le_bytes());
        let price = (-150i32).to_le_bytes();
        assert_eq!(
            converted("Decimal(5, 2)", "Decimal(20, 4)", &price),
            (-15_000i128).to_le_bytes()
        );
        assert_eq!(converted("Float32", "Float64", &0.5f32.to_le_bytes()), 0.5f64.to_le_bytes());
        let day = (-1i32).to_le_bytes();
        let midnight = (-MICROS_OF_A_DAY).to_le_bytes();
        assert_eq!(converted("Date32", "DateTime64(6)", &day), midnight);
    }

    #[test]
    fn nulls_stay_and_get_their_mark() {
        let number = 7i32.to_le_bytes();
        assert_eq!(converted("Int32", "Nullable(Int32)", &number), [&[0][..], &number].concat());
        assert_eq!(converted("Nullable(Int16)", "Nullable(Int64)", &[1]), [1]);
        let array = [&[2, 0][..], &(-1i16).to_le_bytes(), &[1]].concat();
        let wider = [&[2, 0][..], &(-1i32).to_le_bytes(), &[1]].concat();
        assert_eq!(converted("Array(Nullable(Int16))", "Array(Nullable(Int32))", &array), wider);
        assert_eq!(
            converted("Array(Nullable(Int16))", "Nullable(String)", &array),
            b"\0\x09{-1,NULL}"
        );
    }

    #[test]
    fn everything_has_a_text() {
        let text = |from: &str, bytes: &[u8]| {
            String::from_utf8(converted(from, "String", bytes)[1..].to_vec()).unwrap()
        };
        assert_eq!(text("Bool", &[1]), "true");
        assert_eq!(text("Int64", &i64::MIN.to_le_bytes()), i64::MIN.to_string());
        assert_eq!(text("Decimal(9, 2)", &(-5i32).to_le_bytes()), "-0.05");
        assert_eq!(text("Decimal(38, 38)", &1i128.to_le_bytes()), format!("0.{:038}", 1));
        assert_eq!(text("Float64", &0.1f64.to_le_bytes()), "0.1");
        assert_eq!(text("Float32", &f32::NEG_INFINITY.to_le_bytes()), "-Infinity");
        assert_eq!(text("Float64", &3f64.to_le_bytes()), "3");
        for (days, date) in [
            (0i32, "1970-01-01"),
            (-25_567, "1900-01-01"),
            (11_016, "2000-02-29"),
            (120_529, "2299-12-31"),
        ] {
            assert_eq!(text("Date32", &days.to_le_bytes()), date);
        }
        let micros = (-1i64).to_le_bytes();
        assert_eq!(text("DateTime64(6)", &micros), "1969-12-31 23:59:59.999999");
        assert_eq!(text("DateTime64(6)", &500_000i64.to_le_bytes()), "1970-01-01 00:00:00.5");
        let uuid = u128::from_str_radix("00112233445566778899aabbccddeeff", 16).unwrap();
        let uuid = uuid.rotate_left(64).to_le_bytes();
        assert_eq!(text("UUID", &uuid), "00112233-4455-6677-8899-aabbccddeeff");
        let strings = b"\x02\0\x03a\"b\x01";
        assert_eq!(text("Array(Nullable(String))", strings), r#"{"a\"b",NULL}"#);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let kinds = [kind("Int32"), kind("Array(Nullable(String))")];
        let row = [&7i32.to_le_bytes()[..], b"\x01\0\x01x", &[0; MARKS_BYTES]].concat();
        assert_eq!(convert(&kinds, &kinds, &row).unwrap(), row);
        for end in 1..row.len() {
            assert!(convert(&kinds, &kinds, &row[..end]).unwrap_err().is_cut(), "{end}");
        }
    }

    fn encoded(kind: &Kind, draw: &mut impl Iterator<Item = u8>) -> Vec<u8> {
        let mut bytes = |n: usize| -> Vec<u8> { draw.by_ref().take(n).collect() };
        match kind {
            Kind::Bool => vec![bytes(1)[0] & 1],
            Kind::Decimal { precision, .. } => {
                let units = i128::from_le_bytes(bytes(16).try_into().unwrap());
                let units = units % 10i128.pow(*precision);
                units.to_le_bytes()[..kind.fixed_bytes()].to_vec()
            }
            Kind::Date => {
                (i32::from_le_bytes(bytes(4).try_into().unwrap()) % 100_000).to_le_bytes().to_vec()
            }
            Kind::String => [vec![3], bytes(3)].concat(),
            Kind::Array(element) => [vec![2, 1, 0], encoded(element, draw)].concat(),
            fixed => bytes(fixed.fixed_bytes()),
        }
    }

    proptest! {
        /// What can be read of it before can be read of it afterwards, and its length is that of rows.
        #[test]
        fn values_survive_every_step_up(
            from in column_kind(), other in column_kind(), seed in prop::collection::vec(any::<u8>(), 64), null: bool,
        ) {
            let to = from.join(&other);
            let mut draw = seed.into_iter().cycle();
            let mut row = Vec::new();
            if from.nullable {
                row.push(u8::from(null));
            }
            let value = encoded(&from.kind, &mut draw);
            if !(from.nullable && null) {
                row.extend_from_slice(&value);
            }
            row.extend([9; MARKS_BYTES]);
            let wide = convert(from_ref(&from), from_ref(&to), &row).unwrap();
            prop_assert_eq!(convert(from_ref(&to), from_ref(&to), &wide).unwrap(), wide.clone());
            if let (Ok(before), Ok(after)) = (
                integer(&from.kind, &value),
                integer(&to.kind, &wide[usize::from(to.nullable)..wide.len() - MARKS_BYTES]),
            ) && !(from.nullable && null) && from.kind.join(&Kind::Decimal { precision: 1, scale: 0 }) != Kind::String
                && to.kind != Kind::String
            {
                let by = 10i128.pow(scale(&to.kind) - scale(&from.kind));
                prop_assert_eq!(before * by, after);
            }
        }
    }
}

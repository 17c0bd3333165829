//! Encoded values as ClickHouse's text.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::clickhouse::column_type::ColumnType;
use crate::rowbinary::{skip, varint};

/// Days from 1970-01-01 back to the first day of the calendar's cycle of 400 years.
const CYCLE_BEFORE_DAYS: i64 = 719_468;

const MICROS: u32 = 6;

/// Appends the text of an encoded value that is one of its type.
pub(super) fn put(column_type: &ColumnType, value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value;
    put_next(column_type, &mut rest, Place::Alone, out);
}

/// The text of an encoded value.
pub(super) fn of(column_type: &ColumnType, value: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    put(column_type, value, &mut text);
    text
}

/// Where a value's text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Alone,
    /// Among others, where strings have quotes.
    Within,
}

fn put_next(column_type: &ColumnType, rest: &mut &[u8], place: Place, out: &mut Vec<u8>) {
    match column_type {
        ColumnType::Nullable(inner) => match rest.split_first() {
            Some((0, left)) => {
                *rest = left;
                put_next(inner, rest, place, out);
            }
            _ => {
                *rest = rest.get(1..).unwrap_or_default();
                out.extend_from_slice(if place == Place::Alone { b"\\N" } else { b"NULL" });
            }
        },
        ColumnType::LowCardinality(stored) => put_next(stored, rest, place, out),
        ColumnType::Array(element) => {
            let element = std::slice::from_ref(&**element);
            put_repeated(rest, ["[", "]"], element, out);
        }
        ColumnType::Map(pair) => put_repeated(rest, ["{", "}"], &pair[..], out),
        ColumnType::Tuple { elements, .. } => {
            out.push(b'(');
            for (n, element) in elements.iter().enumerate() {
                out.extend_from_slice(if n == 0 { b"" } else { b"," });
                put_next(element, rest, Place::Within, out);
            }
            out.push(b')');
        }
        scalar => {
            let before = *rest;
            let _ = skip(scalar, rest);
            put_scalar(scalar, &before[..before.len() - rest.len()], place, out);
        }
    }
}

fn put_repeated(rest: &mut &[u8], ends: [&str; 2], of: &[ColumnType], out: &mut Vec<u8>) {
    out.extend_from_slice(ends[0].as_bytes());
    for n in 0..varint(rest).unwrap_or_default() {
        for (m, part) in of.iter().enumerate() {
            out.extend_from_slice(match (n, m) {
                (0, 0) => b"",
                (_, 0) => b",",
                _ => b":",
            });
            put_next(part, rest, Place::Within, out);
        }
    }
    out.extend_from_slice(ends[1].as_bytes());
}

fn put_scalar(column_type: &ColumnType, value: &[u8], place: Place, out: &mut Vec<u8>) {
    let quote = if place == Place::Within { "'" } else { "" };
    let _ = match column_type {
        ColumnType::Bool => write!(out, "{}", value != [0]),
        ColumnType::Int(bits) if *bits <= 128 => write!(out, "{}", signed(value)),
        ColumnType::UInt(bits) if *bits <= 128 => write!(out, "{}", unsigned(value)),
        ColumnType::Float(32) => write!(out, "{}", float(f64::from(f32_of(value)), f32_of(value))),
        ColumnType::Float(_) => write!(out, "{}", float(f64_of(value), f64_of(value))),
        ColumnType::Decimal { scale, .. } if value.len() <= 16 => {
            put_decimal(signed(value), *scale, out);
            Ok(())
        }
        ColumnType::Uuid => write!(out, "{quote}{}{quote}", uuid(value)),
        ColumnType::Ipv4 => {
            let number = u32::try_from(unsigned(value)).unwrap_or_default();
            write!(out, "{quote}{}{quote}", Ipv4Addr::from(number))
        }
        ColumnType::Ipv6 => {
            let bytes: [u8; 16] = value.try_into().unwrap_or_default();
            write!(out, "{quote}{}{quote}", Ipv6Addr::from(bytes))
        }
        ColumnType::Date => {
            let days = i64::try_from(unsigned(value)).unwrap_or_default();
            write!(out, "{quote}{}{quote}", Day(days))
        }
        ColumnType::Date32 => {
            let days = i64::try_from(signed(value)).unwrap_or_default();
            write!(out, "{quote}{}{quote}", Day(days))
        }
        ColumnType::DateTime(_) => {
            let seconds = i64::try_from(unsigned(value)).unwrap_or_default();
            write!(out, "{quote}{}{quote}", Moment { units: seconds, digits: 0 })
        }
        ColumnType::DateTime64 { precision, .. } => {
            let units = i64::try_from(signed(value)).unwrap_or_default();
            write!(out, "{quote}{}{quote}", Moment { units, digits: *precision })
        }
        ColumnType::Enum { values, .. } => {
            let number = signed(value);
            let name = values.iter().find(|(_, n)| i128::from(*n) == number);
            let name = name.map_or_else(|| number.to_string(), |(name, _)| name.clone());
            write!(out, "{quote}{name}{quote}")
        }
        ColumnType::String => {
            let mut bytes = value;
            let _ = varint(&mut bytes);
            put_string(bytes, place, out);
            Ok(())
        }
        ColumnType::FixedString(_) => {
            put_string(value, place, out);
            Ok(())
        }
        // Numbers of 256 bits, as their bytes.
        _ => value.iter().rev().try_for_each(|byte| write!(out, "{byte:02x}")),
    };
}

fn put_string(bytes: &[u8], place: Place, out: &mut Vec<u8>) {
    if place == Place::Alone {
        out.extend_from_slice(bytes);
        return;
    }
    out.push(b'\'');
    put_escaped(bytes, out);
    out.push(b'\'');
}

/// Appends bytes as they stand in quotes, or between tabs.
pub(super) fn put_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        let escape = match byte {
            0 => b'0',
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0c => b'f',
            b'\r' => b'r',
            b'\'' | b'\\' => byte,
            _ => {
                out.push(byte);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', escape]);
    }
}

/// A signed little-endian number.
pub(super) fn signed(bytes: &[u8]) -> i128 {
    let filler = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
    i128::from_le_bytes(widened(bytes, filler))
}

/// An unsigned little-endian number.
pub(super) fn unsigned(bytes: &[u8]) -> u128 {
    u128::from_le_bytes(widened(bytes, 0))
}

fn widened(bytes: &[u8], filler: u8) -> [u8; 16] {
    let mut wide = [filler; 16];
    let length = bytes.len().min(16);
    wide[..length].copy_from_slice(&bytes[..length]);
    wide
}

pub(super) fn f32_of(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes.try_into().unwrap_or_default())
}

fn f64_of(bytes: &[u8]) -> f64 {
    f64::from_le_bytes(bytes.try_into().unwrap_or_default())
}

/// The shortest digits that are this number, with an exponent where it is very large or small.
fn float(number: f64, shown: impl std::fmt::Display + std::fmt::LowerExp) -> String {
    let size = number.abs();
    match number {
        _ if number.is_nan() => "nan".into(),
        _ if number.is_infinite() => if number > 0.0 { "inf" } else { "-inf" }.into(),
        _ if size != 0.0 && !(1e-6..1e21).contains(&size) => format!("{shown:e}"),
        _ => shown.to_string(),
    }
}

/// A decimal without zeros at its end.
fn put_decimal(units: i128, scale: u32, out: &mut Vec<u8>) {
    let digits = format!("{:0>1$}", units.unsigned_abs(), scale as usize + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
    let fraction = fraction.trim_end_matches('0');
    let sign = if units < 0 { "-" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    let _ = write!(out, "{sign}{whole}{point}{fraction}");
}

/// ClickHouse keeps a UUID as two halves, each with its last byte first.
fn uuid(value: &[u8]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().rev().map(|b| format!("{b:02x}")).collect::<String>();
    let digits = value.chunks(8).map(hex).collect::<String>();
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    parts.map(|part| digits.get(part).unwrap_or_default().to_owned()).join("-")
}

/// A day by its number.
struct Day(i64);

impl std::fmt::Display for Day {
    /// By the days of the cycle of 400 years, which begins with a March so that the odd day is the
    /// last one of a year.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let days = self.0 + CYCLE_BEFORE_DAYS;
        let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year + 400 * cycle + i64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// A moment in UTC, whatever its column's time zone is.
struct Moment {
    units: i64,
    /// Digits of its fraction of a second.
    digits: u32,
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let per_second = 10i64.pow(self.digits.min(MICROS + 3));
        let (seconds, fraction) =
            (self.units.div_euclid(per_second), self.units.rem_euclid(per_second));
        let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (hour, minute) = (second / 3_600, second / 60 % 60);
        write!(f, "{} {hour:02}:{minute:02}:{:02}", Day(day), second % 60)?;
        match self.digits {
            0 => Ok(()),
            digits => write!(f, ".{fraction:0>width$}", width = digits as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_text(column_type: &str, value: &[u8], expected: &str) {
        let column_type = ColumnType::parse(column_type).unwrap();
        assert_eq!(String::from_utf8_lossy(&of(&column_type, value)), expected, "{column_type}");
    }

    #[test]
    fn numbers() {
        assert_text("Int8", &[0xff], "-1");
        assert_text("UInt8", &[0xff], "255");
        assert_text("Int64", &i64::MIN.to_le_bytes(), "-9223372036854775808");
        assert_text("Float64", &1.5f64.to_le_bytes(), "1.5");
        assert_text("Float32", &0.1f32.to_le_bytes(), "0.1");
        assert_text("Float64", &1e30f64.to_le_bytes(), "1e30");
        assert_text("Float64", &f64::NEG_INFINITY.to_le_bytes(), "-inf");
        assert_text("Decimal(9, 3)", &(-1_500i32).to_le_bytes(), "-1.5");
        assert_text("Decimal(9, 3)", &7i32.to_le_bytes(), "0.007");
        assert_text("Decimal(9, 0)", &7i32.to_le_bytes(), "7");
        assert_text("Bool", &[1], "true");
    }

    #[test]
    fn days_and_moments() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (-25_567, "1900-01-01"),
            (120_529, "2299-12-31"),
        ] {
            assert_text("Date32", &i32::to_le_bytes(days), text);
        }
        let micros = 1_700_000_000_123_456i64.to_le_bytes();
        assert_text("DateTime64(6)", &micros, "2023-11-14 22:13:20.123456");
        assert_text("DateTime64(6)", &(-1i64).to_le_bytes(), "1969-12-31 23:59:59.999999");
        assert_text("DateTime", &1_700_000_000u32.to_le_bytes(), "2023-11-14 22:13:20");
    }

    #[test]
    fn what_is_within_others() {
        assert_text("Nullable(String)", &[1], "\\N");
        assert_text("Nullable(String)", b"\0\x02it", "it");
        assert_text("Array(Nullable(String))", b"\x02\0\x04it's\x01", "['it\\'s',NULL]");
        assert_text("Map(String, UInt8)", b"\x01\x01a\x07", "{'a':7}");
        assert_text("Tuple(UInt8, String)", b"\x01\x01x", "(1,'x')");
        assert_text("Enum8('a' = 1)", &[1], "a");
        let uuid: Vec<u8> = (0..16).collect();
        assert_text("UUID", &uuid, "07060504-0302-0100-0f0e-0d0c0b0a0908");
        assert_text("IPv4", &[1, 0, 0, 127], "127.0.0.1");
    }
}

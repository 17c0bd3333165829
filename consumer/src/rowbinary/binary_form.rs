//! Types that are written as their text: how they come in binary form, and their text from that,
//! byte for byte what PostgreSQL prints.

use std::io::Write;

use super::unencodable::Unencodable;
use super::{decimal, inet, put_counted, text};

/// How a type that is written as its text comes in binary form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryForm {
    /// As that text.
    Text,
    /// As that text, behind a version: `jsonb`.
    Versioned,
    /// `"char"`: one byte.
    Char,
    /// `numeric`: digits to the base of 10,000.
    Numeric,
    /// `interval`: µs, days and months.
    Interval,
    /// `time`: µs.
    Time,
    /// `timetz`: µs, and seconds west of Greenwich.
    TimeTz,
    /// `inet` and `cidr`.
    Network,
    /// `macaddr` and `macaddr8`.
    Hardware,
    /// `bit` and `varbit`.
    Bits,
    /// `pg_lsn`: eight bytes.
    Lsn,
    /// `xid`, `cid` and `xid8`: four or eight bytes.
    Unsigned,
    /// Not at all: the type has no send function, so that even a binary stream has its text.
    Never,
    /// In a form of its own, which is not read.
    Unreadable,
}

impl BinaryForm {
    /// The form of one of PostgreSQL's own types, by its name in `pg_type`. A type of another name
    /// has the form of the type whose send function it shares.
    #[must_use]
    pub fn of(type_name: &str) -> Self {
        match type_name {
            "text" | "varchar" | "bpchar" | "name" | "json" | "xml" | "enum" => Self::Text,
            "jsonb" | "jsonpath" => Self::Versioned,
            "char" => Self::Char,
            "numeric" => Self::Numeric,
            "interval" => Self::Interval,
            "time" => Self::Time,
            "timetz" => Self::TimeTz,
            "inet" | "cidr" => Self::Network,
            "macaddr" | "macaddr8" => Self::Hardware,
            "bit" | "varbit" => Self::Bits,
            "pg_lsn" => Self::Lsn,
            "xid" | "cid" | "xid8" => Self::Unsigned,
            _ => Self::Unreadable,
        }
    }

    /// Whether the type is text by nature, and a String its very counterpart.
    #[must_use]
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Versioned | Self::Char)
    }

    /// Appends the text of a binary value as a String.
    #[inline]
    pub(super) fn encode(self, binary: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
        match (self, binary) {
            (Self::Text, text) | (Self::Versioned, [1, text @ ..]) => {
                text::string(text, out);
                Ok(())
            }
            _ => put_counted(out, |out| self.print(binary, out)),
        }
    }

    fn print(self, binary: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
        match self {
            Self::Numeric => return decimal::text_from_binary(binary, out),
            Self::Network => return inet::network(binary, out),
            Self::Hardware => return inet::hardware(binary, out),
            Self::Never | Self::Unreadable => return Err(Unencodable::BinaryForm),
            _ => {}
        }
        let printed = match self {
            Self::Char => char(binary, out),
            Self::Interval => interval(binary, out),
            Self::Time => binary.try_into().ok().map(|us| clock(i64::from_be_bytes(us), out)),
            Self::TimeTz => time_tz(binary, out),
            Self::Bits => bits(binary, out),
            Self::Lsn => lsn(binary, out),
            Self::Unsigned => unsigned(binary, out),
            _ => None,
        };
        printed.ok_or(Unencodable::Malformed)
    }
}

/// Zero is nothing at all; a byte that is no ASCII is shown in octal, as PostgreSQL 16 does.
fn char(binary: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match *binary {
        [0] => {}
        [byte @ ..=0x7f] => out.push(byte),
        [byte] => {
            let _ = write!(out, "\\{byte:03o}");
        }
        _ => return None,
    }
    Some(())
}

/// In the style `postgres`: `1 year 2 mons -3 days +04:05:06.789`.
fn interval(binary: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (micros, rest) = binary.split_first_chunk()?;
    let (days, months) = rest.split_first_chunk()?;
    let micros = i64::from_be_bytes(*micros);
    let (days, months) = (i32::from_be_bytes(*days), i32::from_be_bytes(months.try_into().ok()?));
    match (micros, days, months) {
        // Since PostgreSQL 17; before it, the greatest interval of all.
        (i64::MAX, i32::MAX, i32::MAX) => out.extend_from_slice(b"infinity"),
        (i64::MIN, i32::MIN, i32::MIN) => out.extend_from_slice(b"-infinity"),
        _ => finite_interval(micros, days, months, out),
    }
    Some(())
}

fn finite_interval(micros: i64, days: i32, months: i32, out: &mut Vec<u8>) {
    let start = out.len();
    let mut is_before = false;
    for (count, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if count == 0 {
            continue;
        }
        let space = if out.len() == start { "" } else { " " };
        let plus = if is_before && count > 0 { "+" } else { "" };
        let plural = if count == 1 { "" } else { "s" };
        let _ = write!(out, "{space}{plus}{count} {unit}{plural}");
        is_before = count < 0;
    }
    if out.len() > start && micros == 0 {
        return;
    }
    if out.len() > start {
        out.push(b' ');
    }
    match (micros < 0, is_before) {
        (true, _) => out.push(b'-'),
        (false, true) => out.push(b'+'),
        (false, false) => {}
    }
    clock_of_magnitude(micros.unsigned_abs(), out);
}

/// Hours, minutes and seconds with as much of a fraction as there is.
fn clock(micros: i64, out: &mut Vec<u8>) {
    clock_of_magnitude(micros.unsigned_abs(), out);
}

fn clock_of_magnitude(micros: u64, out: &mut Vec<u8>) {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let _ = write!(out, "{hours:02}:{minutes:02}:{seconds:02}");
    if micros > 0 {
        let _ = write!(out, ".{micros:06}");
        let zeros = out.iter().rev().take_while(|b| **b == b'0').count();
        out.truncate(out.len() - zeros);
    }
}

fn time_tz(binary: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (micros, west_seconds) = binary.split_first_chunk()?;
    clock(i64::from_be_bytes(*micros), out);
    let west_seconds = i32::from_be_bytes(west_seconds.try_into().ok()?);
    let sign = if west_seconds <= 0 { '+' } else { '-' };
    let seconds = west_seconds.unsigned_abs();
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let _ = match (minutes, seconds) {
        (0, 0) => write!(out, "{sign}{hours:02}"),
        (_, 0) => write!(out, "{sign}{hours:02}:{minutes:02}"),
        _ => write!(out, "{sign}{hours:02}:{minutes:02}:{seconds:02}"),
    };
    Some(())
}

fn bits(binary: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (count, bytes) = binary.split_first_chunk()?;
    let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
    if bytes.len() != count.div_ceil(8) {
        return None;
    }
    let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| b'0' + (byte >> at & 1)));
    out.extend(bits.take(count));
    Some(())
}

fn lsn(binary: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let lsn = u64::from_be_bytes(binary.try_into().ok()?);
    let _ = write!(out, "{:X}/{:X}", lsn >> 32, lsn as u32);
    Some(())
}

fn unsigned(binary: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let number = match binary.len() {
        4 => u32::from_be_bytes(binary.try_into().ok()?).into(),
        _ => u64::from_be_bytes(binary.try_into().ok()?),
    };
    let _ = write!(out, "{number}");
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(form: BinaryForm, binary: &[u8]) -> Result<String, Unencodable> {
        let mut out = Vec::new();
        form.encode(binary, &mut out)?;
        Ok(String::from_utf8(out[1..].to_vec()).unwrap())
    }

    fn interval(micros: i64, days: i32, months: i32) -> String {
        let binary =
            [&micros.to_be_bytes()[..], &days.to_be_bytes(), &months.to_be_bytes()].concat();
        text(BinaryForm::Interval, &binary).unwrap()
    }

    #[test]
    fn intervals_are_printed_in_the_style_that_streams_are_pinned_to() {
        for (micros, days, months, expected) in [
            (0, 0, 0, "00:00:00"),
            (14_706_789_000, 3, 14, "1 year 2 mons 3 days 04:05:06.789"),
            (-1, 0, 0, "-00:00:00.000001"),
            (60_000_000, -1, 13, "1 year 1 mon -1 days +00:01:00"),
            (0, 1, -1, "-1 mons +1 day"),
            (i64::MIN, 0, 0, "-2562047788:00:54.775808"),
            (i64::MAX, i32::MAX, i32::MAX, "infinity"),
        ] {
            assert_eq!(interval(micros, days, months), expected);
        }
    }

    #[test]
    fn a_binary_form_that_is_not_read_is_told_from_one_that_is_broken() {
        assert_eq!(text(BinaryForm::Unreadable, b"x"), Err(Unencodable::BinaryForm));
        for form in [BinaryForm::Versioned, BinaryForm::Char, BinaryForm::Interval] {
            assert_eq!(text(form, b"xyz"), Err(Unencodable::Malformed), "{form:?}");
        }
    }

    const FORMS: [BinaryForm; 13] = [
        BinaryForm::Text,
        BinaryForm::Versioned,
        BinaryForm::Char,
        BinaryForm::Numeric,
        BinaryForm::Interval,
        BinaryForm::Time,
        BinaryForm::TimeTz,
        BinaryForm::Network,
        BinaryForm::Hardware,
        BinaryForm::Bits,
        BinaryForm::Lsn,
        BinaryForm::Unsigned,
        BinaryForm::Unreadable,
    ];

    proptest! {
        #[test]
        fn any_bytes_are_printed_or_refused(
            form in prop::sample::select(FORMS.to_vec()),
            binary in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let _ = form.encode(&binary, &mut Vec::new());
        }
    }
}

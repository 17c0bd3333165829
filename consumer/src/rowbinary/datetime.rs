//! Dates and times, from PostgreSQL's ISO text or its counts since 2000, to days and microseconds
//! since 1970.

use std::ops::RangeInclusive;

use walbench_metrics::clock::POSTGRES_EPOCH_US;

use super::digits::Shape;
use super::unencodable::Unencodable;

/// ClickHouse's `Date32` holds 1900-01-01 to 2299-12-31.
pub(super) const DAYS: RangeInclusive<i32> = -25_567..=120_529;

/// ClickHouse's `DateTime64(6)` holds the same days to their last µs.
pub(super) const MICROS: RangeInclusive<i64> =
    *DAYS.start() as i64 * DAY_US..=(*DAYS.end() as i64 + 1) * DAY_US - 1;

const DAY_US: i64 = 86_400_000_000;
const POSTGRES_EPOCH_DAYS: i32 = (POSTGRES_EPOCH_US / DAY_US) as i32;

const YEAR_MONTH: Shape = Shape::new(b"0000-00-");
const DAY_HOUR_MINUTE: Shape = Shape::new(b"00 00:00");

/// `YYYY-MM-DD` as days since 1970-01-01.
#[inline]
pub(super) fn days(text: &[u8]) -> Result<i32, Unencodable> {
    let date: &[u8; 10] = text.try_into().map_err(|_| out_of_form(text))?;
    let (year_month, day) = (YEAR_MONTH.pairs(first(date)), number::<2>(&date[8..]));
    let (Some(pairs), Ok(day)) = (year_month, day) else { return Err(out_of_form(text)) };
    let days = days_from_civil(pairs, day)? as i32;
    if DAYS.contains(&days) { Ok(days) } else { Err(Unencodable::OutOfRange) }
}

/// Days since 2000-01-01 as days since 1970-01-01. The infinities are the least and the greatest.
#[inline]
pub(super) fn days_from_binary(days: i32) -> Result<i32, Unencodable> {
    let days = days.saturating_add(POSTGRES_EPOCH_DAYS);
    if DAYS.contains(&days) { Ok(days) } else { Err(Unencodable::OutOfRange) }
}

/// `YYYY-MM-DD HH:MM:SS[.ffffff][+HH[:MM[:SS]]]` as µs since 1970-01-01 00:00 UTC.
#[inline]
pub(super) fn micros(text: &[u8]) -> Result<i64, Unencodable> {
    let Some((head, rest)) = text.split_first_chunk::<19>() else { return Err(out_of_form(text)) };
    let date = YEAR_MONTH.pairs(first(head));
    let time = DAY_HOUR_MINUTE.pairs(first(&head[8..]));
    let (Some(date), Some(time), [b':', s1, s2]) = (date, time, &head[16..]) else {
        return Err(out_of_form(text));
    };
    let [day, hours, minutes] = [time[0], time[3], time[6]].map(i64::from);
    let seconds = days_from_civil(date, day)? * 86_400 + hours * 3_600 + minutes * 60;
    let seconds = seconds + number::<2>(&[*s1, *s2])?;
    let (fraction_us, rest) = fraction(rest)?;
    let offset_seconds = if rest == b"+00" { 0 } else { offset(rest)? };
    let micros = (seconds - offset_seconds) * 1_000_000 + fraction_us;
    if MICROS.contains(&micros) { Ok(micros) } else { Err(Unencodable::OutOfRange) }
}

/// µs since 2000-01-01 as µs since 1970-01-01. The infinities are the least and the greatest.
#[inline]
pub(super) fn micros_from_binary(micros: i64) -> Result<i64, Unencodable> {
    let micros = micros.saturating_add(POSTGRES_EPOCH_US);
    if MICROS.contains(&micros) { Ok(micros) } else { Err(Unencodable::OutOfRange) }
}

/// Whether a text that is out of range is so for being too early.
pub(super) fn is_early(text: &[u8]) -> bool {
    let year = text.iter().take_while(|b| b.is_ascii_digit());
    let year = year.fold(0u32, |n, b| n.saturating_mul(10).saturating_add((b - b'0').into()));
    text.first() == Some(&b'-') || text.ends_with(b"BC") || (year < 2_000 && text != b"infinity")
}

/// `infinity`, years of five digits and years before Christ are values that ClickHouse has no room
/// for; anything else is no date at all.
#[cold]
fn out_of_form(text: &[u8]) -> Unencodable {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    match text {
        b"infinity" | b"-infinity" => Unencodable::OutOfRange,
        _ if digits > 4 && text.get(digits) == Some(&b'-') => Unencodable::OutOfRange,
        _ if digits == 4 && text.ends_with(b" BC") => Unencodable::OutOfRange,
        _ => Unencodable::Malformed,
    }
}

#[inline]
fn first(text: &[u8]) -> [u8; 8] {
    text.first_chunk().copied().unwrap_or_default()
}

/// The value of exactly `N` digits.
#[inline]
fn number<const N: usize>(text: &[u8]) -> Result<i64, Unencodable> {
    let digits: &[u8; N] = text.try_into().map_err(|_| Unencodable::Malformed)?;
    let (mut value, mut is_number) = (0, true);
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        is_number &= digit <= 9;
        value = value * 10 + i64::from(digit);
    }
    if is_number { Ok(value) } else { Err(Unencodable::Malformed) }
}

#[inline]
fn fraction(text: &[u8]) -> Result<(i64, &[u8]), Unencodable> {
    let Some((b'.', digits)) = text.split_first() else { return Ok((0, text)) };
    if let Some((six, rest)) = digits.split_first_chunk::<6>()
        && let Ok(micros) = number::<6>(six)
    {
        return Ok((micros, rest));
    }
    let length = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    if !(1..6).contains(&length) {
        return Err(Unencodable::Malformed);
    }
    let value = digits[..length].iter().fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    Ok((value * 10i64.pow(6 - length as u32), &digits[length..]))
}

/// What follows the time: an offset in seconds, or that the year is before Christ.
fn offset(text: &[u8]) -> Result<i64, Unencodable> {
    let (text, is_bc) = text.strip_suffix(b" BC").map_or((text, false), |text| (text, true));
    let two = number::<2>;
    let seconds = match text.get(1..).unwrap_or_default() {
        [] => 0,
        [h @ .., b':', m1, m2, b':', s1, s2] => {
            two(h)? * 3_600 + two(&[*m1, *m2])? * 60 + two(&[*s1, *s2])?
        }
        [h @ .., b':', m1, m2] => two(h)? * 3_600 + two(&[*m1, *m2])? * 60,
        h => two(h)? * 3_600,
    };
    match (is_bc, text) {
        (true, _) => Err(Unencodable::OutOfRange),
        (_, []) => Ok(0),
        (_, [b'+', _, ..]) => Ok(seconds),
        (_, [b'-', _, ..]) => Ok(-seconds),
        _ => Err(Unencodable::Malformed),
    }
}

/// Days since 1970-01-01 of a date in the Gregorian calendar (year and month as
/// [`Shape::pairs`] gives them), counted in years that begin in March so that the leap day is a
/// year's last.
#[inline]
fn days_from_civil(year_month: [u8; 8], day: i64) -> Result<i64, Unencodable> {
    let [century, year, month] = [year_month[0], year_month[2], year_month[5]].map(i64::from);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(Unencodable::Malformed);
    }
    let year = century * 100 + year - i64::from(month <= 2);
    let month_from_march = if month <= 2 { month + 9 } else { month - 3 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    // Before March of the year 0 is before anything that comes without BC.
    let [by_4, by_100, by_400] = [4, 100, 400].map(|n| year.max(0) / n);
    Ok(year * 365 + by_4 - by_100 + by_400 + day_of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_count_from_1970() {
        for (text, expected) in [
            ("1970-01-01", 0),
            ("1969-12-31", -1),
            ("2000-02-29", 11_016),
            ("2000-03-01", 11_017),
            ("2026-11-20", 20_777),
            ("1900-01-01", -25_567),
            ("2299-12-31", 120_529),
        ] {
            assert_eq!(days(text.as_bytes()), Ok(expected), "{text}");
        }
        assert_eq!(days_from_binary(0), Ok(10_957));
    }

    #[test]
    fn times_are_in_utc() {
        for (text, expected) in [
            ("1970-01-01 00:00:00+00", 0),
            ("1970-01-01 00:00:01.5+00", 1_500_000),
            ("1970-01-01 01:00:00.000001+01", 1),
            ("1969-12-31 23:59:59.999999", -1),
            ("1970-01-01 00:00:00-05:30", 19_800_000_000),
            ("1970-01-01 00:19:32+00:19:32", 0),
            ("1969-12-31 24:00:00", 0),
            ("2026-11-20 09:17:26.123456+00", 1_795_166_246_123_456),
            ("1899-12-31 23:00:00-01", *MICROS.start()),
            ("2299-12-31 23:59:59.999999", *MICROS.end()),
        ] {
            assert_eq!(micros(text.as_bytes()), Ok(expected), "{text}");
        }
        assert_eq!(micros_from_binary(-1), Ok(POSTGRES_EPOCH_US - 1));
    }

    #[test]
    fn what_clickhouse_can_not_hold_is_told_from_what_is_no_date() {
        for (text, early) in [
            ("infinity", false),
            ("-infinity", true),
            ("10000-01-01", false),
            ("5874897-12-31", false),
            ("1899-12-31", true),
            ("0001-01-01", true),
            ("2300-01-01", false),
            ("0044-03-15 BC", true),
            ("4713-01-01 BC", true),
        ] {
            assert_eq!(days(text.as_bytes()), Err(Unencodable::OutOfRange), "{text}");
            assert_eq!(is_early(text.as_bytes()), early, "{text}");
        }
        for (text, early) in [
            ("infinity", false),
            ("-infinity", true),
            ("294276-12-31 23:59:59.999999+00", false),
            ("4713-01-01 00:00:00 BC", true),
            ("0044-03-15 12:00:00.5+00 BC", true),
            ("1900-01-01 00:00:00+00:00:01", true),
            ("2299-12-31 23:59:59.5-01", false),
        ] {
            assert_eq!(micros(text.as_bytes()), Err(Unencodable::OutOfRange), "{text}");
            assert_eq!(is_early(text.as_bytes()), early, "{text}");
        }
        for text in ["", "yesterday", "2026-1-1", "2026-11-20x", "2026-13-01", "2026-00-10", "BC"] {
            assert_eq!(days(text.as_bytes()), Err(Unencodable::Malformed), "{text}");
        }
        for text in [
            "2026-11-20",
            "2026-11-20 09:17:26.",
            "2026-11-20 09:17:26.1234567",
            "2026-11-20 09:17:26+",
        ] {
            assert_eq!(micros(text.as_bytes()), Err(Unencodable::Malformed), "{text}");
        }
        for infinity in [i32::MIN, i32::MAX] {
            assert_eq!(days_from_binary(infinity), Err(Unencodable::OutOfRange));
        }
        for infinity in [i64::MIN, i64::MAX] {
            assert_eq!(micros_from_binary(infinity), Err(Unencodable::OutOfRange));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9 :+.-]{0,32}( BC)?") {
            let _ = (days(text.as_bytes()), micros(text.as_bytes()), is_early(text.as_bytes()));
        }
    }
}

//! Dates and times: PostgreSQL's ISO text to days and microseconds since 1970.

use super::unencodable::Unencodable;

/// ClickHouse's `Date32` and `DateTime64` hold 1900-01-01 to 2299-12-31.
const YEARS: std::ops::RangeInclusive<i64> = 1900..=2299;

/// `YYYY-MM-DD` as days since 1970-01-01.
pub(super) fn days(text: &[u8]) -> Result<i32, Unencodable> {
    let (days, rest) = date(text)?;
    if rest.is_empty() { Ok(days as i32) } else { Err(out_of_form(rest)) }
}

/// `YYYY-MM-DD HH:MM:SS[.ffffff][+HH[:MM[:SS]]]` as µs since 1970-01-01 00:00 UTC.
#[inline]
pub(super) fn micros(text: &[u8]) -> Result<i64, Unencodable> {
    let (days, rest) = date(text)?;
    let &[b' ', h1, h2, b':', m1, m2, b':', s1, s2, ref rest @ ..] = rest else {
        return Err(out_of_form(rest));
    };
    let seconds = two(h1, h2)? * 3_600 + two(m1, m2)? * 60 + two(s1, s2)?;
    let (fraction_us, rest) = fraction(rest)?;
    let offset_seconds = offset(rest)?;
    Ok((days * 86_400 + seconds - offset_seconds) * 1_000_000 + fraction_us)
}

#[inline]
fn date(text: &[u8]) -> Result<(i64, &[u8]), Unencodable> {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, ref rest @ ..] = text else {
        return Err(out_of_form(text));
    };
    let year = two(y1, y2)? * 100 + two(y3, y4)?;
    if !YEARS.contains(&year) || rest.ends_with(b"BC") {
        return Err(Unencodable::OutOfRange);
    }
    Ok((days_from_civil(year, two(m1, m2)?, two(d1, d2)?), rest))
}

/// `infinity` and years of five digits are values ClickHouse has no room for; anything else is not
/// a date at all.
#[cold]
fn out_of_form(text: &[u8]) -> Unencodable {
    match text {
        b"infinity" | b"-infinity" => Unencodable::OutOfRange,
        [y1, y2, y3, y4, y5, ..] if [y1, y2, y3, y4, y5].iter().all(|b| b.is_ascii_digit()) => {
            Unencodable::OutOfRange
        }
        _ => Unencodable::Malformed,
    }
}

#[inline]
fn two(tens: u8, ones: u8) -> Result<i64, Unencodable> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    if tens > 9 || ones > 9 {
        return Err(Unencodable::Malformed);
    }
    Ok(i64::from(tens * 10 + ones))
}

#[inline]
fn fraction(text: &[u8]) -> Result<(i64, &[u8]), Unencodable> {
    let Some((b'.', digits)) = text.split_first() else { return Ok((0, text)) };
    let length = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    if !(1..=6).contains(&length) {
        return Err(Unencodable::Malformed);
    }
    let value = digits[..length].iter().fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    Ok((value * 10i64.pow(6 - length as u32), &digits[length..]))
}

#[inline]
fn offset(text: &[u8]) -> Result<i64, Unencodable> {
    let Some((sign, rest)) = text.split_first() else { return Ok(0) };
    let seconds = match *rest {
        [h1, h2] => two(h1, h2)? * 3_600,
        [h1, h2, b':', m1, m2] => two(h1, h2)? * 3_600 + two(m1, m2)? * 60,
        [h1, h2, b':', m1, m2, b':', s1, s2] => {
            two(h1, h2)? * 3_600 + two(m1, m2)? * 60 + two(s1, s2)?
        }
        _ => return Err(Unencodable::Malformed),
    };
    match sign {
        b'+' => Ok(seconds),
        b'-' => Ok(-seconds),
        _ => Err(Unencodable::Malformed),
    }
}

/// Days since 1970-01-01 of a date in the Gregorian calendar, counted in years that begin in March
/// so that the leap day is a year's last. For years after 0.
#[inline]
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
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
    }

    #[test]
    fn times_are_in_utc() {
        for (text, expected) in [
            ("1970-01-01 00:00:00+00", 0),
            ("1970-01-01 00:00:01.5+00", 1_500_000),
            ("1970-01-01 01:00:00.000001+01", 1),
            ("1969-12-31 23:59:59.999999", -1),
            ("1970-01-01 00:00:00-05:30", 19_800_000_000),
            ("2026-11-20 09:17:26.123456+00", 1_795_166_246_123_456),
        ] {
            assert_eq!(micros(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_clickhouse_can_not_hold_is_told_from_what_is_no_date() {
        for text in ["infinity", "-infinity", "10000-01-01", "1899-12-31", "0044-03-15 BC"] {
            assert_eq!(days(text.as_bytes()), Err(Unencodable::OutOfRange), "{text}");
        }
        for text in ["", "yesterday", "2026-1-1", "2026-11-20x"] {
            assert_eq!(days(text.as_bytes()), Err(Unencodable::Malformed), "{text}");
        }
    }
}

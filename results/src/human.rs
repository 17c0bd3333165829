//! Numbers as a person reads them. What was not measured is a dash.

const NOTHING: &str = "–";

/// A duration in µs as `87 µs`, `1.23 ms` or `4.56 s`.
pub(crate) fn us(us: impl Into<Option<f64>>) -> String {
    match us.into() {
        None => NOTHING.into(),
        Some(us) if us < 999.5 => format!("{} µs", digits(us)),
        Some(us) if us < 999_500.0 => format!("{} ms", digits(us / 1e3)),
        Some(us) => format!("{} s", digits(us / 1e6)),
    }
}

/// A statistic of a timing, in µs.
pub(crate) fn stat(us: Option<u64>) -> String {
    self::us(us.map(|us| us as f64))
}

/// A duration in seconds.
pub(crate) fn sec(sec: impl Into<Option<f64>>) -> String {
    us(sec.into().map(|sec| sec * 1e6))
}

/// CPU time for each row, in µs.
pub(crate) fn us_per_row(us: Option<f64>) -> String {
    us.map_or_else(|| NOTHING.into(), |us| format!("{} µs", digits(us)))
}

/// A rate in rows/s, without its unit.
pub(crate) fn rate(rate: impl Into<Option<f64>>) -> String {
    match rate.into() {
        None => NOTHING.into(),
        Some(rate) if rate >= 999.5 => count(rate.round() as u64),
        Some(rate) => digits(rate),
    }
}

/// A count as `1,234,567`.
pub fn count(count: impl Into<Option<u64>>) -> String {
    let Some(count) = count.into() else { return NOTHING.into() };
    let plain = count.to_string();
    let mut grouped = String::new();
    for (index, digit) in plain.chars().enumerate() {
        if index > 0 && (plain.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A count with its noun: `1 row`, `1,200 rows`. The plural is formed by an `s`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", self::count(count))
}

/// A size in bytes as `512 B`, `1.23 MiB`, ….
pub(crate) fn bytes(bytes: impl Into<Option<u64>>) -> String {
    let Some(bytes) = bytes.into() else { return NOTHING.into() };
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1023.5 {
            return format!("{} {unit}", digits(size));
        }
        size /= 1024.0;
    }
    format!("{} TiB", digits(size))
}

/// A share as a percentage.
pub(crate) fn percent(share: impl Into<Option<f64>>) -> String {
    share.into().map_or_else(|| NOTHING.into(), |share| format!("{} %", digits(share * 100.0)))
}

/// Three significant digits, without an exponent and without empty decimals.
fn digits(number: f64) -> String {
    let decimals = match number.abs() {
        n if n >= 99.95 => 0,
        n if n >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{number:.decimals$}");
    if decimals == 0 {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        assert_eq!([0.0, 87.0, 999.6, 1_234.0].map(us), ["0 µs", "87 µs", "1 ms", "1.23 ms"]);
        assert_eq!([999_600.0, 61_000_000.0].map(us), ["1 s", "61 s"]);
        assert_eq!([0, 1_023, 1_024, 1 << 30].map(bytes), ["0 B", "1023 B", "1 KiB", "1 GiB"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 12.345, 999.4, 99_999.6].map(rate), ["0", "12.3", "999", "100,000"]);
        assert_eq!((counted(1, "row"), counted(2, "row")), ("1 row".into(), "2 rows".into()));
        assert_eq!(percent(0.0123), "1.23 %");
        assert_eq!((us(None), count(None), bytes(None)), ("–".into(), "–".into(), "–".into()));
    }
}

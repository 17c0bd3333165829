//! `numeric(precision, scale)` as ClickHouse's `Decimal`: an integer of units of the scale; and any
//! numeric's text, from its binary form.

use super::digits;
use super::unencodable::Unencodable;

/// Powers of ten up to a Decimal's digits.
const POWERS: [i128; 39] = {
    let mut powers = [1; 39];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = powers[n - 1] * 10;
        n += 1;
    }
    powers
};

/// The greatest number of units.
pub(super) fn greatest(precision: u32) -> i128 {
    power(precision) - 1
}

/// The text of a numeric as units of 10^-scale.
#[inline]
pub(super) fn units(text: &[u8], precision: u32, scale: u32) -> Result<i128, Unencodable> {
    let (is_negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let (units, seen_scale) = if digits.len() <= 19 { short(digits)? } else { long(digits)? };
    let missing = scale.checked_sub(seen_scale).ok_or(Unencodable::Malformed)?;
    fitted(is_negative, units.checked_mul(power(missing)), precision)
}

/// Digits without their point, and how many stand behind it. A u64 holds nineteen.
#[inline]
fn short(text: &[u8]) -> Result<(i128, u32), Unencodable> {
    let (mut units, mut seen_scale, mut point) = (0u64, 0, 0);
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            units = units * 10 + u64::from(digit);
            seen_scale += point;
        } else if byte == b'.' && point == 0 {
            point = 1;
        } else {
            return Err(special(text));
        }
    }
    if text.is_empty() { Err(Unencodable::Malformed) } else { Ok((units.into(), seen_scale)) }
}

fn long(text: &[u8]) -> Result<(i128, u32), Unencodable> {
    let point = memchr::memchr(b'.', text).unwrap_or(text.len());
    let (whole, part) = (&text[..point], text.get(point + 1..).unwrap_or_default());
    let mut units = 0i128;
    for digits in [whole, part] {
        for digits in digits.chunks(19) {
            let digits_units = digits::number(digits)?.into();
            units = units
                .checked_mul(power(digits.len() as u32))
                .and_then(|units| units.checked_add(digits_units))
                .ok_or(Unencodable::OutOfRange)?;
        }
    }
    Ok((units, part.len() as u32))
}

/// A numeric's binary form.
struct Numeric<'a> {
    /// Exponent of the first digit, to the base of 10,000.
    weight: i32,
    is_negative: bool,
    /// Decimal digits behind the point.
    shown_scale: usize,
    /// To the base of 10,000.
    digits: &'a [[u8; 2]],
}

/// A binary numeric, or the name of one that is no number.
fn read(binary: &[u8]) -> Result<Result<Numeric<'_>, &'static str>, Unencodable> {
    let Some((&[n1, n2, w1, w2, s1, s2, d1, d2], digits)) = binary.split_first_chunk() else {
        return Err(Unencodable::Malformed);
    };
    let (digits, odd) = digits.as_chunks::<2>();
    if digits.len() != usize::from(u16::from_be_bytes([n1, n2])) || !odd.is_empty() {
        return Err(Unencodable::Malformed);
    }
    let is_negative = match u16::from_be_bytes([s1, s2]) {
        0x0000 => false,
        0x4000 => true,
        0xc000 => return Ok(Err("NaN")),
        0xd000 => return Ok(Err("Infinity")),
        0xf000 => return Ok(Err("-Infinity")),
        _ => return Err(Unencodable::Malformed),
    };
    let weight = i16::from_be_bytes([w1, w2]).into();
    let shown_scale = u16::from_be_bytes([d1, d2]).into();
    Ok(Ok(Numeric { weight, is_negative, shown_scale, digits }))
}

/// Whether a binary numeric is below zero; infinity too.
pub(super) fn is_negative(binary: &[u8]) -> bool {
    matches!(binary, [_, _, _, _, 0x40 | 0xf0, 0, ..])
}

/// A binary numeric as units of 10^-scale.
#[inline]
pub(super) fn units_from_binary(
    binary: &[u8],
    precision: u32,
    scale: u32,
) -> Result<i128, Unencodable> {
    let Numeric { weight, is_negative, digits, .. } =
        read(binary)?.map_err(|name| special(name.as_bytes()))?;
    let mut units = 0i128;
    // Decimal exponent of the digit, counted in units.
    let mut exponent = weight * 4 + scale.cast_signed();
    for digit in digits {
        let digit = u16::from_be_bytes(*digit);
        // The last digit may reach behind the scale, with zeros.
        let kept = (exponent + 4).clamp(0, 4).cast_unsigned();
        let dropped = [10_000, 1_000, 100, 10, 1][kept as usize];
        if digit > 9_999 || digit % dropped != 0 {
            return Err(Unencodable::Malformed);
        }
        units = units
            .checked_mul(power(kept))
            .and_then(|units| units.checked_add((digit / dropped).into()))
            .ok_or(Unencodable::OutOfRange)?;
        exponent -= 4;
    }
    // Zeros at the end are not sent.
    let zeros = (exponent + 4).max(0).cast_unsigned();
    let units = if units == 0 { Some(0) } else { units.checked_mul(power(zeros)) };
    fitted(is_negative, units, precision)
}

#[inline]
fn power(exponent: u32) -> i128 {
    POWERS.get(exponent as usize).copied().unwrap_or(i128::MAX)
}

#[inline]
fn fitted(is_negative: bool, units: Option<i128>, precision: u32) -> Result<i128, Unencodable> {
    let units = units.filter(|units| *units < power(precision)).ok_or(Unencodable::OutOfRange)?;
    Ok(if is_negative { -units } else { units })
}

/// Numerics that are no numbers.
#[cold]
fn special(text: &[u8]) -> Unencodable {
    match text {
        b"NaN" => Unencodable::NotANumber,
        b"Infinity" | b"-Infinity" => Unencodable::OutOfRange,
        _ => Unencodable::Malformed,
    }
}

/// Appends the text of a binary numeric, as PostgreSQL prints it.
pub(super) fn text_from_binary(binary: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
    let numeric = match read(binary)? {
        Ok(numeric) => numeric,
        Err(name) => {
            out.extend_from_slice(name.as_bytes());
            return Ok(());
        }
    };
    let Numeric { weight, is_negative, shown_scale, digits } = numeric;
    let digit = |at: i32| {
        let digit = usize::try_from(at).ok().and_then(|at| digits.get(at));
        let digit = digit.map_or(0, |digit| u16::from_be_bytes(*digit));
        if digit <= 9_999 { Ok(decimal_digits(digit)) } else { Err(Unencodable::Malformed) }
    };
    if is_negative {
        out.push(b'-');
    }
    let start = out.len();
    for at in 0..=weight {
        let zeros = if out.len() > start { 0 } else { leading_zeros(digit(at)?) };
        out.extend_from_slice(&digit(at)?[zeros..]);
    }
    if out.len() == start {
        out.push(b'0');
    }
    if shown_scale > 0 {
        out.push(b'.');
        let end = out.len() + shown_scale;
        for at in (weight + 1..).take(shown_scale.div_ceil(4)) {
            out.extend_from_slice(&digit(at)?);
        }
        out.truncate(end);
    }
    Ok(())
}

fn decimal_digits(n: u16) -> [u8; 4] {
    [1_000, 100, 10, 1].map(|power| b'0' + (n / power % 10) as u8)
}

fn leading_zeros(digits: [u8; 4]) -> usize {
    digits.iter().take_while(|b| **b == b'0').count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As PostgreSQL sends it.
    fn binary(weight: i16, sign: u16, shown_scale: u16, digits: &[u16]) -> Vec<u8> {
        let header = [digits.len() as u16, weight.cast_unsigned(), sign, shown_scale];
        header.iter().chain(digits).flat_map(|n| n.to_be_bytes()).collect()
    }

    fn text(binary: &[u8]) -> Result<String, Unencodable> {
        let mut out = Vec::new();
        text_from_binary(binary, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn values_are_scaled() {
        for (text, precision, scale, expected) in [
            ("12.5", 20, 6, Ok(12_500_000)),
            ("-0.000001", 20, 6, Ok(-1)),
            ("7", 5, 0, Ok(7)),
            ("-99999999999999999999.999999999999999999", 38, 18, Ok(1 - POWERS[38])),
            ("0.99999999999999999999999999999999999999", 38, 38, Ok(POWERS[38] - 1)),
            ("NaN", 20, 6, Err(Unencodable::NotANumber)),
            ("-Infinity", 20, 6, Err(Unencodable::OutOfRange)),
            ("1000", 5, 2, Err(Unencodable::OutOfRange)),
            ("100000000000000000000000000000000000000", 38, 0, Err(Unencodable::OutOfRange)),
            ("1.005", 5, 2, Err(Unencodable::Malformed)),
            ("", 5, 2, Err(Unencodable::Malformed)),
            ("1e5", 5, 2, Err(Unencodable::Malformed)),
            ("1.2.3", 5, 2, Err(Unencodable::Malformed)),
            ("12345678901234567890.1.2", 38, 2, Err(Unencodable::Malformed)),
        ] {
            assert_eq!(units(text.as_bytes(), precision, scale), expected, "{text}");
        }
    }

    #[test]
    fn binary_values_are_scaled_and_printed() {
        for (binary, precision, scale, expected, printed) in [
            (binary(0, 0, 6, &[12, 5_000]), 20, 6, Ok(12_500_000), "12.500000"),
            (binary(-2, 0x4000, 6, &[100]), 20, 6, Ok(-1), "-0.000001"),
            (binary(1, 0, 0, &[1]), 9, 0, Ok(10_000), "10000"),
            (binary(0, 0, 0, &[]), 9, 2, Ok(0), "0"),
            (binary(0, 0, 2, &[]), 9, 2, Ok(0), "0.00"),
            (binary(2, 0, 1, &[1, 0, 20, 5_000]), 20, 1, Ok(1_000_000_205), "100000020.5"),
            (binary(1, 0, 0, &[1]), 4, 0, Err(Unencodable::OutOfRange), "10000"),
            (binary(0, 0, 3, &[1, 50]), 5, 2, Err(Unencodable::Malformed), "1.005"),
            (binary(0, 0xc000, 0, &[]), 5, 2, Err(Unencodable::NotANumber), "NaN"),
            (binary(0, 0xf000, 0, &[]), 5, 2, Err(Unencodable::OutOfRange), "-Infinity"),
        ] {
            assert_eq!(units_from_binary(&binary, precision, scale), expected, "{printed}");
            assert_eq!(text(&binary).as_deref(), Ok(printed));
        }
        for broken in [vec![0; 7], binary(0, 0, 0, &[10_000]), binary(0, 1, 0, &[]), vec![0; 9]] {
            assert_eq!(text(&broken), Err(Unencodable::Malformed), "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_decimal_is_read_back(value in 1 - POWERS[38]..POWERS[38], scale in 0u32..=38) {
            let (sign, magnitude) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
            let factor = 10u128.pow(scale);
            let width = scale as usize;
            let text = match scale {
                0 => format!("{sign}{magnitude}"),
                _ => format!("{sign}{}.{:0width$}", magnitude / factor, magnitude % factor),
            };
            prop_assert_eq!(units(text.as_bytes(), 38, scale), Ok(value));
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            text in prop::collection::vec(any::<u8>(), 0..60),
            precision in 1u32..=38,
            weight: i16,
            digits in prop::collection::vec(0u16..=9_999, 0..12),
        ) {
            let _ = units(&text, precision, precision / 2);
            let _ = units_from_binary(&text, precision, precision / 2);
            let _ = units_from_binary(&binary(weight, 0, 3, &digits), precision, precision / 2);
        }
    }
}

//! `numeric(precision, scale)` as ClickHouse's `Decimal`: an integer of units of the scale.

use super::unencodable::Unencodable;

/// The text of a numeric as units of 10^-scale.
#[inline]
pub(super) fn units(text: &[u8], precision: u32, scale: u32) -> Result<i128, Unencodable> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let mut units: i128 = 0;
    let mut seen_scale = None;
    for &byte in digits {
        match byte {
            b'0'..=b'9' => {
                units = units
                    .checked_mul(10)
                    .and_then(|units| units.checked_add(i128::from(byte - b'0')))
                    .ok_or(Unencodable::OutOfRange)?;
                seen_scale = seen_scale.map(|n: u32| n + 1);
            }
            b'.' if seen_scale.is_none() => seen_scale = Some(0),
            _ => return Err(special(digits)),
        }
    }
    let seen_scale = seen_scale.unwrap_or(0);
    if digits.is_empty() || seen_scale > scale {
        return Err(Unencodable::Malformed);
    }
    let factor = 10i128.pow(scale - seen_scale);
    let units = units.checked_mul(factor).ok_or(Unencodable::OutOfRange)?;
    if units >= 10i128.pow(precision) {
        return Err(Unencodable::OutOfRange);
    }
    Ok(if negative { -units } else { units })
}

/// `NaN` and `Infinity` are numerics that a Decimal can't hold.
#[cold]
fn special(text: &[u8]) -> Unencodable {
    if matches!(text, b"NaN" | b"Infinity") {
        Unencodable::OutOfRange
    } else {
        Unencodable::Malformed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_scaled() {
        assert_eq!(units(b"12.5", 20, 6), Ok(12_500_000));
        assert_eq!(units(b"-0.000001", 20, 6), Ok(-1));
        assert_eq!(units(b"7", 5, 0), Ok(7));
        assert_eq!(units(b"NaN", 20, 6), Err(Unencodable::OutOfRange));
        assert_eq!(units(b"-Infinity", 20, 6), Err(Unencodable::OutOfRange));
        assert_eq!(units(b"1000", 5, 2), Err(Unencodable::OutOfRange));
        assert_eq!(units(b"", 5, 2), Err(Unencodable::Malformed));
        assert_eq!(units(b"1e5", 5, 2), Err(Unencodable::Malformed));
    }

    proptest! {
        #[test]
        fn a_printed_decimal_is_read_back(value in -999_999_999_999i128..=999_999_999_999, scale in 0u32..=12) {
            let (sign, magnitude) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
            let factor = 10u128.pow(scale);
            let width = scale as usize;
            let text = match scale {
                0 => format!("{sign}{magnitude}"),
                _ => format!("{sign}{}.{:0width$}", magnitude / factor, magnitude % factor),
            };
            prop_assert_eq!(units(text.as_bytes(), 12, scale), Ok(value));
        }

        #[test]
        fn any_text_is_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = units(&text, 38, 10);
        }
    }
}

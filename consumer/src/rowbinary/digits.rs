//! Decimal and hexadecimal digits, several at a time: most bytes of a text stream are digits.

use super::unencodable::Unencodable;

/// Bit 7 of each byte.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Eight bytes that look like `shape`: a digit wherever it has a `0`, the same byte elsewhere. Read
/// in pairs: a byte of the result that stands for tens holds the pair's value.
#[inline]
pub(super) fn pairs(bytes: [u8; 8], shape: &[u8; 8]) -> Option<[u8; 8]> {
    // What must be added to reach bit 7 with one more than is allowed: 9 for digits, else 0.
    let slack = u64::from_le_bytes(shape.map(|b| if b == b'0' { 0x76 } else { 0x7f }));
    let digits = u64::from_le_bytes(bytes) ^ u64::from_le_bytes(*shape);
    // A carry out of a byte comes from one with bit 7, which is refused anyway.
    if (digits.wrapping_add(slack) | digits) & HIGH_BITS != 0 {
        return None;
    }
    Some((digits * 10 + (digits >> 8)).to_le_bytes())
}

/// The value of eight digits.
#[inline]
fn eight(bytes: [u8; 8]) -> Option<u64> {
    let pairs = u64::from_le_bytes(pairs(bytes, b"00000000")?);
    let (even, odd) = (pairs & 0xff_0000_00ff, (pairs >> 16) & 0xff_0000_00ff);
    // Each product's upper half is the sum of two pairs at their places.
    let low = even.wrapping_mul(100 + (1_000_000 << 32));
    Some(low.wrapping_add(odd.wrapping_mul(1 + (10_000 << 32))) >> 32)
}

/// The value of one to nineteen digits, which a u64 always holds.
#[inline]
pub(super) fn number(mut text: &[u8]) -> Result<u64, Unencodable> {
    if !(1..=19).contains(&text.len()) {
        return Err(Unencodable::Malformed);
    }
    let mut value = 0;
    while let Some((chunk, rest)) = text.split_first_chunk::<8>() {
        value = value * 100_000_000 + eight(*chunk).ok_or(Unencodable::Malformed)?;
        text = rest;
    }
    let mut is_number = true;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        is_number &= digit <= 9;
        value = value * 10 + u64::from(digit & 15);
    }
    if is_number { Ok(value) } else { Err(Unencodable::Malformed) }
}

/// What no hexadecimal digit is worth.
const NO_DIGIT: u8 = 0xff;

#[inline]
fn nibble(byte: u8) -> u8 {
    let (digit, letter) = (byte.wrapping_sub(b'0'), (byte | 0x20).wrapping_sub(b'a'));
    let letter = if letter < 6 { letter + 10 } else { NO_DIGIT };
    if digit <= 9 { digit } else { letter }
}

/// The bytes that hexadecimal digits stand for.
#[inline]
pub(super) fn hex<const N: usize>(digits: [[u8; 2]; N]) -> Result<[u8; N], Unencodable> {
    // Checked at the end and not one by one, so that the compiler can take many at once.
    let nibbles = digits.map(|pair| pair.map(nibble));
    let all = nibbles.iter().fold(0, |all, [high, low]| all | high | low);
    let bytes = nibbles.map(|[high, low]| high << 4 | low & 15);
    if all == NO_DIGIT { Err(Unencodable::Malformed) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_stand_where_their_tens_do() {
        let pairs = pairs(*b"2026-11-", b"0000-00-").unwrap();
        assert_eq!([pairs[0], pairs[2], pairs[5]], [20, 26, 11]);
    }

    #[test]
    fn what_is_no_digit_is_refused() {
        for text in ["", "1x", "/", ":", "1234567:", "1234/678", "12345678901234567890"] {
            assert_eq!(number(text.as_bytes()), Err(Unencodable::Malformed), "{text}");
        }
        for pair in [*b"0g", *b"/0", *b"0:", *b"@0", *b"\xff0"] {
            assert_eq!(hex([pair]), Err(Unencodable::Malformed), "{pair:?}");
        }
        assert_eq!(pairs(*b"2026-11/", b"0000-00-"), None);
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_they_are_written(n in 0..10u64.pow(19)) {
            prop_assert_eq!(number(n.to_string().as_bytes()), Ok(n));
        }

        #[test]
        fn any_eight_bytes_are_a_number_or_refused(
            text in prop::collection::vec(prop_oneof![b'-'..=b'<', any::<u8>()], 8),
        ) {
            let expected = text.iter().all(u8::is_ascii_digit);
            prop_assert_eq!(number(&text).is_ok(), expected);
        }

        #[test]
        fn hexadecimal_digits_are_read_as_they_are_written(bytes: [u8; 16]) {
            for text in [format!("{:032x}", u128::from_be_bytes(bytes)),
                         format!("{:032X}", u128::from_be_bytes(bytes))] {
                let pairs: [[u8; 2]; 16] = text.as_bytes().as_chunks().0.try_into().unwrap();
                prop_assert_eq!(hex(pairs), Ok(bytes));
            }
        }
    }
}

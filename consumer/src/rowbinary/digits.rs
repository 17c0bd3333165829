//! Decimal and hexadecimal digits, several at a time: most bytes of a text stream are digits.

use super::unencodable::Unencodable;

/// Bit 7 of each byte.
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// What eight bytes should look like.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    bytes: u64,
    /// What may be added to a byte's difference before it reaches bit 7.
    slack: u64,
}

impl Shape {
    /// A digit wherever the pattern has a `0`, the same byte elsewhere.
    pub(super) const fn new(pattern: &[u8; 8]) -> Self {
        let mut slack = [0x7f; 8];
        let mut at = 0;
        while at < 8 {
            if pattern[at] == b'0' {
                slack[at] -= 9;
            }
            at += 1;
        }
        Self { bytes: u64::from_le_bytes(*pattern), slack: u64::from_le_bytes(slack) }
    }

    /// The bytes, if they look like it, read in pairs: a byte of the result that stands for tens
    /// holds the pair's value.
    #[inline]
    pub(super) fn pairs(self, bytes: [u8; 8]) -> Option<[u8; 8]> {
        let digits = u64::from_le_bytes(bytes) ^ self.bytes;
        // A carry out of a byte comes from one with bit 7, which is refused anyway.
        if (digits.wrapping_add(self.slack) | digits) & HIGH_BITS != 0 {
            return None;
        }
        Some((digits * 10 + (digits >> 8)).to_le_bytes())
    }
}

/// The value of eight digits.
#[inline]
fn eight(bytes: [u8; 8]) -> Option<u64> {
    const DIGITS: Shape = Shape::new(b"00000000");
    let pairs = u64::from_le_bytes(DIGITS.pairs(bytes)?);
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

/// The sixteen bytes that hexadecimal digits stand for. Written so that the compiler takes many
/// digits at once.
#[inline]
pub(super) fn hex(digits: &[u8; 32]) -> Result<[u8; 16], Unencodable> {
    let (mut nibbles, mut all, mut bytes) = ([0; 32], 0, [0; 16]);
    for (nibble_of, digit) in nibbles.iter_mut().zip(digits) {
        *nibble_of = nibble(*digit);
    }
    for nibble in nibbles {
        all |= nibble;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(nibbles.as_chunks().0) {
        *byte = high << 4 | low & 15;
    }
    if all == NO_DIGIT { Err(Unencodable::Malformed) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_stand_where_their_tens_do() {
        let pairs = Shape::new(b"0000-00-").pairs(*b"2026-11-").unwrap();
        assert_eq!([pairs[0], pairs[2], pairs[5]], [20, 26, 11]);
    }

    #[test]
    fn what_is_no_digit_is_refused() {
        for text in ["", "1x", "/", ":", "1234567:", "1234/678", "12345678901234567890"] {
            assert_eq!(number(text.as_bytes()), Err(Unencodable::Malformed), "{text}");
        }
        for byte in *b"gG/:@`\xff" {
            let digits = [[b'0'; 31].as_slice(), &[byte]].concat().try_into().unwrap();
            assert_eq!(hex(&digits), Err(Unencodable::Malformed), "{byte}");
        }
        assert_eq!(Shape::new(b"0000-00-").pairs(*b"2026-11/"), None);
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
                prop_assert_eq!(hex(text.as_bytes().try_into().unwrap()), Ok(bytes));
            }
        }
    }
}

//! PostgreSQL's binary formats of values, as its `*_recv` functions read them (source:
//! `src/backend/utils/adt` of PostgreSQL).
//!
//! Every function appends a value's content; [`sized`] puts the length before it.

use super::draw::Draw;

/// 2026-01-01 00:00 UTC in µs of PostgreSQL's epoch (2000-01-01): where generated times begin.
pub const BASE_TIME_US: i64 = 9_497 * DAY_US;
/// 2026-01-01 in days of PostgreSQL's epoch.
pub const BASE_DAY: i32 = 9_497;
/// µs of a day.
pub const DAY_US: i64 = 86_400_000_000;

/// Lower-case base 32 without the letters that look like digits.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Length of a NULL.
const NULL: i32 = -1;

/// Appends a NULL in place of a length and a content.
pub fn null(out: &mut Vec<u8>) {
    out.extend(NULL.to_be_bytes());
}

/// Appends the length of what `content` appends, then that.
pub fn sized(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 4]);
    content(out);
    let length = i32::try_from(out.len() - start - 4).unwrap_or(i32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends length and content.
pub fn bytes(out: &mut Vec<u8>, content: &[u8]) {
    out.extend(i32::try_from(content.len()).unwrap_or(i32::MAX).to_be_bytes());
    out.extend_from_slice(content);
}

/// A `numeric` of `unscaled` / 10^`scale`: groups of four decimal digits around the point.
pub fn numeric(out: &mut Vec<u8>, unscaled: u64, scale: u16) {
    // Aligned to the point: the fraction is filled up to whole groups of four.
    let fraction_groups = usize::from(scale.div_ceil(4));
    let fill = u32::from(scale.div_ceil(4) * 4 - scale);
    let mut rest = u128::from(unscaled) * 10u128.pow(fill);
    let mut groups = [0u16; 12];
    let mut count = 0;
    while (rest > 0 || count < fraction_groups) && count < groups.len() {
        groups[count] = u16::try_from(rest % 10_000).unwrap_or_default();
        rest /= 10_000;
        count += 1;
    }
    // Lowest group first until here; zero groups at either end are not written.
    let high = groups[..count].iter().rposition(|g| *g != 0).map_or(0, |at| at + 1);
    let low = groups[..high].iter().position(|g| *g != 0).unwrap_or(high);
    let weight = high as i64 - fraction_groups as i64 - 1;
    let header = [(high - low) as u64, weight.cast_unsigned(), 0, u64::from(scale)];
    for field in header {
        out.extend((field as u16).to_be_bytes());
    }
    for group in groups[low..high].iter().rev() {
        out.extend(group.to_be_bytes());
    }
}

/// Exactly `digits` base-32 digits of `number`, the highest first, so that text sorts as numbers.
pub fn base32(out: &mut Vec<u8>, number: u64, digits: u32) {
    for place in (0..digits).rev() {
        let digit = number.checked_shr(place * 5).unwrap_or_default() & 31;
        out.push(BASE32[digit as usize]);
    }
}

/// `count` random characters that no compressor makes much shorter than 6 bits each.
pub fn noise(out: &mut Vec<u8>, count: usize, draw: &mut Draw) {
    let end = out.len() + count;
    out.reserve(count);
    while out.len() < end {
        let bits = draw.bits();
        // Ten digits of 6 bits to a draw.
        let digits: [u8; 10] = std::array::from_fn(|i| BASE64[(bits >> (6 * i) & 63) as usize]);
        out.extend_from_slice(&digits[..digits.len().min(end - out.len())]);
    }
}

/// `count` random hexadecimal digits.
pub fn hex(out: &mut Vec<u8>, count: usize, draw: &mut Draw) {
    let mut bits = 0;
    for at in 0..count {
        bits = if at % 16 == 0 { draw.bits() } else { bits >> 4 };
        out.push(b"0123456789abcdef"[(bits & 15) as usize]);
    }
}

/// A `uuid` of version 4 that `number` (below 2^62) alone decides, no two the same.
pub fn uuid_of(out: &mut Vec<u8>, number: u64) {
    const MASK: u64 = (1 << 62) - 1;
    // Both steps can be undone within 62 bits, so that no two numbers meet.
    let scattered = number.wrapping_mul(0x2545_f491_4f6c_dd1d) & MASK;
    let scattered = (scattered ^ (scattered >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15) & MASK;
    uuid(out, Draw::new(number).bits(), scattered);
}

/// A `uuid` of version 4 (RFC 9562): 60 of the high bits, 62 of the low ones.
pub fn uuid(out: &mut Vec<u8>, high: u64, low: u64) {
    out.extend((high & !0xf000 | 0x4000).to_be_bytes());
    out.extend((low & (u64::MAX >> 2) | 1 << 63).to_be_bytes());
}

/// An `inet` or `cidr` of IPv4.
pub fn inet(out: &mut Vec<u8>, address: u32, bits: u8, is_cidr: bool) {
    // The server's own number for IPv4, whatever the platform's AF_INET is.
    const FAMILY_IPV4: u8 = 2;
    out.extend([FAMILY_IPV4, bits, u8::from(is_cidr), 4]);
    out.extend(address.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a `numeric` back: the value as text with `scale` digits behind the point.
    fn numeric_text(content: &[u8]) -> String {
        let field =
            |at: usize| u16::from_be_bytes([content[at * 2], content[at * 2 + 1]]).cast_signed();
        let (count, weight, scale) = (field(0), field(1), field(3));
        let group = |place: i16| {
            let index = weight - place;
            if (0..count).contains(&index) { field(4 + index as usize) } else { 0 }
        };
        let integer: String =
            (0..=weight.max(0)).rev().map(|p| format!("{:04}", group(p))).collect();
        let fraction: String = (1..=8).map(|p| format!("{:04}", group(-p))).collect();
        let integer = integer.trim_start_matches('0');
        format!("{integer}.{}", &fraction[..scale as usize])
    }

    proptest! {
        #[test]
        fn a_numeric_is_what_was_meant(unscaled in 0u64..1_000_000_000_000_000_000, scale in 0u16..18) {
            let mut out = Vec::new();
            numeric(&mut out, unscaled, scale);
            let digits = format!("{unscaled:040}");
            let (integer, fraction) = digits.split_at(40 - usize::from(scale));
            prop_assert_eq!(
                numeric_text(&out),
                format!("{}.{fraction}", integer.trim_start_matches('0'))
            );
        }

        #[test]
        fn base32_keeps_the_order(a: u64, b: u64) {
            let text = |n| { let mut out = Vec::new(); base32(&mut out, n, 13); out };
            prop_assert_eq!(a.cmp(&b), text(a).cmp(&text(b)));
        }
    }
}

//! Values in their text form.

use super::digits;
use super::put_varint;
use super::unencodable::Unencodable;

/// What is written as its text.
#[inline]
pub(super) fn string(text: &[u8], out: &mut Vec<u8>) {
    put_varint(text.len() as u64, out);
    out.extend_from_slice(text);
}

#[inline]
pub(super) fn boolean(text: &[u8]) -> Result<bool, Unencodable> {
    match text {
        b"t" => Ok(true),
        b"f" => Ok(false),
        _ => Err(Unencodable::Malformed),
    }
}

#[inline]
pub(super) fn integer<N: TryFrom<i64>>(text: &[u8]) -> Result<N, Unencodable> {
    let (is_negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    let magnitude = digits::number(digits)?;
    // The lowest integer has no positive twin.
    let value =
        if is_negative { 0i64.checked_sub_unsigned(magnitude) } else { magnitude.try_into().ok() };
    value.and_then(|v| N::try_from(v).ok()).ok_or(Unencodable::Malformed)
}

#[inline]
pub(super) fn float<F: std::str::FromStr>(text: &[u8]) -> Result<F, Unencodable> {
    let text = std::str::from_utf8(text).map_err(|_| Unencodable::Malformed)?;
    text.parse().map_err(|_| Unencodable::Malformed)
}

/// RowBinary writes a UUID as two little-endian halves.
#[inline]
pub(super) fn uuid(text: &[u8]) -> Result<[u8; 16], Unencodable> {
    let text: &[u8; 36] = text.try_into().map_err(|_| Unencodable::Malformed)?;
    if [8, 13, 18, 23].iter().any(|&at| text[at] != b'-') {
        return Err(Unencodable::Malformed);
    }
    let pairs = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    Ok(uuid_halves(digits::hex(pairs.map(|at| [text[at], text[at + 1]]))?))
}

#[inline]
pub(super) fn uuid_halves(bytes: [u8; 16]) -> [u8; 16] {
    u128::from_be_bytes(bytes).rotate_left(64).to_le_bytes()
}

/// `\x` and hexadecimal digits.
pub(super) fn bytes(text: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
    let digits = text.strip_prefix(b"\\x").ok_or(Unencodable::Malformed)?;
    let (pairs, odd) = digits.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(Unencodable::Malformed);
    }
    put_varint(pairs.len() as u64, out);
    let (chunks, rest) = pairs.as_chunks::<16>();
    for chunk in chunks {
        out.extend_from_slice(&digits::hex(*chunk)?);
    }
    for pair in rest {
        out.extend_from_slice(&digits::hex([*pair])?);
    }
    Ok(())
}

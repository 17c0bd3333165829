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
    if [text[8], text[13], text[18], text[23]] != *b"----" {
        return Err(Unencodable::Malformed);
    }
    let mut digits = [0; 32];
    digits[..8].copy_from_slice(&text[..8]);
    digits[8..12].copy_from_slice(&text[9..13]);
    digits[12..16].copy_from_slice(&text[14..18]);
    digits[16..20].copy_from_slice(&text[19..23]);
    digits[20..].copy_from_slice(&text[24..]);
    Ok(uuid_halves(digits::hex(&digits)?))
}

#[inline]
pub(super) fn uuid_halves(bytes: [u8; 16]) -> [u8; 16] {
    u128::from_be_bytes(bytes).rotate_left(64).to_le_bytes()
}

/// `\x` and hexadecimal digits.
pub(super) fn bytes(text: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
    let digits = text.strip_prefix(b"\\x").ok_or(Unencodable::Malformed)?;
    if digits.len() % 2 != 0 {
        return Err(Unencodable::Malformed);
    }
    put_varint(digits.len() as u64 / 2, out);
    let (chunks, rest) = digits.as_chunks::<32>();
    for chunk in chunks {
        out.extend_from_slice(&digits::hex(chunk)?);
    }
    let mut last = [b'0'; 32];
    last[..rest.len()].copy_from_slice(rest);
    out.extend_from_slice(&digits::hex(&last)?[..rest.len() / 2]);
    Ok(())
}

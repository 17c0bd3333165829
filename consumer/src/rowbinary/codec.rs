//! How one PostgreSQL type is written in RowBinary.

use super::unencodable::Unencodable;
use super::{datetime, decimal, put_varint};

/// How a column's values are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Codec {
    /// `bool` as `Bool`.
    Bool,
    /// `smallint` as `Int16`.
    Int16,
    /// `integer` as `Int32`.
    Int32,
    /// `bigint` as `Int64`.
    Int64,
    /// `oid` as `UInt32`.
    UInt32,
    /// `real` as `Float32`.
    Float32,
    /// `double precision` as `Float64`.
    Float64,
    /// `numeric(precision, scale)` up to 38 digits as `Decimal`.
    Decimal {
        /// Decimal digits in all.
        precision: u32,
        /// Digits behind the point.
        scale: u32,
    },
    /// `uuid` as `UUID`.
    Uuid,
    /// `date` as `Date32`.
    Date,
    /// `timestamp` and `timestamptz` as `DateTime64(6)`.
    Timestamp,
    /// `bytea` as a `String` of the bytes themselves.
    Bytes,
    /// Everything else as a `String` of its text.
    Text,
    /// A one-dimensional array as `Array(Nullable(…))`.
    Array(Box<Codec>),
}

impl Codec {
    /// The codec of a type, by the OIDs that PostgreSQL fixes for its own types (`pg_type.dat`).
    #[must_use]
    pub fn of(type_oid: u32, type_modifier: i32) -> Self {
        match type_oid {
            16 => Self::Bool,
            17 => Self::Bytes,
            20 => Self::Int64,
            21 => Self::Int16,
            23 => Self::Int32,
            26 => Self::UInt32,
            700 => Self::Float32,
            701 => Self::Float64,
            1082 => Self::Date,
            1114 | 1184 => Self::Timestamp,
            1700 => Self::numeric(type_modifier),
            2950 => Self::Uuid,
            _ => match array_element(type_oid) {
                Some(element) => Self::Array(Box::new(Self::of(element, type_modifier))),
                None => Self::Text,
            },
        }
    }

    /// The modifier holds precision and scale behind an offset of 4; scales may be negative or
    /// larger than the precision, which a Decimal can't be.
    fn numeric(type_modifier: i32) -> Self {
        let packed = type_modifier - 4;
        let (precision, scale) = (packed >> 16, ((packed & 0x7ff) ^ 1024) - 1024);
        match (u32::try_from(precision), u32::try_from(scale)) {
            (Ok(precision @ 1..=38), Ok(scale)) if scale <= precision => {
                Self::Decimal { precision, scale }
            }
            _ => Self::Text,
        }
    }

    /// Appends a value given in its text form.
    ///
    /// # Errors
    /// The value has no RowBinary form; what was appended before that is the caller's to undo.
    #[inline]
    pub fn encode(&self, text: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
        match self {
            Self::Text => {
                put_varint(text.len() as u64, out);
                out.extend_from_slice(text);
            }
            Self::Bool => out.push(u8::from(boolean(text)?)),
            Self::Int16 => out.extend_from_slice(&integer::<i16>(text)?.to_le_bytes()),
            Self::Int32 => out.extend_from_slice(&integer::<i32>(text)?.to_le_bytes()),
            Self::Int64 => out.extend_from_slice(&integer::<i64>(text)?.to_le_bytes()),
            Self::UInt32 => out.extend_from_slice(&integer::<u32>(text)?.to_le_bytes()),
            Self::Float32 => out.extend_from_slice(&float::<f32>(text)?.to_le_bytes()),
            Self::Float64 => out.extend_from_slice(&float::<f64>(text)?.to_le_bytes()),
            Self::Timestamp => out.extend_from_slice(&datetime::micros(text)?.to_le_bytes()),
            Self::Date => out.extend_from_slice(&datetime::days(text)?.to_le_bytes()),
            Self::Uuid => out.extend_from_slice(&uuid(text)?),
            Self::Bytes => bytes(text, out)?,
            Self::Decimal { precision, scale } => {
                let units = decimal::units(text, *precision, *scale)?;
                out.extend_from_slice(&units.to_le_bytes()[..decimal_width(*precision)]);
            }
            Self::Array(element) => array(element, text, out)?,
        }
        Ok(())
    }

    /// Appends the type's default: what a column that must hold something holds where nothing is
    /// known (all but the key of a deleted row).
    pub fn encode_default(&self, out: &mut Vec<u8>) {
        let width = match self {
            Self::Bool | Self::Text | Self::Bytes | Self::Array(_) => 1,
            Self::Int16 => 2,
            Self::Int32 | Self::UInt32 | Self::Float32 | Self::Date => 4,
            Self::Int64 | Self::Float64 | Self::Timestamp => 8,
            Self::Uuid => 16,
            Self::Decimal { precision, .. } => decimal_width(*precision),
        };
        out.resize(out.len() + width, 0);
    }
}

fn decimal_width(precision: u32) -> usize {
    match precision {
        0..=9 => 4,
        10..=18 => 8,
        _ => 16,
    }
}

/// The element type of PostgreSQL's own array types.
fn array_element(type_oid: u32) -> Option<u32> {
    Some(match type_oid {
        1000 => 16,
        1001 => 17,
        1005 => 21,
        1007 => 23,
        1016 => 20,
        1028 => 26,
        199 | 1002 | 1003 | 1009 | 1014 | 1015 | 3807 => 25,
        1021 => 700,
        1022 => 701,
        1115 | 1185 => 1184,
        1182 => 1082,
        1231 => 1700,
        2951 => 2950,
        _ => return None,
    })
}

fn boolean(text: &[u8]) -> Result<bool, Unencodable> {
    match text {
        b"t" => Ok(true),
        b"f" => Ok(false),
        _ => Err(Unencodable::Malformed),
    }
}

#[inline]
fn integer<N: TryFrom<i64>>(text: &[u8]) -> Result<N, Unencodable> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return Err(Unencodable::Malformed);
    }
    // Counted downwards, because the lowest integer has no positive twin.
    let mut value: i64 = 0;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(Unencodable::Malformed);
        }
        value = value
            .checked_mul(10)
            .and_then(|v| v.checked_sub(i64::from(digit)))
            .ok_or(Unencodable::OutOfRange)?;
    }
    let value = if negative { Some(value) } else { value.checked_neg() };
    value.and_then(|v| N::try_from(v).ok()).ok_or(Unencodable::OutOfRange)
}

fn float<F: std::str::FromStr>(text: &[u8]) -> Result<F, Unencodable> {
    let text = std::str::from_utf8(text).map_err(|_| Unencodable::Malformed)?;
    text.parse().map_err(|_| Unencodable::Malformed)
}

/// RowBinary writes a UUID as two little-endian halves.
fn uuid(text: &[u8]) -> Result<[u8; 16], Unencodable> {
    let mut value: u128 = 0;
    let mut digits = 0;
    for &byte in text.iter().filter(|b| **b != b'-') {
        value = value << 4 | u128::from(hex_digit(byte)?);
        digits += 1;
    }
    if digits != 32 {
        return Err(Unencodable::Malformed);
    }
    Ok(value.rotate_left(64).to_le_bytes())
}

fn bytes(text: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
    let digits = text.strip_prefix(b"\\x").ok_or(Unencodable::Malformed)?;
    let (pairs, odd) = digits.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(Unencodable::Malformed);
    }
    put_varint(pairs.len() as u64, out);
    for [high, low] in pairs {
        out.push(hex_digit(*high)? << 4 | hex_digit(*low)?);
    }
    Ok(())
}

#[inline]
fn hex_digit(byte: u8) -> Result<u8, Unencodable> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => Err(Unencodable::Malformed),
    }
}

/// `{1,NULL,"quoted \"text\""}` (PostgreSQL manual, section 8.15.6). Elements are read twice, first
/// to count them, since RowBinary wants their number in front.
fn array(element: &Codec, text: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
    let mut count = 0;
    let mut counting = Elements::new(text)?;
    while counting.next()?.is_some() {
        count += 1;
    }
    put_varint(count, out);
    let mut elements = Elements::new(text)?;
    while let Some(value) = elements.next()? {
        match value {
            None => out.push(1),
            Some(value) => {
                out.push(0);
                element.encode(value, out)?;
            }
        }
    }
    Ok(())
}

/// The elements of an array's text, unescaped.
struct Elements<'a> {
    rest: &'a [u8],
    first: bool,
    unescaped: Vec<u8>,
}

impl<'a> Elements<'a> {
    fn new(text: &'a [u8]) -> Result<Self, Unencodable> {
        let body = match text {
            [b'{', body @ .., b'}'] => body,
            // `[2:3]={…}`: bounds other than 1 have no counterpart; the elements have.
            [b'[', ..] => {
                let at = text.windows(3).position(|w| w == b"]={").ok_or(Unencodable::Malformed)?;
                match &text[at + 2..] {
                    [b'{', body @ .., b'}'] => body,
                    _ => return Err(Unencodable::Malformed),
                }
            }
            _ => return Err(Unencodable::Malformed),
        };
        if body.first() == Some(&b'{') {
            return Err(Unencodable::Dimensions);
        }
        Ok(Self { rest: body, first: true, unescaped: Vec::new() })
    }

    fn next(&mut self) -> Result<Option<Option<&[u8]>>, Unencodable> {
        match (self.rest.split_first(), self.first) {
            (None, _) => return Ok(None),
            (Some((b',', rest)), false) => self.rest = rest,
            (Some(_), true) => {}
            (Some(_), false) => return Err(Unencodable::Malformed),
        }
        self.first = false;
        if self.rest.first() == Some(&b'"') {
            return self.quoted().map(|()| Some(Some(self.unescaped.as_slice())));
        }
        let end = memchr::memchr(b',', self.rest).unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at(end);
        self.rest = rest;
        match value {
            [] => Err(Unencodable::Malformed),
            b"NULL" => Ok(Some(None)),
            _ => Ok(Some(Some(value))),
        }
    }

    fn quoted(&mut self) -> Result<(), Unencodable> {
        self.unescaped.clear();
        let mut bytes = self.rest[1..].iter().enumerate();
        while let Some((at, &byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.rest = &self.rest[at + 2..];
                    return Ok(());
                }
                b'\\' => {
                    let (_, escaped) = bytes.next().ok_or(Unencodable::Malformed)?;
                    self.unescaped.push(*escaped);
                }
                _ => self.unescaped.push(byte),
            }
        }
        Err(Unencodable::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(codec: &Codec, text: &str) -> Result<Vec<u8>, Unencodable> {
        let mut out = Vec::new();
        codec.encode(text.as_bytes(), &mut out).map(|()| out)
    }

    #[test]
    fn each_type_has_its_form() {
        let decimal = Codec::of(1700, (12 << 16 | 2) + 4);
        assert_eq!(decimal, Codec::Decimal { precision: 12, scale: 2 });
        for (codec, text, expected) in [
            (Codec::of(16, -1), "t", vec![1]),
            (Codec::of(21, -1), "-2", vec![0xfe, 0xff]),
            (Codec::of(26, -1), "4294967295", vec![0xff; 4]),
            (Codec::of(701, -1), "-Infinity", f64::NEG_INFINITY.to_le_bytes().to_vec()),
            (Codec::of(25, -1), "hé", vec![3, b'h', 0xc3, 0xa9]),
            (Codec::of(17, -1), "\\x00ff", vec![2, 0, 0xff]),
            (Codec::of(1082, -1), "1970-01-02", vec![1, 0, 0, 0]),
            (decimal, "-1.50", (-150i64).to_le_bytes().to_vec()),
            (
                Codec::of(2950, -1),
                "00112233-4455-6677-8899-aabbccddeeff",
                vec![
                    0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00, 0xff, 0xee, 0xdd, 0xcc, 0xbb,
                    0xaa, 0x99, 0x88,
                ],
            ),
            (Codec::of(1007, -1), "{1,NULL}", vec![2, 0, 1, 0, 0, 0, 1]),
            (Codec::of(1009, -1), "{}", vec![0]),
            (Codec::of(1009, -1), r#"{a,"b,\"","NULL",NULL}"#, {
                vec![4, 0, 1, b'a', 0, 3, b'b', b',', b'"', 0, 4, b'N', b'U', b'L', b'L', 1]
            }),
            (Codec::of(1009, -1), "[0:0]={x}", vec![1, 0, 1, b'x']),
        ] {
            assert_eq!(encoded(&codec, text), Ok(expected), "{codec:?} {text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (oid, text, expected) in [
            (23, "2147483648", Unencodable::OutOfRange),
            (20, "9223372036854775808", Unencodable::OutOfRange),
            (26, "-1", Unencodable::OutOfRange),
            (20, "", Unencodable::Malformed),
            (20, "1x", Unencodable::Malformed),
            (1007, "{{1},{2}}", Unencodable::Dimensions),
            (1007, "{1", Unencodable::Malformed),
            (1009, "{\"a}", Unencodable::Malformed),
            (2950, "0011", Unencodable::Malformed),
            (1184, "infinity", Unencodable::OutOfRange),
        ] {
            assert_eq!(encoded(&Codec::of(oid, -1), text), Err(expected), "{oid} {text}");
        }
    }

    #[test]
    fn a_numeric_without_precision_stays_text() {
        assert_eq!(Codec::of(1700, -1), Codec::Text);
        assert_eq!(Codec::of(1700, (50 << 16 | 2) + 4), Codec::Text);
    }

    proptest! {
        #[test]
        fn integers_are_read_as_written(n: i64) {
            prop_assert_eq!(encoded(&Codec::Int64, &n.to_string()), Ok(n.to_le_bytes().to_vec()));
        }

        #[test]
        fn any_text_is_written_or_refused(
            oid in prop::sample::select(vec![16u32, 17, 20, 23, 700, 1082, 1184, 1007, 1009, 2950]),
            text in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let _ = Codec::of(oid, -1).encode(&text, &mut Vec::new());
        }
    }
}

//! How one PostgreSQL type is written in RowBinary.

use std::fmt;

use walbench_phases::plan::Arrays;

use super::array::{self, Element, Elements};
use super::binary_form::BinaryForm;
use super::source_type::SourceType;
use super::unencodable::Unencodable;
use super::{datetime, decimal, put_varint, text};
use crate::pgoutput::Value;

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
    Text(BinaryForm),
    /// A one-dimensional array as `Array(Nullable(…))`.
    Array {
        /// How its elements are written.
        element: Box<Self>,
        /// What stands between them in its text.
        delimiter: u8,
    },
}

impl Codec {
    /// The codec of a type with a column's modifier.
    #[must_use]
    pub fn of(source: &SourceType, modifier: i32, arrays: Arrays) -> Self {
        let modifier = source.modifier.unwrap_or(modifier);
        match (&source.element, arrays) {
            (Some(element), Arrays::Array) => Self::Array {
                element: Box::new(Self::of_element(element, modifier)),
                delimiter: element.delimiter,
            },
            // Each array has a send function, and its own form.
            (Some(_), Arrays::Text) => Self::Text(BinaryForm::Unreadable),
            (None, _) => Self::scalar(source, modifier),
        }
    }

    fn of_element(element: &SourceType, modifier: i32) -> Self {
        let modifier = element.modifier.unwrap_or(modifier);
        match Self::scalar(element, modifier) {
            // An array whose element is a domain over an array: ClickHouse has no Nullable(Array).
            _ if element.element.is_some() => Self::Text(BinaryForm::Unreadable),
            // PostgreSQL fails to send an array in binary form whose elements have none.
            Self::Text(BinaryForm::Never) => Self::Text(BinaryForm::Unreadable),
            codec => codec,
        }
    }

    /// By the OIDs that PostgreSQL fixes for its own types (`pg_type.dat`).
    fn scalar(source: &SourceType, modifier: i32) -> Self {
        match source.oid {
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
            1700 => Self::numeric(modifier),
            2950 => Self::Uuid,
            _ => Self::Text(source.binary),
        }
    }

    /// The modifier holds precision and scale behind an offset of 4. A scale may be negative or
    /// larger than the precision, which a Decimal's can't be: it gets the digits for that.
    fn numeric(modifier: i32) -> Self {
        let packed = modifier.wrapping_sub(4);
        let (precision, scale) = (packed >> 16, ((packed & 0x7ff) ^ 1024) - 1024);
        let digits = precision.max(scale) - scale.min(0);
        match (u32::try_from(digits), precision) {
            (Ok(precision @ 1..=38), 1..) => {
                Self::Decimal { precision, scale: scale.max(0).cast_unsigned() }
            }
            _ => Self::Text(BinaryForm::Numeric),
        }
    }

    /// Whether its values' binary form is read. Where it is not, a stream must be asked for text.
    #[must_use]
    pub fn reads_binary(&self) -> bool {
        match self {
            Self::Text(form) => *form != BinaryForm::Unreadable,
            Self::Array { element, .. } => element.reads_binary(),
            _ => true,
        }
    }

    /// Appends a value.
    ///
    /// # Errors
    /// The value has no RowBinary form; what was appended before that is the caller's to undo.
    #[inline]
    pub fn encode(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Unencodable> {
        match value {
            Value::Text(text) => self.encode_text(text, out),
            Value::Binary(binary) => self.encode_binary(binary, out),
            Value::Null | Value::Unchanged => Err(Unencodable::Null),
        }
    }

    /// Appends a value given in its text form.
    ///
    /// # Errors
    /// As those of [`Codec::encode`].
    #[inline]
    pub fn encode_text(&self, text: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
        match self {
            Self::Text(_) => text::string(text, out),
            Self::Bool => out.push(u8::from(text::boolean(text)?)),
            Self::Int16 => out.extend_from_slice(&text::integer::<i16>(text)?.to_le_bytes()),
            Self::Int32 => out.extend_from_slice(&text::integer::<i32>(text)?.to_le_bytes()),
            Self::Int64 => out.extend_from_slice(&text::integer::<i64>(text)?.to_le_bytes()),
            Self::UInt32 => out.extend_from_slice(&text::integer::<u32>(text)?.to_le_bytes()),
            Self::Float32 => out.extend_from_slice(&text::float::<f32>(text)?.to_le_bytes()),
            Self::Float64 => out.extend_from_slice(&text::float::<f64>(text)?.to_le_bytes()),
            Self::Timestamp => out.extend_from_slice(&datetime::micros(text)?.to_le_bytes()),
            Self::Date => out.extend_from_slice(&datetime::days(text)?.to_le_bytes()),
            Self::Uuid => out.extend_from_slice(&text::uuid(text)?),
            Self::Bytes => text::bytes(text, out)?,
            Self::Decimal { precision, scale } => {
                self.put_units(decimal::units(text, *precision, *scale)?, out);
            }
            Self::Array { element, delimiter } => {
                element.encode_elements(Value::Text(text), *delimiter, out)?;
            }
        }
        Ok(())
    }

    /// Appends a value given in its binary form.
    ///
    /// # Errors
    /// As those of [`Codec::encode`].
    #[inline]
    pub fn encode_binary(&self, binary: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
        match self {
            Self::Text(form) => form.encode(binary, out)?,
            Self::Bool => out.push(u8::from(sized::<1>(binary)? != [0])),
            Self::Int16 => out.extend_from_slice(&reversed::<2>(binary)?),
            Self::Int32 | Self::UInt32 => out.extend_from_slice(&reversed::<4>(binary)?),
            Self::Int64 => out.extend_from_slice(&reversed::<8>(binary)?),
            // One NaN for all, as it has one text.
            Self::Float32 => match f32::from_be_bytes(sized(binary)?) {
                number if number.is_nan() => out.extend_from_slice(&f32::NAN.to_le_bytes()),
                number => out.extend_from_slice(&number.to_le_bytes()),
            },
            Self::Float64 => match f64::from_be_bytes(sized(binary)?) {
                number if number.is_nan() => out.extend_from_slice(&f64::NAN.to_le_bytes()),
                number => out.extend_from_slice(&number.to_le_bytes()),
            },
            Self::Timestamp => {
                let micros = i64::from_be_bytes(sized(binary)?);
                out.extend_from_slice(&datetime::micros_from_binary(micros)?.to_le_bytes());
            }
            Self::Date => {
                let days = i32::from_be_bytes(sized(binary)?);
                out.extend_from_slice(&datetime::days_from_binary(days)?.to_le_bytes());
            }
            Self::Uuid => out.extend_from_slice(&text::uuid_halves(sized(binary)?)),
            Self::Bytes => text::string(binary, out),
            Self::Decimal { precision, scale } => {
                self.put_units(decimal::units_from_binary(binary, *precision, *scale)?, out);
            }
            Self::Array { element, delimiter } => {
                element.encode_elements(Value::Binary(binary), *delimiter, out)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn encode_elements(
        &self,
        array: Value<'_>,
        delimiter: u8,
        out: &mut Vec<u8>,
    ) -> Result<(), Unencodable> {
        let elements = Elements::of(array, delimiter)?;
        array::write(elements, out, |element, out| self.encode_element(element, out))
    }

    /// Appends an element of an array, with its mark of NULL or not.
    #[inline]
    pub(super) fn encode_element(
        &self,
        element: Element<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Unencodable> {
        out.push(u8::from(element == Element::Null));
        match (element, self) {
            (Element::Null, _) => Ok(()),
            // A bytea's text has one backslash, at its beginning; that of other types but text none.
            (Element::Text(text), _) | (Element::Escaped([b'\\', text @ ..]), Self::Bytes) => {
                self.encode_text(text, out)
            }
            (Element::Binary(binary), _) => self.encode_binary(binary, out),
            (Element::Escaped(text), Self::Text(_)) => {
                put_varint(array::unescaped(text).count() as u64, out);
                out.extend(array::unescaped(text));
                Ok(())
            }
            (Element::Escaped(_), _) => Err(Unencodable::Malformed),
        }
    }

    /// Appends a Decimal's units in its width.
    #[inline]
    pub(super) fn put_units(&self, units: i128, out: &mut Vec<u8>) {
        let bytes = units.to_le_bytes();
        match self {
            Self::Decimal { precision: ..=9, .. } => out.extend_from_slice(&bytes[..4]),
            Self::Decimal { precision: ..=18, .. } => out.extend_from_slice(&bytes[..8]),
            _ => out.extend_from_slice(&bytes),
        }
    }

    /// Appends the type's default: what a column that must hold something holds where nothing is
    /// known (all but the key of a deleted row).
    pub fn encode_default(&self, out: &mut Vec<u8>) {
        let width = match self {
            Self::Bool | Self::Text(_) | Self::Bytes | Self::Array { .. } => 1,
            Self::Int16 => 2,
            Self::Int32 | Self::UInt32 | Self::Float32 | Self::Date => 4,
            Self::Int64 | Self::Float64 | Self::Timestamp => 8,
            Self::Uuid => 16,
            Self::Decimal { .. } => return self.put_units(0, out),
        };
        out.resize(out.len() + width, 0);
    }
}

/// As ClickHouse names the type.
impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "Bool",
            Self::Int16 => "Int16",
            Self::Int32 => "Int32",
            Self::Int64 => "Int64",
            Self::UInt32 => "UInt32",
            Self::Float32 => "Float32",
            Self::Float64 => "Float64",
            Self::Decimal { precision, scale } => {
                return write!(f, "Decimal({precision}, {scale})");
            }
            Self::Uuid => "UUID",
            Self::Date => "Date32",
            Self::Timestamp => "DateTime64(6, 'UTC')",
            Self::Bytes | Self::Text(_) => "String",
            Self::Array { element, .. } => return write!(f, "Array(Nullable({element}))"),
        })
    }
}

#[inline]
fn sized<const N: usize>(binary: &[u8]) -> Result<[u8; N], Unencodable> {
    binary.try_into().map_err(|_| Unencodable::Malformed)
}

/// From the network's order of bytes to RowBinary's.
#[inline]
fn reversed<const N: usize>(binary: &[u8]) -> Result<[u8; N], Unencodable> {
    let mut bytes = sized(binary)?;
    bytes.reverse();
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn codec(oid: u32, modifier: i32) -> Codec {
        Codec::of(&SourceType::of(oid), modifier, Arrays::Array)
    }

    fn encoded(codec: &Codec, text: &str) -> Result<Vec<u8>, Unencodable> {
        let mut out = Vec::new();
        codec.encode_text(text.as_bytes(), &mut out).map(|()| out)
    }

    #[test]
    fn each_type_has_its_form() {
        for (oid, text, expected) in [
            (16, "t", vec![1]),
            (21, "-2", vec![0xfe, 0xff]),
            (26, "4294967295", vec![0xff; 4]),
            (701, "-Infinity", f64::NEG_INFINITY.to_le_bytes().to_vec()),
            (25, "hé", vec![3, b'h', 0xc3, 0xa9]),
            (17, "\\x00ff", vec![2, 0, 0xff]),
            (1082, "1970-01-02", vec![1, 0, 0, 0]),
            (
                2950,
                "00112233-4455-6677-8899-aabbccddeeff",
                vec![
                    0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00, 0xff, 0xee, 0xdd, 0xcc, 0xbb,
                    0xaa, 0x99, 0x88,
                ],
            ),
            (1007, "{1,NULL}", vec![2, 0, 1, 0, 0, 0, 1]),
            (1009, "{}", vec![0]),
            (1009, r#"{a,"b,\"","NULL",NULL}"#, {
                vec![4, 0, 1, b'a', 0, 3, b'b', b',', b'"', 0, 4, b'N', b'U', b'L', b'L', 1]
            }),
            (1009, "[0:0]={x}", vec![1, 0, 1, b'x']),
            (1001, r#"{"\\x00ff"}"#, vec![1, 0, 2, 0x00, 0xff]),
        ] {
            assert_eq!(encoded(&codec(oid, -1), text), Ok(expected), "{oid} {text}");
        }
        assert_eq!(
            encoded(&codec(1700, (12 << 16 | 2) + 4), "-1.50"),
            Ok((-150i64).to_le_bytes().to_vec())
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (oid, text, expected) in [
            (23, "2147483648", Unencodable::Malformed),
            (20, "9223372036854775808", Unencodable::Malformed),
            (26, "-1", Unencodable::Malformed),
            (20, "", Unencodable::Malformed),
            (20, "-", Unencodable::Malformed),
            (1007, "{{1},{2}}", Unencodable::Dimensions),
            (1007, "{1", Unencodable::Malformed),
            (1009, "{\"a}", Unencodable::Malformed),
            (2950, "0011", Unencodable::Malformed),
            (1184, "infinity", Unencodable::OutOfRange),
            (1185, "{infinity}", Unencodable::OutOfRange),
        ] {
            assert_eq!(encoded(&codec(oid, -1), text), Err(expected), "{oid} {text}");
        }
    }

    #[test]
    fn a_numeric_is_a_decimal_if_its_digits_fit_into_one() {
        for (precision, scale, expected) in [
            (12, 2, "Decimal(12, 2)"),
            (38, 38, "Decimal(38, 38)"),
            (5, -2, "Decimal(7, 0)"),
            (3, 5, "Decimal(5, 5)"),
            (39, 2, "String"),
            (38, -1, "String"),
        ] {
            let modifier = (precision << 16 | (scale & 0x7ff)) + 4;
            assert_eq!(codec(1700, modifier).to_string(), expected, "({precision}, {scale})");
        }
        assert_eq!(codec(1700, -1), Codec::Text(BinaryForm::Numeric));
        assert_eq!(codec(1700, i32::MIN), Codec::Text(BinaryForm::Numeric));
    }

    #[test]
    fn long_arrays_and_long_texts_have_long_counts() {
        let text = format!("{{{}}}", vec!["7"; 300].join(","));
        let expected = [vec![0xac, 2], [0, 7, 0].repeat(300)].concat();
        assert_eq!(encoded(&codec(1005, -1), &text), Ok(expected));
        let mut out = vec![9];
        let bits = [&200u32.to_be_bytes()[..], &[0xff; 25]].concat();
        codec(1562, -1).encode_binary(&bits, &mut out).unwrap();
        assert_eq!(out, [vec![9, 0xc8, 1], vec![b'1'; 200]].concat());
    }

    proptest! {
        #[test]
        fn integers_are_read_as_written(n: i64) {
            let expected = Ok(n.to_le_bytes().to_vec());
            prop_assert_eq!(encoded(&Codec::Int64, &n.to_string()), expected.clone());
            let mut out = Vec::new();
            Codec::Int64.encode_binary(&n.to_be_bytes(), &mut out).unwrap();
            prop_assert_eq!(Ok(out), expected);
        }

        #[test]
        fn any_value_is_written_or_refused(
            oid in prop::sample::select(vec![16u32, 17, 20, 23, 700, 1082, 1184, 1007, 1009, 2950]),
            value in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let _ = codec(oid, -1).encode_text(&value, &mut Vec::new());
            let _ = codec(oid, -1).encode_binary(&value, &mut Vec::new());
        }
    }
}

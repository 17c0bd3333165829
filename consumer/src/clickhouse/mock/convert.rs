//! Values of one type as values of another that holds all of them: what `input()` and a column's
//! change of type ask for.

use super::text;
use crate::clickhouse::column_type::ColumnType;
use crate::rowbinary::put_varint;

/// Whether every value of one type is a value of the other without loss, and is converted here.
pub(super) fn is_wider(to: &ColumnType, from: &ColumnType) -> bool {
    let (to, from) = (to.plain(), from.plain());
    match (to, from) {
        _ if to == from => true,
        (ColumnType::Nullable(to), ColumnType::Nullable(from)) => is_wider(to, from),
        (ColumnType::Nullable(to), from) => is_wider(to, from),
        (_, ColumnType::Nullable(_)) => false,
        (ColumnType::Int(to), ColumnType::Int(from))
        | (ColumnType::UInt(to), ColumnType::UInt(from)) => to >= from && *to <= 128,
        (ColumnType::Int(to), ColumnType::UInt(from)) => to > from && *to <= 128,
        (ColumnType::Float(to), ColumnType::Float(from)) => to >= from,
        (
            ColumnType::Decimal { precision: p1, scale: s1 },
            ColumnType::Decimal { precision: p2, scale: s2 },
        ) => s1 >= s2 && p1 - s1 >= p2 - s2 && *p1 <= 38,
        // Only the zone differs, which makes no difference to the value.
        (
            ColumnType::DateTime64 { precision: p1, .. },
            ColumnType::DateTime64 { precision: p2, .. },
        ) => p1 == p2,
        (ColumnType::DateTime(_), ColumnType::DateTime(_)) => true,
        (ColumnType::Array(to), ColumnType::Array(from)) => to.plain() == from.plain(),
        (ColumnType::String, from) => has_text(from),
        _ => false,
    }
}

/// Types whose text here is exactly ClickHouse's.
fn has_text(from: &ColumnType) -> bool {
    match from {
        ColumnType::Int(bits) | ColumnType::UInt(bits) => *bits <= 128,
        ColumnType::Decimal { precision, .. } => *precision <= 38,
        ColumnType::Array(element) => match element.plain() {
            ColumnType::Nullable(element) => has_text(element) || **element == ColumnType::String,
            element => has_text(element) || *element == ColumnType::String,
        },
        ColumnType::Bool
        | ColumnType::Float(_)
        | ColumnType::Uuid
        | ColumnType::Ipv4
        | ColumnType::Ipv6
        | ColumnType::Date
        | ColumnType::Date32
        | ColumnType::DateTime(_)
        | ColumnType::DateTime64 { .. }
        | ColumnType::Enum { .. } => true,
        _ => false,
    }
}

/// Appends a value as one of the other type, which is wider.
pub(super) fn convert(to: &ColumnType, from: &ColumnType, value: &[u8], out: &mut Vec<u8>) {
    let (to, from) = (to.plain(), from.plain());
    match (to, from) {
        _ if to == from => out.extend_from_slice(value),
        (ColumnType::Nullable(to), ColumnType::Nullable(from)) => match value.split_first() {
            Some((0, value)) => {
                out.push(0);
                convert(to, from, value, out);
            }
            _ => out.push(1),
        },
        (ColumnType::Nullable(to), from) => {
            out.push(0);
            convert(to, from, value, out);
        }
        (ColumnType::Int(bits) | ColumnType::UInt(bits), ColumnType::UInt(_)) => {
            let wide = text::unsigned(value).to_le_bytes();
            out.extend_from_slice(&wide[..usize::from(bits / 8)]);
        }
        (ColumnType::Int(bits), _) => {
            let wide = text::signed(value).to_le_bytes();
            out.extend_from_slice(&wide[..usize::from(bits / 8)]);
        }
        (ColumnType::Float(64), ColumnType::Float(32)) => {
            out.extend_from_slice(&f64::from(text::f32_of(value)).to_le_bytes());
        }
        (ColumnType::Decimal { precision, scale }, ColumnType::Decimal { scale: before, .. }) => {
            let units = text::signed(value).saturating_mul(10i128.saturating_pow(scale - before));
            let bytes = crate::rowbinary::decimal_bytes(*precision);
            out.extend_from_slice(&units.to_le_bytes()[..bytes]);
        }
        (ColumnType::String, from) => {
            let text = text::of(from, value);
            put_varint(text.len() as u64, out);
            out.extend_from_slice(&text);
        }
        _ => out.extend_from_slice(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(to: &str, from: &str, value: &[u8]) -> Vec<u8> {
        let (to, from) = (ColumnType::parse(to).unwrap(), ColumnType::parse(from).unwrap());
        assert!(is_wider(&to, &from), "{from} to {to}");
        let mut out = Vec::new();
        convert(&to, &from, value, &mut out);
        out
    }

    #[test]
    fn a_wider_type_has_the_same_value() {
        assert_eq!(converted("Int64", "Int16", &(-2i16).to_le_bytes()), (-2i64).to_le_bytes());
        assert_eq!(converted("Int64", "UInt32", &[0xff; 4]), 0xffff_ffffi64.to_le_bytes());
        assert_eq!(converted("Float64", "Float32", &1.5f32.to_le_bytes()), 1.5f64.to_le_bytes());
        assert_eq!(
            converted("Decimal(20, 4)", "Decimal(9, 2)", &(-150i32).to_le_bytes()),
            (-15_000i128).to_le_bytes()
        );
        assert_eq!(converted("Nullable(String)", "Nullable(Bool)", &[1]), [1]);
        assert_eq!(converted("Nullable(String)", "Bool", &[1]), b"\0\x04true");
        assert_eq!(converted("String", "Int32", &(-7i32).to_le_bytes()), b"\x02-7");
        assert_eq!(converted("LowCardinality(String)", "String", b"\x01x"), b"\x01x");
        assert_eq!(
            converted("String", "Array(Nullable(Int8))", b"\x02\0\x07\x01"),
            b"\x08[7,NULL]"
        );
    }

    #[test]
    fn what_would_lose_something_is_no_wider_type() {
        for (to, from) in [
            ("Int16", "Int32"),
            ("Int32", "UInt32"),
            ("UInt64", "Int8"),
            ("Float32", "Float64"),
            ("Decimal(9, 2)", "Decimal(9, 3)"),
            ("String", "Nullable(String)"),
            ("Date", "Date32"),
            ("DateTime64(3)", "DateTime64(6)"),
        ] {
            let [to, from] = [to, from].map(|name| ColumnType::parse(name).unwrap());
            assert!(!is_wider(&to, &from), "{from} to {to}");
        }
    }
}

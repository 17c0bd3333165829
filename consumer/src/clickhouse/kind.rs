//! What a destination's column holds, and the narrowest that holds the values of two such columns.

use std::fmt;

use crate::rowbinary::{Codec, Column, Parts, Walk, decimal_bytes};

/// A type as rows are written in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Bool`.
    Bool,
    /// `Int16`.
    Int16,
    /// `Int32`.
    Int32,
    /// `UInt32`.
    UInt32,
    /// `Int64`.
    Int64,
    /// `Float32`.
    Float32,
    /// `Float64`.
    Float64,
    /// `Decimal(precision, scale)`, up to 38 digits.
    Decimal {
        /// Decimal digits in all.
        precision: u32,
        /// Digits behind the point.
        scale: u32,
    },
    /// `Date32`.
    Date,
    /// `DateTime64(6, 'UTC')`.
    Timestamp,
    /// `UUID`.
    Uuid,
    /// `String`.
    String,
    /// `Array(Nullable(…))`.
    Array(Box<Self>),
}

/// The same with whether it may be NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnKind {
    /// What it holds.
    pub kind: Kind,
    /// It may hold NULL instead.
    pub nullable: bool,
}

/// The most digits of a Decimal.
const MOST_DIGITS: u32 = 38;

impl Walk for Kind {
    fn parts(&self) -> Parts<'_, Self> {
        match self {
            Self::Bool => Parts::Bool,
            Self::String => Parts::Counted,
            Self::Array(element) => {
                Parts::Repeated { of: std::slice::from_ref(element), nullable: true }
            }
            fixed => Parts::Fixed(fixed.fixed_bytes()),
        }
    }
}

impl Kind {
    /// Bytes of each of its values; 0 where they differ.
    pub(super) fn fixed_bytes(&self) -> usize {
        match self {
            Self::Bool => 1,
            Self::Int16 => 2,
            Self::Int32 | Self::UInt32 | Self::Float32 | Self::Date => 4,
            Self::Int64 | Self::Float64 | Self::Timestamp => 8,
            Self::Uuid => 16,
            Self::Decimal { precision, .. } => decimal_bytes(*precision),
            Self::String | Self::Array(_) => 0,
        }
    }

    fn of(codec: &Codec) -> Self {
        match codec {
            Codec::Bool => Self::Bool,
            Codec::Int16 => Self::Int16,
            Codec::Int32 => Self::Int32,
            Codec::UInt32 => Self::UInt32,
            Codec::Int64 => Self::Int64,
            Codec::Float32 => Self::Float32,
            Codec::Float64 => Self::Float64,
            &Codec::Decimal { precision, scale } => Self::Decimal { precision, scale },
            Codec::Uuid => Self::Uuid,
            Codec::Date => Self::Date,
            Codec::Timestamp => Self::Timestamp,
            Codec::Bytes | Codec::Text(_) => Self::String,
            Codec::Array { element, .. } => Self::Array(Box::new(Self::of(element))),
        }
    }

    /// Reads ClickHouse's name; `None` for types that are not written here.
    fn parse(text: &str) -> Option<Self> {
        let simple = [
            Self::Bool,
            Self::Int16,
            Self::Int32,
            Self::UInt32,
            Self::Int64,
            Self::Float32,
            Self::Float64,
            Self::Date,
            Self::Uuid,
            Self::String,
        ];
        if let Some(kind) = simple.into_iter().find(|kind| kind.to_string() == text) {
            return Some(kind);
        }
        if let Some(stored) = inner(text, "LowCardinality") {
            return Self::parse(stored);
        }
        if let Some(element) = inner(text, "Array") {
            return Some(Self::Array(Box::new(Self::parse(inner(element, "Nullable")?)?)));
        }
        if let Some(arguments) = inner(text, "DateTime64") {
            // A time zone makes no difference to the values.
            let precision = arguments.split(',').next().unwrap_or_default().trim();
            return (precision == "6").then_some(Self::Timestamp);
        }
        let (precision, scale) = inner(text, "Decimal")?.split_once(',')?;
        let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
        (precision <= MOST_DIGITS).then_some(Self::Decimal { precision, scale })
    }

    /// The narrowest that holds the values of both without loss. It does not matter in which order
    /// several are joined.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        use Kind::*;
        match (self, other) {
            (left, right) if left == right => left.clone(),
            (Array(left), Array(right)) => Array(Box::new(left.join(right))),
            (Int16, Int32) | (Int32, Int16) => Int32,
            (Int16 | Int32 | UInt32 | Int64, Int16 | Int32 | UInt32 | Int64) => Int64,
            (Float32 | Float64, Float32 | Float64) => Float64,
            (Date | Timestamp, Date | Timestamp) => Timestamp,
            (left, right) => match (left.digits(), right.digits()) {
                (Some((left, left_scale)), Some((right, right_scale))) => {
                    let (digits, scale) = (left.max(right), left_scale.max(right_scale));
                    match digits + scale {
                        precision @ ..=MOST_DIGITS => Decimal { precision, scale },
                        _ => String,
                    }
                }
                // The text of anything.
                _ => String,
            },
        }
    }

    /// Digits before and behind the point.
    fn digits(&self) -> Option<(u32, u32)> {
        match self {
            Self::Int16 => Some((5, 0)),
            Self::Int32 => Some((10, 0)),
            // As many as what it becomes where it meets another integer.
            Self::UInt32 | Self::Int64 => Some((19, 0)),
            Self::Decimal { precision, scale } => Some((precision.checked_sub(*scale)?, *scale)),
            _ => None,
        }
    }
}

impl ColumnKind {
    /// A column as rows are written for it.
    #[must_use]
    pub fn of(column: &Column) -> Self {
        Self { kind: Kind::of(&column.codec), nullable: column.nullable }
    }

    /// Reads ClickHouse's name; `None` for types that are not written here.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = inner(text, "LowCardinality").unwrap_or(text);
        let (text, nullable) = inner(text, "Nullable").map_or((text, false), |text| (text, true));
        Some(Self { kind: Kind::parse(text)?, nullable })
    }

    /// The narrowest that holds the values of both.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        let kind = self.kind.join(&other.kind);
        // ClickHouse has no Nullable(Array).
        let nullable = (self.nullable || other.nullable) && !matches!(kind, Kind::Array(_));
        Self { kind, nullable }
    }
}

/// What stands in a type's brackets.
fn inner<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')
}

/// As ClickHouse names it.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "Bool",
            Self::Int16 => "Int16",
            Self::Int32 => "Int32",
            Self::UInt32 => "UInt32",
            Self::Int64 => "Int64",
            Self::Float32 => "Float32",
            Self::Float64 => "Float64",
            Self::Decimal { precision, scale } => {
                return write!(f, "Decimal({precision}, {scale})");
            }
            Self::Date => "Date32",
            Self::Timestamp => "DateTime64(6, 'UTC')",
            Self::Uuid => "UUID",
            Self::String => "String",
            Self::Array(element) => return write!(f, "Array(Nullable({element}))"),
        })
    }
}

/// As ClickHouse names it.
impl fmt::Display for ColumnKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, nullable } = self;
        if *nullable { write!(f, "Nullable({kind})") } else { kind.fmt(f) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::clickhouse) fn kind() -> impl Strategy<Value = Kind> {
        let decimal = (1u32..=38)
            .prop_flat_map(|precision| (Just(precision), 0..=precision))
            .prop_map(|(precision, scale)| Kind::Decimal { precision, scale });
        let scalar = prop_oneof![
            Just(Kind::Bool),
            Just(Kind::Int16),
            Just(Kind::Int32),
            Just(Kind::UInt32),
            Just(Kind::Int64),
            Just(Kind::Float32),
            Just(Kind::Float64),
            Just(Kind::Date),
            Just(Kind::Timestamp),
            Just(Kind::Uuid),
            Just(Kind::String),
            decimal,
        ];
        (scalar, prop::bool::weighted(0.2))
            .prop_map(|(kind, array)| if array { Kind::Array(Box::new(kind)) } else { kind })
    }

    pub(in crate::clickhouse) fn column_kind() -> impl Strategy<Value = ColumnKind> {
        (kind(), any::<bool>()).prop_map(|(kind, nullable)| {
            let nullable = nullable && !matches!(kind, Kind::Array(_));
            ColumnKind { kind, nullable }
        })
    }

    fn parsed(text: &str) -> ColumnKind {
        ColumnKind::parse(text).unwrap_or_else(|| panic!("{text} is not read"))
    }

    #[test]
    fn the_narrowest_that_holds_both() {
        for (left, right, expected) in [
            ("Int16", "Int32", "Int32"),
            ("Int16", "UInt32", "Int64"),
            ("Int32", "Nullable(Int64)", "Nullable(Int64)"),
            ("Float32", "Float64", "Float64"),
            ("Int64", "Float64", "String"),
            ("Decimal(10, 2)", "Decimal(5, 4)", "Decimal(12, 4)"),
            ("Decimal(38, 0)", "Decimal(38, 38)", "String"),
            ("Int32", "Decimal(5, 2)", "Decimal(12, 2)"),
            ("Date32", "Nullable(DateTime64(6, 'UTC'))", "Nullable(DateTime64(6, 'UTC'))"),
            ("LowCardinality(Nullable(String))", "String", "Nullable(String)"),
            ("Array(Nullable(Int16))", "Array(Nullable(Int64))", "Array(Nullable(Int64))"),
            ("Array(Nullable(Int16))", "Nullable(Int64)", "Nullable(String)"),
            ("Bool", "Int16", "String"),
            ("UUID", "String", "String"),
        ] {
            let joined = parsed(left).join(&parsed(right));
            assert_eq!(joined.to_string(), expected, "{left} and {right}");
        }
    }

    #[test]
    fn what_is_not_written_here_is_not_read() {
        for text in
            ["UInt64", "DateTime64(3)", "Array(Int32)", "Map(String, String)", "Decimal(76, 2)", ""]
        {
            assert_eq!(ColumnKind::parse(text), None, "{text}");
        }
        // Of another time zone, the values are the same.
        assert_eq!(parsed("DateTime64(6)"), parsed("DateTime64(6, 'Asia/Tokyo')"));
    }

    proptest! {
        #[test]
        fn names_are_read_back(kind in column_kind()) {
            prop_assert_eq!(ColumnKind::parse(&kind.to_string()), Some(kind));
        }

        #[test]
        fn the_order_makes_no_difference(a in column_kind(), b in column_kind(), c in column_kind()) {
            prop_assert_eq!(a.join(&b), b.join(&a));
            prop_assert_eq!(a.join(&b).join(&c), a.join(&b.join(&c)));
            prop_assert_eq!(a.join(&a), a);
        }

        #[test]
        fn what_is_joined_is_wide_enough(a in column_kind(), b in column_kind()) {
            let joined = a.join(&b);
            prop_assert_eq!(a.join(&joined), joined);
        }
    }
}

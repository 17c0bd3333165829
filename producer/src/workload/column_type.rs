//! The column types that can be filled, and their values.

use super::draw::Draw;
use super::encode::{self, BASE_DAY, BASE_TIME_US, DAY_US};

/// A column's type with its modifiers; a domain is its base type.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "named after PostgreSQL's types")]
pub enum ColumnType {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    /// Digits in all (absent: as many as it takes) and behind the point.
    Numeric {
        precision: Option<u16>,
        scale: i16,
    },
    Money,
    /// `text`, `varchar`, `name`, `citext`, `bpchar` without a length.
    Text {
        max: Option<u32>,
    },
    /// `"char"`: one byte.
    Char,
    Bytea,
    Uuid,
    Date,
    /// Digits behind the second, 0 to 6.
    Time {
        digits: u32,
        zone: bool,
    },
    /// With and without time zone.
    Timestamp {
        digits: u32,
    },
    Interval,
    Json,
    Jsonb,
    Enum {
        labels: Vec<String>,
    },
    Array {
        element: Box<Self>,
        element_oid: u32,
    },
    Inet,
    Cidr,
    Macaddr,
    Macaddr8,
    Bit {
        length: u32,
    },
    Varbit {
        max: Option<u32>,
    },
}

const WORDS: [&str; 24] = [
    "amber", "bridge", "copper", "delta", "ember", "forest", "garden", "harbor", "island",
    "jasper", "kettle", "lantern", "meadow", "north", "orchard", "pebble", "quartz", "river",
    "signal", "timber", "umbra", "violet", "willow", "zenith",
];

/// Base-32 digits that hold any 64-bit number.
const BASE32_DIGITS: u32 = 13;

impl ColumnType {
    /// How many rows can have different values; `None` when the type can't tell rows apart.
    #[must_use]
    pub fn distinct_values(&self) -> Option<u64> {
        Some(match self {
            Self::Int2 => 32_767,
            Self::Int4 => 2_147_483_647,
            Self::Oid | Self::Inet => u64::from(u32::MAX),
            Self::Float4 => 1 << 24,
            Self::Float8 => 1 << 53,
            Self::Int8 | Self::Money => i64::MAX.cast_unsigned(),
            Self::Numeric { precision, .. } => {
                10u64.pow(u32::from(precision.unwrap_or(18).min(18))) - 1
            }
            Self::Text { max } => match max.unwrap_or(BASE32_DIGITS) {
                digits if digits >= BASE32_DIGITS => u64::MAX,
                digits => 32u64.pow(digits),
            },
            Self::Bytea | Self::Jsonb | Self::Macaddr8 => u64::MAX,
            Self::Uuid => 1 << 62,
            // To 2299, where the dates of ClickHouse end.
            Self::Date => 99_700,
            Self::Timestamp { digits } => 8_000_000_000_000_000 / step_us(*digits).cast_unsigned(),
            Self::Time { digits, .. } => (DAY_US / step_us(*digits)).cast_unsigned(),
            Self::Interval => 1 << 52,
            Self::Macaddr => 1 << 48,
            Self::Bool
            | Self::Char
            | Self::Json
            | Self::Enum { .. }
            | Self::Array { .. }
            | Self::Cidr
            | Self::Bit { .. }
            | Self::Varbit { .. } => return None,
        })
    }

    /// Appends the value of row `n` in a column where no two rows may have the same.
    ///
    /// Neighbours in time are neighbours in the index, as with most keys that are generated; a
    /// `uuid` is scattered, as `gen_random_uuid()` is.
    pub fn write_unique(&self, out: &mut Vec<u8>, n: u64) {
        let next = n.wrapping_add(1);
        match self {
            Self::Int2 => out.extend((next as u16).to_be_bytes()),
            Self::Int4 | Self::Oid => out.extend((next as u32).to_be_bytes()),
            Self::Int8 | Self::Money => out.extend(next.to_be_bytes()),
            Self::Float4 => out.extend((next as f32).to_be_bytes()),
            Self::Float8 => out.extend((next as f64).to_be_bytes()),
            Self::Numeric { scale, .. } => numeric(out, next, *scale),
            Self::Text { max } => {
                encode::base32(out, n, max.unwrap_or(BASE32_DIGITS).min(BASE32_DIGITS));
            }
            Self::Bytea | Self::Macaddr8 => out.extend(n.to_be_bytes()),
            Self::Jsonb => {
                out.extend_from_slice(b"\x01{\"n\":\"");
                encode::base32(out, n, BASE32_DIGITS);
                out.extend_from_slice(b"\"}");
            }
            Self::Uuid => encode::uuid_of(out, n),
            Self::Date => out.extend((BASE_DAY + n as i32).to_be_bytes()),
            Self::Timestamp { digits } => {
                out.extend((BASE_TIME_US + n.cast_signed() * step_us(*digits)).to_be_bytes());
            }
            Self::Time { digits, zone } => time(out, n.cast_signed() * step_us(*digits), *zone),
            Self::Interval => interval(out, n.cast_signed()),
            Self::Inet => encode::inet(out, n as u32, 32, false),
            Self::Macaddr => out.extend_from_slice(&n.to_be_bytes()[2..]),
            _ => self.write(out, &mut Draw::new(n)),
        }
    }

    /// Appends a value that `draw` decides.
    pub fn write(&self, out: &mut Vec<u8>, draw: &mut Draw) {
        match self {
            Self::Bool => out.push((draw.bits() & 1) as u8),
            Self::Int2 => out.extend((draw.below(32_768) as u16).to_be_bytes()),
            Self::Int4 | Self::Oid => out.extend((draw.below(1 << 31) as u32).to_be_bytes()),
            Self::Int8 => out.extend(draw.below(1 << 48).to_be_bytes()),
            Self::Float4 => out.extend((draw.below(1 << 20) as f32 / 16.0).to_be_bytes()),
            Self::Float8 => out.extend((draw.below(1 << 40) as f64 / 1024.0).to_be_bytes()),
            Self::Numeric { precision, scale } => {
                let digits = u32::from(precision.unwrap_or(12).min(15));
                numeric(out, draw.below(10u64.pow(digits)), *scale);
            }
            Self::Money => out.extend(draw.below(100_000_000).to_be_bytes()),
            Self::Text { max } => text(out, max.unwrap_or(u32::MAX), draw),
            Self::Char => out.push(b'a' + draw.below(26) as u8),
            Self::Bytea => {
                for _ in 0..=draw.below(3) {
                    out.extend(draw.bits().to_be_bytes());
                }
            }
            Self::Uuid => encode::uuid(out, draw.bits(), draw.bits()),
            Self::Date => out.extend((BASE_DAY + draw.below(3_650) as i32).to_be_bytes()),
            Self::Time { digits, zone } => {
                let step = step_us(*digits);
                let steps = draw.below((DAY_US / step).cast_unsigned()).cast_signed();
                time(out, steps * step, *zone);
            }
            Self::Timestamp { .. } => {
                let since = draw.below(365 * DAY_US.cast_unsigned()).cast_signed();
                out.extend((BASE_TIME_US + since).to_be_bytes());
            }
            Self::Interval => interval(out, draw.below(DAY_US.cast_unsigned()).cast_signed()),
            Self::Json => json(out, draw),
            Self::Jsonb => {
                out.push(1);
                json(out, draw);
            }
            Self::Enum { labels } => {
                let index = draw.below(labels.len() as u64) as usize;
                out.extend_from_slice(labels.get(index).map_or(b"", |label| label.as_bytes()));
            }
            Self::Array { element, element_oid } => array(out, element, *element_oid, draw),
            Self::Inet => encode::inet(out, 0x0a00_0000 | draw.below(1 << 24) as u32, 32, false),
            Self::Cidr => {
                encode::inet(out, 0x0a00_0000 | (draw.below(1 << 16) as u32) << 8, 24, true);
            }
            Self::Macaddr => out.extend_from_slice(&draw.bits().to_be_bytes()[2..]),
            Self::Macaddr8 => out.extend(draw.bits().to_be_bytes()),
            Self::Bit { length } => bits(out, *length, draw),
            Self::Varbit { max } => bits(out, max.unwrap_or(24).min(24), draw),
        }
    }
}

/// µs of the smallest step a time with so many digits behind the second can hold.
fn step_us(digits: u32) -> i64 {
    10i64.pow(6 - digits.min(6))
}

fn numeric(out: &mut Vec<u8>, unscaled: u64, scale: i16) {
    match u16::try_from(scale) {
        // More digits than this are zeros that the server adds.
        Ok(scale) => encode::numeric(out, unscaled, scale.min(24)),
        // A negative scale rounds to tens, hundreds, …: zero fits in every case.
        Err(_) => encode::numeric(out, 0, 0),
    }
}

fn time(out: &mut Vec<u8>, us: i64, zone: bool) {
    out.extend(us.to_be_bytes());
    if zone {
        out.extend([0; 4]);
    }
}

fn interval(out: &mut Vec<u8>, us: i64) {
    out.extend(us.to_be_bytes());
    out.extend([0; 8]);
}

fn bits(out: &mut Vec<u8>, length: u32, draw: &mut Draw) {
    out.extend(length.to_be_bytes());
    let whole = length / 8;
    for _ in 0..whole {
        out.push(draw.bits() as u8);
    }
    if !length.is_multiple_of(8) {
        // What is beyond the length must be zero.
        out.push(draw.bits() as u8 & (0xffu8 << (8 - length % 8)));
    }
}

fn text(out: &mut Vec<u8>, max: u32, draw: &mut Draw) {
    let end = out.len().saturating_add(max as usize);
    for at in 0..=draw.below(3) {
        if at > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(draw.pick(&WORDS).as_bytes());
    }
    out.truncate(end);
}

fn json(out: &mut Vec<u8>, draw: &mut Draw) {
    out.extend_from_slice(b"{\"name\": \"");
    out.extend_from_slice(draw.pick(&WORDS).as_bytes());
    out.extend_from_slice(b"\", \"code\": \"");
    encode::hex(out, 8, draw);
    out.extend_from_slice(b"\"}");
}

fn array(out: &mut Vec<u8>, element: &ColumnType, element_oid: u32, draw: &mut Draw) {
    let count = draw.below(4) as u32;
    // Number of dimensions, whether there are NULLs, element type, then length and lower bound of
    // each dimension. An empty array has no dimension.
    out.extend(u32::from(count > 0).to_be_bytes());
    out.extend([0; 4]);
    out.extend(element_oid.to_be_bytes());
    if count > 0 {
        out.extend(count.to_be_bytes());
        out.extend(1u32.to_be_bytes());
    }
    for _ in 0..count {
        encode::sized(out, |out| element.write(out, draw));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn unique_values_are_unique_up_to_the_bound() {
        let types = [
            ColumnType::Int2,
            ColumnType::Int4,
            ColumnType::Int8,
            ColumnType::Float4,
            ColumnType::Numeric { precision: Some(5), scale: 2 },
            ColumnType::Numeric { precision: None, scale: 0 },
            ColumnType::Text { max: Some(2) },
            ColumnType::Text { max: None },
            ColumnType::Uuid,
            ColumnType::Date,
            ColumnType::Timestamp { digits: 0 },
            ColumnType::Time { digits: 0, zone: true },
            ColumnType::Inet,
            ColumnType::Macaddr,
            ColumnType::Jsonb,
        ];
        for column in types {
            let count = column.distinct_values().unwrap().min(50_000);
            let values: HashSet<Vec<u8>> = (0..count)
                .map(|n| {
                    let mut out = Vec::new();
                    column.write_unique(&mut out, n);
                    out
                })
                .collect();
            assert_eq!(values.len() as u64, count, "{column:?}");
        }
    }

    #[test]
    fn large_numbers_stay_unique() {
        let value = |n: u64| {
            let mut out = Vec::new();
            ColumnType::Uuid.write_unique(&mut out, n);
            out
        };
        let values: HashSet<_> =
            (0..10_000).map(|n| value((1 << 61) + n * 0x1_0000_0001)).collect();
        assert_eq!(values.len(), 10_000);
    }
}

//! A sample by ranges of the key: of a table too large to be read, both sides read some stretches, by
//! their indexes. Where the stretches are is drawn anew each time; the ends of the key's order, where
//! new rows mostly come, are always among them.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::clickhouse::ddl::{quote_name, quote_string};
use crate::replication::{quote, quote_identifier};
use crate::rowbinary::{BinaryForm, Codec, Column};

/// Stretches of a table.
const RANGES: usize = 20;

/// With fewer known keys the stretches would say nothing of a share.
const FEWEST_KEYS: usize = 2_000;

/// How the values of a key's first column are ordered; the same on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Number,
    /// By bytes. Only an index of the collation "C" has that order in PostgreSQL, without which it
    /// reads all of the table, and sends the stretches alone.
    Bytes,
}

/// Some ranges of a column's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ranges {
    pub(super) column: String,
    order: Order,
    /// Each from its first value on, up to one that is not in it; open where there is none.
    bounds: Vec<[Option<String>; 2]>,
}

impl Order {
    fn of(column: &Column) -> Option<Self> {
        match column.codec {
            Codec::Int16 | Codec::Int32 | Codec::Int64 => Some(Self::Number),
            // Others of that form have an order of their own, or blanks at their end.
            Codec::Text(BinaryForm::Text)
                if ["text", "character varying"].contains(&&*column.type_name) =>
            {
                Some(Self::Bytes)
            }
            _ => None,
        }
    }

    fn sort(self, values: &mut Vec<String>) {
        match self {
            Self::Number => values.sort_by_cached_key(|value| value.parse::<i64>().ok()),
            Self::Bytes => values.sort_unstable(),
        }
        values.dedup();
    }
}

/// Whether a table can be sampled by ranges of this column of its; texts only if they have the same
/// order on both sides.
pub(super) fn has_ranges(column: &Column, orders_as_utf8: bool) -> bool {
    match Order::of(column) {
        Some(Order::Number) => true,
        Some(Order::Bytes) => orders_as_utf8,
        None => false,
    }
}

impl Ranges {
    /// Ranges that hold about a share of the rows, by what is known of the column's values; none where
    /// that is too little, or the column has no order that both sides know.
    pub(super) fn draw(
        column: &Column,
        mut values: Vec<String>,
        share: f64,
        seed: u64,
    ) -> Option<Self> {
        let order = Order::of(column)?;
        order.sort(&mut values);
        if values.len() < FEWEST_KEYS || share >= 1.0 {
            return None;
        }
        let mut draw = Xoshiro256PlusPlus::seed_from_u64(seed);
        let bound = |range: usize| range * values.len() / RANGES;
        let bounds = (0..RANGES).map(|range| {
            let (first, end) = (bound(range), bound(range + 1));
            // A share of what is known is no more than it.
            let length = (((end - first) as f64 * share).ceil() as usize).clamp(1, end - first);
            let spare = end - first - length;
            let start = match range {
                0 => first,
                _ if range == RANGES - 1 => end - length,
                _ => first + (draw.next_u64() % (spare as u64 + 1)) as usize,
            };
            let is_first = start == 0;
            [(!is_first).then(|| values[start].clone()), values.get(start + length).cloned()]
        });
        Some(Self { column: column.name.clone(), order, bounds: bounds.collect() })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.bounds.len()
    }

    /// The condition for PostgreSQL.
    pub(super) fn postgres(&self) -> String {
        let name = quote_identifier(&self.column);
        let compared = match self.order {
            Order::Number => name,
            Order::Bytes => format!("{name} COLLATE pg_catalog.\"C\""),
        };
        self.condition(&compared, quote)
    }

    /// The condition for ClickHouse.
    pub(super) fn clickhouse(&self) -> String {
        let value = |value: &str| match self.order {
            Order::Number => value.to_owned(),
            Order::Bytes => quote_string(value),
        };
        self.condition(&quote_name(&self.column), value)
    }

    fn condition(&self, compared: &str, value: impl Fn(&str) -> String) -> String {
        let side = |operator: &str, bound: &Option<String>| {
            bound.as_ref().map(|bound| format!("{compared} {operator} {}", value(bound)))
        };
        let range = |[from, to]: &[Option<String>; 2]| {
            let sides: Vec<_> = [side(">=", from), side("<", to)].into_iter().flatten().collect();
            format!("({})", sides.join(" AND "))
        };
        self.bounds.iter().map(range).collect::<Vec<_>>().join(" OR ")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(codec: Codec, type_name: &str) -> Column {
        let (name, type_name) = ("it's \"k\"".into(), type_name.into());
        Column { name, codec, nullable: false, key: true, loses_null: false, type_name }
    }

    fn has(range: &[Option<String>; 2], value: i64) -> bool {
        let bound = |bound: &Option<String>| bound.as_ref().map(|b| b.parse::<i64>().unwrap());
        let [from, to] = range;
        bound(from).is_none_or(|from| value >= from) && bound(to).is_none_or(|to| value < to)
    }

    #[test]
    fn ranges_are_said_in_both_languages() {
        let text = Codec::Text(BinaryForm::Text);
        let values = (0..4_000).map(|n| format!("{n:05}'\\")).collect();
        let ranges = Ranges::draw(&column(text.clone(), "text"), values, 0.01, 1).unwrap();
        let (first, last) = ("00002'\\", "03998'\\");
        assert_eq!(ranges.count(), 20);
        let postgres = ranges.postgres();
        let name = "\"it's \"\"k\"\"\" COLLATE pg_catalog.\"C\"";
        assert!(
            postgres.starts_with(&format!("({name} < '00002''\\') OR ({name} >= '")),
            "{postgres}"
        );
        assert!(postgres.ends_with(&format!(" OR ({name} >= '03998''\\')")), "{postgres}");
        let clickhouse = ranges.clickhouse();
        assert!(clickhouse.starts_with("(`it's \"k\"` < '00002\\'\\\\') OR "), "{clickhouse}");
        assert_eq!(ranges.bounds[0][1].as_deref(), Some(first));
        assert_eq!(ranges.bounds[19][0].as_deref(), Some(last));
        let values: Vec<_> = (-2_000..2_000).rev().map(|n| n.to_string()).collect();
        let ranges = Ranges::draw(&column(Codec::Int64, "int8"), values, 0.01, 1).unwrap();
        assert!(ranges.clickhouse().starts_with("(`it's \"k\"` < -1998) OR "));
        assert!(ranges.postgres().starts_with("(\"it's \"\"k\"\"\" < '-1998') OR "));
        // Their order differs, or is unknown, or there are too few of them.
        for other in [column(Codec::Uuid, "uuid"), column(text, "citext")] {
            assert_eq!(Ranges::draw(&other, vec![String::new(); 9_999], 0.1, 1), None);
        }
        let few = (0..1_999).map(|n| n.to_string()).collect();
        assert_eq!(Ranges::draw(&column(Codec::Int32, "int4"), few, 0.1, 1), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        /// No two ranges meet, the ends are in them, and they are a share of the rows.
        #[test]
        fn ranges_are_a_share(count in 2_000i64..9_000, share in 0.001..0.99, seed: u64) {
            let values = (0..count).map(|n| (n * 7).to_string()).collect();
            let ranges = Ranges::draw(&column(Codec::Int64, "int8"), values, share, seed).unwrap();
            let hits = |value: i64| ranges.bounds.iter().filter(|range| has(range, value)).count();
            let all: Vec<_> = (0..count).map(|n| hits(n * 7)).collect();
            prop_assert!(all.iter().all(|hits| *hits <= 1));
            prop_assert!(hits(i64::MIN) == 1 && hits(i64::MAX) == 1);
            let taken = all.iter().sum::<usize>() as f64;
            let wanted = count as f64 * share;
            prop_assert!((taken - wanted).abs() <= RANGES as f64, "{} {}", taken, wanted);
        }
    }
}

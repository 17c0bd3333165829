//! Whether a destination table fits the rows that come, and what must be changed of it.
//!
//! Two descriptions of a table may be on their way at once, in any order: batches overtake each
//! other, and a restart goes back. So a destination's column is only ever made wider, to a type that
//! holds the values of both without loss, and rows of the narrower type are converted before they are
//! inserted. Where that ends does not depend on the order.

use std::collections::{BTreeMap, BTreeSet};

use super::ddl::Place;
use super::kind::ColumnKind;
use crate::rowbinary::{Column, Table};

/// A destination table that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// What its columns hold, by name; `Err` with the type of those that hold something else than
    /// what is written here.
    pub columns: BTreeMap<String, Result<ColumnKind, String>>,
    /// The columns that it is in the order of.
    pub key: BTreeSet<String>,
    /// Of rows with the same key, it keeps the newest.
    pub replaces: bool,
}

/// What a table needs for rows to be inserted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// Statements that change it; none if it fits.
    pub changes: Vec<String>,
    /// The table after that.
    pub present: Present,
    /// What can't be done.
    pub refused: Vec<String>,
}

/// Whether rows of `table` can be inserted into a table as it is.
#[must_use]
pub fn fits(place: &Place, table: &Table, present: &Present) -> bool {
    let holds = |column: &Column| match present.columns.get(&column.name) {
        Some(Ok(theirs)) => wider(place, column, theirs, &ColumnKind::of(column)) == Ok(None),
        _ => false,
    };
    has_key_of(table, present) && table.columns.iter().all(holds)
}

/// Finds out what a table that is there needs for rows of `table`.
#[must_use]
pub fn fit(place: &Place, table: &Table, present: &Present) -> Fit {
    let mut fit = Fit { present: present.clone(), ..Fit::default() };
    fit.refused.extend(key_refused(table, present));
    for column in &table.columns {
        let ours = ColumnKind::of(column);
        match present.columns.get(&column.name) {
            None => {
                fit.changes.extend(place.add_column(table, column));
                fit.present.columns.insert(column.name.clone(), Ok(ours));
            }
            Some(Err(sql_type)) => {
                fit.refused.push(format!("{} is {sql_type}, which is not written", column.name));
            }
            Some(Ok(theirs)) => match wider(place, column, theirs, &ours) {
                Ok(None) => {}
                Ok(Some(wider)) => {
                    fit.changes.extend(place.modify_column(table, column, &wider));
                    fit.present.columns.insert(column.name.clone(), Ok(wider));
                }
                Err(refused) => fit.refused.push(refused),
            },
        }
    }
    fit
}

/// What rows are told apart by must be what the table is in the order of.
fn has_key_of(table: &Table, present: &Present) -> bool {
    let mut key = table.columns.iter().filter(|column| column.key);
    key.clone().count() == present.key.len()
        && key.all(|column| present.key.contains(&column.name))
        && table.has_key() == present.replaces
}

fn key_refused(table: &Table, present: &Present) -> Option<String> {
    let key = table.columns.iter().filter(|column| column.key).map(|column| column.name.clone());
    let name = |key: BTreeSet<String>| match key.is_empty() {
        true => "no key".into(),
        false => format!("the key ({})", Vec::from_iter(key).join(", ")),
    };
    (!has_key_of(table, present)).then(|| {
        let keeps = if present.replaces { "" } else { " and keeps every row" };
        format!(
            "it has {}{keeps}, and the rows have {}",
            name(present.key.clone()),
            name(key.collect())
        )
    })
}

/// What a column must become; `None` if it holds ours already.
fn wider(
    place: &Place,
    column: &Column,
    theirs: &ColumnKind,
    ours: &ColumnKind,
) -> Result<Option<ColumnKind>, String> {
    let wider = theirs.join(ours);
    let name = &column.name;
    // Neither could be converted, nor could a later start tell which of its numbers are which.
    let stands_in = place.stands_in(&theirs.kind) || place.stands_in(&ours.kind);
    if stands_in && theirs.kind != ours.kind {
        return Err(format!(
            "{name} holds {theirs}, and must hold {ours}, which are both numbers in ClickHouse {}",
            place.version
        ));
    }
    if wider == *theirs {
        return Ok(None);
    }
    if column.key {
        return Err(format!(
            "{name} is {theirs}, and must be {wider}: ClickHouse can't change columns of a key"
        ));
    }
    Ok(Some(wider))
}

/// What a table's columns hold at the destination and in the rows, if any of them is wider there.
#[must_use]
pub fn conversion(table: &Table, present: &Present) -> Option<(Vec<ColumnKind>, Vec<ColumnKind>)> {
    let from: Vec<_> = table.columns.iter().map(ColumnKind::of).collect();
    let held = |column: &Column, ours: &ColumnKind| match present.columns.get(&column.name) {
        Some(Ok(theirs)) => theirs.clone(),
        _ => ours.clone(),
    };
    let to: Vec<_> = table.columns.iter().zip(&from).map(|(c, ours)| held(c, ours)).collect();
    (from != to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::version::Version;
    use super::*;
    use crate::rowbinary::{BinaryForm, Codec};

    fn place(major: u32) -> Place {
        let version = Version { major, minor: 16 };
        Place { database: "d".into(), version, cluster: None }
    }

    fn column(name: &str, codec: Codec, nullable: bool) -> Column {
        let (key, type_name) = (name == "id", "t".into());
        Column { name: name.into(), codec, nullable, key, loses_null: false, type_name }
    }

    fn table(columns: Vec<Column>) -> Table {
        let id = column("id", Codec::Int32, false);
        let columns = [vec![id], columns].concat();
        Table { name: "public.t".into(), columns, clamps: false }
    }

    /// The table as it was made for rows of this one.
    fn made(table: &Table) -> Present {
        let columns = table.columns.iter().map(|c| (c.name.clone(), Ok(ColumnKind::of(c))));
        let key = table.columns.iter().filter(|c| c.key).map(|c| c.name.clone());
        Present { columns: columns.collect(), key: key.collect(), replaces: table.has_key() }
    }

    fn text() -> Codec {
        Codec::Text(BinaryForm::Text)
    }

    #[test]
    fn columns_are_added_and_made_wider() {
        let before = table(vec![column("n", Codec::Int32, false)]);
        let now = table(vec![
            column("n", Codec::Int64, true),
            column("at", Codec::Timestamp, true),
            column("note", text(), false),
        ]);
        let fit = fit(&place(26), &now, &made(&before));
        insta::assert_snapshot!(fit.changes.join("\n"), @"
        ALTER TABLE `d`.`t` MODIFY COLUMN `n` Nullable(Int64)
        ALTER TABLE `d`.`t` ADD COLUMN `at` Nullable(DateTime64(6, 'UTC')) CODEC(Delta, ZSTD)
        ALTER TABLE `d`.`t` ADD COLUMN `note` String
        ");
        assert_eq!(fit.refused, Vec::<String>::new());
        assert!(fits(&place(26), &now, &fit.present) && !fits(&place(26), &now, &made(&before)));
        // And the older rows still go in, converted.
        assert!(fits(&place(26), &before, &fit.present));
        let (from, to) = conversion(&before, &fit.present).unwrap();
        assert_eq!(
            (from[1].to_string(), to[1].to_string()),
            ("Int32".into(), "Nullable(Int64)".into())
        );
        assert_eq!(conversion(&now, &fit.present), None);
    }

    #[test]
    fn what_can_not_be_done_is_said() {
        let refused = |place: &Place, table: &Table, present: &Present| {
            fit(place, table, present).refused.join("; ")
        };
        let keyed = table(vec![column("d", Codec::Date, true)]);
        let mut other_key = made(&keyed);
        other_key.key = ["d".to_owned()].into();
        let mut log = made(&keyed);
        (log.key, log.replaces) = (BTreeSet::new(), false);
        let mut foreign = made(&keyed);
        foreign.columns.insert("d".into(), Err("Map(String, UInt8)".into()));
        let wide_key = table(vec![]);
        let mut wide_key = wide_key;
        wide_key.columns[0].codec = Codec::Int64;
        let as_timestamp = table(vec![column("d", Codec::Timestamp, true)]);
        let said = [
            refused(&place(26), &keyed, &other_key),
            refused(&place(26), &keyed, &log),
            refused(&place(26), &keyed, &foreign),
            refused(&place(26), &wide_key, &made(&keyed)),
            refused(&place(18), &as_timestamp, &made(&keyed)),
            refused(&place(18), &keyed, &made(&as_timestamp)),
            refused(&place(26), &as_timestamp, &made(&keyed)),
        ];
        insta::assert_snapshot!(said.join("\n"), @"
        it has the key (d), and the rows have the key (id)
        it has no key and keeps every row, and the rows have the key (id)
        d is Map(String, UInt8), which is not written
        id is Int32, and must be Int64: ClickHouse can't change columns of a key
        d holds Nullable(Date32), and must hold Nullable(DateTime64(6, 'UTC')), which are both numbers in ClickHouse 18.16
        d holds Nullable(DateTime64(6, 'UTC')), and must hold Nullable(Date32), which are both numbers in ClickHouse 18.16
        ");
    }

    proptest! {
        /// Whatever descriptions come in whatever order, all of them fit what comes of it, and it is
        /// the same.
        #[test]
        fn the_order_of_descriptions_makes_no_difference(
            codecs in prop::collection::vec((codec(), any::<bool>()), 2..5), turn in 0usize..5,
        ) {
            let tables: Vec<_> = codecs
                .iter()
                .map(|(codec, nullable)| {
                    let nullable = *nullable && !matches!(codec, Codec::Array { .. });
                    table(vec![column("v", codec.clone(), nullable)])
                })
                .collect();
            let place = place(26);
            let after = |tables: &mut dyn Iterator<Item = &Table>| {
                let first = tables.next().unwrap();
                tables.fold(made(first), |present, table| fit(&place, table, &present).present)
            };
            let present = after(&mut tables.iter());
            let mut turned = tables.clone();
            turned.rotate_left(turn % tables.len());
            prop_assert_eq!(&present, &after(&mut turned.iter()));
            for table in &tables {
                prop_assert!(fits(&place, table, &present));
                prop_assert_eq!(fit(&place, table, &present).changes, Vec::<String>::new());
            }
        }
    }

    fn codec() -> impl Strategy<Value = Codec> {
        let simple = prop::sample::select(vec![
            Codec::Bool,
            Codec::Int16,
            Codec::Int32,
            Codec::UInt32,
            Codec::Int64,
            Codec::Float32,
            Codec::Float64,
            Codec::Decimal { precision: 5, scale: 2 },
            Codec::Decimal { precision: 38, scale: 10 },
            Codec::Uuid,
            Codec::Date,
            Codec::Timestamp,
            Codec::Bytes,
            text(),
        ]);
        (simple, any::<bool>()).prop_map(|(codec, array)| match array {
            true => Codec::Array { element: Box::new(codec), delimiter: b',' },
            false => codec,
        })
    }
}

//! A table that rows are made for.

use walbench_metrics::Failure;

use super::builtin::{self, Cell};
use super::column_type::ColumnType;
use super::draw::{Draw, mix, name_number};
use super::encode;
use super::payload::Payload;
use super::table_shape::{ColumnShape, TableShape};

/// Nullable columns of other tables than ours are NULL in this share of the rows.
const NULL_PERCENT: u64 = 10;

/// A table with a way to fill each column. Row n of a seed is always the same row.
pub struct Table {
    /// As the catalogue describes it.
    pub shape: TableShape,
    /// The columns, in the shape's order.
    columns: Vec<Column>,
    /// Seed and table as one number.
    key: u64,
    payload: Payload,
}

struct Column {
    oid: u32,
    source: Source,
    /// Seed, table and column as one number.
    key: u64,
    inserted: bool,
    updated: bool,
    /// Filled whenever the row travels as a composite, because its type refuses NULL.
    never_null: bool,
}

/// Where a column's values come from.
enum Source {
    /// Nothing fills it: left out or NULL.
    Nothing,
    /// No two rows have the same; never updated.
    Unique(ColumnType),
    /// Any value of the type; NULL in some rows if that is allowed.
    Any(ColumnType, /* nullable */ bool),
    /// A built-in table's.
    Rule(fn(&mut Cell, &mut Vec<u8>)),
}

/// What a row is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// All columns that are written at all.
    Insert,
    /// The key, and the columns an update changes.
    Update,
}

/// A row: which one, and how often it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowVersion {
    /// Its number.
    pub n: u64,
    /// 0 when it is inserted, another number with every update.
    pub revision: u64,
}

impl RowVersion {
    /// Row `n` as it is inserted.
    #[must_use]
    pub fn first(n: u64) -> Self {
        Self { n, revision: 0 }
    }
}

impl Table {
    /// A table whose rows `seed` decides; `payload_bytes` and `payload_compressibility` as the plan
    /// has them.
    ///
    /// # Errors
    ///
    /// A column that must be filled has a type that can't be, or no column of a unique index can
    /// tell rows apart.
    pub fn new(
        shape: TableShape,
        seed: u64,
        payload_bytes: Option<u32>,
        payload_compressibility: f64,
    ) -> Result<Self, Failure> {
        let key = mix(seed, name_number(&shape.full_name()));
        let bytes =
            payload_bytes.map_or(builtin::default_payload_bytes(&shape), |bytes| bytes as usize);
        let payload = Payload { bytes, compressibility: payload_compressibility };
        check_unique_indexes(&shape)?;
        let columns = (0..shape.columns.len())
            .map(|at| Column::new(&shape, at, key))
            .collect::<Result<_, Failure>>()?;
        Ok(Self { shape, columns, key, payload })
    }

    /// How many rows the table can hold before two of them share a unique value.
    #[must_use]
    pub fn distinct_rows(&self) -> u64 {
        let rows = |index: &Vec<usize>| {
            let columns =
                index.iter().filter_map(|at| self.shape.columns[*at].column_type.as_ref());
            columns.filter_map(ColumnType::distinct_values).max()
        };
        self.shape.unique.iter().filter_map(rows).min().unwrap_or(u64::MAX)
    }

    /// Whether rows can be updated: there is a key to find them by and a column to change.
    #[must_use]
    pub fn can_update(&self) -> bool {
        !self.shape.key.is_empty()
            && self.shape.key.iter().all(|at| self.columns[*at].inserted)
            && self.columns.iter().any(|column| column.updated)
    }

    /// The columns that a statement for `purpose` sets, without the key for an update.
    pub fn written(&self, purpose: Purpose) -> impl Iterator<Item = &ColumnShape> {
        let chosen = move |column: &Column| match purpose {
            Purpose::Insert => column.inserted,
            Purpose::Update => column.updated,
        };
        let both = self.columns.iter().zip(&self.shape.columns);
        both.filter(move |(column, _)| chosen(column)).map(|(_, shape)| shape)
    }

    /// The primary key's columns.
    pub fn key(&self) -> impl Iterator<Item = &ColumnShape> {
        self.shape.key.iter().map(|at| &self.shape.columns[*at])
    }

    /// Appends a row as an element of an array of the table's row type: length, number of columns,
    /// then type, length and content of every column (PostgreSQL: `record_recv`). What `purpose`
    /// has no use for is NULL.
    pub fn write_composite(&self, row: RowVersion, purpose: Purpose, out: &mut Vec<u8>) {
        let row_key = self.row_key(row);
        encode::sized(out, |out| {
            out.extend((self.columns.len() as u32).to_be_bytes());
            for (at, column) in self.columns.iter().enumerate() {
                out.extend(column.oid.to_be_bytes());
                let wanted = match purpose {
                    Purpose::Insert => column.inserted,
                    Purpose::Update => column.updated || self.shape.key.contains(&at),
                };
                if wanted || column.never_null {
                    self.write_column(column, row, row_key, out);
                } else {
                    encode::null(out);
                }
            }
        });
    }

    /// Appends a row as binary COPY has it: number of columns, then length and content of each
    /// inserted column.
    pub fn write_copy(&self, n: u64, out: &mut Vec<u8>) {
        let count = self.columns.iter().filter(|column| column.inserted).count();
        out.extend((count as u16).to_be_bytes());
        self.write_values(n, out);
    }

    /// Appends length and content of each inserted column of row `n`.
    pub fn write_values(&self, n: u64, out: &mut Vec<u8>) {
        let row = RowVersion::first(n);
        let row_key = self.row_key(row);
        for column in self.columns.iter().filter(|column| column.inserted) {
            self.write_column(column, row, row_key, out);
        }
    }

    /// Appends length and content of each key column of row `n`.
    pub fn write_key(&self, n: u64, out: &mut Vec<u8>) {
        let row = RowVersion::first(n);
        for at in &self.shape.key {
            self.write_column(&self.columns[*at], row, self.row_key(row), out);
        }
    }

    fn row_key(&self, row: RowVersion) -> u64 {
        mix(mix(self.key, row.n), row.revision)
    }

    fn write_column(&self, column: &Column, row: RowVersion, row_key: u64, out: &mut Vec<u8>) {
        // Columns that are never updated must not depend on the revision: an update would otherwise
        // name another key than the insert did.
        let revision_key = if column.updated { row_key } else { mix(self.key, row.n) };
        let mut draw = Draw::new(revision_key ^ column.key);
        match &column.source {
            Source::Nothing => encode::null(out),
            Source::Unique(column_type) => {
                encode::sized(out, |out| column_type.write_unique(out, row.n));
            }
            Source::Any(_, true) if draw.chance(NULL_PERCENT) => encode::null(out),
            Source::Any(column_type, _) => {
                encode::sized(out, |out| column_type.write(out, &mut draw));
            }
            Source::Rule(write) => {
                let RowVersion { n, revision } = row;
                write(&mut Cell { n, revision, row: row_key, draw, payload: self.payload }, out);
            }
        }
    }
}

impl Column {
    fn new(shape: &TableShape, at: usize, table_key: u64) -> Result<Self, Failure> {
        let column = &shape.columns[at];
        let in_key = shape.key.contains(&at);
        let in_index = shape.unique.iter().any(|index| index.contains(&at));
        let rule = builtin::rules(shape)
            .and_then(|rules| rules.iter().find(|rule| rule.column == column.name));
        let (source, updated) = match (rule, &column.column_type) {
            _ if column.is_generated => (Source::Nothing, false),
            // The server counts; only where rows must be found again do we count in its place.
            _ if column.is_identity_always && !in_key => (Source::Nothing, false),
            (Some(rule), _) => (Source::Rule(rule.write), rule.updated),
            (None, Some(known)) if in_index && known.distinct_values().is_some() => {
                (Source::Unique(known.clone()), false)
            }
            (None, Some(known)) => (Source::Any(known.clone(), !column.not_null), !in_index),
            (None, None) if column.not_null && !column.has_default => {
                return Err(unfillable(shape, column));
            }
            (None, None) => (Source::Nothing, false),
        };
        let fillable = !matches!(source, Source::Nothing);
        Ok(Self {
            oid: column.oid,
            source,
            key: mix(table_key, name_number(&column.name)),
            inserted: fillable,
            updated,
            never_null: column.domain_not_null && fillable,
        })
    }
}

fn unfillable(shape: &TableShape, column: &ColumnShape) -> Failure {
    Failure::new(format!(
        "can't make values for column {}.{}, which has type {} and must not be NULL",
        shape.full_name(),
        column.name,
        column.type_name
    ))
    .hint("give the column a default, allow NULL in it, or leave the table out of producer.tables")
}

fn check_unique_indexes(shape: &TableShape) -> Result<(), Failure> {
    for index in &shape.unique {
        let tells_apart = |at: &usize| {
            let column = &shape.columns[*at];
            let known = column.column_type.as_ref();
            column.is_identity_always
                || column.is_generated
                || known.is_some_and(|known| known.distinct_values().is_some())
                || known.is_none() && !column.not_null
        };
        if !index.iter().any(tells_apart) {
            let names: Vec<_> = index.iter().map(|at| shape.columns[*at].name.as_str()).collect();
            return Err(Failure::new(format!(
                "can't make rows for table {} that differ in ({}), which must be unique",
                shape.full_name(),
                names.join(", ")
            ))
            .hint("drop the unique index in the copied schema, or leave the table out of producer.tables"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn column(name: &str, column_type: ColumnType, not_null: bool) -> ColumnShape {
        ColumnShape {
            name: name.into(),
            oid: 1,
            type_name: "some".into(),
            column_type: Some(column_type),
            not_null,
            domain_not_null: false,
            has_default: false,
            is_generated: false,
            is_identity_always: false,
        }
    }

    fn shape() -> TableShape {
        TableShape {
            schema: "public".into(),
            name: "t".into(),
            row_type: 1,
            columns: vec![
                column("id", ColumnType::Text { max: None }, true),
                column("a", ColumnType::Int8, true),
                column("b", ColumnType::Text { max: Some(8) }, false),
                column("c", ColumnType::Uuid, true),
            ],
            key: vec![0],
            unique: vec![vec![0], vec![3, 1]],
        }
    }

    fn table(seed: u64) -> Table {
        Table::new(shape(), seed, None, 0.5).unwrap()
    }

    fn composite(table: &Table, n: u64, revision: u64) -> Vec<u8> {
        let mut out = Vec::new();
        table.write_composite(RowVersion { n, revision }, Purpose::Insert, &mut out);
        out
    }

    fn key(table: &Table, n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        table.write_key(n, &mut out);
        out
    }

    proptest! {
        #[test]
        fn a_row_is_always_the_same_row(seed: u64, n: u64, revision: u64) {
            prop_assert_eq!(
                composite(&table(seed), n, revision),
                composite(&table(seed), n, revision)
            );
        }

        #[test]
        fn seed_row_and_revision_all_matter(seed: u64, n in 0u64..1_000_000, revision in 0u64..1_000) {
            // Column b alone is free, and it is NULL at times: a few rows may agree by chance.
            let (one, other) = (table(seed), table(seed ^ 1));
            let some_row = |differs: &dyn Fn(u64) -> bool| (n..n + 64).any(differs);
            let revised = some_row(&|n| {
                composite(&one, n, revision) != composite(&one, n, revision + 1)
            });
            let seeded = some_row(&|n| composite(&one, n, 0) != composite(&other, n, 0));
            prop_assert!(revised && seeded);
            prop_assert_ne!(composite(&one, n, revision), composite(&one, n + 1, revision));
        }

        #[test]
        fn an_update_names_the_key_that_the_insert_made(seed: u64, n: u64, revision: u64) {
            let table = table(seed);
            let mut update = Vec::new();
            table.write_composite(RowVersion { n, revision }, Purpose::Update, &mut update);
            let key = key(&table, n);
            prop_assert!(update.windows(key.len()).any(|bytes| bytes == key));
        }
    }

    #[test]
    fn keys_are_unique() {
        let table = table(7);
        let keys: HashSet<_> = (0..50_000).map(|n| key(&table, n)).collect();
        assert_eq!(keys.len(), 50_000);
    }

    #[test]
    fn what_is_unique_is_not_updated() {
        let table = table(7);
        let names =
            |purpose| table.written(purpose).map(|column| column.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(Purpose::Insert), ["id", "a", "b", "c"]);
        assert_eq!(names(Purpose::Update), ["b"]);
    }
}

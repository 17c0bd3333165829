//! Which of a table's columns are compared, and how they are asked for so that equal values are
//! equal bytes: a destination's column may have another type than rows are written in now, because
//! it was another one once.

use serde::Serialize;

use super::stored::Columns;
use crate::clickhouse::ddl::{Place, quote_name, quote_string};
use crate::clickhouse::version::{Feature, Version};
use crate::rowbinary::{Codec, Column, Table};

/// A column that is not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnProblem {
    /// Its name.
    pub column: String,
    /// Why.
    pub problem: String,
}

/// How the two sides of a table are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    /// PostgreSQL's rows as they are encoded.
    pub(super) here: Table,
    /// Which of their columns are compared.
    pub(super) compared: Vec<bool>,
    /// ClickHouse's rows as they come.
    pub(super) there: Table,
    /// What of each is asked for, as SQL.
    select: Vec<String>,
    /// What is not compared.
    pub(super) problems: Vec<ColumnProblem>,
}

/// A server that has none of the newer types: what it has in their place are the same bytes.
const OLDEST: Version = Version { major: 18, minor: 16 };

/// How a column is asked for.
enum Reading {
    /// As it is; where `nullable`, with a mark of NULL or not.
    As { sql: String, nullable: bool },
    /// Not at all.
    Not(String),
}

/// Finds out how a table is compared with a destination of these columns.
///
/// # Errors
/// It can't be, and why: its rows can't be told apart there.
pub(super) fn align(place: &Place, table: &Table, theirs: &Columns) -> Result<Alignment, String> {
    if theirs.is_empty() {
        return Err("there is no such table".into());
    }
    for (mark, sql_type) in [("_version", "UInt64"), ("_is_deleted", "UInt8")] {
        match theirs.get(mark) {
            None => return Err(format!("it has no column {mark}: it is none of walbench's")),
            Some(other) if other != sql_type => {
                return Err(format!("{mark} is {other} there, and not {sql_type}"));
            }
            Some(_) => {}
        }
    }
    let mut aligned = Alignment {
        here: table.clone(),
        compared: Vec::new(),
        there: Table { columns: Vec::new(), ..table.clone() },
        select: Vec::new(),
        problems: Vec::new(),
    };
    for (index, column) in table.columns.iter().enumerate() {
        match reading(place, column, theirs) {
            Reading::As { sql, nullable } => {
                aligned.here.columns[index].nullable = nullable;
                aligned.there.columns.push(Column { nullable, ..column.clone() });
                aligned.select.push(sql);
                aligned.compared.push(true);
            }
            Reading::Not(problem) if column.key => {
                return Err(format!("{} of the key {problem}", column.name));
            }
            Reading::Not(problem) => {
                aligned.problems.push(ColumnProblem { column: column.name.clone(), problem });
                aligned.compared.push(false);
            }
        }
    }
    Ok(aligned)
}

fn reading(place: &Place, column: &Column, theirs: &Columns) -> Reading {
    let Some(theirs) = theirs.get(&column.name) else {
        return Reading::Not("is absent there".into());
    };
    let (stored, stored_nullable) = base(&plain(theirs));
    let name = quote_name(&column.name);
    let is_same = [place.version, OLDEST].into_iter().any(|version| {
        let ours = Place { version, ..place.clone() }.column_type(column);
        base(&plain(&ours)).0 == stored
    });
    match (is_same, column.nullable, stored_nullable) {
        (true, true, false) => Reading::As { sql: format!("toNullable({name})"), nullable: true },
        // Bytes with a mark of NULL say the same whether the source's column may be NULL or not.
        (true, _, nullable) => Reading::As { sql: name, nullable },
        (false, ..) => cast(place, column, &name, theirs, &stored),
    }
}

/// Asks for a column of another type as what it would be now. A value that the type can't hold is
/// NULL then, and so different.
fn cast(place: &Place, column: &Column, name: &str, theirs: &str, stored: &str) -> Reading {
    let ours = base(&place.column_type(column)).0;
    let is_array = stored.starts_with("Array(");
    match &column.codec {
        _ if !place.version.has(Feature::AccurateCast) => {}
        Codec::Array { .. } if is_array || stored == "String" => {
            let sql = format!("CAST({name}, {})", quote_string(&ours));
            return Reading::As { sql, nullable: false };
        }
        Codec::Array { .. } => {}
        Codec::Text(_) | Codec::Bytes => {
            let sql = format!("toNullable(toString({name}))");
            return Reading::As { sql, nullable: true };
        }
        _ if is_array => {}
        _ => {
            let sql = format!("accurateCastOrNull({name}, {})", quote_string(&ours));
            return Reading::As { sql, nullable: true };
        }
    }
    Reading::Not(format!("is {theirs} there, which can't be compared with {ours}"))
}

/// A type without what makes no difference to its bytes: how it is stored, and a time zone.
fn plain(text: &str) -> String {
    let inner = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    if let Some(stored) = inner("LowCardinality") {
        return plain(stored);
    }
    for wrapper in ["Nullable", "Array"] {
        if let Some(wrapped) = inner(wrapper) {
            return format!("{wrapper}({})", plain(wrapped));
        }
    }
    match inner("DateTime64") {
        Some(arguments) => format!("DateTime64({})", arguments.split(',').next().unwrap_or("3")),
        None => text.to_owned(),
    }
}

/// A type without its `Nullable`, and whether it had that.
fn base(sql_type: &str) -> (String, bool) {
    let inner = sql_type.strip_prefix("Nullable(").and_then(|text| text.strip_suffix(')'));
    (inner.unwrap_or(sql_type).to_owned(), inner.is_some())
}

impl Alignment {
    /// Asks for all row versions; of rows that meet a condition, if there is one.
    pub(super) fn query(&self, sql_name: &str, condition: Option<&str>) -> String {
        let marks = ["_version", "_is_deleted"].map(quote_name);
        let list: Vec<_> = self.select.iter().chain(&marks).map(String::as_str).collect();
        let condition = condition.map_or_else(String::new, |c| format!(" WHERE {c}"));
        format!("SELECT {} FROM {sql_name}{condition} FORMAT RowBinary", list.join(", "))
    }

    /// The first column of the key, if its values are the same on both sides as they stand there.
    pub(super) fn first_of_key(&self) -> Option<&Column> {
        let first = self.here.columns.iter().find(|column| column.key)?;
        self.select.contains(&quote_name(&first.name)).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rowbinary::BinaryForm;

    const NEW: Version = Version { major: 26, minor: 7 };

    fn column(name: &str, codec: Codec, nullable: bool, key: bool) -> Column {
        let type_name = "t".into();
        Column { name: name.into(), codec, nullable, key, loses_null: false, type_name }
    }

    fn table() -> Table {
        let text = || Codec::Text(BinaryForm::Text);
        let columns = vec![
            column("id", Codec::Int32, false, true),
            column("at", Codec::Timestamp, true, false),
            column("note", text(), false, false),
            column(
                "tags",
                Codec::Array { element: Box::new(text()), delimiter: b',' },
                false,
                false,
            ),
        ];
        Table { name: "public.t".into(), columns, clamps: false }
    }

    fn columns(types: &[(&str, &str)]) -> Columns {
        let marks = [("_version", "UInt64"), ("_is_deleted", "UInt8")];
        let all = types.iter().chain(&marks);
        all.map(|(name, sql_type)| ((*name).into(), (*sql_type).into())).collect()
    }

    fn aligned(version: Version, types: &[(&str, &str)]) -> Result<Alignment, String> {
        let place = Place { database: "d".into(), version, cluster: None };
        align(&place, &table(), &columns(types))
    }

    #[test]
    fn what_fits_is_asked_for_as_it_is() {
        for (version, at) in [
            (NEW, "Nullable(DateTime64(6, 'UTC'))"),
            (NEW, "Nullable(Int64)"),
            (OLDEST, "Nullable(Int64)"),
        ] {
            let types = [
                ("id", "Int32"),
                ("at", at),
                ("note", "LowCardinality(String)"),
                ("tags", "Array(Nullable(String))"),
            ];
            let aligned = aligned(version, &types).unwrap();
            assert_eq!((&aligned.here, &aligned.there), (&table(), &table()));
            assert_eq!(
                aligned.query("`d`.`t`", None),
                "SELECT `id`, `at`, `note`, `tags`, `_version`, `_is_deleted` FROM `d`.`t` \
                 FORMAT RowBinary"
            );
        }
    }

    #[test]
    fn what_was_another_type_is_converted_to_what_it_is_now() {
        let types = [
            ("id", "Int64"),
            ("at", "DateTime64(6)"),
            ("note", "Nullable(Int32)"),
            ("tags", "String"),
        ];
        let wider = aligned(NEW, &types).unwrap();
        assert_eq!(
            wider.query("t", None),
            "SELECT accurateCastOrNull(`id`, 'Int32'), toNullable(`at`), \
             toNullable(toString(`note`)), CAST(`tags`, 'Array(Nullable(String))'), `_version`, \
             `_is_deleted` FROM t FORMAT RowBinary"
        );
        let nullable = |table: &Table| table.columns.iter().map(|c| c.nullable).collect::<Vec<_>>();
        assert_eq!(nullable(&wider.here), [true, true, true, false]);
        assert_eq!(nullable(&wider.here), nullable(&wider.there));
        // One that can't convert.
        let why = aligned(OLDEST, &types).unwrap_err();
        assert_eq!(why, "id of the key is Int64 there, which can't be compared with Int32");
    }

    #[test]
    fn what_is_absent_is_named() {
        let types = [("id", "Int32"), ("note", "Nullable(String)")];
        let some = aligned(NEW, &types).unwrap();
        assert_eq!(some.compared, [true, false, true, false]);
        assert_eq!(some.there.columns.len(), 2);
        let named: Vec<_> = some.problems.iter().map(|problem| problem.column.as_str()).collect();
        assert_eq!(named, ["at", "tags"]);
        assert_eq!(aligned(NEW, &[]).unwrap_err(), "id of the key is absent there");
        let place = Place { database: "d".into(), version: NEW, cluster: None };
        let none = align(&place, &table(), &Columns::new()).unwrap_err();
        assert_eq!(none, "there is no such table");
        let foreign = Columns::from([("id".into(), "Int32".into())]);
        let foreign = align(&place, &table(), &foreign).unwrap_err();
        assert_eq!(foreign, "it has no column _version: it is none of walbench's");
    }
}

//! The SQL of a table.

use walbench_phases::plan::WriteMethod;

use crate::workload::{ColumnShape, Purpose, Table, quote};

/// The statement that inserts rows, by `method`.
#[must_use]
pub fn insert(table: &Table, method: WriteMethod) -> String {
    let name = table.shape.quoted_name();
    let columns = list(table.written(Purpose::Insert), "");
    let overriding = match table.written(Purpose::Insert).any(|column| column.is_identity_always) {
        true => " OVERRIDING SYSTEM VALUE",
        false => "",
    };
    match method {
        WriteMethod::Insert => {
            let values = list(table.written(Purpose::Insert), "u.");
            format!(
                "INSERT INTO {name} ({columns}){overriding} SELECT {values} FROM unnest($1::{name}[]) AS u"
            )
        }
        WriteMethod::Pipelined => {
            let count = table.written(Purpose::Insert).count();
            let values: Vec<_> = (1..=count).map(|at| format!("${at}")).collect();
            format!("INSERT INTO {name} ({columns}){overriding} VALUES ({})", values.join(", "))
        }
        // COPY writes identity columns without being asked to.
        WriteMethod::Copy => format!("COPY {name} ({columns}) FROM STDIN (FORMAT binary)"),
    }
}

/// The statement that updates rows.
#[must_use]
pub fn update(table: &Table) -> String {
    let name = table.shape.quoted_name();
    let set: Vec<_> = table
        .written(Purpose::Update)
        .map(|column| format!("{0} = u.{0}", quote(&column.name)))
        .collect();
    let same: Vec<_> =
        table.key().map(|column| format!("t.{0} = u.{0}", quote(&column.name))).collect();
    format!(
        "UPDATE {name} AS t SET {} FROM unnest($1::{name}[]) AS u WHERE {}",
        set.join(", "),
        same.join(" AND ")
    )
}

/// The statement that tells whether a row with a given key is there.
#[must_use]
pub fn exists(table: &Table) -> String {
    let same: Vec<_> = table
        .key()
        .enumerate()
        .map(|(at, column)| format!("{} = ${}", quote(&column.name), at + 1))
        .collect();
    format!(
        "SELECT EXISTS (SELECT FROM {} WHERE {})",
        table.shape.quoted_name(),
        same.join(" AND ")
    )
}

fn list<'a>(columns: impl Iterator<Item = &'a ColumnShape>, before: &str) -> String {
    let names: Vec<_> = columns.map(|column| format!("{before}{}", quote(&column.name))).collect();
    names.join(", ")
}

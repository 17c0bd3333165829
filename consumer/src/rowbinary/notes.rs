//! What a table loses on its way, in a sentence.

use super::codec::Codec;
use super::table::{Column, Table};

impl Table {
    /// What whoever starts a consumer should know of this table; `None` where every value has its
    /// counterpart and every row its key.
    #[must_use]
    pub fn notes(&self) -> Option<String> {
        let mut notes = Vec::new();
        let named =
            |columns: Vec<String>| if columns.is_empty() { None } else { Some(columns.join(", ")) };
        let texts = self.columns.iter().filter(|column| lacks_counterpart(column));
        let texts = texts.map(|column| format!("{} ({})", column.name, type_name(column)));
        if let Some(texts) = named(texts.collect()) {
            notes.push(format!("as text: {texts}"));
        }
        let arrays = self.columns.iter().filter(|column| column.loses_null);
        if let Some(arrays) = named(arrays.map(|column| column.name.clone()).collect()) {
            notes.push(format!("a NULL array becomes an empty one: {arrays}"));
        }
        if !self.has_key() {
            notes.push("no key: rows are only appended".into());
        }
        (!notes.is_empty()).then(|| format!("{}: {}", self.name, notes.join("; ")))
    }

    /// The columns, as `schema.table.column (type)`, whose binary form is not read: with one of
    /// them the stream must be asked for text.
    #[must_use]
    pub fn binary_unreadable(&self) -> Vec<String> {
        let columns = self.columns.iter().filter(|column| !column.codec.reads_binary());
        columns.map(|c| format!("{}.{} ({})", self.name, c.name, type_name(c))).collect()
    }
}

/// Whether ClickHouse has no type that says the same. Where a plan wants arrays as text, they are
/// what it wants.
fn lacks_counterpart(column: &Column) -> bool {
    match &column.codec {
        Codec::Text(form) => !form.is_text() && !column.type_name.ends_with("[]"),
        Codec::Array { element, .. } => matches!(**element, Codec::Text(form) if !form.is_text()),
        _ => false,
    }
}

fn type_name(column: &Column) -> &str {
    match column.type_name.as_str() {
        "numeric" => "numeric of no or more than 38 digits",
        name => name,
    }
}

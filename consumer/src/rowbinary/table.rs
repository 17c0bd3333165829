//! A destination table: its columns' codecs, and whole rows through them.

use std::fmt::Write;

use walbench_phases::plan::{Arrays, Consumer, OutOfRange};

use super::binary_form::BinaryForm;
use super::clamp;
use super::codec::Codec;
use super::encode_error::EncodeError;
use super::facts::{Facts, TableFacts};
use super::source_type::SourceType;
use super::text;
use super::unencodable::Unencodable;
use crate::pgoutput::{Malformed, Relation, RelationColumn, ReplicaIdentity, Tuple, Value};

/// A table as rows are written for it: the source's columns, then `_version UInt64` and
/// `_is_deleted UInt8`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Schema and name at the source.
    pub name: String,
    /// The source's columns.
    pub columns: Vec<Column>,
    /// Values that ClickHouse's type can't hold are replaced by the nearest that it can.
    pub clamps: bool,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// How its values are written.
    pub codec: Codec,
    /// Written as `Nullable(…)`.
    pub nullable: bool,
    /// Part of the key that rows are told apart by.
    pub key: bool,
    /// It may be NULL at the source and not here: an array.
    pub loses_null: bool,
    /// Its type at the source, domains resolved, without a modifier.
    pub type_name: String,
}

/// What a plan says of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What becomes of values that ClickHouse's type can't hold.
    pub out_of_range: OutOfRange,
    /// What arrays become.
    pub arrays: Arrays,
}

impl From<&Consumer> for Policy {
    fn from(consumer: &Consumer) -> Self {
        Self { out_of_range: consumer.out_of_range, arrays: consumer.arrays }
    }
}

/// Whether a row is or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// The row exists.
    Present,
    /// The row was deleted.
    Deleted,
}

impl Column {
    fn new(column: &RelationColumn<'_>, facts: Option<&Facts>, key: bool, arrays: Arrays) -> Self {
        // Facts of another type are older than an ALTER TABLE.
        let source = facts.filter(|facts| facts.type_oid == column.type_oid);
        let source = source.map_or_else(|| SourceType::of(column.type_oid), |f| f.source.clone());
        let codec = Codec::of(&source, column.type_modifier, arrays);
        let may_be_null = !key && !facts.is_some_and(|facts| facts.not_null);
        // ClickHouse has no Nullable(Array): a NULL array is written as an empty one.
        let is_array = matches!(codec, Codec::Array { .. });
        Self {
            name: column.name.to_owned(),
            codec,
            nullable: may_be_null && !is_array,
            key,
            loses_null: may_be_null && is_array,
            type_name: source.name,
        }
    }

    /// Its type in ClickHouse.
    #[must_use]
    pub fn clickhouse_type(&self) -> String {
        match self.nullable {
            true => format!("Nullable({})", self.codec),
            false => self.codec.to_string(),
        }
    }
}

/// Which of a relation's columns are its key, if they tell rows apart.
fn key(relation: &Relation<'_>, facts: Option<&TableFacts>) -> Vec<bool> {
    let columns = &relation.columns;
    let in_primary_key =
        |name| facts.and_then(|facts| facts.column(name)).is_some_and(|facts| facts.primary_key);
    let primary_key = || columns.iter().map(|column| in_primary_key(column.name)).collect();
    // A part of the primary key, where not all of it is published, does not tell rows apart.
    let is_published = facts.is_some_and(|facts| {
        let mut key = facts.columns.iter().filter(|facts| facts.primary_key);
        key.all(|facts| columns.iter().any(|column| column.name == facts.name))
    });
    let mut flagged = columns.iter().filter(|column| column.key).peekable();
    let says_key = flagged.peek().is_some();
    // What the stream says is newer than the catalogue.
    let knows_better = flagged.any(|column| !in_primary_key(column.name));
    match relation.identity {
        ReplicaIdentity::Index => columns.iter().map(|column| column.key).collect(),
        ReplicaIdentity::Default if says_key && (is_published || knows_better) => {
            columns.iter().map(|column| column.key).collect()
        }
        // All columns are flagged, or none; a deferrable primary key's are not either.
        _ if is_published => primary_key(),
        _ => vec![false; columns.len()],
    }
}

impl Table {
    /// The table that a relation message describes. Without what the catalogue knows of it a column
    /// is nullable, a type without a fixed OID is text, and the replica identity is the key.
    ///
    /// Its key is what old rows come by: the columns of the index under `REPLICA IDENTITY USING
    /// INDEX`, else the primary key, if it is known and all of it is published.
    #[must_use]
    pub fn new(relation: &Relation<'_>, facts: Option<&TableFacts>, policy: Policy) -> Self {
        let columns = relation.columns.iter().zip(key(relation, facts)).map(|(column, key)| {
            let facts = facts.and_then(|facts| facts.column(column.name));
            Column::new(column, facts, key, policy.arrays)
        });
        Self {
            name: format!("{}.{}", relation.namespace, relation.name),
            columns: columns.collect(),
            clamps: policy.out_of_range == OutOfRange::Clamp,
        }
    }

    /// Whether rows can be told apart. Where not, each version of a row is a row of its own.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.columns.iter().any(|column| column.key)
    }

    /// Makes a column `Nullable`; says whether it is now and was not. A key's column can't be.
    pub fn widen(&mut self, column: &str) -> bool {
        let column = self.columns.iter_mut().find(|c| c.name == column);
        let Some(column) = column.filter(|c| !c.key && !c.nullable) else { return false };
        let is_array = matches!(column.codec, Codec::Array { .. });
        column.nullable = !is_array;
        !is_array
    }

    /// Appends a row to `out`; on an error `out` is as it was. A value that the tuple leaves out
    /// as unchanged is taken from `old`, the old row or its replica identity, where that has it.
    /// Returns how many values were replaced by the nearest that ClickHouse's type can hold.
    ///
    /// # Errors
    /// The tuple can't be read, or a value has no form in ClickHouse.
    #[inline]
    pub fn encode(
        &self,
        tuple: Tuple<'_>,
        old: Option<Tuple<'_>>,
        kind: RowKind,
        version: u64,
        out: &mut Vec<u8>,
    ) -> Result<u32, EncodeError> {
        let start = out.len();
        let written = self.encode_values(tuple, old, kind, out);
        if written.is_err() {
            out.truncate(start);
            return written;
        }
        out.extend_from_slice(&version.to_le_bytes());
        out.push(u8::from(kind == RowKind::Deleted));
        written
    }

    #[inline]
    fn encode_values(
        &self,
        tuple: Tuple<'_>,
        old: Option<Tuple<'_>>,
        kind: RowKind,
        out: &mut Vec<u8>,
    ) -> Result<u32, EncodeError> {
        self.check_columns(tuple)?;
        let mut replaced = 0;
        let mut values = tuple.values();
        for (index, column) in self.columns.iter().enumerate() {
            let value = match values.next() {
                Some(Ok(Value::Unchanged)) => self.old_value(old, index, column)?,
                Some(Ok(value)) => value,
                Some(Err(source)) => return Err(self.malformed(source)),
                None => Value::Null,
            };
            if matches!(value, Value::Null) {
                self.encode_null(column, kind, out)?;
                continue;
            }
            let start = out.len();
            if column.nullable {
                out.push(0);
            }
            // Most values are texts: they are spared the call.
            if let (Codec::Text(_), Value::Text(text))
            | (Codec::Text(BinaryForm::Text), Value::Binary(text)) = (&column.codec, value)
            {
                text::string(text, out);
            } else if let Err(error) = column.codec.encode(value, out) {
                out.truncate(start);
                replaced += self.encode_again(column, value, error, out)?;
            }
        }
        values.finish().map_err(|source| self.malformed(source))?;
        Ok(replaced)
    }

    #[inline]
    fn encode_null(
        &self,
        column: &Column,
        kind: RowKind,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if column.nullable {
            out.push(1);
        } else if matches!(column.codec, Codec::Array { .. })
            // A deleted row has its key and nothing else; without its key it is no row at all.
            || (kind == RowKind::Deleted && !column.key)
        {
            column.codec.encode_default(out);
        } else {
            return Err(self.unencodable(column, Value::Null, Unencodable::Null));
        }
        Ok(())
    }

    /// Appends what may be written in place of a value that was refused.
    #[cold]
    fn encode_again(
        &self,
        column: &Column,
        value: Value<'_>,
        error: Unencodable,
        out: &mut Vec<u8>,
    ) -> Result<u32, EncodeError> {
        if !self.clamps {
            return Err(self.unencodable(column, value, error));
        }
        clamp::encode(&column.codec, column.nullable, value, out)
            .map_err(|error| self.unencodable(column, value, error))
    }

    /// Reads every value and writes none: what the mock's level `discard` does.
    ///
    /// # Errors
    /// The tuple can't be read.
    pub fn check(&self, tuple: Tuple<'_>) -> Result<(), EncodeError> {
        self.check_columns(tuple)?;
        let mut values = tuple.values();
        for value in values.by_ref() {
            value.map_err(|source| self.malformed(source))?;
        }
        values.finish().map_err(|source| self.malformed(source))
    }

    /// Whether two tuples differ in a column of the key. An old tuple may be whole or hold its
    /// replica identity alone: that is either the key or has it in it.
    #[must_use]
    pub fn key_differs(&self, old: Tuple<'_>, new: Tuple<'_>) -> bool {
        let pairs = old.values().zip(new.values()).zip(&self.columns);
        pairs
            .into_iter()
            .any(|((old, new), column)| column.key && new != Ok(Value::Unchanged) && old != new)
    }

    #[inline]
    fn check_columns(&self, tuple: Tuple<'_>) -> Result<(), EncodeError> {
        if tuple.columns() == self.columns.len() { Ok(()) } else { Err(self.columns_differ(tuple)) }
    }

    #[cold]
    fn columns_differ(&self, tuple: Tuple<'_>) -> EncodeError {
        let (got, expected) = (tuple.columns(), self.columns.len());
        EncodeError::Columns { table: self.name.clone(), got, expected }
    }

    /// What a column held before. An unchanged value that is left out is never NULL: where the old
    /// tuple has NULL, the column is not of the replica identity, and its value is not known.
    #[cold]
    fn old_value<'a>(
        &self,
        old: Option<Tuple<'a>>,
        index: usize,
        column: &Column,
    ) -> Result<Value<'a>, EncodeError> {
        match old.and_then(|old| old.values().nth(index)) {
            Some(Ok(value @ (Value::Text(_) | Value::Binary(_)))) => Ok(value),
            Some(Err(source)) => Err(self.malformed(source)),
            _ => Err(EncodeError::Unchanged {
                table: self.name.clone(),
                column: column.name.clone(),
            }),
        }
    }

    #[cold]
    fn malformed(&self, source: Malformed) -> EncodeError {
        EncodeError::Malformed { table: self.name.clone(), source }
    }

    #[cold]
    fn unencodable(&self, column: &Column, value: Value<'_>, source: Unencodable) -> EncodeError {
        EncodeError::Value {
            table: self.name.clone(),
            column: column.name.clone(),
            excerpt: excerpt(value),
            source,
        }
    }
}

/// How a value begins.
fn excerpt(value: Value<'_>) -> String {
    match value {
        Value::Text(text) => String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned(),
        Value::Binary(binary) => binary.iter().take(30).fold("\\x".into(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        Value::Null | Value::Unchanged => "NULL".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Facts of a table with an `int` for each name; those of the primary key are in capitals.
    fn facts(names: &[&str]) -> TableFacts {
        let columns = names.iter().map(|name| Facts {
            name: name.to_lowercase(),
            not_null: false,
            primary_key: name.to_lowercase() != *name,
            identity: false,
            published: true,
            type_oid: 23,
            type_modifier: -1,
            source: SourceType::of(23),
        });
        let (namespace, name) = ("public".into(), "t".into());
        let identity = ReplicaIdentity::Default;
        TableFacts { oid: 1, namespace, name, identity, columns: columns.collect() }
    }

    /// The key's columns of a relation that flags the columns in capitals.
    fn key_of(
        names: &[&'static str],
        identity: ReplicaIdentity,
        known: Option<&TableFacts>,
    ) -> Vec<&'static str> {
        let lower: Vec<_> = names.iter().map(|name| name.to_lowercase()).collect();
        let columns = names.iter().zip(&lower).map(|(name, lower)| RelationColumn {
            key: *lower != **name,
            name: lower,
            type_oid: 23,
            type_modifier: -1,
        });
        let columns = columns.collect();
        let relation = Relation { id: 1, namespace: "public", name: "t", identity, columns };
        let key = key(&relation, known);
        names.iter().zip(key).filter(|(_, in_key)| *in_key).map(|(name, _)| *name).collect()
    }

    #[test]
    fn a_key_is_whole_or_none() {
        use ReplicaIdentity::{Default, Full, Index, Nothing};
        let (ab, a) = (facts(&["A", "B", "c"]), facts(&["A", "b", "c"]));
        for (names, identity, known, expected) in [
            (["A", "B", "c"].as_slice(), Default, Some(&ab), vec!["A", "B"]),
            (&["A", "B", "c"], Default, None, vec!["A", "B"]),
            // B is not published.
            (&["A", "c"], Default, Some(&ab), vec![]),
            (&["a", "c"], Nothing, Some(&ab), vec![]),
            (&["A", "C"], Full, Some(&ab), vec![]),
            // The key was changed, or renamed, since the catalogue was read.
            (&["A", "b", "c"], Default, Some(&ab), vec!["A"]),
            (&["A", "B", "c"], Default, Some(&a), vec!["A", "B"]),
            (&["X", "b", "c"], Default, Some(&a), vec!["X"]),
            // Deferrable: it identifies no old row, and tells rows apart all the same.
            (&["a", "b", "c"], Default, Some(&a), vec!["a"]),
            (&["a", "b", "c"], Nothing, Some(&a), vec!["a"]),
            (&["A", "B", "C"], Full, Some(&a), vec!["A"]),
            (&["A", "B", "C"], Full, None, vec![]),
            (&["a", "B", "c"], Index, Some(&a), vec!["B"]),
            (&["a", "B", "c"], Index, None, vec!["B"]),
            (&["a", "b"], Default, Some(&facts(&["a", "b"])), vec![]),
        ] {
            assert_eq!(key_of(names, identity, known), expected, "{names:?} {identity:?}");
        }
    }

    #[test]
    fn a_type_that_was_changed_since_the_catalogue_was_read_is_the_streams() {
        let known = facts(&["A"]);
        let mut relation = known.relation();
        relation.columns[0].type_oid = 25;
        let policy = Policy::from(&Consumer::default());
        let table = Table::new(&relation, Some(&known), policy);
        assert_eq!(table.columns[0].clickhouse_type(), "String");
    }
}

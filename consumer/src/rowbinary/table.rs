//! A destination table: its columns' codecs, and whole rows through them.

use std::fmt::Write;

use walbench_phases::plan::{Arrays, Consumer, OutOfRange};

use super::clamp;
use super::codec::Codec;
use super::encode_error::EncodeError;
use super::facts::{Facts, TableFacts};
use super::source_type::SourceType;
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
    let identity = || relation.columns.iter().map(|column| column.key).collect();
    let primary_key = |facts: &TableFacts| -> Vec<bool> {
        let in_key = |name| facts.column(name).is_some_and(|facts| facts.primary_key);
        let key: Vec<_> = relation.columns.iter().map(|column| in_key(column.name)).collect();
        let of = facts.columns.iter().filter(|facts| facts.primary_key).count();
        // A part of the key, where not all of it is published, does not tell rows apart.
        let is_whole = key.iter().filter(|in_key| **in_key).count() == of;
        key.iter().map(|in_key| *in_key && is_whole).collect()
    };
    match (relation.identity, facts) {
        (ReplicaIdentity::Index, _) | (ReplicaIdentity::Default, None) => identity(),
        (_, Some(facts)) => primary_key(facts),
        // All columns are flagged, or none.
        (ReplicaIdentity::Full | ReplicaIdentity::Nothing, None) => {
            vec![false; relation.columns.len()]
        }
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

    /// Appends a row to `out`; on an error `out` is as it was. A value that the tuple leaves out
    /// as unchanged is taken from `old`, the whole old row, where there is one. Returns how many
    /// values were replaced by the nearest that ClickHouse's type can hold.
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
            if value == Value::Null {
                self.encode_null(column, kind, out)?;
                continue;
            }
            let start = out.len();
            if column.nullable {
                out.push(0);
            }
            if let Err(error) = column.codec.encode(value, out) {
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

    fn check_columns(&self, tuple: Tuple<'_>) -> Result<(), EncodeError> {
        if tuple.columns() == self.columns.len() {
            return Ok(());
        }
        let (got, expected) = (tuple.columns(), self.columns.len());
        Err(EncodeError::Columns { table: self.name.clone(), got, expected })
    }

    #[cold]
    fn old_value<'a>(
        &self,
        old: Option<Tuple<'a>>,
        index: usize,
        column: &Column,
    ) -> Result<Value<'a>, EncodeError> {
        match old.and_then(|old| old.values().nth(index)) {
            Some(Ok(value)) if value != Value::Unchanged => Ok(value),
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

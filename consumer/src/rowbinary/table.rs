//! A destination table: its columns' codecs, and whole rows through them.

use thiserror::Error;

use super::codec::Codec;
use super::unencodable::Unencodable;
use crate::pgoutput::{Malformed, Relation, Tuple, Value};

/// A table as rows are written for it: the source's columns, then `_version UInt64` and
/// `_is_deleted UInt8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Schema and name at the source.
    pub name: String,
    /// The source's columns.
    pub columns: Vec<Column>,
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
}

/// What the catalogue knows of a column and the replication stream does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `NOT NULL`.
    pub not_null: bool,
    /// Part of the primary key.
    pub primary_key: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub out_of_range: walbench_phases::plan::OutOfRange,
    pub arrays: walbench_phases::plan::Arrays,
}
/// Whether a row is or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// The row exists.
    Present,
    /// The row was deleted.
    Deleted,
}

/// Why a row can't be written.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// The tuple can't be read.
    #[error("a row of {table} can't be read")]
    Malformed {
        /// The table.
        table: String,
        /// Why.
        source: Malformed,
    },
    /// The tuple is not of the table.
    #[error("a row of {table} has {got} columns where {expected} are described")]
    Columns {
        /// The table.
        table: String,
        /// Columns of the row.
        got: usize,
        /// Columns of the table.
        expected: usize,
    },
    /// A value has no form in ClickHouse.
    #[error("{table}.{column} holds {excerpt:?}, which can't be written: {source}")]
    Value {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// How the value begins.
        excerpt: String,
        /// Why.
        source: Unencodable,
    },
    /// An unchanged TOASTed value was not sent.
    #[error(
        "{table}.{column} is a large value that an update left unchanged, so PostgreSQL did \
             not send it"
    )]
    Unchanged {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A binary value, which was not asked for.
    #[error("{table}.{column} came in binary form")]
    Binary {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
}

impl Table {
    /// The table that a relation message describes. `facts` tells by column name what the
    /// catalogue knows; without it a column is nullable, and the replica identity is the key.
    #[must_use]
    pub fn new(
        relation: &Relation<'_>,
        facts: impl Fn(&str) -> Option<Facts>,
        _policy: Policy,
    ) -> Self {
        let columns = relation.columns.iter().map(|column| {
            let known = facts(column.name);
            let key = known.map_or(column.key, |f| f.primary_key);
            Column {
                name: column.name.to_owned(),
                codec: Codec::of(column.type_oid, column.type_modifier),
                nullable: !known.map_or(key, |f| f.not_null),
                key,
            }
        });
        // ClickHouse has no Nullable(Array): a NULL array is written as an empty one.
        let columns = columns.map(|column: Column| match column.codec {
            Codec::Array(_) => Column { nullable: false, ..column },
            _ => column,
        });
        Self {
            name: format!("{}.{}", relation.namespace, relation.name),
            columns: columns.collect(),
        }
    }

    /// Appends a row to `out`; on an error `out` is as it was. A value that the tuple leaves out
    /// as unchanged is taken from `old`, the whole old row, where there is one.
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
            return written.map(|()| 0);
        }
        out.extend_from_slice(&version.to_le_bytes());
        out.push(u8::from(kind == RowKind::Deleted));
        Ok(0)
    }
    pub fn column_types(&self) -> impl Iterator<Item = (&str, String)> {
        self.columns.iter().map(|c| (c.name.as_str(), String::new()))
    }

    #[inline]
    fn encode_values(
        &self,
        tuple: Tuple<'_>,
        old: Option<Tuple<'_>>,
        kind: RowKind,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.check_columns(tuple)?;
        let mut values = tuple.values();
        for (index, column) in self.columns.iter().enumerate() {
            let value = match values.next() {
                Some(Ok(Value::Unchanged)) => self.old_value(old, index)?,
                Some(Ok(value)) => value,
                Some(Err(source)) => return Err(self.malformed(source)),
                None => Value::Null,
            };
            match value {
                Value::Text(text) => {
                    if column.nullable {
                        out.push(0);
                    }
                    column
                        .codec
                        .encode(text, out)
                        .map_err(|e| self.unencodable(column, text, e))?;
                }
                Value::Null if column.nullable => out.push(1),
                // A deleted row has its key and nothing else; without its key it is no row at all.
                Value::Null
                    if matches!(column.codec, Codec::Array(_))
                        || (kind == RowKind::Deleted && !column.key) =>
                {
                    column.codec.encode_default(out);
                }
                Value::Null => {
                    return Err(self.unencodable(column, b"NULL", Unencodable::OutOfRange));
                }
                Value::Unchanged => {
                    return Err(EncodeError::Unchanged {
                        table: self.name.clone(),
                        column: column.name.clone(),
                    });
                }
                Value::Binary(_) => {
                    return Err(EncodeError::Binary {
                        table: self.name.clone(),
                        column: column.name.clone(),
                    });
                }
            }
        }
        values.finish().map_err(|source| self.malformed(source))
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

    /// Whether two tuples differ in a column of the key.
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
    ) -> Result<Value<'a>, EncodeError> {
        let value = old.and_then(|old| old.values().nth(index)).transpose();
        Ok(value.map_err(|source| self.malformed(source))?.unwrap_or(Value::Unchanged))
    }

    #[cold]
    fn malformed(&self, source: Malformed) -> EncodeError {
        EncodeError::Malformed { table: self.name.clone(), source }
    }

    #[cold]
    fn unencodable(&self, column: &Column, text: &[u8], source: Unencodable) -> EncodeError {
        EncodeError::Value {
            table: self.name.clone(),
            column: column.name.clone(),
            excerpt: String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned(),
            source,
        }
    }
}

//! Why a row can't be written.

use thiserror::Error;

use super::unencodable::Unencodable;
use crate::pgoutput::Malformed;

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
        /// How the value begins; a binary one in hexadecimal digits.
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
}

/// How a table is altered so that old rows come whole.
pub const FULL_IDENTITY: &str = "REPLICA IDENTITY FULL";

impl EncodeError {
    /// What to do about it, by a key of `[consumer]` or at the source.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let (table, column, source) = match self {
            Self::Unchanged { table, .. } => {
                return Some(format!("ALTER TABLE {table} {FULL_IDENTITY}"));
            }
            Self::Value { table, column, source, .. } => (table, column, source),
            Self::Malformed { .. } | Self::Columns { .. } => return None,
        };
        match source {
            Unencodable::OutOfRange => Some(
                "set consumer.out_of_range = \"clamp\" to have the nearest value that it can hold \
                 written, and counted"
                    .into(),
            ),
            Unencodable::NotANumber => Some(format!(
                "with consumer.out_of_range = \"clamp\" it is written as NULL if {table}.{column} \
                 may be NULL"
            )),
            Unencodable::Dimensions => {
                Some("set consumer.arrays = \"text\" to have arrays written as their text".into())
            }
            Unencodable::BinaryForm => Some("set consumer.column_format = \"text\"".into()),
            Unencodable::Malformed | Unencodable::Null => None,
        }
    }
}

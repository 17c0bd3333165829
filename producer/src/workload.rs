//! Tables, and rows that are a function of their number.
//!
//! Row n of a seed is always the same row, whoever makes it and whenever: a value is derived from
//! seed, table, column, n and revision, and nothing is shared. Values are made in PostgreSQL's
//! binary formats, straight into the buffer that is sent.

mod builtin;
pub mod column_type;
pub mod draw;
pub mod encode;
pub mod payload;
pub mod share;
mod table;
mod table_shape;
pub mod written;

pub use builtin::builtin_ddl;
pub use table::{Purpose, RowVersion, Table};
pub use table_shape::{ColumnShape, TableShape, quote};

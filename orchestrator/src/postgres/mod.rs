//! PostgreSQL servers and databases: finding, starting, checking, preparing and removing them.
//! Only what carries our mark is ever touched.

pub(crate) mod binaries;
pub(crate) mod claim;
pub(crate) mod control;
pub(crate) mod copy_schema;
pub(crate) mod keeper;
pub(crate) mod mark;
pub(crate) mod preflight;
pub(crate) mod private;
pub(crate) mod source;

/// An SQL string literal.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

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

/// A program of PostgreSQL without the user's own `PG*` variables: they are about other servers, and
/// some of them win over what a program is told.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command
}

/// An SQL string literal.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

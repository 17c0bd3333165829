//! An error as the server words it.

use std::fmt;
use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{ErrorFields, Message};

use super::query::whole_message;

/// An ErrorResponse of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// SQLSTATE.
    pub code: String,
    /// Primary message.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
    /// The server's function that found it. Messages are translated; this tells apart what shares a
    /// SQLSTATE in every language.
    pub(super) routine: Option<Box<str>>,
}

impl ServerError {
    pub(super) fn from_fields(mut fields: ErrorFields<'_>) -> io::Result<Self> {
        let mut error = Self::default();
        while let Some(field) = fields.next()? {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                b'R' => error.routine = Some(value.into()),
                _ => {}
            }
        }
        Ok(error)
    }

    /// Reads the body of an ErrorResponse message.
    pub(crate) fn from_body(body: &[u8]) -> Self {
        match whole_message(b'E', body) {
            Ok(Message::ErrorResponse(e)) => Self::from_fields(e.fields()).unwrap_or_default(),
            _ => Self { message: "an error that can't be read".into(), ..Self::default() },
        }
    }

    /// Whether the function of this name found it.
    pub(super) fn is_from(&self, routine: &str) -> bool {
        self.routine.as_deref() == Some(routine)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, message, detail, hint: _, routine: _ } = self;
        write!(f, "{message} (SQLSTATE {code})")?;
        match detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerError {}

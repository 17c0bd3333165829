//! Queries by the simple protocol: the extended one is refused on a replication connection.

use std::io;
use std::ops::Range;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;

use super::connection::Connection;
use super::error::ReplicationError;
use super::server_error::ServerError;

/// Rows of a query's answer; values as text.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

impl Connection {
    /// Runs one statement; `what` completes "PostgreSQL refused …".
    ///
    /// # Errors
    /// The connection's, or the server's refusal.
    pub fn query(&mut self, what: &str, sql: &str) -> Result<Rows, ReplicationError> {
        self.send_query(sql)?;
        let mut rows = Rows::new();
        self.collect(what, &mut rows)?;
        Ok(rows)
    }

    /// Reads a query's answer to its end. After [`ReplicationError::Silent`] it may be called
    /// again for the rest.
    pub(crate) fn collect(&mut self, what: &str, rows: &mut Rows) -> Result<(), ReplicationError> {
        let mut refused = None;
        loop {
            match self.answer(what) {
                Ok(Message::DataRow(row)) => rows.push(values(&row)?),
                Ok(Message::ReadyForQuery(_)) => return refused.map_or(Ok(()), Err),
                Ok(_) => {}
                Err(error @ ReplicationError::Server { .. }) => refused = Some(error),
                // A fatal error comes before the end, and says more than that.
                Err(error) => return Err(refused.unwrap_or(error)),
            }
        }
    }

    /// Reads a query's answer to its end, and of it the types of its columns, as OID and modifier;
    /// domains are what they are made of. After [`ReplicationError::Silent`] it may be called again
    /// for the rest.
    pub(crate) fn collect_types(
        &mut self,
        what: &str,
        types: &mut Vec<(u32, i32)>,
    ) -> Result<(), ReplicationError> {
        let mut refused = None;
        loop {
            match self.answer(what) {
                Ok(Message::RowDescription(row)) => {
                    let fields = row.fields().map(|f| Ok((f.type_oid(), f.type_modifier())));
                    types.extend(fields.collect::<Vec<_>>()?);
                }
                Ok(Message::ReadyForQuery(_)) => return refused.map_or(Ok(()), Err),
                Ok(_) => {}
                Err(error @ ReplicationError::Server { .. }) => refused = Some(error),
                Err(error) => return Err(refused.unwrap_or(error)),
            }
        }
    }

    pub(crate) fn send_query(&mut self, sql: &str) -> Result<(), ReplicationError> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out)?;
        self.send(&out)
    }

    /// The next message that is an answer, errors as errors.
    pub(super) fn answer(&mut self, what: &str) -> Result<Message, ReplicationError> {
        loop {
            let Some((tag, body)) = self.input.next_message()? else {
                self.fill()?;
                continue;
            };
            match whole_message(tag, body)? {
                Message::ErrorResponse(e) => {
                    let source = Box::new(ServerError::from_fields(e.fields())?);
                    return Err(ReplicationError::Server { what: what.into(), source });
                }
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                message => return Ok(message),
            }
        }
    }
}

fn values(row: &DataRowBody) -> io::Result<Vec<Option<String>>> {
    let text = |range: Range<usize>| String::from_utf8_lossy(&row.buffer()[range]).into_owned();
    row.ranges().map(|range| Ok(range.map(text))).collect()
}

/// Puts a message's frame back, for the parser that wants it whole. Never on the hot path.
pub(super) fn whole_message(tag: u8, body: &[u8]) -> io::Result<Message> {
    let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?;
    let mut bytes = BytesMut::with_capacity(body.len() + 5);
    bytes.extend_from_slice(&[tag]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    Message::parse(&mut bytes)?.ok_or_else(|| io::Error::other("an incomplete message"))
}

/// An SQL identifier in quotes.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// An SQL string literal.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

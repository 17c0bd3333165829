//! `START_REPLICATION`: from a connection to a running stream (PostgreSQL manual, section 55.4).

use postgres_protocol::message::backend::Message;

use super::connection::Connection;
use super::error::ReplicationError;
use super::query::{quote, quote_identifier};
use super::server_error::ServerError;

/// Which stream is asked for, and how (PostgreSQL manual, section 55.5.1).
#[derive(Clone, Copy, Debug)]
pub struct Stream<'a> {
    /// The slot; it exists.
    pub slot: &'a str,
    /// The publication.
    pub publication: &'a str,
    /// Where to start; 0, or a position before the slot's confirmed one, starts there.
    pub start_lsn: u64,
    /// Version of pgoutput's protocol.
    pub protocol_version: u32,
    /// `streaming`, from version 2 on; `None` leaves it out.
    pub streaming: Option<&'a str>,
    /// `binary`: values in their types' binary form where they have one (PostgreSQL 14).
    pub binary: bool,
    /// `two_phase`, from version 3 on.
    pub two_phase: bool,
    /// `origin` (PostgreSQL 16); `None` leaves it out.
    pub origin: Option<&'a str>,
}

impl<'a> Stream<'a> {
    /// Protocol version 1 with nothing special, from where the slot is confirmed.
    #[must_use]
    pub fn new(slot: &'a str, publication: &'a str) -> Self {
        Self {
            slot,
            publication,
            start_lsn: 0,
            protocol_version: 1,
            streaming: None,
            binary: false,
            two_phase: false,
            origin: None,
        }
    }

    fn sql(&self) -> String {
        let Self { slot, publication, start_lsn, protocol_version, .. } = *self;
        let mut sql = format!(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '{protocol_version}', \
             publication_names {}, messages 'true'",
            quote_identifier(slot),
            super::lsn_text(start_lsn),
            quote(&quote_identifier(publication)),
        );
        if let Some(streaming) = self.streaming {
            sql += &format!(", streaming {}", quote(streaming));
        }
        if self.binary {
            sql += ", binary 'true'";
        }
        if self.two_phase {
            sql += ", two_phase 'true'";
        }
        if let Some(origin) = self.origin {
            sql += &format!(", origin {}", quote(origin));
        }
        sql + ")"
    }
}

impl Connection {
    /// Starts the stream of a slot.
    ///
    /// # Errors
    /// The slot is missing, in use, lost or of another kind, or the connection fails.
    pub fn start(&mut self, stream: &Stream<'_>) -> Result<(), ReplicationError> {
        self.send_query(&stream.sql())?;
        loop {
            let Some((tag, body)) = self.input.next_message()? else {
                self.fill()?;
                continue;
            };
            match tag {
                // CopyBothResponse, which the message parser of postgres-protocol does not know.
                b'W' => {
                    self.transport.set_read_timeout(None)?;
                    return Ok(());
                }
                b'E' => {
                    let source = ServerError::from_body(body);
                    return Err(self.start_refused(stream.slot, source));
                }
                b'N' | b'S' => {}
                other => {
                    let text =
                        format!("START_REPLICATION was answered with {:?}", char::from(other));
                    return Err(ReplicationError::Protocol(text));
                }
            }
        }
    }

    /// What was checked before may have changed since: the server's answer counts.
    fn start_refused(&mut self, slot: &str, source: ServerError) -> ReplicationError {
        let what = format!("to stream slot \"{slot}\"");
        loop {
            match self.answer(&what) {
                Ok(Message::ReadyForQuery(_)) => return self.slot_refused(&what, slot, source),
                Ok(_) => {}
                Err(_) => {
                    return ReplicationError::Server { what, source: Box::new(source) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_stream_asks_for_nothing_special() {
        assert_eq!(
            Stream::new("s", "p").sql(),
            "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', \
             publication_names '\"p\"', messages 'true')"
        );
    }

    #[test]
    fn names_are_quoted_for_where_they_stand() {
        let sql = Stream::new("a\"b", "it's \"all\", or not").sql();
        assert!(sql.starts_with("START_REPLICATION SLOT \"a\"\"b\" LOGICAL "), "{sql}");
        assert!(sql.contains("publication_names '\"it''s \"\"all\"\", or not\"',"), "{sql}");
    }

    #[test]
    fn options_are_asked_for_in_order_and_only_when_set() {
        let stream = Stream {
            start_lsn: 0x16_B374_D848,
            protocol_version: 4,
            streaming: Some("parallel"),
            binary: true,
            two_phase: true,
            origin: Some("no'ne"),
            ..Stream::new("s", "p")
        };
        assert_eq!(
            stream.sql(),
            "START_REPLICATION SLOT \"s\" LOGICAL 16/B374D848 (proto_version '4', \
             publication_names '\"p\"', messages 'true', streaming 'parallel', binary 'true', \
             two_phase 'true', origin 'no''ne')"
        );
        let sql = Stream { binary: true, ..Stream::new("s", "p") }.sql();
        assert!(sql.ends_with("messages 'true', binary 'true')"), "{sql}");
    }
}

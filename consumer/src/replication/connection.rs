//! From a connected socket to a running replication stream: start-up, login, queries,
//! `START_REPLICATION` (PostgreSQL manual, sections 55.2 and 55.4).

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;
use thiserror::Error;
use walbench_phases::address::PostgresAddress;
use walbench_phases::tls;

use super::input::Input;
use super::transport::Transport;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A query or login step that takes longer has lost its server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Everything the text of a value depends on, pinned: a server's or role's own settings must not
/// change what a column means.
const PINNED_SETTINGS: [(&str, &str); 7] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, YMD"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("statement_timeout", "0"),
];

/// Why a replication connection can't be made or used.
#[derive(Debug, Error)]
pub enum ReplicationError {
    /// The server can't be reached.
    #[error("can't connect to PostgreSQL at {address}")]
    Connect {
        /// The server, without password.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The plan's TLS policy can't be followed.
    #[error("TLS can't be set up for {address}")]
    Tls {
        /// The server, without password.
        address: String,
        /// Why.
        source: tls::TlsError,
    },
    /// The server wants a way of logging in that isn't supported, or that fails on our side.
    #[error("can't log in: {0}")]
    Login(String),
    /// The server refused something.
    #[error("PostgreSQL refused {what}")]
    Server {
        /// What was asked.
        what: String,
        /// Its answer.
        source: ServerError,
    },
    /// The stream ended with an error of the server.
    #[error("PostgreSQL ended the replication stream with an error")]
    Ended(#[source] ServerError),
    /// The server ended the stream, or closed the connection without a word.
    #[error("PostgreSQL ended the replication stream: it stops, or the connection was lost")]
    Closed,
    /// The stream holds something that the protocol does not allow.
    #[error("the replication stream can't be read: {0}")]
    Protocol(String),
    /// The connection broke.
    #[error("the connection to PostgreSQL failed")]
    Io(#[from] io::Error),
}

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
}

impl ServerError {
    fn from_fields(mut fields: ErrorFields<'_>) -> io::Result<Self> {
        let mut error = Self::default();
        while let Some(field) = fields.next()? {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
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
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, message, detail, hint: _ } = self;
        write!(f, "{message} (SQLSTATE {code})")?;
        match detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ServerError {}

impl ReplicationError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let (Self::Server { source, .. } | Self::Ended(source)) = self else { return None };
        let ours = match source.code.as_str() {
            "28P01" | "28000" => {
                "check user, password and pg_hba.conf (a line for `replication` \
                                  is not needed; logical replication uses the database's line)"
            }
            "42501" => "the role needs the REPLICATION attribute: ALTER ROLE … REPLICATION",
            "55006" => "the slot is in use by another connection; walbench does not take it over",
            "53300" => "raise max_wal_senders (and max_connections) and restart the server",
            "57P01" | "57P02" | "57P03" => {
                "the server is stopping, starting or was restarted, or an administrator ended the \
                 session"
            }
            _ => return source.hint.clone(),
        };
        Some(ours.into())
    }

    /// The same failure in the form a person reads.
    #[must_use]
    pub fn into_failure(self) -> walbench_metrics::Failure {
        let mut failure = walbench_metrics::Failure::new(self.to_string());
        if let Some(cause) = std::error::Error::source(&self) {
            failure = failure.caused_by(cause);
        }
        match self.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

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

/// A connection in replication mode, between queries or in a stream.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub transport: Transport,
    /// What was read from it.
    pub input: Input,
}

/// Rows of a query's answer; values as text.
pub(super) type Rows = Vec<Vec<Option<String>>>;

impl Connection {
    /// Connects, encrypts as the address says, and logs in for logical replication.
    ///
    /// # Errors
    /// The server can't be reached or refuses us.
    pub fn open(
        address: &PostgresAddress,
        application_name: &str,
    ) -> Result<Self, ReplicationError> {
        refuse_unsupported(address)?;
        let tls = tls::client_config(&address.ssl)
            .map_err(|source| ReplicationError::Tls { address: address.to_string(), source })?;
        let transport = Transport::connect(address, tls, connect_timeout(address))
            .map_err(|source| ReplicationError::Connect { address: address.to_string(), source })?;
        transport.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut connection = Self { transport, input: Input::default() };
        connection.log_in(address, application_name)?;
        Ok(connection)
    }

    fn log_in(
        &mut self,
        address: &PostgresAddress,
        application_name: &str,
    ) -> Result<(), ReplicationError> {
        let user = address.user.as_deref().ok_or_else(|| {
            ReplicationError::Login("the address names no user to log in as".into())
        })?;
        let mut parameters = vec![
            ("user", user),
            ("database", address.dbname.as_deref().unwrap_or(user)),
            ("replication", "database"),
            ("application_name", application_name),
        ];
        if let Some(options) = address.options.get("options") {
            parameters.push(("options", options));
        }
        parameters.extend(PINNED_SETTINGS);
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out)?;
        self.transport.write_all(&out)?;
        self.authenticate(user, address.password.as_deref())?;
        loop {
            if let Message::ReadyForQuery(_) = self.answer("the connection")? {
                return Ok(());
            }
        }
    }

    fn authenticate(&mut self, user: &str, password: Option<&str>) -> Result<(), ReplicationError> {
        let (mut scram, mut is_proven): (Option<ScramSha256>, bool) = (None, false);
        let wanted = || {
            password.map(str::as_bytes).ok_or_else(|| {
                ReplicationError::Login("the server wants a password and the URL has none".into())
            })
        };
        let exchange_lost = || ReplicationError::Login("the SCRAM exchange is out of step".into());
        loop {
            let mut out = BytesMut::new();
            match self.answer("the login")? {
                // A server that skips its half of the exchange has not shown that it knows the
                // password either.
                Message::AuthenticationOk if scram.is_some() && !is_proven => {
                    return Err(exchange_lost());
                }
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(wanted()?, &mut out)?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = authentication::md5_hash(user.as_bytes(), wanted()?, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut out)?;
                }
                Message::AuthenticationSasl(body) => {
                    if !body.mechanisms().any(|m| Ok(m == SCRAM_SHA_256))? {
                        let text = "the server offers no SASL mechanism that is supported";
                        return Err(ReplicationError::Login(text.into()));
                    }
                    let client = ScramSha256::new(wanted()?, ChannelBinding::unsupported());
                    frontend::sasl_initial_response(SCRAM_SHA_256, client.message(), &mut out)?;
                    scram = Some(client);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let client = scram.as_mut().ok_or_else(exchange_lost)?;
                    client
                        .update(body.data())
                        .map_err(|e| ReplicationError::Login(e.to_string()))?;
                    frontend::sasl_response(client.message(), &mut out)?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let client = scram.as_mut().ok_or_else(exchange_lost)?;
                    client
                        .finish(body.data())
                        .map_err(|e| ReplicationError::Login(e.to_string()))?;
                    is_proven = true;
                }
                _ => {
                    let text = "the server wants a way of logging in that walbench does not know \
                                (it knows trust, password, MD5 and SCRAM-SHA-256)";
                    return Err(ReplicationError::Login(text.into()));
                }
            }
            self.transport.write_all(&out)?;
            self.transport.flush()?;
        }
    }

    /// Runs one statement by the simple query protocol; the extended one is refused on a
    /// replication connection.
    ///
    /// # Errors
    /// The connection's, or the server's refusal.
    pub fn query(&mut self, what: &str, sql: &str) -> Result<Rows, ReplicationError> {
        self.send_query(sql)?;
        let mut rows = Rows::new();
        let mut refused = None;
        loop {
            match self.answer(what) {
                Ok(Message::DataRow(row)) => {
                    let text = |range: std::ops::Range<usize>| {
                        String::from_utf8_lossy(&row.buffer()[range]).into_owned()
                    };
                    rows.push(row.ranges().map(|range| Ok(range.map(text))).collect()?);
                }
                Ok(Message::ReadyForQuery(_)) => return refused.map_or(Ok(rows), Err),
                Ok(_) => {}
                Err(error @ ReplicationError::Server { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts the stream of a slot.
    ///
    /// # Errors
    /// The slot is missing, in use or of another kind, or the connection fails.
    pub fn start(&mut self, stream: &Stream<'_>) -> Result<(), ReplicationError> {
        let slot = stream.slot;
        let sql = stream.sql();
        self.send_query(&sql)?;
        let what = format!("to stream slot \"{slot}\"");
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
                    return Err(ReplicationError::Server {
                        what,
                        source: ServerError::from_body(body),
                    });
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

    fn send_query(&mut self, sql: &str) -> Result<(), ReplicationError> {
        let mut out = BytesMut::new();
        frontend::query(sql, &mut out)?;
        self.transport.write_all(&out)?;
        self.transport.flush()?;
        Ok(())
    }

    fn fill(&mut self) -> Result<(), ReplicationError> {
        match self.input.fill(&mut self.transport) {
            Ok(0) => Err(ReplicationError::Closed),
            Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// The next message that is an answer, errors as errors.
    fn answer(&mut self, what: &str) -> Result<Message, ReplicationError> {
        loop {
            let Some((tag, body)) = self.input.next_message()? else {
                self.fill()?;
                continue;
            };
            match whole_message(tag, body)? {
                Message::ErrorResponse(e) => {
                    let source = ServerError::from_fields(e.fields())?;
                    return Err(ReplicationError::Server { what: what.into(), source });
                }
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                message => return Ok(message),
            }
        }
    }

    /// Ends the session politely; a server that is gone already is no error.
    pub fn terminate(mut self) {
        let mut out = BytesMut::new();
        frontend::copy_done(&mut out);
        frontend::terminate(&mut out);
        let _ = self.transport.write_all(&out).and_then(|()| self.transport.flush());
    }
}

/// libpq's `connect_timeout`, in seconds; 0 and nothing are ours.
fn connect_timeout(address: &PostgresAddress) -> Duration {
    let seconds = address.options.get("connect_timeout").and_then(|text| text.parse().ok());
    seconds.filter(|seconds| *seconds > 0).map_or(CONNECT_TIMEOUT, Duration::from_secs)
}

/// What an address can ask for and this connection can't keep must not pass in silence.
fn refuse_unsupported(address: &PostgresAddress) -> Result<(), ReplicationError> {
    match address.options.get("channel_binding").map(String::as_str) {
        Some("require") => Err(ReplicationError::Login(
            "channel_binding=require is not supported on a replication connection".into(),
        )),
        _ => Ok(()),
    }
}

/// Puts a message's frame back, for the parser that wants it whole. Never on the hot path.
fn whole_message(tag: u8, body: &[u8]) -> io::Result<Message> {
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

//! A connection to a server: made, read, written and ended.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use walbench_phases::address::PostgresAddress;
use walbench_phases::tls;

use super::error::ReplicationError;
use super::input::Input;
use super::login::{BackendKey, Purpose};
use super::transport::Transport;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A query or login step that takes longer has lost its server.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection in replication mode, between queries or in a stream.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub transport: Transport,
    /// What was read from it.
    pub input: Input,
    /// How it was made; a second one to the same server is made alike.
    pub(super) address: PostgresAddress,
    pub(super) key: BackendKey,
    pub(super) server_version: u32,
}

impl Connection {
    /// Connects, encrypts as the address says, and logs in for logical replication.
    ///
    /// # Errors
    /// The server can't be reached or refuses us.
    pub fn open(
        address: &PostgresAddress,
        application_name: &str,
    ) -> Result<Self, ReplicationError> {
        Self::log_in_over(connect(address)?, address, application_name)
    }

    /// Logs in for logical replication over a stream to the server of this address.
    ///
    /// # Errors
    /// The connection's, or the server's refusal.
    pub fn log_in_over(
        transport: Transport,
        address: &PostgresAddress,
        application_name: &str,
    ) -> Result<Self, ReplicationError> {
        Self::log_in(transport, address, application_name, Purpose::Replication)
    }

    /// Connects for queries alone: such a session takes none of the places of WAL senders.
    ///
    /// # Errors
    /// Those of [`Connection::open`].
    pub fn open_for_queries(
        address: &PostgresAddress,
        application_name: &str,
    ) -> Result<Self, ReplicationError> {
        Self::log_in(connect(address)?, address, application_name, Purpose::Queries)
    }

    /// A session beside this one, for queries.
    pub(super) fn open_beside(&self) -> Result<Self, ReplicationError> {
        Self::open_for_queries(&self.address, "walbench")
    }

    /// Asks the server to give up what this session is doing, and waits until it was told.
    pub(crate) fn cancel(&self) -> Result<(), ReplicationError> {
        let BackendKey { pid, secret } = self.key;
        let mut transport = connect(&self.address)?;
        let mut out = BytesMut::new();
        frontend::cancel_request(pid.cast_signed(), secret, &mut out);
        transport.write_all(&out)?;
        transport.flush()?;
        // It closes the connection behind the signal, and says nothing.
        let _ = io::copy(&mut transport, &mut io::sink());
        Ok(())
    }

    pub(super) fn send(&mut self, message: &[u8]) -> Result<(), ReplicationError> {
        self.transport.write_all(message)?;
        self.transport.flush()?;
        Ok(())
    }

    pub(crate) fn fill(&mut self) -> Result<(), ReplicationError> {
        match self.input.fill(&mut self.transport) {
            Ok(0) => Err(ReplicationError::Closed),
            Ok(_) => Ok(()),
            Err(e) => match e.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    Err(ReplicationError::Silent)
                }
                _ => Err(e.into()),
            },
        }
    }

    /// Ends a stream, and waits for that at most so long: the server then has taken in all that it
    /// was told. A socket that is closed with something unread in it may take that along.
    pub fn end_stream(mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut out = BytesMut::new();
        frontend::copy_done(&mut out);
        let mut is_open = self.send(&out).is_ok();
        while is_open {
            is_open = match self.input.next_message() {
                Ok(Some((b'c' | b'C' | b'E', _))) | Err(_) => false,
                Ok(Some(_)) => true,
                Ok(None) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    // No time at all would be no bound.
                    !left.is_zero()
                        && self.transport.set_read_timeout(Some(left)).is_ok()
                        && self.fill().is_ok()
                }
            };
        }
        self.terminate();
    }

    /// Ends the session politely, as far as that goes without waiting; a server that is gone
    /// already is no error.
    pub fn terminate(mut self) {
        let mut out = BytesMut::new();
        frontend::copy_done(&mut out);
        frontend::terminate(&mut out);
        let _ = self.transport.stop_waiting().and_then(|()| self.transport.write_all(&out));
    }
}

/// A stream that waits for answers, but not for ever.
fn connect(address: &PostgresAddress) -> Result<Transport, ReplicationError> {
    let tls = tls::client_config(&address.ssl)
        .map_err(|source| ReplicationError::Tls { address: address.to_string(), source })?;
    let transport = Transport::connect(address, tls, connect_timeout(address))
        .map_err(|source| ReplicationError::Connect { address: address.to_string(), source })?;
    transport.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(transport)
}

/// libpq's `connect_timeout`, in seconds; 0 and nothing are ours.
fn connect_timeout(address: &PostgresAddress) -> Duration {
    let seconds = address.options.get("connect_timeout").and_then(|text| text.parse().ok());
    seconds.filter(|seconds| *seconds > 0).map_or(CONNECT_TIMEOUT, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A server's side of a login without a password: AuthenticationOk, BackendKeyData,
    /// ReadyForQuery; then the answer to `SHOW server_version_num`.
    const LOGIN: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07\0\0\0\x09Z\0\0\0\x05I\
                           D\0\0\0\x10\0\x01\0\0\0\x06150018Z\0\0\0\x05I";

    /// A connection to a server that says this, and the server's end of it.
    fn connection(says: &[u8]) -> (Result<Connection, ReplicationError>, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(says).unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = PostgresAddress::parse("postgres://u@h/d").unwrap();
        let connection = Connection::log_in_over(Transport::Unix(ours), &address, "test");
        (connection, theirs)
    }

    #[test]
    fn ending_does_not_wait_for_a_server_that_reads_nothing() {
        let (connection, _theirs) = connection(LOGIN);
        let mut connection = connection.unwrap();
        assert_eq!((connection.key.pid, connection.server_version), (7, 150_018));
        connection.transport.stop_waiting().unwrap();
        while connection.transport.write(&[0; 4096]).is_ok() {}
        let Transport::Unix(stream) = &connection.transport else { panic!("another stream") };
        stream.set_nonblocking(false).unwrap();
        let started = Instant::now();
        connection.terminate();
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }

    #[test]
    fn silence_is_told_from_an_end_and_from_nonsense() {
        let silent = connection(&LOGIN[..20]).0.unwrap_err();
        assert!(matches!(silent, ReplicationError::Silent), "{silent:?}");
        let (ours, _) = UnixStream::pair().unwrap();
        let address = PostgresAddress::parse("postgres://u@h/d").unwrap();
        let closed = Connection::log_in_over(Transport::Unix(ours), &address, "test").unwrap_err();
        assert!(closed.is_transient(), "{closed:?}");
        let nonsense = connection(b"HTTP/1.1 400 Bad Request\r\n").0.unwrap_err();
        assert!(!nonsense.is_transient(), "{nonsense:?}");
    }
}

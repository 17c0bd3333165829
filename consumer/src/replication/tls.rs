//! TLS over TCP, read in large pieces.
//!
//! rustls' own stream reads a few kilobytes a call, and blocks for the rest of a record. Here one
//! read of the socket takes all there is, and everything whole in it is handed out.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// Ciphertext of one read.
const READ_BYTES: usize = 512 * 1024;

/// An encrypted stream.
#[derive(Debug)]
pub struct Tls {
    connection: ClientConnection,
    socket: TcpStream,
    ciphertext: Vec<u8>,
    /// The part of `ciphertext` that was read and not decrypted.
    pending: std::ops::Range<usize>,
}

impl Tls {
    /// Encrypts a connected socket.
    pub(super) fn shake_hands(
        mut socket: TcpStream,
        host: &str,
        config: Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Self { connection, socket, ciphertext: vec![0; READ_BYTES], pending: 0..0 })
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether something is left of the last read of the socket.
    pub(super) fn has_buffered(&mut self) -> bool {
        !self.pending.is_empty()
            || self
                .connection
                .process_new_packets()
                .is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }

    /// Decrypts some of what was read.
    fn decrypt(&mut self) -> io::Result<()> {
        let taken = self.connection.read_tls(&mut &self.ciphertext[self.pending.clone()])?;
        self.pending.start += taken;
        self.connection
            .process_new_packets()
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

impl Read for Tls {
    /// Reads the socket at most once. `Interrupted` says that not one whole record has come yet.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let (mut filled, mut has_read) = (0, false);
        loop {
            match self.connection.reader().read(&mut out[filled..]) {
                // The end of the stream, or of the room.
                Ok(0) => return Ok(filled),
                Ok(read) => filled += read,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                Err(_) if !self.pending.is_empty() => self.decrypt()?,
                Err(_) if filled > 0 => return Ok(filled),
                Err(_) if has_read => return Err(io::ErrorKind::Interrupted.into()),
                Err(_) => {
                    let read = self.socket.read(&mut self.ciphertext)?;
                    self.pending = 0..read;
                    has_read = true;
                    if read == 0 {
                        // An end without close_notify: nothing that was cut off is missed, because
                        // PostgreSQL's messages say how long they are.
                        return Ok(0);
                    }
                }
            }
        }
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.connection.writer().write(bytes)?;
        self.send()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.connection.writer().flush()?;
        self.send()
    }
}

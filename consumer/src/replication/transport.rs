//! The stream below the protocol: a Unix socket, TCP, or TLS over TCP.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use socket2::TcpKeepalive;
use walbench_phases::address::{Host, PostgresAddress, SslMode};

use super::tls::Tls;

/// Receive buffer asked of the kernel on loopback. What piles up there makes the walsender cheaper,
/// and so does a full one: what is sent then goes in few large segments.
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;

/// A write of a status update that takes longer has lost its server.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A machine that acknowledges nothing for this long is gone.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(60);

/// A connected stream to a server.
#[derive(Debug)]
pub enum Transport {
    /// A Unix socket.
    Unix(UnixStream),
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<Tls>),
}

impl Transport {
    /// Connects as the address says, encrypted as its policy says.
    ///
    /// # Errors
    /// The server can't be reached, or refuses encryption that is required.
    pub fn connect(
        address: &PostgresAddress,
        tls: Option<Arc<ClientConfig>>,
        timeout: Duration,
    ) -> io::Result<Self> {
        match &address.host {
            Host::Unix(folder) => Self::connect_unix(folder, address.port),
            Host::Tcp(host) => {
                let stream = connect_tcp(host, address.port, timeout)?;
                give_up_after(&stream, acknowledge_timeout(address))?;
                keep_alive(&stream, address)?;
                match tls {
                    Some(config) => encrypt(stream, host, address.ssl.mode, config),
                    None => Ok(Self::Tcp(stream)),
                }
            }
        }
    }

    fn connect_unix(folder: &Path, port: u16) -> io::Result<Self> {
        let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}")))?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self::Unix(stream))
    }

    /// Bounds how long a read waits; `None` waits for ever.
    ///
    /// # Errors
    /// The socket's.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(timeout),
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
            Self::Tls(stream) => stream.socket().set_read_timeout(timeout),
        }
    }

    /// From here on nothing waits: what can't be read or written at once fails.
    pub(super) fn stop_waiting(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_nonblocking(true),
            Self::Tcp(stream) => stream.set_nonblocking(true),
            Self::Tls(stream) => stream.socket().set_nonblocking(true),
        }
    }

    /// Whether bytes wait inside the TLS layer, where polling the socket can't see them.
    pub fn has_buffered(&mut self) -> bool {
        match self {
            Self::Unix(_) | Self::Tcp(_) => false,
            Self::Tls(stream) => stream.has_buffered(),
        }
    }
}

/// libpq's `tcp_user_timeout`, in milliseconds; nothing is ours, and 0 the system's.
fn acknowledge_timeout(address: &PostgresAddress) -> Duration {
    let chosen = address.options.get("tcp_user_timeout").and_then(|text| text.parse().ok());
    chosen.map_or(ACKNOWLEDGE_TIMEOUT, Duration::from_millis)
}

/// Bounds how long data may stay unacknowledged. A status update is on its way at all times, so
/// this finds a machine that is gone, for which TCP's own patience is a quarter of an hour. Only
/// Linux has it.
#[cfg_attr(
    not(target_os = "linux"),
    allow(unused_variables, clippy::unnecessary_wraps, reason = "where it does nothing")
)]
fn give_up_after(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(timeout))?;
    Ok(())
}

/// libpq's `keepalives`: on unless it is 0, and as the system has it where no times are named.
fn keep_alive(stream: &TcpStream, address: &PostgresAddress) -> io::Result<()> {
    let number = |name: &str| address.options.get(name)?.parse::<u32>().ok();
    let seconds =
        |name: &str| number(name).filter(|n| *n > 0).map(|n| Duration::from_secs(n.into()));
    let socket = socket2::SockRef::from(stream);
    if number("keepalives") == Some(0) {
        return socket.set_keepalive(false);
    }
    let mut keepalive = TcpKeepalive::new();
    if let Some(idle) = seconds("keepalives_idle") {
        keepalive = keepalive.with_time(idle);
    }
    if let Some(interval) = seconds("keepalives_interval") {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(count) = number("keepalives_count").filter(|n| *n > 0) {
        keepalive = keepalive.with_retries(count);
    }
    socket.set_tcp_keepalive(&keepalive)
}

fn connect_tcp(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                let socket = socket2::SockRef::from(&stream);
                socket.set_tcp_nodelay(true)?;
                socket.set_keepalive(true)?;
                // Asking for a size ends the kernel's own tuning, which a long path needs. A smaller
                // buffer than asked for is slower, not wrong.
                if address.ip().is_loopback() {
                    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
                }
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks for TLS as the protocol wants it (PostgreSQL manual, section 55.2.10).
fn encrypt(
    mut stream: TcpStream,
    host: &str,
    mode: SslMode,
    config: Arc<ClientConfig>,
) -> io::Result<Transport> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request)?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    match (answer[0], mode) {
        (b'S', _) => Ok(Transport::Tls(Box::new(Tls::shake_hands(stream, host, config)?))),
        (b'N', SslMode::Prefer) => Ok(Transport::Tcp(stream)),
        (b'N', _) => Err(io::Error::other("the server does not offer TLS, which sslmode requires")),
        (other, _) => {
            let text = format!("the server answered the request for TLS with {other:#04x}");
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.socket().as_fd(),
        }
    }
}

impl Read for Transport {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(out),
            Self::Tcp(stream) => stream.read(out),
            Self::Tls(stream) => stream.read(out),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_gone_is_given_up_when_the_address_says() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let timeout = |option: &str| {
            let url = format!("postgres://u@127.0.0.1:{port}/d?sslmode=disable{option}");
            let address = PostgresAddress::parse(&url).unwrap();
            let transport = Transport::connect(&address, None, Duration::from_secs(10)).unwrap();
            socket2::SockRef::from(&transport).tcp_user_timeout().unwrap()
        };
        assert_eq!(timeout(""), Some(ACKNOWLEDGE_TIMEOUT));
        assert_eq!(timeout("&tcp_user_timeout=5000"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("&tcp_user_timeout=0"), None);
    }
}

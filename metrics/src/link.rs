//! The byte stream between the orchestrator and a worker: JSON Lines, both ways.
//!
//! A local worker has one end of a Unix stream socket pair as its standard input. A worker behind a
//! launcher command speaks over standard input and output instead. Either way the link closes when
//! the other process ends, whatever ended it, and that is how a worker learns that it is alone.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::message::PROTOCOL_VERSION;

/// Longest line that is read, in bytes. A sample is a few kilobytes; this bounds what nonsense can
/// make us hold.
pub const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// How a link can break.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The other end closed the stream between two messages.
    #[error("the link was closed")]
    Closed,
    /// The other end closed the stream within a message.
    #[error("the link was closed in the middle of a message, after {bytes} bytes of it")]
    Truncated {
        /// Bytes of the unfinished message.
        bytes: usize,
    },
    /// A line has no end in sight.
    #[error("a message is longer than {limit} bytes")]
    TooLong {
        /// The bound.
        limit: usize,
    },
    /// A line is not a message.
    #[error("not a message: {excerpt:?}")]
    Malformed {
        /// How the line begins.
        excerpt: String,
        /// Why it is none.
        source: serde_json::Error,
    },
    /// The other end speaks another version.
    #[error("the link speaks version {theirs}, this walbench speaks version {ours}")]
    Version {
        /// Our version.
        ours: u32,
        /// Theirs.
        theirs: u32,
    },
    /// A message of the right form at the wrong time.
    #[error("expected {expected}, got {got}")]
    Unexpected {
        /// What was due.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// The stream failed.
    #[error("the link failed")]
    Io(#[from] io::Error),
}

impl LinkError {
    /// A message that was not due, by how it begins.
    pub fn unexpected(expected: &'static str, got: &impl std::fmt::Debug) -> Self {
        Self::Unexpected { expected, got: format!("{got:?}").chars().take(80).collect() }
    }
}

/// Refuses a partner that speaks another version.
///
/// # Errors
/// [`LinkError::Version`].
pub fn check_version(theirs: u32) -> Result<(), LinkError> {
    if theirs == PROTOCOL_VERSION {
        Ok(())
    } else {
        Err(LinkError::Version { ours: PROTOCOL_VERSION, theirs })
    }
}

/// Reads messages.
#[derive(Debug)]
pub struct LinkReader<R> {
    stream: R,
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were handed out already.
    consumed: usize,
    /// Bytes behind `consumed` that hold no line end.
    searched: usize,
    limit: usize,
}

impl<R: AsyncRead + Unpin> LinkReader<R> {
    /// Reads from `stream`.
    pub fn new(stream: R) -> Self {
        Self::with_limit(stream, MAX_LINE_BYTES)
    }

    /// Reads from `stream` lines of at most `limit` bytes.
    pub fn with_limit(stream: R, limit: usize) -> Self {
        Self { stream, buffer: Vec::new(), consumed: 0, searched: 0, limit }
    }

    /// The next line, without its end. Cancelling this loses nothing.
    ///
    /// # Errors
    /// The link is closed, fails, or holds a line beyond the limit.
    pub async fn line(&mut self) -> Result<&[u8], LinkError> {
        loop {
            let unread = &self.buffer[self.consumed..];
            if let Some(length) = unread[self.searched..].iter().position(|b| *b == b'\n') {
                let start = self.consumed;
                let end = start + self.searched + length;
                self.consumed = end + 1;
                self.searched = 0;
                return Ok(&self.buffer[start..end]);
            }
            self.searched = unread.len();
            if self.searched > self.limit {
                return Err(LinkError::TooLong { limit: self.limit });
            }
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
            self.buffer.reserve(64 * 1024);
            if self.stream.read_buf(&mut self.buffer).await.map_err(broken)? == 0 {
                return Err(match self.buffer.len() {
                    0 => LinkError::Closed,
                    bytes => LinkError::Truncated { bytes },
                });
            }
        }
    }

    /// The next message. Cancelling this loses nothing.
    ///
    /// # Errors
    /// As [`LinkReader::line`], or the line is not an `M`.
    pub async fn recv<M: DeserializeOwned>(&mut self) -> Result<M, LinkError> {
        parse(self.line().await?)
    }
}

/// Reads one line as a message.
///
/// # Errors
/// [`LinkError::Malformed`] with the line's beginning.
pub fn parse<M: DeserializeOwned>(line: &[u8]) -> Result<M, LinkError> {
    serde_json::from_slice(line).map_err(|source| LinkError::Malformed {
        excerpt: String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned(),
        source,
    })
}

/// Writes messages.
#[derive(Debug)]
pub struct LinkWriter<W> {
    stream: W,
    buffer: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> LinkWriter<W> {
    /// Writes to `stream`.
    pub fn new(stream: W) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Writes one message and flushes it.
    ///
    /// # Errors
    /// The link is closed or fails.
    pub async fn send<M: Serialize>(&mut self, message: &M) -> Result<(), LinkError> {
        self.buffer.clear();
        serde_json::to_writer(&mut self.buffer, message).map_err(io::Error::from)?;
        self.buffer.push(b'\n');
        let written = async {
            self.stream.write_all(&self.buffer).await?;
            self.stream.flush().await
        };
        written.await.map_err(broken)
    }
}

/// The other end closed the stream while something was on its way, or it failed.
fn broken(error: io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => LinkError::Closed,
        _ => LinkError::Io(error),
    }
}

/// The read half of a worker's end.
pub type WorkerReader = LinkReader<Box<dyn AsyncRead + Send + Unpin>>;
/// The write half of a worker's end.
pub type WorkerWriter = LinkWriter<Box<dyn AsyncWrite + Send + Unpin>>;

/// A socket pair: the orchestrator's end, and the end that becomes a worker's standard input.
///
/// # Errors
/// No socket pair can be made.
pub fn pair() -> Result<(UnixStream, StdUnixStream), LinkError> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// A worker's end on the socket that is its standard input.
///
/// # Errors
/// Standard input is not a stream socket: the worker was not started by walbench.
pub fn from_stdin_socket() -> Result<(WorkerReader, WorkerWriter), LinkError> {
    let socket = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    // Asks the kernel now whether it is a socket at all; a read would only fail later.
    socket.local_addr()?;
    let (reader, writer) = UnixStream::from_std(socket)?.into_split();
    Ok((LinkReader::new(Box::new(reader)), LinkWriter::new(Box::new(writer))))
}

/// A worker's end on standard input and output.
#[must_use]
pub fn from_stdio() -> (WorkerReader, WorkerWriter) {
    (LinkReader::new(Box::new(tokio::io::stdin())), LinkWriter::new(Box::new(tokio::io::stdout())))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
    }

    fn note(text: &str) -> Note {
        Note { text: text.into() }
    }

    async fn error_of(bytes: &[u8], limit: usize) -> String {
        let mut reader = LinkReader::with_limit(bytes, limit);
        reader.recv::<Note>().await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn messages_arrive_in_order_however_they_are_cut() {
        let (mut ours, theirs) = tokio::io::duplex(7);
        let mut reader = LinkReader::new(theirs);
        let sending = tokio::spawn(async move {
            let mut writer = LinkWriter::new(&mut ours);
            for text in ["one", "two\nlines", ""] {
                writer.send(&note(text)).await.unwrap();
            }
        });
        for text in ["one", "two\nlines", ""] {
            assert_eq!(reader.recv::<Note>().await.unwrap(), note(text));
        }
        sending.await.unwrap();
        assert!(matches!(reader.recv::<Note>().await, Err(LinkError::Closed)));
    }

    #[tokio::test]
    async fn a_cancelled_read_loses_nothing() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let mut reader = LinkReader::new(theirs);
        ours.write_all(b"{\"text\":").await.unwrap();
        let cancelled =
            tokio::time::timeout(std::time::Duration::from_millis(5), reader.recv::<Note>());
        assert!(cancelled.await.is_err());
        ours.write_all(b"\"whole\"}\n").await.unwrap();
        assert_eq!(reader.recv::<Note>().await.unwrap(), note("whole"));
    }

    #[tokio::test]
    async fn each_way_to_break_has_its_own_error() {
        assert_eq!(error_of(b"", 64).await, "the link was closed");
        assert_eq!(
            error_of(b"{\"text\"", 64).await,
            "the link was closed in the middle of a message, after 7 bytes of it"
        );
        assert_eq!(error_of(&[b'x'; 100], 64).await, "a message is longer than 64 bytes");
        assert_eq!(error_of(b"hello\n", 64).await, "not a message: \"hello\"");
        assert_eq!(error_of(b"\xff\xfe\n", 64).await, "not a message: \"\u{fffd}\u{fffd}\"");
        assert_eq!(
            check_version(PROTOCOL_VERSION + 1).unwrap_err().to_string(),
            format!(
                "the link speaks version {}, this walbench speaks version {PROTOCOL_VERSION}",
                PROTOCOL_VERSION + 1
            )
        );
    }

    #[tokio::test]
    async fn a_socket_pair_closes_with_its_owner() {
        let (ours, theirs) = pair().unwrap();
        drop(theirs);
        let (reader, _writer) = ours.into_split();
        assert!(matches!(LinkReader::new(reader).recv::<Note>().await, Err(LinkError::Closed)));
    }
}

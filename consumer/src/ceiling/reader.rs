//! A reader that does nothing but read. What a consumer that decodes, encodes and compresses is held
//! against.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use walbench_metrics::Failure;
use walbench_metrics::clock::wall_us;

use crate::follow::Following;
use crate::news::News;
use crate::pace::Pace;
use crate::pgoutput::Message;
use crate::replication::{Connection, Frame, ReplicationError, ServerError, StatusUpdate, frame};
use crate::source::{Opened, Source};
use crate::thread::{StartError, open};

/// A server that is silent for so long has nothing more.
const SILENCE: Duration = Duration::from_secs(30);

/// When a bare reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As soon as there is anything.
    Eager,
    /// As the consumer does: late and large while the stream is busy.
    Coalescing,
}

/// What a bare reader read.
#[derive(Clone, Copy, Debug, Default)]
pub struct BareRead {
    /// Inserts, updates and deletes.
    pub rows: u64,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Reads of the socket.
    pub reads: u64,
    /// From the first byte to the last.
    pub reading: Duration,
    /// End of the last transaction or keepalive that was read.
    pub reached_lsn: u64,
}

/// Where a bare reader ends at the latest, but for the end of a transaction or a keepalive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) rows: u64,
    pub(super) reading: Duration,
}

/// Reads a slot's stream to the position that is asked for, and confirms nothing.
///
/// # Errors
/// The stream can't be started, or ends before that position.
pub fn read_bare(following: &Following, reading: Reading) -> Result<BareRead, StartError> {
    read_within(following, reading, Bounds { rows: u64::MAX, reading: Duration::MAX })
}

pub(super) fn read_within(
    following: &Following,
    reading: Reading,
    bounds: Bounds,
) -> Result<BareRead, StartError> {
    let Following { address, publication, slot, consumer, until_lsn, .. } = following;
    let source = Source {
        address: address.clone(),
        application_name: "walbench ceiling".into(),
        slot: slot.clone(),
        publication: publication.clone(),
    };
    let Opened { mut connection, terms, .. } = open(&source, consumer, &News::default())?;
    source.start(&mut connection, &terms, 0)?;
    let until_lsn = until_lsn.unwrap_or(u64::MAX);
    let (mut read, mut pace) = (BareRead::default(), Pace::default());
    let mut first = None;
    let broken = |e: io::Error| ReplicationError::Protocol(e.to_string());
    loop {
        // The first bytes may have come with the answer that starts the stream.
        let bytes = match connection.input.unread_bytes() {
            unread @ 1.. if first.is_none() => unread,
            _ => match fill(&mut connection)? {
                0 => continue,
                bytes => bytes,
            },
        };
        let now = Instant::now();
        let first = *first.get_or_insert(now);
        read.reading = now - first;
        read.reads += 1;
        read.bytes += bytes as u64;
        let is_enough = read.reading >= bounds.reading;
        let mut is_asked = false;
        while let Some((tag, body)) = connection.input.next_message().map_err(broken)? {
            let reached_lsn = match frame(body) {
                _ if tag == b'E' => {
                    let error = ServerError::from_body(body);
                    return Err(ReplicationError::ended(slot, publication, error).into());
                }
                _ if tag == b'N' || tag == b'S' => continue,
                _ if tag != b'd' => return Err(ReplicationError::Closed.into()),
                Some(Frame::Data { body: [b'I' | b'U' | b'D', ..], .. }) => {
                    read.rows += 1;
                    continue;
                }
                Some(Frame::Data { body: body @ [b'C' | b'c', ..], .. }) => end_of_commit(body),
                Some(Frame::Keepalive { end_lsn, reply }) => {
                    is_asked |= reply;
                    end_lsn
                }
                _ => continue,
            };
            read.reached_lsn = read.reached_lsn.max(reached_lsn);
            if reached_lsn >= until_lsn || is_enough || read.rows >= bounds.rows {
                connection.terminate();
                return Ok(read);
            }
        }
        if is_asked {
            answer(&mut connection).map_err(ReplicationError::Io)?;
        }
        if reading == Reading::Coalescing
            && let Some(wait) = pace.after_read(bytes)
        {
            std::thread::sleep(wait);
        }
    }
}

/// Reads once; nothing, if that was disturbed.
fn fill(connection: &mut Connection) -> Result<usize, StartError> {
    let is_buffered = connection.transport.has_buffered();
    let mut fds = [PollFd::new(connection.transport.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(SILENCE).unwrap_or(PollTimeout::NONE);
    if !is_buffered
        && poll(&mut fds, timeout).map_err(io::Error::from).map_err(ReplicationError::Io)? == 0
    {
        let text = format!("the server was silent for {} s", SILENCE.as_secs());
        return Err(Failure::new(text).into());
    }
    match connection.input.fill(&mut connection.transport) {
        Ok(0) => Err(ReplicationError::Closed.into()),
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(e) => Err(ReplicationError::Io(e).into()),
    }
}

/// PostgreSQL gives up on a client that does not answer. Nothing is confirmed by it.
fn answer(connection: &mut Connection) -> io::Result<()> {
    let update = StatusUpdate { now_us: wall_us(), ..StatusUpdate::default() };
    connection.transport.write_all(&update.encode())?;
    connection.transport.flush()
}

/// Position behind a commit; a message too short for one is none.
fn end_of_commit(body: &[u8]) -> u64 {
    match Message::decode(body) {
        Ok(Message::Commit(commit) | Message::StreamCommit { commit, .. }) => commit.end_lsn,
        _ => 0,
    }
}

//! Messages inside a replication stream's CopyData (PostgreSQL manual, section 55.4).

use walbench_metrics::clock::POSTGRES_EPOCH_US;

/// What the server sends in a CopyData message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A piece of WAL: for logical replication one message of the output plugin.
    Data {
        /// Position of the change.
        lsn: u64,
        /// The plugin's message.
        body: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// Position up to which the server has sent everything there is to send.
        end_lsn: u64,
        /// The server wants a status update now.
        reply: bool,
    },
}

/// Reads a CopyData body; `None` when it is neither.
#[must_use]
#[inline]
pub fn frame(copy_data: &[u8]) -> Option<Frame<'_>> {
    let (tag, rest) = copy_data.split_first()?;
    let (first, rest) = rest.split_first_chunk::<8>()?;
    match tag {
        b'w' => Some(Frame::Data { lsn: u64::from_be_bytes(*first), body: rest.get(16..)? }),
        b'k' => {
            let (_server_time, rest) = rest.split_first_chunk::<8>()?;
            let &[reply] = rest else { return None };
            Some(Frame::Keepalive { end_lsn: u64::from_be_bytes(*first), reply: reply == 1 })
        }
        _ => None,
    }
}

/// What a client tells the server about its progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusUpdate {
    /// Received up to here.
    pub written_lsn: u64,
    /// Durable up to here; PostgreSQL may forget everything before it.
    pub flushed_lsn: u64,
    /// The client's clock, in µs since the Unix epoch.
    pub now_us: i64,
    /// Whether the server is to answer at once, with a keepalive.
    pub asks_reply: bool,
}

impl StatusUpdate {
    /// Length of the encoded message.
    pub const LENGTH: usize = 39;

    /// The whole protocol message, CopyData included. Applied is the same as flushed: the sink is
    /// where rows become visible.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let Self { written_lsn, flushed_lsn, now_us, asks_reply } = *self;
        let mut out = [0; Self::LENGTH];
        out[0] = b'd';
        out[1..5].copy_from_slice(&38u32.to_be_bytes());
        out[5] = b'r';
        out[6..14].copy_from_slice(&written_lsn.to_be_bytes());
        out[14..22].copy_from_slice(&flushed_lsn.to_be_bytes());
        out[22..30].copy_from_slice(&flushed_lsn.to_be_bytes());
        out[30..38].copy_from_slice(&(now_us - POSTGRES_EPOCH_US).to_be_bytes());
        out[38] = asks_reply.into();
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn data_and_keepalives_are_told_apart() {
        let mut data = vec![b'w'];
        data.extend(5u64.to_be_bytes());
        data.extend([0; 16]);
        data.extend(b"BODY");
        assert_eq!(frame(&data), Some(Frame::Data { lsn: 5, body: b"BODY" }));

        let mut keepalive = vec![b'k'];
        keepalive.extend(9u64.to_be_bytes());
        keepalive.extend([0; 8]);
        keepalive.push(1);
        assert_eq!(frame(&keepalive), Some(Frame::Keepalive { end_lsn: 9, reply: true }));
        keepalive.push(0);
        assert_eq!(frame(&keepalive), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = frame(&bytes);
        }
    }
}

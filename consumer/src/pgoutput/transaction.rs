//! Messages about transactions: where they begin, come in parts, and end.

use super::cursor::{Cursor, Malformed};

/// A transaction's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Position of its commit record.
    pub commit_lsn: u64,
    /// When it was committed, by the server's clock, in µs since the Unix epoch. Taken before its
    /// WAL was flushed. Of a transaction with an origin, when it was committed there.
    pub commit_us: i64,
    /// Its id.
    pub xid: u32,
}

/// A transaction's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Position of its commit record.
    pub commit_lsn: u64,
    /// Position behind it: confirming this confirms the transaction.
    pub end_lsn: u64,
    /// When it was committed, as [`Begin::commit_us`].
    pub commit_us: i64,
}

/// A transaction that was made ready for a two-phase commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared<'a> {
    /// Position of its prepare record.
    pub prepare_lsn: u64,
    /// Position behind it: confirming this confirms that it is prepared.
    pub end_lsn: u64,
    /// When it was prepared, by the server's clock, in µs since the Unix epoch.
    pub prepare_us: i64,
    /// Its id.
    pub xid: u32,
    /// The name that its end will call it by.
    pub gid: &'a str,
}

/// The commit of a prepared transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitPrepared<'a> {
    /// Position of its commit record.
    pub commit_lsn: u64,
    /// Position behind it.
    pub end_lsn: u64,
    /// When it was committed, by the server's clock, in µs since the Unix epoch.
    pub commit_us: i64,
    /// Its id.
    pub xid: u32,
    /// Its name; another transaction may have it from now on.
    pub gid: &'a str,
}

/// The end of a prepared transaction that was not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollbackPrepared<'a> {
    /// The [`Prepared::end_lsn`] that it had: a name alone does not tell whether it was received.
    pub prepare_end_lsn: u64,
    /// Position behind its rollback record.
    pub rollback_end_lsn: u64,
    /// When it was prepared, by the server's clock, in µs since the Unix epoch.
    pub prepare_us: i64,
    /// When it was rolled back, likewise.
    pub rollback_us: i64,
    /// Its id.
    pub xid: u32,
    /// Its name; another transaction may have it from now on.
    pub gid: &'a str,
}

/// The end of a streamed transaction, or of one of its subtransactions, that was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamAbort {
    /// The transaction.
    pub xid: u32,
    /// What of it was rolled back; the same as `xid` when all of it was.
    pub subxid: u32,
    /// Where and when; sent under `streaming 'parallel'` only.
    pub abort: Option<Abort>,
}

/// Where and when something was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Position of the abort record.
    pub abort_lsn: u64,
    /// When, by the server's clock, in µs since the Unix epoch.
    pub abort_us: i64,
}

impl Begin {
    pub(super) fn read(mut cursor: Cursor<'_>) -> Result<Self, Malformed> {
        let commit_lsn = cursor.u64("begin")?;
        let commit_us = cursor.unix_us("begin")?;
        let xid = cursor.u32("begin")?;
        cursor.end()?;
        Ok(Self { commit_lsn, commit_us, xid })
    }
}

impl Commit {
    pub(super) fn read(mut cursor: Cursor<'_>) -> Result<Self, Malformed> {
        cursor.no_flags("commit")?;
        let commit_lsn = cursor.u64("commit")?;
        let end_lsn = cursor.u64("commit")?;
        let commit_us = cursor.unix_us("commit")?;
        cursor.end()?;
        Ok(Self { commit_lsn, end_lsn, commit_us })
    }
}

impl<'a> Prepared<'a> {
    pub(super) fn read(mut cursor: Cursor<'a>) -> Result<Self, Malformed> {
        let prepare_lsn = cursor.u64("prepare")?;
        let end_lsn = cursor.u64("prepare")?;
        let prepare_us = cursor.unix_us("prepare")?;
        let xid = cursor.u32("prepare")?;
        let gid = cursor.text("prepare")?;
        cursor.end()?;
        Ok(Self { prepare_lsn, end_lsn, prepare_us, xid, gid })
    }

    /// As it stands at a transaction's end, where flags come first.
    pub(super) fn read_flagged(mut cursor: Cursor<'a>) -> Result<Self, Malformed> {
        cursor.no_flags("prepare")?;
        Self::read(cursor)
    }
}

impl<'a> CommitPrepared<'a> {
    pub(super) fn read(mut cursor: Cursor<'a>) -> Result<Self, Malformed> {
        cursor.no_flags("commit prepared")?;
        let commit_lsn = cursor.u64("commit prepared")?;
        let end_lsn = cursor.u64("commit prepared")?;
        let commit_us = cursor.unix_us("commit prepared")?;
        let xid = cursor.u32("commit prepared")?;
        let gid = cursor.text("commit prepared")?;
        cursor.end()?;
        Ok(Self { commit_lsn, end_lsn, commit_us, xid, gid })
    }
}

impl<'a> RollbackPrepared<'a> {
    pub(super) fn read(mut cursor: Cursor<'a>) -> Result<Self, Malformed> {
        cursor.no_flags("rollback prepared")?;
        let prepare_end_lsn = cursor.u64("rollback prepared")?;
        let rollback_end_lsn = cursor.u64("rollback prepared")?;
        let prepare_us = cursor.unix_us("rollback prepared")?;
        let rollback_us = cursor.unix_us("rollback prepared")?;
        let xid = cursor.u32("rollback prepared")?;
        let gid = cursor.text("rollback prepared")?;
        cursor.end()?;
        Ok(Self { prepare_end_lsn, rollback_end_lsn, prepare_us, rollback_us, xid, gid })
    }
}

impl StreamAbort {
    pub(super) fn read(mut cursor: Cursor<'_>) -> Result<Self, Malformed> {
        let xid = cursor.u32("stream abort")?;
        let subxid = cursor.u32("stream abort")?;
        // Nothing in the message tells the two forms apart but its length.
        let abort = match cursor.0 {
            [] => None,
            _ => Some(Abort {
                abort_lsn: cursor.u64("stream abort")?,
                abort_us: cursor.unix_us("stream abort")?,
            }),
        };
        cursor.end()?;
        Ok(Self { xid, subxid, abort })
    }
}

#[cfg(test)]
mod tests {
    use walbench_metrics::clock::POSTGRES_EPOCH_US;

    use super::super::message::Message;
    use super::*;

    /// Positions and times 1, 2, 3 and 4, as PostgreSQL writes them.
    const NUMBERS: &[u8] = &[
        0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0,
        0, 4,
    ];

    const THIRD_US: i64 = POSTGRES_EPOCH_US + 3;

    fn of(head: &[u8], numbers: usize, tail: &[u8]) -> Vec<u8> {
        [head, &NUMBERS[..8 * numbers], tail].concat()
    }

    #[test]
    fn a_transaction_begins_and_is_committed() {
        let begin = Begin { commit_lsn: 1, commit_us: POSTGRES_EPOCH_US + 2, xid: 7 };
        assert_eq!(Message::decode(&of(b"B", 2, b"\0\0\0\x07")), Ok(Message::Begin(begin)));
        let commit = Commit { commit_lsn: 1, end_lsn: 2, commit_us: THIRD_US };
        assert_eq!(Message::decode(&of(b"C\0", 3, b"")), Ok(Message::Commit(commit)));
        assert_eq!(
            Message::decode(&of(b"c\0\0\0\x07\0", 3, b"")),
            Ok(Message::StreamCommit { xid: 7, commit })
        );
    }

    #[test]
    fn times_are_of_the_unix_epoch() {
        let bytes = [b"B".as_slice(), &5u64.to_be_bytes(), &0u64.to_be_bytes(), &[0; 4]].concat();
        let begin = Begin { commit_lsn: 5, commit_us: 946_684_800_000_000, xid: 0 };
        assert_eq!(Message::decode(&bytes), Ok(Message::Begin(begin)));
        let before = (-1i64).to_be_bytes();
        let bytes = [b"B".as_slice(), &5u64.to_be_bytes(), &before, &[0; 4]].concat();
        let begin = Begin { commit_us: 946_684_799_999_999, ..begin };
        assert_eq!(Message::decode(&bytes), Ok(Message::Begin(begin)));
    }

    #[test]
    fn a_transaction_is_prepared_in_three_ways() {
        let tail = b"\0\0\0\x07one\0";
        let prepared =
            Prepared { prepare_lsn: 1, end_lsn: 2, prepare_us: THIRD_US, xid: 7, gid: "one" };
        let decoded = [of(b"b", 3, tail), of(b"P\0", 3, tail), of(b"p\0", 3, tail)];
        let [begin, prepare, stream] = decoded.each_ref().map(|bytes| Message::decode(bytes));
        assert_eq!(begin, Ok(Message::BeginPrepare(prepared)));
        assert_eq!(prepare, Ok(Message::Prepare(prepared)));
        assert_eq!(stream, Ok(Message::StreamPrepare(prepared)));
    }

    #[test]
    fn what_was_prepared_is_committed_or_rolled_back() {
        let tail = b"\0\0\0\x07one\0";
        let committed =
            CommitPrepared { commit_lsn: 1, end_lsn: 2, commit_us: THIRD_US, xid: 7, gid: "one" };
        assert_eq!(Message::decode(&of(b"K\0", 3, tail)), Ok(Message::CommitPrepared(committed)));
        let rolled_back = RollbackPrepared {
            prepare_end_lsn: 1,
            rollback_end_lsn: 2,
            prepare_us: THIRD_US,
            rollback_us: THIRD_US + 1,
            xid: 7,
            gid: "one",
        };
        assert_eq!(
            Message::decode(&of(b"r\0", 4, tail)),
            Ok(Message::RollbackPrepared(rolled_back))
        );
    }

    #[test]
    fn an_abort_may_say_where_and_when() {
        let short = StreamAbort { xid: 7, subxid: 9, abort: None };
        let bytes = of(b"A\0\0\0\x07\0\0\0\x09", 2, b"");
        assert_eq!(Message::decode(&bytes[..9]), Ok(Message::StreamAbort(short)));
        let abort = Some(Abort { abort_lsn: 1, abort_us: POSTGRES_EPOCH_US + 2 });
        assert_eq!(
            Message::decode(&bytes),
            Ok(Message::StreamAbort(StreamAbort { abort, ..short }))
        );
        for length in (0..9).chain(10..25) {
            assert!(Message::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn flags_that_nobody_knows_are_refused() {
        let tail = b"\0\0\0\x07one\0";
        for (bytes, what) in [
            (of(b"C\x80", 3, b""), "commit"),
            (of(b"c\0\0\0\x07\x80", 3, b""), "commit"),
            (of(b"P\x80", 3, tail), "prepare"),
            (of(b"p\x80", 3, tail), "prepare"),
            (of(b"K\x80", 3, tail), "commit prepared"),
            (of(b"r\x80", 4, tail), "rollback prepared"),
        ] {
            assert_eq!(Message::decode(&bytes), Err(Malformed::Flags(what, 0x80)));
        }
    }
}

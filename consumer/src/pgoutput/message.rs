//! The messages.

use super::cursor::{Cursor, Malformed};
use super::relation::{Relation, RelationIds, Type};
use super::transaction::{Begin, Commit, CommitPrepared, Prepared, RollbackPrepared, StreamAbort};
use super::tuple::Tuple;

/// One message of pgoutput, protocol versions 1 to 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin(Begin),
    /// It ends.
    Commit(Commit),
    /// Where the transaction came from first, if not from this server.
    Origin {
        /// Position of its commit there; 0 if that is not known yet.
        lsn: u64,
        /// The name that this server has for the other.
        name: &'a str,
    },
    /// Describes a table; comes before its first row and after changes. In a stream block it is for
    /// rows of that transaction and, once that is committed, of all later ones: it need not come
    /// again.
    Relation(Relation<'a>),
    /// Names a type that is not built in; comes before the table that has it.
    Type(Type<'a>),
    /// A new row.
    Insert {
        /// The table.
        relation: u32,
        /// Its values.
        new: Tuple<'a>,
    },
    /// A changed row.
    Update {
        /// The table.
        relation: u32,
        /// What identifies the old row, where the new one doesn't.
        old: Option<OldTuple<'a>>,
        /// The new values.
        new: Tuple<'a>,
    },
    /// A deleted row.
    Delete {
        /// The table.
        relation: u32,
        /// What identifies it.
        old: OldTuple<'a>,
    },
    /// Emptied tables.
    Truncate {
        /// The tables.
        relations: RelationIds<'a>,
        /// Those that refer to them were emptied as well; the published ones are listed.
        cascade: bool,
        /// Their sequences start again.
        restart_identity: bool,
    },
    /// A logical decoding message.
    Logical(LogicalMessage<'a>),
    /// A part of a transaction that has not ended begins: a stream block. What is in it is read by
    /// [`Message::decode_streamed`].
    StreamStart {
        /// The transaction.
        xid: u32,
        /// It is its first part.
        first_segment: bool,
    },
    /// The part ends.
    StreamStop,
    /// A transaction that came in parts was committed.
    StreamCommit {
        /// The transaction.
        xid: u32,
        /// Where and when.
        commit: Commit,
    },
    /// A transaction that came in parts, or a subtransaction of it, was rolled back.
    StreamAbort(StreamAbort),
    /// A transaction begins that will be prepared.
    BeginPrepare(Prepared<'a>),
    /// It is prepared.
    Prepare(Prepared<'a>),
    /// A prepared transaction was committed.
    CommitPrepared(CommitPrepared<'a>),
    /// A prepared transaction was rolled back.
    RollbackPrepared(RollbackPrepared<'a>),
    /// A transaction that came in parts is prepared.
    StreamPrepare(Prepared<'a>),
}

/// What identifies an old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// Its replica identity's columns; the others are sent as NULL.
    Key(Tuple<'a>),
    /// All of it, under `REPLICA IDENTITY FULL`.
    Full(Tuple<'a>),
}

/// A logical decoding message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// Belongs to the transaction it stands in.
    pub transactional: bool,
    /// Position behind it, as `pg_logical_emit_message` returned it.
    pub lsn: u64,
    /// Whom it is for.
    pub prefix: &'a str,
    /// What it says.
    pub content: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads one message outside of a stream block.
    ///
    /// # Errors
    /// It is none. The values of a message's last tuple are checked when they are read.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (tag, cursor) = split_tag(bytes)?;
        Self::body(tag, cursor)
    }

    /// Reads one message inside a stream block, with the transaction it belongs to: the block's, or
    /// a subtransaction of it. `None` for a message that belongs to none, such as the block's end.
    /// Logical messages name the block's, even those written in a subtransaction.
    ///
    /// # Errors
    /// Those of [`Message::decode`].
    #[inline]
    pub fn decode_streamed(bytes: &'a [u8]) -> Result<(Option<u32>, Self), Malformed> {
        let (tag, mut cursor) = split_tag(bytes)?;
        let xid = carried_xid(tag, &mut cursor)?;
        Ok((xid, Self::body(tag, cursor)?))
    }

    /// What follows the tag and, in a stream block, the transaction. Rows are read right here; what
    /// is rarer stays out of their way.
    #[inline]
    fn body(tag: u8, cursor: Cursor<'a>) -> Result<Self, Malformed> {
        match tag {
            b'I' => insert(cursor),
            b'U' => update(cursor),
            b'D' => delete(cursor),
            _ => other(tag, cursor),
        }
    }
}

/// The transaction that a message inside a stream block belongs to, as
/// [`Message::decode_streamed`] gives it, without reading any more of the message.
///
/// # Errors
/// The message ends too early. Anything else that is wrong with it shows when it is decoded.
#[inline]
pub fn streamed_xid(bytes: &[u8]) -> Result<Option<u32>, Malformed> {
    let (tag, mut cursor) = split_tag(bytes)?;
    carried_xid(tag, &mut cursor)
}

#[inline]
fn split_tag(bytes: &[u8]) -> Result<(u8, Cursor<'_>), Malformed> {
    let (tag, rest) = bytes.split_first().ok_or(Malformed::Short("tag"))?;
    Ok((*tag, Cursor(rest)))
}

#[inline]
fn carried_xid(tag: u8, cursor: &mut Cursor<'_>) -> Result<Option<u32>, Malformed> {
    match tag {
        b'I' | b'U' | b'D' | b'T' | b'M' | b'R' | b'Y' => cursor.u32("transaction").map(Some),
        _ => Ok(None),
    }
}

fn other(tag: u8, cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    match tag {
        b'B' => Begin::read(cursor).map(Message::Begin),
        b'C' => Commit::read(cursor).map(Message::Commit),
        b'M' => logical(cursor),
        b'R' => Relation::read(cursor).map(Message::Relation),
        b'Y' => Type::read(cursor).map(Message::Type),
        b'O' => origin(cursor),
        b'T' => truncate(cursor),
        b'S' => stream_start(cursor),
        b'E' => cursor.end().map(|()| Message::StreamStop),
        b'c' => stream_commit(cursor),
        b'A' => StreamAbort::read(cursor).map(Message::StreamAbort),
        b'b' => Prepared::read(cursor).map(Message::BeginPrepare),
        b'P' => Prepared::read_flagged(cursor).map(Message::Prepare),
        b'K' => CommitPrepared::read(cursor).map(Message::CommitPrepared),
        b'r' => RollbackPrepared::read(cursor).map(Message::RollbackPrepared),
        b'p' => Prepared::read_flagged(cursor).map(Message::StreamPrepare),
        tag => Err(Malformed::Tag("message", tag.into())),
    }
}

#[inline]
fn insert(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let relation = cursor.u32("insert")?;
    match cursor.u8("insert")? {
        b'N' => Ok(Message::Insert { relation, new: Tuple::last(cursor)? }),
        tag => Err(Malformed::Tag("tuple", tag.into())),
    }
}

#[inline]
fn update(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let relation = cursor.u32("update")?;
    let mut old = None;
    loop {
        match (cursor.u8("update")?, old) {
            (b'N', _) => return Ok(Message::Update { relation, old, new: Tuple::last(cursor)? }),
            (b'K', None) => old = Some(OldTuple::Key(Tuple::followed(&mut cursor)?)),
            (b'O', None) => old = Some(OldTuple::Full(Tuple::followed(&mut cursor)?)),
            (tag, _) => return Err(Malformed::Tag("tuple", tag.into())),
        }
    }
}

fn delete(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let relation = cursor.u32("delete")?;
    let old = match cursor.u8("delete")? {
        b'K' => OldTuple::Key(Tuple::last(cursor)?),
        b'O' => OldTuple::Full(Tuple::last(cursor)?),
        tag => return Err(Malformed::Tag("tuple", tag.into())),
    };
    Ok(Message::Delete { relation, old })
}

fn truncate(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let count = cursor.u32("truncate")?;
    let flags = cursor.u8("truncate")?;
    let relations = RelationIds::last(cursor, count)?;
    let (cascade, restart_identity) = (flags & 1 != 0, flags & 2 != 0);
    Ok(Message::Truncate { relations, cascade, restart_identity })
}

fn logical(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let transactional = cursor.u8("logical message")? & 1 == 1;
    let lsn = cursor.u64("logical message")?;
    let prefix = cursor.text("logical message")?;
    let length = cursor.u32("logical message")? as usize;
    let content = cursor.bytes(length, "logical message")?;
    cursor.end()?;
    Ok(Message::Logical(LogicalMessage { transactional, lsn, prefix, content }))
}

fn origin(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let lsn = cursor.u64("origin")?;
    let name = cursor.text("origin")?;
    cursor.end()?;
    Ok(Message::Origin { lsn, name })
}

fn stream_start(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let xid = cursor.u32("stream start")?;
    let first_segment = cursor.u8("stream start")? == 1;
    cursor.end()?;
    Ok(Message::StreamStart { xid, first_segment })
}

fn stream_commit(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let xid = cursor.u32("stream commit")?;
    let commit = Commit::read(cursor)?;
    Ok(Message::StreamCommit { xid, commit })
}

#[cfg(test)]
mod tests {
    use super::super::tuple::Value;
    use super::*;

    fn tuple(values: &[Value<'_>]) -> Vec<u8> {
        let mut bytes = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            let (tag, data) = match value {
                Value::Null => (b'n', None),
                Value::Unchanged => (b'u', None),
                Value::Text(data) => (b't', Some(data)),
                Value::Binary(data) => (b'b', Some(data)),
            };
            bytes.push(tag);
            if let Some(data) = data {
                bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
                bytes.extend(*data);
            }
        }
        bytes
    }

    fn read(tuple: Tuple<'_>) -> Vec<Value<'_>> {
        let mut values = tuple.values();
        let read = values.by_ref().collect::<Result<_, _>>().unwrap();
        values.finish().unwrap();
        read
    }

    const ROW: [Value<'static>; 4] =
        [Value::Text(b"one"), Value::Null, Value::Unchanged, Value::Binary(b"\x00\x01")];

    #[test]
    fn an_update_has_its_old_key_and_its_new_row() {
        let key = [Value::Text(b"zero"), Value::Null, Value::Null, Value::Null];
        let bytes = [b"U\0\0\0\x07K".as_slice(), &tuple(&key), b"N", &tuple(&ROW)].concat();
        let Message::Update { relation: 7, old: Some(OldTuple::Key(old)), new } =
            Message::decode(&bytes).unwrap()
        else {
            panic!("not an update with a key");
        };
        assert_eq!((read(old), read(new)), (key.to_vec(), ROW.to_vec()));
    }

    #[test]
    fn inserts_and_deletes_have_one_row() {
        let bytes = [b"I\0\0\0\x07N".as_slice(), &tuple(&ROW)].concat();
        assert!(
            matches!(Message::decode(&bytes), Ok(Message::Insert { new, .. }) if read(new) == ROW)
        );
        let bytes = [b"D\0\0\0\x07O".as_slice(), &tuple(&ROW)].concat();
        assert!(matches!(
            Message::decode(&bytes),
            Ok(Message::Delete { old: OldTuple::Full(old), .. }) if read(old) == ROW
        ));
    }

    #[test]
    fn a_truncation_lists_its_tables() {
        let bytes = b"T\0\0\0\x02\x03\0\0\0\x07\0\0\x01\0";
        let Ok(Message::Truncate { relations, cascade: true, restart_identity: true }) =
            Message::decode(bytes)
        else {
            panic!("not a truncation of both kinds");
        };
        assert_eq!(relations.iter().collect::<Vec<_>>(), [7, 256]);
        for (flags, expected) in [(0, (false, false)), (1, (true, false)), (2, (false, true))] {
            let bytes = [b'T', 0, 0, 0, 0, flags];
            assert!(matches!(
                Message::decode(&bytes),
                Ok(Message::Truncate { cascade, restart_identity, relations })
                    if (cascade, restart_identity) == expected && relations.iter().len() == 0
            ));
        }
        assert_eq!(Message::decode(&bytes[..13]), Err(Malformed::Short("truncate")));
        let long = [bytes.as_slice(), &[0; 5]].concat();
        assert_eq!(Message::decode(&long), Err(Malformed::Trailing(5)));
    }

    #[test]
    fn more_tables_than_there_can_be_are_refused() {
        let bytes = b"T\xff\xff\xff\xff\0\0\0\0\x07";
        assert_eq!(Message::decode(bytes), Err(Malformed::Short("truncate")));
    }

    #[test]
    fn a_logical_message_says_whether_it_is_of_its_transaction() {
        let message = |transactional| {
            let content = b"what\0".as_slice();
            Message::Logical(LogicalMessage { transactional, lsn: 5, prefix: "whom", content })
        };
        let mut bytes = *b"M\0\0\0\0\0\0\0\0\x05whom\0\0\0\0\x05what\0";
        assert_eq!(Message::decode(&bytes), Ok(message(false)));
        bytes[1] = 1;
        assert_eq!(Message::decode(&bytes), Ok(message(true)));
    }

    #[test]
    fn an_origin_has_a_position_and_a_name() {
        let bytes = b"O\0\0\0\0\0\0\0\x05\xc3\xa9\0";
        assert_eq!(Message::decode(bytes), Ok(Message::Origin { lsn: 5, name: "é" }));
    }

    #[test]
    fn stream_blocks_start_and_stop() {
        for (first, first_segment) in [(0, false), (1, true)] {
            let bytes = [b'S', 0, 0, 0, 7, first];
            let start = Message::StreamStart { xid: 7, first_segment };
            assert_eq!(Message::decode(&bytes), Ok(start));
        }
        assert_eq!(Message::decode(b"E"), Ok(Message::StreamStop));
        assert_eq!(Message::decode_streamed(b"E"), Ok((None, Message::StreamStop)));
    }

    #[test]
    fn in_a_stream_block_the_transaction_comes_first() {
        let bytes = b"Y\0\0\0\x09\0\0\0\x07public\0mood\0";
        let named = Type { id: 7, namespace: "public", name: "mood" };
        assert_eq!(Message::decode_streamed(bytes), Ok((Some(9), Message::Type(named))));
        assert_eq!(streamed_xid(bytes), Ok(Some(9)));
        assert_eq!(streamed_xid(&bytes[..5]), Ok(Some(9)));
        assert_eq!(streamed_xid(&bytes[..4]), Err(Malformed::Short("transaction")));
        assert_eq!(streamed_xid(b""), Err(Malformed::Short("tag")));
        assert_eq!(streamed_xid(b"E"), Ok(None));
    }

    #[test]
    fn what_has_an_unknown_tag_is_refused() {
        let unknown = Malformed::Tag("message", '?');
        assert_eq!(Message::decode(b"?"), Err(unknown));
        assert_eq!(Message::decode_streamed(b"?"), Err(unknown));
        assert_eq!(Message::decode(b"I\0\0\0\x07O"), Err(Malformed::Tag("tuple", 'O')));
        assert_eq!(Message::decode(b"D\0\0\0\x07N"), Err(Malformed::Tag("tuple", 'N')));
    }
}

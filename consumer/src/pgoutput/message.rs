//! The messages.

use walbench_metrics::clock::POSTGRES_EPOCH_US;

use super::cursor::{Cursor, Malformed};
use super::tuple::Tuple;

/// One message of pgoutput, protocol version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin(Begin),
    /// It ends.
    Commit(Commit),
    /// Where the transaction came from first, if not from this server.
    Origin,
    /// Describes a table; comes before its first row and after changes.
    Relation(Relation<'a>),
    /// Names a type that is not built in.
    Type,
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
    Truncate,
    /// A logical decoding message.
    Logical(LogicalMessage<'a>),
}

/// A transaction's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Position of its commit record.
    pub commit_lsn: u64,
    /// When it was committed, by the server's clock, in µs since the Unix epoch. Taken before its
    /// WAL was flushed.
    pub commit_us: i64,
}

/// A transaction's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Position of its commit record.
    pub commit_lsn: u64,
    /// Position behind it: confirming this confirms the transaction.
    pub end_lsn: u64,
}

/// What identifies an old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// Its replica identity's columns; the others are sent as NULL.
    Key(Tuple<'a>),
    /// All of it, under `REPLICA IDENTITY FULL`.
    Full(Tuple<'a>),
}

/// A table's `REPLICA IDENTITY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// An index.
    Index,
}

/// A table's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// Its OID, by which rows name it.
    pub id: u32,
    /// Its schema; empty for `pg_catalog`.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// How old rows are identified.
    pub identity: ReplicaIdentity,
    /// Its columns.
    pub columns: Vec<RelationColumn<'a>>,
}

/// A column's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity.
    pub key: bool,
    /// Its name.
    pub name: &'a str,
    /// OID of its type.
    pub type_oid: u32,
    /// The type's modifier (precision and scale, length); -1 without.
    pub type_modifier: i32,
}

/// A logical decoding message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// Belongs to the transaction it stands in.
    pub transactional: bool,
    /// Whom it is for.
    pub prefix: &'a str,
    /// What it says.
    pub content: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// It is none. The values of a message's last tuple are checked when they are read.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(bytes);
        match cursor.u8("tag")? {
            b'I' => insert(cursor),
            b'U' => update(cursor),
            b'D' => delete(cursor),
            b'B' => begin(cursor),
            b'C' => commit(cursor),
            b'M' => logical(cursor),
            b'R' => relation(cursor),
            b'Y' => Ok(Self::Type),
            b'O' => Ok(Self::Origin),
            b'T' => Ok(Self::Truncate),
            tag => Err(Malformed::Tag("message", tag.into())),
        }
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

fn begin(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let commit_lsn = cursor.u64("begin")?;
    let commit_us = unix_us(cursor.u64("begin")?);
    cursor.u32("begin")?;
    cursor.end()?;
    Ok(Message::Begin(Begin { commit_lsn, commit_us }))
}

fn commit(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    cursor.u8("commit")?;
    let commit_lsn = cursor.u64("commit")?;
    let end_lsn = cursor.u64("commit")?;
    cursor.u64("commit")?;
    cursor.end()?;
    Ok(Message::Commit(Commit { commit_lsn, end_lsn }))
}

fn logical(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let flags = cursor.u8("logical message")?;
    cursor.u64("logical message")?;
    let prefix = cursor.text("logical message")?;
    let length = cursor.u32("logical message")? as usize;
    let content = cursor.bytes(length, "logical message")?;
    cursor.end()?;
    Ok(Message::Logical(LogicalMessage { transactional: flags & 1 == 1, prefix, content }))
}

fn relation(mut cursor: Cursor<'_>) -> Result<Message<'_>, Malformed> {
    let id = cursor.u32("relation")?;
    let namespace = cursor.text("relation")?;
    let name = cursor.text("relation")?;
    let identity = match cursor.u8("relation")? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        tag => return Err(Malformed::Tag("replica identity", tag.into())),
    };
    let mut columns = Vec::new();
    for _ in 0..cursor.u16("relation")? {
        columns.push(RelationColumn {
            key: cursor.u8("relation")? & 1 == 1,
            name: cursor.text("relation")?,
            type_oid: cursor.u32("relation")?,
            type_modifier: cursor.u32("relation")?.cast_signed(),
        });
    }
    cursor.end()?;
    Ok(Message::Relation(Relation { id, namespace, name, identity, columns }))
}

fn unix_us(postgres_us: u64) -> i64 {
    postgres_us.cast_signed().wrapping_add(POSTGRES_EPOCH_US)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn a_relation_names_its_columns() {
        let bytes = b"R\0\0\0\x07public\0t\0d\0\x01\x01id\0\0\0\0\x14\xff\xff\xff\xff";
        let column = RelationColumn { key: true, name: "id", type_oid: 20, type_modifier: -1 };
        assert_eq!(
            Message::decode(bytes),
            Ok(Message::Relation(Relation {
                id: 7,
                namespace: "public",
                name: "t",
                identity: ReplicaIdentity::Default,
                columns: vec![column],
            }))
        );
    }

    #[test]
    fn times_are_of_the_unix_epoch() {
        let bytes = [b"B".as_slice(), &5u64.to_be_bytes(), &0u64.to_be_bytes(), &[0; 4]].concat();
        let begin = Begin { commit_lsn: 5, commit_us: 946_684_800_000_000 };
        assert_eq!(Message::decode(&bytes), Ok(Message::Begin(begin)));
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_refused() {
        let whole = [b"U\0\0\0\x07K".as_slice(), &tuple(&ROW), b"N", &tuple(&ROW)].concat();
        for length in 0..whole.len() {
            let result = Message::decode(&whole[..length]).and_then(|message| match message {
                Message::Update { new, .. } => new.values().try_for_each(|v| v.map(drop)),
                _ => panic!("not an update"),
            });
            assert!(result.is_err(), "cut at {length}");
        }
        let long = [b"B".as_slice(), &[0; 21]].concat();
        assert_eq!(Message::decode(&long), Err(Malformed::Trailing(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            tag in prop::sample::select(b"IUDBCMRYOT?".to_vec()),
            rest in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let bytes = [&[tag], rest.as_slice()].concat();
            if let Ok(Message::Insert { new, .. } | Message::Update { new, .. }) = Message::decode(&bytes) {
                let _ = new.values().count();
            }
        }
    }
}

//! What holds for every message.

use proptest::collection::vec;
use proptest::prelude::*;
use walbench_metrics::clock::POSTGRES_EPOCH_US;

use super::*;

const TAGS: &[u8] = b"BCORYIUDTMSEcAbPKrp";

/// Tags after which a stream block has the transaction.
const WITH_XID: &[u8] = b"IUDTMRY";

/// Decodes all of a message: the values of its rows as well.
fn walk(message: &Message<'_>) -> Result<(), Malformed> {
    let all = |tuple: &Tuple<'_>| {
        let mut values = tuple.values();
        values.by_ref().try_for_each(|value| value.map(drop))?;
        values.finish()
    };
    match message {
        Message::Insert { new, .. } | Message::Update { old: None, new, .. } => all(new),
        Message::Update { old: Some(OldTuple::Key(old) | OldTuple::Full(old)), new, .. } => {
            all(old)?;
            all(new)
        }
        Message::Delete { old: OldTuple::Key(old) | OldTuple::Full(old), .. } => all(old),
        Message::Truncate { relations, .. } => {
            relations.iter().for_each(drop);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn whole(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    Message::decode(bytes).and_then(|message| walk(&message).map(|()| message))
}

/// Writes messages as PostgreSQL does.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn u8(self, byte: impl Into<u8>) -> Self {
        self.bytes(&[byte.into()])
    }

    fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    fn us(self, unix_us: i64) -> Self {
        self.bytes(&unix_us.wrapping_sub(POSTGRES_EPOCH_US).to_be_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes()).u8(0)
    }

    fn sized(self, data: &[u8]) -> Self {
        self.u32(u32::try_from(data.len()).unwrap()).bytes(data)
    }

    fn tuple(self, tag: u8, tuple: Tuple<'_>) -> Self {
        let columns = u16::try_from(tuple.columns()).unwrap();
        let head = self.u8(tag).bytes(&columns.to_be_bytes());
        tuple.values().map(Result::unwrap).fold(head, |out, value| match value {
            Value::Null => out.u8(b'n'),
            Value::Unchanged => out.u8(b'u'),
            Value::Text(data) => out.u8(b't').sized(data),
            Value::Binary(data) => out.u8(b'b').sized(data),
        })
    }

    fn old(self, old: OldTuple<'_>) -> Self {
        match old {
            OldTuple::Key(old) => self.tuple(b'K', old),
            OldTuple::Full(old) => self.tuple(b'O', old),
        }
    }

    fn commit(self, commit: Commit) -> Self {
        self.u8(0).u64(commit.commit_lsn).u64(commit.end_lsn).us(commit.commit_us)
    }

    fn prepared(self, prepared: Prepared<'_>) -> Self {
        let Prepared { prepare_lsn, end_lsn, prepare_us, xid, gid } = prepared;
        self.u64(prepare_lsn).u64(end_lsn).us(prepare_us).u32(xid).text(gid)
    }

    fn relation(self, relation: &Relation<'_>) -> Self {
        let Relation { id, namespace, name, identity, columns } = relation;
        let identity = match identity {
            ReplicaIdentity::Default => b'd',
            ReplicaIdentity::Nothing => b'n',
            ReplicaIdentity::Full => b'f',
            ReplicaIdentity::Index => b'i',
        };
        let head = self.u8(b'R').u32(*id).text(namespace).text(name).u8(identity);
        let head = head.bytes(&u16::try_from(columns.len()).unwrap().to_be_bytes());
        columns.iter().fold(head, |out, column| {
            let out = out.u8(column.key).text(column.name).u32(column.type_oid);
            out.u32(column.type_modifier.cast_unsigned())
        })
    }

    fn message(self, message: &Message<'_>) -> Self {
        match *message {
            Message::Begin(Begin { commit_lsn, commit_us, xid }) => {
                self.u8(b'B').u64(commit_lsn).us(commit_us).u32(xid)
            }
            Message::Commit(commit) => self.u8(b'C').commit(commit),
            Message::Origin { lsn, name } => self.u8(b'O').u64(lsn).text(name),
            Message::Relation(ref relation) => self.relation(relation),
            Message::Type(Type { id, namespace, name }) => {
                self.u8(b'Y').u32(id).text(namespace).text(name)
            }
            Message::Insert { relation, new } => self.u8(b'I').u32(relation).tuple(b'N', new),
            Message::Update { relation, old, new } => {
                let head = self.u8(b'U').u32(relation);
                old.into_iter().fold(head, Self::old).tuple(b'N', new)
            }
            Message::Delete { relation, old } => self.u8(b'D').u32(relation).old(old),
            Message::Truncate { relations, cascade, restart_identity } => {
                let count = u32::try_from(relations.iter().len()).unwrap();
                let flags = u8::from(cascade) | u8::from(restart_identity) << 1;
                relations.iter().fold(self.u8(b'T').u32(count).u8(flags), Self::u32)
            }
            Message::Logical(LogicalMessage { transactional, lsn, prefix, content }) => {
                self.u8(b'M').u8(transactional).u64(lsn).text(prefix).sized(content)
            }
            Message::StreamStart { xid, first_segment } => self.u8(b'S').u32(xid).u8(first_segment),
            Message::StreamStop => self.u8(b'E'),
            Message::StreamCommit { xid, commit } => self.u8(b'c').u32(xid).commit(commit),
            Message::StreamAbort(StreamAbort { xid, subxid, abort }) => {
                let head = self.u8(b'A').u32(xid).u32(subxid);
                abort.into_iter().fold(head, |out, at| out.u64(at.abort_lsn).us(at.abort_us))
            }
            Message::BeginPrepare(prepared) => self.u8(b'b').prepared(prepared),
            Message::Prepare(prepared) => self.u8(b'P').u8(0).prepared(prepared),
            Message::CommitPrepared(CommitPrepared {
                commit_lsn,
                end_lsn,
                commit_us,
                xid,
                gid,
            }) => {
                let head = self.u8(b'K').u8(0).u64(commit_lsn).u64(end_lsn);
                head.us(commit_us).u32(xid).text(gid)
            }
            Message::RollbackPrepared(rolled_back) => {
                let head = self.u8(b'r').u8(0).u64(rolled_back.prepare_end_lsn);
                let head = head.u64(rolled_back.rollback_end_lsn).us(rolled_back.prepare_us);
                head.us(rolled_back.rollback_us).u32(rolled_back.xid).text(rolled_back.gid)
            }
            Message::StreamPrepare(prepared) => self.u8(b'p').u8(0).prepared(prepared),
        }
    }
}

fn written(message: &Message<'_>) -> Vec<u8> {
    Writer::default().message(message).0
}

type Bytes = BoxedStrategy<Vec<u8>>;

/// The form of every message: tags as they are, and the fields that [`field`] knows. An update has
/// two forms, and an abort.
const FORMS: [&str; 21] = [
    "B884", "C0888", "O8s", "R4ssil", "Y4ss", "I4Nt", "U4Nt", "U4ktNt", "D4kt", "To", "M18sd",
    "S41", "E", "c40888", "A44", "A4488", "b8884s", "P08884s", "K08884s", "r088884s", "p08884s",
];

fn field(kind: char) -> Bytes {
    let any = |bytes| vec(any::<u8>(), bytes).boxed();
    match kind {
        '8' => any(8),
        '4' => any(4),
        '0' => Just(vec![0]).boxed(),
        '1' => one_of(&[0, 1]),
        's' => "[^\\x00]{0,6}".prop_map(|text| Writer::default().text(&text).0).boxed(),
        'd' => vec(0u8.., 0..6).prop_map(|data| Writer::default().sized(&data).0).boxed(),
        'i' => one_of(b"dnfi"),
        'l' => {
            counted("1s44").prop_map(|(count, columns)| [vec![0, count], columns].concat()).boxed()
        }
        'o' => (counted("4"), 0..4u8)
            .prop_map(|((count, ids), flags)| [vec![0, 0, 0, count, flags], ids].concat())
            .boxed(),
        'k' => one_of(b"KO"),
        't' => counted("v").prop_map(|(count, values)| [vec![0, count], values].concat()).boxed(),
        'v' => prop_oneof![one_of(b"nu"), fields("wd")].boxed(),
        'w' => one_of(b"tb"),
        tag => Just(tag.to_string().into_bytes()).boxed(),
    }
}

fn one_of(bytes: &'static [u8]) -> Bytes {
    prop::sample::select(bytes).prop_map(|byte| vec![byte]).boxed()
}

fn fields(form: &str) -> Bytes {
    form.chars().map(field).collect::<Vec<_>>().prop_map(|fields| fields.concat()).boxed()
}

fn counted(form: &str) -> impl Strategy<Value = (u8, Vec<u8>)> + use<> {
    vec(fields(form), 0..4).prop_map(|items| (items.len() as u8, items.concat()))
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(&FORMS[..]).prop_flat_map(fields)
}

/// Mostly nonsense, behind a tag that a message has.
fn nonsense() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop::sample::select(TAGS);
    (tag, vec(any::<u8>(), 0..80)).prop_map(|(tag, rest)| [vec![tag], rest].concat())
}

proptest! {
    #[test]
    fn what_was_read_can_be_written_again(bytes in message()) {
        let message = whole(&bytes);
        prop_assert!(message.is_ok(), "{message:?}");
        prop_assert_eq!(written(&message.unwrap()), bytes);
    }

    #[test]
    fn a_message_has_no_other_length(bytes in message(), more in vec(any::<u8>(), 1..9)) {
        for length in 0..bytes.len() {
            let short_abort = bytes[0] == b'A' && length == 9;
            prop_assert_eq!(whole(&bytes[..length]).is_ok(), short_abort, "cut at {}", length);
        }
        prop_assert!(whole(&[bytes, more].concat()).is_err());
    }

    #[test]
    fn in_a_stream_block_nothing_but_the_transaction_is_added(
        bytes in prop_oneof![message(), nonsense()],
        xid: u32,
    ) {
        let (tag, rest) = bytes.split_at(1);
        let carries = WITH_XID.contains(&tag[0]);
        let streamed = if carries {
            [tag, &xid.to_be_bytes(), rest].concat()
        } else {
            bytes.clone()
        };
        let xid = carries.then_some(xid);
        prop_assert_eq!(streamed_xid(&streamed), Ok(xid));
        let decoded = Message::decode_streamed(&streamed);
        prop_assert_eq!(decoded, Message::decode(&bytes).map(|message| (xid, message)));
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in prop_oneof![nonsense(), vec(any::<u8>(), 0..80)],
    ) {
        let _ = whole(&bytes);
        let streamed = Message::decode_streamed(&bytes);
        if let Ok((xid, message)) = streamed {
            let _ = walk(&message);
            prop_assert_eq!(streamed_xid(&bytes), Ok(xid));
        }
    }
}

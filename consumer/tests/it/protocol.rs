//! The whole protocol as a real server speaks it, message by message.

use std::io;
use std::time::Duration;

use walbench_consumer::pgoutput::{
    Begin, Commit, CommitPrepared, LogicalMessage, Message, OldTuple, Prepared, RollbackPrepared,
    StreamAbort, Tuple, Type, Value, streamed_xid,
};
use walbench_consumer::replication::{Connection, Frame, Stream, frame};
use walbench_consumer::rowbinary::{RowKind, Table};
use walbench_metrics::clock::wall_us;

use crate::cluster::Version;
use crate::database::{Database, PUBLICATION, on_every_server};
use crate::rows::POLICY;

on_every_server![
    a_large_transaction_comes_in_parts_before_it_is_committed,
    a_transaction_that_came_in_parts_is_rolled_back,
    a_savepoint_that_is_rolled_back_takes_its_rows_along,
    prepared_transactions_come_when_they_are_prepared,
    large_prepared_transactions_come_in_parts,
    truncations_list_their_tables,
    a_truncation_in_a_stream_block_has_its_transaction,
    logical_messages_come_in_their_transaction_or_at_once,
    types_are_named_before_their_table,
    an_origin_is_named_behind_the_beginning,
    an_unchanged_large_key_comes_as_the_old_one,
];

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, note text)";

/// A message as it came.
struct Raw {
    /// A stream block was open.
    streamed: bool,
    body: Vec<u8>,
}

impl Raw {
    fn decode(&self) -> (Option<u32>, Message<'_>) {
        if !self.streamed {
            return (None, Message::decode(&self.body).unwrap());
        }
        let (xid, message) = Message::decode_streamed(&self.body).unwrap();
        assert_eq!(streamed_xid(&self.body), Ok(xid));
        (xid, message)
    }
}

/// A stream that is read as far as a test wants.
struct Reader {
    connection: Connection,
    streamed: bool,
    seen: Vec<Raw>,
}

impl Reader {
    /// Starts the stream of a database's slot, with little memory for transactions in progress.
    fn start(database: &Database, change: impl FnOnce(&mut Stream<'_>)) -> Self {
        let mut address = database.address.clone();
        let options = "-c logical_decoding_work_mem=64kB";
        address.options.insert("options".into(), options.into());
        let mut connection = Connection::open(&address, "test").unwrap();
        let mut stream = Stream::new(&database.slot, PUBLICATION);
        change(&mut stream);
        connection.start(&stream).unwrap();
        // What is waited for always comes; a test that is wrong about that shall end.
        connection.transport.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { connection, streamed: false, seen: Vec::new() }
    }

    /// Reads up to and with the first message that is wanted.
    fn until(&mut self, wanted: impl Fn(Option<u32>, &Message<'_>) -> bool) {
        self.try_until(wanted).unwrap();
    }

    fn try_until(&mut self, wanted: impl Fn(Option<u32>, &Message<'_>) -> bool) -> io::Result<()> {
        loop {
            let Some((tag, body)) = self.connection.input.next_message()? else {
                if self.connection.input.fill(&mut self.connection.transport)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                continue;
            };
            assert_eq!(tag, b'd', "{}", String::from_utf8_lossy(body));
            let Some(Frame::Data { body, .. }) = frame(body) else { continue };
            let raw = Raw { streamed: self.streamed, body: body.to_vec() };
            let (xid, message) = raw.decode();
            match message {
                Message::StreamStart { .. } => self.streamed = true,
                Message::StreamStop => self.streamed = false,
                _ => {}
            }
            let found = wanted(xid, &message);
            self.seen.push(raw);
            if found {
                return Ok(());
            }
        }
    }
}

/// Everything that was read, with the transactions that it belongs to in its stream block.
fn decoded(reader: &Reader) -> Vec<(Option<u32>, Message<'_>)> {
    reader.seen.iter().map(Raw::decode).collect()
}

fn in_parts(stream: &mut Stream<'_>) {
    stream.protocol_version = 2;
    stream.streaming = Some("on");
}

fn in_two_phases(stream: &mut Stream<'_>) {
    stream.protocol_version = 3;
    stream.two_phase = true;
}

/// Rows that need more memory than decoding has. What ends with a checkpoint was flushed, and so is
/// decoded, though its transaction goes on.
fn many_rows(from: i64) -> String {
    let to = from + 999;
    format!("INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series({from}, {to}) n;")
}

fn id(tuple: Tuple<'_>) -> i64 {
    let Some(Ok(Value::Text(text))) = tuple.values().next() else { panic!("no id: {tuple:?}") };
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

/// The new rows' ids, each with the transaction it came with.
fn inserted(messages: &[(Option<u32>, Message<'_>)]) -> Vec<(Option<u32>, i64)> {
    let row = |(xid, message): &(Option<u32>, Message<'_>)| match message {
        Message::Insert { new, .. } => Some((*xid, id(*new))),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

/// A time that a test can have taken: of the right epoch and unit.
fn is_now(us: i64) -> bool {
    us.abs_diff(wall_us()) < 3_600_000_000
}

impl Database {
    async fn xid(&self) -> u32 {
        let row = self.client.query_one("SELECT txid_current()", &[]).await.unwrap();
        u32::try_from(row.get::<_, i64>(0)).unwrap()
    }

    async fn oid(&self, kind: &str, name: &str) -> u32 {
        let sql = format!("SELECT '{name}'::{kind}::oid");
        self.client.query_one(&sql, &[]).await.unwrap().get(0)
    }

    async fn version(&self) -> i32 {
        let sql = "SELECT current_setting('server_version_num')::int";
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

async fn a_large_transaction_comes_in_parts_before_it_is_committed(version: Version) {
    let database = Database::with(version, TABLE).await;
    let mut reader = Reader::start(&database, in_parts);
    database.execute("BEGIN").await;
    let top = database.xid().await;
    database.execute(&format!("{} CHECKPOINT", many_rows(1))).await;
    reader.until(|_, message| matches!(message, Message::StreamStop));
    database.execute("COMMIT").await;
    reader.until(|_, message| matches!(message, Message::StreamCommit { .. }));
    database.execute("INSERT INTO t VALUES (2000)").await;
    reader.until(|_, message| matches!(message, Message::Commit(_)));

    let messages = decoded(&reader);
    let start = |first_segment| (None, Message::StreamStart { xid: top, first_segment });
    assert_eq!(messages[0], start(true));
    assert!(
        matches!(&messages[1], (Some(xid), Message::Relation(r)) if *xid == top && r.name == "t")
    );
    let starts =
        messages.iter().filter(|(_, message)| matches!(message, Message::StreamStart { .. }));
    let starts: Vec<_> = starts.cloned().collect();
    assert!(starts.len() > 1 && starts[1..].iter().all(|other| *other == start(false)));

    let expected = (1..=1000).map(|n| (Some(top), n)).chain([(None, 2000)]);
    assert_eq!(inserted(&messages), expected.collect::<Vec<_>>());
    let end = messages.iter().position(|(_, m)| matches!(m, Message::StreamCommit { .. })).unwrap();
    let (None, Message::StreamCommit { xid, commit }) = messages[end] else { panic!("in a block") };
    assert!(xid == top && commit.commit_lsn < commit.end_lsn && is_now(commit.commit_us));
    // The description in the block holds from its commit on; what else goes on at the server may
    // make it come again.
    let after = messages[end + 1..].iter().map(|(_, message)| message);
    let after: Vec<_> = after.filter(|m| !matches!(m, Message::Relation(_))).collect();
    let [Message::Begin(begin), Message::Insert { .. }, Message::Commit(commit)] = after[..] else {
        panic!("not a transaction of one row: {after:?}");
    };
    let Begin { commit_lsn, commit_us, xid } = *begin;
    assert!(xid > top && is_now(commit_us));
    assert_eq!(*commit, Commit { commit_lsn, commit_us, ..*commit });
    assert!(commit.end_lsn > commit_lsn);
}

/// Rolls back what was received in part; returns its id and what was said of its end.
async fn rolled_back(database: &Database, change: fn(&mut Stream<'_>)) -> (u32, StreamAbort) {
    let mut reader = Reader::start(database, change);
    database.execute("BEGIN").await;
    let top = database.xid().await;
    database.execute(&format!("{} CHECKPOINT", many_rows(1))).await;
    reader.until(|_, message| matches!(message, Message::StreamStop));
    database.execute("ROLLBACK").await;
    // Its commit flushes the rollback too.
    database.execute("INSERT INTO t VALUES (1)").await;
    reader.until(|_, message| matches!(message, Message::Commit(_)));

    let messages = decoded(&reader);
    assert!(inserted(&messages).iter().filter(|(xid, _)| *xid == Some(top)).count() > 0);
    assert_eq!(inserted(&messages).last(), Some(&(None, 1)));
    assert!(!messages.iter().any(|(_, m)| matches!(m, Message::StreamCommit { .. })));
    let abort = messages.iter().find_map(|(xid, message)| match message {
        Message::StreamAbort(abort) => Some((*xid, *abort)),
        _ => None,
    });
    let Some((None, abort)) = abort else { panic!("{abort:?} in {messages:?}") };
    (top, abort)
}

async fn a_transaction_that_came_in_parts_is_rolled_back(version: Version) {
    let database = Database::with(version, TABLE).await;
    let (top, abort) = rolled_back(&database, in_parts).await;
    assert_eq!(abort, StreamAbort { xid: top, subxid: top, abort: None });
    if database.version().await < 160_000 {
        return;
    }
    let database = Database::with(version, TABLE).await;
    let in_parallel = |stream: &mut Stream<'_>| {
        stream.protocol_version = 4;
        stream.streaming = Some("parallel");
    };
    let (top, StreamAbort { xid, subxid, abort }) = rolled_back(&database, in_parallel).await;
    assert_eq!((xid, subxid), (top, top));
    assert!(abort.is_some_and(|abort| abort.abort_lsn > 0 && is_now(abort.abort_us)), "{abort:?}");
}

async fn a_savepoint_that_is_rolled_back_takes_its_rows_along(version: Version) {
    let database = Database::with(version, TABLE).await;
    let mut reader = Reader::start(&database, in_parts);
    database.execute("BEGIN").await;
    let top = database.xid().await;
    let message = "SELECT pg_logical_emit_message(true, 'p', 'in the savepoint');";
    let rows = [many_rows(1), "SAVEPOINT s;".into(), message.into(), many_rows(1001)].concat();
    database.execute(&format!("{rows} CHECKPOINT")).await;
    let is_row = |message: &Message<'_>| matches!(message, Message::Insert { .. });
    reader.until(|xid, message| is_row(message) && xid != Some(top));
    database.execute(&format!("ROLLBACK TO s; {} COMMIT", many_rows(3001))).await;
    reader.until(|_, message| matches!(message, Message::StreamCommit { .. }));

    let messages = decoded(&reader);
    let aborts = messages.iter().filter_map(|(_, message)| match message {
        Message::StreamAbort(abort) => Some(*abort),
        _ => None,
    });
    let [StreamAbort { xid, subxid: sub, abort: None }] = aborts.collect::<Vec<_>>()[..] else {
        panic!("not one abort");
    };
    assert!(xid == top && sub != top);
    let (gone, kept): (Vec<_>, Vec<_>) =
        inserted(&messages).into_iter().partition(|(xid, _)| *xid == Some(sub));
    assert!(!gone.is_empty() && gone.iter().all(|(_, id)| (1001..=2000).contains(id)));
    let kept: Vec<_> = kept.into_iter().map(|(_, id)| id).collect();
    assert_eq!(kept, (1..=1000).chain(3001..=4000).collect::<Vec<_>>());
    // A logical message comes with the whole transaction, wherever it was written.
    let message = messages.iter().find(|(_, message)| matches!(message, Message::Logical(_)));
    assert!(matches!(message, Some((xid, _)) if *xid == Some(top)), "{message:?}");
}

impl Database {
    /// An empty database as [`Database::with`], with a slot for two-phase commits.
    async fn with_two_phases(version: Version, sql: &str) -> Self {
        let database = Self::with(version, sql).await;
        let slot = "SELECT pg_drop_replication_slot($1), \
                    pg_create_logical_replication_slot($1, 'pgoutput', false, true)";
        database.client.execute(slot, &[&database.slot]).await.unwrap();
        database
    }
}

/// The transactions that were prepared, in their order.
fn prepared<'a>(messages: &[(Option<u32>, Message<'a>)]) -> Vec<Prepared<'a>> {
    let one = |(_, message): &(Option<u32>, Message<'a>)| match message {
        Message::Prepare(prepared) | Message::StreamPrepare(prepared) => Some(*prepared),
        _ => None,
    };
    messages.iter().filter_map(one).collect()
}

/// Prepares two transactions of those rows, commits one and rolls back the other.
async fn prepare_two(database: &Database, reader: &mut Reader, rows: &str) -> [u32; 2] {
    let mut xids = [0; 2];
    for (xid, end) in xids.iter_mut().zip(["COMMIT", "ROLLBACK"]) {
        let gid = gid(database, end);
        database.execute("BEGIN").await;
        *xid = database.xid().await;
        database.execute(&format!("{rows} PREPARE TRANSACTION '{gid}'")).await;
        // It must not outlive a test that fails: other tests' slots would wait for it.
        let received = reader.try_until(|_, message| {
            matches!(message, Message::Prepare(_) | Message::StreamPrepare(_))
        });
        database.execute(&format!("{end} PREPARED '{gid}'")).await;
        received.unwrap();
        database.execute("TRUNCATE t").await;
        reader.until(|_, message| {
            matches!(message, Message::CommitPrepared(_) | Message::RollbackPrepared(_))
        });
    }
    xids
}

/// Names are the server's, as slots are.
fn gid(database: &Database, end: &str) -> String {
    format!("{} to {end}, é", database.slot)
}

/// Checks what was said of the ends of what [`prepare_two`] prepared.
fn check_ends(database: &Database, xids: [u32; 2], messages: &[(Option<u32>, Message<'_>)]) {
    let [first, second] = prepared(messages)[..] else { panic!("{messages:?}") };
    let gids = ["COMMIT", "ROLLBACK"].map(|end| gid(database, end));
    assert_eq!(
        [(first.xid, first.gid), (second.xid, second.gid)],
        [(xids[0], &*gids[0]), (xids[1], &*gids[1])]
    );
    for Prepared { prepare_lsn, end_lsn, prepare_us, .. } in [first, second] {
        assert!(prepare_lsn < end_lsn && is_now(prepare_us));
    }
    let ends = messages.iter().filter_map(|(_, message)| match message {
        Message::CommitPrepared(committed) => Some(Ok(*committed)),
        Message::RollbackPrepared(rolled_back) => Some(Err(*rolled_back)),
        _ => None,
    });
    let [Ok(committed), Err(rolled_back)] = ends.collect::<Vec<_>>()[..] else {
        panic!("{messages:?}");
    };
    let CommitPrepared { commit_lsn, end_lsn, commit_us, xid, gid } = committed;
    assert_eq!((xid, gid), (first.xid, first.gid));
    assert!(first.end_lsn <= commit_lsn && commit_lsn < end_lsn && is_now(commit_us));
    let RollbackPrepared { rollback_end_lsn, rollback_us, .. } = rolled_back;
    assert_eq!(
        rolled_back,
        RollbackPrepared {
            prepare_end_lsn: second.end_lsn,
            prepare_us: second.prepare_us,
            xid: second.xid,
            gid: second.gid,
            ..rolled_back
        }
    );
    assert!(rollback_end_lsn > second.end_lsn && is_now(rollback_us));
}

async fn prepared_transactions_come_when_they_are_prepared(version: Version) {
    let database = Database::with_two_phases(version, TABLE).await;
    let mut reader = Reader::start(&database, in_two_phases);
    let xids = prepare_two(&database, &mut reader, "INSERT INTO t VALUES (1);").await;

    let messages = decoded(&reader);
    check_ends(&database, xids, &messages);
    let begun = messages.iter().filter_map(|(_, message)| match message {
        Message::BeginPrepare(prepared) => Some(*prepared),
        _ => None,
    });
    assert_eq!(begun.collect::<Vec<_>>(), prepared(&messages));
    assert_eq!(inserted(&messages), [(None, 1), (None, 1)]);
}

async fn large_prepared_transactions_come_in_parts(version: Version) {
    let database = Database::with_two_phases(version, TABLE).await;
    let mut reader = Reader::start(&database, |stream| {
        in_two_phases(stream);
        stream.streaming = Some("on");
    });
    let xids = prepare_two(&database, &mut reader, &many_rows(1)).await;

    let messages = decoded(&reader);
    check_ends(&database, xids, &messages);
    assert!(!messages.iter().any(|(_, message)| {
        matches!(
            message,
            Message::BeginPrepare(_) | Message::Prepare(_) | Message::StreamCommit { .. }
        )
    }));
    let rows = xids.map(|xid| (1..=1000).map(move |n| (Some(xid), n)));
    assert_eq!(inserted(&messages), rows.into_iter().flatten().collect::<Vec<_>>());
}

async fn truncations_list_their_tables(version: Version) {
    let tables = "CREATE TABLE a (id serial PRIMARY KEY); CREATE TABLE b (a int REFERENCES a); \
                  CREATE TABLE c (a int REFERENCES a); CREATE TABLE d ()";
    let database = Database::with(version, tables).await;
    database.execute("TRUNCATE a, b RESTART IDENTITY CASCADE").await;
    database.execute("TRUNCATE d").await;
    let mut reader = Reader::start(&database, |_| {});
    for _ in 0..2 {
        reader.until(|_, message| matches!(message, Message::Commit(_)));
    }

    let mut truncations = Vec::new();
    for (_, message) in decoded(&reader) {
        let Message::Truncate { relations, cascade, restart_identity } = message else { continue };
        truncations.push((relations.iter().collect(), cascade, restart_identity));
    }
    let oids = async |names: &[&str]| {
        let mut oids = Vec::new();
        for name in names {
            oids.push(database.oid("regclass", name).await);
        }
        oids
    };
    let expected = [(oids(&["a", "b", "c"]).await, true, true), (oids(&["d"]).await, false, false)];
    assert_eq!(truncations, expected);
}

async fn a_truncation_in_a_stream_block_has_its_transaction(version: Version) {
    let database = Database::with(version, TABLE).await;
    let mut reader = Reader::start(&database, in_parts);
    database.execute("BEGIN").await;
    let top = database.xid().await;
    database.execute(&format!("TRUNCATE t; {} COMMIT", many_rows(1))).await;
    reader.until(|_, message| matches!(message, Message::StreamCommit { .. }));
    let messages = decoded(&reader);
    let truncation = messages.iter().find(|(_, m)| matches!(m, Message::Truncate { .. }));
    let Some((Some(xid), Message::Truncate { relations, .. })) = truncation else {
        panic!("{truncation:?}");
    };
    assert_eq!((*xid, relations.iter().len()), (top, 1));
}

async fn logical_messages_come_in_their_transaction_or_at_once(version: Version) {
    let database = Database::with(version, TABLE).await;
    let emit = async |transactional: bool, content: &str| {
        let sql = "SELECT (pg_logical_emit_message($1, 'whom', $2) - '0/0')::bigint";
        let row = database.client.query_one(sql, &[&transactional, &content]).await.unwrap();
        row.get::<_, i64>(0).cast_unsigned()
    };
    database.execute("BEGIN; INSERT INTO t VALUES (1)").await;
    let (of_it, at_once) = (emit(true, "of it").await, emit(false, "at once").await);
    database.execute("COMMIT").await;
    let mut reader = Reader::start(&database, |_| {});
    reader.until(|_, message| matches!(message, Message::Commit(_)));

    let messages = decoded(&reader);
    let messages: Vec<_> = messages.into_iter().map(|(_, message)| message).collect();
    let logical = |transactional, lsn, content: &'static str| {
        let content = content.as_bytes();
        Message::Logical(LogicalMessage { transactional, lsn, prefix: "whom", content })
    };
    assert_eq!(messages[0], logical(false, at_once, "at once"));
    assert!(matches!(
        messages[1..4],
        [Message::Begin(_), Message::Relation(_), Message::Insert { .. }]
    ));
    assert_eq!(messages[4], logical(true, of_it, "of it"));
    assert!(matches!(messages[5..], [Message::Commit(_)]));
}

async fn types_are_named_before_their_table(version: Version) {
    let tables = "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE DOMAIN score AS int; \
                  CREATE TABLE t (feels mood, scores score)";
    let database = Database::with(version, tables).await;
    database.execute("INSERT INTO t VALUES ('ok', 7)").await;
    let mut reader = Reader::start(&database, |_| {});
    reader.until(|_, message| matches!(message, Message::Commit(_)));

    let messages = decoded(&reader);
    let (mood, score) =
        (database.oid("regtype", "mood").await, database.oid("regtype", "score").await);
    // A domain comes by its own OID and its base type's name, and pg_catalog as an empty name.
    assert_eq!(
        [&messages[1].1, &messages[2].1],
        [
            &Message::Type(Type { id: mood, namespace: "public", name: "mood" }),
            &Message::Type(Type { id: score, namespace: "", name: "int4" }),
        ]
    );
    let Message::Relation(relation) = &messages[3].1 else { panic!("{:?}", messages[3]) };
    let columns: Vec<_> = relation.columns.iter().map(|column| column.type_oid).collect();
    assert_eq!(columns, [mood, score]);
    let Message::Insert { new, .. } = &messages[4].1 else { panic!("{:?}", messages[4]) };
    let values: Vec<_> = new.values().map(Result::unwrap).collect();
    assert_eq!(values, [Value::Text(b"ok"), Value::Text(b"7")]);
}

async fn an_origin_is_named_behind_the_beginning(version: Version) {
    let database = Database::with(version, TABLE).await;
    // Origins are the server's, as slots are.
    let origin = format!("origin of {}", database.slot);
    let set_up = |rows: &str| {
        format!(
            "BEGIN; SELECT pg_replication_origin_xact_setup('A/BCD', '2020-02-02 00:00:00+00'); \
             {rows} COMMIT"
        )
    };
    database.execute(&format!("SELECT pg_replication_origin_create('{origin}')")).await;
    database.execute(&format!("SELECT pg_replication_origin_session_setup('{origin}')")).await;
    database.execute(&set_up("INSERT INTO t VALUES (0);")).await;
    database.execute(&set_up(&many_rows(1))).await;
    let mut reader = Reader::start(&database, in_parts);
    reader.until(|_, message| matches!(message, Message::StreamCommit { .. }));

    let messages = decoded(&reader);
    // The origin's time stands in for the server's.
    let there_us = 1_580_601_600_000_000;
    assert!(
        matches!(messages[0], (None, Message::Begin(Begin { commit_us, .. })) if commit_us == there_us)
    );
    let name = origin.as_str();
    assert_eq!(messages[1], (None, Message::Origin { lsn: 0xa_0000_0bcd, name }));
    let start =
        messages.iter().position(|(_, m)| matches!(m, Message::StreamStart { .. })).unwrap();
    let origins = messages
        .iter()
        .enumerate()
        .skip(2)
        .filter(|(_, (_, m))| matches!(m, Message::Origin { .. }));
    // In parts it comes once, before where it was committed is known, and of no transaction.
    assert_eq!(
        origins.collect::<Vec<_>>(),
        [(start + 1, &(None, Message::Origin { lsn: 0, name }))]
    );
    assert!(matches!(
        messages.last(),
        Some((None, Message::StreamCommit { commit, .. })) if commit.commit_us == there_us
    ));
}

async fn an_unchanged_large_key_comes_as_the_old_one(version: Version) {
    let table = "CREATE TABLE t (id bigint, k text, note text, large text, PRIMARY KEY (id, k)); \
                 ALTER TABLE t ALTER k SET STORAGE EXTERNAL, ALTER large SET STORAGE EXTERNAL";
    let database = Database::with(version, table).await;
    // A row beyond 2 KB goes out of line; the index takes 2704 bytes and compresses nothing of this.
    let key = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 80) n)";
    database.execute(&format!("INSERT INTO t VALUES (1, {key}, 'a')")).await;
    database.execute("UPDATE t SET note = 'b'").await;
    database.execute("UPDATE t SET large = repeat('x', 5000)").await;
    database.execute("UPDATE t SET id = 2").await;
    let mut reader = Reader::start(&database, |_| {});
    for _ in 0..4 {
        reader.until(|_, message| matches!(message, Message::Commit(_)));
    }

    let messages = decoded(&reader);
    let tables = messages.iter().find_map(|(_, message)| match message {
        Message::Relation(relation) => Some(Table::new(relation, None, POLICY)),
        _ => None,
    });
    let table = tables.unwrap();
    let updates = messages.iter().filter_map(|(_, message)| match message {
        Message::Update { old, new, .. } => Some((*old, *new)),
        _ => None,
    });
    let [noted, enlarged, moved] = updates.collect::<Vec<_>>()[..] else {
        panic!("{messages:?}");
    };
    for (old, new) in [noted, enlarged] {
        let Some(OldTuple::Key(old)) = old else { panic!("{old:?}") };
        let (old_values, new_values): (Vec<_>, Vec<_>) = (
            old.values().map(Result::unwrap).collect(),
            new.values().map(Result::unwrap).collect(),
        );
        assert!(
            matches!(old_values[..], [Value::Text(b"1"), Value::Text(k), Value::Null, Value::Null] if k.len() == 2_560)
        );
        assert_eq!(new_values[..2], [Value::Text(b"1"), Value::Unchanged]);
        assert!(!table.key_differs(old, new));
        let (mut from_old, mut alone) = (Vec::new(), Vec::new());
        table.encode(new, Some(old), RowKind::Present, 7, &mut from_old).unwrap();
        let Value::Text(k) = old_values[1] else { panic!("{old_values:?}") };
        assert!(from_old.windows(k.len()).any(|bytes| bytes == k));
        table.encode(new, None, RowKind::Present, 7, &mut alone).unwrap_err();
    }
    // What is not of the key is not in the old one.
    let (Some(OldTuple::Key(old)), new) = moved else { panic!("{moved:?}") };
    assert!(table.key_differs(old, new));
    let refused = table.encode(new, Some(old), RowKind::Present, 7, &mut Vec::new()).unwrap_err();
    assert!(refused.to_string().starts_with("public.t.large is a large value"), "{refused}");
}

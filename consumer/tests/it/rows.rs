//! Real rows through decoding and encoding, value by value.

use std::time::Duration;
use walbench_consumer::catalogue::Catalogue;

use walbench_consumer::pgoutput::{Message, OldTuple};
use walbench_consumer::replication::{Connection, Frame, Stream, frame};
use walbench_consumer::rowbinary::{Policy, RowKind, Table};
use walbench_phases::plan::{Arrays, OutOfRange};

use crate::cluster::Version;
use crate::database::{Database, PUBLICATION, on_every_server};

on_every_server![values_arrive_as_clickhouse_reads_them, nulls_deletions_and_versions_are_marked];

/// What a plan says of values if it says nothing.
pub(crate) const POLICY: Policy =
    Policy { out_of_range: OutOfRange::Refuse, arrays: Arrays::Array };

/// What the server knows of the published tables.
pub(crate) fn catalogue(database: &Database) -> Catalogue {
    let mut connection = Connection::open(&database.address, "test").unwrap();
    Catalogue::read(&mut connection, PUBLICATION).unwrap()
}

/// Streams what was written up to now, and hands over each message with its position. Nothing is
/// confirmed: the next stream has the same.
pub(crate) fn stream(
    database: &Database,
    binary: bool,
    until_commits: usize,
    mut take: impl FnMut(u64, Message<'_>),
) {
    let stream = Stream { binary, ..Stream::new(&database.slot, PUBLICATION) };
    let mut connection = loop {
        let mut connection = Connection::open(&database.address, "test").unwrap();
        match connection.start(&stream) {
            Ok(()) => break connection,
            // The stream before it may not have gone yet.
            Err(e) => assert!(e.is_slot_active(), "{e:?}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut commits = 0;
    while commits < until_commits {
        while let Some((tag, body)) = connection.input.next_message().unwrap() {
            assert_eq!(tag, b'd');
            if let Some(Frame::Data { lsn, body }) = frame(body) {
                let message = Message::decode(body).unwrap();
                commits += usize::from(matches!(message, Message::Commit(_)));
                take(lsn, message);
            }
        }
        if commits < until_commits {
            connection.input.fill(&mut connection.transport).unwrap();
        }
    }
    connection.terminate();
}

/// Bytes of a value without the mark of NULL, as ClickHouse's manual gives them.
fn string(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

async fn values_arrive_as_clickhouse_reads_them(version: Version) {
    let values: [(&str, &str, Vec<u8>); 20] = [
        ("bool", "true", vec![1]),
        ("smallint", "-2", (-2i16).to_le_bytes().to_vec()),
        ("int", "2147483647", i32::MAX.to_le_bytes().to_vec()),
        ("bigint", "-9223372036854775808", i64::MIN.to_le_bytes().to_vec()),
        ("oid", "4294967295", u32::MAX.to_le_bytes().to_vec()),
        ("real", "0.1", 0.1f32.to_le_bytes().to_vec()),
        ("float8", "'-Infinity'", f64::NEG_INFINITY.to_le_bytes().to_vec()),
        ("float8", "0.1", 0.1f64.to_le_bytes().to_vec()),
        ("numeric(12,2)", "-1234.5", (-123_450i64).to_le_bytes().to_vec()),
        ("numeric(30,4)", "1e20", (10i128.pow(24)).to_le_bytes().to_vec()),
        ("numeric", "1e20", string("100000000000000000000")),
        ("text", "'it''s'", string("it's")),
        ("varchar(9)", "''", string("")),
        ("bytea", "'\\x00ff'", vec![2, 0x00, 0xff]),
        ("date", "'1969-12-31'", (-1i32).to_le_bytes().to_vec()),
        ("timestamptz", "'1970-01-01 02:00:00.5+02'", 500_000i64.to_le_bytes().to_vec()),
        (
            "timestamp",
            "'2026-11-20 09:17:26.123456'",
            1_795_166_246_123_456i64.to_le_bytes().to_vec(),
        ),
        ("jsonb", "'{\"a\": [1, null]}'", string("{\"a\": [1, null]}")),
        ("int[]", "'{1,NULL}'", vec![2, 0, 1, 0, 0, 0, 1]),
        (
            "text[]",
            "ARRAY['a,b', NULL, '', '\"']",
            vec![4, 0, 3, b'a', b',', b'b', 1, 0, 0, 0, 1, b'"'],
        ),
    ];
    let columns: Vec<_> =
        values.iter().enumerate().map(|(n, (kind, ..))| format!("c{n} {kind} NOT NULL")).collect();
    let database =
        Database::with(version, &format!("CREATE TABLE t ({})", columns.join(", "))).await;
    let literals: Vec<_> = values.iter().map(|(_, literal, _)| *literal).collect();
    database.execute(&format!("INSERT INTO t VALUES ({})", literals.join(", "))).await;

    let (mut table, mut encoded) = (None, Vec::new());
    let catalogue = catalogue(&database);
    stream(&database, false, 1, |_, message| match message {
        Message::Relation(relation) => {
            table = Some(Table::new(&relation, catalogue.facts(relation.id), POLICY));
        }
        Message::Insert { new, .. } => {
            let table = table.as_ref().unwrap();
            table.encode(new, None, RowKind::Present, 7, &mut encoded).unwrap();
        }
        _ => {}
    });
    let mut rest = encoded.as_slice();
    for (kind, literal, expected) in &values {
        rest = rest
            .strip_prefix(expected.as_slice())
            .unwrap_or_else(|| panic!("{kind} {literal}: {expected:?} at the front of {rest:?}"));
    }
    assert_eq!(rest, [&7u64.to_le_bytes()[..], &[0]].concat(), "version and deletion mark");
}

async fn nulls_deletions_and_versions_are_marked(version: Version) {
    let database =
        Database::with(version, "CREATE TABLE t (id bigint PRIMARY KEY, note text)").await;
    database.execute("INSERT INTO t VALUES (1, NULL)").await;
    database.execute("UPDATE t SET id = 2, note = 'n' WHERE id = 1").await;
    database.execute("DELETE FROM t WHERE id = 2").await;

    let (mut table, mut rows, mut versions) = (None, Vec::new(), Vec::new());
    let catalogue = catalogue(&database);
    stream(&database, false, 3, |lsn, message| {
        let (tuple, kind) = match message {
            Message::Relation(relation) => {
                return table = Some(Table::new(&relation, catalogue.facts(relation.id), POLICY));
            }
            Message::Insert { new, .. } => (new, RowKind::Present),
            Message::Update { old: Some(OldTuple::Key(old)), new, .. } => {
                assert!(table.as_ref().unwrap().key_differs(old, new));
                (new, RowKind::Present)
            }
            Message::Delete { old: OldTuple::Key(old), .. } => (old, RowKind::Deleted),
            _ => return,
        };
        let mut row = Vec::new();
        table.as_ref().unwrap().encode(tuple, None, kind, lsn, &mut row).unwrap();
        versions.push(lsn);
        row.truncate(row.len() - 9);
        rows.push((row, kind));
    });
    let id = |n: i64| n.to_le_bytes().to_vec();
    assert_eq!(
        rows,
        [
            ([id(1), vec![1]].concat(), RowKind::Present),
            ([id(2), vec![0, 1, b'n']].concat(), RowKind::Present),
            ([id(2), vec![1]].concat(), RowKind::Deleted),
        ]
    );
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
}

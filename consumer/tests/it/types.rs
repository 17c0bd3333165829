//! Every type, value by value: written by a real server, sent as text and in binary form, encoded,
//! and read back by a reader that knows nothing of the codec.

use std::collections::HashMap;

use walbench_consumer::catalogue::Catalogue;
use walbench_consumer::pgoutput::{Message, OldTuple, Tuple};
use walbench_consumer::replication::Connection;
use walbench_consumer::rowbinary::{Column, EncodeError, Policy, RowKind, Table, Unencodable};
use walbench_phases::plan::{Arrays, OutOfRange};

use crate::cluster::Version;
use crate::database::{Database, PUBLICATION, on_every_server};
use crate::reader::Reader;
use crate::rows::{POLICY, catalogue, stream};
use crate::type_values::{Becomes, GROUPS, Kind, TYPES};

on_every_server![
    each_value_becomes_what_it_should,
    text_and_binary_streams_become_the_same_bytes,
    arrays_may_go_as_their_text,
    a_key_is_what_old_rows_come_by,
    keys_are_compared_whatever_else_an_old_row_has,
    a_catalogue_knows_roots_and_learns_of_new_tables,
    what_is_lost_on_the_way_is_said,
    refusals_say_what_to_do,
    the_readme_says_what_becomes_of_each_type,
];

const CLAMP: Policy = Policy { out_of_range: OutOfRange::Clamp, ..POLICY };
const TEXT_ARRAYS: Policy = Policy { arrays: Arrays::Text, ..POLICY };

/// A value of a type, and what becomes of it.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: &'static str,
    clickhouse: &'static str,
    literal: &'static str,
    becomes: Becomes,
}

/// A database with a table for each value that its server can hold: one row with the value and one
/// with NULL, and the values.
async fn database(version: Version) -> (Database, Vec<Case>) {
    let database = Database::with(version, TYPES).await;
    let mut cases = Vec::new();
    for (needs, group) in GROUPS {
        if database.client.batch_execute(needs).await.is_ok() {
            for Kind { kind, clickhouse, values } in group {
                cases.extend(values.iter().map(|&(literal, becomes)| Case {
                    kind,
                    clickhouse,
                    literal,
                    becomes,
                }));
            }
        }
    }
    // What the server is asked for later is told in the time zone of a stream.
    let mut sql = String::from("SET TIME ZONE 'UTC'; BEGIN;");
    for (n, Case { kind, literal, .. }) in cases.iter().enumerate() {
        let literal = literal.replace('\'', "''");
        sql += &format!(
            "CREATE TABLE t{n} (v {kind}); INSERT INTO t{n} VALUES ('{literal}'), (NULL);"
        );
    }
    database.execute(&(sql + "COMMIT")).await;
    (database, cases)
}

/// What became of a row: its bytes and how many values were clamped, or why it was refused.
type Encoded = Result<(Vec<u8>, u32), Unencodable>;

/// Each table, and its rows.
fn encoded(database: &Database, policy: Policy, binary: bool) -> Vec<(Table, Vec<Encoded>)> {
    let catalogue = catalogue(database);
    let (mut tables, mut places) = (Vec::new(), HashMap::new());
    stream(database, binary, 1, |_, message| match message {
        Message::Relation(relation) => {
            let facts = catalogue.facts(relation.id).unwrap();
            assert_eq!(facts.relation(), relation, "the catalogue describes it as the stream does");
            // A busy server describes a table more than once.
            places.entry(relation.id).or_insert_with(|| {
                tables.push((Table::new(&relation, Some(facts), policy), Vec::new()));
                tables.len() - 1
            });
        }
        Message::Insert { relation, new } => {
            let (table, rows) = &mut tables[places[&relation]];
            rows.push(encode(table, new));
        }
        _ => {}
    });
    tables
}

fn encode(table: &Table, row: Tuple<'_>) -> Encoded {
    let mut bytes = vec![7];
    match table.encode(row, None, RowKind::Present, 9, &mut bytes) {
        Ok(clamped) => Ok((bytes.split_off(1), clamped)),
        Err(EncodeError::Value { table: name, column, excerpt, source }) => {
            assert_eq!((name.as_str(), column.as_str()), (table.name.as_str(), "v"));
            assert!(!excerpt.is_empty());
            assert_eq!(bytes, [7], "a refused row leaves nothing behind");
            Err(source)
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// A row's only value, as the reader finds it.
fn read((bytes, clamped): &(Vec<u8>, u32), kind: &str) -> (String, u32) {
    let mut reader = Reader(bytes);
    let value = reader.value(kind);
    assert_eq!(reader.0, [9, 0, 0, 0, 0, 0, 0, 0, 0], "version and deletion mark behind {value}");
    (value, *clamped)
}

async fn each_value_becomes_what_it_should(version: Version) {
    let (database, cases) = database(version).await;
    for binary in [false, true] {
        let (refusing, clamping) =
            (encoded(&database, POLICY, binary), encoded(&database, CLAMP, binary));
        assert_eq!(refusing.len(), cases.len());
        for ((case, (table, rows)), (_, clamped)) in cases.iter().zip(refusing).zip(clamping) {
            let is_array = case.clickhouse.starts_with("Array");
            let kind = table.columns[0].clickhouse_type();
            let expected = case.clickhouse.to_owned();
            let expected = if is_array { expected } else { format!("Nullable({expected})") };
            assert_eq!(kind, expected, "{case:?}");
            if binary && !table.binary_unreadable().is_empty() {
                assert_eq!(rows[0], Err(Unencodable::BinaryForm), "{case:?}");
                continue;
            }
            let value = |row: &Encoded| row.as_ref().map(|row| read(row, &kind)).map_err(|e| *e);
            let plain = |text: &str| Ok((text.to_owned(), 0));
            let (refusing, clamping) = match case.becomes {
                Becomes::Value(text) => (plain(text), plain(text)),
                Becomes::Clamped(why, text) => (Err(why), Ok((text.to_owned(), 1))),
                Becomes::Refused(why) => (Err(why), Err(why)),
            };
            assert_eq!(value(&rows[0]), refusing, "binary: {binary}, {case:?}");
            assert_eq!(value(&clamped[0]), clamping, "binary: {binary}, {case:?}");
            let null = if is_array { "[]" } else { "NULL" };
            assert_eq!(value(&rows[1]), plain(null), "{case:?}");
        }
    }
}

async fn text_and_binary_streams_become_the_same_bytes(version: Version) {
    let (database, cases) = database(version).await;
    let mut unread = Vec::new();
    for policy in [POLICY, CLAMP, TEXT_ARRAYS] {
        let (text, binary) = (encoded(&database, policy, false), encoded(&database, policy, true));
        for ((case, (table, text)), (_, binary)) in cases.iter().zip(text).zip(binary) {
            if table.binary_unreadable().is_empty() {
                assert_eq!(text, binary, "{case:?}");
            } else if policy == POLICY {
                unread.push(case.kind);
            }
        }
    }
    unread.dedup();
    // What is not read is known here, so that a type can't fall out of it unseen.
    unread.retain(|kind| !kind.starts_with("hstore"));
    assert_eq!(
        unread,
        [
            "money",
            "tid",
            "regclass",
            "regtype",
            "regprocedure",
            "tsvector",
            "tsquery",
            "point",
            "line",
            "lseg",
            "box",
            "path",
            "polygon",
            "circle",
            "int2vector",
            "int4range",
            "tstzrange",
            "int4multirange",
            "span",
            "pair",
            "spanned",
            "ints[]",
            "money[]",
            "pair[]",
            "int4range[]",
            "point[]",
            "box[]",
        ]
    );
}

async fn arrays_may_go_as_their_text(version: Version) {
    let (database, cases) = database(version).await;
    let tables = encoded(&database, TEXT_ARRAYS, false);
    for (n, (case, (table, rows))) in cases.iter().zip(tables).enumerate() {
        if !case.clickhouse.starts_with("Array") {
            continue;
        }
        let sql = format!("SELECT v::text FROM t{n} WHERE v IS NOT NULL");
        let text: String = database.client.query_one(&sql, &[]).await.unwrap().get(0);
        let kind = table.columns[0].clickhouse_type();
        assert_eq!(kind, "Nullable(String)", "{case:?}");
        let value = |row: &Encoded| read(row.as_ref().unwrap(), &kind).0;
        assert_eq!((value(&rows[0]), value(&rows[1])), (text, "NULL".into()), "{case:?}");
    }
}

/// A table's key and columns that may be NULL, as `a b / c d`; `-` for none.
fn keys_and_nulls(table: &Table) -> String {
    let names = |chosen: &dyn Fn(&Column) -> bool| {
        let columns = table.columns.iter().filter(|column| chosen(column));
        let names: Vec<_> = columns.map(|column| column.name.as_str()).collect();
        if names.is_empty() { "-".to_owned() } else { names.join(" ") }
    };
    assert_eq!(table.has_key(), names(&|column| column.key) != "-");
    format!("{} / {}", names(&|column| column.key), names(&|column| column.nullable))
}

async fn a_key_is_what_old_rows_come_by(version: Version) {
    let tables = [
        ("a_default", "a int, b int NOT NULL, c int, PRIMARY KEY (b, a)", "", "a b / c"),
        ("an_include", "a int, b int, PRIMARY KEY (a) INCLUDE (b)", "", "a / b"),
        ("no_key", "a int, b int NOT NULL", "", "- / a"),
        ("a_unique", "a int PRIMARY KEY, b int NOT NULL UNIQUE, c int", "", "a / c"),
        ("an_index", "a int PRIMARY KEY, b int NOT NULL UNIQUE, c int", "an_index_b_key", "b / c"),
        ("full_key", "a int PRIMARY KEY, b int", "FULL", "a / b"),
        ("full_no_key", "a int, b int NOT NULL", "FULL", "- / a"),
        ("nothing", "a int PRIMARY KEY, b int", "NOTHING", "a / b"),
        ("deferred", "a int PRIMARY KEY DEFERRABLE, b int", "", "a / b"),
        ("full_deferred", "a int PRIMARY KEY DEFERRABLE, b int", "FULL", "- / b"),
        ("part_of", "a int NOT NULL, b int GENERATED ALWAYS AS (a + 1) STORED", "", "- / -"),
    ];
    let mut sql = String::new();
    for (name, columns, identity, _) in tables {
        sql += &format!("CREATE TABLE {name} ({columns});");
        let identity = if identity.contains('_') {
            format!("USING INDEX {identity}")
        } else {
            identity.to_owned()
        };
        if !identity.is_empty() {
            sql += &format!("ALTER TABLE {name} REPLICA IDENTITY {identity};");
        }
    }
    sql += "ALTER TABLE part_of ADD PRIMARY KEY (a, b)";
    let database = Database::with(version, &sql).await;
    let inserts = tables.map(|(name, ..)| format!("INSERT INTO {name} VALUES (1);"));
    let inserts = inserts.concat().replace("no_key VALUES (1)", "no_key VALUES (1, 2)");
    let inserts = inserts.replace("a_default VALUES (1)", "a_default VALUES (1, 2)");
    let inserts = inserts.replace("a_unique VALUES (1)", "a_unique VALUES (1, 2)");
    let inserts = inserts.replace("an_index VALUES (1)", "an_index VALUES (1, 2)");
    database.execute(&format!("BEGIN; {inserts} COMMIT")).await;

    let catalogue = catalogue(&database);
    let (mut streamed, mut without_facts) = (Vec::new(), Vec::new());
    stream(&database, false, 1, |_, message| {
        if let Message::Relation(relation) = message {
            let facts = catalogue.facts(relation.id).unwrap();
            assert_eq!(facts.relation().columns.len(), relation.columns.len());
            let table = Table::new(&relation, Some(facts), POLICY);
            if !streamed.contains(&table) {
                streamed.push(table);
                without_facts.push(keys_and_nulls(&Table::new(&relation, None, POLICY)));
            }
        }
    });
    for ((name, .., expected), table) in tables.iter().zip(&streamed) {
        assert_eq!(keys_and_nulls(table), *expected, "{name}");
    }
    assert_eq!(without_facts[4], "b / a c", "flags of the stream are all there is");
    assert_eq!(without_facts[5], "- / a b", "under FULL they say nothing");
    streamed.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(catalogue.tables(POLICY), streamed);
}

async fn keys_are_compared_whatever_else_an_old_row_has(version: Version) {
    let database = Database::with(
        version,
        "CREATE TABLE keyed (a int PRIMARY KEY, b text, c int NOT NULL);
         CREATE TABLE indexed (a int PRIMARY KEY, b text, c int NOT NULL UNIQUE);
         ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_c_key;
         CREATE TABLE whole (a int PRIMARY KEY, b text, c int NOT NULL);
         ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE keyless (a int, b text, c int NOT NULL);
         ALTER TABLE keyless REPLICA IDENTITY FULL",
    )
    .await;
    for table in ["keyed", "indexed", "whole", "keyless"] {
        database
            .execute(&format!(
                "BEGIN; INSERT INTO {table} VALUES (1, 'x', 10);
                 UPDATE {table} SET b = NULL; UPDATE {table} SET a = 2; UPDATE {table} SET c = 11;
                 COMMIT"
            ))
            .await;
    }
    let catalogue = catalogue(&database);
    for binary in [false, true] {
        let (mut tables, mut differs) = (HashMap::new(), Vec::new());
        stream(&database, binary, 4, |_, message| match message {
            Message::Relation(relation) => {
                let table = Table::new(&relation, catalogue.facts(relation.id), POLICY);
                tables.insert(relation.id, table);
            }
            Message::Update { relation, old, new } => {
                let table = &tables[&relation];
                differs.push(old.map(|old| {
                    let (OldTuple::Key(old) | OldTuple::Full(old)) = old;
                    // What was can be written: with defaults for what is not known of it.
                    table.encode(old, None, RowKind::Deleted, 1, &mut Vec::new()).unwrap();
                    table.key_differs(old, new)
                }));
            }
            _ => {}
        });
        let (same, other) = (Some(false), Some(true));
        let expected = [
            [None, other, None],
            [None, None, other],
            [same, other, same],
            // Without a key there is nothing that could differ.
            [same, same, same],
        ];
        assert_eq!(differs, expected.concat(), "binary: {binary}");
    }
}

async fn a_catalogue_knows_roots_and_learns_of_new_tables(version: Version) {
    let database = Database::new(version).await;
    database
        .execute(
            "CREATE TYPE mood AS ENUM ('sad');
             CREATE TABLE root (a int, m mood[], PRIMARY KEY (a)) PARTITION BY RANGE (a);
             CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);
             CREATE PUBLICATION \"it's \"\"all\"\"\" FOR ALL TABLES
                 WITH (publish_via_partition_root = true)",
        )
        .await;
    let mut connection = Connection::open(&database.address, "test").unwrap();
    let mut catalogue = Catalogue::read(&mut connection, PUBLICATION).unwrap();
    let shapes = |catalogue: &Catalogue| -> Vec<String> {
        let tables = catalogue.tables(POLICY);
        let types =
            tables.iter().flat_map(|table| table.columns.iter().map(Column::clickhouse_type));
        types.collect()
    };
    assert_eq!(shapes(&catalogue), ["Int32", "Array(Nullable(String))"]);
    assert!(catalogue.tables(POLICY).iter().all(|table| table.binary_unreadable().is_empty()));

    let publication = PUBLICATION.replace('"', "\"\"");
    database
        .execute(&format!(
            "ALTER PUBLICATION \"{publication}\" SET (publish_via_partition_root = false);
             CREATE TABLE other (a date, privileges aclitem[], one aclitem)"
        ))
        .await;
    catalogue = Catalogue::read(&mut connection, PUBLICATION).unwrap();
    let tables = catalogue.tables(POLICY);
    let names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["public.leaf", "public.other"]);
    // PostgreSQL has no binary form of aclitem: one goes as text, an array makes it fail.
    assert_eq!(tables[1].binary_unreadable(), ["public.other.privileges (aclitem[])"]);
}

async fn what_is_lost_on_the_way_is_said(version: Version) {
    let database = Database::with(
        version,
        "CREATE TABLE a (id bigint PRIMARY KEY, name text, n numeric(12,2), at timestamptz, j jsonb,
                         tags text[] NOT NULL);
         CREATE TABLE b (i interval, n numeric, p point[], ns int[])",
    )
    .await;
    let catalogue = catalogue(&database);
    let notes = |policy| -> Vec<_> { catalogue.tables(policy).iter().map(Table::notes).collect() };
    let lost = "public.b: as text: i (interval), n (numeric of no or more than 38 digits)";
    assert_eq!(
        notes(POLICY),
        [
            None,
            Some(format!(
                "{lost}, p (point[]); a NULL array becomes an empty one: p, ns; \
                 no key: rows are only appended"
            ))
        ]
    );
    assert_eq!(notes(TEXT_ARRAYS)[1], Some(format!("{lost}; no key: rows are only appended")));
}

async fn refusals_say_what_to_do(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, d date, a int[], n numeric(5,2) NOT NULL)";
    let database = Database::with(version, sql).await;
    for row in ["1, 'infinity', NULL, 1", "2, NULL, '{{1}}', 1", "3, NULL, NULL, 'NaN'"] {
        database.execute(&format!("INSERT INTO t VALUES ({row})")).await;
    }
    let catalogue = catalogue(&database);
    let errors = |policy| {
        let (mut table, mut errors) = (None, Vec::new());
        stream(&database, false, 3, |_, message| match message {
            Message::Relation(relation) => {
                table = Some(Table::new(&relation, catalogue.facts(relation.id), policy));
            }
            Message::Insert { new, .. } => {
                let table: &Table = table.as_ref().unwrap();
                let encoded = table.encode(new, None, RowKind::Present, 1, &mut Vec::new());
                errors.push(encoded.map_err(|e| (e.to_string(), e.hint().unwrap_or_default())));
            }
            _ => {}
        });
        errors
    };
    let refused = errors(POLICY);
    for (error, (says, hints)) in refused.iter().zip([
        ("public.t.d holds \"infinity\"", "consumer.out_of_range = \"clamp\""),
        ("public.t.a holds \"{{1}}\"", "consumer.arrays = \"text\""),
        ("public.t.n holds \"NaN\"", "consumer.out_of_range = \"clamp\""),
    ]) {
        let (text, hint) = error.as_ref().unwrap_err();
        assert!(text.contains(says) && hint.contains(hints), "{text}\n{hint}");
    }
    assert_eq!(errors(CLAMP)[0], Ok(1));
    assert_eq!(errors(CLAMP)[2], refused[2], "no NULL may stand for it");
    assert_eq!(errors(TEXT_ARRAYS)[1], Ok(0));
}

const README: &str = include_str!("../../../README.md");

/// What the README calls a kind of types, by one of its kind.
fn concrete(name: &str) -> String {
    match name {
        "enum" => "mood".into(),
        "composite" => "pair".into(),
        "T[]" => "int[]".into(),
        other => other.replace("(p,s)", "(12,2)"),
    }
}

/// The README's rows: types, type in ClickHouse, and whether the binary form is read.
fn readme_rows() -> Vec<(Vec<String>, String, bool)> {
    let (_, section) = README.split_once("### Types\n").expect("the README has types");
    let (section, _) = section.split_once("\n## ").expect("the section ends");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|line| {
        let cells: Vec<_> = line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        let quoted = |cell: &str| -> Vec<String> {
            cell.split(", `").map(|name| name.trim_matches('`').to_owned()).collect()
        };
        let clickhouse = cells[1].trim_matches('`').replace("(p, s)", "(12, 2)");
        (quoted(cells[0]), clickhouse.replace("(T)", "(Int32)"), cells[2] == "yes")
    });
    rows.collect()
}

async fn the_readme_says_what_becomes_of_each_type(version: Version) {
    let database = Database::with(version, TYPES).await;
    let mut named = Vec::new();
    for (names, clickhouse, binary) in readme_rows() {
        for name in names {
            // What a server lacks is left out, as it is in the other tests.
            let extension =
                database.client.batch_execute(&format!("CREATE EXTENSION {name}")).await;
            let kind = concrete(&name);
            let sql = format!("CREATE TABLE readme (v {kind})");
            if database.client.batch_execute(&sql).await.is_err() {
                assert!(
                    ["hstore", "citext"].contains(&name.as_str()) && extension.is_err(),
                    "{name}"
                );
                continue;
            }
            let table = catalogue(&database).tables(POLICY).remove(0);
            let (codec, reads_binary) =
                (table.columns[0].codec.to_string(), table.binary_unreadable().is_empty());
            assert_eq!((codec, reads_binary), (clickhouse.clone(), binary), "{name}");
            database.execute("DROP TABLE readme").await;
            named.push(name);
        }
    }
    // Each type whose values are tested is named, but for those that the tests make.
    let is_made = |kind: &str| TYPES.contains(&format!(" {kind} AS "));
    for (_, group) in GROUPS {
        for Kind { kind, .. } in group.iter().filter(|kind| !kind.kind.ends_with(']')) {
            let plain = kind.split_once('(').map_or(*kind, |(plain, _)| plain);
            let is_named = named.iter().any(|name| name == plain || name == kind);
            assert!(is_named || is_made(kind), "the README lacks {kind}");
        }
    }
}

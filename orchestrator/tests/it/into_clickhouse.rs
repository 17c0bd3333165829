//! `walbench follow` into real ClickHouses, of 2018 and of today: whatever happens to the tables, what
//! is there at the end is what PostgreSQL has.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;
use walbench_producer::workload::builtin_ddl;

use crate::changes::{
    CHANGES, CHANGING, EMPTIED, ODD_ROWS, ODD_TABLES, ROWS, TABLES, TOAST, TOASTED_ROWS, TRUNCATED,
    TRUNCATING,
};
use crate::clickhouse::{Kind, Private};
use crate::cluster::{Cluster, Version};
use crate::database::{Database, PUBLICATION};
use crate::followed::Followed;
use crate::home::{Ended, Running};
use crate::kills;
use crate::stored::Stored;
use crate::type_values::{Becomes, GROUPS, TYPES};

/// Makes two tests of each function that takes a [`Kind`]: `embedded::…` and `debian::…`.
macro_rules! on_both_kinds {
    ($($test:ident),+ $(,)?) => {
        $crate::into_clickhouse::on_both_kinds! { @tests embedded Embedded $($test)+ }
        $crate::into_clickhouse::on_both_kinds! { @tests debian Debian $($test)+ }
    };
    (@tests $module:ident $kind:ident $($test:ident)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::clickhouse::Kind::$kind).await;
                }
            )+
        }
    };
}
pub(crate) use on_both_kinds;

on_both_kinds![
    rows_that_come_change_and_go,
    each_value_becomes_what_it_should,
    builtin_tables,
    tables_that_change_while_they_are_followed,
    tables_that_changed_before_they_are_followed,
    rows_of_a_narrower_table_are_converted,
    unchanged_toast_is_kept_under_full,
    truncations,
    tables_without_a_key_are_logs,
    odd_names,
    an_initial_copy_comes_first,
    kills_at_any_moment,
    what_would_be_wrong_is_refused,
    tables_of_others_are_left_alone,
    who_may_not_write_is_told_so,
    rows_that_are_not_taken,
];

/// Each engine follows another PostgreSQL.
pub(crate) fn postgres(kind: Kind) -> Version {
    match kind {
        Kind::Embedded => Version::Pg18,
        Kind::Debian => Version::Pg15OrInstalled,
    }
}

/// What the statements make, followed into a ClickHouse of the test's own.
async fn follow(kind: Kind, sql: &str) -> (Followed, Private) {
    let server = Private::start(kind);
    let followed = Followed::new(postgres(kind), sql).await;
    (followed.into_clickhouse(Stored::of(&server)), server)
}

fn interrupted(running: Running) {
    running.signal(Signal::SIGINT);
    running.ended().with_code(0);
}

async fn rows_that_come_change_and_go(kind: Kind) {
    let (followed, server) = follow(kind, TABLES).await;
    followed.execute(ROWS).await;
    followed.assert_same(&["t", "pair"]).await;
    // And again, beside what is there.
    followed.execute("UPDATE t SET id = -id; DELETE FROM pair WHERE c % 2 = 0").await;
    followed.assert_same(&["t", "pair"]).await;
    server.end();
}

async fn each_value_becomes_what_it_should(kind: Kind) {
    let (followed, server) = follow(kind, TYPES).await;
    let followed = followed.set("consumer.out_of_range", "clamp");
    let (mut sql, mut expected) = (String::from("SET TIME ZONE 'UTC'; BEGIN;"), Vec::new());
    for (needs, group) in GROUPS {
        if followed.database.client.batch_execute(needs).await.is_err() {
            continue;
        }
        for (kind, (literal, becomes)) in
            group.iter().flat_map(|kind| kind.values.iter().map(move |value| (kind, value)))
        {
            let (Becomes::Value(value) | Becomes::Clamped(_, value)) = becomes else { continue };
            let (n, literal) = (expected.len(), literal.replace('\'', "''"));
            sql += &format!(
                "CREATE TABLE t{n} (id int PRIMARY KEY, v {});
                 INSERT INTO t{n} VALUES (1, '{literal}'), (2, NULL);",
                kind.kind
            );
            expected.push((kind, *value));
        }
    }
    followed.execute(&(sql + "COMMIT")).await;
    followed.drain().await;
    for (n, (kind, value)) in expected.iter().enumerate() {
        let state = followed.stored().state(&format!("t{n}"), &["id".into()]);
        let null = if kind.clickhouse.starts_with("Array") { "[]" } else { "NULL" };
        let values: Vec<_> = state.values().map(|row| row["v"].as_str()).collect();
        assert_eq!(values, [*value, null], "t{n} {}", kind.kind);
    }
    assert!(expected.len() > 150, "{}", expected.len());
    server.end();
}

async fn builtin_tables(kind: Kind) {
    let names = ["task_run", "event"];
    let ddl = names.map(|name| builtin_ddl(name).unwrap()).join(";");
    let (followed, server) = follow(kind, &ddl).await;
    for name in names {
        followed.execute(&fill(&followed, name).await).await;
    }
    followed
        .execute(
            "UPDATE task_run SET attempt_number = 9, payload = repeat('p', 5000) WHERE id LIKE '%7';
             DELETE FROM task_run WHERE id LIKE '%3';
             DELETE FROM event WHERE id % 10 = 0",
        )
        .await;
    followed.assert_same(&names).await;
    server.end();
}

/// An INSERT of 500 rows that differ, whatever the columns are.
async fn fill(followed: &Followed, table: &str) -> String {
    let sql = "SELECT quote_ident(attname)::text, format_type(atttypid, atttypmod), typtype = 'e'
               FROM pg_attribute JOIN pg_type t ON t.oid = atttypid WHERE attrelid = $1::text::regclass AND attnum > 0
               AND attgenerated = '' ORDER BY attnum";
    let columns = followed.database.client.query(sql, &[&table]).await.unwrap();
    let value = |kind: &str, is_enum: bool| match kind {
        kind if is_enum => {
            let all = format!("enum_range(NULL::{kind})");
            format!("({all})[1 + n % array_length({all}, 1)]")
        }
        "bigint" | "integer" | "smallint" => "n".to_owned(),
        "boolean" => "n % 2 = 0".into(),
        "double precision" | "real" => "n / 8.0 + 0.0625".into(),
        "timestamp with time zone"
        | "timestamp without time zone"
        | "timestamp(3) without time zone" => {
            "timestamp '2026-01-01' + n * interval '1.001 s'".into()
        }
        "jsonb" | "json" => format!("jsonb_build_object('n', n)::{kind}"),
        "uuid" => "md5(n::text)::uuid".into(),
        kind if kind.ends_with("[]") => format!("ARRAY[n::text, NULL]::{kind}"),
        kind if kind.starts_with("numeric") => "n / 8.0".into(),
        kind => format!("('v' || n)::{kind}"),
    };
    let names: Vec<String> = columns.iter().map(|row| row.get(0)).collect();
    let values: Vec<_> = columns.iter().map(|row| value(row.get(1), row.get(2))).collect();
    format!(
        "INSERT INTO {table} ({}) SELECT {} FROM generate_series(1, 500) n",
        names.join(", "),
        values.join(", ")
    )
}

async fn assert_changed_tables(followed: &Followed) {
    followed.drain().await;
    // All of its rows were written again after it was renamed.
    followed.table("u").stored_as(&["public.u"]).assert_same().await;
    followed.table("fresh").assert_same().await;
}

async fn tables_that_change_while_they_are_followed(kind: Kind) {
    let (followed, server) = follow(kind, CHANGING).await;
    let running = followed.start_when_free().await;
    for sql in CHANGES {
        followed.execute(sql).await;
        followed.until_confirmed().await;
    }
    interrupted(running);
    assert_changed_tables(&followed).await;
    server.end();
}

/// The catalogue is ahead of the stream then.
async fn tables_that_changed_before_they_are_followed(kind: Kind) {
    let (followed, server) = follow(kind, CHANGING).await;
    for sql in CHANGES {
        followed.execute(sql).await;
    }
    assert_changed_tables(&followed).await;
    server.end();
}

/// The destination is wider than a table that comes to it, because it was wider before.
async fn rows_of_a_narrower_table_are_converted(kind: Kind) {
    let wide =
        "CREATE TABLE t (id int PRIMARY KEY, n bigint, r float8, p numeric(20, 4), a bigint[],
                                s text, u text, o int)";
    let narrow = "DROP TABLE t;
                  CREATE TABLE t (id int PRIMARY KEY, n smallint NOT NULL, r real, p numeric(6, 2),
                                  a int[], s int NOT NULL, u uuid, o int NOT NULL)";
    let (followed, server) = follow(kind, wide).await;
    followed
        .execute("INSERT INTO t VALUES (1, 5000000000, 0.1, 1.2345, '{1,NULL}', 'x', 'y', NULL)")
        .await;
    followed.assert_same(&["t"]).await;
    followed.execute(narrow).await;
    followed
        .execute(
            "INSERT INTO t VALUES
                 (1, -5, 0.5, -1.25, '{7,NULL}', 42, '00112233-4455-6677-8899-aabbccddeeff', 1),
                 (2, 6, NULL, NULL, NULL, -1, NULL, 2)",
        )
        .await;
    followed.drain().await;
    let state = followed.stored().state("t", &["id".into()]);
    let row = |id: &str| {
        let row = &state[&vec![id.to_owned()]];
        ["n", "r", "p", "a", "s", "u", "o"].map(|column| row[column].as_str())
    };
    let uuid = "00112233-4455-6677-8899-aabbccddeeff";
    assert_eq!(row("1"), ["-5", "0.5", "-1.2500", "[7, NULL]", "42", uuid, "1"]);
    assert_eq!(row("2"), ["6", "NULL", "NULL", "[]", "-1", "NULL", "2"]);
    server.end();
}

async fn unchanged_toast_is_kept_under_full(kind: Kind) {
    let (followed, server) = follow(kind, TOAST).await;
    followed.execute("ALTER TABLE t REPLICA IDENTITY FULL").await;
    followed.execute(TOASTED_ROWS).await;
    followed.execute("UPDATE t SET n = -n; UPDATE t SET id = id + 10 WHERE id > 3").await;
    followed.execute("UPDATE t SET big = 'new' WHERE id = 1; DELETE FROM t WHERE id = 2").await;
    followed.assert_same(&["t"]).await;
    server.end();
}

async fn truncations(kind: Kind) {
    let (followed, server) = follow(kind, EMPTIED).await;
    // Batches of few rows: many are under way when a table is emptied.
    let followed = followed.set("consumer.flush_batch_size", "3");
    for sql in TRUNCATING {
        followed.execute(sql).await;
        followed.assert_same(&TRUNCATED).await;
    }
    server.end();
}

async fn tables_without_a_key_are_logs(kind: Kind) {
    let sql = "CREATE TABLE t (n int, note text); CREATE TABLE whole (n int, note text);
               ALTER TABLE whole REPLICA IDENTITY FULL";
    let (followed, server) = follow(kind, sql).await;
    followed
        .execute(
            "INSERT INTO t VALUES (1, 'a'), (1, 'a'), (2, NULL);
             INSERT INTO whole VALUES (1, 'a'), (1, 'a'), (2, NULL);
             UPDATE whole SET note = 'b' WHERE n = 2; DELETE FROM whole WHERE n = 2",
        )
        .await;
    followed.drain().await;
    let log = |table: &str| {
        let rows = followed.stored().log(table);
        let mut lines: Vec<_> =
            rows.iter().map(|row| format!("{} {}", row["n"], row["note"])).collect();
        lines.sort();
        lines
    };
    assert_eq!(log("t"), ["1 a", "1 a", "2 NULL"]);
    assert_eq!(log("whole"), ["1 a", "1 a", "2 NULL", "2 b", "2 b"]);
    followed.execute("TRUNCATE t, whole; INSERT INTO t VALUES (4, 'd')").await;
    followed.drain().await;
    assert_eq!((log("t"), log("whole")), (vec!["4 d".into()], vec![]));
    server.end();
}

async fn odd_names(kind: Kind) {
    let (followed, server) = follow(kind, ODD_TABLES).await;
    followed.execute(ODD_ROWS).await;
    let assert_same = async || {
        followed.drain().await;
        let slash = followed.table(r#""Od/d. schéma"""."T a/b""#);
        slash.stored_as(&[r#"Od/d. schéma".T a/b"#]).assert_same().await;
        let underscore = followed.table(r#""Od/d. schéma"""."T a_b""#);
        underscore.stored_as(&[r#"Od/d. schéma".T a_b"#]).assert_same().await;
        followed.table("\"%\"").stored_as(&["public.%"]).assert_same().await;
    };
    assert_same().await;
    // Each is emptied for itself.
    followed.execute(r#"TRUNCATE "Od/d. schéma"""."T a/b""#).await;
    assert_same().await;
    server.end();
}

async fn an_initial_copy_comes_first(kind: Kind) {
    let server = Private::start(kind);
    let sql = "CREATE TABLE t (id int PRIMARY KEY, note text); CREATE TABLE log (n int);
               INSERT INTO t SELECT n, 'n' || n FROM generate_series(1, 20000) n;
               INSERT INTO log SELECT generate_series(1, 5000);
               CREATE PUBLICATION p FOR ALL TABLES";
    let followed = Followed::without_slot(postgres(kind), sql).await;
    let followed = followed.into_clickhouse(Stored::of(&server));
    let running = followed.follow().args(["--create-slot", "--initial-copy"]).start();
    followed.until_followed().await;
    followed
        .execute("UPDATE t SET note = NULL WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0")
        .await;
    followed.execute("INSERT INTO log VALUES (-1)").await;
    followed.until_confirmed().await;
    interrupted(running);
    followed.assert_same(&["t"]).await;
    assert_eq!(followed.stored().log("log").len(), 5_001);
    server.end();
}

async fn kills_at_any_moment(kind: Kind) {
    let (cluster, server) = (Cluster::start_version(postgres(kind)), Private::start(kind));
    let followed = Followed::in_database(Database::on(&cluster).await, kills::SCHEMA).await;
    let followed = followed.into_clickhouse(Stored::of(&server));
    let followed = followed.set("consumer.flush_batch_size", "50");
    let followed = followed.set("consumer.flush_interval_ms", "20");
    kills::make_slot(&followed).await;
    let writer = kills::Writer::start(followed.database.address.clone(), false);
    kills::kill_again_and_again(&followed, kills::kills() / 4).await;
    writer.stop().await;
    followed.until_free().await;
    followed.assert_same(&kills::TABLES).await;
    server.end();
}

/// Follows to where the WAL ends now, in vain.
async fn refused(followed: &Followed, code: i32) -> Ended {
    followed.until_free().await;
    followed.follow().args(["--until-lsn", "current"]).ended().with_code(code)
}

async fn what_would_be_wrong_is_refused(kind: Kind) {
    let sql = "CREATE TABLE wide (id int PRIMARY KEY, n int);
               CREATE TABLE moved (id int PRIMARY KEY, code text NOT NULL);
               CREATE TABLE marked (id int PRIMARY KEY, _version int);
               CREATE TABLE dated (id int PRIMARY KEY, d date)";
    let rows = "INSERT INTO wide VALUES (1, 1); INSERT INTO moved VALUES (1, 'a');
                INSERT INTO dated VALUES (1, '2026-11-20')";
    for (changed, said) in [
        (
            "ALTER TABLE wide ALTER id TYPE bigint; INSERT INTO wide VALUES (5000000000, 2)",
            "id is Int32, and must be Int64: ClickHouse can't change columns of a key",
        ),
        (
            "ALTER TABLE moved DROP CONSTRAINT moved_pkey, ADD PRIMARY KEY (code); INSERT INTO moved VALUES (2, 'b')",
            "it has the key (id), and the rows have the key (code)",
        ),
        (
            "ALTER TABLE moved DROP CONSTRAINT moved_pkey; INSERT INTO moved VALUES (2, 'b')",
            "it has the key (id), and the rows have no key",
        ),
        ("INSERT INTO marked VALUES (1, 1)", "public.marked has a column _version"),
    ] {
        let (followed, server) = follow(kind, sql).await;
        followed.execute(rows).await;
        followed.drain().await;
        followed.execute(changed).await;
        let ended = refused(&followed, 4).await;
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
        server.end();
    }
    // Days would become microseconds, where both are numbers.
    let (followed, server) = follow(kind, sql).await;
    followed.execute(rows).await;
    followed.drain().await;
    let changed =
        "ALTER TABLE dated ALTER d TYPE timestamp; INSERT INTO dated VALUES (2, '2026-11-20')";
    followed.execute(changed).await;
    if kind == Kind::Debian {
        refused(&followed, 4).await.said("which are both numbers in ClickHouse 18.16");
    } else {
        followed.assert_same(&["dated"]).await;
    }
    server.end();
}

async fn tables_of_others_are_left_alone(kind: Kind) {
    let marks = "_version UInt64, _is_deleted UInt8";
    let (followed, server) = follow(kind, "CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    followed.execute("INSERT INTO t VALUES (1, 1)").await;
    let stored = followed.stored();
    stored.ask("CREATE DATABASE walbench");
    for (theirs, said) in [
        (
            "(id Int32, n Int32) ENGINE = MergeTree() ORDER BY id".to_owned(),
            "is none of walbench's: it is MergeTree, with no column _version",
        ),
        (format!("(id Int32, n Int32, {marks}) ENGINE = Log"), "is none of walbench's: it is Log"),
        (
            format!("(id Int32, n Int32, {marks}) ENGINE = MergeTree() ORDER BY id"),
            "it has the key (id) and keeps every row",
        ),
        (
            format!(
                "(id Int32, n Int32, {marks}) ENGINE = ReplacingMergeTree(_version) ORDER BY (id, n)"
            ),
            "it has the key (id, n), and the rows have the key (id)",
        ),
        (
            format!(
                "(id Int32, n DateTime, {marks}) ENGINE = ReplacingMergeTree(_version) ORDER BY id"
            ),
            "n is DateTime, which is not written",
        ),
    ] {
        stored.ask(&format!("CREATE TABLE walbench.t {theirs}"));
        let before = stored.ask("SHOW CREATE TABLE walbench.t");
        let ended = refused(&followed, 4).await;
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
        assert!(ended.stderr.contains("hint: rename or drop that table"), "{}", ended.stderr);
        assert_eq!(stored.ask("SHOW CREATE TABLE walbench.t"), before);
        assert_eq!(stored.ask("SELECT count() FROM walbench.t"), "0");
        stored.ask("DROP TABLE walbench.t");
    }
    followed.assert_same(&["t"]).await;
    server.end();
}

async fn who_may_not_write_is_told_so(kind: Kind) {
    let (followed, server) = follow(kind, "CREATE TABLE t (id int PRIMARY KEY)").await;
    followed.execute("INSERT INTO t VALUES (1)").await;
    let address = server.address().to_owned();
    let login = server.login();
    let follow = async |url: &str| {
        followed.until_free().await;
        let command = followed.home.walbench(["follow", "--clickhouse", url]);
        let database = followed.database.address.to_url();
        let command = command.args(["--postgres", &database, "--publication", PUBLICATION]);
        command.args(["--slot", &followed.database.slot, "--until-lsn", "current"]).ended()
    };
    let ended = follow(&format!("http://walbench:wr0ng@{address}/")).await.with_code(4);
    assert!(!ended.stderr.contains("wr0ng"), "{}", ended.stderr);
    ended.said("ClickHouse at http://walbench:").said("hint: user and password come from the URL");
    let ended = follow(&format!("http://{login}@{address}/?readonly=1")).await.with_code(4);
    ended.said("Code: 164").said("hint: the user is readonly, and must be one that may write");
    let ended = follow(&format!("http://{login}@{address}/?no_such_setting=1")).await.with_code(4);
    ended.said("Code: 115").said("names a setting that this server does not know");
    let ended = follow(&format!("ftp://{login}@{address}/")).await.with_code(2);
    ended.said("the URL's scheme is neither http nor https");
    // Nobody listens there.
    let ended = follow("http://127.0.0.1:1/").await.with_code(4);
    ended
        .said("ClickHouse at http://default@127.0.0.1:1/ can't be used")
        .said("Connection refused");
    // A database that is missing is made, one that is there is used.
    follow(&format!("http://{login}@{address}/missing")).await.with_code(0);
    assert_eq!(followed.stored().ask("SELECT count() FROM missing.t"), "1");
    server.end();
}

async fn rows_that_are_not_taken(kind: Kind) {
    let (followed, server) = follow(kind, "CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    followed.execute("INSERT INTO t VALUES (0, 0)").await;
    followed.drain().await;
    let stored = followed.stored();
    stored.ask("ALTER TABLE walbench.t ADD COLUMN checked UInt8 MATERIALIZED throwIf(n = 13)");
    followed.execute("INSERT INTO t SELECT n, n % 50 FROM generate_series(1, 500) n").await;
    let ended = refused(&followed, 4).await;
    ended.said("a row of public.t is not taken").said("Code: 395").said("clickhouse.on_bad_row");
    let aside = followed.home.path().join("aside.jsonl");
    let command = followed.follow().args(["--until-lsn", "current", "--json"]);
    let command = command.set("clickhouse.on_bad_row", "set_aside");
    followed.until_free().await;
    let ended = command.set("clickhouse.bad_rows_file", "aside.jsonl").ended().with_code(0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&report["rejected_rows"], &report["rows"]), (&10.into(), &500.into()), "{report}");
    let clickhouse = &report["clickhouse"];
    assert_eq!(clickhouse["endpoints"][0], format!("http://{}", server.address()));
    assert_eq!(clickhouse["version"], stored.ask("SELECT version()"));
    assert_eq!(clickhouse["settings"].get("async_insert").is_some(), kind == Kind::Embedded);
    assert_eq!(stored.ask("SELECT count(), countIf(n = 13) FROM walbench.t"), "491\t0");
    let lines = fs::read_to_string(aside).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10);
    assert_eq!((&lines[0]["table"], &lines[0]["code"]), (&"public.t".into(), &395.into()));
    // 13 as a Nullable(Int32).
    assert_eq!(lines[0]["columns_rowbinary_base64"]["n"], "AA0AAAA=");
    server.end();
}

//! `walbench follow` into a folder: whatever happens to the tables, what is kept at the end is what
//! PostgreSQL has.

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, Version};
use crate::database::{Database, assert_said, on_every_server};
use crate::folder;
use crate::followed::Followed;
use crate::home::Running;
use crate::processes::until;

on_every_server![
    rows_that_come_change_and_go,
    replica_identities,
    unchanged_toast_is_kept_under_full,
    unchanged_toast_without_full_is_refused,
    partitions_published_as_their_root,
    partitions_published_as_themselves,
    tables_that_change_while_they_are_followed,
    tables_that_changed_before_they_are_followed,
    a_primary_key_that_moves_to_another_column,
    tables_that_join_later,
    generated_columns,
    column_lists_and_row_filters,
    truncations,
    tables_without_a_key_are_logs,
    large_transactions,
    large_transactions_in_pieces,
    transactions_in_two_phases,
    a_kill_between_prepare_and_commit,
    a_lost_connection_between_prepare_and_commit,
    types_as_text_and_in_binary_form,
    changes_that_came_from_elsewhere,
    odd_names,
    transactions_that_publish_nothing,
];

pub(crate) const TABLES: &str =
    "CREATE TABLE t (id int PRIMARY KEY, note text, at timestamp, price numeric(12, 2));
               CREATE TABLE pair (a int, b text, c int NOT NULL, PRIMARY KEY (b, a))";

pub(crate) const ROWS: &str =
    "INSERT INTO t SELECT n, 'note ' || n, timestamp '2026-01-01' + n * interval '1.5 s', n / 8.0
             FROM generate_series(1, 3000) n;
             UPDATE t SET note = NULL WHERE id % 7 = 0;
             UPDATE t SET price = -price, at = NULL WHERE id % 5 = 0;
             DELETE FROM t WHERE id % 3 = 0;
             -- Keys that move, to new places and to those of rows that went.
             UPDATE t SET id = id + 10000 WHERE id % 11 = 0;
             UPDATE t SET id = 3 WHERE id = 4;
             INSERT INTO t VALUES (4, 'again', NULL, 0);
             DELETE FROM t WHERE id = 3;
             INSERT INTO pair SELECT n % 10, 'b' || n / 10, n FROM generate_series(1, 99) n;
             UPDATE pair SET a = a + 10 WHERE c % 3 = 0;
             UPDATE pair SET b = b || '''' WHERE c % 4 = 0;
             DELETE FROM pair WHERE c % 7 = 0";

async fn rows_that_come_change_and_go(version: Version) {
    let followed = Followed::new(version, TABLES).await;
    followed.execute(ROWS).await;
    followed.assert_same(&["t", "pair"]).await;
    // And again, beside what is there.
    followed.execute("UPDATE t SET id = -id; DELETE FROM pair WHERE c % 2 = 0").await;
    followed.assert_same(&["t", "pair"]).await;
}

async fn replica_identities(version: Version) {
    let followed = Followed::new(
        version,
        "CREATE TABLE whole (id int PRIMARY KEY, note text, n int);
         ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE by_index (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int);
         ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code_key;
         CREATE TABLE inserted (id int PRIMARY KEY, n int);
         ALTER TABLE inserted REPLICA IDENTITY NOTHING",
    )
    .await;
    followed
        .execute(
            "INSERT INTO whole SELECT n, 'w', n FROM generate_series(1, 50) n;
             UPDATE whole SET note = NULL WHERE id % 2 = 0;
             UPDATE whole SET id = id + 100 WHERE id % 3 = 0;
             DELETE FROM whole WHERE id % 5 = 0;
             INSERT INTO by_index SELECT n, 'c' || n, n FROM generate_series(1, 50) n;
             UPDATE by_index SET id = -id WHERE n % 2 = 0;
             UPDATE by_index SET code = 'd' || n WHERE n % 3 = 0;
             UPDATE by_index SET n = 0 WHERE n % 4 = 0;
             DELETE FROM by_index WHERE code LIKE 'd1%';
             INSERT INTO inserted SELECT n, n * n FROM generate_series(1, 50) n",
        )
        .await;
    followed.assert_same(&["whole", "by_index", "inserted"]).await;
}

/// Values of 10 kB that are stored beside their rows.
pub(crate) const TOAST: &str = "CREATE TABLE t (id int PRIMARY KEY, big text, n int);
                     ALTER TABLE t ALTER COLUMN big SET STORAGE EXTERNAL";

pub(crate) const TOASTED_ROWS: &str = "INSERT INTO t SELECT n, repeat(n::text, 10000), n
                            FROM generate_series(1, 5) n";

async fn unchanged_toast_is_kept_under_full(version: Version) {
    let followed = Followed::new(version, TOAST).await;
    followed.execute("ALTER TABLE t REPLICA IDENTITY FULL").await;
    followed.execute(TOASTED_ROWS).await;
    followed.execute("UPDATE t SET n = -n; UPDATE t SET id = id + 10 WHERE id > 3").await;
    followed.execute("UPDATE t SET big = 'new' WHERE id = 1; DELETE FROM t WHERE id = 2").await;
    followed.assert_same(&["t"]).await;
}

async fn unchanged_toast_without_full_is_refused(version: Version) {
    let followed = Followed::new(version, TOAST).await;
    followed.execute(TOASTED_ROWS).await;
    followed.execute("UPDATE t SET big = 'whole', n = 0").await;
    followed.assert_same(&["t"]).await;
    followed.execute("UPDATE t SET big = repeat('x', 10000)").await;
    followed.assert_same(&["t"]).await;
    followed.execute("UPDATE t SET n = 1").await;
    followed.until_free().await;
    let ended = followed.follow().args(["--until-lsn", "current"]).ended().with_code(4);
    assert_said!(ended.stderr, @r#"
    error: a row can't be replicated
      caused by: public.t.big is a large value that an update left unchanged, so PostgreSQL did not send it
      hint: ALTER TABLE public.t REPLICA IDENTITY FULL
    "#);
}

const PARTITIONS: &str = "
    CREATE TABLE p (id int, region int, note text, PRIMARY KEY (id, region))
        PARTITION BY LIST (region);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);";

const PARTITIONED_ROWS: &str = "
    INSERT INTO p SELECT n, n % 2 + 1, 'n' FROM generate_series(1, 60) n;
    UPDATE p SET region = 3 - region WHERE id % 3 = 0;
    UPDATE p SET note = 'moved' WHERE id % 6 = 0;
    DELETE FROM p WHERE id % 7 = 0;
    CREATE TABLE p3 (id int NOT NULL, note text, region int NOT NULL, PRIMARY KEY (id, region));
    INSERT INTO p3 VALUES (900, 'attached', 3);
    ALTER TABLE p ATTACH PARTITION p3 FOR VALUES IN (3);
    INSERT INTO p VALUES (901, 3, 'inserted');
    UPDATE p SET region = 3, id = id + 300 WHERE id % 5 = 0;
    UPDATE p SET note = 'last', region = 1 WHERE id = 901;";

async fn partitions_published_as_their_root(version: Version) {
    let sql = "CREATE PUBLICATION p FOR TABLE p WITH (publish_via_partition_root = true)";
    let followed = Followed::published(version, &format!("{PARTITIONS}{sql}")).await;
    followed.execute(PARTITIONED_ROWS).await;
    followed.drain().await;
    // What was in a table before it became a partition was not published.
    followed.table("p").rows("id <> 900").assert_same().await;
    followed.execute("TRUNCATE p; INSERT INTO p VALUES (1, 1, 'after')").await;
    followed.assert_same(&["p"]).await;
    assert_eq!(followed.folder().tables(), ["public.p"]);
}

async fn partitions_published_as_themselves(version: Version) {
    let followed = Followed::new(version, PARTITIONS).await;
    followed.execute(PARTITIONED_ROWS).await;
    followed.assert_same(&["p1", "p2", "p3"]).await;
    followed
        .execute("TRUNCATE p1; INSERT INTO p VALUES (1001, 1, 'after'), (1001, 2, 'beside')")
        .await;
    followed.assert_same(&["p1", "p2", "p3"]).await;
    followed.execute("TRUNCATE p; INSERT INTO p VALUES (1, 3, 'last')").await;
    followed.assert_same(&["p1", "p2", "p3"]).await;
    assert_eq!(followed.folder().tables(), ["public.p1", "public.p2", "public.p3"]);
}

pub(crate) const CHANGING: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, note text, short varchar(9), gone int,
                    must text NOT NULL)";

/// Each changes a table and writes into it.
pub(crate) const CHANGES: [&str; 12] = [
    "INSERT INTO t SELECT n, n, 'note', 'short', n, 'must' FROM generate_series(1, 20) n",
    "ALTER TABLE t ADD COLUMN bare text;
     INSERT INTO t VALUES (21, 21, 'note', 's', 1, 'must', 'bare');
     UPDATE t SET bare = 'b' WHERE id % 2 = 0",
    "ALTER TABLE t ADD COLUMN filled int NOT NULL DEFAULT 7;
     INSERT INTO t (id, n, must) VALUES (22, 22, 'must');
     UPDATE t SET note = NULL WHERE id % 3 = 0",
    "ALTER TABLE t DROP COLUMN gone;
     INSERT INTO t (id, n, must) VALUES (23, 23, 'must');
     DELETE FROM t WHERE id % 10 = 0",
    "ALTER TABLE t RENAME COLUMN note TO remark;
     INSERT INTO t (id, n, remark, must) VALUES (24, 24, 'remark', 'must')",
    "ALTER TABLE t ALTER COLUMN n TYPE bigint;
     INSERT INTO t (id, n, must) VALUES (25, 5000000000, 'must');
     UPDATE t SET n = -n WHERE id = 1",
    "ALTER TABLE t ALTER COLUMN short TYPE text;
     INSERT INTO t (id, n, short, must) VALUES (26, 26, 'not so short any more', 'must')",
    "ALTER TABLE t ALTER COLUMN must DROP NOT NULL;
     INSERT INTO t (id, n, must) VALUES (27, 27, NULL), (28, 28, 'must')",
    "ALTER TABLE t RENAME TO u;
     INSERT INTO u (id, n) VALUES (29, 29);
     DELETE FROM u WHERE id = 21",
    "BEGIN;
     UPDATE u SET n = 0 WHERE id < 5;
     ALTER TABLE u ADD COLUMN amid text DEFAULT 'amid';
     INSERT INTO u (id, n) VALUES (30, 30);
     ALTER TABLE u RENAME COLUMN amid TO mid;
     INSERT INTO u (id, n, mid) VALUES (31, 31, NULL);
     SAVEPOINT a;
     ALTER TABLE u DROP COLUMN mid;
     INSERT INTO u (id, n) VALUES (32, 32);
     ROLLBACK TO a;
     INSERT INTO u (id, n, mid) VALUES (33, 33, 'after all');
     CREATE TABLE fresh (id int PRIMARY KEY, what text NOT NULL);
     INSERT INTO fresh VALUES (1, 'of the same transaction');
     COMMIT",
    "INSERT INTO fresh VALUES (2, 'of another');
     ALTER TABLE fresh ALTER COLUMN what DROP NOT NULL;
     INSERT INTO fresh VALUES (3, NULL)",
    // A row that is older than a column does not come again with it.
    "UPDATE u SET n = n",
];

async fn assert_changed_tables(followed: &Followed) {
    followed.drain().await;
    followed.table("u").stored_as(&["public.t", "public.u"]).assert_same().await;
    followed.table("fresh").assert_same().await;
}

async fn tables_that_change_while_they_are_followed(version: Version) {
    let followed = Followed::new(version, CHANGING).await;
    let running = followed.start_when_free().await;
    for sql in CHANGES {
        followed.execute(sql).await;
        followed.until_confirmed().await;
    }
    interrupted(running);
    assert_changed_tables(&followed).await;
}

/// The catalogue is ahead of the stream then.
async fn tables_that_changed_before_they_are_followed(version: Version) {
    let followed = Followed::new(version, CHANGING).await;
    for sql in CHANGES {
        followed.execute(sql).await;
    }
    assert_changed_tables(&followed).await;
}

/// Ctrl-C.
fn interrupted(running: Running) {
    running.signal(Signal::SIGINT);
    running.ended().with_code(0);
}

async fn a_primary_key_that_moves_to_another_column(version: Version) {
    let tables = "CREATE TABLE live (id int PRIMARY KEY, code text NOT NULL, n int);
                  CREATE TABLE late (id int PRIMARY KEY, code text NOT NULL, n int)";
    let followed = Followed::new(version, tables).await;
    let move_key = async |table: &str| {
        let sql = "INSERT INTO t SELECT n, 'c' || n, n FROM generate_series(1, 20) n;
                   UPDATE t SET n = -n WHERE id % 2 = 0;
                   ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (code);
                   UPDATE t SET n = 0 WHERE id % 3 = 0;
                   UPDATE t SET code = 'd' || id WHERE id % 5 = 0;
                   UPDATE t SET id = 1 WHERE id = 2;
                   DELETE FROM t WHERE id % 7 = 0";
        let sql = sql.replace(" t ", &format!(" {table} "));
        followed.execute(&sql.replace("t_pkey", &format!("{table}_pkey"))).await;
    };
    let running = followed.start_when_free().await;
    followed.until_confirmed().await;
    move_key("live").await;
    followed.until_confirmed().await;
    interrupted(running);
    move_key("late").await;
    followed.assert_same(&["live", "late"]).await;
}

async fn tables_that_join_later(version: Version) {
    let sql = "CREATE SCHEMA app; CREATE TABLE app.old (id int PRIMARY KEY, n int);
               CREATE TABLE public.joins (id int PRIMARY KEY, n int);
               CREATE PUBLICATION p FOR TABLES IN SCHEMA app";
    let followed = Followed::published(version, sql).await;
    let running = followed.start_when_free().await;
    followed.until_confirmed().await;
    let steps = [
        "INSERT INTO app.old VALUES (1, 1);
         CREATE TYPE app.mood AS ENUM ('sad', 'so-so');
         CREATE TABLE app.new (id bigint PRIMARY KEY, mood app.mood NOT NULL, list int[]);
         INSERT INTO app.new VALUES (1, 'sad', '{1,NULL}'), (2, 'so-so', NULL);
         INSERT INTO public.joins VALUES (1, 1)",
        "ALTER PUBLICATION p ADD TABLE public.joins",
        "INSERT INTO public.joins VALUES (2, 2); ALTER TYPE app.mood ADD VALUE 'happy'",
        "INSERT INTO app.new VALUES (3, 'happy', '{}'); ALTER PUBLICATION p DROP TABLE public.joins",
        "INSERT INTO public.joins VALUES (3, 3)",
    ];
    for sql in steps {
        followed.execute(sql).await;
        followed.until_confirmed().await;
    }
    interrupted(running);
    for table in ["app.old", "app.new"] {
        followed.table(table).stored_as(&[table]).assert_same().await;
    }
    followed.table("joins").rows("id = 2").assert_same().await;
}

async fn generated_columns(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, n int,
                               twice int GENERATED ALWAYS AS (n * 2) STORED, note text);
               CREATE PUBLICATION p FOR TABLE t";
    let followed = Followed::published(version, sql).await;
    let rows = "INSERT INTO t (id, n) VALUES (1, 1), (2, NULL), (3, 3);
                UPDATE t SET n = 10, note = 'n' WHERE id = 1; DELETE FROM t WHERE id = 3";
    followed.execute(rows).await;
    followed.drain().await;
    followed.table("t").columns(&["id", "n", "note"]).assert_same().await;
    if followed.server_version().await < 180_000 {
        return;
    }
    followed.execute("ALTER PUBLICATION p SET (publish_generated_columns = stored)").await;
    followed.execute("TRUNCATE t").await;
    followed.execute(rows).await;
    followed.drain().await;
    followed.table("t").columns(&["id", "n", "twice", "note"]).assert_same().await;
}

async fn column_lists_and_row_filters(version: Version) {
    let sql = "CREATE TABLE listed (id int PRIMARY KEY, a int, b text, c int);
               CREATE TABLE filtered (id int PRIMARY KEY, n int, note text);
               ALTER TABLE filtered REPLICA IDENTITY FULL;
               CREATE TABLE both_of_it (id int, n int, note text, secret text, PRIMARY KEY (id, n));
               CREATE PUBLICATION p FOR TABLE listed (id, b), filtered WHERE (n > 10),
                                              both_of_it (n, id, note) WHERE (n > 10)";
    let followed = Followed::published(version, sql).await;
    followed
        .execute(
            "INSERT INTO listed SELECT n, n, 'b' || n, n FROM generate_series(1, 30) n;
             UPDATE listed SET c = 0 WHERE id % 2 = 0;
             UPDATE listed SET b = NULL WHERE id % 3 = 0;
             UPDATE listed SET id = id + 100 WHERE id % 5 = 0;
             DELETE FROM listed WHERE id % 7 = 0;
             INSERT INTO filtered SELECT n, n, 'n' FROM generate_series(1, 30) n;
             INSERT INTO filtered VALUES (31, NULL, 'unknown');
             UPDATE filtered SET n = n + 8 WHERE id % 2 = 0;
             UPDATE filtered SET n = n - 8 WHERE id % 3 = 0;
             UPDATE filtered SET n = NULL WHERE id % 11 = 0;
             UPDATE filtered SET id = id + 100 WHERE id % 5 = 0;
             DELETE FROM filtered WHERE id % 7 = 0;
             UPDATE filtered SET n = 99 WHERE id = 31;
             INSERT INTO both_of_it SELECT n, n, 'n', 's' FROM generate_series(1, 30) n;
             UPDATE both_of_it SET n = n + 8 WHERE id % 2 = 0;
             UPDATE both_of_it SET n = n - 8 WHERE id % 3 = 0;
             UPDATE both_of_it SET secret = 'more', note = NULL WHERE id % 4 = 0;
             DELETE FROM both_of_it WHERE id % 7 = 0",
        )
        .await;
    followed.drain().await;
    followed.table("listed").columns(&["id", "b"]).assert_same().await;
    followed.table("filtered").rows("n > 10").assert_same().await;
    let both = followed.table("both_of_it").columns(&["id", "n", "note"]);
    both.rows("n > 10").assert_same().await;
}

pub(crate) const EMPTIED: &str = "CREATE TABLE a (id serial PRIMARY KEY, n int);
               CREATE TABLE b (id int PRIMARY KEY, n int);
               CREATE TABLE parent (id int PRIMARY KEY);
               CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent)";

pub(crate) const TRUNCATED: [&str; 4] = ["a", "b", "parent", "child"];

pub(crate) const TRUNCATING: [&str; 6] = [
    "INSERT INTO a SELECT n, n FROM generate_series(1, 100) n;
         TRUNCATE a;
         INSERT INTO a (n) SELECT n FROM generate_series(1, 10) n",
    "INSERT INTO b SELECT n, n FROM generate_series(1, 50) n;
         BEGIN;
         INSERT INTO a SELECT n, n FROM generate_series(200, 250) n;
         UPDATE b SET n = 0;
         TRUNCATE a RESTART IDENTITY;
         INSERT INTO a (n) SELECT n FROM generate_series(1, 5) n;
         UPDATE b SET n = 1 WHERE id > 25;
         COMMIT",
    "INSERT INTO parent SELECT generate_series(1, 20);
         INSERT INTO child SELECT n, n FROM generate_series(1, 20) n;
         TRUNCATE parent CASCADE;
         INSERT INTO parent VALUES (7); INSERT INTO child VALUES (9, 7)",
    "BEGIN; TRUNCATE a; INSERT INTO a VALUES (77, 77); ROLLBACK",
    "BEGIN; INSERT INTO a VALUES (78, 78); SAVEPOINT s; TRUNCATE a, b; ROLLBACK TO s; COMMIT",
    "TRUNCATE a, b, child; TRUNCATE a; INSERT INTO b VALUES (1, 1); TRUNCATE b;
         INSERT INTO b VALUES (1, 2)",
];

async fn truncations(version: Version) {
    // Batches of few rows: many are under way when a table is emptied.
    let followed = Followed::new(version, EMPTIED).await.set("consumer.flush_batch_size", "3");
    for sql in TRUNCATING {
        followed.execute(sql).await;
        followed.assert_same(&TRUNCATED).await;
    }
    assert!(followed.folder().count("truncate") >= 9);
}

/// Each version of a row stays, and says whether the row went.
async fn tables_without_a_key_are_logs(version: Version) {
    let sql = "CREATE TABLE t (n int, note text); CREATE TABLE whole (n int, note text);
               ALTER TABLE whole REPLICA IDENTITY FULL";
    let followed = Followed::new(version, sql).await;
    let rows = "INSERT INTO t VALUES (1, 'a'), (1, 'a'), (2, NULL);
                INSERT INTO whole VALUES (1, 'a'), (1, 'a'), (2, NULL);
                UPDATE whole SET note = 'b' WHERE n = 2; DELETE FROM whole WHERE n = 2";
    followed.execute(rows).await;
    followed.drain().await;
    let log = |table: &str| {
        let log = followed.folder().log(&[format!("public.{table}")]);
        let line = |kept: &folder::Version| {
            let gone = if kept.deleted { " gone" } else { "" };
            format!("{} {}{gone}", kept.row["n"], kept.row["note"])
        };
        let mut lines: Vec<_> = log.iter().map(line).collect();
        lines.sort();
        lines
    };
    assert_eq!(log("t"), ["1 a", "1 a", "2 NULL"]);
    assert_eq!(log("whole"), ["1 a", "1 a", "2 NULL", "2 b", "2 b gone"]);
    let rows = "INSERT INTO t VALUES (3, 'c'); TRUNCATE t, whole; INSERT INTO t VALUES (4, 'd')";
    followed.execute(rows).await;
    followed.drain().await;
    assert_eq!((log("t"), log("whole")), (vec!["4 d".into()], vec![]));
}

const LARGE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, note text, n int);
    CREATE TABLE other (id int PRIMARY KEY, note text);
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET logical_decoding_work_mem = %L',
                       current_database(), '64kB');
    END $$";

/// Two transactions at once, and one that comes to nothing.
async fn write_large(followed: &Followed) {
    let beside = followed.database.session().await;
    followed
        .execute(
            "BEGIN;
             INSERT INTO t SELECT n, 'note ' || n, n FROM generate_series(1, 100000) n",
        )
        .await;
    let sql = "BEGIN; INSERT INTO other SELECT n, 'other' FROM generate_series(1, 20000) n";
    beside.batch_execute(sql).await.unwrap();
    followed
        .execute(
            "SAVEPOINT a;
             UPDATE t SET n = -1 WHERE id % 4 = 0;
             INSERT INTO t SELECT n FROM generate_series(300001, 330000) n;
             ROLLBACK TO a;
             SAVEPOINT b;
             DELETE FROM t WHERE id % 10 = 0;
             SAVEPOINT c;
             INSERT INTO t SELECT n, NULL, n FROM generate_series(100001, 150000) n;
             RELEASE c;
             RELEASE b;
             INSERT INTO t SELECT n, 'last', n FROM generate_series(150001, 200000) n",
        )
        .await;
    beside.batch_execute("UPDATE other SET note = NULL WHERE id % 2 = 0; COMMIT").await.unwrap();
    followed.execute("UPDATE t SET id = id + 1000000 WHERE id % 100 = 1; COMMIT").await;
    followed
        .execute(
            "BEGIN;
             DELETE FROM other;
             INSERT INTO t SELECT n FROM generate_series(400001, 500000) n;
             TRUNCATE other;
             ROLLBACK",
        )
        .await;
    followed.execute("UPDATE other SET note = 'after' WHERE id < 10").await;
}

async fn large_transactions(version: Version) {
    let followed = Followed::new(version, LARGE).await;
    write_large(&followed).await;
    let report = followed.drain().await;
    followed.assert_same(&["t", "other"]).await;
    assert!(report["rows"].as_u64().unwrap() >= 200_000, "{report}");
    assert_eq!(report["transactions"], 3, "{report}");
}

async fn large_transactions_in_pieces(version: Version) {
    let followed = Followed::new(version, LARGE).await;
    let streaming = if followed.server_version().await < 160_000 { "on" } else { "parallel" };
    let followed = followed.set("consumer.streaming", streaming);
    let followed = followed.set("consumer.spool_memory_bytes", "100000");
    let running = followed.start_when_free().await;
    followed.until_confirmed().await;
    write_large(&followed).await;
    followed.until_confirmed().await;
    interrupted(running);
    let sql = "SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = $1";
    let client = &followed.database.client;
    let streamed: i64 = client.query_one(sql, &[&followed.database.slot]).await.unwrap().get(0);
    assert!(streamed >= 2, "{streamed} transactions came in pieces");
    followed.assert_same(&["t", "other"]).await;
}

/// A slot that decodes prepared transactions, made by walbench.
async fn in_two_phases(cluster: &Cluster) -> Followed {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR TABLE t";
    let followed = Followed::in_database(Database::on(cluster).await, sql).await;
    let followed = followed.set("consumer.two_phase", "true");
    let command = followed.follow().args(["--create-slot", "--until-lsn", "current"]);
    command.ended().with_code(0).said("made slot");
    let sql = "SELECT two_phase FROM pg_replication_slots WHERE slot_name = $1";
    let client = &followed.database.client;
    assert!(client.query_one(sql, &[&followed.database.slot]).await.unwrap().get::<_, bool>(0));
    followed
}

/// Prepares a transaction with this row; its name is of the whole server.
async fn prepare(followed: &Followed, id: i32) {
    let slot = &followed.database.slot;
    let sql = format!("BEGIN; INSERT INTO t VALUES ({id}, 'prepared'); PREPARE TRANSACTION");
    followed.execute(&format!("{sql} '{slot} {id}'")).await;
}

async fn decide(followed: &Followed, how: &str, id: i32) {
    followed.execute(&format!("{how} PREPARED '{} {id}'", followed.database.slot)).await;
}

fn kept(followed: &Followed, id: i32) -> bool {
    let state = followed.folder().state(&["public.t".into()], &["id".into()]);
    state.contains_key(&vec![id.to_string()])
}

/// Commits a row, and waits until it is kept.
async fn write_beside(followed: &Followed, id: i32) {
    followed.execute(&format!("INSERT INTO t VALUES ({id}, 'beside')")).await;
    until("a row beside it", || kept(followed, id).then_some(()));
}

async fn transactions_in_two_phases(version: Version) {
    // Nobody can make a slot on a server where a transaction is prepared.
    let cluster = Cluster::start_version(version);
    let followed = in_two_phases(&cluster).await;
    let running = followed.start_when_free().await;
    prepare(&followed, 1).await;
    prepare(&followed, 2).await;
    write_beside(&followed, 10).await;
    assert!(!kept(&followed, 1) && !kept(&followed, 2));
    decide(&followed, "COMMIT", 1).await;
    write_beside(&followed, 11).await;
    assert!(kept(&followed, 1));
    decide(&followed, "ROLLBACK", 2).await;
    followed.until_confirmed().await;
    interrupted(running);
    followed.assert_same(&["t"]).await;
    // Prepared and decided while nobody followed.
    prepare(&followed, 3).await;
    prepare(&followed, 4).await;
    decide(&followed, "COMMIT", 4).await;
    decide(&followed, "ROLLBACK", 3).await;
    followed.assert_same(&["t"]).await;
}

async fn a_kill_between_prepare_and_commit(version: Version) {
    // Nobody can make a slot on a server where a transaction is prepared.
    let cluster = Cluster::start_version(version);
    let followed = in_two_phases(&cluster).await;
    for (round, signal) in [(0, Signal::SIGKILL), (1, Signal::SIGINT)] {
        let running = followed.start_when_free().await;
        let (committed, dropped) = (100 + round, 200 + round);
        prepare(&followed, committed).await;
        prepare(&followed, dropped).await;
        write_beside(&followed, 10 + round).await;
        running.signal(signal);
        drop(running.ended());
        // It comes again to a process that has never seen it prepared.
        let running = followed.start_when_free().await;
        write_beside(&followed, 20 + round).await;
        assert!(!kept(&followed, committed));
        decide(&followed, "COMMIT", committed).await;
        decide(&followed, "ROLLBACK", dropped).await;
        followed.until_confirmed().await;
        interrupted(running);
        followed.assert_same(&["t"]).await;
    }
}

async fn a_lost_connection_between_prepare_and_commit(version: Version) {
    // Nobody can make a slot on a server where a transaction is prepared.
    let cluster = Cluster::start_version(version);
    let followed = in_two_phases(&cluster).await;
    let running = followed.start_when_free().await;
    prepare(&followed, 1).await;
    prepare(&followed, 2).await;
    write_beside(&followed, 10).await;
    followed.end_walsender().await;
    write_beside(&followed, 11).await;
    assert!(!kept(&followed, 1));
    decide(&followed, "COMMIT", 1).await;
    decide(&followed, "ROLLBACK", 2).await;
    followed.until_confirmed().await;
    interrupted(running);
    followed.assert_same(&["t"]).await;
}

async fn types_as_text_and_in_binary_form(version: Version) {
    let sql = "CREATE TYPE mood AS ENUM ('sad', 'it''s ok');
               CREATE DOMAIN positive AS int CHECK (VALUE > 0);
               CREATE DOMAIN numbers AS int[];
               CREATE TABLE t (id bigint PRIMARY KEY, b bool, s smallint, f float8, d numeric(12, 2),
                               n numeric, day date, at timestamp, u uuid, j jsonb, list int[],
                               mood mood NOT NULL, positive positive, numbers numbers NOT NULL)";
    let rows = "
        INSERT INTO t SELECT n, n % 2 = 0, -n, n + 0.5, n / 8.0, n / 8.0, date '2026-01-01' + n,
                             timestamp '1969-12-31 23:59:59.5' + n * interval '1 h',
                             md5(n::text)::uuid, jsonb_build_object('n', n, 'l', array[n]),
                             ARRAY[n, NULL, -n], 'sad', n, ARRAY[n]
        FROM generate_series(1, 50) n;
        UPDATE t SET mood = 'it''s ok', positive = NULL, list = NULL, d = NULL WHERE id % 2 = 0;
        UPDATE t SET id = -id WHERE id % 3 = 0;
        DELETE FROM t WHERE id % 7 = 0";
    for format in ["text", "binary", "auto"] {
        let followed = Followed::new(version, sql).await.set("consumer.column_format", format);
        followed.execute(rows).await;
        followed.assert_same(&["t"]).await;
    }
}

async fn changes_that_came_from_elsewhere(version: Version) {
    let followed = Followed::new(version, "CREATE TABLE t (id int PRIMARY KEY, note text)").await;
    let slot = followed.database.slot.clone();
    followed
        .execute(&format!(
            "SELECT pg_replication_origin_create('{slot}');
             SELECT pg_replication_origin_session_setup('{slot}')"
        ))
        .await;
    followed.execute("INSERT INTO t VALUES (1, 'theirs')").await;
    followed
        .execute(&format!(
            "SELECT pg_replication_origin_session_reset();
             SELECT pg_replication_origin_drop('{slot}');
             INSERT INTO t VALUES (2, 'ours')"
        ))
        .await;
    if followed.server_version().await >= 160_000 {
        let followed = followed.set("consumer.origin", "none");
        followed.drain().await;
        followed.table("t").rows("note = 'ours'").assert_same().await;
        return;
    }
    followed.assert_same(&["t"]).await;
    let followed = followed.set("consumer.origin", "none");
    let ended = followed.follow().args(["--until-lsn", "current"]).ended().with_code(2);
    ended.said("consumer.origin needs PostgreSQL 16");
}

pub(crate) const ODD_TABLES: &str = r#"
        CREATE SCHEMA "Od/d. schéma""";
        CREATE TABLE "Od/d. schéma"""."T a/b" (
            "I d" int PRIMARY KEY, "sp ace'""\" text, "Ünï
line" int, "select" int);
        CREATE TABLE "Od/d. schéma"""."T a_b" ("I d" int PRIMARY KEY, "sp ace'""\" text);
        CREATE TYPE "Od/d. schéma"""."M ood" AS ENUM ('a "b" c');
        CREATE TABLE "%" ("UPPER" "Od/d. schéma"""."M ood" PRIMARY KEY, n int)"#;

pub(crate) const ODD_ROWS: &str = r#"
        INSERT INTO "Od/d. schéma"""."T a/b" SELECT n, 'v', n, -n FROM generate_series(1, 9) n;
        UPDATE "Od/d. schéma"""."T a/b" SET "select" = 0 WHERE "I d" > 5;
        UPDATE "Od/d. schéma"""."T a/b" SET "I d" = 50 WHERE "I d" = 3;
        INSERT INTO "Od/d. schéma"""."T a_b" SELECT n, 'w' FROM generate_series(1, 3) n;
        DELETE FROM "Od/d. schéma"""."T a_b" WHERE "I d" = 2;
        INSERT INTO "%" VALUES ('a "b" c', 1); UPDATE "%" SET n = 2"#;

async fn odd_names(version: Version) {
    let followed = Followed::new(version, ODD_TABLES).await;
    followed.execute(ODD_ROWS).await;
    let assert_same = async || {
        followed.drain().await;
        let slash = followed.table(r#""Od/d. schéma"""."T a/b""#);
        slash.stored_as(&[r#"Od%2Fd. schéma".T a%2Fb"#]).assert_same().await;
        let underscore = followed.table(r#""Od/d. schéma"""."T a_b""#);
        underscore.stored_as(&[r#"Od%2Fd. schéma".T a_b"#]).assert_same().await;
        followed.table("\"%\"").stored_as(&["public.%25"]).assert_same().await;
    };
    assert_same().await;
    // Each is emptied for itself.
    followed.execute(r#"TRUNCATE "Od/d. schéma"""."T a/b""#).await;
    assert_same().await;
}

/// Others' writes, and transactions without a row: the slot must not hold their WAL for ever.
async fn transactions_that_publish_nothing(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE others (id int, note text);
               CREATE PUBLICATION p FOR TABLE t";
    let followed = Followed::published(version, sql).await;
    let others = "INSERT INTO others SELECT n, repeat('x', 100) FROM generate_series(1, 50000) n";
    followed.execute(others).await;
    let report = followed.drain().await;
    assert_eq!(report["rows"], 0, "{report}");
    let running = followed.start_when_free().await;
    followed.until_confirmed().await;
    for _ in 0..20 {
        followed.execute("BEGIN; SELECT txid_current(); COMMIT").await;
        followed.execute("SELECT pg_logical_emit_message(true, 'not', 'ours')").await;
        followed.execute("BEGIN; INSERT INTO t VALUES (1); ROLLBACK").await;
        let sql = "BEGIN; SAVEPOINT s; INSERT INTO t VALUES (1); ROLLBACK TO s; COMMIT";
        followed.execute(sql).await;
        followed.execute("INSERT INTO others SELECT n FROM generate_series(1, 1000) n").await;
    }
    followed.until_confirmed().await;
    followed.execute("INSERT INTO t VALUES (7)").await;
    followed.until_confirmed().await;
    interrupted(running);
    followed.table("t").assert_same().await;
}

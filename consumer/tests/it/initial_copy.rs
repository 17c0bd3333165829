//! Rows that exist are copied before the slot is followed: what a destination has in the end is
//! held against what PostgreSQL has.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_postgres::Client;
use walbench_consumer::copy::{Copying, Exported};
use walbench_consumer::replication::{Connection, CreateSlot};
use walbench_consumer::{Follow, Following, News, StartError, Total};

use crate::cluster::Version;
use crate::database::{Database, PUBLICATION, connect, on_every_server};
use crate::reader::Reader;
use crate::session::plan;

on_every_server! {
    a_copy_under_writes_ends_as_postgresql,
    a_copy_is_of_the_moment_the_slot_starts_at,
    a_transaction_that_was_open_then_wins,
    a_copy_that_was_stopped_goes_on,
    lost_connections_come_back,
    without_a_key_rows_come_once_or_not_at_all,
    a_table_without_a_key_that_was_under_way_is_refused,
    partitions_are_copied_as_they_are_published,
    only_what_is_published_is_copied,
    both_forms_make_the_same_rows,
    odd_tables_are_copied,
    an_existing_slot_is_copied_as_rows_are_now,
    an_end_that_was_set_is_where_rows_are_exact,
    a_table_that_is_rewritten_meanwhile_is_copied_anew,
    the_state_of_something_else_is_refused,
    a_slow_sink_bounds_what_is_in_flight,
    columns_that_were_nullable_at_the_start_are_written,
}

/// A database, and a folder that a copy of it goes to.
struct Copied {
    database: Database,
    folder: TempDir,
}

/// A row at the destination: its values, then its version and whether it is an end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    values: Vec<String>,
    bytes: Vec<u8>,
    version: u64,
    deleted: bool,
}

impl Copied {
    /// What the statements make, published with `FOR …`.
    async fn new(version: Version, sql: &str, published: &str) -> Self {
        let database = Database::new(version).await;
        database.execute(sql).await;
        let publication = PUBLICATION.replace('"', "\"\"");
        database.execute(&format!("CREATE PUBLICATION \"{publication}\" {published}")).await;
        Self { database, folder: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> std::path::PathBuf {
        self.folder.path().join("state.json")
    }

    fn following(&self, more: &Value) -> Following {
        let mut consumer = json!({
            "initial_copy": true,
            "mock_level": "files",
            "mock_dir": self.folder.path().join("sink"),
        });
        consumer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Following {
            address: self.database.address.clone(),
            publication: PUBLICATION.into(),
            slot: self.database.slot.clone(),
            consumer: plan(&consumer).consumer,
            clickhouse: None,
            until_lsn: None,
        }
    }

    /// Makes the slot, as `walbench follow --create-slot` does.
    async fn exported(&self) -> Exported {
        let (address, slot) = (self.database.address.clone(), self.database.slot.clone());
        let create = move || {
            let connection = Connection::open(&address, "walbench exporter").unwrap();
            Exported::create(connection, &CreateSlot::new(&slot)).unwrap()
        };
        tokio::task::spawn_blocking(create).await.unwrap()
    }

    async fn start(&self, more: Value) -> Follow {
        let exported = self.exported().await;
        Follow::start(self.following(&more), Some(exported), News::default()).await.unwrap()
    }

    async fn resume(&self, more: Value) -> Result<Follow, StartError> {
        Follow::start(self.following(&more), None, News::default()).await
    }

    async fn refusal(&self, more: Value) -> String {
        let error = self.resume(more).await.unwrap_err();
        assert!(error.is_usage || error.failure.to_string().contains("state"), "{error:?}");
        error.failure.to_string()
    }

    /// Waits until everything written up to now is at the destination, and ends.
    async fn drained(&self, mut follow: Follow) -> (Total, Option<Copying>) {
        until_copied(&mut follow).await;
        self.database.execute("SELECT pg_logical_emit_message(true, 'test', '')").await;
        let (_, end) = self.database.positions().await;
        while follow.position().confirmed_lsn < end {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
                ended = follow.ended() => panic!("while it drains: {ended:?}"),
            }
        }
        follow.stop();
        let total = follow.ended().await.unwrap();
        self.until_inactive().await;
        (total, follow.copying())
    }

    /// The server needs a moment to see that a stream has ended.
    async fn until_inactive(&self) {
        let active = "SELECT active FROM pg_replication_slots WHERE slot_name::text = $1";
        let slot = &self.database.slot;
        while self.database.client.query_one(active, &[slot]).await.unwrap().get(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Everything the destination was given, in the order in which that became durable.
    fn given(&self) -> Vec<(String, Given)> {
        given(&self.folder.path().join("sink"))
    }

    /// The rows a table has whose key are the values in these places.
    fn rows(&self, table: &str, key: &[usize]) -> Vec<Vec<String>> {
        let mut rows: BTreeMap<Vec<String>, Row> = BTreeMap::new();
        for (name, given) in self.given() {
            match given {
                _ if name != table => {}
                Given::Truncated => rows.clear(),
                Given::Rows(given) => {
                    for row in given {
                        let key = key.iter().map(|at| row.values[*at].clone()).collect();
                        match rows.get(&key) {
                            Some(old) if old.version > row.version => {}
                            _ => drop(rows.insert(key, row)),
                        }
                    }
                }
            }
        }
        let present = rows.into_values().filter(|row| !row.deleted);
        let mut rows: Vec<_> = present.map(|row| row.values).collect();
        rows.sort();
        rows
    }

    /// The rows a table without a key has.
    fn appended(&self, table: &str) -> Vec<Vec<String>> {
        let of_table = self.given().into_iter().filter(|(name, _)| name == table);
        let rows = of_table.flat_map(|(_, given)| match given {
            Given::Rows(rows) => rows,
            Given::Truncated => panic!("{table} was truncated"),
        });
        let mut rows: Vec<_> = rows.map(|row| row.values).collect();
        rows.sort();
        rows
    }

    /// What PostgreSQL has: `columns` of `from`.
    async fn source(&self, columns: &[&str], from: &str) -> Vec<Vec<String>> {
        let texts: Vec<_> =
            columns.iter().map(|column| format!("COALESCE(({column})::text, 'NULL')")).collect();
        let sql = format!("SELECT {} FROM {from}", texts.join(", "));
        let rows = self.database.client.query(&sql, &[]).await.unwrap();
        let values = |row: &tokio_postgres::Row| (0..row.len()).map(|n| row.get(n)).collect();
        let mut rows: Vec<Vec<String>> = rows.iter().map(values).collect();
        rows.sort();
        rows
    }

    #[track_caller]
    fn assert_same(&self, given: &[Vec<String>], source: &[Vec<String>]) {
        let short = |row: &Vec<String>| {
            row.iter().map(|v| v.chars().take(20).collect::<String>()).collect::<Vec<_>>()
        };
        let surplus: Vec<_> = given.iter().filter(|row| !source.contains(row)).take(5).collect();
        let missing: Vec<_> = source.iter().filter(|row| !given.contains(row)).take(5).collect();
        if given != source {
            panic!(
                "{} rows where {} are: too many {:?}, missing {:?}",
                given.len(),
                source.len(),
                surplus.into_iter().map(short).collect::<Vec<_>>(),
                missing.into_iter().map(short).collect::<Vec<_>>(),
            );
        }
    }
}

enum Given {
    Rows(Vec<Row>),
    Truncated,
}

fn given(folder: &Path) -> Vec<(String, Given)> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.') && !name.ends_with(".columns"));
    names.sort();
    let read = |name: &String| {
        let table = name.splitn(4, '.').nth(3).unwrap();
        if let Some(table) = table.strip_suffix(".truncate") {
            return (table.to_owned(), Given::Truncated);
        }
        let bytes = std::fs::read(folder.join(name)).unwrap();
        let columns = folder.join(name.replace(".rowbinary", ".columns"));
        let columns = std::fs::read_to_string(columns).unwrap();
        let types: Vec<_> = columns.lines().map(|line| line.split_once('\t').unwrap().1).collect();
        let table = table.strip_suffix(".rowbinary").unwrap().to_owned();
        (table, Given::Rows(rows(&bytes, &types)))
    };
    names.iter().map(read).collect()
}

fn rows(bytes: &[u8], types: &[&str]) -> Vec<Row> {
    let (mut reader, mut rows) = (Reader(bytes), Vec::new());
    while !reader.0.is_empty() {
        let before = reader.0;
        let values: Vec<_> = types.iter().map(|kind| reader.value(kind)).collect();
        let bytes = before[..before.len() - reader.0.len()].to_vec();
        let (version, rest) = reader.0.split_first_chunk().unwrap();
        let version = u64::from_le_bytes(*version);
        rows.push(Row { values, bytes, version, deleted: rest[0] == 1 });
        reader.0 = &rest[1..];
    }
    rows
}

async fn until_copied(follow: &mut Follow) {
    while follow.copying().is_some_and(|copying| !copying.ended) {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
            ended = follow.ended() => {
                ended.unwrap();
                assert!(follow.copying().unwrap().complete, "it ended before");
            }
        }
    }
}

/// Waits until so many rows were acknowledged.
async fn until_rows(follow: &mut Follow, rows: u64) {
    while follow.copying().unwrap().rows() < rows {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
            ended = follow.ended() => panic!("too early: {ended:?}"),
        }
    }
}

/// A table of 20,000 rows and 10 MB.
const LARGE: &str = "
    CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL, pad text);
    ALTER TABLE t ALTER pad SET STORAGE PLAIN;
    INSERT INTO t SELECT n, 0, repeat(md5(n::text), 14) FROM generate_series(1, 20000) n";

const COLUMNS: [&str; 3] = ["id", "n", "md5(pad)"];

impl Copied {
    async fn assert_large_is_same(&self) {
        let given = self.rows("public.t", &[0]);
        let source = self.source(&["id", "n", "pad"], "t").await;
        self.assert_same(&given, &source);
    }
}

/// A simple generator: what a test does shall be the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % sides
    }
}

/// One change of `t`, of every kind that there is.
async fn change(client: &Client, dice: &mut Dice) {
    let id = dice.roll(22_000);
    let sql = match dice.roll(6) {
        0 => format!("INSERT INTO t VALUES ({id} + 100000, 1, 'new') ON CONFLICT DO NOTHING"),
        1 => format!("DELETE FROM t WHERE id = {id}"),
        // To where there is room: often another page.
        2 => format!("UPDATE t SET n = n + 1, pad = repeat(pad, 2) WHERE id = {id} AND n < 2"),
        3 => format!("UPDATE t SET id = id + 1000000, n = n + 1 WHERE id = {id}"),
        // The key comes back, as another row.
        4 => format!(
            "WITH gone AS (DELETE FROM t WHERE id = {id} RETURNING id) \
             INSERT INTO t SELECT id + 2000000, 9, NULL FROM gone ON CONFLICT DO NOTHING"
        ),
        _ => format!("UPDATE t SET n = n + 1 WHERE id BETWEEN {id} AND {id} + 5"),
    };
    client.batch_execute(&sql).await.unwrap();
}

/// Changes `t` until told to stop.
async fn write(copied: &Copied, stop: Arc<AtomicBool>, seed: u64) -> tokio::task::JoinHandle<u64> {
    let client = connect(&copied.database.address).await;
    tokio::spawn(async move {
        let (mut dice, mut changes) = (Dice(seed), 0);
        while !stop.load(Ordering::Relaxed) {
            change(&client, &mut dice).await;
            changes += 1;
        }
        changes
    })
}

async fn a_copy_under_writes_ends_as_postgresql(version: Version) {
    let copied = Copied::new(version, LARGE, "FOR ALL TABLES").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers = [write(&copied, stop.clone(), 1).await, write(&copied, stop.clone(), 2).await];
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut follow = copied.start(json!({ "mock_delay_ms": 20, "flush_batch_size": 100 })).await;
    until_copied(&mut follow).await;
    stop.store(true, Ordering::Relaxed);
    let mut changes = 0;
    for writer in writers {
        changes += writer.await.unwrap();
    }
    assert!(changes > 100, "{changes}");
    let (total, copying) = copied.drained(follow).await;
    copied.assert_large_is_same().await;
    let copying = copying.unwrap();
    assert!(copying.complete && copying.rows() > 15_000, "{copying:?}");
    assert_eq!(copying.tables[0].percent(), 100.0);
    // Copied rows are none of the stream's, and have no lag.
    assert_eq!(total.counts.rows, total.lag.commit_to_flushed.count());
}

async fn a_copy_is_of_the_moment_the_slot_starts_at(version: Version) {
    let copied = Copied::new(version, LARGE, "FOR ALL TABLES").await;
    let before = copied.source(&["id", "n", "pad"], "t").await;
    let exported = copied.exported().await;
    let mut dice = Dice(3);
    for _ in 0..300 {
        change(&copied.database.client, &mut dice).await;
    }
    let follow =
        Follow::start(copied.following(&json!({})), Some(exported), News::default()).await.unwrap();
    let (total, copying) = copied.drained(follow).await;
    assert_eq!(copying.unwrap().rows(), before.len() as u64);
    // Copied rows are none of the stream's, and have no lag.
    assert!(total.counts.rows < 3_000, "{:?}", total.counts);
    assert_eq!(total.counts.rows, total.lag.commit_to_flushed.count());
    let copied_rows: Vec<_> = copied
        .given()
        .into_iter()
        .flat_map(|(_, given)| match given {
            Given::Rows(rows) => rows,
            Given::Truncated => panic!("truncated"),
        })
        .collect();
    let oldest = copied_rows.iter().map(|row| row.version).min().unwrap();
    let mut at_start: Vec<_> =
        copied_rows.into_iter().filter(|row| row.version == oldest).map(|row| row.values).collect();
    at_start.sort();
    copied.assert_same(&at_start, &before);
    copied.assert_large_is_same().await;
}

async fn pid_of(client: &Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

/// Its change lies before the position that the slot starts at, and its commit behind it.
async fn a_transaction_that_was_open_then_wins(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0), (2, 0)";
    let copied = Copied::new(version, sql, "FOR ALL TABLES").await;
    let address = &copied.database.address;
    let (first, second, third) =
        (connect(address).await, connect(address).await, connect(address).await);
    let write = "BEGIN; SELECT pg_current_xact_id()";
    first.batch_execute(write).await.unwrap();
    // Of two waits of the server for the end of what is open, this lies behind the first.
    let exporting = copied.exported();
    tokio::pin!(exporting);
    let until_waiting = |waits_for: i32| {
        let database = &copied.database;
        async move {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = \
                           'walbench exporter' AND $1 = ANY (pg_blocking_pids(pid))";
            loop {
                let row = database.client.query_one(waiting, &[&waits_for]).await.unwrap();
                if row.get::<_, i64>(0) > 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let (first_pid, second_pid) = (pid_of(&first).await, pid_of(&second).await);
    tokio::select! {
        () = until_waiting(first_pid) => {}
        _ = &mut exporting => panic!("a transaction is open"),
    }
    second.batch_execute(write).await.unwrap();
    first.batch_execute("COMMIT").await.unwrap();
    tokio::select! {
        () = until_waiting(second_pid) => {}
        _ = &mut exporting => panic!("another transaction is open"),
    }
    third.batch_execute("BEGIN; UPDATE t SET n = 1 WHERE id = 1").await.unwrap();
    let changed: i64 = copied
        .database
        .client
        .query_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint", &[])
        .await
        .unwrap()
        .get(0);
    second.batch_execute("COMMIT").await.unwrap();
    let exported = exporting.await;
    assert!(
        exported.consistent_lsn() > changed.cast_unsigned(),
        "the change lies before the start"
    );
    let follow =
        Follow::start(copied.following(&json!({})), Some(exported), News::default()).await.unwrap();
    third.batch_execute("COMMIT").await.unwrap();
    copied.drained(follow).await;
    let row = |id: &str, n: &str| vec![id.to_owned(), n.to_owned()];
    assert_eq!(copied.rows("public.t", &[0]), [row("1", "1"), row("2", "0")]);
}

async fn a_copy_that_was_stopped_goes_on(version: Version) {
    let copied = Copied::new(version, LARGE, "FOR ALL TABLES").await;
    let options = json!({
        "copy_state": copied.state(),
        "mock_delay_ms": 5,
        "flush_batch_size": 50,
        "copy_connections": 2,
    });
    let (mut dice, mut starts, mut rows) = (Dice(7), 1, 0);
    let mut follow = copied.start(options.clone()).await;
    let mut rewritten = false;
    loop {
        tokio::time::sleep(Duration::from_millis(30 + dice.roll(300))).await;
        follow.stop();
        follow.ended().await.unwrap();
        let copying = follow.copying().unwrap();
        rows += copying.rows();
        if copying.complete {
            break;
        }
        for _ in 0..40 {
            change(&copied.database.client, &mut dice).await;
        }
        // Once in the middle: then all of it is copied again.
        if starts == 3 {
            copied.database.execute("VACUUM FULL t").await;
            rewritten = true;
        }
        starts += 1;
        follow = copied.resume(options.clone()).await.unwrap();
        let done = follow.copying().unwrap().tables[0].pages_done;
        assert_eq!(done == 0, starts == 4 || done == 0, "rewritten: nothing of it counts");
    }
    assert!(starts > 4 && rewritten, "{starts}");
    // Twice, because it was rewritten, and what each of two connections had begun at each stop.
    let most = 2 * 22_000 + starts * 2 * 3_000;
    assert!(rows > 20_000 && rows < most, "what was done is not done again: {rows} of {most}");
    let state = std::fs::read_to_string(copied.state()).unwrap();
    assert!(state.contains("\"complete\": true"), "{state}");
    copied.until_inactive().await;
    let follow = copied.resume(options.clone()).await.unwrap();
    assert!(follow.copying().is_none(), "it is done");
    copied.drained(follow).await;
    copied.assert_large_is_same().await;
}

async fn lost_connections_come_back(version: Version) {
    let copied = Copied::new(version, LARGE, "FOR ALL TABLES").await;
    let mut follow = copied.start(json!({ "mock_delay_ms": 10, "flush_batch_size": 50 })).await;
    let mut dice = Dice(5);
    for rows in [1_000, 4_000] {
        until_rows(&mut follow, rows).await;
        for _ in 0..50 {
            change(&copied.database.client, &mut dice).await;
        }
        // The first time the exporter as well: then snapshots are of now.
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE application_name LIKE 'walbench %' AND datname = current_database()";
        copied.database.execute(ended).await;
    }
    copied.drained(follow).await;
    copied.assert_large_is_same().await;
}

async fn without_a_key_rows_come_once_or_not_at_all(version: Version) {
    let sql = "CREATE TABLE log (n int, note text); CREATE TABLE empty (n int);
               CREATE TABLE t (id int PRIMARY KEY);
               INSERT INTO log SELECT n % 10, repeat('x', 500) FROM generate_series(1, 5000) n;
               INSERT INTO t SELECT generate_series(1, 100)";
    let copied = Copied::new(version, sql, "FOR ALL TABLES").await;
    let options = json!({ "copy_state": copied.state(), "flush_batch_size": 100 });
    let exported = copied.exported().await;
    copied
        .database
        .execute("INSERT INTO log VALUES (99, 'later'); INSERT INTO empty VALUES (1)")
        .await;
    let follow =
        Follow::start(copied.following(&options), Some(exported), News::default()).await.unwrap();
    copied.drained(follow).await;
    let source = copied.source(&["n", "note"], "log").await;
    copied.assert_same(&copied.appended("public.log"), &source);
    assert_eq!(copied.appended("public.empty"), [["1"]]);

    // A slot that was there before has no snapshot to offer.
    let other = Copied::new(version, sql, "FOR ALL TABLES").await;
    drop(other.exported().await);
    let refusal = other.refusal(json!({})).await;
    assert!(refusal.contains("\"public\".\"log\" can't be copied: without a key"), "{refusal}");
    assert!(refusal.contains("hint: give the table a primary key"), "{refusal}");
    assert!(!refusal.contains("\"empty\""), "it has no rows: {refusal}");
}

async fn a_table_without_a_key_that_was_under_way_is_refused(version: Version) {
    let sql = "CREATE TABLE log (n int, note text); CREATE TABLE t (id int PRIMARY KEY, pad text);
               INSERT INTO log SELECT n, repeat('x', 500) FROM generate_series(1, 5000) n;
               INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 5000) n";
    let copied = Copied::new(version, sql, "FOR ALL TABLES").await;
    let options = json!({
        "copy_state": copied.state(), "flush_batch_size": 10, "mock_delay_ms": 20,
    });
    let mut follow = copied.start(options.clone()).await;
    until_rows(&mut follow, 100).await;
    follow.stop();
    follow.ended().await.unwrap();
    assert!(!follow.copying().unwrap().complete);
    let refusal = copied.refusal(options).await;
    assert!(refusal.contains("\"public\".\"log\" can't be copied"), "{refusal}");

    // One that is done is not in the way.
    let other = Copied::new(version, sql, "FOR ALL TABLES").await;
    let mut options = json!({
        "copy_state": other.state(), "flush_batch_size": 100, "mock_delay_ms": 20,
        "copy_connections": 1,
    });
    let mut follow = other.start(options.clone()).await;
    until_rows(&mut follow, 6_000).await;
    follow.stop();
    follow.ended().await.unwrap();
    assert!(!follow.copying().unwrap().complete);
    other.database.execute("VACUUM FULL log").await;
    other.database.execute("INSERT INTO log VALUES (-1, 'later')").await;
    options["mock_delay_ms"] = json!(0);
    let follow = other.resume(options).await.unwrap();
    other.drained(follow).await;
    let source = other.source(&["n", "note"], "log").await;
    other.assert_same(&other.appended("public.log"), &source);
    let source = other.source(&["id", "pad"], "t").await;
    other.assert_same(&other.rows("public.t", &[0]), &source);
}

const PARTITIONED: &str = "
    CREATE TABLE p (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
    CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE TABLE p2 (note text, gone int, day int NOT NULL, id int NOT NULL);
    ALTER TABLE p2 DROP COLUMN gone;
    ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
    CREATE TABLE rest PARTITION OF p DEFAULT PARTITION BY LIST (day);
    CREATE TABLE p3 PARTITION OF rest FOR VALUES IN (3);
    INSERT INTO p SELECT n, n % 3 + 1, 'note ' || n FROM generate_series(1, 300) n;
    CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
    INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2)";

async fn partitions_are_copied_as_they_are_published(version: Version) {
    for via_root in [true, false] {
        let published =
            format!("FOR TABLE p, parent WITH (publish_via_partition_root = {via_root})");
        let copied = Copied::new(version, PARTITIONED, &published).await;
        let follow = copied.start(json!({})).await;
        copied
            .database
            .execute("UPDATE p SET day = 2 WHERE id = 3; DELETE FROM p WHERE id = 4")
            .await;
        let (_, copying) = copied.drained(follow).await;
        assert_eq!(copying.unwrap().rows(), 302);
        if via_root {
            let source = copied.source(&["id", "day", "note"], "p").await;
            copied.assert_same(&copied.rows("public.p", &[0, 1]), &source);
        } else {
            let source = copied.source(&["id", "day", "note"], "p1").await;
            copied.assert_same(&copied.rows("public.p1", &[0, 1]), &source);
            // Its columns stand in its own order.
            let source = copied.source(&["note", "day", "id"], "p2").await;
            copied.assert_same(&copied.rows("public.p2", &[1, 2]), &source);
            let source = copied.source(&["id", "day", "note"], "p3").await;
            copied.assert_same(&copied.rows("public.p3", &[0, 1]), &source);
        }
        assert_eq!(copied.rows("public.parent", &[0]), [["1"]]);
        assert_eq!(copied.rows("public.child", &[0]), [["2"]]);
    }
}

async fn only_what_is_published_is_copied(version: Version) {
    let sql = "
        CREATE TABLE t (id int PRIMARY KEY, secret text, twice int GENERATED ALWAYS AS (id * 2) STORED,
                        note text);
        INSERT INTO t (id, secret, note) SELECT n, 'secret', 'note' FROM generate_series(1, 100) n;
        CREATE TABLE other (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
        INSERT INTO other SELECT generate_series(1, 10);
        CREATE TABLE hidden (id int PRIMARY KEY)";
    let published = "FOR TABLE t (id, note) WHERE (id > 90 AND id % 10 < 8), other";
    let copied = Copied::new(version, sql, published).await;
    let mut follow = copied.start(json!({})).await;
    until_copied(&mut follow).await;
    let changes = "DELETE FROM t WHERE id = 5; UPDATE t SET id = 1000 WHERE id = 91;
                   UPDATE t SET id = 5 WHERE id = 92; UPDATE t SET id = 2000 WHERE id = 7";
    copied.database.execute(changes).await;
    copied.drained(follow).await;
    let source = copied.source(&["id", "note"], "t WHERE id > 90 AND id % 10 < 8").await;
    copied.assert_same(&copied.rows("public.t", &[0]), &source);
    assert_eq!(copied.rows("public.other", &[0]).len(), 10);
    assert_eq!(copied.rows("public.other", &[0])[0], ["1"]);

    // Since PostgreSQL 18 generated columns can be published.
    let number: i32 = copied
        .database
        .client
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .unwrap()
        .get(0);
    if number >= 180_000 {
        let published = "FOR TABLE other WITH (publish_generated_columns = stored)";
        let copied = Copied::new(version, sql, published).await;
        let follow = copied.start(json!({})).await;
        copied.drained(follow).await;
        let source = copied.source(&["id", "twice"], "other").await;
        copied.assert_same(&copied.rows("public.other", &[0]), &source);
    }
}

async fn both_forms_make_the_same_rows(version: Version) {
    let sql = r#"
        CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE TABLE t (id int PRIMARY KEY, b bool, s smallint, l bigint, r real, d double precision,
            m numeric(12, 3), u numeric, x text, c char(5), y bytea, da date, ts timestamptz, uu uuid,
            j jsonb, a int[], ta text[], i interval, n inet, e mood, ti time, bi bit(3), q xid);
        INSERT INTO t VALUES
            (1, true, -3, 1 << 40, 1.5, 'NaN', -12.345, 1e30, E'a\tb\nc\\d\r\b\f\x0b\\N''', 'ab',
             '\x00ff5c', '2024-02-29', '2024-02-29 12:00:00.5+02', gen_random_uuid(),
             '{"a": "\\t"}', '{1,NULL,3}', E'{"a b",NULL,"\\""}', '1 year -3 days', '10.0.0.1/8',
             'ok', '12:00', '101', '7'),
            (2, false, 0, 0, 0, 0, 0, 0, '', '', '', '1970-01-01', 'epoch', gen_random_uuid(), 'null',
             '{}', '{}', '0', '::1', 'sad', '00:00', '000', '0'),
            (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
             NULL, NULL, NULL, NULL, NULL, NULL, NULL);
        INSERT INTO t (id, x) SELECT n, repeat(chr(n), n) FROM generate_series(4, 300) n"#;
    let copied = Copied::new(version, sql, "FOR ALL TABLES").await;
    let mut both = Vec::new();
    for form in ["text", "binary"] {
        let options = json!({ "column_format": form, "mock_dir": copied.folder.path().join(form) });
        drop(copied.exported().await);
        let follow = copied.resume(options).await.unwrap();
        copied.drained(follow).await;
        copied.drop_slot().await;
        let mut rows: Vec<_> = given(&copied.folder.path().join(form))
            .into_iter()
            .flat_map(|(_, given)| match given {
                Given::Rows(rows) => rows,
                Given::Truncated => panic!("truncated"),
            })
            .map(|row| (row.values, row.bytes))
            .collect();
        rows.sort();
        both.push(rows);
    }
    assert_eq!(both[0].len(), 300);
    assert_eq!(both[0], both[1]);
    let first = &both[0].iter().find(|(values, _)| values[0] == "1").unwrap().0;
    assert_eq!(first[8], "a\tb\nc\\d\r\x08\x0c\x0b\\N'");
}

impl Copied {
    async fn drop_slot(&self) {
        let drop = "SELECT pg_drop_replication_slot($1)";
        while self.database.client.execute(drop, &[&self.database.slot]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn odd_tables_are_copied(version: Version) {
    let sql = r#"
        CREATE SCHEMA "it's ""odd""";
        CREATE TABLE "it's ""odd"""."Ta.ble; --" ("Select" int PRIMARY KEY, "a ""b"" 'c'" text);
        INSERT INTO "it's ""odd"""."Ta.ble; --" VALUES (1, 'one'), (2, NULL);
        CREATE TABLE empty (id int PRIMARY KEY);
        CREATE TABLE wide (id int PRIMARY KEY, value text, mirror bytea, r int4range);
        INSERT INTO wide SELECT n, repeat(chr(64 + n), 2000000), NULL, '[1,2)' FROM generate_series(1, 4) n;
        INSERT INTO wide VALUES (5, repeat(E'\\\t', 1500000), decode(repeat('00ff', 700000), 'hex'));
        CREATE DOMAIN amount AS numeric(10, 2); CREATE DOMAIN price AS amount CHECK (VALUE > 0);
        CREATE DOMAIN numbers AS int[]; CREATE DOMAIN short AS varchar(5);
        CREATE TABLE domains (id int PRIMARY KEY, a amount, p price, n numbers, s short, m amount[],
                              v varchar(7), ts timestamp(3), c char(3));
        INSERT INTO domains VALUES (1, 1.5, 2.25, '{1,2}', 'short', '{1,2}', 'v', 'epoch', 'abc');
        CREATE TABLE rights (id int PRIMARY KEY, acl aclitem);
        INSERT INTO rights VALUES (1, 'postgres=r/postgres');
        CREATE TABLE dropped (a int, id int PRIMARY KEY, b int);
        INSERT INTO dropped VALUES (1, 2, 3);
        ALTER TABLE dropped DROP COLUMN a; ALTER TABLE dropped ADD COLUMN c int DEFAULT 7"#;
    let copied = Copied::new(version, sql, "FOR ALL TABLES").await;
    let follow = copied.start(json!({})).await;
    let (_, copying) = copied.drained(follow).await;
    let odd = copied.rows(r#"it's "odd".Ta.ble; --"#, &[0]);
    assert_eq!(odd, [["1", "one"], ["2", "NULL"]]);
    let wide = copied.rows("public.wide", &[0]);
    let source = copied.source(&["id", "value", "encode(mirror, 'hex')", "r"], "wide").await;
    copied.assert_same(&wide, &source);
    assert_eq!(copied.rows("public.rights", &[0]), [["1", "postgres=r/postgres"]]);
    assert_eq!(copied.rows("public.dropped", &[0]), [["2", "3", "7"]]);
    let domains = copied.rows("public.domains", &[0]);
    assert_eq!(domains[0][..5], ["1", "1.50", "2.25", "[1, 2]", "short"]);
    let copying = copying.unwrap();
    assert!(copying.tables.iter().all(|table| table.percent() == 100.0), "{copying:?}");
    assert_eq!(copying.rows(), 2 + 5 + 1 + 1 + 1);
}

async fn an_existing_slot_is_copied_as_rows_are_now(version: Version) {
    let copied = Copied::new(version, LARGE, "FOR ALL TABLES").await;
    drop(copied.exported().await);
    let mut dice = Dice(9);
    for _ in 0..200 {
        change(&copied.database.client, &mut dice).await;
    }
    copied.database.execute("TRUNCATE t; INSERT INTO t VALUES (1, 1, 'after')").await;
    let follow = copied.resume(json!({})).await.unwrap();
    assert!(
        follow.notes().iter().any(|note| note.contains("there before")),
        "{:?}",
        follow.notes()
    );
    copied.drained(follow).await;
    copied.assert_large_is_same().await;
    assert_eq!(copied.source(&COLUMNS, "t").await.len(), 1);
}

async fn an_end_that_was_set_is_where_rows_are_exact(version: Version) {
    let copied = Copied::new(version, LARGE, "FOR ALL TABLES").await;
    drop(copied.exported().await);
    let (_, now) = copied.database.positions().await;
    let slowly = json!({ "mock_delay_ms": 20, "flush_batch_size": 100 });
    let following = Following { until_lsn: Some(now), ..copied.following(&slowly) };
    let mut follow = Follow::start(following, None, News::default()).await.unwrap();
    until_rows(&mut follow, 1_000).await;
    // All of it lies behind that end; what of it was copied is undone by what comes behind it.
    let changes = "DELETE FROM t WHERE id % 2 = 0; UPDATE t SET id = -id WHERE id % 3 = 0";
    copied.database.execute(changes).await;
    assert!(!follow.copying().unwrap().ended);
    follow.ended().await.unwrap();
    copied.assert_large_is_same().await;
}

/// In the snapshot of the slot's start, a table that ALTER TABLE has rewritten is empty.
async fn a_table_that_is_rewritten_meanwhile_is_copied_anew(version: Version) {
    let copied = Copied::new(version, LARGE, "FOR ALL TABLES").await;
    let options = json!({
        "copy_state": copied.state(), "mock_delay_ms": 20, "flush_batch_size": 100,
    });
    let mut follow = copied.start(options.clone()).await;
    let mut dice = Dice(11);
    for (rows, rewrite) in [
        (1_000, "ALTER TABLE t ALTER n TYPE int USING n + 0"),
        (4_000, "VACUUM FULL t"),
        // Its values have as many bytes as before.
        (7_000, "ALTER TABLE t ALTER n TYPE real"),
    ] {
        until_rows(&mut follow, rows).await;
        for _ in 0..20 {
            change(&copied.database.client, &mut dice).await;
        }
        copied.database.execute(rewrite).await;
    }
    // What comes in another type than the catalogue had is refused, and not taken for the old one.
    let failure = follow.ended().await.unwrap_err().to_string();
    assert!(failure.contains("\"public\".\"t\" can't be copied"), "{failure}");
    assert!(failure.contains("its columns were changed (ALTER TABLE)"), "{failure}");
    copied.database.execute("ALTER TABLE t ALTER n TYPE bigint").await;
    let follow = copied.resume(options).await.unwrap();
    let (_, copying) = copied.drained(follow).await;
    assert!(copying.unwrap().rows() > 15_000, "from the start");
    copied.assert_large_is_same().await;
}

async fn the_state_of_something_else_is_refused(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 10)";
    let copied = Copied::new(version, sql, "FOR ALL TABLES").await;
    let options = json!({ "copy_state": copied.state() });
    let mut follow = copied.start(options.clone()).await;
    until_copied(&mut follow).await;
    copied.drained(follow).await;
    let text = std::fs::read_to_string(copied.state()).unwrap();

    std::fs::write(copied.state(), &text[..text.len() / 2]).unwrap();
    let refusal = copied.refusal(options.clone()).await;
    assert!(refusal.contains("state.json can't be read"), "{refusal}");

    std::fs::write(copied.state(), text.replace(&copied.database.slot, "another")).unwrap();
    let refusal = copied.refusal(options.clone()).await;
    assert!(refusal.contains("of slot another, and this one is slot_test_"), "{refusal}");

    // As if it had not been complete, of a slot that has gone on since.
    let incomplete = text.replace("\"complete\": true", "\"complete\": false");
    std::fs::write(copied.state(), incomplete).unwrap();
    let refusal = copied.refusal(options.clone()).await;
    assert!(refusal.contains("of a slot that starts at"), "{refusal}");

    // A slot of the same name that was made anew.
    std::fs::write(copied.state(), &text).unwrap();
    copied.drop_slot().await;
    let consumer = copied.following(&options).consumer;
    let stale = walbench_consumer::copy::check_no_state(&consumer).unwrap_err();
    assert!(stale.failure.to_string().contains("which is gone"), "{stale:?}");
    let exported = copied.exported().await;
    let error = Follow::start(copied.following(&options), Some(exported), News::default())
        .await
        .unwrap_err();
    assert!(error.failure.to_string().contains("was made before"), "{error:?}");
}

async fn a_slow_sink_bounds_what_is_in_flight(version: Version) {
    let copied = Copied::new(version, LARGE, "FOR ALL TABLES").await;
    let options = json!({
        "mock_delay_ms": 30, "max_in_flight_bytes": 500_000, "max_flush_concurrency": 16,
        "mock_level": "encode",
    });
    let mut follow = copied.start(options).await;
    let mut most = 0;
    while !follow.copying().unwrap().ended {
        most = most.max(follow.position().in_flight_bytes);
        tokio::time::sleep(Duration::from_millis(2)).await;
        if most > 0 && follow.copying().unwrap().rows() > 10_000 {
            follow.stop();
            follow.ended().await.unwrap();
        }
    }
    assert!(most > 50_000 && most <= 500_000, "{most}");
}

async fn columns_that_were_nullable_at_the_start_are_written(version: Version) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, NULL)";
    let copied = Copied::new(version, sql, "FOR ALL TABLES").await;
    let exported = copied.exported().await;
    copied.database.execute("UPDATE t SET note = 'x'; ALTER TABLE t ALTER note SET NOT NULL").await;
    let follow =
        Follow::start(copied.following(&json!({})), Some(exported), News::default()).await.unwrap();
    let (_, copying) = copied.drained(follow).await;
    assert_eq!(copying.unwrap().rows(), 1);
    assert_eq!(copied.rows("public.t", &[0]), [["1", "x"]]);
}

//! `walbench verify` on what `walbench follow` has brought from PostgreSQL into both kinds of
//! ClickHouse: nothing is found where all arrived, and whatever is done to it is found, counted and
//! named.

#![allow(clippy::await_holding_lock, reason = "each of these tests has a runtime of its own")]

use serde_json::{Value, json};

use crate::clickhouse::{KINDS, Kind, Private};
use crate::cluster::Version;
use crate::database::{Database, PUBLICATION};
use crate::home::{Ended, Home, Walbench};
use crate::turns::together;
use crate::type_values::{Becomes, GROUPS, TYPES};

/// A database that is followed into a private ClickHouse.
struct Replicated {
    home: Home,
    database: Database,
    publication: String,
    kind: Kind,
    server: Private,
}

impl Replicated {
    /// What the statements make, all of it published.
    async fn new(kind: Kind, sql: &str) -> Self {
        let database = Database::with(Version::Pg15OrInstalled, sql).await;
        Self::of(database, PUBLICATION, kind)
    }

    fn of(database: Database, publication: &str, kind: Kind) -> Self {
        let (home, publication, server) = (Home::new(), publication.into(), Private::start(kind));
        Self { home, database, publication, kind, server }
    }

    async fn execute(&self, sql: &str) {
        self.database.execute(sql).await;
    }

    fn walbench(&self, command: &str) -> Walbench {
        let command = self.home.walbench([command, "--publication", &self.publication]);
        let command = command.args(["--postgres", &self.database.address.to_url()]);
        command.args(["--clickhouse", &self.server.login_url(), "--json"])
    }

    /// Brings over what was written until now.
    fn replicate(&self) {
        let follow = self.walbench("follow").args(["--until-lsn", "current"]);
        follow.args(["--slot", &self.database.slot]).ended().with_code(0);
    }

    fn verify(&self) -> Verified {
        Verified::of(&self.walbench("verify").ended())
    }

    #[track_caller]
    fn assert_same(&self) -> Verified {
        let verified = self.verify();
        assert_eq!(
            (verified.code, &verified.report["verdict"]),
            (0, &json!("same")),
            "{verified:#?}"
        );
        verified
    }

    /// Runs statements in ClickHouse.
    #[track_caller]
    fn tamper(&self, statements: &[&str]) {
        // Row versions that are inserted at once shall stay as many as they are.
        let settings = match self.kind {
            Kind::Embedded => "?database=walbench&optimize_on_insert=0",
            Kind::Debian => "?database=walbench",
        };
        for statement in statements {
            self.server.answer(settings, statement);
        }
    }

    /// Empties a table, and fills it again by these, which read what was there from `was`.
    #[track_caller]
    fn refill(&self, table: &str, inserts: &[&str]) {
        self.tamper(&[
            &format!("SYSTEM STOP MERGES walbench.{table}"),
            &format!("CREATE TABLE was ENGINE = Memory AS SELECT * FROM {table}"),
            &format!("TRUNCATE TABLE {table}"),
        ]);
        for select in inserts {
            self.tamper(&[&format!("INSERT INTO {table} {select}")]);
        }
        self.tamper(&["DROP TABLE was"]);
    }

    fn end(self) {
        self.server.end();
    }
}

/// What `walbench verify --json` said.
#[derive(Debug)]
struct Verified {
    code: i32,
    report: Value,
}

/// What is counted of rows that differ, in this order.
const CLASSES: [&str; 5] = ["missing", "extra", "stale", "wrong", "conflicting"];

impl Verified {
    fn of(ended: &Ended) -> Self {
        let report = serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}{}", ended.stdout, ended.stderr));
        Self { code: ended.code(), report }
    }

    fn table(&self, name: &str) -> &Value {
        let tables = self.report["tables"].as_array().unwrap();
        tables.iter().find(|table| table["table"] == format!("public.{name}")).unwrap()
    }

    /// Rows of PostgreSQL's that are matched, and those that differ, class by class.
    fn counts(&self, name: &str) -> (u64, [u64; 5]) {
        let table = self.table(name);
        let number = |key: &str| table[key].as_u64().unwrap();
        (number("matched"), CLASSES.map(number))
    }

    /// Class, key and reason of what is shown.
    fn shown(&self, name: &str) -> Vec<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let findings = self.table(name)["findings"].as_array().unwrap();
        let shown = findings.iter().map(|finding| {
            let key = finding["key"].as_array().unwrap().iter();
            let key: Vec<_> =
                key.map(|pair| format!("{}={}", text(&pair[0]), text(&pair[1]))).collect();
            (text(&finding["class"]), key.join(","), text(&finding["reason"]))
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort();
        shown
    }
}

/// Tables that are alike, one for each fault.
const FAULTS: [&str; 9] = [
    "intact",
    "lost",
    "replayed",
    "swapped",
    "stale",
    "blanked",
    "undeleted",
    "rolled_back",
    "tied",
];

/// 900 rows each, of which 100 were updated and 50 again; another 100 were deleted.
fn fault_tables() -> String {
    let table = |name: &&str| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, note text NOT NULL, large text NOT NULL,
                                  updated_at timestamptz NOT NULL);
             ALTER TABLE {name} REPLICA IDENTITY FULL;
             ALTER TABLE {name} ALTER large SET STORAGE EXTERNAL;"
        )
    };
    FAULTS.iter().map(table).collect::<String>()
        + "CREATE TABLE unkeyed (n int, note text); ALTER TABLE unkeyed REPLICA IDENTITY FULL;"
}

fn fault_rows() -> String {
    let rows = |name: &&str| {
        format!(
            "INSERT INTO {name} SELECT n, 'first', repeat(n::text, 1000), '2026-01-01'
             FROM generate_series(1, 1000) n;
             UPDATE {name} SET note = 'second', updated_at = '2026-01-02' WHERE id <= 100;
             UPDATE {name} SET note = 'third', updated_at = '2026-01-03' WHERE id <= 50;
             DELETE FROM {name} WHERE id > 900;"
        )
    };
    FAULTS.iter().map(rows).collect::<String>()
        + "INSERT INTO unkeyed SELECT n % 5, 'note' FROM generate_series(1, 20) n;"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_planted_fault_is_found_counted_and_named() {
    for kind in KINDS {
        let _turn = together();
        let replicated = Replicated::new(kind, &fault_tables()).await;
        replicated.execute(&fault_rows()).await;
        replicated.replicate();
        let clean = replicated.assert_same();
        assert_eq!(clean.counts("lost"), (900, [0; 5]));
        assert_eq!(clean.table("intact")["final_rows"], 900);
        assert!(clean.table("lost")["tombstones"].as_u64().unwrap() >= 100);
        plant(&replicated);
        let found = replicated.verify();
        assert_eq!((found.code, &found.report["verdict"]), (1, &json!("different")), "{found:#?}");
        check(&found, kind);
        replicated.end();
    }
}

/// Each table has its own fault, and the others none.
fn plant(replicated: &Replicated) {
    let columns = "id, note, large, updated_at";
    let day_before = match replicated.kind {
        Kind::Embedded => "updated_at - INTERVAL 1 DAY",
        // µs are a number there.
        Kind::Debian => "updated_at - 86400000000",
    };
    let all = "SELECT * FROM was";
    replicated.refill("intact", &[all]);
    replicated.refill("lost", &["SELECT * FROM was WHERE NOT (id BETWEEN 201 AND 300)"]);
    replicated.refill("replayed", &[all, "SELECT * FROM was WHERE id BETWEEN 301 AND 350"]);
    replicated.refill(
        "swapped",
        &[
            "SELECT * FROM was WHERE id NOT IN (10, 20)",
            &format!(
                "SELECT {columns}, _version - 1, 0 FROM was WHERE id IN (10, 20) AND note = 'third'"
            ),
            &format!(
                "SELECT id, 'second', large, {day_before}, _version, 0 FROM was
                 WHERE id IN (10, 20) AND note = 'third'"
            ),
        ],
    );
    replicated.refill(
        "stale",
        &[
            "SELECT * FROM was WHERE id > 5",
            &format!(
                "SELECT id, 'second', large, {day_before}, _version - 1, 0 FROM was
                 WHERE id <= 5 AND note = 'third'"
            ),
        ],
    );
    replicated.refill(
        "blanked",
        &[
            "SELECT * FROM was WHERE id <> 77",
            "SELECT id, note, '', updated_at, _version, 0 FROM was
             WHERE id = 77 AND note = 'second'",
        ],
    );
    replicated.refill(
        "undeleted",
        &[
            "SELECT * FROM was WHERE NOT (id BETWEEN 950 AND 952)",
            &format!(
                "SELECT {columns}, _version - 1, 0 FROM was
                 WHERE id BETWEEN 950 AND 952 AND _is_deleted = 1"
            ),
        ],
    );
    replicated.refill(
        "rolled_back",
        &[all, "SELECT id + 5000, note, large, updated_at, _version, 0 FROM was WHERE id IN (150, 151)"],
    );
    replicated.refill(
        "tied",
        &[all, "SELECT id, 'other', large, updated_at, _version, 0 FROM was WHERE id = 800"],
    );
    replicated.refill(
        "unkeyed",
        &[
            "SELECT * FROM was WHERE n <> 3",
            "SELECT * FROM was WHERE n = 3 LIMIT 1",
            "SELECT * FROM was WHERE n = 4 LIMIT 2",
        ],
    );
}

fn check(found: &Verified, kind: Kind) {
    for (table, matched, differing) in [
        ("intact", 900, [0, 0, 0, 0, 0]),
        ("lost", 800, [100, 0, 0, 0, 0]),
        ("replayed", 900, [0, 0, 0, 0, 0]),
        ("swapped", 898, [0, 0, 2, 0, 0]),
        ("stale", 895, [0, 0, 5, 0, 0]),
        ("blanked", 899, [0, 0, 0, 1, 0]),
        ("undeleted", 900, [0, 3, 0, 0, 0]),
        ("rolled_back", 900, [0, 2, 0, 0, 0]),
        ("tied", 899, [0, 0, 0, 0, 1]),
        ("unkeyed", 17, [3, 2, 0, 0, 0]),
    ] {
        assert_eq!(found.counts(table), (matched, differing), "{kind:?} {table}");
        let duplicated = match table {
            "replayed" => 50,
            "unkeyed" => 2,
            _ => 0,
        };
        assert_eq!(found.table(table)["duplicated"], duplicated, "{kind:?} {table}");
    }
    assert_eq!(found.shown("intact"), []);
    let lost = found.shown("lost");
    assert_eq!(lost.len(), 10);
    assert!(lost.iter().all(|(class, _, reason)| class == "missing" && reason == "not there"));
    let swapped = found.shown("swapped");
    let keys: Vec<_> = swapped.iter().map(|(_, key, _)| key.as_str()).collect();
    assert_eq!(keys, ["id=10", "id=20"]);
    assert!(swapped[0].2.contains("its last state is stored at"), "{swapped:?}");
    assert!(found.shown("stale")[0].2.contains("with timestamps that are older"));
    let differences = &found.table("stale")["findings"][0]["columns"];
    assert_eq!(differences[0]["column"], "note");
    assert_eq!(
        (&differences[0]["postgres"], &differences[0]["clickhouse"]),
        (&json!("'third'"), &json!("'second'"))
    );
    let expected = json!([{
        "column": "large",
        "postgres": format!("'{}7… (2002 characters)", "77".repeat(39)),
        "clickhouse": "''",
    }]);
    assert_eq!(found.table("blanked")["findings"][0]["columns"], expected);
    let keys: Vec<_> = found.shown("undeleted").into_iter().map(|(_, key, _)| key).collect();
    assert_eq!(keys, ["id=950", "id=951", "id=952"]);
    let keys: Vec<_> = found.shown("rolled_back").into_iter().map(|(_, key, _)| key).collect();
    assert_eq!(keys, ["id=5150", "id=5151"]);
    let unkeyed = found.shown("unkeyed");
    assert_eq!(
        (unkeyed[0].1.as_str(), unkeyed[1].1.as_str()),
        ("n=4,note='note'", "n=3,note='note'")
    );
}

/// A table with a column for each type, and a row for each place in the lists of their values.
async fn every_type(database: &Database) -> Vec<String> {
    let mut columns: Vec<(String, Vec<&str>)> = Vec::new();
    for (needs, group) in GROUPS {
        if database.client.batch_execute(needs).await.is_err() {
            continue;
        }
        for kind in group {
            let held = |value: &&(&'static str, Becomes)| matches!(value.1, Becomes::Value(_));
            let values: Vec<_> = kind.values.iter().filter(held).map(|value| value.0).collect();
            if !values.is_empty() {
                columns.push((kind.kind.into(), values));
            }
        }
    }
    let names: Vec<_> = (0..columns.len()).map(|n| format!("c{n}")).collect();
    let declared = names.iter().zip(&columns).map(|(name, (kind, _))| format!("{name} {kind}"));
    let declared: Vec<_> = declared.collect();
    let create = format!(
        "CREATE TABLE every (id int PRIMARY KEY, {}); ALTER TABLE every REPLICA IDENTITY FULL",
        declared.join(", ")
    );
    database.execute(&create).await;
    let rows = columns.iter().map(|(_, values)| values.len()).max().unwrap();
    let row = |row: usize| {
        let values = columns
            .iter()
            .map(|(_, values)| format!("'{}'", values[row % values.len()].replace('\'', "''")));
        format!("INSERT INTO every VALUES ({row}, {})", values.collect::<Vec<_>>().join(", "))
    };
    let mut inserts: Vec<_> = (0..rows).map(row).collect();
    inserts.push(format!("INSERT INTO every (id) VALUES ({rows})"));
    inserts
}

const CLEAN_RUNS: u64 = 20;

/// Changes of a run, other ones in each.
fn changes(run: u64) -> String {
    let (first, last) = (run * 100, run * 100 + 99);
    format!(
        "INSERT INTO event SELECT n, now(), 'kind', n % 9, gen_random_uuid(), n / 3.0, n % 2 = 0,
                 NULLIF('source ' || n % 3, 'source 0'), repeat('x', n % 50)
             FROM generate_series({first}, {last}) n;
         UPDATE event SET kind = 'run {run}', source = NULL WHERE id % 7 = {run} % 7;
         UPDATE event SET id = -id WHERE id > 0 AND id % 11 = {run} % 11
             AND NOT EXISTS (SELECT FROM event other WHERE other.id = -event.id);
         DELETE FROM event WHERE id % 13 = {run} % 13;
         INSERT INTO event VALUES
             (13 * ({run} % 3), now(), 'again', 1, gen_random_uuid(), 0, true, NULL, '')
             ON CONFLICT DO NOTHING;
         UPDATE every SET id = id + 1000 WHERE id % 5 = {run} % 5 AND id < 1000;
         UPDATE every SET c0 = NOT c0, c1 = NULL WHERE id % 3 = {run} % 3;
         DELETE FROM every WHERE id = 1000 + {run} % 4;
         INSERT INTO plain SELECT n, NULLIF(n % 4, 0)::text FROM generate_series(1, 10) n;"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_where_all_arrived() {
    for kind in KINDS {
        let _turn = together();
        let event = include_str!("../../../producer/src/workload/event.sql");
        let sql = format!(
            "{TYPES}; {event}; CREATE TABLE plain (n int, note text);
             CREATE TABLE unused (id int PRIMARY KEY)"
        );
        let replicated = Replicated::new(kind, &sql).await;
        // Values that depend on a session's time zone are told in UTC.
        replicated.execute("SET TIME ZONE 'UTC'").await;
        let inserts = every_type(&replicated.database).await;
        replicated.execute(&inserts.join(";")).await;
        for run in 0..CLEAN_RUNS {
            replicated.execute(&changes(run)).await;
            replicated
                .execute("BEGIN; DELETE FROM event; UPDATE every SET c0 = NULL; ROLLBACK")
                .await;
            replicated.replicate();
            let same = replicated.assert_same();
            assert!(same.counts("event").0 > 50, "{same:#?}");
            assert!(same.counts("every").0 > 0, "{same:#?}");
            assert_eq!(same.counts("plain").0, 10 * (run + 1));
        }
        replicated.end();
    }
}

/// Lists of columns, filters, partitions and generated columns are as the publication has them; a
/// type that was another one is compared as what it is now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_is_what_is_compared() {
    let _turn = together();
    let database = Database::new(Version::Pg15OrInstalled).await;
    let sql = "
        CREATE TABLE listed (id bigint PRIMARY KEY, note text, secret text, extra int);
        CREATE TABLE retyped (id int PRIMARY KEY, narrow int, wide int, text int, nullable int NOT NULL);
        CREATE TABLE filtered (id int PRIMARY KEY, note text);
        CREATE TABLE parts (id int, at date, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
        CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
        CREATE TABLE made (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
        CREATE PUBLICATION p FOR TABLE listed (id, note, extra), filtered WHERE (id > 5), parts, made, retyped
            WITH (publish_via_partition_root = true);";
    database.execute(sql).await;
    let slot = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    database.client.execute(slot, &[&database.slot]).await.unwrap();
    let replicated = Replicated::of(database, "p", Kind::Embedded);
    let sql = "
        INSERT INTO listed SELECT n, 'note', 'secret', n FROM generate_series(1, 10) n;
        INSERT INTO filtered SELECT n, 'note' FROM generate_series(1, 10) n;
        UPDATE filtered SET id = 100 WHERE id = 6;
        UPDATE filtered SET id = 2 - id WHERE id = 7;
        INSERT INTO parts SELECT n, '2026-01-25'::date + n, 'note' FROM generate_series(1, 10) n;
        UPDATE parts SET at = '2026-01-01' WHERE id > 8;
        INSERT INTO made SELECT n FROM generate_series(1, 10) n;
        INSERT INTO retyped SELECT n, n, n, n, n FROM generate_series(1, 10) n;";
    replicated.execute(sql).await;
    replicated.replicate();
    let same = replicated.assert_same();
    for (table, rows) in [("listed", 10), ("filtered", 4), ("parts", 10), ("made", 10)] {
        assert_eq!(same.counts(table).0, rows, "{table}");
    }
    // Wider, something else, and NULL where there was none; then narrower than at the destination,
    // and never NULL.
    let sql = "
        ALTER TABLE retyped ALTER wide TYPE bigint, ALTER text TYPE text,
                            ALTER nullable DROP NOT NULL;
        INSERT INTO retyped VALUES (11, -7, 5000000000, 'text', NULL)";
    replicated.execute(sql).await;
    replicated.replicate();
    assert_eq!(replicated.assert_same().counts("retyped").0, 11);
    replicated.execute("DELETE FROM retyped WHERE nullable IS NULL").await;
    replicated.replicate();
    let sql = "ALTER TABLE retyped ALTER nullable SET NOT NULL, ALTER narrow TYPE smallint";
    replicated.execute(sql).await;
    assert_eq!(replicated.assert_same().counts("retyped").0, 10);
    replicated.tamper(&[
        "INSERT INTO retyped SELECT id, 70000, wide, text, nullable, _version + 1, 0 FROM retyped
         WHERE id = 4",
    ]);
    assert_eq!(replicated.verify().counts("retyped"), (9, [0, 0, 1, 0, 0]));
    replicated.tamper(&["ALTER TABLE listed DROP COLUMN note", "DROP TABLE made"]);
    let found = replicated.verify();
    assert_eq!(found.code, 1);
    assert_eq!(found.counts("listed"), (10, [0; 5]));
    let absent = json!([{ "column": "note", "problem": "is absent there" }]);
    assert_eq!(found.table("listed")["columns"], absent);
    assert_eq!(found.counts("made"), (0, [10, 0, 0, 0, 0]));
    assert_eq!(found.table("made")["problem"], "there is no such table");
    let one = replicated.walbench("verify").args(["--table", "parts"]);
    let one = Verified::of(&one.ended());
    assert_eq!((one.code, one.report["tables"].as_array().unwrap().len()), (0, 1));
    replicated.end();
}

/// A sample is of the same rows on both sides, and is read by ranges where the key has an order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples() {
    let _turn = together();
    for kind in KINDS {
        let tables = "CREATE TABLE number (id bigint PRIMARY KEY, note text);
            CREATE TABLE word (a varchar, b int, PRIMARY KEY (a, b));
            CREATE TABLE thing (id uuid PRIMARY KEY);
            CREATE TABLE few (id int PRIMARY KEY);
            CREATE TABLE log (n int)";
        let replicated = Replicated::new(kind, tables).await;
        let fill = "INSERT INTO number SELECT n, 'x' FROM generate_series(-20000, 19999) n;
            INSERT INTO word SELECT 'it''s \' || n, n FROM generate_series(1, 40000) n;
            INSERT INTO thing SELECT gen_random_uuid() FROM generate_series(1, 40000);
            INSERT INTO few SELECT generate_series(1, 1000);
            INSERT INTO log SELECT generate_series(1, 1000)";
        replicated.execute(fill).await;
        replicated.replicate();
        let sample =
            || Verified::of(&replicated.walbench("verify").args(["--sample", "0.05"]).ended());
        let sampled = sample();
        assert_eq!((sampled.code, &sampled.report["sample"]), (0, &json!(0.05)), "{sampled:#?}");
        let by_range = |column: &str| json!({"by": "key_range", "column": column, "ranges": 20});
        let by_hash = json!({"by": "key_hash"});
        for (table, by, rows) in [
            ("number", by_range("id"), 1_900..2_100),
            ("word", by_range("a"), 1_900..2_100),
            ("thing", by_hash.clone(), 1_500..2_500),
            ("few", by_hash.clone(), 10..110),
            ("log", by_hash.clone(), 10..110),
        ] {
            let (matched, others) = sampled.counts(table);
            assert!(rows.contains(&matched) && others == [0; 5], "{table}: {sampled:#?}");
            assert_eq!(sampled.table(table)["sampled"], by);
        }
        // What lies beyond the last key that is known is in the last range.
        let (id, word) = ("9223372036854775807", "it\\'s ~");
        let server = &replicated.server;
        server.answer("", &format!("INSERT INTO walbench.number (id, _version) VALUES ({id}, 1)"));
        server.answer("", &format!("INSERT INTO walbench.word (a, _version) VALUES ('{word}', 1)"));
        replicated.execute("INSERT INTO number VALUES (-9223372036854775808, '')").await;
        let sampled = sample();
        assert_eq!(sampled.code, 1);
        assert_eq!(sampled.counts("number").1, [1, 1, 0, 0, 0], "{sampled:#?}");
        assert_eq!(sampled.counts("word").1, [0, 1, 0, 0, 0], "{sampled:#?}");
        replicated.end();
    }
}

/// Memory that is short changes nothing; rows that are on their way are waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_memory_and_rows_on_their_way() {
    let _turn = together();
    let table = "CREATE TABLE item (id int PRIMARY KEY, note text)";
    let replicated = Replicated::new(Kind::Embedded, table).await;
    replicated.execute("INSERT INTO item SELECT n, 'x' FROM generate_series(1, 30000) n").await;
    replicated.replicate();
    replicated.execute("INSERT INTO item SELECT n, 'x' FROM generate_series(30001, 60000) n").await;
    let verify = |arguments: &[&str]| {
        Verified::of(&replicated.walbench("verify").arguments(arguments).ended())
    };
    let sampled = verify(&["--sample", "0.1"]);
    let (matched, [missing, others @ ..]) = sampled.counts("item");
    assert!((2_000..4_000).contains(&matched) && (2_000..4_000).contains(&missing), "{sampled:#?}");
    assert_eq!(others, [0; 4]);
    let small = verify(&["--memory-mib", "1"]);
    assert_eq!(small.counts("item"), (30_000, [30_000, 0, 0, 0, 0]));
    let settling = replicated.walbench("verify").args(["--settle", "120"]).start();
    replicated.replicate();
    let settled = Verified::of(&settling.ended());
    assert_eq!((settled.code, settled.counts("item").1), (0, [0; 5]), "{settled:#?}");
    replicated.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_compared_is_said() {
    let _turn = together();
    let table = "CREATE TABLE item (id int PRIMARY KEY); CREATE PUBLICATION empty";
    let mut replicated = Replicated::new(Kind::Embedded, table).await;
    let unknown = replicated.walbench("verify").args(["--table", "nowhere"]).ended().with_code(2);
    unknown.said("\"nowhere\" is no table of the publication").said("it has public.item");
    let share = replicated.walbench("verify").args(["--sample", "2"]).ended().with_code(2);
    share.said("a number above 0 and up to 1");
    let text = replicated.home.walbench(["verify", "--publication", "empty"]);
    let text = text.args(["--postgres", &replicated.database.address.to_url()]);
    let text = text.args(["--clickhouse", &replicated.server.login_url()]).ended().with_code(3);
    text.answered("INCONCLUSIVE: the publication has no tables");
    replicated.publication = "nowhere".into();
    replicated.walbench("verify").ended().with_code(2).said("publication \"nowhere\"");
    let away = replicated.home.walbench(["verify", "--publication", "empty"]);
    let away = away.args(["--postgres", &replicated.database.address.to_url()]);
    let away = away.args(["--clickhouse", "http://127.0.0.1:1"]).ended().with_code(4);
    away.said("127.0.0.1:1/ can't be used");
    replicated.end();
}

//! A database that `walbench follow` follows into a folder, and both held against each other.

#![allow(clippy::await_holding_lock, reason = "each of these tests has a runtime of its own")]

use std::collections::BTreeMap;
use std::sync::RwLockReadGuard;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::SimpleQueryMessage;

use crate::cluster::Version;
use crate::database::{Database, PUBLICATION};
use crate::folder::{self, Folder};
use crate::home::{Home, Running, Walbench};
use crate::processes::PATIENCE;
use crate::stored::Stored;
use crate::turns::together;

pub(crate) struct Followed {
    pub(crate) home: Home,
    pub(crate) database: Database,
    publication: String,
    settings: Vec<(String, String)>,
    /// What is written into, instead of the folder.
    stored: Option<Stored>,
    _turn: RwLockReadGuard<'static, ()>,
}

/// The columns of a table as texts in the form in which the folder's reader gives their values:
/// names, then expressions.
const COLUMNS: &str = r#"
    SELECT a.attname::text,
           CASE WHEN a.atttypid = 'text[]'::regtype
                THEN format('COALESCE(''['' || (SELECT string_agg(COALESCE(quote_literal(e), ''NULL''), '', '' ORDER BY o)
                                                FROM unnest(%I) WITH ORDINALITY u(e, o)) || '']'', ''[]'')', a.attname)
                WHEN t.typcategory = 'A'
                THEN format('COALESCE(''['' || array_to_string(%I, '', '', ''NULL'') || '']'', ''[]'')', a.attname)
                WHEN a.atttypid = 'timestamp'::regtype
                THEN format('to_char(%I, ''YYYY-MM-DD HH24:MI:SS.US'')', a.attname)
                WHEN a.atttypid = 'timestamptz'::regtype
                THEN format('to_char(%I AT TIME ZONE ''UTC'', ''YYYY-MM-DD HH24:MI:SS.US'')', a.attname)
                ELSE format('%I::text', a.attname) END
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
      AND (a.attname = ANY ($2) OR ($2 IS NULL AND a.attgenerated = ''))
    ORDER BY a.attnum"#;

/// The columns that tell a table's rows apart.
const KEY: &str = "
    SELECT a.attname::text FROM pg_index i
    JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = $1::text::regclass
      AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END
    ORDER BY a.attname";

impl Followed {
    /// What the statements make, all of it published, and a slot.
    pub(crate) async fn new(version: Version, sql: &str) -> Self {
        let turn = together();
        let database = Database::with(version, sql).await;
        Self::of(database, PUBLICATION, turn)
    }

    /// What the statements make, a publication `p` among it, and a slot.
    pub(crate) async fn published(version: Version, sql: &str) -> Self {
        let followed = Self::without_slot(version, sql).await;
        followed.make_slot().await;
        followed
    }

    /// The same in this database.
    pub(crate) async fn published_in(database: Database, sql: &str) -> Self {
        let followed = Self::in_database(database, sql).await;
        followed.make_slot().await;
        followed
    }

    /// Makes the slot.
    pub(crate) async fn make_slot(&self) {
        let sql = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
        self.database.client.execute(sql, &[&self.database.slot]).await.unwrap();
    }

    /// What the statements make, a publication `p` among it.
    pub(crate) async fn without_slot(version: Version, sql: &str) -> Self {
        Self::in_database(Database::new(version).await, sql).await
    }

    /// The same in this database.
    pub(crate) async fn in_database(database: Database, sql: &str) -> Self {
        let turn = together();
        database.execute(sql).await;
        Self::of(database, "p", turn)
    }

    fn of(database: Database, publication: &str, turn: RwLockReadGuard<'static, ()>) -> Self {
        let (home, publication) = (Home::new(), publication.into());
        let settings = Vec::new();
        Self { home, database, publication, settings, stored: None, _turn: turn }
    }

    /// Follows with this setting from here on.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.into(), value.into()));
        self
    }

    /// Follows into a ClickHouse from here on.
    pub(crate) fn into_clickhouse(self, stored: Stored) -> Self {
        Self { stored: Some(stored), ..self }
    }

    pub(crate) fn stored(&self) -> &Stored {
        self.stored.as_ref().unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.database.execute(sql).await;
    }

    pub(crate) fn folder(&self) -> Folder {
        Folder(self.home.path().join("sink"))
    }

    /// `walbench follow` into the folder.
    pub(crate) fn follow(&self) -> Walbench {
        self.on_slot(&self.database.slot)
    }

    /// The same, by another slot.
    pub(crate) fn on_slot(&self, slot: &str) -> Walbench {
        let command = self.home.walbench(["follow"]);
        let command = self.by(command, slot);
        let command = match &self.stored {
            Some(stored) => command.args(["--clickhouse", &stored.url]),
            None => {
                let command = command.args(["--mock-clickhouse", "--mock-level", "files"]);
                command.set("consumer.mock_dir", "sink")
            }
        };
        self.settings.iter().fold(command, |command, (key, value)| command.set(key, value))
    }

    /// With the arguments that say what is followed.
    pub(crate) fn on(&self, command: Walbench) -> Walbench {
        self.by(command, &self.database.slot)
    }

    fn by(&self, command: Walbench, slot: &str) -> Walbench {
        let Self { database, publication, .. } = self;
        let command = command.args(["--postgres", &database.address.to_url()]);
        command.args(["--publication", publication, "--slot", slot])
    }

    /// Follows up to where the WAL ends now; what was reported.
    pub(crate) async fn drain(&self) -> Value {
        self.until_free().await;
        let ended = self.follow().args(["--until-lsn", "current", "--json"]).ended().with_code(0);
        serde_json::from_str(&ended.stdout).unwrap()
    }

    /// Waits until the slot is confirmed up to where the WAL ended when this was called.
    pub(crate) async fn until_confirmed(&self) {
        let (_, end) = self.database.positions().await;
        let deadline = Instant::now() + PATIENCE;
        while self.database.positions().await.0 < end {
            assert!(Instant::now() < deadline, "{end:X} is never confirmed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until PostgreSQL has noticed that the one who followed is gone.
    pub(crate) async fn until_free(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.walsender().await.is_some() {
            assert!(Instant::now() < deadline, "the slot stays active");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts it as soon as PostgreSQL lets another follow.
    pub(crate) async fn start_when_free(&self) -> Running {
        self.until_free().await;
        self.follow().start()
    }

    /// Waits until somebody follows. A walsender has the slot a moment before its stream begins.
    pub(crate) async fn until_followed(&self) {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_replication r
                   JOIN pg_replication_slots s ON s.active_pid = r.pid
                   WHERE slot_name = $1 AND r.state IN ('catchup', 'streaming'))";
        let (client, slot) = (&self.database.client, &self.database.slot);
        let is_followed = async || client.query_one(sql, &[slot]).await.unwrap().get::<_, bool>(0);
        let deadline = Instant::now() + PATIENCE;
        while !is_followed().await {
            assert!(Instant::now() < deadline, "nobody follows");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until who follows has received everything before this position.
    pub(crate) async fn until_sent(&self, end: u64) {
        let sql = "SELECT COALESCE((write_lsn - '0/0')::bigint, 0) FROM pg_stat_replication r
                   JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE slot_name = $1";
        let (client, slot) = (&self.database.client, &self.database.slot);
        let sent = async || client.query_one(sql, &[slot]).await.unwrap().get::<_, i64>(0);
        let deadline = Instant::now() + PATIENCE;
        while sent().await.cast_unsigned() < end {
            assert!(Instant::now() < deadline, "{end:X} is never received");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The server's process that streams the slot.
    pub(crate) async fn walsender(&self) -> Option<i32> {
        let sql = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
        self.database.client.query_one(sql, &[&self.database.slot]).await.unwrap().get(0)
    }

    /// Ends that process, and waits for another.
    pub(crate) async fn end_walsender(&self) {
        let before = self.walsender().await.unwrap();
        let sql = "SELECT pg_terminate_backend($1)";
        self.database.client.execute(sql, &[&before]).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while self.walsender().await.is_none_or(|pid| pid == before) {
            assert!(Instant::now() < deadline, "it does not come back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn server_version(&self) -> i32 {
        let sql = "SELECT current_setting('server_version_num')::int";
        self.database.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Drains, and holds whole tables of the schema `public` against the folder.
    pub(crate) async fn assert_same(&self, tables: &[&str]) {
        self.drain().await;
        for table in tables {
            self.table(table).assert_same().await;
        }
    }

    /// A table, named as in SQL.
    pub(crate) fn table<'a>(&'a self, sql_name: &'a str) -> Table<'a> {
        let stored = vec![format!("public.{sql_name}")];
        Table { followed: self, sql_name, stored, columns: None, filter: "true".into() }
    }
}

/// A table on both sides.
pub(crate) struct Table<'a> {
    followed: &'a Followed,
    sql_name: &'a str,
    stored: Vec<String>,
    columns: Option<Vec<&'a str>>,
    filter: String,
}

impl<'a> Table<'a> {
    /// Under these names in the folder.
    pub(crate) fn stored_as(mut self, names: &[&str]) -> Self {
        self.stored = names.iter().map(|name| (*name).into()).collect();
        self
    }

    /// These columns and no others are published.
    pub(crate) fn columns(mut self, columns: &[&'a str]) -> Self {
        self.columns = Some(columns.to_vec());
        self
    }

    /// These rows and no others are published.
    pub(crate) fn rows(mut self, filter: &str) -> Self {
        self.filter = filter.into();
        self
    }

    /// What the folder says is there.
    pub(crate) async fn state(&self) -> BTreeMap<Vec<String>, folder::Row> {
        let key = self.key().await;
        assert!(!key.is_empty(), "{} has no key", self.sql_name);
        if let Some(stored) = &self.followed.stored {
            let [name] = &self.stored[..] else { panic!("one table has one name") };
            return stored.state(name.strip_prefix("public.").unwrap_or(name), &key);
        }
        self.followed.folder().state(&self.stored, &key)
    }

    async fn key(&self) -> Vec<String> {
        let rows = self.followed.database.client.query(KEY, &[&self.sql_name]).await.unwrap();
        rows.iter().map(|row| escaped(row.get(0))).collect()
    }

    /// Each row of PostgreSQL's, and no other, is in the folder, value by value.
    pub(crate) async fn assert_same(&self) {
        let (key, state) = (self.key().await, self.state().await);
        let rows = self.source().await;
        let name = self.sql_name;
        for row in &rows {
            let key: Vec<_> = key.iter().map(|column| row[column].clone()).collect();
            let kept = state.get(&key).unwrap_or_else(|| panic!("{name}: {row:?} is missing"));
            for (column, value) in row {
                // A row that is older than the column.
                let kept_value = kept.get(column).map_or("NULL", String::as_str);
                assert_eq!(kept_value, value, "{name}: {column} of {row:?}, kept as {kept:?}");
            }
            if let Some(columns) = &self.columns {
                let kept: Vec<_> = kept.keys().collect();
                assert_eq!(kept.len(), columns.len(), "{name}: {kept:?} and {columns:?}");
            }
        }
        assert_eq!(state.len(), rows.len(), "{name}: {:?}", state.keys());
    }

    /// What PostgreSQL has.
    async fn source(&self) -> Vec<folder::Row> {
        let client = &self.followed.database.client;
        let columns = client.query(COLUMNS, &[&self.sql_name, &self.columns]).await.unwrap();
        let names: Vec<_> = columns.iter().map(|row| escaped(row.get(0))).collect();
        let expressions: Vec<String> = columns.iter().map(|row| row.get(1)).collect();
        let (list, name, filter) = (expressions.join(", "), self.sql_name, &self.filter);
        let sql = format!("SELECT {list} FROM {name} WHERE {filter}");
        let messages = client.simple_query(&sql).await.unwrap();
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let value = |text: Option<&str>| text.unwrap_or("NULL").to_owned();
        rows.map(|row| {
            names.iter().enumerate().map(|(n, name)| (name.clone(), value(row.get(n)))).collect()
        })
        .collect()
    }
}

/// A name as the folder has it.
fn escaped(name: &str) -> String {
    name.escape_default().to_string()
}

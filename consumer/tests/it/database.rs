//! Databases with a table, a publication and a slot. The orchestrator's tests use this file as well.

#![allow(dead_code, reason = "the consumer's tests and the orchestrator's each use a part")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, Config, NoTls};
use walbench_phases::address::{Host, PostgresAddress};

use crate::cluster::{Cluster, Version};

/// A database of a test's own, and a session in it.
pub(crate) struct Database {
    pub(crate) address: PostgresAddress,
    pub(crate) client: Client,
    /// Slots are the server's: each database has its own names.
    pub(crate) slot: String,
}

pub(crate) const PUBLICATION: &str = "it's \"all\"";

/// Makes two tests of each function that takes a [`Version`]: `pg15_or_installed::…` and `pg18::…`.
/// One that is forgotten in the list is an unused function, which clippy refuses.
macro_rules! on_every_server {
    ($($test:ident),+ $(,)?) => {
        $crate::database::on_every_server! { @tests pg15_or_installed Pg15OrInstalled $($test)+ }
        $crate::database::on_every_server! { @tests pg18 Pg18 $($test)+ }
    };
    (@tests $module:ident $version:ident $($test:ident)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::cluster::Version::$version).await;
                }
            )+
        }
    };
}
pub(crate) use on_every_server;

/// An inline snapshot in a test that runs on every server, which must say the same on each.
macro_rules! assert_said {
    ($($snapshot:tt)*) => { insta::allow_duplicates! { insta::assert_snapshot!($($snapshot)*) } };
}
pub(crate) use assert_said;

impl Database {
    /// An empty database on that version's server, which all tests share.
    pub(crate) async fn new(version: Version) -> Self {
        static CLUSTERS: [OnceLock<Cluster>; Version::COUNT] =
            [const { OnceLock::new() }; Version::COUNT];
        let cluster = CLUSTERS[version as usize].get_or_init(|| Cluster::start_version(version));
        Self::on(cluster).await
    }

    /// An empty database on a server.
    pub(crate) async fn on(cluster: &Cluster) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = cluster.address();
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        connect(&server).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let address = server.with_database(&name);
        Self { client: connect(&address).await, address, slot: format!("slot_{name}") }
    }

    /// Another session in it.
    pub(crate) async fn session(&self) -> Client {
        connect(&self.address).await
    }

    /// The same, of a server that may be down.
    pub(crate) async fn try_session(address: &PostgresAddress) -> Option<Client> {
        try_connect(address).await.ok()
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{e:?}: {sql}"));
    }

    /// Makes what the statements say, then a publication of all tables and a slot.
    pub(crate) async fn with(version: Version, sql: &str) -> Self {
        let database = Self::new(version).await;
        database.execute(sql).await;
        let publication = PUBLICATION.replace('"', "\"\"");
        database.execute(&format!("CREATE PUBLICATION \"{publication}\" FOR ALL TABLES")).await;
        let slot = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
        database.client.execute(slot, &[&database.slot]).await.unwrap();
        database
    }

    /// How far the slot is confirmed, and where the WAL ends.
    pub(crate) async fn positions(&self) -> (u64, u64) {
        let sql = "SELECT (confirmed_flush_lsn - '0/0')::bigint, \
                          (pg_current_wal_flush_lsn() - '0/0')::bigint \
                   FROM pg_replication_slots WHERE slot_name::text = $1";
        let row = self.client.query_one(sql, &[&self.slot]).await.unwrap();
        (row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i64>(1).cast_unsigned())
    }
}

pub(crate) async fn connect(address: &PostgresAddress) -> Client {
    try_connect(address).await.unwrap()
}

async fn try_connect(address: &PostgresAddress) -> Result<Client, tokio_postgres::Error> {
    let Host::Unix(folder) = &address.host else { panic!("the tests' server has a Unix socket") };
    let (client, connection) = Config::new()
        .host_path(folder)
        .port(address.port)
        .user("postgres")
        .dbname(address.dbname.as_deref().unwrap())
        .connect(NoTls)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

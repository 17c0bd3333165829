//! A PostgreSQL server with slots that are full, for benches.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use walbench_metrics::stamp::Stamp;
use walbench_phases::address::PostgresAddress;
use walbench_phases::plan::{SynchronousCommit, WriteMethod};
use walbench_producer::workload::{Table, TableShape, builtin_ddl};
use walbench_producer::write::attempt::Attempt;
use walbench_producer::write::batch::{Batch, Part};
use walbench_producer::write::session::{Session, Settings};

/// Settings of the server.
pub(crate) const SERVER: [&str; 5] = [
    "shared_buffers = '512MB'",
    "max_wal_size = '16GB'",
    "checkpoint_timeout = '1h'",
    "wal_sender_timeout = 0",
    "logical_decoding_work_mem = '64MB'",
];

/// Rows of one transaction.
const TRANSACTION_ROWS: u64 = 100;

/// Between two looks at a process.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

/// A slot with rows in it.
pub(crate) struct Loaded {
    pub(crate) name: &'static str,
    pub(crate) rows: u64,
    /// Where the WAL ended then.
    pub(crate) end: String,
}

/// Makes a table, a publication and a slot, and fills them.
pub(crate) async fn load(
    admin: &Client,
    address: &PostgresAddress,
    name: &'static str,
    rows: u64,
) -> Loaded {
    admin.batch_execute(builtin_ddl(name).unwrap()).await.unwrap();
    admin.batch_execute(&format!("CREATE PUBLICATION {name} FOR TABLE {name}")).await.unwrap();
    let slot = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    admin.execute(slot, &[&name]).await.unwrap();
    let shape = TableShape::describe(admin, name).await.unwrap();
    let tables = [Table::new(shape, 42, None, 0.5).unwrap()];
    let settings = Settings {
        address: address.clone(),
        application_name: "drain".into(),
        synchronous_commit: SynchronousCommit::Off,
        method: WriteMethod::Copy,
    };
    let session = Session::open(&settings, &tables).await.unwrap();
    let mut batch = Batch::default();
    for sequence in 0..rows / TRANSACTION_ROWS {
        batch.rows.inserts = sequence * TRANSACTION_ROWS..(sequence + 1) * TRANSACTION_ROWS;
        batch.encode(&tables[0], Part { index: 0, processes: 1 }, WriteMethod::Copy);
        let stamp = Stamp { run: 0, phase: 0, measured: true, producer: 0, sequence, due_us: 0 };
        let attempt = session.write(&batch, &stamp).await;
        assert!(matches!(attempt, Attempt::Committed { .. }), "{attempt:?}");
    }
    admin.batch_execute("CHECKPOINT").await.unwrap();
    let end = admin.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.unwrap().get(0);
    Loaded { name, rows: rows / TRANSACTION_ROWS * TRANSACTION_ROWS, end }
}

/// Its walsender may need a moment to see that its reader is gone.
pub(crate) async fn drop_slot(admin: &Client) {
    let drop = "SELECT pg_drop_replication_slot('drain')";
    while let Err(error) = admin.execute(drop, &[]).await {
        assert_eq!(error.code().map(SqlState::code), Some("55006"), "{error}");
        tokio::time::sleep(LOOK).await;
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

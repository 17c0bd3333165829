//! A connection with its statements prepared, and a transaction over it.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, join3, join5};
use futures_util::{SinkExt, TryStreamExt};
use tokio_postgres::{Error, Statement};
use walbench_metrics::stamp::Stamp;
use walbench_phases::address::PostgresAddress;
use walbench_phases::plan::{SynchronousCommit, WriteMethod};

use super::attempt::{Answers, Attempt};
use super::batch::Batch;
use super::encoded::{Encoded, Values};
use super::statements;
use crate::connect::{Cancel, ConnectError, Connected, connect};
use crate::workload::{Purpose, Table};

/// How the sessions of a run are set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to.
    pub address: PostgresAddress,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// When a commit is acknowledged.
    pub synchronous_commit: SynchronousCommit,
    /// How rows are inserted.
    pub method: WriteMethod,
}

/// A connection with its statements prepared.
#[derive(Debug)]
pub struct Session {
    connected: Connected,
    method: WriteMethod,
    begin: Statement,
    stamp: Statement,
    commit: Statement,
    tables: Vec<Prepared>,
    backend: Backend,
}

/// The statements of one table.
#[derive(Debug)]
struct Prepared {
    insert: Statement,
    columns: usize,
    update: Option<Statement>,
    exists: Option<(Statement, usize)>,
}

/// Which server process serves a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pid: i32,
    /// When that process started: process ids come again.
    started: String,
    /// When the server started.
    server_started: String,
}

/// Plans are made once and never for a table that happens to be small: the statement made while a
/// table is empty must be the right one when it holds millions of rows.
const PIN: &str = "
SET plan_cache_mode = force_generic_plan; SET jit = off;
SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET client_min_messages = warning;";

const BACKEND: &str = "
SELECT pid, backend_start::text, pg_catalog.pg_postmaster_start_time()::text
FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()";

const STAMP: &str = "
SELECT pg_catalog.pg_logical_emit_message(true, 'walbench', $1::bytea)::text,
       pg_catalog.pg_current_xact_id()::text";

/// How long a server process may take to end after its client is gone.
const GONE_WITHIN: Duration = Duration::from_secs(15);

impl Session {
    /// Connects and prepares every statement.
    ///
    /// # Errors
    ///
    /// The server can't be reached, or it refuses a statement.
    pub async fn open(settings: &Settings, tables: &[Table]) -> Result<Self, ConnectError> {
        let connected = connect(&settings.address, &settings.application_name).await?;
        Self::set_up(connected, settings, tables).await.map_err(ConnectError::Setup)
    }

    async fn set_up(
        connected: Connected,
        settings: &Settings,
        tables: &[Table],
    ) -> Result<Self, Error> {
        let client = &connected.client;
        let synchronous_commit = match settings.synchronous_commit {
            SynchronousCommit::On => "on",
            SynchronousCommit::Off => "off",
        };
        client
            .batch_execute(&format!("SET synchronous_commit = {synchronous_commit};{PIN}"))
            .await?;
        let row = client.query_typed_one(BACKEND, &[]).await?;
        let backend = Backend { pid: row.get(0), started: row.get(1), server_started: row.get(2) };
        let begin = client.prepare("BEGIN").await?;
        let stamp = client.prepare(STAMP).await?;
        let commit = client.prepare("COMMIT").await?;
        let mut prepared = Vec::with_capacity(tables.len());
        for table in tables {
            prepared.push(Prepared::new(&connected, table, settings.method).await?);
        }
        Ok(Self {
            connected,
            method: settings.method,
            begin,
            stamp,
            commit,
            tables: prepared,
            backend,
        })
    }

    /// Whether the connection is known to be gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connected.client.is_closed()
    }

    /// Asks the server for a sign of life.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub async fn check(&self) -> Result<(), Error> {
        self.connected.client.check_connection().await
    }

    /// What ends a transaction under way from outside.
    #[must_use]
    pub fn canceller(&self) -> Cancel {
        self.connected.canceller()
    }

    /// The server's side of this connection.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Writes a batch in one transaction under `stamp`.
    pub async fn write(&self, batch: &Batch, stamp: &Stamp) -> Attempt {
        let answers = match self.method {
            WriteMethod::Copy if !batch.rows.inserts.is_empty() => self.copy(batch, stamp).await,
            _ => {
                let (begin, stamp, insert, update, commit) = join5(
                    self.execute(&self.begin),
                    self.emit(stamp),
                    self.insert(batch),
                    self.update(batch),
                    self.execute(&self.commit),
                )
                .await;
                Answers { begin, stamp, insert, update, commit }
            }
        };
        answers.into()
    }

    async fn execute(&self, statement: &Statement) -> Result<u64, Error> {
        self.connected.client.execute(statement, &[]).await
    }

    /// Emits the stamp and hands back the transaction's number.
    async fn emit(&self, stamp: &Stamp) -> Result<Option<String>, Error> {
        let content = stamp.encode();
        let rows = self.connected.client.query_raw(&self.stamp, [Encoded(Some(&content))]).await?;
        let mut rows = pin!(rows);
        let mut xid = None;
        while let Some(row) = rows.try_next().await? {
            xid = row.try_get(1)?;
        }
        Ok(xid)
    }

    async fn insert(&self, batch: &Batch) -> Result<u64, Error> {
        let Prepared { insert, columns, .. } = &self.tables[batch.table];
        let client = &self.connected.client;
        if batch.rows.inserts.is_empty() {
            return Ok(0);
        }
        if self.method != WriteMethod::Pipelined {
            return client.execute_raw(insert, [Encoded(Some(&batch.inserts))]).await;
        }
        let starts = std::iter::once(0).chain(batch.ends.iter().copied());
        let rows = starts.zip(&batch.ends).map(|(start, end)| {
            client.execute_raw(insert, Values::new(&batch.inserts[start..*end], *columns))
        });
        join_all(rows).await.into_iter().sum()
    }

    async fn update(&self, batch: &Batch) -> Result<u64, Error> {
        match &self.tables[batch.table].update {
            Some(update) if !batch.rows.updates.is_empty() => {
                let rows = [Encoded(Some(batch.updates.as_slice()))];
                self.connected.client.execute_raw(update, rows).await
            }
            _ => Ok(0),
        }
    }

    /// COPY takes a second round trip: rows sent to a server that refused the COPY would leave the
    /// two sides of the connection out of step.
    async fn copy(&self, batch: &Batch, stamp: &Stamp) -> Answers {
        let client = &self.connected.client;
        let starting = client.copy_in(&self.tables[batch.table].insert);
        let (begin, stamp, sink) =
            join3(self.execute(&self.begin), self.emit(stamp), starting).await;
        let sink = match sink {
            Ok(sink) => sink,
            Err(error) => {
                let commit = self.execute(&self.commit).await;
                return Answers { begin, stamp, insert: Err(error), update: Ok(0), commit };
            }
        };
        let sending = async {
            let mut sink = pin!(sink);
            sink.send(Bytes::copy_from_slice(&batch.inserts)).await?;
            sink.finish().await
        };
        let (insert, update, commit) =
            join3(sending, self.update(batch), self.execute(&self.commit)).await;
        Answers { begin, stamp, insert, update, commit }
    }

    /// Whether a transaction that an earlier connection lost sight of is in the database; `None`
    /// when that can't be told.
    ///
    /// The server process of that connection is ended first: until then it may still commit.
    ///
    /// # Errors
    ///
    /// This connection is gone as well.
    pub async fn find_outcome(
        &self,
        lost: &Backend,
        xid: Option<&str>,
        batch: &Batch,
    ) -> Result<Option<bool>, Error> {
        if !self.wait_until_gone(lost).await? {
            return Ok(None);
        }
        let client = &self.connected.client;
        if let Some((exists, columns)) = &self.tables[batch.table].exists
            && !batch.rows.inserts.is_empty()
        {
            let rows = client.query_raw(exists, Values::new(&batch.first_key, *columns)).await?;
            let rows: Vec<_> = rows.try_collect().await?;
            return Ok(rows.first().map(|row| row.get(0)));
        }
        match xid {
            // A server that crashed may give the same number to another transaction.
            Some(xid) if lost.server_started == self.backend.server_started => {
                let status = "SELECT pg_catalog.pg_xact_status($1::text::xid8)";
                let row = client.query_one(status, &[&xid]).await?;
                Ok(match row.get(0) {
                    Some("committed") => Some(true),
                    Some("aborted") => Some(false),
                    _ => None,
                })
            }
            _ => Ok(None),
        }
    }

    async fn wait_until_gone(&self, lost: &Backend) -> Result<bool, Error> {
        const END: &str = "
            SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
            WHERE pid = $1 AND backend_start::text = $2";
        let deadline = tokio::time::Instant::now() + GONE_WITHIN;
        while tokio::time::Instant::now() < deadline {
            if self.connected.client.query(END, &[&lost.pid, &lost.started]).await?.is_empty() {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(false)
    }
}

impl Prepared {
    async fn new(connected: &Connected, table: &Table, method: WriteMethod) -> Result<Self, Error> {
        let client = &connected.client;
        let insert = client.prepare(&statements::insert(table, method)).await?;
        let update = match table.can_update() {
            true => Some(client.prepare(&statements::update(table)).await?),
            false => None,
        };
        let exists = match table.key().count() {
            0 => None,
            columns => Some((client.prepare(&statements::exists(table)).await?, columns)),
        };
        Ok(Self { insert, columns: table.written(Purpose::Insert).count(), update, exists })
    }
}

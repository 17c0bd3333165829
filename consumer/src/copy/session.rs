//! A connection that copies: transactions in a snapshot, and COPY.

use std::time::{Duration, Instant};

use walbench_metrics::Failure;
use walbench_phases::address::PostgresAddress;

use super::gate::Gate;
use super::rows::{MalformedCopy, Rows};
use crate::pgoutput::Tuple;
use crate::replication::{Connection, ReplicationError, ServerError, quote};

/// How often one that waits for the server looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// A server that says nothing for so long is lost. Long, because a table may be locked for a while,
/// and a filter may let nothing through.
const SILENCE: Duration = Duration::from_secs(600);

/// Set before anything is asked:
/// - no limit of the server's or the role's ends a transaction that is as long as it must be;
/// - names are written in full, and operators are PostgreSQL's own;
/// - rows that a policy would hide are an error, and not missing in silence;
/// - a chunk is read by its pages: any other plan would read the whole table for each.
const SETTINGS: &str = "
    SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'idle_session_timeout', 'lock_timeout',
                   'transaction_timeout', 'max_parallel_workers_per_gather');
    SELECT pg_catalog.set_config(name, 'off', false) FROM pg_catalog.pg_settings
    WHERE name IN ('row_security', 'jit', 'enable_seqscan', 'enable_bitmapscan',
                   'enable_indexscan', 'enable_indexonlyscan');
    SELECT pg_catalog.set_config('search_path', '', false)";

/// A transaction that sees one moment, and changes nothing.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// SQLSTATEs of an exported snapshot that is gone: before and since PostgreSQL 17, and while its
/// session ends.
const SNAPSHOT_GONE: [&str; 3] = ["22023", "42704", "55000"];

/// Why something can't be done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nobody wants it any more.
    Stopped,
    /// The connection is of no more use; another may be.
    Lost(ReplicationError),
    /// Nothing would help.
    Failed(Failure),
}

impl From<ReplicationError> for Trouble {
    fn from(error: ReplicationError) -> Self {
        Self::Lost(error)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.into())
    }
}

impl From<MalformedCopy> for Trouble {
    fn from(error: MalformedCopy) -> Self {
        Self::Failed(Failure::new("what COPY sent can't be read").caused_by(&error))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session<'a> {
    connection: Connection,
    gate: &'a Gate,
}

impl<'a> Session<'a> {
    /// Connects. Waiting ends when the gate is closed.
    pub(super) fn open(
        address: &PostgresAddress,
        application_name: &str,
        gate: &'a Gate,
    ) -> Result<Self, Trouble> {
        let connection = Connection::open_for_queries(address, application_name)?;
        connection.transport.set_read_timeout(Some(LOOK))?;
        let mut session = Self { connection, gate };
        session.query("its settings", SETTINGS)?;
        Ok(session)
    }

    /// Begins a transaction in an exported snapshot, or in one of its own that is taken at the first
    /// query. Says whether the snapshot is there.
    pub(super) fn begin(&mut self, snapshot: Option<&str>) -> Result<bool, Trouble> {
        self.query("to begin a transaction", BEGIN)?;
        let Some(name) = snapshot else { return Ok(true) };
        let taken = format!("SET TRANSACTION SNAPSHOT {}", quote(name));
        match self.query("to read in the snapshot of the slot's start", &taken) {
            Ok(_) => Ok(true),
            Err(Trouble::Lost(ReplicationError::Server { source, .. }))
                if SNAPSHOT_GONE.contains(&source.code.as_str()) =>
            {
                self.query("to end a transaction", "ROLLBACK")?;
                Ok(false)
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Ends the transaction.
    pub(super) fn end(&mut self) -> Result<(), Trouble> {
        self.query("to end a transaction", "COMMIT").map(drop)
    }

    /// Runs statements; `what` completes "PostgreSQL refused …".
    pub(super) fn query(
        &mut self,
        what: &str,
        sql: &str,
    ) -> Result<Vec<Vec<Option<String>>>, Trouble> {
        self.connection.send_query(sql)?;
        let (mut rows, asked) = (Vec::new(), Instant::now());
        loop {
            match self.connection.collect(what, &mut rows) {
                Ok(()) => return Ok(rows),
                Err(ReplicationError::Silent) => self.go_on_waiting(asked)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Runs a query, and says of which types its columns are: OID and modifier.
    pub(super) fn types(&mut self, what: &str, sql: &str) -> Result<Vec<(u32, i32)>, Trouble> {
        self.connection.send_query(sql)?;
        let (mut types, asked) = (Vec::new(), Instant::now());
        loop {
            match self.connection.collect_types(what, &mut types) {
                Ok(()) => return Ok(types),
                Err(ReplicationError::Silent) => self.go_on_waiting(asked)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Runs COPY … TO STDOUT, and hands each row to `each`.
    pub(super) fn copy(
        &mut self,
        what: &str,
        sql: &str,
        rows: &mut Rows,
        mut each: impl FnMut(Tuple<'_>) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        self.connection.send_query(sql)?;
        let mut heard = Instant::now();
        loop {
            let Some((tag, body)) = self.connection.input.next_message()? else {
                self.fill(&mut heard)?;
                continue;
            };
            match tag {
                b'd' => rows.read(body, &mut each)?,
                b'E' => {
                    let source = Box::new(ServerError::from_body(body));
                    return Err(ReplicationError::Server { what: what.into(), source }.into());
                }
                // CopyOutResponse, CopyDone, CommandComplete, notices and settings.
                b'H' | b'c' | b'C' | b'N' | b'S' => {}
                b'Z' => return Ok(rows.finish()?),
                other => {
                    let text = format!("COPY was answered with {:?}", char::from(other));
                    return Err(ReplicationError::Protocol(text).into());
                }
            }
        }
    }

    fn fill(&mut self, heard: &mut Instant) -> Result<(), Trouble> {
        match self.connection.fill() {
            Ok(()) => {
                // One that always has something to read would not look otherwise.
                if self.gate.is_closed() {
                    return Err(self.stopped());
                }
                *heard = Instant::now();
                Ok(())
            }
            Err(ReplicationError::Silent) => self.go_on_waiting(*heard),
            Err(error) => Err(error.into()),
        }
    }

    fn go_on_waiting(&self, since: Instant) -> Result<(), Trouble> {
        if self.gate.is_closed() {
            return Err(self.stopped());
        }
        if since.elapsed() > SILENCE {
            return Err(ReplicationError::Silent.into());
        }
        Ok(())
    }

    /// The server would go on with what nobody reads: with a query that waits for a lock until it
    /// has it.
    fn stopped(&self) -> Trouble {
        let _ = self.connection.cancel();
        Trouble::Stopped
    }

    /// Closes the connection.
    pub(super) fn close(self) {
        self.connection.terminate();
    }
}

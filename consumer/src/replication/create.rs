//! Making slots, and dropping them.

use std::fmt;
use std::time::Duration;

use super::connection::{ANSWER_TIMEOUT, Connection};
use super::error::ReplicationError;
use super::parse_lsn;
use super::query::{Rows, quote_identifier};
use super::slot::PLUGIN;

/// From this version on options stand in parentheses.
const PARENTHESES_SINCE: u32 = 150_000;

/// SQLSTATE of a statement that was cancelled.
const CANCELLED: &str = "57014";

/// Which slot is to be made.
#[derive(Clone, Copy, Debug)]
pub struct CreateSlot<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it goes with this connection.
    pub temporary: bool,
    /// Whether it decodes transactions when they are prepared (pgoutput: PostgreSQL 15).
    pub two_phase: bool,
    /// What becomes of the snapshot at its start.
    pub snapshot: Snapshot,
    /// How long it may take; with a writing transaction open it would take for ever.
    pub timeout: Duration,
}

/// What becomes of the snapshot in which everything before a slot's first change is visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// Other sessions may take it with `SET TRANSACTION SNAPSHOT`, until the connection that made
    /// the slot is asked the next thing.
    Export,
    /// Nothing.
    Nothing,
}

impl<'a> CreateSlot<'a> {
    /// A slot that stays, without a snapshot.
    #[must_use]
    pub fn new(name: &'a str) -> Self {
        let timeout = ANSWER_TIMEOUT;
        Self { name, temporary: false, two_phase: false, snapshot: Snapshot::Nothing, timeout }
    }

    fn sql(&self, server_version: u32) -> String {
        let Self { temporary, two_phase, snapshot, .. } = *self;
        let name = quote_identifier(self.name);
        let temporary = if temporary { " TEMPORARY" } else { "" };
        let options = if server_version >= PARENTHESES_SINCE {
            let snapshot = if snapshot == Snapshot::Export { "export" } else { "nothing" };
            let two_phase = if two_phase { ", TWO_PHASE true" } else { "" };
            format!("(SNAPSHOT '{snapshot}'{two_phase})")
        } else {
            let snapshot =
                if snapshot == Snapshot::Export { "EXPORT_SNAPSHOT" } else { "NOEXPORT_SNAPSHOT" };
            let two_phase = if two_phase { " TWO_PHASE" } else { "" };
            format!("{snapshot}{two_phase}")
        };
        format!("CREATE_REPLICATION_SLOT {name}{temporary} LOGICAL {PLUGIN} {options}")
    }
}

/// A slot that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Its first change comes behind this position.
    pub consistent_lsn: u64,
    /// The name of the exported snapshot.
    pub snapshot_name: Option<String>,
}

impl CreatedSlot {
    /// Reads slot_name, consistent_point, snapshot_name, output_plugin.
    fn from_rows(rows: &Rows) -> Result<Self, ReplicationError> {
        match rows.first().map(Vec::as_slice) {
            Some([_, Some(lsn), snapshot_name, ..]) if let Some(lsn) = parse_lsn(lsn) => {
                Ok(Self { consistent_lsn: lsn, snapshot_name: snapshot_name.clone() })
            }
            other => {
                let text = format!("a new slot is described as {other:?}");
                Err(ReplicationError::Protocol(text))
            }
        }
    }
}

/// Open transactions that have written: a slot can't be made before their end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blockers {
    /// How many sessions have one.
    pub sessions: usize,
    /// The session with the oldest.
    pub oldest_pid: Option<u32>,
    /// For how many seconds that one is open, if our role may see it.
    pub oldest_age_s: Option<u64>,
    /// The names of prepared ones, oldest first.
    pub prepared: Vec<String>,
}

impl Blockers {
    /// Reads rows of PID, age in seconds, name of a prepared transaction; oldest first.
    fn from_rows(rows: Rows) -> Self {
        let mut blockers = Self::default();
        for row in rows {
            let [pid, age, name] = row.as_slice() else { continue };
            if let Some(name) = name {
                blockers.prepared.push(name.clone());
                continue;
            }
            blockers.sessions += 1;
            if blockers.sessions == 1 {
                blockers.oldest_pid = pid.as_ref().and_then(|pid| pid.parse().ok());
                blockers.oldest_age_s = age.as_ref().and_then(|age| age.parse().ok());
            }
        }
        blockers
    }
}

impl fmt::Display for Blockers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, oldest_pid, oldest_age_s, prepared } = self;
        if *sessions == 0 && prepared.is_empty() {
            return f.write_str("the transactions that PostgreSQL waits for can't be seen");
        }
        f.write_str("PostgreSQL waits for the end of ")?;
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        if *sessions > 0 {
            write!(f, "{sessions} transaction{} that wrote", plural(*sessions))?;
        }
        if let Some(pid) = oldest_pid {
            write!(f, ", the oldest of PID {pid}")?;
        }
        if let Some(age) = oldest_age_s {
            write!(f, ", open for {age} s")?;
        }
        if let Some(name) = prepared.first() {
            let and = if *sessions > 0 { ", and of " } else { "" };
            let count = prepared.len();
            write!(f, "{and}{count} prepared transaction{}, the oldest '{name}'", plural(count))?;
        }
        Ok(())
    }
}

impl Connection {
    /// Makes a slot in the connection's database.
    ///
    /// # Errors
    /// [`ReplicationError::SlotBlocked`] when it takes too long, or the server's refusal: then there
    /// is no slot. The connection's: then there may be one.
    pub fn create_slot(
        &mut self,
        wanted: &CreateSlot<'_>,
    ) -> Result<CreatedSlot, ReplicationError> {
        let what = format!("to create slot \"{}\"", wanted.name);
        self.send_query(&wanted.sql(self.server_version))?;
        let mut rows = Rows::new();
        self.transport.set_read_timeout(Some(wanted.timeout.max(Duration::from_millis(1))))?;
        let mut answered = self.collect(&what, &mut rows);
        self.transport.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        if let Err(ReplicationError::Silent) = answered {
            answered = self.give_up(wanted, &what, &mut rows);
        }
        match answered {
            Ok(()) => CreatedSlot::from_rows(&rows),
            Err(ReplicationError::Server { what, source })
                if matches!(source.code.as_str(), "55000" | "0A000") =>
            {
                self.check_server()?;
                Err(ReplicationError::Server { what, source })
            }
            Err(error) => Err(error),
        }
    }

    /// Cancels the making of a slot: without a session that waits for it the server would go on.
    fn give_up(
        &mut self,
        wanted: &CreateSlot<'_>,
        what: &str,
        rows: &mut Rows,
    ) -> Result<(), ReplicationError> {
        // Who is in the way is worth knowing, and no reason to leave half a slot behind.
        let blockers = self.blockers().unwrap_or_default();
        self.cancel()?;
        match self.collect(what, rows) {
            Err(ReplicationError::Server { source, .. }) if source.code == CANCELLED => {
                Err(ReplicationError::SlotBlocked {
                    slot: wanted.name.into(),
                    waited: wanted.timeout,
                    blockers,
                })
            }
            // Made just before the cancellation came, or failed for a reason of its own.
            other => other,
        }
    }

    fn blockers(&self) -> Result<Blockers, ReplicationError> {
        let mut beside = self.open_beside()?;
        let rows = beside.query(
            "to look up open transactions",
            "SELECT pid, age, name FROM ( \
                 SELECT pid, extract(epoch FROM now() - xact_start)::bigint AS age, \
                        NULL AS name, backend_xid AS xid \
                 FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL \
                 UNION ALL \
                 SELECT NULL, NULL, gid, transaction FROM pg_catalog.pg_prepared_xacts \
             ) AS open ORDER BY pg_catalog.age(xid) DESC",
        )?;
        beside.terminate();
        Ok(Blockers::from_rows(rows))
    }

    /// Drops a slot that nobody holds.
    ///
    /// # Errors
    /// [`ReplicationError::SlotMissing`], [`ReplicationError::SlotActive`], or the connection's.
    pub fn drop_slot(&mut self, name: &str) -> Result<(), ReplicationError> {
        let sql = format!("DROP_REPLICATION_SLOT {}", quote_identifier(name));
        match self.query(&format!("to drop slot \"{name}\""), &sql) {
            Ok(_) => Ok(()),
            Err(ReplicationError::Server { what, source }) => {
                Err(self.slot_refused(&what, name, *source))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_asked_for_in_its_versions_words() {
        let plain = CreateSlot::new("a\"b");
        let all = CreateSlot {
            temporary: true,
            two_phase: true,
            snapshot: Snapshot::Export,
            ..CreateSlot::new("s")
        };
        assert_eq!(
            plain.sql(140_009),
            "CREATE_REPLICATION_SLOT \"a\"\"b\" LOGICAL pgoutput NOEXPORT_SNAPSHOT"
        );
        assert_eq!(
            plain.sql(150_000),
            "CREATE_REPLICATION_SLOT \"a\"\"b\" LOGICAL pgoutput (SNAPSHOT 'nothing')"
        );
        assert_eq!(
            all.sql(140_009),
            "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT TWO_PHASE"
        );
        assert_eq!(
            all.sql(180_000),
            "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export', \
             TWO_PHASE true)"
        );
    }

    #[test]
    fn what_is_waited_for_is_said_as_far_as_it_is_seen() {
        let text = |rows: &[[Option<&str>; 3]]| {
            let row = |row: &[Option<&str>; 3]| row.map(|value| value.map(String::from)).to_vec();
            Blockers::from_rows(rows.iter().map(row).collect()).to_string()
        };
        let (session, hidden) = ([Some("7"), Some("65"), None], [Some("8"), None, None]);
        let prepared = [None, None, Some("it")];
        assert_eq!(
            text(&[session, hidden, prepared]),
            "PostgreSQL waits for the end of 2 transactions that wrote, the oldest of PID 7, open \
             for 65 s, and of 1 prepared transaction, the oldest 'it'"
        );
        assert_eq!(
            text(&[hidden]),
            "PostgreSQL waits for the end of 1 transaction that wrote, the oldest of PID 8"
        );
        assert_eq!(
            text(&[prepared]),
            "PostgreSQL waits for the end of 1 prepared transaction, the oldest 'it'"
        );
        assert_eq!(text(&[]), "the transactions that PostgreSQL waits for can't be seen");
    }

    #[test]
    fn a_new_slots_description_is_read_or_refused() {
        let row = |lsn: &str| vec![vec![Some("s".into()), Some(lsn.into()), None, None]];
        let made = CreatedSlot::from_rows(&row("0/10")).unwrap();
        assert_eq!(made, CreatedSlot { consistent_lsn: 16, snapshot_name: None });
        for rows in [row("nowhere"), vec![], vec![vec![]]] {
            assert!(CreatedSlot::from_rows(&rows).is_err());
        }
    }
}

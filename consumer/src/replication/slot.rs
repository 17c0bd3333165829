//! The state of a slot, and whether it can be streamed.

use std::fmt;

use super::connection::Connection;
use super::error::ReplicationError;
use super::parse_lsn;
use super::query::quote;
use super::server_error::ServerError;

/// The plugin whose output is read.
pub(super) const PLUGIN: &str = "pgoutput";

/// A slot as `pg_replication_slots` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// Logical or physical.
    pub slot_type: SlotType,
    /// Database whose changes it has; `None` for a physical slot.
    pub database: Option<String>,
    /// Whether a session holds it.
    pub active: bool,
    /// Which session holds it.
    pub active_pid: Option<u32>,
    /// Oldest WAL that it may need.
    pub restart_lsn: Option<u64>,
    /// Up to where its consumer has confirmed changes.
    pub confirmed_flush_lsn: Option<u64>,
    /// Whether the WAL it needs is there.
    pub wal_status: Option<WalStatus>,
    /// Why it can't be used any more.
    pub lost: Option<LostReason>,
    /// Whether it goes with the session that made it.
    pub temporary: bool,
    /// Whether it decodes transactions when they are prepared.
    pub two_phase: bool,
}

/// The two kinds of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotType {
    /// For rows.
    Logical,
    /// For WAL as it is.
    Physical,
}

/// Whether the WAL that a slot needs is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// It is, and less than max_wal_size.
    Reserved,
    /// It is, and more than max_wal_size.
    Extended,
    /// It may be removed at the next checkpoint.
    Unreserved,
    /// It was removed.
    Lost,
}

impl WalStatus {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "reserved" => Self::Reserved,
            "extended" => Self::Extended,
            "unreserved" => Self::Unreserved,
            "lost" => Self::Lost,
            _ => return None,
        })
    }
}

/// Why a slot can't be used any more. PostgreSQL 17 names it; 16 tells a conflict from the rest,
/// and before, removed WAL is all there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// WAL was removed that it needed.
    WalRemoved,
    /// Rows of the catalogue were removed that it needed: a conflict on a standby.
    RowsRemoved,
    /// wal_level was lowered on the primary of this standby.
    WalLevelInsufficient,
    /// Nobody used it for idle_replication_slot_timeout (PostgreSQL 18).
    IdleTimeout,
    /// One that this version of walbench does not know.
    Other(String),
}

impl LostReason {
    /// Reads `invalidation_reason`.
    fn parse(text: &str) -> Self {
        match text {
            "wal_removed" => Self::WalRemoved,
            "rows_removed" => Self::RowsRemoved,
            "wal_level_insufficient" => Self::WalLevelInsufficient,
            "idle_timeout" => Self::IdleTimeout,
            other => Self::Other(other.into()),
        }
    }

    pub(super) fn hint(&self) -> String {
        let how = match self {
            Self::WalRemoved => "raise max_slot_wal_keep_size, ",
            Self::RowsRemoved => "set hot_standby_feedback = on on the standby, ",
            Self::WalLevelInsufficient => "set wal_level = logical on the primary, ",
            Self::IdleTimeout => "raise idle_replication_slot_timeout, ",
            Self::Other(_) => "",
        };
        format!(
            "the slot can't be repaired: {how}drop it with pg_drop_replication_slot, create it \
             again, and fill the destination again"
        )
    }
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WalRemoved => "WAL that it needs was removed",
            Self::RowsRemoved => "it was in conflict with recovery on this standby",
            Self::WalLevelInsufficient => "wal_level was lowered on the primary",
            Self::IdleTimeout => "nobody used it for idle_replication_slot_timeout",
            Self::Other(reason) => return write!(f, "it was invalidated ({reason})"),
        })
    }
}

/// Why a slot is none that we can stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// It is physical.
    Physical,
    /// It has another output plugin.
    Plugin(String),
    /// It is one of another database.
    Database {
        /// The slot's.
        theirs: String,
        /// The one we are connected to.
        ours: String,
    },
}

impl Foreign {
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Physical | Self::Plugin(_) => format!(
                "name another slot, or create one: SELECT \
                 pg_create_logical_replication_slot('…', '{PLUGIN}')"
            ),
            Self::Database { theirs, .. } => {
                format!("connect to database \"{theirs}\", or name a slot of this one")
            }
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Physical => f.write_str("is a physical slot, and has no rows to stream"),
            Self::Plugin(plugin) => {
                write!(f, "has the output plugin {plugin}, and walbench reads {PLUGIN}")
            }
            Self::Database { theirs, ours } => {
                write!(f, "belongs to database \"{theirs}\", and this one is \"{ours}\"")
            }
        }
    }
}

/// A session that holds a slot, as far as our role may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// Its application_name.
    pub application: Option<String>,
    /// Where its client is; `None` also for a Unix socket.
    pub client: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, application, client } = self;
        write!(f, "PID {pid}")?;
        match (application, client) {
            (None, None) => Ok(()),
            (Some(application), None) => write!(f, " (application \"{application}\")"),
            (None, Some(client)) => write!(f, " (client {client})"),
            (Some(application), Some(client)) => {
                write!(f, " (application \"{application}\", client {client})")
            }
        }
    }
}

impl Slot {
    /// Looks up a slot; `None` when there is none of this name.
    ///
    /// # Errors
    /// The connection's, or an answer that makes no sense.
    pub fn read(connection: &mut Connection, name: &str) -> Result<Option<Self>, ReplicationError> {
        let sql = sql(name, connection.server_version);
        let rows = connection.query("to look up the slot", &sql)?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        match Self::from_row(name, &row) {
            Some(slot) => Ok(Some(slot)),
            None => {
                let text = format!("slot \"{name}\" is described as {row:?}");
                Err(ReplicationError::Protocol(text))
            }
        }
    }

    fn from_row(name: &str, row: &[Option<String>]) -> Option<Self> {
        let row: [Option<&str>; 12] =
            row.iter().map(Option::as_deref).collect::<Vec<_>>().try_into().ok()?;
        let [plugin, slot_type, database, active, pid, restart, confirmed, status, ..] = row;
        let [.., temporary, two_phase, conflicting, reason] = row;
        let wal_status = status.and_then(WalStatus::parse);
        let lost = match (reason, conflicting, wal_status) {
            (Some(reason), ..) => Some(LostReason::parse(reason)),
            (None, Some("t"), _) => Some(LostReason::RowsRemoved),
            (None, _, Some(WalStatus::Lost)) => Some(LostReason::WalRemoved),
            _ => None,
        };
        Some(Self {
            name: name.into(),
            plugin: plugin.map(Into::into),
            slot_type: match slot_type? {
                "logical" => SlotType::Logical,
                _ => SlotType::Physical,
            },
            database: database.map(Into::into),
            active: active? == "t",
            active_pid: pid.and_then(|pid| pid.parse().ok()),
            restart_lsn: restart.and_then(parse_lsn),
            confirmed_flush_lsn: confirmed.and_then(parse_lsn),
            wal_status,
            lost,
            temporary: temporary? == "t",
            two_phase: two_phase? == "t",
        })
    }

    /// Whether a session can stream it: one of this process on the server (a temporary slot is
    /// held by the session that made it), in this database. `durable_lsn` is up to where the
    /// slot's changes are durable at their destination, if that is known.
    ///
    /// # Errors
    /// One of the `Slot…` variants.
    pub fn check(
        &self,
        pid: u32,
        database: &str,
        durable_lsn: Option<u64>,
    ) -> Result<(), ReplicationError> {
        let slot = self.name.clone();
        if let Some(foreign) = self.foreign(database) {
            return Err(ReplicationError::SlotForeign { slot, foreign });
        }
        if let Some(reason) = self.lost.clone() {
            return Err(ReplicationError::SlotLost { slot, reason });
        }
        if self.active && self.active_pid != Some(pid) {
            let bare = |pid| Holder { pid, application: None, client: None };
            let holder = self.active_pid.map(bare);
            return Err(ReplicationError::SlotActive { slot, holder });
        }
        match (self.confirmed_flush_lsn, durable_lsn) {
            (Some(theirs), Some(ours)) if theirs > ours => {
                Err(ReplicationError::SlotMoved { slot, ours, theirs })
            }
            _ => Ok(()),
        }
    }

    fn foreign(&self, ours: &str) -> Option<Foreign> {
        let plugin = match (self.slot_type, self.plugin.as_deref()) {
            (SlotType::Physical, _) => return Some(Foreign::Physical),
            (SlotType::Logical, plugin) => plugin.unwrap_or_default(),
        };
        let theirs = self.database.as_deref().unwrap_or_default();
        if plugin != PLUGIN {
            return Some(Foreign::Plugin(plugin.into()));
        }
        let names = || Foreign::Database { theirs: theirs.into(), ours: ours.into() };
        (theirs != ours).then(names)
    }
}

/// What a server does not show yet stands as what it would show.
fn sql(name: &str, server_version: u32) -> String {
    let since = |version: u32, column: &'static str, before: &'static str| {
        if server_version >= version { column } else { before }
    };
    let two_phase = since(140_000, "two_phase", "false");
    let conflicting = since(160_000, "conflicting", "NULL");
    let reason = since(170_000, "invalidation_reason", "NULL");
    format!(
        "SELECT plugin, slot_type, database, active, active_pid, restart_lsn, \
                confirmed_flush_lsn, wal_status, temporary, {two_phase}, {conflicting}, {reason} \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        quote(name)
    )
}

impl Connection {
    /// Whether the server decodes WAL for logical replication.
    ///
    /// # Errors
    /// [`ReplicationError::WalLevel`], [`ReplicationError::Standby`], or the connection's.
    pub fn check_server(&mut self) -> Result<(), ReplicationError> {
        let sql = "SELECT pg_catalog.current_setting('wal_level'), pg_catalog.pg_is_in_recovery()";
        let rows = self.query("to look up wal_level", sql)?;
        match rows.first().map(Vec::as_slice) {
            Some([Some(level), _]) if level != "logical" => {
                Err(ReplicationError::WalLevel { level: level.clone() })
            }
            Some([_, Some(standby)]) if standby == "t" && self.server_version < 160_000 => {
                Err(ReplicationError::Standby)
            }
            _ => Ok(()),
        }
    }

    /// Whether a slot can be streamed by this connection, and what it is like. `durable_lsn` is up
    /// to where its changes are durable at their destination, if that is known.
    ///
    /// # Errors
    /// What is in the way, each with a variant of its own, or the connection's.
    pub fn check_slot(
        &mut self,
        name: &str,
        durable_lsn: Option<u64>,
    ) -> Result<Slot, ReplicationError> {
        self.check_server()?;
        let slot = Slot::read(self, name)?
            .ok_or_else(|| ReplicationError::SlotMissing { slot: name.into() })?;
        let database = self.address.dbname.as_deref().unwrap_or_default();
        match slot.check(self.key.pid, database, durable_lsn) {
            Ok(()) => Ok(slot),
            Err(ReplicationError::SlotActive { slot, holder: Some(holder) }) => {
                let holder = Some(self.holder(holder.pid)?);
                Err(ReplicationError::SlotActive { slot, holder })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a publication is there; PostgreSQL itself would start a stream without it and fail
    /// at the first change.
    ///
    /// # Errors
    /// [`ReplicationError::PublicationMissing`], or the connection's.
    pub fn check_publication(&mut self, name: &str) -> Result<(), ReplicationError> {
        let sql = "SELECT pubname FROM pg_catalog.pg_publication ORDER BY pubname";
        let rows = self.query("to look up the publications", sql)?;
        let existing: Vec<String> = rows.into_iter().flatten().flatten().collect();
        if existing.iter().any(|other| other == name) {
            return Ok(());
        }
        Err(ReplicationError::PublicationMissing { publication: name.into(), existing })
    }

    /// Where the WAL ends now.
    ///
    /// # Errors
    /// The connection's, or an answer that makes no sense.
    pub fn wal_end(&mut self) -> Result<u64, ReplicationError> {
        let rows = self.query("to look up its position", "SELECT pg_current_wal_lsn()")?;
        let text = rows.first().and_then(|row| row.first()?.as_deref());
        text.and_then(parse_lsn).ok_or_else(|| {
            ReplicationError::Protocol("PostgreSQL does not say where its WAL ends".into())
        })
    }

    fn holder(&mut self, pid: u32) -> Result<Holder, ReplicationError> {
        let sql = format!(
            "SELECT NULLIF(application_name, ''), pg_catalog.host(client_addr) \
             FROM pg_catalog.pg_stat_activity WHERE pid = {pid}"
        );
        let rows = self.query("to look up who holds the slot", &sql)?;
        let mut columns = rows.into_iter().next().unwrap_or_default().into_iter();
        let (application, client) = (columns.next().flatten(), columns.next().flatten());
        Ok(Holder { pid, application, client })
    }

    /// What a server's refusal to use a slot means. Told by SQLSTATE and by the slot's state:
    /// messages are worded differently by every version, and translated.
    pub(super) fn slot_refused(
        &mut self,
        what: &str,
        slot: &str,
        source: ServerError,
    ) -> ReplicationError {
        match source.code.as_str() {
            "42704" => ReplicationError::SlotMissing { slot: slot.into() },
            "55006" | "55000" | "58P01" | "0A000" => match self.check_slot(slot, None) {
                Err(found) if found.is_usage() || found.is_slot_lost() => found,
                _ => by_answer(what, slot, source),
            },
            _ => ReplicationError::Server { what: what.into(), source: Box::new(source) },
        }
    }
}

/// What a refusal means when the slot's state no longer shows it.
fn by_answer(what: &str, slot: &str, source: ServerError) -> ReplicationError {
    let name = slot.to_owned();
    match source.code.as_str() {
        "55006" => ReplicationError::SlotActive { slot: name, holder: None },
        "58P01" => ReplicationError::SlotLost { slot: name, reason: LostReason::WalRemoved },
        "55000" if LOST.iter().any(|start| source.message.starts_with(start)) => {
            let detail = source.detail.as_deref().unwrap_or_default();
            ReplicationError::SlotLost { slot: name, reason: reason_in(detail) }
        }
        _ => ReplicationError::Server { what: what.into(), source: Box::new(source) },
    }
}

/// How PostgreSQL 14 to 15, 16 to 17 and 18 begin to say that a slot is lost.
const LOST: [&str; 3] = [
    "cannot read from logical replication slot",
    "can no longer get changes from replication slot",
    "can no longer access replication slot",
];

/// PostgreSQL 18 has the reason's name in quotes; before, there were two sentences.
fn reason_in(detail: &str) -> LostReason {
    match detail.split('"').nth(1) {
        Some(name) => LostReason::parse(name),
        None if detail.contains("conflicting with recovery") => LostReason::RowsRemoved,
        None => LostReason::WalRemoved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot {
            name: "s".into(),
            plugin: Some("pgoutput".into()),
            slot_type: SlotType::Logical,
            database: Some("d".into()),
            active: false,
            active_pid: None,
            restart_lsn: Some(10),
            confirmed_flush_lsn: Some(20),
            wal_status: Some(WalStatus::Reserved),
            lost: None,
            temporary: false,
            two_phase: false,
        }
    }

    fn row(status: &str, conflicting: Option<&str>, reason: Option<&str>) -> Option<Slot> {
        let row = [
            Some("pgoutput"),
            Some("logical"),
            Some("d"),
            Some("f"),
            None,
            Some("0/A"),
            Some("0/14"),
            Some(status),
            Some("f"),
            Some("f"),
            conflicting,
            reason,
        ];
        Slot::from_row("s", &row.map(|value| value.map(String::from)))
    }

    #[test]
    fn a_slot_reads_as_every_version_shows_it() {
        assert_eq!(row("reserved", None, None), Some(slot()));
        assert_eq!(row("reserved", Some("f"), None), Some(slot()));
        let lost = |status, conflicting, reason| row(status, conflicting, reason).unwrap().lost;
        assert_eq!(lost("unreserved", None, None), None);
        assert_eq!(lost("lost", None, None), Some(LostReason::WalRemoved), "14, 15");
        assert_eq!(lost("lost", Some("f"), None), Some(LostReason::WalRemoved), "16");
        assert_eq!(lost("lost", Some("t"), None), Some(LostReason::RowsRemoved), "16");
        let idle = lost("lost", Some("f"), Some("idle_timeout"));
        assert_eq!(idle, Some(LostReason::IdleTimeout), "18");
        let level = lost("lost", Some("t"), Some("wal_level_insufficient"));
        assert_eq!(level, Some(LostReason::WalLevelInsufficient), "17");
        let new = lost("lost", Some("f"), Some("moonlight"));
        assert_eq!(new, Some(LostReason::Other("moonlight".into())));
        assert_eq!(Slot::from_row("s", &[]), None);
    }

    #[test]
    fn only_columns_that_a_version_has_are_asked_for() {
        let asks = |version, column: &str| sql("it's", version).contains(column);
        assert!(!asks(150_018, "conflicting") && asks(160_000, "conflicting"));
        assert!(!asks(160_000, "invalidation_reason") && asks(170_000, "invalidation_reason"));
        assert!(asks(140_000, "two_phase") && asks(140_000, "'it''s'"));
    }

    #[test]
    fn only_what_we_can_stream_passes() {
        use ReplicationError as E;
        let check = |slot: &Slot| slot.check(7, "d", Some(20));
        assert!(check(&slot()).is_ok());
        assert!(slot().check(7, "d", None).is_ok());
        assert!(matches!(slot().check(7, "other", None), Err(E::SlotForeign { .. })));
        let other = Slot { plugin: Some("test_decoding".into()), ..slot() };
        assert!(matches!(check(&other), Err(E::SlotForeign { .. })));
        let physical = Slot { slot_type: SlotType::Physical, ..slot() };
        assert!(matches!(check(&physical), Err(E::SlotForeign { .. })));
        let lost = Slot { lost: Some(LostReason::WalRemoved), ..slot() };
        assert!(matches!(check(&lost), Err(E::SlotLost { .. })));
        let moved = slot().check(7, "d", Some(19));
        assert!(matches!(moved, Err(E::SlotMoved { ours: 19, theirs: 20, .. })));
    }

    #[test]
    fn a_slot_may_be_held_by_ourselves() {
        let held = Slot { active: true, active_pid: Some(7), ..slot() };
        assert!(held.check(7, "d", None).is_ok());
        let refused = held.check(8, "d", None);
        let Err(ReplicationError::SlotActive { holder: Some(holder), .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(holder.to_string(), "PID 7");
    }

    #[test]
    fn answers_of_every_version_mean_the_same() {
        let means = |code: &str, message: &str, detail: &str| {
            let (code, message) = (code.into(), message.into());
            let detail = Some(detail.into());
            by_answer("it", "s", ServerError { code, message, detail, ..ServerError::default() })
        };
        let reason = |message, detail| match means("55000", message, detail) {
            ReplicationError::SlotLost { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        let size = "This slot has been invalidated because it exceeded the maximum reserved size.";
        let conflict = "This slot has been invalidated because it was conflicting with recovery.";
        let v18 = "This replication slot has been invalidated due to \"idle_timeout\".";
        let read = "cannot read from logical replication slot \"s\"";
        let get = "can no longer get changes from replication slot \"s\"";
        assert_eq!(reason(read, size), LostReason::WalRemoved);
        assert_eq!(reason(get, size), LostReason::WalRemoved);
        assert_eq!(reason(get, conflict), LostReason::RowsRemoved);
        let access = "can no longer access replication slot \"s\"";
        assert_eq!(reason(access, v18), LostReason::IdleTimeout);

        use ReplicationError as E;
        let removed = means("58P01", "requested WAL segment 0 has already been removed", "");
        assert!(matches!(removed, E::SlotLost { reason: LostReason::WalRemoved, .. }));
        let held = means("55006", "replication slot \"s\" is active for PID 1", "");
        assert!(held.is_slot_active());
        assert!(matches!(means("55000", "something else", ""), E::Server { .. }));
    }

    #[test]
    fn who_holds_it_is_said_as_far_as_it_is_known() {
        let holder = |application: Option<&str>, client: Option<&str>| {
            let (application, client) = (application.map(Into::into), client.map(Into::into));
            Holder { pid: 1, application, client }.to_string()
        };
        assert_eq!(holder(Some("a"), Some("::1")), "PID 1 (application \"a\", client ::1)");
        assert_eq!(holder(Some("a"), None), "PID 1 (application \"a\")");
        assert_eq!(holder(None, Some("::1")), "PID 1 (client ::1)");
    }
}

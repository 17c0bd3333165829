//! Why a replication connection can't be made or used, and what a person can do about it.

use std::io;
use std::time::Duration;

use thiserror::Error;
use walbench_phases::tls;

use super::create::Blockers;
use super::lsn_text;
use super::query::{quote, quote_identifier};
use super::server_error::ServerError;
use super::slot::{Foreign, Holder, LostReason, PLUGIN};

/// Why a replication connection can't be made or used.
#[derive(Debug, Error)]
pub enum ReplicationError {
    /// The server can't be reached.
    #[error("can't connect to PostgreSQL at {address}")]
    Connect {
        /// The server, without password.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The plan's TLS policy can't be followed.
    #[error("TLS can't be set up for {address}")]
    Tls {
        /// The server, without password.
        address: String,
        /// Why.
        source: tls::TlsError,
    },
    /// The server wants a way of logging in that isn't supported, or that fails on our side.
    #[error("can't log in: {0}")]
    Login(String),
    /// Wrong password, unknown user, or no line of pg_hba.conf that lets it in.
    #[error("PostgreSQL refused the login of user \"{user}\"")]
    LoginRefused {
        /// Who was to log in.
        user: String,
        /// The server's answer.
        source: Box<ServerError>,
    },
    /// There is no such database.
    #[error("database \"{database}\" does not exist")]
    DatabaseMissing {
        /// Its name.
        database: String,
        /// The server's answer.
        source: Box<ServerError>,
    },
    /// The role lacks REPLICATION.
    #[error("role \"{user}\" may not replicate")]
    NotReplicationRole {
        /// The role.
        user: String,
        /// The server's answer.
        source: Box<ServerError>,
    },
    /// A limit on connections is reached: max_wal_senders, or one of the role or the database.
    #[error("PostgreSQL has no room for another replication connection")]
    NoWalSenders(#[source] Box<ServerError>),
    /// The server writes too little into its WAL.
    #[error("wal_level is {level}, and logical replication needs logical")]
    WalLevel {
        /// What it is.
        level: String,
    },
    /// A standby of a version whose standbys don't decode.
    #[error(
        "the server is a standby, and before PostgreSQL 16 a standby has no logical replication"
    )]
    Standby,
    /// Another server answers at the address.
    #[error("the server is another one: its system identifier is {theirs}, and was {ours}")]
    ServerChanged {
        /// What it was.
        ours: String,
        /// What it is.
        theirs: String,
    },
    /// The server's WAL ends before what we received from it.
    #[error(
        "the server's WAL ends at {}, before {} up to where its changes were received",
        lsn_text(*theirs),
        lsn_text(*ours)
    )]
    WalLost {
        /// Up to where changes were received.
        ours: u64,
        /// Where its WAL ends.
        theirs: u64,
    },
    /// There is no such slot.
    #[error("replication slot \"{slot}\" does not exist")]
    SlotMissing {
        /// Its name.
        slot: String,
    },
    /// Another connection holds the slot.
    #[error("replication slot \"{slot}\" is active for {}", holder_text(holder.as_ref()))]
    SlotActive {
        /// Its name.
        slot: String,
        /// Who holds it; `None` when it was gone before we could ask.
        holder: Option<Holder>,
    },
    /// The slot exists, and is none that we can stream.
    #[error("replication slot \"{slot}\" {foreign}")]
    SlotForeign {
        /// Its name.
        slot: String,
        /// In what way.
        foreign: Foreign,
    },
    /// The slot exists, and what it needs does not.
    #[error("replication slot \"{slot}\" is lost: {reason}")]
    SlotLost {
        /// Its name.
        slot: String,
        /// How that came.
        reason: LostReason,
    },
    /// Somebody else consumed from the slot.
    #[error(
        "replication slot \"{slot}\" is confirmed up to {}, beyond {} up to where we have its \
         changes: somebody else consumed from it",
        lsn_text(*theirs),
        lsn_text(*ours)
    )]
    SlotMoved {
        /// Its name.
        slot: String,
        /// Up to where we made its changes durable.
        ours: u64,
        /// Up to where it is confirmed.
        theirs: u64,
    },
    /// A slot could not be made in time; it does not exist.
    #[error("replication slot \"{slot}\" was not made within {} s: {blockers}", waited.as_secs_f64())]
    SlotBlocked {
        /// Its name.
        slot: String,
        /// How long we waited.
        waited: Duration,
        /// What PostgreSQL waits for.
        blockers: Blockers,
    },
    /// There is no such publication.
    #[error("publication \"{publication}\" does not exist in the database")]
    PublicationMissing {
        /// Its name.
        publication: String,
        /// The names of those that exist, as far as known.
        existing: Vec<String>,
    },
    /// The server refused something.
    #[error("PostgreSQL refused {what}")]
    Server {
        /// What was asked.
        what: String,
        /// Its answer.
        source: Box<ServerError>,
    },
    /// The stream ended with an error of the server.
    #[error("PostgreSQL ended the replication stream with an error")]
    Ended(#[source] ServerError),
    /// The server ended the stream, or closed the connection without a word.
    #[error("PostgreSQL ended the replication stream: it stops, or the connection was lost")]
    Closed,
    /// The server was asked something and said nothing.
    #[error("PostgreSQL does not answer: the connection was lost, or the server hangs")]
    Silent,
    /// The stream holds something that the protocol does not allow.
    #[error("the replication stream can't be read: {0}")]
    Protocol(String),
    /// The connection broke.
    #[error("the connection to PostgreSQL failed")]
    Io(#[from] io::Error),
}

impl ReplicationError {
    /// What an ErrorResponse inside the stream of this slot and publication means.
    #[must_use]
    pub fn ended(slot: &str, publication: &str, source: ServerError) -> Self {
        match source.code.as_str() {
            // Before PostgreSQL 18, looked up at the first change and not when the stream starts.
            "42704" => {
                Self::PublicationMissing { publication: publication.into(), existing: Vec::new() }
            }
            "58P01" => Self::SlotLost { slot: slot.into(), reason: LostReason::WalRemoved },
            _ => Self::Ended(source),
        }
    }

    /// Whether connecting again later may help by itself. Never both this and
    /// [`Self::is_usage`].
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Io(source) => is_transient_io(source.kind()),
            Self::Server { source, .. } => is_transient_code(&source.code),
            Self::Ended(source) => is_transient_code(&source.code),
            Self::NoWalSenders(_) | Self::SlotBlocked { .. } | Self::Closed | Self::Silent => true,
            _ => false,
        }
    }

    /// Whether another connection holds the slot. To one that connects again, that may be its own
    /// former session, whose end the server has not noticed: worth a few tries, and no more.
    #[must_use]
    pub fn is_slot_active(&self) -> bool {
        matches!(self, Self::SlotActive { .. })
    }

    /// Whether the slot is there and can never be streamed again.
    pub(super) fn is_slot_lost(&self) -> bool {
        matches!(self, Self::SlotLost { .. })
    }

    /// Whether the command or the server's set-up must be changed by its user, as against what
    /// failed by itself.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Server { source, .. } => is_usage_code(&source.code),
            Self::Ended(source) => is_usage_code(&source.code),
            Self::Tls { .. }
            | Self::Login(_)
            | Self::LoginRefused { .. }
            | Self::DatabaseMissing { .. }
            | Self::NotReplicationRole { .. }
            | Self::WalLevel { .. }
            | Self::Standby
            | Self::SlotMissing { .. }
            | Self::SlotActive { .. }
            | Self::SlotForeign { .. }
            | Self::PublicationMissing { .. } => true,
            _ => false,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Server { source, .. } => server_hint(source),
            Self::Ended(source) => server_hint(source),
            Self::LoginRefused { .. }
            | Self::DatabaseMissing { .. }
            | Self::NotReplicationRole { .. }
            | Self::NoWalSenders(_)
            | Self::WalLevel { .. }
            | Self::Standby => self.login_hint(),
            _ => self.slot_hint(),
        }
    }

    fn login_hint(&self) -> Option<String> {
        Some(match self {
            Self::LoginRefused { .. } => LOGIN_HINT.into(),
            Self::DatabaseMissing { database, .. } => format!(
                "name another database in the address, or CREATE DATABASE {}",
                quote_identifier(database)
            ),
            Self::NotReplicationRole { user, .. } => {
                format!("ALTER ROLE {} REPLICATION", quote_identifier(user))
            }
            Self::NoWalSenders(source) => connections_hint(source).into(),
            Self::WalLevel { .. } => {
                "ALTER SYSTEM SET wal_level = 'logical'; and restart the server".into()
            }
            Self::Standby => "name the primary in the address".into(),
            _ => return None,
        })
    }

    fn slot_hint(&self) -> Option<String> {
        Some(match self {
            Self::SlotMissing { slot } => format!(
                "create it: SELECT pg_create_logical_replication_slot({}, '{PLUGIN}')",
                quote(slot)
            ),
            Self::SlotActive { .. } => ACTIVE_HINT.into(),
            Self::SlotForeign { foreign, .. } => foreign.hint(),
            Self::SlotLost { reason, .. } => reason.hint(),
            Self::SlotMoved { .. } => MOVED_HINT.into(),
            Self::ServerChanged { .. } | Self::WalLost { .. } => OTHER_SERVER_HINT.into(),
            Self::SlotBlocked { .. } => BLOCKED_HINT.into(),
            Self::PublicationMissing { publication, existing } => {
                let create = format!(
                    "CREATE PUBLICATION {} FOR ALL TABLES (or FOR TABLE …)",
                    quote_identifier(publication)
                );
                match existing.as_slice() {
                    [] => create,
                    names => format!("{create}, or name one that exists: {}", names.join(", ")),
                }
            }
            _ => return None,
        })
    }

    /// The same failure in the form a person reads.
    #[must_use]
    pub fn into_failure(self) -> walbench_metrics::Failure {
        let failure = self.causes();
        match self.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// What is wrong and why, in one line.
    #[must_use]
    pub fn line(&self) -> String {
        self.causes().line()
    }

    fn causes(&self) -> walbench_metrics::Failure {
        let failure = walbench_metrics::Failure::new(self.to_string());
        match std::error::Error::source(self) {
            Some(cause) => failure.caused_by(cause),
            None => failure,
        }
    }
}

const LOGIN_HINT: &str = "check user, password and pg_hba.conf (a line for `replication` is not \
                          needed; logical replication uses the database's line)";

const ACTIVE_HINT: &str = "the slot is in use by another connection, and walbench does not take it \
                           over: stop the other one, or name another slot";

const OTHER_SERVER_HINT: &str = "what was received may not be what this server has (a failover to a \
     standby that was behind, a restored backup): make the slot anew and fill the destination again";

const MOVED_HINT: &str = "the changes between are missing at the destination for good: fill it \
                          again, and keep everything else from reading or advancing the slot";

const BLOCKED_HINT: &str = "a slot can only be made where no transaction that writes is open: end \
                            them or wait for their end, then try again";

fn holder_text(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "another connection".into(), ToString::to_string)
}

/// Which of the limits it was is told by who found it: max_wal_senders when a process is made, the
/// others once role and database are known.
fn connections_hint(source: &ServerError) -> &'static str {
    match source.routine.as_deref() {
        Some("InitializeSessionUserId") => "raise the role's limit: ALTER ROLE … CONNECTION LIMIT",
        Some("CheckMyDatabase") => "raise the database's limit: ALTER DATABASE … CONNECTION LIMIT",
        _ => {
            "end replication connections that are not needed, or raise max_wal_senders and restart \
              the server"
        }
    }
}

fn server_hint(source: &ServerError) -> Option<String> {
    let ours = match source.code.as_str() {
        "28P01" | "28000" => LOGIN_HINT,
        "42501" => "the role lacks a privilege: GRANT it, or log in as another role",
        "42710" => "name another slot, or drop this one if nothing needs it",
        "53300" => connections_hint(source),
        "53400" => {
            "drop slots that are not needed, or raise max_replication_slots and restart the server"
        }
        "55006" => ACTIVE_HINT,
        "57P01" | "57P02" | "57P03" => {
            "the server is stopping, starting or was restarted, or an administrator ended the \
             session"
        }
        _ => return source.hint.clone(),
    };
    Some(ours.into())
}

/// What a network or a server that restarts does; everything but what our own side or the other's
/// set-up makes fail every time.
fn is_transient_io(kind: io::ErrorKind) -> bool {
    use io::ErrorKind as Kind;
    !matches!(
        kind,
        Kind::InvalidData
            | Kind::InvalidInput
            | Kind::Other
            | Kind::OutOfMemory
            | Kind::PermissionDenied
            | Kind::Unsupported
    )
}

/// Connection exceptions, want of resources, and a server that stops, starts or ends sessions.
/// Two of those stay: what we said against the protocol (08P01) would be said again, and a limit of
/// the set-up (53400) is one until it is raised.
fn is_transient_code(code: &str) -> bool {
    let of_class = code.starts_with("08") || code.starts_with("53");
    of_class && !["08P01", "53400"].contains(&code)
        || matches!(code, "57P01" | "57P02" | "57P03" | "57P05")
}

/// Features, values, logins and names that the server does not have, and limits of its set-up.
fn is_usage_code(code: &str) -> bool {
    ["0A", "22", "28", "3D", "42"].iter().any(|class| code.starts_with(class)) || code == "53400"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> ReplicationError {
        let source = ServerError { code: code.into(), ..ServerError::default() };
        ReplicationError::Server { what: "it".into(), source: Box::new(source) }
    }

    fn ended(code: &str) -> ReplicationError {
        ReplicationError::ended(
            "s",
            "p",
            ServerError { code: code.into(), ..ServerError::default() },
        )
    }

    fn io(kind: io::ErrorKind) -> ReplicationError {
        ReplicationError::Connect { address: "a".into(), source: kind.into() }
    }

    fn boxed() -> Box<ServerError> {
        Box::default()
    }

    fn slot() -> String {
        "s".into()
    }

    #[test]
    fn what_may_pass_by_itself_is_transient() {
        use io::ErrorKind as Kind;
        let mut transient = vec![
            ReplicationError::Closed,
            ReplicationError::Silent,
            ReplicationError::NoWalSenders(boxed()),
            ReplicationError::SlotBlocked {
                slot: slot(),
                waited: Duration::from_secs(1),
                blockers: Blockers::default(),
            },
        ];
        for code in ["57P01", "57P02", "57P03", "57P05", "53300", "53200", "08006"] {
            transient.extend([server(code), ended(code)]);
        }
        for kind in [
            Kind::ConnectionRefused,
            Kind::ConnectionReset,
            Kind::BrokenPipe,
            Kind::UnexpectedEof,
            Kind::TimedOut,
            Kind::WouldBlock,
            Kind::HostUnreachable,
            // The Unix socket of a server that restarts.
            Kind::NotFound,
        ] {
            transient.extend([io(kind), ReplicationError::Io(kind.into())]);
        }
        for error in transient {
            assert!(error.is_transient() && !error.is_usage(), "{error:?}");
        }
    }

    #[test]
    fn what_its_user_must_change_is_usage() {
        let mut usage = vec![
            ReplicationError::Login("no password".into()),
            ReplicationError::LoginRefused { user: "u".into(), source: boxed() },
            ReplicationError::DatabaseMissing { database: "d".into(), source: boxed() },
            ReplicationError::NotReplicationRole { user: "u".into(), source: boxed() },
            ReplicationError::WalLevel { level: "replica".into() },
            ReplicationError::Standby,
            ReplicationError::SlotMissing { slot: slot() },
            ReplicationError::SlotActive { slot: slot(), holder: None },
            ReplicationError::SlotForeign { slot: slot(), foreign: Foreign::Physical },
            ReplicationError::PublicationMissing { publication: "p".into(), existing: vec![] },
            ended("42704"),
        ];
        usage.extend(["42601", "22023", "0A000", "53400", "28000", "3D000"].map(server));
        for error in usage {
            assert!(error.is_usage() && !error.is_transient(), "{error:?}");
        }
        assert!(ReplicationError::SlotActive { slot: slot(), holder: None }.is_slot_active());
    }

    #[test]
    fn what_is_lost_or_broken_is_neither() {
        let mut neither = vec![
            ReplicationError::SlotLost { slot: slot(), reason: LostReason::WalRemoved },
            ReplicationError::SlotMoved { slot: slot(), ours: 1, theirs: 2 },
            ReplicationError::Protocol("nonsense".into()),
            ended("58P01"),
            server("XX000"),
            server("55000"),
            server("08P01"),
            ended("08P01"),
        ];
        neither.extend([io::ErrorKind::InvalidData, io::ErrorKind::PermissionDenied].map(io));
        for error in neither {
            assert!(!error.is_usage() && !error.is_transient(), "{error:?}");
            assert!(!error.is_slot_active(), "{error:?}");
        }
    }

    #[test]
    fn errors_of_the_stream_are_known_by_their_code() {
        assert!(matches!(ended("42704"), ReplicationError::PublicationMissing { .. }));
        let removed = ended("58P01");
        assert!(matches!(
            removed,
            ReplicationError::SlotLost { reason: LostReason::WalRemoved, .. }
        ));
        assert!(matches!(ended("57P01"), ReplicationError::Ended(_)));
    }

    #[test]
    fn the_limit_that_was_reached_is_the_one_that_is_named() {
        let hint = |routine: &str| {
            let routine = Some(routine.into());
            let source = Box::new(ServerError { routine, ..ServerError::default() });
            ReplicationError::NoWalSenders(source).hint().unwrap()
        };
        assert!(hint("InitProcess").contains("max_wal_senders"));
        assert!(hint("CheckMyDatabase").contains("ALTER DATABASE"));
        assert!(hint("InitializeSessionUserId").contains("ALTER ROLE"));
    }
}

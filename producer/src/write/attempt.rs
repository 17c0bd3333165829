//! What the answers to a transaction mean.

use tokio_postgres::Error;
use tokio_postgres::error::{Severity, SqlState};

/// What became of one try of a transaction.
#[derive(Debug)]
pub enum Attempt {
    /// It is in the database.
    Committed {
        /// Rows inserted.
        inserted: u64,
        /// Rows updated.
        updated: u64,
    },
    /// It is not in the database, and the server said why.
    Refused(Refusal),
    /// The connection was lost before the server said whether it committed.
    Lost {
        /// The transaction's number, if it came back in time.
        xid: Option<String>,
    },
}

/// An error of the server that left nothing behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The SQLSTATE.
    pub code: String,
    /// The message, with its detail.
    pub message: String,
    /// The connection is gone as well.
    pub fatal: bool,
}

/// The answers to a transaction's statements, in their order.
#[derive(Debug)]
pub struct Answers {
    /// To BEGIN.
    pub begin: Result<u64, Error>,
    /// To the stamp: the transaction's number.
    pub stamp: Result<Option<String>, Error>,
    /// To the inserts: how many.
    pub insert: Result<u64, Error>,
    /// To the updates: how many.
    pub update: Result<u64, Error>,
    /// To COMMIT.
    pub commit: Result<u64, Error>,
}

impl From<Answers> for Attempt {
    fn from(answers: Answers) -> Self {
        let Answers { begin, stamp, insert, update, commit } = answers;
        let before = [
            begin.as_ref().err(),
            stamp.as_ref().err(),
            insert.as_ref().err(),
            update.as_ref().err(),
        ];
        // The first one is the cause: what follows only says that the transaction is aborted.
        if let Some(refusal) = before.iter().flatten().find_map(|error| Refusal::of(error)) {
            return Self::Refused(refusal);
        }
        match (insert, update, commit) {
            (Ok(inserted), Ok(updated), Ok(_)) => Self::Committed { inserted, updated },
            (_, _, Err(error)) => match Refusal::of(&error) {
                // A server that goes away while it commits may have done so already.
                Some(refusal) if !refusal.fatal => Self::Refused(refusal),
                _ => Self::Lost { xid: stamp.ok().flatten() },
            },
            // A statement that could not even be sent.
            (Err(error), ..) | (_, Err(error), _) => Self::Refused(Refusal {
                code: "client".into(),
                message: error.to_string(),
                fatal: true,
            }),
        }
    }
}

impl Refusal {
    /// The server's error, if `error` is one.
    #[must_use]
    pub fn of(error: &Error) -> Option<Self> {
        let error = error.as_db_error()?;
        let fatal = matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
            || matches!(error.severity(), "FATAL" | "PANIC");
        let mut message = error.message().to_owned();
        if let Some(detail) = error.detail() {
            message = format!("{message}: {detail}");
        }
        Some(Self { code: error.code().code().into(), message, fatal })
    }

    /// Whether the same transaction may succeed when it is tried again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        const TRANSIENT: [SqlState; 9] = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::TOO_MANY_CONNECTIONS,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            SqlState::OUT_OF_MEMORY,
        ];
        // Class 08 is the connection's.
        self.code.starts_with("08") || TRANSIENT.iter().any(|state| state.code() == self.code)
    }

    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self.code.as_str() {
            "23503" => {
                "generated rows refer to nothing: drop the foreign keys in the copied schema, or \
                 leave the table out of producer.tables"
            }
            "23514" => {
                "generated values break a CHECK: drop it in the copied schema, or leave the table \
                 out of producer.tables"
            }
            "23505" => "the table holds rows already: let walbench make its own database",
            "42501" => "grant the user INSERT, UPDATE and SELECT on the table",
            "25006" => "the server is a standby or read-only: write to the primary",
            "53100" => "the server's disk is full",
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_try_can_mend_is_known() {
        let transient = |code: &str| {
            Refusal { code: code.into(), message: String::new(), fatal: false }.is_transient()
        };
        for code in ["40001", "40P01", "55P03", "57P01", "57P02", "57P03", "08006", "53300"] {
            assert!(transient(code), "{code}");
        }
        for code in ["23505", "23503", "42P01", "57014", "22001", "client"] {
            assert!(!transient(code), "{code}");
        }
    }
}

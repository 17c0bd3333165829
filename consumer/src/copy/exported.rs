//! The snapshot of a new slot's start.

use crate::replication::{Connection, CreateSlot, ReplicationError, Snapshot};

/// A snapshot that others may read in, as long as the connection that exported it is asked nothing
/// more.
#[derive(Debug)]
pub struct Exported {
    connection: Connection,
    name: String,
    consistent_lsn: u64,
}

impl Exported {
    /// Makes a slot, with the snapshot of its start whatever is wanted of it.
    ///
    /// # Errors
    /// As those of [`Connection::create_slot`].
    pub fn create(
        mut connection: Connection,
        wanted: &CreateSlot<'_>,
    ) -> Result<Self, ReplicationError> {
        // It is idle in a transaction for as long as the copy goes on.
        connection.query(
            "to stay connected",
            "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
             WHERE name IN ('idle_in_transaction_session_timeout', 'idle_session_timeout', \
                            'transaction_timeout')",
        )?;
        let wanted = CreateSlot { snapshot: Snapshot::Export, ..*wanted };
        let created = connection.create_slot(&wanted)?;
        let name = created.snapshot_name.ok_or_else(|| {
            ReplicationError::Protocol("a new slot's snapshot has no name".into())
        })?;
        Ok(Self { connection, name, consistent_lsn: created.consistent_lsn })
    }

    /// Where the slot starts: the snapshot has all transactions that were committed before.
    #[must_use]
    pub fn consistent_lsn(&self) -> u64 {
        self.consistent_lsn
    }

    /// What `SET TRANSACTION SNAPSHOT` wants.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Gives it up.
    pub(super) fn close(self) {
        self.connection.terminate();
    }
}

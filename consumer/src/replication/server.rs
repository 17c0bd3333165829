//! What servers of different versions can do.

use std::ops::RangeInclusive;

use super::connection::Connection;
use super::error::ReplicationError;
use super::parse_lsn;

/// Which server this is, and how far its WAL goes (PostgreSQL manual, section 55.4,
/// `IDENTIFY_SYSTEM`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Given to a cluster when it is made; its standbys have the same.
    pub system_id: String,
    /// End of its WAL: flushed, or replayed on a standby.
    pub wal_end_lsn: u64,
}

impl Connection {
    /// Asks the server which one it is.
    ///
    /// # Errors
    /// The connection's.
    pub fn identify(&mut self) -> Result<SystemIdentity, ReplicationError> {
        let rows = self.query("to identify itself", "IDENTIFY_SYSTEM")?;
        match rows.first().map(Vec::as_slice) {
            Some([Some(system_id), _, Some(wal_end), ..]) if parse_lsn(wal_end).is_some() => {
                let wal_end_lsn = parse_lsn(wal_end).unwrap_or_default();
                Ok(SystemIdentity { system_id: system_id.clone(), wal_end_lsn })
            }
            _ => Err(ReplicationError::Protocol("IDENTIFY_SYSTEM was not answered".into())),
        }
    }

    /// The server's version as `server_version_num` has it: 150018 is 15.18.
    #[must_use]
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// The versions of pgoutput's protocol that the server speaks.
    #[must_use]
    pub fn protocol_versions(&self) -> RangeInclusive<u32> {
        1..=newest_protocol(self.server_version)
    }
}

/// The newest version of pgoutput's protocol that a server of this version
/// (`server_version_num`) speaks.
#[must_use]
pub const fn newest_protocol(server_version: u32) -> u32 {
    match server_version / 10_000 {
        0..14 => 1,
        14 => 2,
        15 => 3,
        16.. => 4,
    }
}

/// What a stream can be asked for beyond protocol version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamOption {
    /// `binary`: values in their types' binary form.
    Binary,
    /// `streaming 'on'`: transactions in pieces while they are open.
    Streaming,
    /// `two_phase`: prepared transactions before they commit.
    TwoPhase,
    /// `origin`: changes by where they were made first.
    Origin,
    /// `streaming 'parallel'`: pieces with what applying them in parallel needs.
    ParallelStreaming,
}

impl StreamOption {
    /// The first major version of PostgreSQL whose pgoutput has it.
    #[must_use]
    pub const fn since(self) -> u32 {
        match self {
            Self::Binary | Self::Streaming => 14,
            Self::TwoPhase => 15,
            Self::Origin | Self::ParallelStreaming => 16,
        }
    }

    /// Whether a server of this version (`server_version_num`) has it.
    #[must_use]
    pub const fn is_known_to(self, server_version: u32) -> bool {
        server_version / 10_000 >= self.since()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_speaks_its_protocol() {
        let newest = [130_023, 140_000, 150_018, 160_004, 170_010, 180_001].map(newest_protocol);
        assert_eq!(newest, [1, 2, 3, 4, 4, 4]);
    }

    #[test]
    fn options_come_with_their_version() {
        use StreamOption::{Binary, Origin, ParallelStreaming, Streaming, TwoPhase};
        let known = |version| {
            let all = [Binary, Streaming, TwoPhase, Origin, ParallelStreaming];
            all.into_iter().filter(|option| option.is_known_to(version)).count()
        };
        assert_eq!([139_999, 140_000, 150_000, 160_000].map(known), [0, 2, 3, 5]);
    }
}

//! What a private server is: a folder, an address, and who keeps it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use walbench_metrics::Failure;
use walbench_phases::Plan;
use walbench_phases::address::{Host, PostgresAddress, SslPolicy};
use walbench_phases::plan::Transport;

/// Prefix of the folders of private servers.
pub(crate) const FOLDER_PREFIX: &str = "walbench-pg-";

/// A Unix socket's path has room for about 107 bytes; this leaves some for the socket's name.
const LONGEST_FOLDER: usize = 80;

const USER: &str = "postgres";

/// Everything the keeper needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PrivateServer {
    /// Where the programs are.
    pub(crate) initdb: PathBuf,
    /// The server's program.
    pub(crate) postgres: PathBuf,
    /// The folder that holds everything, made and removed by the keeper.
    pub(crate) folder: PathBuf,
    /// TCP port on loopback, and number of the Unix socket.
    pub(crate) port: u16,
    /// For TCP; the Unix socket is private to this user already.
    pub(crate) password: String,
    /// `-c` settings.
    pub(crate) settings: BTreeMap<String, String>,
    /// Leave the folder when the server stops.
    pub(crate) keep: bool,
}

impl PrivateServer {
    /// A server for a plan, not started yet.
    pub(crate) fn new(
        plan: &Plan,
        binaries: &super::binaries::Binaries,
        keep: bool,
    ) -> Result<Self, Failure> {
        Ok(Self {
            initdb: binaries.program("initdb"),
            postgres: binaries.program("postgres"),
            folder: new_folder()?,
            port: free_port()?,
            password: random_word(),
            settings: settings(plan),
            keep,
        })
    }

    /// Folder of the data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Folder of the Unix socket.
    pub(crate) fn socket_folder(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// The server's first process, while it runs.
    pub(crate) fn postmaster_pid(&self) -> Option<u32> {
        postmaster_pid(&self.folder)
    }

    /// How to reach it.
    pub(crate) fn address(&self, transport: Transport) -> PostgresAddress {
        let (host, password) = match transport {
            Transport::Unix => (Host::Unix(self.socket_folder()), None),
            Transport::Tcp => (Host::Tcp("127.0.0.1".into()), Some(self.password.clone())),
        };
        PostgresAddress {
            host,
            port: self.port,
            user: Some(USER.into()),
            password,
            dbname: Some("postgres".into()),
            ssl: SslPolicy::disabled(),
            options: BTreeMap::new(),
        }
    }
}

/// Where private servers' folders are: not /tmp, which is memory on many machines, where an fsync
/// costs nothing and says nothing.
pub(crate) fn parent_folder() -> PathBuf {
    match std::env::var_os("TMPDIR").map(std::path::absolute) {
        Some(Ok(folder)) => folder,
        _ if Path::new("/var/tmp").is_dir() => "/var/tmp".into(),
        _ => std::env::temp_dir(),
    }
}

/// The first process of the server in a private server's folder, as the server wrote it down.
pub(crate) fn postmaster_pid(folder: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(folder.join("data/postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

fn new_folder() -> Result<PathBuf, Failure> {
    let folder = parent_folder().join(format!("{FOLDER_PREFIX}{}", random_word()));
    if folder.as_os_str().len() > LONGEST_FOLDER {
        let text = format!("{} is too long for a Unix socket below it", folder.display());
        return Err(Failure::new(text).hint("set TMPDIR to a folder with a shorter path"));
    }
    Ok(folder)
}

pub(crate) fn free_port() -> Result<u16, Failure> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|e| Failure::new("no free port on loopback").caused_by(&e))
}

/// 16 letters and digits nobody can guess: the standard library's hash keys come from the
/// operating system's randomness.
pub(crate) fn random_word() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// Our settings, and the plan's over them.
fn settings(plan: &Plan) -> BTreeMap<String, String> {
    let connections = plan.producer.processes * plan.producer.connections;
    let consumers = plan.consumer.processes;
    let ours = [
        ("wal_level", "logical".to_owned()),
        // Thrice the consumers: other programs' slots have a second one beside them, and so have those
        // of which the ceilings are measured.
        ("max_replication_slots", (consumers * 3 + 4).to_string()),
        ("max_wal_senders", (consumers * 2 + 4).to_string()),
        // Twice the producers, because a lost connection may be there still when its successor
        // comes; and some for us.
        ("max_connections", (connections * 2 + consumers * 2 + 20).to_string()),
        ("shared_buffers", "256MB".into()),
        ("max_wal_size", "4GB".into()),
        ("listen_addresses", "127.0.0.1".into()),
        ("logging_collector", "off".into()),
    ];
    let mut settings: BTreeMap<_, _> =
        ours.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    settings.extend(plan.postgres.settings.clone());
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_differ_and_are_long_enough() {
        let words: std::collections::BTreeSet<_> = (0..100).map(|_| random_word()).collect();
        assert_eq!(words.len(), 100);
        assert!(words.iter().all(|w| w.len() == 16));
    }
}

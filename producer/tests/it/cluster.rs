//! A private PostgreSQL server for a test binary. The consumer's tests use this file as well.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{User, chown, geteuid};
use walbench_phases::address::{Host, PostgresAddress, SslMode, SslPolicy};

/// The server outlives no test process, however that ends: its guardian waits for the end of this
/// pipe, then stops it and removes its data.
pub(crate) struct Cluster {
    folder: PathBuf,
    port: u16,
    _guardian: ChildStdin,
}

const GUARDIAN: &str = r#"
"$1/postgres" -D "$2/data" >"$2/log" 2>&1 &
server=$!
read -r _
kill -INT "$server"
wait "$server"
rm -rf "$2"
"#;

const SETTINGS: [&str; 11] = [
    "listen_addresses = '127.0.0.1'",
    "wal_level = logical",
    "max_connections = 200",
    "max_prepared_transactions = 20",
    "max_replication_slots = 50",
    "max_wal_senders = 50",
    "shared_buffers = 128MB",
    "fsync = off",
    "deadlock_timeout = 100ms",
    "autovacuum = off",
    "max_wal_size = 2GB",
];

/// `password_user` needs its password; nobody else but `postgres` gets in.
const LOGINS: &str = "
local all postgres trust
host all postgres 127.0.0.1/32 trust
host all password_user 127.0.0.1/32 scram-sha-256
host all md5_user 127.0.0.1/32 md5
host all clear_user 127.0.0.1/32 password
hostssl all tls_user 127.0.0.1/32 trust
";

impl Cluster {
    /// A server that is up.
    pub(crate) fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// A server with more lines in its settings, and more files in its data folder, readable by
    /// its owner alone.
    pub(crate) fn start_with(more_settings: &[&str], files: &[(&str, &str)]) -> Self {
        let binaries = binaries();
        let folder = tempfile::Builder::new().prefix("walbench-test-").tempdir().unwrap().keep();
        let owner = owner();
        if let Some(owner) = &owner {
            chown(&folder, Some(owner.uid), Some(owner.gid)).unwrap();
        }
        let as_owner = |program: &Path| {
            let mut command = Command::new(program);
            if let Some(owner) = &owner {
                command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
            }
            command.current_dir(&folder);
            command
        };
        let output = as_owner(&binaries.join("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8"])
            .args(["--locale=C", "--pgdata"])
            .arg(folder.join("data"))
            .output()
            .unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        std::fs::write(folder.join("data/pg_hba.conf"), LOGINS).unwrap();
        let settings = format!(
            "port = {port}\nunix_socket_directories = '{}'\n{}\n",
            folder.display(),
            SETTINGS.join("\n")
        );
        let file = folder.join("data/postgresql.auto.conf");
        std::fs::write(&file, settings + &more_settings.join("\n")).unwrap();
        for (name, content) in files {
            let file = folder.join("data").join(name);
            std::fs::write(&file, content).unwrap();
            std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            if let Some(owner) = &owner {
                chown(&file, Some(owner.uid), Some(owner.gid)).unwrap();
            }
        }
        let guardian = as_owner(Path::new("/bin/sh"))
            .args(["-c", GUARDIAN, "guardian"])
            .args([&binaries, &folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create("/dev/null").unwrap())
            // A Ctrl-C at the terminal is for the tests; the guardian cleans up after them.
            .process_group(0)
            .spawn()
            .unwrap()
            .stdin
            .unwrap();
        let cluster = Self { folder, port, _guardian: guardian };
        cluster.wait();
        cluster
    }

    fn wait(&self) {
        let socket = self.folder.join(format!(".s.PGSQL.{}", self.port));
        let deadline = Instant::now() + Duration::from_secs(30);
        let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        while !socket.exists() || !log().contains("ready to accept connections") {
            assert!(Instant::now() < deadline, "the server doesn't start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its database `postgres`, as its superuser over the Unix socket.
    pub(crate) fn address(&self) -> PostgresAddress {
        PostgresAddress {
            host: Host::Unix(self.folder.clone()),
            port: self.port,
            user: Some("postgres".into()),
            password: None,
            dbname: Some("postgres".into()),
            ssl: SslPolicy { mode: SslMode::Disable, root_cert: None },
            options: BTreeMap::new(),
        }
    }
}

/// PostgreSQL refuses to run as root: then it runs as another user.
fn owner() -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    let named = |name| User::from_name(name).unwrap();
    Some(named("postgres").or_else(|| named("nobody")).expect("a user for PostgreSQL to run as"))
}

/// The newest PostgreSQL that is installed.
fn binaries() -> PathBuf {
    let version = |path: &Path| {
        let name = path.parent()?.file_name()?.to_str()?;
        name.parse::<u32>().ok()
    };
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed
        .map(|entry| entry.path().join("bin"))
        .filter(|path| path.join("postgres").exists())
        .max_by_key(|path| version(path));
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).find(|folder| folder.join("postgres").exists())
    });
    newest.or(on_path).expect("these tests need PostgreSQL's server: install postgresql")
}

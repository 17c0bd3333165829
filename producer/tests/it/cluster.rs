//! A private PostgreSQL server for a test binary. The consumer's tests use this file as well.

#![allow(dead_code, reason = "the producer's tests and the consumer's each use a part")]

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

/// Which PostgreSQL a server is of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Version {
    /// The newest that is installed.
    Newest,
    /// Debian 12's; the newest that is installed where that one isn't.
    Pg15OrInstalled,
    /// The one that `.ci/setup` brings for the tests, or the system's own.
    Pg18,
}

/// The server outlives no test process, however that ends: its guardian waits for the end of this
/// pipe, then stops it, or the one that took its place, and removes its data.
pub(crate) struct Cluster {
    folder: PathBuf,
    binaries: PathBuf,
    port: u16,
    _guardian: ChildStdin,
}

const GUARDIAN: &str = r#"
"$1/postgres" -D "$2/data" >"$2/log" 2>&1 &
read -r _
"$1/pg_ctl" -D "$2/data" -m immediate stop
wait
rm -rf "$2"
"#;

const SETTINGS: [&str; 11] = [
    "listen_addresses = '127.0.0.1'",
    "wal_level = logical",
    "max_connections = 200",
    "max_prepared_transactions = 20",
    "max_replication_slots = 100",
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
        Self::start_version(Version::Newest)
    }

    pub(crate) fn start_version(version: Version) -> Self {
        Self::start_with(version, &[], &[])
    }

    /// A server with more lines in its settings, and more files in its data folder, readable by
    /// its owner alone.
    pub(crate) fn start_with(
        version: Version,
        more_settings: &[&str],
        files: &[(&str, &str)],
    ) -> Self {
        let binaries = version.binaries();
        let folder = tempfile::Builder::new().prefix("walbench-test-").tempdir().unwrap().keep();
        let owner = owner();
        if let Some(owner) = &owner {
            chown(&folder, Some(owner.uid), Some(owner.gid)).unwrap();
        }
        let as_owner = |program: &Path| as_owner(program, &folder);
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
        let cluster = Self { folder, binaries, port, _guardian: guardian };
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

    /// Stops it and starts it again, as `pg_ctl -m` says.
    pub(crate) fn restart(&self, mode: &str) {
        let mut command = as_owner(&self.binaries.join("pg_ctl"), &self.folder);
        command.args(["-D", "data", "-l", "log", "-w", "-m", mode, "restart"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(command.status().unwrap().success(), "{mode} restart: {}", log());
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

/// A program that is run in a folder, as the server's owner.
fn as_owner(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some(owner) = owner() {
        command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
    }
    command.current_dir(folder);
    command
}

/// PostgreSQL refuses to run as root: then it runs as another user.
fn owner() -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    let named = |name| User::from_name(name).unwrap();
    Some(named("postgres").or_else(|| named("nobody")).expect("a user for PostgreSQL to run as"))
}

const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

impl Version {
    pub(crate) const COUNT: usize = 3;

    fn binaries(self) -> PathBuf {
        let missing = "these tests need PostgreSQL's server: run .ci/setup, or install postgresql";
        match self {
            Self::Newest => newest().expect(missing),
            Self::Pg15OrInstalled => debian("15").or_else(newest).expect(missing),
            Self::Pg18 => pg18(),
        }
    }
}

fn debian(major: &str) -> Option<PathBuf> {
    Some(Path::new(DEBIAN_ROOT).join(major).join("bin")).filter(|path| has_server(path))
}

fn has_server(path: &Path) -> bool {
    path.join("postgres").exists()
}

/// The newest PostgreSQL that is installed.
fn newest() -> Option<PathBuf> {
    let version = |path: &Path| {
        let name = path.parent()?.file_name()?.to_str()?;
        name.parse::<u32>().ok()
    };
    let installed = std::fs::read_dir(DEBIAN_ROOT).into_iter().flatten().flatten();
    let newest = installed
        .map(|entry| entry.path().join("bin"))
        .filter(|path| has_server(path))
        .max_by_key(|path| version(path));
    let on_path = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).find(|folder| has_server(folder)));
    newest.or(on_path)
}

/// Where the system has it, or where `.ci/setup` puts it.
fn pg18() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(given) = variable("WALBENCH_PG18_BIN").map(PathBuf::from) {
        let output = Command::new(given.join("postgres")).arg("--version").output();
        let version = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        // Of another version, the tests would prove what their names don't say.
        let is_18 = version.as_ref().is_ok_and(|v| v.starts_with("postgres (PostgreSQL) 18"));
        assert!(is_18, "WALBENCH_PG18_BIN={}: not PostgreSQL 18: {version:?}", given.display());
        return given;
    }
    let own_cache = || {
        let home_cache = || Some(Path::new(&variable("HOME")?).join(".cache"));
        variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(home_cache)
    };
    // Root's server runs as another user, who can't get into root's home.
    let own_cache = if geteuid().is_root() { None } else { own_cache() };
    let caches = own_cache.into_iter().chain([PathBuf::from("/var/cache")]);
    let brought = caches.map(|cache| cache.join("walbench/postgresql-18/bin"));
    debian("18").into_iter().chain(brought).find(|path| has_server(path)).expect(
        "these tests need PostgreSQL 18: run .ci/setup as the user who runs them, or set \
         WALBENCH_PG18_BIN to the folder of its programs",
    )
}

//! A PostgreSQL server that walbench did not start.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use nix::unistd::{User, chown, geteuid};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_postgres::types::FromSql;
use walbench_phases::address::PostgresAddress;

use crate::processes::until;

/// The server outlives no test process, however that ends: its guardian waits for the end of its
/// standard input, then stops it and removes its data.
const GUARDIAN: &str = r#"
"$1/postgres" -D "$2/data" >"$2/log" 2>&1 </dev/null &
server=$!
read -r _
kill -QUIT "$server"
wait "$server"
rm -rf "$2"
"#;

const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
wal_level = logical
max_replication_slots = 30
max_wal_senders = 30
fsync = off
autovacuum = off
max_wal_size = 2GB
";

/// In the place of the C library's.
const SLOW_DISK: &str = "
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>
int fdatasync(int fd) { usleep(50000); return syscall(SYS_fdatasync, fd); }
";

/// A server with its guardian.
pub(crate) struct Server {
    folder: PathBuf,
    port: u16,
    guardian: Child,
}

impl Server {
    /// The server that tests share; each has databases and slots of its own there.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// A server with settings over ours.
    pub(crate) fn with(settings: &str) -> Self {
        Self::start_with(settings, None)
    }

    /// A server whose disk takes 50 ms to say that something is written.
    pub(crate) fn with_a_slow_disk() -> Self {
        let folder = tempfile::Builder::new().prefix("wb-disk-").tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let [source, library] = ["slow.c", "slow.so"].map(|name| folder.path().join(name));
        fs::write(&source, SLOW_DISK).unwrap();
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(compiled.unwrap().success());
        Self::start_with("fsync = on\nwal_sync_method = fdatasync", Some(&library))
    }

    fn start_with(settings: &str, preload: Option<&Path>) -> Self {
        let folder = tempfile::Builder::new().prefix("wb-pg-").tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        let owner = owner();
        if let Some(owner) = &owner {
            chown(folder.path(), Some(owner.uid), Some(owner.gid)).unwrap();
        }
        let as_owner = |program: &Path| {
            let mut command = Command::new(program);
            if let Some(owner) = &owner {
                command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
            }
            command.current_dir(folder.path());
            command
        };
        let initialised = as_owner(&program("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8"])
            .args(["--locale=C", "--pgdata=data"])
            .output()
            .unwrap();
        assert!(initialised.status.success(), "{}", String::from_utf8_lossy(&initialised.stderr));
        let port = free_port();
        let place = folder.path().display();
        let ours = format!("port = {port}\nunix_socket_directories = '{place}'\n{SETTINGS}");
        let file = folder.path().join("data/postgresql.auto.conf");
        fs::write(file, format!("{ours}\n{settings}\n")).unwrap();
        let guardian = as_owner(Path::new("/bin/sh"))
            .envs(preload.map(|library| ("LD_PRELOAD", library)))
            .args(["-c", GUARDIAN, "guardian"])
            .args([binaries(), folder.path()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal is for the tests; the guardian cleans up after them.
            .process_group(0)
            .spawn()
            .unwrap();
        let server = Self { folder: TempDir::keep(folder), port, guardian };
        let log = || fs::read_to_string(server.folder.join("log")).unwrap_or_default();
        until("the server's start", || {
            assert!(!log().contains("FATAL"), "the server doesn't start: {}", log());
            log().contains("ready to accept connections").then_some(())
        });
        server
    }

    /// Where it listens on this machine.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// By TCP, as `postgres`.
    pub(crate) fn url(&self) -> String {
        self.url_of("postgres", "postgres")
    }

    pub(crate) fn url_of(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// By the Unix socket, as `postgres`.
    pub(crate) fn socket_url(&self) -> String {
        let folder = self.folder.to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres@{folder}:{}/postgres", self.port)
    }

    /// A session on one of its databases.
    pub(crate) fn session(&self, database: &str) -> Session {
        let address = PostgresAddress::parse(&self.url_of("postgres", database)).unwrap();
        let connected = runtime().block_on(walbench_producer::connect(&address, "test"));
        Session { client: connected.unwrap().client }
    }

    /// Names of databases and slots that begin like this.
    pub(crate) fn left(&self, name: &str) -> Vec<String> {
        let sql = "SELECT 'database ' || datname FROM pg_database WHERE starts_with(datname, $1) \
                   UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots \
                   WHERE starts_with(slot_name, $1) ORDER BY 1";
        let session = self.session("postgres");
        let rows = runtime().block_on(session.client.query(sql, &[&name])).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}

/// A session that is used from a test's thread.
pub(crate) struct Session {
    client: tokio_postgres::Client,
}

impl Session {
    pub(crate) fn execute(&self, sql: &str) {
        runtime().block_on(self.client.batch_execute(sql)).unwrap();
    }

    pub(crate) fn value<T: for<'a> FromSql<'a>>(&self, sql: &str) -> T {
        runtime().block_on(self.client.query_one(sql, &[])).unwrap().get(0)
    }
}

pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// PostgreSQL refuses to run as root: then it runs as another user.
fn owner() -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    let named = |name| User::from_name(name).unwrap();
    Some(named("postgres").or_else(|| named("nobody")).expect("a user for PostgreSQL to run as"))
}

/// One of PostgreSQL's programs.
pub(crate) fn program(name: &str) -> PathBuf {
    binaries().join(name)
}

/// Where the newest PostgreSQL that is installed has its programs.
fn binaries() -> &'static Path {
    static BINARIES: OnceLock<PathBuf> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let version = |path: &Path| {
            let name = path.parent()?.file_name()?.to_str()?;
            name.parse::<u32>().ok()
        };
        let has_server = |folder: &PathBuf| folder.join("postgres").exists();
        let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let newest = installed
            .map(|entry| entry.path().join("bin"))
            .filter(has_server)
            .max_by_key(|path| version(path));
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        newest
            .or_else(|| std::env::split_paths(&on_path).find(has_server))
            .expect("these tests need PostgreSQL's server: install postgresql")
    })
}

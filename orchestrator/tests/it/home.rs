//! A folder for one test, and walbench run in it.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use walbench_results::Metrics;

use crate::processes::{self, until};
use crate::server::Server;

/// The executable under test.
pub(crate) const WALBENCH: &str = env!("CARGO_BIN_EXE_walbench");

/// One second of little load.
pub(crate) const SHORT_PLAN: &str = r#"
name = "short"

[[phases]]
name = "only"
duration_sec = 1
target_throughput = 500

[producer]
tables = ["event"]
"#;

/// A test's own folder: plans, runs, and private servers, which thus no other test's `clean` sees.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("wb-").tempdir().unwrap();
        // For a server that runs as another user.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let home = Self(folder);
        fs::create_dir(home.servers()).unwrap();
        home
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// TMPDIR of what runs here.
    pub(crate) fn servers(&self) -> PathBuf {
        self.path().join("t")
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.path().join("runs")
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// walbench with arguments, in this folder.
    pub(crate) fn walbench<const N: usize>(&self, arguments: [&str; N]) -> Walbench {
        let mut command = Command::new(WALBENCH);
        command.args(arguments).current_dir(self.path()).env("TMPDIR", self.servers());
        command.env_remove("DATABASE_URL").stdin(Stdio::null());
        for name in ["PGUSER", "PGPASSWORD", "PGPASSFILE"] {
            command.env_remove(name);
        }
        Walbench { command, path: self.path().to_owned() }
    }

    /// `walbench run` with a plan's text.
    pub(crate) fn run(&self, plan: &str) -> Walbench {
        self.write("plan.toml", plan);
        self.walbench(["run", "plan.toml"])
    }

    /// What the run here left.
    pub(crate) fn run_folder(&self) -> PathBuf {
        let mut runs = entries(&self.runs());
        let run = runs.pop().expect("no run was written");
        assert_eq!(runs, Vec::<PathBuf>::new(), "more than one run");
        run
    }

    pub(crate) fn metrics_text(&self) -> String {
        fs::read_to_string(self.run_folder().join("metrics.json")).unwrap()
    }

    pub(crate) fn metrics(&self) -> Metrics {
        serde_json::from_str(&self.metrics_text()).unwrap()
    }

    /// Nothing of a private server, and no process of ours.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        assert_eq!(processes::of_folder(self.path()), Vec::<String>::new());
        assert_eq!(entries(&self.servers()), Vec::<PathBuf>::new());
    }
}

/// Entries of a folder, sorted; none if it is not there.
pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A command line of walbench.
pub(crate) struct Walbench {
    command: Command,
    path: PathBuf,
}

impl Walbench {
    pub(crate) fn args<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    pub(crate) fn set(self, key: &str, value: &str) -> Self {
        self.args(["--set", &format!("{key}={value}")])
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// On a server that exists, with database and slots of that name.
    pub(crate) fn on(self, server: &Server, name: &str) -> Self {
        self.set("postgres.url", &server.url())
            .set("postgres.database", name)
            .set("postgres.slot", name)
    }

    /// Runs it to its end.
    pub(crate) fn ended(self) -> Ended {
        self.start().ended()
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Running {
        let mut child = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Heard::of(child.stdout.take().unwrap());
        let stderr = Heard::of(child.stderr.take().unwrap());
        Running { child, stdout, stderr, path: self.path }
    }

    /// Starts it on a terminal, which is closed when this is killed. Its exit code comes into the
    /// file `code`.
    pub(crate) fn on_a_terminal(mut self) -> Running {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.display())).collect();
        // The user's shell ends with its terminal, which ends what it runs. One within it must
        // outlive both to say how walbench ended.
        let inner = format!("trap '' HUP\n{}\necho $? >code\n", words.join(" "));
        fs::write(self.path.join("inner.sh"), inner).unwrap();
        let mut script = Command::new("script");
        script.args(["--quiet", "--flush", "--command", "sh inner.sh; true", "/dev/null"]);
        script.current_dir(&self.path).env("TMPDIR", self.path.join("t")).env("SHELL", "/bin/sh");
        self.command = script;
        self.start()
    }

    /// Runs it with nobody reading what it says.
    pub(crate) fn ended_unheard(mut self) -> ExitStatus {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        self.command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let mut child = self.command.spawn().unwrap();
        until("its end", || child.try_wait().unwrap())
    }
}

/// What came through a pipe so far.
struct Heard {
    text: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
}

impl Heard {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let heard = text.clone();
        let listener = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                bytes.extend_from_slice(&buffer[..length]);
                *heard.lock().unwrap() = String::from_utf8_lossy(&bytes).into_owned();
            }
        });
        Self { text, listener: Some(listener) }
    }

    fn so_far(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    fn all(&mut self) -> String {
        self.listener.take().map(JoinHandle::join);
        self.so_far()
    }
}

/// A walbench that runs; killed when the test gives up on it.
pub(crate) struct Running {
    child: Child,
    stdout: Heard,
    stderr: Heard,
    path: PathBuf,
}

impl Running {
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it has said on standard output so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// Waits until it has said something.
    #[track_caller]
    pub(crate) fn until_said(&mut self, text: &str) {
        until(&format!("{text:?}"), || {
            let said = self.stderr.so_far() + &self.stdout.so_far();
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(said.contains(text), "it ended ({status}) without {text:?}:\n{said}");
            }
            said.contains(text).then_some(())
        });
    }

    /// Waits until the first phase has rows to show. A phase is announced a moment before it
    /// starts, and must have got going for what a test does to it.
    pub(crate) fn until_under_load(&mut self) {
        self.until_said("phase 1/");
        let runs = self.path.join("runs");
        until("rows that were written", || {
            let samples = |run: PathBuf| fs::read_to_string(run.join("samples.jsonl"));
            let mut samples = entries(&runs).into_iter().filter_map(|run| samples(run).ok());
            samples.any(|samples| samples.lines().any(has_written_rows)).then_some(())
        });
    }

    /// The process of a worker.
    #[track_caller]
    pub(crate) fn worker(&self, role: &str) -> i32 {
        until(role, || processes::child(self.pid(), &format!("worker {role}")))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    pub(crate) fn ended(mut self) -> Ended {
        let status = until("its end", || self.child.try_wait().unwrap());
        Ended {
            status,
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
            path: self.path.clone(),
        }
    }
}

/// Whether a sample is a producer's that has rows.
fn has_written_rows(sample: &str) -> bool {
    let Ok(sample) = serde_json::from_str::<Value>(sample) else { return false };
    let samples = sample.as_object().into_iter().flat_map(|tagged| tagged.values());
    samples.chain([&sample]).any(|sample| {
        sample.get("lateness").is_some() && sample["counts"]["rows"].as_u64().is_some_and(|n| n > 0)
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.child.try_wait();
            eprintln!("{} ({status:?}) had said:\n{}", self.pid(), self.stderr.so_far());
        }
        // In vain for one that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A walbench that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    path: PathBuf,
}

impl Ended {
    #[track_caller]
    pub(crate) fn with_code(self, code: i32) -> Self {
        let Self { status, stdout, stderr, .. } = &self;
        assert_eq!(status.code(), Some(code), "{status}\n{stdout}\n{stderr}");
        self
    }

    /// Its exit code.
    #[track_caller]
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap()
    }

    /// Whether SIGKILL ended it, and not it itself.
    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(Signal::SIGKILL as i32)
    }

    /// On standard error.
    #[track_caller]
    pub(crate) fn said(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{text:?} is not in\n{}", self.stderr);
        self
    }

    /// On standard output.
    #[track_caller]
    pub(crate) fn answered(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "{text:?} is not in\n{}", self.stdout);
        self
    }

    /// Standard error without this test's own paths.
    pub(crate) fn stderr_anywhere(&self) -> String {
        self.stderr.replace(self.path.to_str().unwrap(), "HOME")
    }
}

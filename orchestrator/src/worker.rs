//! Worker processes: this executable again, at the other end of a link.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use walbench_metrics::Failure;
use walbench_metrics::clock::{ClockOffset, Probe, wall_us};
use walbench_metrics::link::{self, LinkError, LinkReader, LinkWriter, WorkerReader, WorkerWriter};
use walbench_metrics::message::PROTOCOL_VERSION;

use crate::event::{Event, FromAny, ToAny};
use crate::pprof;

/// A worker must greet within this: it only has to start.
const GREETING_TIMEOUT: Duration = Duration::from_secs(20);

/// After its link is closed a worker ends by itself; after this it is ended.
const GRACE: Duration = Duration::from_secs(3);

const CLOCK_PROBES: usize = 8;

/// Lines of a worker's log that are shown when it fails.
const LOG_TAIL_LINES: usize = 10;

/// The role of a worker that follows replication.
pub(crate) const CONSUMER: &str = "consumer";

/// The role of a worker that writes rows.
pub(crate) const PRODUCER: &str = "producer";

/// The role of a private server's keeper.
pub(crate) const KEEPER: &str = "postgres";

/// The role of a private ClickHouse's keeper.
pub(crate) const CLICKHOUSE_KEEPER: &str = "clickhouse";

/// The role of a mock ClickHouse server.
pub(crate) const MOCK_CLICKHOUSE: &str = "mock";

/// The role of the process that measures ceilings.
pub(crate) const CEILING: &str = "ceiling";

/// Our side of a worker.
pub(crate) struct Worker {
    /// `producer-0`, `consumer-0`, `postgres`.
    pub(crate) name: String,
    /// Its process, on its machine.
    pub(crate) pid: u32,
    /// Whether that machine is this one.
    pub(crate) is_local: bool,
    /// Its clock against ours.
    pub(crate) clock: ClockOffset,
    /// When it was last heard.
    pub(crate) last_heard: Instant,
    /// It owes a word each second: from a phase's start until it has finished it.
    pub(crate) speaks: bool,
    /// It has said its last word: that its link ends now is in order.
    pub(crate) is_done: bool,
    /// It samples itself.
    samples_itself: bool,
    child: Child,
    writer: Option<LinkWriter<Box<dyn AsyncWrite + Send + Unpin>>>,
    log: PathBuf,
}

/// What to start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start<'a> {
    pub(crate) name: &'a str,
    /// The hidden verb's argument.
    pub(crate) role: &'a str,
    /// The command that starts walbench elsewhere; empty: here.
    pub(crate) launcher: &'a [String],
    /// The folder of its log; absent: it says it where we do.
    pub(crate) logs: Option<&'a Path>,
    /// How often it samples itself for each second that it runs, if it does.
    pub(crate) pprof_hz: Option<u32>,
    /// Its heap is profiled.
    pub(crate) heap: bool,
}

impl Start<'_> {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["worker".to_owned(), self.role.to_owned()];
        if let Some(hz) = self.pprof_hz {
            arguments.extend(["--pprof".to_owned(), hz.to_string()]);
        }
        arguments.extend(self.heap.then(|| "--heap".to_owned()));
        arguments
    }
}

impl Worker {
    /// Starts a worker, greets it and measures its clock. From then on what it says comes as events
    /// under its number.
    pub(crate) async fn start(
        start: Start<'_>,
        number: usize,
        events: &UnboundedSender<Event>,
    ) -> Result<Self, Failure> {
        let failed = |what: &str| Failure::new(format!("{} {what}", start.name));
        let log = start.logs.map(|logs| logs.join(format!("{}.log", start.name)));
        let log = log.unwrap_or_default();
        let file = log_file(&log).map_err(|e| failed("can't have a log").caused_by(&e))?;
        let (child, reader, writer) =
            spawn(start, file).map_err(|f| failed("can't be started").because(f))?;
        let mut worker = Self {
            name: start.name.into(),
            pid: child.id().unwrap_or_default(),
            is_local: start.launcher.is_empty(),
            clock: ClockOffset { offset_us: 0, uncertainty_us: 0 },
            last_heard: Instant::now(),
            speaks: false,
            is_done: false,
            samples_itself: start.pprof_hz.is_some(),
            child,
            writer: Some(writer),
            log,
        };
        let mut reader = LinkReader::new(reader);
        let greeted = tokio::time::timeout(GREETING_TIMEOUT, worker.greet(&mut reader)).await;
        match greeted {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return Err(worker.failed("does not speak walbench's protocol").caused_by(&error));
            }
            Err(_) => return Err(worker.failed("did not greet in time")),
        }
        tokio::spawn(forward(reader, number, events.clone()));
        Ok(worker)
    }

    async fn greet<R: AsyncRead + Unpin>(
        &mut self,
        reader: &mut LinkReader<R>,
    ) -> Result<(), LinkError> {
        let hello = ToAny::Hello { protocol: PROTOCOL_VERSION, worker: self.name.clone() };
        self.send(&hello).await?;
        match reader.recv::<FromAny>().await? {
            FromAny::Hello { protocol, pid, .. } => {
                link::check_version(protocol)?;
                self.pid = pid;
            }
            other => return Err(LinkError::unexpected("Hello", &other)),
        }
        let mut probes = Vec::new();
        for _ in 0..CLOCK_PROBES {
            self.send(&ToAny::Ping { sent_us: wall_us() }).await?;
            match reader.recv::<FromAny>().await? {
                FromAny::Pong { sent_us, now_us } => {
                    probes.push(Probe { sent_us, theirs_us: now_us, received_us: wall_us() });
                }
                other => return Err(LinkError::unexpected("Pong", &other)),
            }
        }
        self.clock = ClockOffset::from_probes(probes).unwrap_or(self.clock);
        self.last_heard = Instant::now();
        Ok(())
    }

    /// Says something to the worker.
    pub(crate) async fn send(&mut self, message: &ToAny) -> Result<(), LinkError> {
        match &mut self.writer {
            Some(writer) => writer.send(message).await,
            None => Err(LinkError::Closed),
        }
    }

    /// Gives the worker what its role needs.
    pub(crate) async fn prepare(&mut self, prepare: &impl Serialize) -> Result<(), Failure> {
        let value = serde_json::to_value(prepare)
            .map_err(|e| Failure::new("a worker's preparation can't be written").caused_by(&e))?;
        self.send(&ToAny::Prepare(value))
            .await
            .map_err(|e| self.failed("can't be prepared").caused_by(&e))
    }

    /// Closes the link, and ends the process if it does not end by itself.
    pub(crate) async fn end(&mut self) {
        self.end_within(GRACE).await;
    }

    /// The same, for a worker that has more to do at its end.
    pub(crate) async fn end_within(&mut self, grace: Duration) {
        // Its link breaks because we close it: no news for anybody.
        self.is_done = true;
        self.speaks = false;
        self.writer = None;
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        if self.samples_itself && self.is_local {
            pprof::forget(self.pid);
        }
    }

    /// How its process ended, for one whose link has. Its end may be a moment later than its link's;
    /// nothing else goes on by then, so waiting for it here holds up nothing.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        for _ in 0..20 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    /// A failure of this worker, with the end of its log.
    pub(crate) fn failed(&self, what: &str) -> Failure {
        let failure = Failure::new(format!("{} {what}", self.name));
        with_log(failure, &tail(&self.log, LOG_TAIL_LINES))
    }

    /// A failure that this worker has told, with what its log says besides.
    pub(crate) fn told(&self, failure: Failure) -> Failure {
        let told = Failure::new(format!("{} failed", self.name)).because(failure);
        let tail = tail(&self.log, LOG_TAIL_LINES);
        // The same failure is written there, too, a moment before or after now.
        let first = format!("error: {}", told.causes[0]);
        let lines: Vec<&str> = tail.lines().take_while(|line| *line != first).collect();
        with_log(told, &lines.join("\n"))
    }
}

fn with_log(mut failure: Failure, tail: &str) -> Failure {
    if !tail.is_empty() {
        failure.causes.push(format!("the end of its log:\n{tail}"));
    }
    failure
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = LinkWriter<Box<dyn AsyncWrite + Send + Unpin>>;

fn spawn(start: Start<'_>, log: File) -> Result<(Child, Reader, Writer), Failure> {
    match start.launcher.split_first() {
        None => spawn_here(start, log),
        Some((program, arguments)) => spawn_elsewhere(program, arguments, start, log),
    }
}

fn command(program: impl AsRef<std::ffi::OsStr>, log: File) -> Command {
    let mut command = Command::new(program);
    // A group of its own: Ctrl-C in the terminal is for the orchestrator, which ends the others in
    // order.
    command.process_group(0).stderr(log);
    command
}

/// The child's standard input is its end of a socket pair, which it also writes to: inherited
/// without any unsafe code, and closed for it when we end.
fn spawn_here(start: Start<'_>, log: File) -> Result<(Child, Reader, Writer), Failure> {
    let no_link = |e: &dyn std::error::Error| Failure::new("no link to it").caused_by(e);
    let (ours, theirs) = link::pair().map_err(|e| no_link(&e))?;
    let output = log.try_clone().map_err(|e| no_link(&e))?;
    // The executable may have been replaced by a build since we started; this is ours still.
    let child = command("/proc/self/exe", log)
        .args(start.arguments())
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .stdout(output)
        // A keeper has a server to stop first, which it does when its link closes.
        .kill_on_drop(![KEEPER, CLICKHOUSE_KEEPER].contains(&start.role))
        .spawn()
        .map_err(|e| Failure::new("its process can't be made").caused_by(&e))?;
    let (reader, writer) = ours.into_split();
    Ok((child, Box::new(reader), LinkWriter::new(Box::new(writer))))
}

fn spawn_elsewhere(
    program: &str,
    arguments: &[String],
    start: Start<'_>,
    log: File,
) -> Result<(Child, Reader, Writer), Failure> {
    let mut child = command(program, log)
        .args(arguments)
        .args(start.arguments())
        .arg("--stdio")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| {
            Failure::new(format!("the launcher \"{program}\" can't be started"))
                .caused_by(&e)
                .hint("a launcher is a command and its arguments, such as [\"ssh\", \"host\", \"walbench\"]")
        })?;
    let pipes = child.stdout.take().zip(child.stdin.take());
    let (output, input) = pipes.ok_or_else(|| Failure::new("its pipes are missing"))?;
    Ok((child, Box::new(output), LinkWriter::new(Box::new(input))))
}

/// The log of that path; standard error without one.
fn log_file(path: &Path) -> std::io::Result<File> {
    if path.as_os_str().is_empty() {
        return Ok(std::io::stderr().as_fd().try_clone_to_owned()?.into());
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Turns what a worker says into events, until the link ends, which is one too.
async fn forward<R: AsyncRead + Unpin>(
    mut reader: LinkReader<R>,
    number: usize,
    events: UnboundedSender<Event>,
) {
    loop {
        let event = match reader.recv::<FromAny>().await {
            Ok(message) => Event::Said(number, Box::new(message)),
            Err(error) => {
                let _ = events.send(Event::Broke(number, error));
                return;
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    const TAIL_BYTES: u64 = 16 * 1024;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A worker's end of the link, from inside the worker.
pub(crate) fn own_end() -> Result<(WorkerReader, WorkerWriter), Failure> {
    link::from_stdin_socket().map_err(|e| {
        Failure::new("this is not a worker's standard input")
            .caused_by(&e)
            .hint("worker processes are started by walbench itself; use `walbench run`")
    })
}

//! A receiving thread, from its first connection to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use walbench_metrics::Failure;
use walbench_metrics::sample::StreamPosition;
use walbench_phases::plan::Consumer;

use crate::backoff::random_seed;
use crate::catalogue::Catalogue;
use crate::copy::{Copy, CopyEnd, Exported, Progress};
use crate::delivery::Delivered;
use crate::flusher::Flusher;
use crate::news::News;
use crate::receiver::{Read, Receiver};
use crate::reconnect::{CONNECTION, Reconnecting};
use crate::replication::{Connection, ReplicationError};
use crate::rowbinary::{Policy, Table};
use crate::source::{LiveCatalogue, Opened, Source, Terms};
use crate::stream::{Bounds, Machine, Settings, Writing};

/// A slot that another connection holds at the start may be free soon, or is not in this time.
const SLOT_PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at it.
const SLOT_INTERVAL: Duration = Duration::from_millis(200);

/// What a thread is to do.
pub(crate) struct Task {
    /// What it follows.
    pub source: Source,
    /// How.
    pub plan: Consumer,
    /// The run, as its stamps carry it.
    pub run: u64,
    /// Subtracted from the server's clock to have the orchestrator's, in µs.
    pub server_correction_us: i64,
    /// Ends by itself once everything before this position was received.
    pub until_lsn: u64,
    /// The snapshot of the slot's start, if the slot was made for this.
    pub exported: Option<Exported>,
    /// Whether PostgreSQL is told what is durable; a slot of which nothing is confirmed brings all of
    /// it again.
    pub confirms: bool,
}

/// A thread that has begun.
pub(crate) struct Started {
    /// What a person should know about how the published tables are written.
    pub notes: Vec<String>,
    /// The initial copy, if there is one.
    pub copying: Option<Arc<Progress>>,
    /// Its end.
    pub ended: Ended,
}

/// Comes when the stream has ended.
pub(crate) type Ended = oneshot::Receiver<Result<(Delivered, Read), Failure>>;

/// Why a stream can't be started.
#[derive(Debug)]
pub struct StartError {
    /// What is wrong.
    pub failure: Failure,
    /// The user asked for something that is not there, or not so.
    pub is_usage: bool,
    /// What is wrong with the slot, if it is that.
    pub slot: Option<SlotTrouble>,
}

/// What can be wrong with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotTrouble {
    /// It does not exist.
    Missing,
    /// Another connection holds it.
    Active,
}

impl StartError {
    /// The user asked for something that is not there, or not so.
    pub(crate) fn usage(failure: Failure) -> Self {
        Self { failure, is_usage: true, slot: None }
    }
}

impl From<ReplicationError> for StartError {
    fn from(error: ReplicationError) -> Self {
        let slot = match &error {
            ReplicationError::SlotMissing { .. } => Some(SlotTrouble::Missing),
            ReplicationError::SlotActive { .. } => Some(SlotTrouble::Active),
            _ => None,
        };
        Self { is_usage: error.is_usage(), failure: error.into_failure(), slot }
    }
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> Self {
        Self { failure, is_usage: false, slot: None }
    }
}

/// Starts a thread, and waits until its stream has begun, or its initial copy.
pub(crate) async fn start(task: Task, flusher: Arc<Flusher>) -> Result<Started, StartError> {
    let (started_tx, started) = oneshot::channel();
    let (ended_tx, ended) = oneshot::channel();
    let receive = move || match prepare(task, flusher) {
        Err(error) => drop(started_tx.send(Err(error))),
        Ok((prepared, notes)) => {
            let copying = prepared.copying();
            let _ = started_tx.send(Ok((notes, copying)));
            let _ = ended_tx.send(prepared.run());
        }
    };
    std::thread::Builder::new()
        .name("receiver".into())
        .spawn(receive)
        .map_err(|e| Failure::new("the receiving thread can't be started").caused_by(&e))?;
    let started = started.await.map_err(|_| Failure::new("the receiving thread died"))?;
    let (notes, copying) = started?;
    Ok(Started { notes, copying, ended })
}

/// What a thread does once it was started.
enum Prepared {
    /// The stream runs.
    Streaming(Box<Receiver>),
    /// Rows are to be copied before.
    Copying(Box<Copy>, Box<Streaming>),
}

impl Prepared {
    fn copying(&self) -> Option<Arc<Progress>> {
        match self {
            Self::Streaming(_) => None,
            Self::Copying(copy, _) => Some(copy.progress()),
        }
    }

    fn run(self) -> Result<(Delivered, Read), Failure> {
        match self {
            Self::Streaming(receiver) => receiver.run(),
            Self::Copying(copy, streaming) => match copy.run()? {
                CopyEnd::Complete { of_one_moment } => streaming.start(of_one_moment)?.run(),
                CopyEnd::Stopped => Ok(Default::default()),
            },
        }
    }
}

fn prepare(task: Task, flusher: Arc<Flusher>) -> Result<(Prepared, Vec<String>), StartError> {
    let Task { source, plan, run, server_correction_us, until_lsn, exported, confirms } = task;
    let policy = Policy::from(&plan);
    let mut opened = open(&source, &plan, &flusher.news)?;
    let mut notes: Vec<_> =
        opened.catalogue.tables(policy).iter().filter_map(Table::notes).collect();
    let copy = match plan.initial_copy {
        true => Copy::prepare(&source, &plan, &mut opened, exported, &flusher)?,
        false => None,
    };
    let writing = Writing { run, server_correction_us, encode: flusher.wants_rows(), policy };
    let Opened { mut connection, catalogue, terms, confirmed_lsn, silence_limit, .. } = opened;
    let streaming = Streaming {
        source,
        plan,
        writing,
        until_lsn,
        confirms,
        flusher,
        catalogue,
        terms,
        confirmed_lsn,
        silence_limit,
    };
    let Some(copy) = copy else {
        streaming.source.start(&mut connection, &streaming.terms, confirmed_lsn)?;
        return Ok((Prepared::Streaming(Box::new(streaming.receiver(connection))), notes));
    };
    let position =
        StreamPosition { received_lsn: confirmed_lsn, confirmed_lsn, ..Default::default() };
    streaming.flusher.stands_at(position);
    // It would hold a WAL sender's place for as long as the copy goes on, and may be lost by then.
    connection.terminate();
    notes.extend(copy.notes.iter().cloned());
    Ok((Prepared::Copying(Box::new(copy), Box::new(streaming)), notes))
}

/// Connects. Who held the slot before and crashed may hold it still: PostgreSQL takes a moment to
/// notice.
pub(crate) fn open(source: &Source, plan: &Consumer, news: &News) -> Result<Opened, StartError> {
    let patience = SLOT_PATIENCE.min(Duration::from_secs_f64(plan.reconnect_sec));
    let deadline = Instant::now() + patience;
    let mut is_told = false;
    loop {
        let error = match source.open(plan) {
            Err(error) if error.slot == Some(SlotTrouble::Active) => error,
            opened => return opened,
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        if !std::mem::replace(&mut is_told, true) {
            let (seconds, reason) = (patience.as_secs_f64(), error.failure.line());
            news.tell(format!("waiting for the slot, up to {seconds} s: {reason}"));
        }
        std::thread::sleep(SLOT_INTERVAL);
    }
}

/// A stream that can be started.
struct Streaming {
    source: Source,
    plan: Consumer,
    writing: Writing,
    until_lsn: u64,
    confirms: bool,
    flusher: Arc<Flusher>,
    catalogue: Catalogue,
    terms: Terms,
    confirmed_lsn: u64,
    silence_limit: Option<Duration>,
}

impl Streaming {
    /// Connects and starts the stream behind a copy, as often as the plan's patience allows.
    fn start(mut self, of_one_moment: bool) -> Result<Receiver, Failure> {
        let patience = Duration::from_secs_f64(self.plan.reconnect_sec);
        let mut before: Option<Reconnecting> = None;
        loop {
            let error = match self.connect(of_one_moment) {
                Ok(connection) => {
                    before.map(Reconnecting::came_back);
                    return Ok(self.receiver(connection));
                }
                Err(error) => error,
            };
            let now = Instant::now();
            let news = self.flusher.news.clone();
            let lost = || Reconnecting::new(CONNECTION, patience, news, now);
            let reconnecting = before.get_or_insert_with(lost);
            if !reconnecting.failed(error, now) || self.flusher.is_stopping() {
                return Err(reconnecting.give_up());
            }
            std::thread::sleep(reconnecting.next_try.saturating_duration_since(now));
        }
    }

    /// Rows that were copied as they were at several moments are exact behind the last of those: an
    /// end that was set is not before it.
    fn connect(&mut self, of_one_moment: bool) -> Result<Connection, ReplicationError> {
        if !of_one_moment && self.until_lsn < u64::MAX {
            let mut connection = self.source.connection()?;
            self.until_lsn = self.until_lsn.max(connection.wal_end()?);
            connection.terminate();
        }
        let Self { terms, confirmed_lsn, .. } = self;
        self.source.resume(terms, *confirmed_lsn, *confirmed_lsn, *confirmed_lsn)
    }

    /// Takes over a connection whose stream was started.
    fn receiver(self, connection: Connection) -> Receiver {
        let Self { source, plan, writing, until_lsn, confirms, flusher, .. } = self;
        let (catalogue, terms) = (self.catalogue, self.terms);
        let (confirmed_lsn, silence_limit) = (self.confirmed_lsn, self.silence_limit);
        let settings = Settings {
            confirmed_lsn,
            silence_limit,
            bounds: Bounds {
                rows: plan.flush_batch_size.into(),
                bytes: plan.flush_batch_bytes,
                age: Duration::from_millis(plan.flush_interval_ms),
            },
            max_in_flight_bytes: plan.max_in_flight_bytes,
            flush_concurrency: plan.max_flush_concurrency as usize,
            flush_patience: Duration::from_secs_f64(plan.flush_retry_sec),
            seed: random_seed(),
            spool_memory_bytes: plan.spool_memory_bytes,
            spool_dir: plan.spool_dir.clone(),
            writing,
        };
        let describe = LiveCatalogue::new(source.clone(), catalogue, &terms, &plan);
        let interruption = describe.interruption();
        let timeout = Duration::from_secs_f64(plan.receive_timeout_sec);
        let machine = Machine::new(settings, Box::new(describe), Instant::now());
        Receiver::new(source, terms, connection, machine, flusher)
            .with_interruption(interruption)
            .with_timeout(Some(timeout).filter(|timeout| !timeout.is_zero()))
            .with_patience(Duration::from_secs_f64(plan.reconnect_sec))
            .with_eager_reads(plan.eager_reads)
            .with_end(until_lsn)
            .with_confirmations(confirms)
    }
}

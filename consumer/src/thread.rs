//! A receiving thread, from its first connection to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use walbench_metrics::Failure;
use walbench_phases::plan::Consumer;

use crate::delivery::Delivered;
use crate::flusher::Flusher;
use crate::receiver::{Read, Receiver};
use crate::replication::ReplicationError;
use crate::rowbinary::{Policy, Table};
use crate::source::{LiveCatalogue, Opened, Source};
use crate::stream::{Bounds, Machine, Settings, Writing};

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
}

impl From<ReplicationError> for StartError {
    fn from(error: ReplicationError) -> Self {
        Self { is_usage: error.is_usage(), failure: error.into_failure() }
    }
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> Self {
        Self { failure, is_usage: false }
    }
}

/// Starts a thread, and waits until its stream has begun. Returns what a person should know about
/// how the published tables are written.
pub(crate) async fn start(
    task: Task,
    flusher: Arc<Flusher>,
) -> Result<(Vec<String>, Ended), StartError> {
    let (started_tx, started) = oneshot::channel();
    let (ended_tx, ended) = oneshot::channel();
    let receive = move || match connect(task, flusher) {
        Err(error) => drop(started_tx.send(Err(error))),
        Ok((receiver, notes)) => {
            let _ = started_tx.send(Ok(notes));
            let _ = ended_tx.send(receiver.run());
        }
    };
    std::thread::Builder::new()
        .name("receiver".into())
        .spawn(receive)
        .map_err(|e| Failure::new("the receiving thread can't be started").caused_by(&e))?;
    let notes = started.await.map_err(|_| Failure::new("the receiving thread died"))??;
    Ok((notes, ended))
}

fn connect(task: Task, flusher: Arc<Flusher>) -> Result<(Receiver, Vec<String>), StartError> {
    let Task { source, plan, run, server_correction_us, until_lsn } = task;
    let policy = Policy::from(&plan);
    let Opened { mut connection, catalogue, terms, confirmed_lsn, silence_limit } =
        source.open(&plan)?;
    let notes = catalogue.tables(policy).iter().filter_map(Table::notes).collect();
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
        max_attempts: plan.max_attempts,
        spool_memory_bytes: plan.spool_memory_bytes,
        spool_dir: plan.spool_dir,
        writing: Writing { run, server_correction_us, encode: flusher.wants_rows(), policy },
    };
    source.start(&mut connection, &terms, confirmed_lsn)?;
    let describe = LiveCatalogue::new(source.clone(), catalogue);
    let unanswered = describe.unanswered();
    let machine = Machine::new(settings, Box::new(describe), Instant::now());
    let receiver = Receiver::new(source, terms, connection, machine, flusher)
        .with_unanswered(unanswered)
        .with_patience(Duration::from_secs_f64(plan.reconnect_sec))
        .with_eager_reads(plan.eager_reads)
        .with_end(until_lsn);
    Ok((receiver, notes))
}

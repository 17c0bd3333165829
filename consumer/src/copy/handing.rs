//! From rows to the sink: batches as the stream's, acknowledged chunk by chunk.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use walbench_metrics::Failure;
use walbench_phases::plan::Consumer;

use super::board::{Board, Chunk};
use super::gate::Gate;
use super::progress::Progress;
use super::session::Trouble;
use crate::backoff::Backoff;
use crate::flusher::Flusher;
use crate::news::News;
use crate::pgoutput::Tuple;
use crate::rowbinary::{EncodeError, RowKind, Table, Unencodable};
use crate::sink::SinkError;
use crate::stream::{Account, Batch, Bounds, FIRST_RETRY, GivenUp, Work};

/// The way to the sink, shared by all who copy.
#[derive(Debug)]
pub(super) struct Handing {
    pub(super) flusher: Arc<Flusher>,
    pub(super) gate: Gate,
    pub(super) board: Board,
    pub(super) progress: Arc<Progress>,
    pub(super) bounds: Bounds,
    /// How long a batch may be tried again.
    patience: Duration,
    spare: Mutex<Vec<Batch>>,
    spare_limit: usize,
}

/// Counts what of a chunk is not at the sink: its batches, and the reading itself.
#[derive(Debug)]
pub(super) struct Tally {
    chunk: Chunk,
    open: AtomicUsize,
}

impl Handing {
    /// Batches of all connections, those that are filled and those on their way, are at most
    /// `consumer.max_in_flight_bytes` together: half of that is for either.
    pub(super) fn new(
        plan: &Consumer,
        flusher: Arc<Flusher>,
        board: Board,
        progress: Arc<Progress>,
    ) -> Self {
        let connections = u64::from(plan.copy_connections);
        let share = (plan.max_in_flight_bytes / (2 * connections)).min(plan.flush_batch_bytes);
        let concurrency = plan.max_flush_concurrency as usize;
        let bounds = Bounds {
            rows: plan.flush_batch_size.into(),
            bytes: share.max(1),
            // What is read as fast as it comes has no age.
            age: Duration::MAX,
        };
        Self {
            flusher,
            gate: Gate::new(plan.max_in_flight_bytes - share * connections, concurrency),
            board,
            progress,
            bounds,
            patience: Duration::from_secs_f64(plan.flush_retry_sec),
            spare: Mutex::default(),
            spare_limit: concurrency + plan.copy_connections as usize,
        }
    }

    /// Where losses are told.
    pub(super) fn news(&self) -> News {
        self.flusher.news.clone()
    }

    /// Nothing more is given out or handed over.
    pub(super) fn close(&self) {
        self.board.close();
        self.gate.close();
    }

    /// The copy can't go on.
    pub(super) fn fail(&self, failure: Failure) {
        self.board.fail(failure);
        self.gate.close();
    }

    fn spare(&self) -> Batch {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.pop().unwrap_or_default()
    }

    /// Keeps a batch's memory for the next, unless a large row made it large.
    fn recycle(&self, mut batch: Batch) {
        batch.clear();
        let limit_bytes = self.bounds.bytes.saturating_mul(2);
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < self.spare_limit && batch.capacity_bytes() <= limit_bytes {
            spare.push(batch);
        }
    }

    /// Sends a batch on its way, once there is room for it.
    fn hand_over(self: &Arc<Self>, batch: Batch, tally: &Arc<Tally>, published: usize) -> bool {
        if !self.gate.enter(batch.bytes) {
            return false;
        }
        tally.open.fetch_add(1, Ordering::Relaxed);
        let (handing, tally) = (self.clone(), tally.clone());
        self.flusher.spawn(async move {
            let (rows, bytes) = (batch.rows, batch.bytes);
            match handing.write(batch).await {
                Ok(batch) => {
                    handing.progress.acknowledged(published, rows, bytes);
                    handing.recycle(batch);
                    tally.finish(&handing.board);
                }
                Err(failure) => handing.fail(failure),
            }
            handing.gate.leave(bytes);
        });
        true
    }

    /// Writes a batch, for as long as it may be tried.
    async fn write(&self, batch: Batch) -> Result<Batch, Failure> {
        let (mut work, mut attempts, mut failed_at) = (Work::Write(batch), 0, None);
        let mut backoff = Backoff::of_now();
        loop {
            let (back, result) = self.flusher.carry_out(work).await;
            let Err(error) = result else {
                let Work::Write(batch) = back else { return Ok(Batch::default()) };
                return Ok(batch);
            };
            work = back;
            attempts += 1;
            let after = failed_at.get_or_insert_with(Instant::now).elapsed();
            let SinkError { failure, transient } = error;
            let is_last = after >= self.patience || self.gate.is_closed();
            let retries = u64::from(transient && !is_last);
            self.account(&mut Account { errors: 1, retries, ..Account::default() });
            if !transient {
                return Err(Failure::new("a batch could not be flushed").because(failure));
            }
            if is_last {
                let given_up = GivenUp { attempts, after };
                return Err(Failure::new(given_up.to_string()).because(failure));
            }
            let wait = backoff.wait(FIRST_RETRY, attempts);
            tokio::time::sleep(wait.min(self.patience - after)).await;
        }
    }

    /// Adds to what the consumer counts. Copied rows are not among that: they have no lag.
    fn account(&self, account: &mut Account) {
        self.flusher.record(|recorder| recorder.read(0, account));
    }
}

impl Tally {
    pub(super) fn new(chunk: Chunk) -> Arc<Self> {
        Arc::new(Self { chunk, open: AtomicUsize::new(1) })
    }

    /// A part of the chunk is at its end: one of its batches, or the reading.
    pub(super) fn finish(&self, board: &Board) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            board.done(&self.chunk);
        }
    }
}

/// Rows of one chunk on their way into batches.
pub(super) struct Writer<'a> {
    handing: &'a Arc<Handing>,
    tally: Arc<Tally>,
    table: Arc<Table>,
    published: usize,
    version: u64,
    /// Rows can't be told apart, and none was handed over yet.
    is_to_begin: bool,
    has_begun: bool,
    encode: bool,
    batch: Batch,
    clamped_values: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        handing: &'a Arc<Handing>,
        tally: &Arc<Tally>,
        table: &Arc<Table>,
        published: usize,
        version: u64,
    ) -> Self {
        Self {
            handing,
            tally: tally.clone(),
            table: table.clone(),
            published,
            version,
            is_to_begin: !table.has_key(),
            has_begun: false,
            encode: handing.flusher.wants_rows(),
            batch: handing.spare(),
            clamped_values: 0,
        }
    }

    /// Takes a row; hands the batch over when it is full.
    #[inline]
    pub(super) fn row(&mut self, tuple: Tuple<'_>) -> Result<(), Trouble> {
        let bytes = self.write(tuple)?;
        self.batch.rows += 1;
        self.batch.bytes += bytes;
        if self.batch.is_full(&self.handing.bounds) { self.cut() } else { Ok(()) }
    }

    /// Writes a row, or checks it where nothing is written; returns the bytes it counts for.
    #[inline]
    fn write(&mut self, tuple: Tuple<'_>) -> Result<u64, Trouble> {
        if !self.encode {
            self.table.check(tuple).map_err(|e| unencodable(&e))?;
            return Ok(tuple.encoded_bytes() as u64);
        }
        let part = self.batch.part(&self.table);
        let before = part.encoded.len();
        match self.table.encode(tuple, None, RowKind::Present, self.version, &mut part.encoded) {
            Ok(clamped) => {
                self.clamped_values += u64::from(clamped);
                part.rows += 1;
                Ok((part.encoded.len() - before) as u64)
            }
            Err(error) => {
                self.widen(&error)?;
                self.write(tuple)
            }
        }
    }

    /// A column that is NOT NULL may not have been when the snapshot was taken.
    #[cold]
    fn widen(&mut self, error: &EncodeError) -> Result<(), Trouble> {
        let EncodeError::Value { column, source: Unencodable::Null, .. } = error else {
            return Err(unencodable(error));
        };
        let mut wider = Table::clone(&self.table);
        if !wider.widen(column) {
            return Err(unencodable(error));
        }
        self.table = Arc::new(wider);
        Ok(())
    }

    /// Hands over what is gathered.
    pub(super) fn cut(&mut self) -> Result<(), Trouble> {
        let clamped_values = std::mem::take(&mut self.clamped_values);
        if clamped_values > 0 {
            self.handing.account(&mut Account { clamped_values, ..Account::default() });
        }
        if self.batch.rows == 0 {
            return Ok(());
        }
        if std::mem::take(&mut self.is_to_begin) {
            self.handing.board.begin(&self.tally.chunk).map_err(Trouble::Failed)?;
            self.has_begun = true;
        }
        let batch = std::mem::replace(&mut self.batch, self.handing.spare());
        match self.handing.hand_over(batch, &self.tally, self.published) {
            true => Ok(()),
            false => Err(Trouble::Stopped),
        }
    }

    /// Rows that can't be told apart were handed over, and can't be again.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.handing.recycle(std::mem::take(&mut self.batch));
    }
}

#[cold]
fn unencodable(error: &EncodeError) -> Trouble {
    let failure = Failure::new("a row can't be copied").caused_by(error);
    Trouble::Failed(match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    })
}

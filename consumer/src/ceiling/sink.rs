//! The sink by itself: it is given a consumer's blocks from memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;
use walbench_metrics::Failure;
use walbench_metrics::ceiling::{self, Turn};
use walbench_phases::plan::MockLevel;

use super::blocks::Kept;
use super::{Blocks, cpu_us, follow_all};
use crate::clickhouse::destination::{Destination, compress};
use crate::follow::Following;
use crate::rowbinary::Table;
use crate::sink::Sink;
use crate::stream::{Batch, Work};
use crate::thread::StartError;

/// A turn takes no more blocks after this.
const TURN: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct SinkAlone {
    taker: Taker,
    blocks: Vec<Block>,
    tables: Vec<Arc<Table>>,
    connections: usize,
    described: ceiling::SinkAlone,
}

/// Who takes blocks.
#[derive(Clone)]
enum Taker {
    /// ClickHouse, which is sent compressed blocks.
    Clickhouse(Arc<Destination>),
    /// The mock, whose work is to compress them.
    Mock(Arc<Sink>),
}

/// What is given at once.
struct Block {
    batch: Batch,
    /// By the batch's parts; nothing for the mock.
    compressed: Vec<Bytes>,
}

impl SinkAlone {
    /// Has the consumers make their blocks. `None` where the sink does nothing, or what it does would
    /// be left behind.
    pub(super) async fn open(
        streams: &[Following],
        name: &str,
    ) -> Result<Option<Self>, StartError> {
        let Some(first) = streams.first() else { return Ok(None) };
        let plan = &first.consumer;
        let connections = plan.max_flush_concurrency as usize * streams.len();
        let (taker, said) = match &first.clickhouse {
            Some((address, clickhouse)) => {
                let writer = format!("ceiling of {}", first.writer());
                let destination = Destination::open(address, clickhouse, &writer).await?;
                let said = format!(
                    "{name} takes the consumer's blocks, compressed, from memory, over {connections} \
                     connections"
                );
                (Taker::Clickhouse(Arc::new(destination)), said)
            }
            None if plan.mock_level == MockLevel::Encode => {
                let takes = match plan.mock_delay_ms {
                    0 => String::new(),
                    delay_ms => format!(", and takes {delay_ms} ms more for each"),
                };
                let said = format!(
                    "the mock, which is no server, compresses the consumer's blocks from memory, \
                     {connections} at once{takes}"
                );
                (Taker::Mock(Arc::new(Sink::mock(plan).map_err(StartError::usage)?)), said)
            }
            None => return Ok(None),
        };
        let kept = Arc::new(Blocks::default());
        let sinks = streams.iter().map(|_| Sink::keeping(kept.clone())).collect();
        follow_all(streams, sinks).await?;
        let Kept { batches, is_bounded, .. } = kept.take_out();
        let (tables, rows) = (tables(&batches), batches.iter().map(|batch| batch.rows).sum());
        let described = ceiling::SinkAlone { said, rows, is_bounded };
        let blocks = taker.blocks(batches).await;
        Ok(Some(Self { taker, blocks, tables, connections, described }))
    }

    pub(super) fn described(self) -> ceiling::SinkAlone {
        self.described
    }

    /// All blocks into empty tables, or as many as it takes in a turn's time.
    pub(super) async fn turn(&mut self) -> Result<Turn, Failure> {
        self.taker.empty(&self.tables).await?;
        let waiting = Arc::new(Mutex::new(VecDeque::from(std::mem::take(&mut self.blocks))));
        let (before_us, started) = (cpu_us(), Instant::now());
        let mut giving = JoinSet::new();
        for _ in 0..self.connections {
            giving.spawn(give(self.taker.clone(), waiting.clone(), started + TURN));
        }
        let (mut rows, mut failed) = (0, None);
        while let Some(given) = giving.join_next().await {
            let Given { blocks, failure } =
                given.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
            rows += blocks.iter().map(|block| block.batch.rows).sum::<u64>();
            self.blocks.extend(blocks);
            failed = failed.or(failure);
        }
        let (seconds, cpu_us) = (started.elapsed().as_secs_f64(), cpu_us() - before_us);
        self.blocks.extend(lock(&waiting).drain(..));
        match failed {
            Some(failure) => Err(failure),
            None => Ok(Turn { rows, seconds, cpu_us }),
        }
    }
}

/// Each table once.
fn tables(batches: &[Batch]) -> Vec<Arc<Table>> {
    let mut tables: Vec<Arc<Table>> = Vec::new();
    for part in batches.iter().flat_map(|batch| &batch.parts) {
        if !tables.iter().any(|table| table.name == part.table.name) {
            tables.push(part.table.clone());
        }
    }
    tables
}

type Waiting = Mutex<VecDeque<Block>>;

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, VecDeque<Block>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one connection gave.
struct Given {
    blocks: Vec<Block>,
    /// What it ended by before all were given.
    failure: Option<Failure>,
}

/// Gives one block after the other, until there are no more or the time is up.
async fn give(taker: Taker, waiting: Arc<Waiting>, until: Instant) -> Given {
    let mut blocks = Vec::new();
    while Instant::now() < until {
        let Some(block) = lock(&waiting).pop_front() else { break };
        match taker.take(block).await {
            Ok(block) => blocks.push(block),
            Err(failure) => return Given { blocks, failure: Some(failure) },
        }
    }
    Given { blocks, failure: None }
}

impl Taker {
    async fn blocks(&self, batches: Vec<Batch>) -> Vec<Block> {
        let mut blocks = Vec::new();
        for batch in batches {
            let (batch, compressed) = match self {
                Self::Clickhouse(_) => compress(batch).await,
                Self::Mock(_) => (batch, Vec::new()),
            };
            blocks.push(Block { batch, compressed });
        }
        blocks
    }

    /// What the turn before left.
    async fn empty(&self, tables: &[Arc<Table>]) -> Result<(), Failure> {
        let Self::Clickhouse(destination) = self else { return Ok(()) };
        let (_, emptied) = destination.carry_out(Work::Truncate(tables.to_vec())).await;
        emptied.map(drop).map_err(|error| error.failure)
    }

    /// Takes a block; it may be given again then, as one that was never sent.
    async fn take(&self, block: Block) -> Result<Block, Failure> {
        let Block { batch, compressed } = block;
        let mut batch = match self {
            Self::Clickhouse(destination) => {
                let (batch, written) = destination.write_parts(batch, compressed.clone()).await;
                written.map_err(|e| e.failure("ClickHouse did not take a batch"))?;
                batch
            }
            Self::Mock(sink) => {
                let (work, written) = sink.carry_out(Work::Write(batch)).await;
                written.map_err(|error| error.failure)?;
                match work {
                    Work::Write(batch) => batch,
                    Work::Truncate(_) => Batch::default(),
                }
            }
        };
        for part in &mut batch.parts {
            (part.written, part.token) = (None, None);
        }
        Ok(Block { batch, compressed })
    }
}

//! A consumer by itself, without an orchestrator: follows a slot until told to stop or to an end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use walbench_metrics::clock::wall_us;
use walbench_metrics::sample::{ConsumerCounts, Lag, StreamPosition};
use walbench_metrics::{Failure, Timing, Window};
use walbench_phases::address::PostgresAddress;
use walbench_phases::clickhouse::ClickhouseAddress;
use walbench_phases::plan::{Clickhouse, Consumer};

use crate::clickhouse::Description;
use crate::copy::{Copying, Exported, Progress};
use crate::flusher::Flusher;
use crate::news::News;
use crate::receiver::Read;
use crate::recorder::Recorder;
use crate::sink::Sink;
use crate::source::Source;
use crate::thread::{Ended, StartError, Started, Task, start};

/// What to follow, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Following {
    /// The database.
    pub address: PostgresAddress,
    /// The publication; it exists.
    pub publication: String,
    /// The slot; it exists.
    pub slot: String,
    /// How.
    pub consumer: Consumer,
    /// The ClickHouse to write into, and how; absent: the mock.
    pub clickhouse: Option<(ClickhouseAddress, Clickhouse)>,
    /// Ends once everything before this position is received.
    pub until_lsn: Option<u64>,
}

impl Following {
    /// What ClickHouse knows its writer by. A slot is followed by one at a time.
    pub(crate) fn writer(&self) -> String {
        let Self { address, slot, .. } = self;
        format!("{:?}:{}/{:?}/{slot}", address.host, address.port, address.dbname)
    }
}

/// A consumer that follows.
#[derive(Debug)]
pub struct Follow {
    flusher: Arc<Flusher>,
    ended: Ended,
    notes: Vec<String>,
    copying: Option<Arc<Progress>>,
    total: Total,
}

/// What was done since the start.
#[derive(Clone, Debug, Default)]
pub struct Total {
    /// Counters.
    pub counts: ConsumerCounts,
    /// Time of one flush at the sink.
    pub flush: Timing,
    /// Lag by stage.
    pub lag: Lag,
    /// From the first byte received to the last.
    pub reading: Duration,
    /// From the first byte received until everything received was durable.
    pub draining: Duration,
}

/// What was done in about the last second.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    /// Row versions the sink acknowledged.
    pub rows: u64,
    /// Commit in PostgreSQL → acknowledged by the sink.
    pub lag: Timing,
}

impl Follow {
    /// Connects and starts the stream, or the initial copy that comes before it, in the snapshot of
    /// the slot's start if the slot was made for this. Must be called in a Tokio runtime, in which
    /// flushes run. What is lost meanwhile, and comes back, is told as news.
    ///
    /// # Errors
    /// The stream or the copy can't be started.
    pub async fn start(
        following: Following,
        exported: Option<Exported>,
        news: News,
    ) -> Result<Self, StartError> {
        let sink = match &following.clickhouse {
            None => Sink::mock(&following.consumer).map_err(StartError::usage)?,
            Some((clickhouse, plan)) => {
                Sink::clickhouse(clickhouse, plan, &following.writer()).await?
            }
        };
        Self::into_sink(following, sink, exported, true, news).await
    }

    /// The same, into that sink.
    pub(crate) async fn into_sink(
        following: Following,
        sink: Sink,
        exported: Option<Exported>,
        confirms: bool,
        news: News,
    ) -> Result<Self, StartError> {
        let Following { address, publication, slot, consumer, until_lsn, .. } = following;
        let recorder = Recorder::new("follow".into(), consumer.record_timings, wall_us());
        let flusher = Flusher::new(sink, recorder, 0, news)
            .map_err(|e| Failure::new("a socket pair can't be made").caused_by(&e))?;
        let application_name = "walbench follow".into();
        let source = Source { address, application_name, slot, publication };
        let until_lsn = until_lsn.unwrap_or(u64::MAX);
        let (run, server_correction_us, plan) = (0, 0, consumer);
        let task = Task { source, plan, run, server_correction_us, until_lsn, exported, confirms };
        let Started { notes, copying, ended } = start(task, flusher.clone()).await?;
        Ok(Self { flusher, ended, notes, copying, total: Total::default() })
    }

    /// How far the initial copy is; `None` where there is none, or a former start has done it.
    #[must_use]
    pub fn copying(&self) -> Option<Copying> {
        self.copying.as_ref().map(|copying| copying.now())
    }

    /// What is written into; `None` for the mock.
    #[must_use]
    pub fn destination(&self) -> Option<Description> {
        self.flusher.destination()
    }

    /// What a person should know about how the tables are written, a sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Where the stream is.
    #[must_use]
    pub fn position(&self) -> StreamPosition {
        self.flusher.position()
    }

    /// Looks what was done since the last time.
    pub fn look(&mut self) -> Recent {
        let mut recent = Recent::default();
        for sample in self.flusher.sample(0, Window::Measured) {
            recent.rows += sample.counts.rows;
            recent.lag.merge(&sample.lag.commit_to_flushed);
            self.total.counts.merge(&sample.counts);
            self.total.flush.merge(&sample.flush);
            self.total.lag.merge(&sample.lag);
        }
        recent
    }

    /// What was done up to the last [`Self::look`], or to the end.
    #[must_use]
    pub fn total(&self) -> &Total {
        &self.total
    }

    /// Asks it to flush what it has, and end.
    pub fn stop(&self) {
        self.flusher.ask_to_stop();
    }

    /// Completes when it has ended. Safe to drop and call again.
    ///
    /// # Errors
    /// It could not go on; what it did until then is [`Self::total`].
    pub async fn ended(&mut self) -> Result<Total, Failure> {
        let died = |_| Failure::new("the receiving thread died");
        let ended = (&mut self.ended).await.map_err(died).flatten();
        let read = match &ended {
            Ok((_, read)) => *read,
            // Not all of it is durable, and what is became it until now.
            Err(_) => Read { durable: Some(Instant::now()), ..self.flusher.read() },
        };
        self.look();
        let since_first = |end: Option<Instant>| Some(end?.saturating_duration_since(read.first?));
        self.total.reading = since_first(read.last).unwrap_or_default();
        self.total.draining = since_first(read.durable).unwrap_or_default();
        ended.map(|_| self.total.clone())
    }
}

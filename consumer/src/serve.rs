//! A consumer process: its life on the link.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot::error::RecvError;
use walbench_metrics::allocator::{HeapDump, HeapDumps};
use walbench_metrics::clock::wall_us;
use walbench_metrics::link::{LinkError, WorkerReader, WorkerWriter, check_version};
use walbench_metrics::message::{Finish, FromWorker, PROTOCOL_VERSION, PhaseStart, ToWorker};
use walbench_metrics::sample::{ConsumerSample, Sample};
use walbench_metrics::stacks::{OwnSampler, OwnStacks, SampledStacks};
use walbench_metrics::{Cuts, Failure, Window};
use walbench_phases::Plan;
use walbench_phases::address::PostgresAddress;
use walbench_phases::clickhouse::ClickhouseAddress;

use crate::delivery::Delivered;
use crate::external;
use crate::flusher::Flusher;
use crate::looks;
use crate::news::{News, saying};
use crate::recorder::Recorder;
use crate::rowbinary::FULL_IDENTITY;
use crate::sink::Sink;
use crate::source::Source;
use crate::thread::{self, Ended, Started, Task};

/// What a consumer needs to get ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Prepare {
    /// The run, as its stamps carry it.
    pub run: u64,
    /// The source, database included.
    pub address: PostgresAddress,
    /// The ClickHouse to write into, database included; absent: the plan's mock.
    #[serde(default)]
    pub clickhouse: Option<ClickhouseAddress>,
    /// The plan.
    pub plan: Plan,
    /// The slot to stream; it exists.
    pub slot: String,
    /// The publication to stream; it exists.
    pub publication: String,
    /// Subtracted from this machine's clock to have the orchestrator's, in µs.
    pub clock_correction_us: i64,
    /// Subtracted from the server's clock to have the orchestrator's, in µs.
    pub server_correction_us: i64,
    /// Write probe rows for a command, and look for them.
    #[serde(default)]
    pub probes: bool,
}

pub(crate) type In = ToWorker<Prepare>;
pub(crate) type Out = FromWorker<Delivered>;

/// Lives a consumer's life: from the orchestrator's greeting until it says stop or is gone. What a
/// `sampler` takes of it is handed over with each sample. `guard` is a program with its first arguments
/// that runs what follows them, and ends that when its standard input is closed: who keeps the plan's
/// `consumer.command`, if there is one.
///
/// # Errors
/// The consumer can't go on; the orchestrator was told, if it still listens.
pub async fn serve(
    mut reader: WorkerReader,
    mut writer: WorkerWriter,
    sampler: Option<Box<dyn OwnSampler>>,
    guard: &[&str],
) -> Result<(), Failure> {
    let ended = saying(|news| converse(&mut reader, &mut writer, sampler, guard, news)).await;
    match ended {
        Ok(()) | Err(End::Alone(LinkError::Closed | LinkError::Truncated { .. })) => Ok(()),
        Err(End::Alone(error)) => {
            let failure = Failure::new("the link to the orchestrator broke").caused_by(&error);
            let _ = writer.send(&Out::Failed(failure.clone())).await;
            Err(failure)
        }
        Err(End::Failed(failure)) => {
            let failure = hinted_for_a_plan(failure);
            let _ = writer.send(&Out::Failed(failure.clone())).await;
            Err(failure)
        }
    }
}

/// The tables of a run are made as its plan says: what is to be altered in them has a key.
fn hinted_for_a_plan(failure: Failure) -> Failure {
    match &failure.hint {
        Some(hint) if hint.ends_with(FULL_IDENTITY) => {
            failure.hint("set postgres.replica_identity = \"full\"")
        }
        _ => failure,
    }
}

/// Why a consumer ends before it was told to.
pub(crate) enum End {
    /// The orchestrator is gone or speaks nonsense.
    Alone(LinkError),
    /// Its own work failed.
    Failed(Failure),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Alone(error)
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

async fn converse(
    reader: &mut WorkerReader,
    writer: &mut WorkerWriter,
    sampler: Option<Box<dyn OwnSampler>>,
    guard: &[&str],
    news: News,
) -> Result<(), End> {
    let (worker, prepare) = greet(reader, writer).await?;
    if prepare.plan.consumer.is_external() {
        return external::converse((worker, prepare), guard, reader, writer).await;
    }
    let starting = Follower::start(worker, prepare, sampler, news);
    let mut follower = tokio::select! {
        follower = starting => follower?,
        // Nothing is due while it connects but the end: a server that accepts and is silent must
        // not hold a consumer whose orchestrator is gone.
        message = reader.recv::<In>() => return match message? {
            In::Stop => Ok(()),
            other => Err(LinkError::unexpected("nothing before Ready", &other).into()),
        },
    };
    writer.send(&Out::Ready).await?;
    let ended = follower.follow(reader, writer).await;
    follower.flusher.ask_to_stop();
    ended
}

/// Everything up to `Prepare`.
async fn greet(
    reader: &mut WorkerReader,
    writer: &mut WorkerWriter,
) -> Result<(String, Prepare), End> {
    let mut name = None;
    loop {
        match (reader.recv::<In>().await?, name.take()) {
            (In::Hello { protocol, worker }, None) => {
                check_version(protocol)?;
                name = Some(worker);
                let version = env!("CARGO_PKG_VERSION").to_owned();
                let (protocol, pid) = (PROTOCOL_VERSION, std::process::id());
                writer.send(&Out::Hello { protocol, version, pid }).await?;
            }
            (In::Ping { sent_us }, Some(worker)) => {
                name = Some(worker);
                writer.send(&Out::Pong { sent_us, now_us: wall_us() }).await?;
            }
            (In::Prepare(prepare), Some(worker)) => return Ok((worker, prepare)),
            (other, _) => {
                return Err(LinkError::unexpected("a greeting, then Prepare", &other).into());
            }
        }
    }
}

/// A consumer that streams.
struct Follower {
    plan: Plan,
    flusher: Arc<Flusher>,
    receiver: Ended,
    stacks: OwnStacks,
    phase: u32,
    cuts: Option<Cuts>,
    heap: HeapDumps,
}

impl Follower {
    async fn start(
        worker: String,
        prepare: Prepare,
        sampler: Option<Box<dyn OwnSampler>>,
        news: News,
    ) -> Result<Self, Failure> {
        let Prepare { run, address, clickhouse, plan, slot, publication, .. } = prepare;
        let consumer = plan.consumer.clone();
        let correction_us = prepare.clock_correction_us;
        let recorder =
            Recorder::new(worker.clone(), consumer.record_timings, wall_us() - correction_us);
        let sink = match &clickhouse {
            None => Sink::mock(&consumer)?,
            Some(address) => {
                let writer = format!("{run}/{slot}");
                Sink::clickhouse(address, &plan.clickhouse, &writer).await?
            }
        };
        let flusher = Flusher::new(sink, recorder, correction_us, news)
            .map_err(|e| Failure::new("a socket pair can't be made").caused_by(&e))?;
        #[cfg(feature = "planted")]
        crate::planted::begin();
        if plan.profiling.wants_doctor() {
            looks::begin(&flusher)
                .map_err(|e| Failure::new("the doctor's thread can't be started").caused_by(&e))?;
        }
        let application_name = format!("walbench {worker}");
        let task = Task {
            source: Source { address, application_name, slot, publication },
            plan: consumer,
            run,
            server_correction_us: prepare.server_correction_us,
            until_lsn: u64::MAX,
            exported: None,
            confirms: true,
        };
        let started = thread::start(task, flusher.clone()).await;
        let Started { notes, ended, .. } = started.map_err(|error| error.failure)?;
        for note in notes {
            eprintln!("note: {note}");
        }
        let stacks = OwnStacks::of(sampler);
        let heap = HeapDumps::new(plan.profiling.heap);
        Ok(Self { plan, flusher, receiver: ended, stacks, phase: 0, cuts: None, heap })
    }

    async fn follow(
        &mut self,
        reader: &mut WorkerReader,
        writer: &mut WorkerWriter,
    ) -> Result<(), End> {
        loop {
            let cut = self.until_cut();
            tokio::select! {
                message = reader.recv::<In>() => match message? {
                    In::Start(start) => self.start_phase(start, writer).await?,
                    In::Finish(finish) => self.finish_phase(finish, writer).await?,
                    In::Ping { sent_us } => {
                        writer.send(&Out::Pong { sent_us, now_us: wall_us() }).await?;
                    }
                    In::Stop => return self.stop(writer).await,
                    other => return Err(LinkError::unexpected("Start, Finish or Stop", &other).into()),
                },
                ended = &mut self.receiver => return Err(End::Failed(receiver_end(ended))),
                () = cut => {
                    self.sample(writer).await?;
                    send_heap(self.heap.cut(self.flusher.now_us()), writer).await?;
                }
            }
        }
    }

    /// Completes at the next cut; never between phases.
    fn until_cut(&self) -> impl Future<Output = ()> + use<> {
        let wait_us = self.cuts.map(|cuts| {
            let now_us = self.flusher.now_us();
            cuts.next_after(now_us) - now_us
        });
        async move {
            match wait_us {
                None => std::future::pending().await,
                Some(us) => tokio::time::sleep(Duration::from_micros(us.unsigned_abs())).await,
            }
        }
    }

    async fn start_phase(
        &mut self,
        start: PhaseStart,
        writer: &mut WorkerWriter,
    ) -> Result<(), LinkError> {
        let PhaseStart { phase, start_us } = start;
        let Some(planned) = self.plan.phases.get(phase as usize) else { return Ok(()) };
        let cuts = Cuts::new(start_us, planned.warmup_sec, planned.duration_sec);
        // Rows that came between the phases still belong to theirs.
        let between = self.flusher.sample(phase, cuts.window_at(start_us));
        let has_rows = |s: &ConsumerSample| s.counts.received_rows + s.counts.rows > 0;
        send(between.into_iter().filter(has_rows), writer).await?;
        self.stacks.begin(cuts.window_at(start_us));
        self.phase = phase;
        self.cuts = Some(cuts);
        self.heap.start(phase, cuts);
        Ok(())
    }

    async fn sample(&mut self, writer: &mut WorkerWriter) -> Result<(), LinkError> {
        let now_us = self.flusher.now_us();
        let window = self.cuts.map_or(Window::Drain, |cuts| cuts.window_at(now_us));
        send_stacks(self.stacks.until(window), writer).await?;
        send(self.flusher.sample(self.phase, window), writer).await
    }

    async fn finish_phase(
        &mut self,
        finish: Finish,
        writer: &mut WorkerWriter,
    ) -> Result<(), LinkError> {
        self.flusher.ask_to_cut();
        self.sample(writer).await?;
        send_stacks(self.stacks.end(), writer).await?;
        send_heap(self.heap.end(Window::Drain, self.flusher.now_us()), writer).await?;
        self.cuts = None;
        writer.send(&Out::Finished { phase: finish.phase }).await
    }

    async fn stop(&mut self, writer: &mut WorkerWriter) -> Result<(), End> {
        self.flusher.ask_to_stop();
        let died = |_| Failure::new("the receiving thread died");
        let (delivered, _) = (&mut self.receiver).await.map_err(died)??;
        self.sample(writer).await?;
        writer.send(&Out::Done(delivered)).await?;
        Ok(())
    }
}

async fn send_stacks(
    stacks: Option<SampledStacks>,
    writer: &mut WorkerWriter,
) -> Result<(), LinkError> {
    match stacks {
        Some(stacks) => writer.send(&Out::Stacks(stacks)).await,
        None => Ok(()),
    }
}

async fn send(
    samples: impl IntoIterator<Item = ConsumerSample>,
    writer: &mut WorkerWriter,
) -> Result<(), LinkError> {
    for sample in samples {
        writer.send(&Out::Sample(Sample::Consumer(Box::new(sample)))).await?;
    }
    Ok(())
}

/// What a worker's heap was dumped to, if it was.
async fn send_heap(dump: Option<HeapDump>, writer: &mut WorkerWriter) -> Result<(), LinkError> {
    match dump {
        Some(dump) => writer.send(&Out::Heap(dump)).await,
        None => Ok(()),
    }
}

fn receiver_end<T>(ended: Result<Result<T, Failure>, RecvError>) -> Failure {
    match ended {
        Ok(Err(failure)) => failure,
        Ok(Ok(_)) => Failure::new("the receiving thread stopped by itself"),
        Err(_) => Failure::new("the receiving thread died"),
    }
}

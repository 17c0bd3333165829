//! The process's whole life, from the first message to the last.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use walbench_metrics::allocator::{HeapDump, HeapDumps};
use walbench_metrics::link::{LinkError, WorkerReader, WorkerWriter, check_version};
use walbench_metrics::message::{FromWorker, PROTOCOL_VERSION, PhaseStart, ToWorker};
use walbench_metrics::sample::{Interval, Sample};
use walbench_metrics::stacks::{OwnSampler, OwnStacks, SampledStacks};
use walbench_metrics::{Failure, Window, clock};

use crate::connection::Event;
use crate::crew::{Crew, Run, micros};
use crate::prepare::{Done, Prepare};
use crate::start;

/// Serves the orchestrator until it says `Stop` or the link closes. What a `sampler` takes of it is
/// handed over with each sample.
///
/// Returns at once when the link closes, whatever the connections are doing: the caller ends the
/// process.
///
/// # Errors
///
/// What kept the producer from doing its work; it was told to the orchestrator if the link allowed.
pub async fn serve(
    reader: WorkerReader,
    writer: WorkerWriter,
    sampler: Option<Box<dyn OwnSampler>>,
) -> Result<(), Failure> {
    let mut server = Server::new(writer, sampler);
    let result = server.run(reader).await;
    // Whoever sleeps until a transaction is due wakes up for nothing.
    if let Some(crew) = &server.crew {
        crew.abandoned.store(true, Ordering::Relaxed);
    }
    match result {
        Ok(()) | Err(End::Link(LinkError::Closed)) => Ok(()),
        Err(End::Link(error)) => {
            Err(Failure::new("the link to the orchestrator broke").caused_by(&error))
        }
        Err(End::Failed(failure)) => {
            _ = server.send(FromWorker::Failed(failure.clone())).await;
            Err(failure)
        }
    }
}

/// Why a worker ends before it is asked to.
enum End {
    Link(LinkError),
    Failed(Failure),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

struct Server {
    writer: WorkerWriter,
    worker: String,
    preparing: Option<JoinHandle<Result<Arc<Crew>, Failure>>>,
    crew: Option<Arc<Crew>>,
    connections: Vec<Sender<Arc<Run>>>,
    /// Connections that have not said yet that they are ready.
    unready: usize,
    running: Option<Running>,
    heap: HeapDumps,
    stopping: bool,
    events: UnboundedReceiver<Event>,
    events_in: UnboundedSender<Event>,
    stacks: OwnStacks,
}

/// The phase under way.
struct Running {
    run: Arc<Run>,
    /// Connections that still have something to send.
    busy: usize,
    /// Up to where samples were taken, in µs since the phase's start.
    sampled_us: i64,
}

impl Server {
    fn new(writer: WorkerWriter, sampler: Option<Box<dyn OwnSampler>>) -> Self {
        let (events_in, events) = unbounded_channel();
        Self {
            writer,
            worker: String::new(),
            preparing: None,
            crew: None,
            connections: Vec::new(),
            unready: 0,
            running: None,
            heap: HeapDumps::new(false),
            stopping: false,
            events,
            events_in,
            stacks: OwnStacks::of(sampler),
        }
    }

    async fn send(&mut self, message: FromWorker<Done>) -> Result<(), LinkError> {
        self.writer.send(&message).await
    }

    async fn run(&mut self, mut reader: WorkerReader) -> Result<(), End> {
        loop {
            let tick = self.running.as_ref().map(Running::next_tick);
            tokio::select! {
                message = reader.recv() => {
                    if self.obey(message?).await? {
                        return Ok(());
                    }
                }
                prepared = joined(&mut self.preparing) => self.prepared(prepared?)?,
                Some(event) = self.events.recv() => {
                    if self.note(event).await? {
                        return Ok(());
                    }
                }
                () = sleep_until(tick) => {
                    if self.tick().await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Does what the orchestrator says; `true` when that ends the worker.
    async fn obey(&mut self, message: ToWorker<Prepare>) -> Result<bool, End> {
        match message {
            ToWorker::Hello { protocol, worker } => {
                self.worker = worker;
                check_version(protocol).map_err(|error| {
                    Failure::new("this worker can't serve the orchestrator")
                        .caused_by(&error)
                        .hint("install the same version of walbench on every machine")
                })?;
                let version = env!("CARGO_PKG_VERSION").into();
                let pid = std::process::id();
                self.send(FromWorker::Hello { protocol: PROTOCOL_VERSION, version, pid }).await?;
            }
            ToWorker::Ping { sent_us } => {
                self.send(FromWorker::Pong { sent_us, now_us: clock::wall_us() }).await?;
            }
            ToWorker::Prepare(prepare) => {
                if self.preparing.is_some() || self.crew.is_some() {
                    return Err(unexpected("Prepare when it was prepared already").into());
                }
                self.heap = HeapDumps::new(prepare.plan.profiling.wants_producers_heap());
                let worker = self.worker.clone();
                self.preparing =
                    Some(tokio::spawn(async move { start::prepare(prepare, &worker).await }));
            }
            ToWorker::Start(at) => self.start_phase(at)?,
            ToWorker::Finish(finish) => {
                // A phase that is over already was finished by its own length.
                if let Some(running) = &self.running
                    && running.run.at.phase == finish.phase
                {
                    running.run.finish();
                }
                return self.finish_phase().await;
            }
            ToWorker::Stop => return self.stop().await,
        }
        Ok(false)
    }

    fn prepared(&mut self, prepared: Result<Arc<Crew>, Failure>) -> Result<(), End> {
        let crew = prepared?;
        self.connections = start::start(&crew, &self.events_in)?;
        self.unready = self.connections.len();
        self.crew = Some(crew);
        Ok(())
    }

    fn start_phase(&mut self, at: PhaseStart) -> Result<(), End> {
        let Some(crew) = self.crew.as_ref().filter(|_| self.unready == 0) else {
            return Err(unexpected("Start before it was ready").into());
        };
        if self.running.is_some() {
            return Err(unexpected("Start in the middle of a phase").into());
        }
        let Some(run) = crew.run(at) else {
            return Err(unexpected("Start of a phase that is not in the plan").into());
        };
        self.stacks.begin(run.cuts().window_at(0));
        for connection in &self.connections {
            // A connection that has ended says why itself.
            _ = connection.send(Arc::clone(&run));
        }
        self.heap.start(at.phase, run.cuts().later(at.start_us));
        self.running = Some(Running { run, busy: self.connections.len(), sampled_us: 0 });
        Ok(())
    }

    /// Notes what a connection says; `true` when that ends the worker.
    async fn note(&mut self, event: Event) -> Result<bool, End> {
        match event {
            Event::Ready => {
                self.unready -= 1;
                if self.unready == 0 {
                    self.send(FromWorker::Ready).await?;
                }
            }
            Event::PhaseDone => {
                if let Some(running) = &mut self.running {
                    running.busy -= 1;
                }
                return self.finish_phase().await;
            }
            Event::Failed(failure) => return Err(failure.into()),
        }
        Ok(false)
    }

    /// Ends the phase if its time is over and every row is accounted for; `true` when that ends
    /// the worker. Rows may all be written early: nothing may be due at the end.
    async fn finish_phase(&mut self) -> Result<bool, End> {
        let over = |running: &mut Running| {
            running.busy == 0 && running.run.start.elapsed() >= running.run.end()
        };
        let Some(mut running) = self.running.take_if(over) else { return Ok(false) };
        let now_us = running.elapsed_us();
        self.sample(&mut running, now_us).await?;
        let stacks = self.stacks.end();
        self.send_stacks(stacks).await?;
        let at_us = running.run.at.start_us + now_us;
        let dump = self.heap.end(Window::Measured, at_us);
        self.send_heap(dump).await?;
        self.send(FromWorker::Finished { phase: running.run.at.phase }).await?;
        if self.stopping { self.stop().await } else { Ok(false) }
    }

    /// Ends the worker, after what is under way.
    async fn stop(&mut self) -> Result<bool, End> {
        if let (Some(running), Some(crew)) = (&self.running, &self.crew) {
            crew.abandoned.store(true, Ordering::Relaxed);
            running.run.give_up();
            self.stopping = true;
            return Box::pin(self.finish_phase()).await;
        }
        let done = self.crew.as_ref().map(|crew| crew.done()).unwrap_or_default();
        self.send(FromWorker::Done(done)).await?;
        Ok(true)
    }

    /// Takes a sample; `true` when that ends the worker.
    async fn tick(&mut self) -> Result<bool, End> {
        let Some(mut running) = self.running.take() else { return Ok(false) };
        let (cuts, now_us) = (running.run.cuts(), running.elapsed_us());
        // Late after a stall: one sample for the whole of it.
        let mut tick_us = cuts.next_after(running.sampled_us);
        while cuts.next_after(tick_us) <= now_us {
            tick_us = cuts.next_after(tick_us);
        }
        let at_us = running.run.at.start_us + tick_us;
        let sampled = self.sample(&mut running, tick_us).await;
        self.running = Some(running);
        sampled?;
        let dump = self.heap.cut(at_us);
        self.send_heap(dump).await?;
        self.finish_phase().await
    }

    /// What the heap was dumped to, if it was.
    async fn send_heap(&mut self, dump: Option<HeapDump>) -> Result<(), LinkError> {
        match dump {
            Some(dump) => self.send(FromWorker::Heap(dump)).await,
            None => Ok(()),
        }
    }

    /// Sends what happened since the last sample: one sample for each window of which there is
    /// something to say, and always one for the window the clock is in, as a sign of life.
    async fn sample(&mut self, running: &mut Running, until_us: i64) -> Result<(), End> {
        let Some(crew) = &self.crew else { return Ok(()) };
        let Running { run, sampled_us, .. } = running;
        let current = run.cuts().window_at(*sampled_us);
        let mut tallies = crew.recorder.collect();
        let (start_us, end_us) = (run.at.start_us + *sampled_us, run.at.start_us + until_us);
        *sampled_us = until_us;
        for window in [Window::Warmup, Window::Measured, Window::Drain] {
            let tally = match window {
                // Rows are never due in the drain.
                Window::Drain => crate::recorder::Tally::default(),
                _ => std::mem::take(tallies.of(window)),
            };
            if !tally.is_empty() || window == current {
                let interval = Interval { phase: run.at.phase, window, start_us, end_us };
                let sample = tally.into_sample(&self.worker, interval);
                let message = FromWorker::Sample(Sample::Producer(Box::new(sample)));
                self.writer.send::<FromWorker<Done>>(&message).await?;
            }
        }
        let stacks = self.stacks.until(run.cuts().window_at(until_us));
        self.send_stacks(stacks).await
    }
}

impl Server {
    async fn send_stacks(&mut self, stacks: Option<SampledStacks>) -> Result<(), End> {
        if let Some(stacks) = stacks {
            self.send(FromWorker::Stacks(stacks)).await?;
        }
        Ok(())
    }
}

impl Running {
    fn next_tick(&self) -> Instant {
        let tick_us = self.run.cuts().next_after(self.sampled_us);
        self.run.start + Duration::from_micros(tick_us.unsigned_abs())
    }

    fn elapsed_us(&self) -> i64 {
        micros(self.run.start.elapsed())
    }
}

fn unexpected(what: &str) -> Failure {
    Failure::new(format!("the orchestrator told a producer to {what}"))
        .hint("this is a fault in walbench: please report it")
}

/// The outcome of getting ready; never, when nobody is.
async fn joined(
    preparing: &mut Option<JoinHandle<Result<Arc<Crew>, Failure>>>,
) -> Result<Result<Arc<Crew>, Failure>, Failure> {
    let Some(task) = preparing else { return std::future::pending().await };
    let result = task.await.map_err(|error| Failure::new("getting ready failed").caused_by(&error));
    *preparing = None;
    result
}

/// Sleeps until `moment`; for ever, when there is none.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

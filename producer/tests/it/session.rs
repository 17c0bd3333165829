//! The orchestrator's side of a producer, for tests.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use walbench_metrics::link::{self, LinkReader, LinkWriter};
use walbench_metrics::message::{Finish, FromWorker, PROTOCOL_VERSION, PhaseStart, ToWorker};
use walbench_metrics::sample::{ProducerCounts, ProducerSample, Sample};
use walbench_metrics::stamp::run_number;
use walbench_metrics::{Failure, Timing, Window, clock};
use walbench_phases::Plan;
use walbench_phases::address::PostgresAddress;
use walbench_producer::{Done, Prepare, serve};

/// Longer than any test may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A producer that serves us.
pub(crate) struct Session {
    pub(crate) reader: LinkReader<OwnedReadHalf>,
    pub(crate) writer: LinkWriter<OwnedWriteHalf>,
    /// The producer's end.
    pub(crate) serving: JoinHandle<Result<(), Failure>>,
    /// All samples received.
    pub(crate) samples: Vec<ProducerSample>,
}

/// A plan of one phase; `producer` as in a plan file.
#[expect(clippy::needless_pass_by_value, reason = "it is always called with a json!")]
pub(crate) fn plan(rate: f64, duration_sec: f64, producer: Value) -> Value {
    json!({
        "phases": [{ "name": "only", "target_throughput": rate, "duration_sec": duration_sec }],
        "producer": producer,
        "limits": { "catch_up_sec": 10.0 },
    })
}

impl Session {
    /// A producer that was greeted and has not been told what to do.
    pub(crate) async fn greet() -> Self {
        let (ours, theirs) = link::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (reader, writer) = UnixStream::from_std(theirs).unwrap().into_split();
        let serving = tokio::spawn(serve(
            LinkReader::new(Box::new(reader)),
            LinkWriter::new(Box::new(writer)),
            None,
        ));
        let (reader, writer) = ours.into_split();
        let (reader, writer) = (LinkReader::new(reader), LinkWriter::new(writer));
        let mut session = Self { reader, writer, serving, samples: Vec::new() };
        session
            .send(ToWorker::Hello { protocol: PROTOCOL_VERSION, worker: "producer-0".into() })
            .await;
        assert!(matches!(
            session.recv().await,
            FromWorker::Hello { protocol: PROTOCOL_VERSION, .. }
        ));
        session
    }

    /// Sends a producer what it needs.
    pub(crate) async fn prepare(&mut self, address: &PostgresAddress, plan: &Value) {
        self.prepare_as(0, address, plan).await;
    }

    /// Sends one of several producers what it needs.
    pub(crate) async fn prepare_as(&mut self, index: u32, address: &PostgresAddress, plan: &Value) {
        let plan: Plan = serde_json::from_value(plan.clone()).unwrap();
        let address = address.clone();
        let run = run_number("test");
        let prepare = Prepare { run, index, address, plan, clock_correction_us: 0 };
        self.send(ToWorker::Prepare(prepare)).await;
    }

    /// A producer that is ready for the first phase.
    pub(crate) async fn ready(address: &PostgresAddress, plan: &Value) -> Self {
        let mut session = Self::greet().await;
        session.prepare(address, plan).await;
        match session.recv().await {
            FromWorker::Ready => session,
            other => panic!("not ready: {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, message: ToWorker<Prepare>) {
        self.writer.send(&message).await.unwrap();
    }

    pub(crate) async fn recv(&mut self) -> FromWorker<Done> {
        tokio::time::timeout(PATIENCE, self.reader.recv()).await.expect("no word").unwrap()
    }

    /// Starts a phase 50 ms from now.
    pub(crate) async fn start(&mut self, phase: u32) -> i64 {
        let start_us = clock::wall_us() + 50_000;
        self.send(ToWorker::Start(PhaseStart { phase, start_us })).await;
        start_us
    }

    /// Ends a phase early.
    pub(crate) async fn finish(&mut self, phase: u32) {
        self.send(ToWorker::Finish(Finish { phase })).await;
    }

    /// Collects samples until the phase is over.
    pub(crate) async fn finished(&mut self, phase: u32) {
        loop {
            match self.recv().await {
                FromWorker::Sample(Sample::Producer(sample)) => self.samples.push(*sample),
                FromWorker::Finished { phase: finished } => return assert_eq!(finished, phase),
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    /// Runs a phase to its end.
    pub(crate) async fn phase(&mut self, phase: u32) {
        self.start(phase).await;
        self.finished(phase).await;
    }

    /// Stops the producer.
    pub(crate) async fn stop(mut self) -> Done {
        self.send(ToWorker::Stop).await;
        let FromWorker::Done(done) = self.recv().await else { panic!("not done") };
        tokio::time::timeout(PATIENCE, self.serving).await.unwrap().unwrap().unwrap();
        done
    }

    /// What the samples of a phase and window add up to.
    pub(crate) fn sum(&self, phase: u32, window: Window) -> Sum {
        let mut sum = Sum::default();
        for sample in &self.samples {
            if sample.interval.phase == phase && sample.interval.window == window {
                sum.counts.merge(&sample.counts);
                sum.lateness.merge(&sample.lateness);
                sum.service.merge(&sample.service);
                sum.response.merge(&sample.response);
                for (code, count) in &sample.errors {
                    *sum.errors.entry(code.clone()).or_default() += count;
                }
            }
        }
        sum
    }
}

/// Samples added up.
#[derive(Default)]
pub(crate) struct Sum {
    pub(crate) counts: ProducerCounts,
    pub(crate) lateness: Timing,
    pub(crate) service: Timing,
    pub(crate) response: Timing,
    pub(crate) errors: BTreeMap<String, u64>,
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts, lateness, service, response, errors } = self;
        let us = |timing: &Timing| {
            (
                timing.quantile_us(0.5),
                timing.quantile_us(0.9),
                timing.quantile_us(0.99),
                timing.max_us(),
            )
        };
        f.debug_struct("Sum")
            .field("counts", counts)
            .field("errors", errors)
            .field("lateness", &us(lateness))
            .field("service", &us(service))
            .field("response", &us(response))
            .finish()
    }
}

/// Runs a plan of one phase to its end.
pub(crate) async fn run(address: &PostgresAddress, plan: &Value) -> (Sum, Done) {
    let mut session = Session::ready(address, plan).await;
    session.phase(0).await;
    let sum = session.sum(0, Window::Measured);
    (sum, session.stop().await)
}

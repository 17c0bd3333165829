//! The orchestrator's side of a consumer's link.

use std::time::Duration;

use serde_json::json;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;
use walbench_consumer::{Delivered, Prepare, serve};
use walbench_metrics::Failure;
use walbench_metrics::clock::wall_us;
use walbench_metrics::link::{LinkReader, LinkWriter, pair};
use walbench_metrics::message::{Finish, FromWorker, PROTOCOL_VERSION, PhaseStart, ToWorker};
use walbench_metrics::sample::{ConsumerSample, Sample};
use walbench_metrics::stamp::run_number;
use walbench_phases::Plan;

use crate::database::{Database, PUBLICATION};

pub(crate) const RUN: &str = "a run";

pub(crate) struct Session {
    reader: LinkReader<OwnedReadHalf>,
    writer: LinkWriter<OwnedWriteHalf>,
    pub(crate) samples: Vec<ConsumerSample>,
    pub(crate) worker: JoinHandle<Result<(), Failure>>,
}

pub(crate) fn plan(consumer: &serde_json::Value) -> Plan {
    let phase = json!({ "name": "only", "duration_sec": 600, "target_throughput": 1 });
    serde_json::from_value(json!({ "phases": [phase], "consumer": consumer })).unwrap()
}

impl Session {
    /// A consumer that was told to prepare.
    pub(crate) async fn prepared(database: &Database, consumer: &serde_json::Value) -> Self {
        let (ours, theirs) = pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let (read, write) = tokio::net::UnixStream::from_std(theirs).unwrap().into_split();
        let worker = tokio::spawn(serve(
            LinkReader::new(Box::new(read)),
            LinkWriter::new(Box::new(write)),
            None,
            &[],
        ));
        let (read, write) = ours.into_split();
        let (reader, writer) = (LinkReader::new(read), LinkWriter::new(write));
        let mut session = Self { reader, writer, samples: Vec::new(), worker };
        session
            .send(ToWorker::Hello { protocol: PROTOCOL_VERSION, worker: "consumer-0".into() })
            .await;
        assert!(matches!(session.recv().await, FromWorker::Hello { .. }));
        session.send(ToWorker::Ping { sent_us: 7 }).await;
        assert!(matches!(session.recv().await, FromWorker::Pong { sent_us: 7, .. }));
        let prepare = Prepare {
            run: run_number(RUN),
            clickhouse: None,
            address: database.address.clone(),
            plan: plan(consumer),
            slot: database.slot.clone(),
            publication: PUBLICATION.into(),
            clock_correction_us: 0,
            server_correction_us: 0,
            probes: false,
        };
        session.send(ToWorker::Prepare(prepare)).await;
        session
    }

    /// A consumer that streams, in a phase.
    pub(crate) async fn streaming(database: &Database, consumer: &serde_json::Value) -> Self {
        let mut session = Self::prepared(database, consumer).await;
        let ready = session.recv().await;
        assert!(matches!(ready, FromWorker::Ready), "{ready:?}");
        session.send(ToWorker::Start(PhaseStart { phase: 0, start_us: wall_us() })).await;
        session
    }

    pub(crate) async fn send(&mut self, message: ToWorker<Prepare>) {
        self.writer.send(&message).await.unwrap();
    }

    /// The next message that is no sample.
    pub(crate) async fn recv(&mut self) -> FromWorker<Delivered> {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(60), self.reader.recv());
            match message.await.expect("the consumer says something").unwrap() {
                FromWorker::Sample(Sample::Consumer(sample)) => self.samples.push(*sample),
                message => return message,
            }
        }
    }

    pub(crate) async fn failure(&mut self) -> String {
        match self.recv().await {
            FromWorker::Failed(failure) => failure.to_string(),
            other => panic!("not a failure: {other:?}"),
        }
    }

    /// Waits until everything written up to now is confirmed.
    pub(crate) async fn drained(&mut self, database: &Database) {
        // A message of ours gives PostgreSQL something to send behind the last row.
        let marker = "SELECT pg_logical_emit_message(true, 'test', '')";
        database.execute(marker).await;
        let (_, end) = database.positions().await;
        while database.positions().await.0 < end {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
                message = self.recv() => panic!("while it drains: {message:?}"),
            }
        }
    }

    /// Closes the link, and leaves the consumer.
    pub(crate) fn abandoned(self) -> JoinHandle<Result<(), Failure>> {
        self.worker
    }

    /// Ends the phase and the consumer.
    pub(crate) async fn stop(mut self) -> (Delivered, Vec<ConsumerSample>) {
        self.send(ToWorker::Finish(Finish { phase: 0 })).await;
        assert!(matches!(self.recv().await, FromWorker::Finished { phase: 0 }));
        self.send(ToWorker::Stop).await;
        let FromWorker::Done(delivered) = self.recv().await else { panic!("not done") };
        self.worker.await.unwrap().unwrap();
        (delivered, self.samples)
    }
}

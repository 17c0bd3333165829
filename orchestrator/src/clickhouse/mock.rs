//! A mock ClickHouse server as the rest of walbench sees it: started, reached by its URL, told when
//! phases begin, stopped.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use walbench_consumer::clickhouse::mock::{Counters, Options, ReservedPort};
use walbench_metrics::Failure;
use walbench_metrics::message::PhaseStart;
use walbench_phases::Plan;

use super::alone::Alone;
use crate::event::ToAny;
use crate::worker::{MOCK_CLICKHOUSE, Start};

/// A stop in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Everything the mock's process needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MockPrepare {
    /// A port that we hold for it.
    pub(crate) port: u16,
    /// What it is told to be.
    pub(crate) options: Options,
    /// The names of the phases, whose starts it is told by number.
    pub(crate) phases: Vec<String>,
}

/// A mock that is not started yet: its port is ours, so that nobody else can have it while the mock
/// does not listen.
pub(crate) struct MockPlace {
    pub(crate) prepare: MockPrepare,
    /// How to reach it.
    pub(crate) url: String,
    /// What runs, for a report.
    pub(crate) program: String,
    _port: ReservedPort,
}

impl MockPlace {
    /// For the one that a plan describes, on that port or a free one.
    pub(crate) fn take(plan: &Plan, port: u16) -> Result<Self, Failure> {
        let port = ReservedPort::take(port)
            .map_err(|e| Failure::new(format!("port {port} can't be used")).caused_by(&e))?;
        let options = Options {
            plan: plan.clickhouse.mock.clone(),
            delay_ms: plan.consumer.mock_delay_ms,
            seed: plan.producer.seed,
        };
        let phases = plan.phases.iter().map(|phase| phase.name.clone()).collect();
        Ok(Self {
            prepare: MockPrepare { port: port.port(), options, phases },
            url: format!("http://127.0.0.1:{}/", port.port()),
            program: describe(plan),
            _port: port,
        })
    }
}

/// A mock that runs. If it is dropped, or we are ended, it ends as well.
pub(crate) struct MockClickHouse {
    pub(crate) place: MockPlace,
    process: Alone,
}

impl MockClickHouse {
    /// Starts the one that a plan describes, on that port or a free one, and waits until it listens.
    /// It says what it says where we do.
    pub(crate) async fn start(plan: &Plan, port: u16) -> Result<Self, Failure> {
        let place = MockPlace::take(plan, port)?;
        let start = Start { name: "mock-clickhouse", role: MOCK_CLICKHOUSE, ..Start::default() };
        let process = Alone::start(start, &place.prepare).await?;
        Ok(Self { place, process })
    }

    /// Tells it that a phase begins, from which its faults' time is counted.
    pub(crate) async fn begin(&mut self, phase: u32, start_us: i64) -> Result<(), Failure> {
        let start = ToAny::Start(PhaseStart { phase, start_us });
        let worker = &mut self.process.worker;
        let sent = worker.send(&start).await;
        sent.map_err(|e| worker.failed("can't be told of a phase").caused_by(&e))
    }

    /// Waits until it fails by itself.
    pub(crate) async fn failed(&mut self) -> Failure {
        self.process.failed().await
    }

    /// Lets running inserts end and stops it; what it has counted.
    pub(crate) async fn stop(self) -> Result<Counters, Failure> {
        self.process.stop("the mock ClickHouse", STOP_TIMEOUT).await
    }
}

fn describe(plan: &Plan) -> String {
    let faults = match plan.clickhouse.mock.faults.len() {
        0 => String::new(),
        1 => ", with a fault to come".into(),
        faults => format!(", with {faults} faults to come"),
    };
    format!("a mock: it checks blocks and keeps each key's newest row{faults}")
}

//! Ceilings: what walsenders, consumers and sink can do by themselves, with the run's own first rows.

use std::time::Duration;

use walbench_consumer::{Following, Measure};
use walbench_metrics::Failure;
use walbench_metrics::ceiling::Ceilings;
use walbench_phases::plan::{ClickhouseMode, MockLevel};

use super::Run;
use crate::ceiling::sink::CeilingSink;
use crate::ceiling::worker;
use crate::event::Stop;

/// All rounds together.
const CEILINGS_TIMEOUT: Duration = Duration::from_secs(600);

const ROUNDS: u32 = 3;

impl Run {
    /// Measures them, if that is asked for. What keeps them from it is told, and nothing else comes of
    /// it.
    pub(super) async fn ceilings(&mut self) -> Option<Ceilings> {
        if !self.plan.profiling.ceiling || self.phases.is_empty() {
            return None;
        }
        // Nobody looks at the server any more.
        self.watch = None;
        let measured = match self.interrupts {
            0 => self.measure_ceilings().await,
            _ => Err(Stop::Interrupted),
        };
        // A signal that ended it is known to the patience alone.
        let _ = self.check_interrupt();
        let problem = match measured {
            Ok(ceilings) => return Some(ceilings),
            Err(Stop::Failed(failure)) => failure.line(),
            Err(Stop::Interrupted) => "the run was ended".into(),
        };
        let text = format!("the ceilings were not measured: {problem}");
        self.live.say(&text);
        self.environment.allowances.push(text);
        None
    }

    async fn measure_ceilings(&mut self) -> Result<Ceilings, Stop> {
        self.live
            .step("measuring ceilings: the walsenders, the consumers and the sink by themselves");
        let signals = self.interrupts + 1;
        // What is made must be known, so that it is removed: only a second signal ends this.
        let (who, what) = ("ClickHouse", "make a database for its ceiling");
        let making = self.make_ceiling_sink();
        let sink = self.patience.wait_for(who, what, CEILINGS_TIMEOUT, signals + 1, making).await?;
        let measure = Measure {
            streams: self.ceiling_streams(sink.as_ref()),
            rounds: ROUNDS,
            sink: sink
                .as_ref()
                .map_or_else(|| self.is_mock_measured(), |sink| Some(sink.name.into())),
        };
        self.ceiling_sink = sink;
        let logs = self.folder.logs();
        let measuring =
            worker::measured(&measure, &self.plan.consumer.launcher, &logs, CEILINGS_TIMEOUT);
        let (who, what) = ("walbench", "measure its ceilings");
        self.patience.wait_for(who, what, CEILINGS_TIMEOUT, signals, measuring).await
    }

    /// The mock that is no server is measured where it does something.
    fn is_mock_measured(&self) -> Option<String> {
        (self.plan.consumer.mock_level == MockLevel::Encode).then(|| "the mock".into())
    }

    /// A place beside the run's own; `None` where the sink is no server.
    async fn make_ceiling_sink(&self) -> Result<Option<CeilingSink>, Failure> {
        let plan = &self.plan;
        if plan.clickhouse.mode == ClickhouseMode::Mock {
            return match plan.consumer.mock_level {
                MockLevel::Http => CeilingSink::mock(plan).await.map(Some),
                _ => Ok(None),
            };
        }
        let Some(destination) = &self.destination else { return Ok(None) };
        let (address, run_id) = (destination.address.clone(), self.folder.id());
        CeilingSink::clickhouse(address, &plan.clickhouse, run_id).await.map(Some)
    }

    /// The slots that nobody has read, to the end of the last phase.
    fn ceiling_streams(&self, sink: Option<&CeilingSink>) -> Vec<Following> {
        let Some(source) = &self.source else { return Vec::new() };
        let until_lsn = self.phases.iter().rev().find_map(|phase| phase.wal_end_lsn);
        let slots = source.ceiling_slots.iter().zip(&source.publications);
        let stream = |(slot, publication): (&String, &String)| Following {
            address: source.address.clone(),
            publication: publication.clone(),
            slot: slot.clone(),
            consumer: self.plan.consumer.clone(),
            clickhouse: sink.map(|sink| sink.place.clone()),
            until_lsn,
        };
        slots.map(stream).collect()
    }
}

//! After the last phase, or after whatever ended the run before: workers end, what is ours is
//! removed, results are written.

use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::Instant;
use walbench_consumer::clickhouse::mock::Counters;
use walbench_metrics::Failure;
use walbench_metrics::ceiling::Ceilings;
use walbench_metrics::link::LinkError;
use walbench_metrics::message::FromWorker;
use walbench_results::destination::Destination;
use walbench_results::outcome::{Delivered, TableRows};
use walbench_results::{Metrics, RunOutcome, ladder_pictures, metrics, summary, terminal};

use super::Run;
use super::events::Happening;
use crate::clean;
use crate::ending::{self, Ending};
use crate::event::Event;
use crate::event::Stop;
use crate::event::ToAny;

/// A worker that was told to stop only has to close its connections; without a word for so long it
/// hangs.
const DONE_TIMEOUT: Duration = Duration::from_secs(20);

/// Who keeps a command ends it before itself, and first asks it to end.
const COMMAND_GRACE: Duration = Duration::from_secs(12);

/// The server stops in order, with a checkpoint.
const KEEPER_TIMEOUT: Duration = Duration::from_secs(40);

/// Counting reads the whole tables.
const COUNT_TIMEOUT: Duration = Duration::from_secs(300);

/// What the workers leave.
#[derive(Debug, Default)]
struct Left {
    produced: Vec<walbench_producer::Done>,
    delivered: Vec<walbench_consumer::Delivered>,
}

/// What the databases hold at the end.
#[derive(Debug, Default)]
struct Found {
    table_rows: Vec<TableRows>,
    destination: Option<Destination>,
    ceilings: Option<Ceilings>,
    /// The user had ended the run before all this was known.
    interrupted: bool,
}

impl Run {
    /// Ends everything and says how it went.
    pub(super) async fn finish(mut self, went: Result<(), Stop>) -> Result<u8, Ending> {
        self.live.clear();
        self.cuts = None;
        let mut left = Left::default();
        let mut stop = went.err();
        if stop.is_none() {
            match self.stop_workers().await {
                Ok(everything) => {
                    let notes = everything.delivered.iter().flat_map(|left| left.notes.clone());
                    self.environment.allowances.extend(notes);
                    left = everything;
                }
                Err(early) => stop = Some(early),
            }
        }
        if let Some(early) = stop {
            stop = Some(self.blame_the_server(early).await);
        }
        self.finish_profiles();
        let mut found = Found::default();
        if stop.is_none() {
            found.table_rows = self.count_rows().await;
            found.destination = self.compare().await;
            if let (Some(destination), Some((mock, _))) = (&mut found.destination, &self.mock) {
                match self.stop_worker::<Counters>(*mock).await {
                    Ok(counters) => destination.mock = counters.named().into_iter().collect(),
                    Err(early) => stop = Some(early),
                }
            }
        }
        found.interrupted = self.interrupts > 0;
        if stop.is_none() {
            found.ceilings = self.ceilings().await;
        }
        self.end_workers().await;
        let removed = self.remove().await;
        let written = self.write_results(left, found, stop.as_ref());
        self.say_how_it_ended(stop, removed, written)
    }

    /// Of a phase that did not come to its end too, up to where its processes were measured; not for
    /// somebody who waits for the end.
    fn finish_profiles(&mut self) {
        if self.interrupts <= 1 {
            self.write_profiles(self.measured_us);
        }
        self.environment.allowances.append(&mut self.heaps.allowances);
        let Some(profiling) = self.profiling.take() else { return };
        if self.interrupts <= 1 && !self.phases.is_empty() {
            self.environment.allowances.append(&mut profiling.finish(&self.folder));
        }
    }

    /// Producers first, so that what they wrote can still be confirmed.
    async fn stop_workers(&mut self) -> Result<Left, Stop> {
        let mut left = Left::default();
        for number in self.producers.clone() {
            left.produced.push(self.stop_worker(number).await?);
        }
        for number in self.consumers.clone() {
            left.delivered.push(self.stop_worker(number).await?);
        }
        Ok(left)
    }

    async fn stop_worker<D: DeserializeOwned>(&mut self, number: usize) -> Result<D, Stop> {
        self.tell(number, &ToAny::Stop).await?;
        loop {
            let deadline = self.workers[number].last_heard + DONE_TIMEOUT;
            let nonsense = |run: &Self, error: &dyn std::error::Error| -> Stop {
                run.workers[number].failed("speaks nonsense").caused_by(error).into()
            };
            match self.next(deadline).await? {
                Happening::Said(who, message) => match *message {
                    FromWorker::Done(left) if who == number => {
                        return serde_json::from_value(left).map_err(|e| nonsense(self, &e));
                    }
                    other => return Err(nonsense(self, &LinkError::unexpected("Done", &other))),
                },
                Happening::Interrupted => {}
                Happening::TimeUp if self.is_heard(number, DONE_TIMEOUT) => {}
                Happening::TimeUp => {
                    return Err(self.workers[number].failed("did not stop in time").into());
                }
            }
        }
    }

    /// The keepers of private servers.
    fn keepers(&self) -> impl Iterator<Item = usize> + use<> {
        let clickhouse = self.clickhouse.as_ref().map(|(number, _)| *number);
        self.private.as_ref().map(|(number, _)| *number).into_iter().chain(clickhouse)
    }

    /// Closes every link but the keepers'; who does not end by itself is ended.
    async fn end_workers(&mut self) {
        let keepers: Vec<usize> = self.keepers().collect();
        let workers = self.workers.iter_mut().enumerate().filter(|(n, _)| !keepers.contains(n));
        for (number, worker) in workers {
            match self.plan.consumer.is_external() && self.consumers.contains(&number) {
                true => worker.end_within(COMMAND_GRACE).await,
                false => worker.end().await,
            }
        }
    }

    /// Removes what is ours everywhere; one that can't be removed keeps no other from it.
    async fn remove(&mut self) -> Vec<Failure> {
        self.watch = None;
        self.source = None;
        let source = self.release_claim().await.map_err(|failure| {
            let text = format!("database \"{}\" is not removed", self.plan.postgres.database);
            let hint = "`walbench clean --postgres URL` removes it later";
            Failure::new(text).because(failure).hint(hint)
        });
        let destination = self.release_destination().await.map_err(|failure| {
            Failure::new("the database in ClickHouse is not removed")
                .because(failure)
                .hint("`walbench clean --clickhouse URL` removes it later")
        });
        let postgres = match self.private.clone() {
            Some((keeper, server)) => self.end_keeper(keeper, &server.folder).await,
            None => Ok(()),
        };
        let clickhouse = match self.clickhouse.clone() {
            Some((keeper, server)) => self.end_keeper(keeper, &server.folder).await,
            None => Ok(()),
        };
        let failed = [source, destination, postgres, clickhouse].into_iter();
        failed.filter_map(Result::err).collect()
    }

    async fn release_destination(&mut self) -> Result<(), Failure> {
        let beside = match self.ceiling_sink.take() {
            Some(sink) => sink.remove().await,
            None => Ok(()),
        };
        let released = match self.destination.take() {
            Some(destination) => destination.release(self.keep).await,
            None => Ok(()),
        };
        released.and(beside)
    }

    async fn release_claim(&mut self) -> Result<(), Failure> {
        let Some(claim) = self.claim.take() else { return Ok(()) };
        // The whole server goes, unless it is kept.
        if self.private.is_some() && !self.keep {
            return Ok(());
        }
        claim.release(self.keep).await
    }

    /// The server stops in order, and its folder is gone when its keeper is.
    async fn end_keeper(&mut self, keeper: usize, folder: &Path) -> Result<(), Failure> {
        let keeper = &mut self.workers[keeper];
        // It reads this before it sees its link closed, and stops its server in order.
        let _ = keeper.send(&ToAny::Stop).await;
        keeper.end_within(KEEPER_TIMEOUT).await;
        // One that was killed has left its server; nobody else will stop it.
        match folder.exists() {
            true if self.keep => clean::stop_server(folder),
            true => clean::remove_server(folder),
            false => Ok(()),
        }
    }

    /// When a private server dies, whoever is connected to it may say so before its keeper does;
    /// the failure is its.
    async fn blame_the_server(&mut self, stop: Stop) -> Stop {
        let keepers: Vec<usize> = self.keepers().collect();
        let Stop::Failed(failure) = &stop else { return stop };
        if keepers.is_empty() {
            return stop;
        }
        let error = failure.error.clone();
        let deadline = Instant::now() + Duration::from_millis(500);
        while let Ok(Some(event)) = tokio::time::timeout_at(deadline, self.events.recv()).await {
            let is_keepers =
                matches!(&event, Event::Said(n, _) | Event::Broke(n, _) if keepers.contains(n));
            if is_keepers && let Err(Stop::Failed(first)) = self.handle(event) {
                return Stop::Failed(first.because(Failure::new(error)));
            }
        }
        stop
    }

    /// What the tables hold, against what was acknowledged.
    async fn count_rows(&self) -> Vec<TableRows> {
        let Some(source) = &self.source else { return Vec::new() };
        if !self.plan.producer.enabled {
            return Vec::new();
        }
        let counting = source.count_rows(&self.plan.producer.tables);
        let signals = self.interrupts + 1;
        match self.patience.wait("count its rows", COUNT_TIMEOUT, signals, counting).await {
            Ok(counted) => vec![TableRows {
                table: self.plan.producer.tables.join(", "),
                expected: self.rows_left(),
                counted,
            }],
            Err(Stop::Failed(failure)) => {
                self.live.say(&failure.to_string());
                Vec::new()
            }
            Err(Stop::Interrupted) => Vec::new(),
        }
    }

    /// Rows the tables must hold, over all phases and windows.
    fn rows_left(&self) -> u64 {
        let phases = (0..).map_while(|phase| self.tally.phase(phase));
        let counts = phases.flat_map(|phase| phase.producers.values().map(|p| p.counts));
        let (inserts, deletes) =
            counts.fold((0, 0), |(i, d), counts| (i + counts.inserts, d + counts.deletes));
        inserts.saturating_sub(deletes)
    }

    /// Writes what there is to say; `None` when no phase was started.
    fn write_results(
        &mut self,
        left: Left,
        found: Found,
        stop: Option<&Stop>,
    ) -> Result<Option<Metrics>, Failure> {
        let unwritable =
            |e: &dyn std::error::Error| Failure::new("the results can't be written").caused_by(e);
        let json = |value: &serde_json::Value| format!("{value:#}\n");
        let environment = serde_json::to_value(&self.environment).map_err(|e| unwritable(&e))?;
        self.folder.write("environment.json", json(&environment)).map_err(|e| unwritable(&e))?;
        self.samples.flush().map_err(|e| unwritable(&e))?;
        if self.phases.is_empty() {
            return Ok(None);
        }
        let outcome = self.outcome(left, found, stop);
        let metrics = metrics(&self.plan, &self.tally, &outcome, &self.environment);
        let value = serde_json::to_value(&metrics).map_err(|e| unwritable(&e))?;
        self.folder.write("metrics.json", json(&value)).map_err(|e| unwritable(&e))?;
        self.folder.write("SUMMARY.md", summary(&metrics)).map_err(|e| unwritable(&e))?;
        self.draw_ladders(&outcome);
        Ok(Some(metrics))
    }

    /// A picture that can't be written costs no figure.
    fn draw_ladders(&self, outcome: &RunOutcome) {
        let write = |(name, svg): (String, String)| {
            self.folder.subfolder("profiles")?;
            self.folder.write(&name, svg)
        };
        let pictures = ladder_pictures(&self.plan, &self.tally, outcome);
        if let Err(error) = pictures.into_iter().try_for_each(write) {
            let failure = Failure::new("a picture can't be written").caused_by(&error);
            self.live.say(&failure.to_string());
        }
    }

    fn outcome(&mut self, left: Left, found: Found, stop: Option<&Stop>) -> RunOutcome {
        let Left { produced, delivered } = left;
        let (acknowledged, unknown) =
            produced.into_iter().map(|done| (done.acknowledged, done.unknown)).unzip();
        let delivered = delivered.into_iter().map(|d| Delivered {
            ledger: d.ledger,
            duplicated_rows: d.duplicated_rows,
            out_of_order: d.out_of_order,
            unstamped_rows: d.unstamped_rows,
            incomplete_rows: 0,
        });
        RunOutcome {
            run_id: self.folder.id().to_owned(),
            started_at: self.started_at,
            finished_at: jiff::Timestamp::now(),
            phases: std::mem::take(&mut self.phases),
            acknowledged,
            unknown,
            delivered: delivered.collect(),
            table_rows: found.table_rows,
            destination: found.destination,
            ceilings: found.ceilings,
            interrupted: found.interrupted,
            failure: match stop {
                Some(Stop::Failed(failure)) => Some(in_one_line(failure)),
                _ => None,
            },
        }
    }

    fn say_how_it_ended(
        &self,
        stop: Option<Stop>,
        removed: Vec<Failure>,
        written: Result<Option<Metrics>, Failure>,
    ) -> Result<u8, Ending> {
        if let (true, Some((_, server))) = (self.keep, &self.private) {
            let data = server.data();
            self.live.say(&format!("the private server's data is kept in {}", data.display()));
        }
        if let (true, Some((_, server))) = (self.keep, &self.clickhouse) {
            let data = server.data();
            self.live.say(&format!("the private ClickHouse's data is kept in {}", data.display()));
        }
        let mut failures: Vec<Failure> = Vec::new();
        let metrics = written.unwrap_or_else(|failure| {
            failures.push(failure);
            None
        });
        if let Some(metrics) = &metrics {
            ending::print(&terminal(metrics))?;
        }
        self.live.say(&format!("results: {}", self.folder.path().display()));
        let was_stopped = stop.is_some();
        if let Some(Stop::Failed(failure)) = stop {
            failures.insert(0, failure);
        }
        failures.extend(removed);
        if !failures.is_empty() {
            return Err(Ending::components(&failures));
        }
        match metrics {
            _ if was_stopped || self.interrupts > 0 => Err(Ending::interrupted()),
            Some(metrics) => Ok(metrics.verdict.exit_code()),
            None => Ok(0),
        }
    }
}

/// What failed and why, without the ends of logs.
fn in_one_line(failure: &Failure) -> String {
    let causes = failure.causes.iter().filter(|cause| !cause.contains('\n'));
    let words: Vec<&str> =
        std::iter::once(&failure.error).chain(causes).map(String::as_str).collect();
    words.join(": ")
}

//! Who keeps the command: a consumer's life on the link, with another program doing the work.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use walbench_metrics::clock::wall_us;
use walbench_metrics::link::{LinkError, WorkerReader, WorkerWriter};
use walbench_metrics::message::{Finish, PhaseStart, ToWorker};
use walbench_metrics::sample::{
    ConsumerCounts, ConsumerSample, Interval, Lag, Sample, StreamPosition,
};
use walbench_metrics::{Cuts, Failure, Timing, Window};
use walbench_phases::Plan;

use super::command::{Running, filled_in};
use super::ledger::{Ledger, ledger_slot};
use super::probe::Probes;
use super::reckoning::Reckoning;
use super::slot::{News, SlotWatch};
use crate::delivery::Delivered;
use crate::serve::{End, In, Out, Prepare};

/// From one look at whether the command streams to the next.
const START_INTERVAL: Duration = Duration::from_millis(10);

/// A sign of life comes so often at least.
const LIFE_INTERVAL: Duration = Duration::from_secs(1);

/// Samples that may wait to be sent.
const UNSENT: usize = 4;

/// From `Prepare` to the end. The command ends with it, whatever ends it.
pub(crate) async fn converse(
    (worker, prepare): (String, Prepare),
    guard: &[&str],
    reader: &mut WorkerReader,
    writer: &mut WorkerWriter,
) -> Result<(), End> {
    let mut keeper = tokio::select! {
        keeper = Keeper::begin(worker, prepare) => keeper?,
        message = reader.recv::<In>() => return nothing_but_stop(message?),
    };
    keeper.command = Some(keeper.start(guard)?);
    let ended = keeper.keep(reader, writer).await;
    if let Some(mut command) = keeper.command.take() {
        command.stop().await;
    }
    ended
}

fn nothing_but_stop(message: In) -> Result<(), End> {
    match message {
        ToWorker::Stop => Ok(()),
        other => Err(LinkError::unexpected("nothing before Ready", &other).into()),
    }
}

struct Keeper {
    worker: String,
    prepare: Prepare,
    command: Option<Running>,
    slot: SlotWatch,
    probes: Option<Probes>,
    /// Absent while it is read.
    account: Option<(Ledger, Reckoning)>,
    phase: u32,
    /// Absent between phases.
    cuts: Option<Cuts>,
    sampled_us: i64,
}

impl Keeper {
    async fn begin(worker: String, prepare: Prepare) -> Result<Self, Failure> {
        let Prepare { address, plan, slot, clock_correction_us, .. } = &prepare;
        let watch = SlotWatch::begin(address, &worker, slot, *clock_correction_us).await?;
        let probes = match (&plan.consumer.visible_sql, &prepare.clickhouse) {
            (Some(sql), Some(clickhouse)) if prepare.probes => {
                let sql = filled_in(sql, &worker, &prepare)?;
                Some(Probes::begin(address, &worker, clickhouse, sql, *clock_correction_us)?)
            }
            _ => None,
        };
        let ledger = Ledger {
            address: address.clone(),
            application_name: format!("walbench {worker} ledger"),
            slot: ledger_slot(slot),
            publication: prepare.publication.clone(),
            run: prepare.run,
            read_lsn: 0,
        };
        let timings = plan.consumer.record_timings;
        let reckoning = Reckoning::new(&worker, timings, prepare.server_correction_us);
        Ok(Self {
            worker,
            command: None,
            slot: watch,
            probes,
            account: Some((ledger, reckoning)),
            phase: 0,
            cuts: None,
            sampled_us: wall_us() - clock_correction_us,
            prepare,
        })
    }

    fn start(&self, guard: &[&str]) -> Result<Running, Failure> {
        Running::start(guard, &self.worker, &self.prepare)
    }

    fn plan(&self) -> &Plan {
        &self.prepare.plan
    }

    /// The orchestrator's clock now, in µs.
    fn now_us(&self) -> i64 {
        wall_us() - self.prepare.clock_correction_us
    }

    async fn keep(
        &mut self,
        reader: &mut WorkerReader,
        writer: &mut WorkerWriter,
    ) -> Result<(), End> {
        tokio::select! {
            streams = self.until_it_streams() => streams?,
            message = reader.recv::<In>() => return nothing_but_stop(message?),
        }
        writer.send(&Out::Ready).await?;
        loop {
            let cut = self.until_cut();
            tokio::select! {
                message = reader.recv::<In>() => match message? {
                    ToWorker::Start(start) => self.start_phase(start),
                    ToWorker::Finish(finish) => self.finish_phase(finish, reader, writer).await?,
                    ToWorker::Stop => return self.stop(reader, writer).await,
                    other => pong(other, writer).await?,
                },
                failure = ended(&mut self.command) => return Err(End::Failed(failure)),
                () = cut => self.sample(writer).await?,
            }
        }
    }

    async fn until_it_streams(&mut self) -> Result<(), Failure> {
        let limit_sec = self.plan().limits.command_start_sec;
        let deadline = Instant::now() + Duration::from_secs_f64(limit_sec.min(1e9));
        while !self.slot.is_active() {
            tokio::select! {
                failure = ended(&mut self.command) => return Err(failure),
                () = tokio::time::sleep(START_INTERVAL) => {}
            }
            if Instant::now() >= deadline {
                let slot = &self.prepare.slot;
                let text =
                    format!("the command did not stream from slot \"{slot}\" in {limit_sec} s");
                return Err(Failure::new(text).hint(
                    "the slot and the publication exist already, and their names are {slot} and \
                     {publication}; limits.command_start_sec gives it more time",
                ));
            }
        }
        Ok(())
    }

    /// Completes at the next cut; never between phases.
    fn until_cut(&self) -> impl Future<Output = ()> + use<> {
        let now_us = self.now_us();
        let wait_us = self.cuts.map(|cuts| cuts.next_after(now_us) - now_us);
        async move {
            match wait_us {
                None => std::future::pending().await,
                Some(us) => tokio::time::sleep(Duration::from_micros(us.unsigned_abs())).await,
            }
        }
    }

    fn start_phase(&mut self, start: PhaseStart) {
        let PhaseStart { phase, start_us } = start;
        let Some(planned) = self.plan().phases.get(phase as usize) else { return };
        let cuts = Cuts::new(start_us, planned.warmup_sec, planned.duration_sec);
        (self.phase, self.cuts, self.sampled_us) = (phase, Some(cuts), self.now_us());
        if let Some((_, reckoning)) = &mut self.account {
            reckoning.starts(phase, cuts);
        }
        if let Some(probes) = &self.probes {
            probes.write(true);
        }
    }

    /// A sign of life: where the slot is. What was delivered is told when the phase is over.
    async fn sample(&mut self, writer: &mut WorkerWriter) -> Result<(), LinkError> {
        let now_us = self.now_us();
        let start_us = std::mem::replace(&mut self.sampled_us, now_us);
        let window = self.cuts.map_or(Window::Drain, |cuts| cuts.window_at(start_us));
        let confirmed_lsn = self.slot.confirmed_lsn();
        let sample = ConsumerSample {
            worker: self.worker.clone(),
            interval: Interval { phase: self.phase, window, start_us, end_us: now_us },
            counts: ConsumerCounts::default(),
            flush: Timing::default(),
            lag: Lag::default(),
            position: StreamPosition { confirmed_lsn, ..StreamPosition::default() },
            vitals: None,
        };
        send(sample, writer).await
    }

    async fn finish_phase(
        &mut self,
        finish: Finish,
        reader: &mut WorkerReader,
        writer: &mut WorkerWriter,
    ) -> Result<(), End> {
        if let Some(probes) = &self.probes {
            probes.write(false);
            probes.until_all_are_seen().await;
        }
        self.catch_up(reader, writer).await?;
        self.cuts = None;
        writer.send(&Out::Finished { phase: finish.phase }).await?;
        Ok(())
    }

    async fn stop(
        &mut self,
        reader: &mut WorkerReader,
        writer: &mut WorkerWriter,
    ) -> Result<(), End> {
        // It may confirm at its end what it has.
        if let Some(mut command) = self.command.take() {
            command.stop().await;
        }
        self.catch_up(reader, writer).await?;
        let Some((_, reckoning)) = self.account.take() else { return Ok(()) };
        let notes = self.notes(&reckoning);
        let delivered = Delivered { notes, ..reckoning.into_delivered() };
        writer.send(&Out::Done(delivered)).await?;
        Ok(())
    }

    /// What a reader of the results must know.
    fn notes(&self, reckoning: &Reckoning) -> Vec<String> {
        let Some(probes) = &self.probes else { return Vec::new() };
        let unseen = reckoning.unseen();
        let why = probes.problem().map_or(String::new(), |problem| format!(" ({problem})"));
        let note = format!("{unseen} probe rows were confirmed and never seen in ClickHouse{why}");
        (unseen > 0).then_some(note).into_iter().collect()
    }

    /// Reads what was confirmed since the last time, and tells it.
    async fn catch_up(
        &mut self,
        reader: &mut WorkerReader,
        writer: &mut WorkerWriter,
    ) -> Result<(), End> {
        let News { confirmations, reconnects } = self.slot.settled().await;
        let until_lsn = self.slot.confirmed_lsn();
        let Some((mut ledger, mut reckoning)) = self.account.take() else { return Ok(()) };
        reckoning.confirmed(confirmations);
        reckoning.seen(self.probes.as_ref().map(Probes::take).unwrap_or_default());
        let now_us = self.now_us();
        let (told, mut samples) = mpsc::channel(UNSENT);
        // If nobody listens any more, we end.
        let tell = move |sample| drop(told.blocking_send(sample));
        let reading = tokio::task::spawn_blocking(move || {
            let read = ledger.read(until_lsn, |transaction| {
                reckoning.add(transaction).into_iter().for_each(&tell);
            });
            reckoning.reconnected(reconnects, now_us).into_iter().for_each(&tell);
            reckoning.close().into_iter().for_each(&tell);
            (ledger, reckoning, read)
        });
        loop {
            tokio::select! {
                sample = samples.recv() => match sample {
                    Some(sample) => send(sample, writer).await?,
                    None => break,
                },
                message = reader.recv::<In>() => pong(message?, writer).await?,
                () = tokio::time::sleep(LIFE_INTERVAL) => self.sample(writer).await?,
            }
        }
        let died = |e| Failure::new("the reading thread died").caused_by(&e);
        let (ledger, reckoning, read) = reading.await.map_err(died)?;
        self.account = Some((ledger, reckoning));
        Ok(read?)
    }
}

/// The command's end; never, if there is none.
async fn ended(command: &mut Option<Running>) -> Failure {
    match command {
        Some(command) => command.ended().await,
        None => std::future::pending().await,
    }
}

/// Answers a ping; anything else is not due.
async fn pong(message: In, writer: &mut WorkerWriter) -> Result<(), LinkError> {
    match message {
        ToWorker::Ping { sent_us } => writer.send(&Out::Pong { sent_us, now_us: wall_us() }).await,
        other => Err(LinkError::unexpected("Start, Finish or Stop", &other)),
    }
}

async fn send(sample: ConsumerSample, writer: &mut WorkerWriter) -> Result<(), LinkError> {
    writer.send(&Out::Sample(Sample::Consumer(Box::new(sample)))).await
}

//! One phase: load, then drain.

use std::time::Duration;

use tokio::time::Instant;
use walbench_metrics::clock::wall_us;
use walbench_metrics::link::LinkError;
use walbench_metrics::message::{Finish, FromWorker, PhaseStart};
use walbench_metrics::sample::ResourceSample;
use walbench_metrics::{Cuts, Window};
use walbench_results::outcome::{DrainVerdict, PhaseOutcome};

use super::Run;
use super::events::Happening;
use crate::event::Stop;
use crate::event::ToAny;
use crate::profiling;

/// A phase starts this much after it is announced, so that every worker knows of it before.
const LEAD: Duration = Duration::from_millis(200);

/// Producers that were told to finish have this long for what is under way.
const FINISH_TIMEOUT_SEC: f64 = 30.0;

/// Consumers that were told to finish have no more to do than to send their last samples: without one
/// for so long they hang.
const LAST_SAMPLES_TIMEOUT: Duration = Duration::from_secs(20);

/// State of the server that is asked for at the end of a phase may be this late.
const LAST_RESOURCES_TIMEOUT: Duration = Duration::from_secs(3);

impl Run {
    pub(super) async fn run_phase(&mut self, phase: u32) -> Result<(), Stop> {
        self.start_phase(phase).await?;
        let load = self.load(phase).await;
        if let Some(outcome) = self.phases.last_mut() {
            outcome.producers_done_us = load.is_ok().then(wall_us);
        }
        load?;
        self.drain().await?;
        self.end_phase(phase).await
    }

    async fn start_phase(&mut self, phase: u32) -> Result<(), Stop> {
        let wal_start_lsn = self.wal_lsn().await;
        let start_us = wall_us() + i64::try_from(LEAD.as_micros()).unwrap_or_default();
        let planned = &self.plan.phases[phase as usize];
        let cuts = Cuts::new(start_us, planned.warmup_sec, planned.duration_sec);
        self.live.start_phase(planned, phase, start_us);
        self.tally.phase_starts(phase, start_us);
        self.phases.push(PhaseOutcome {
            index: phase,
            started_us: start_us,
            measured_from_us: cuts.measured_us,
            scheduled_end_us: cuts.end_us,
            producers_done_us: None,
            drained_us: None,
            drain: DrainVerdict::Interrupted,
            wal_start_lsn,
            wal_end_lsn: None,
            completed: false,
            profiles: Vec::new(),
            heaps: Vec::new(),
        });
        self.tell_all(&ToAny::Start(PhaseStart { phase, start_us })).await?;
        // What was used between the phases belongs to neither.
        if let Some(watch) = &mut self.watch {
            watch.forget();
        }
        if let Some(profiling) = &self.profiling {
            profiling.forget();
        }
        self.measured_us = start_us.min(wall_us());
        self.cuts = Some((phase, cuts));
        Ok(())
    }

    async fn tell_all(&mut self, message: &ToAny) -> Result<(), Stop> {
        if let Some((number, _)) = self.mock {
            self.tell(number, message).await?;
        }
        for number in self.consumers.start..self.producers.end {
            self.tell(number, message).await?;
            self.workers[number].speaks = true;
        }
        Ok(())
    }

    pub(super) async fn tell(&mut self, number: usize, message: &ToAny) -> Result<(), Stop> {
        let worker = &mut self.workers[number];
        worker.last_heard = Instant::now();
        match worker.send(message).await {
            Ok(()) => Ok(()),
            Err(error) => Err(worker.failed("can't be told anything").caused_by(&error).into()),
        }
    }

    /// Until the producers are done, or, without any, until the phase's time is over.
    async fn load(&mut self, phase: u32) -> Result<(), Stop> {
        let planned = &self.plan.phases[phase as usize];
        let length = LEAD.as_secs_f64() + planned.warmup_sec + planned.duration_sec;
        let mut waiting: Vec<usize> = self.producers.clone().collect();
        let own_clock = waiting.is_empty();
        let patience = self.plan.limits.catch_up_sec + FINISH_TIMEOUT_SEC;
        let mut deadline = Self::after(if own_clock { length } else { length + patience });
        while own_clock || !waiting.is_empty() {
            match self.next(deadline).await? {
                Happening::Said(number, message) => {
                    self.finished(phase, number, &message)?;
                    waiting.retain(|n| *n != number);
                }
                Happening::Interrupted => {
                    for &number in &waiting {
                        self.tell(number, &ToAny::Finish(Finish { phase })).await?;
                    }
                    deadline = Self::after(if own_clock { 0.0 } else { FINISH_TIMEOUT_SEC });
                }
                Happening::TimeUp if own_clock => return Ok(()),
                Happening::TimeUp => {
                    let worker = &self.workers[waiting[0]];
                    return Err(worker.failed("did not finish the phase in time").into());
                }
            }
        }
        Ok(())
    }

    fn finished(
        &mut self,
        phase: u32,
        number: usize,
        message: &crate::event::FromAny,
    ) -> Result<(), Stop> {
        match message {
            FromWorker::Finished { phase: done } if *done == phase => {
                self.workers[number].speaks = false;
                Ok(())
            }
            other => {
                let error = LinkError::unexpected("Finished", other);
                Err(self.workers[number].failed("speaks nonsense").caused_by(&error).into())
            }
        }
    }

    /// Takes our own last sample of the phase, and the consumers'. What these do from here on (who keeps
    /// a command reads back what that has confirmed) is no part of it.
    async fn end_phase(&mut self, phase: u32) -> Result<(), Stop> {
        self.measure();
        let deadline = Instant::now() + LAST_RESOURCES_TIMEOUT;
        let over_us = wall_us();
        self.cuts = None;
        while self.owed_resources > 0 && Instant::now() < deadline {
            let soon = (Instant::now() + Duration::from_millis(5)).min(deadline);
            self.next(soon).await?;
        }
        self.last_samples(phase).await?;
        if let Some(outcome) = self.phases.last_mut() {
            outcome.completed = self.interrupts == 0;
        }
        self.samples.flush()?;
        self.live.end_phase();
        self.write_profiles(over_us);
        Ok(())
    }

    async fn last_samples(&mut self, phase: u32) -> Result<(), Stop> {
        let mut waiting: Vec<usize> = self.consumers.clone().collect();
        for &number in &waiting {
            self.tell(number, &ToAny::Finish(Finish { phase })).await?;
        }
        while let Some(&first) = waiting.first() {
            match self.next(self.workers[first].last_heard + LAST_SAMPLES_TIMEOUT).await? {
                Happening::Said(number, message) => {
                    self.finished(phase, number, &message)?;
                    waiting.retain(|n| *n != number);
                }
                Happening::Interrupted => {}
                Happening::TimeUp if self.is_heard(first, LAST_SAMPLES_TIMEOUT) => {}
                Happening::TimeUp => {
                    let worker = &self.workers[first];
                    return Err(worker.failed("did not send its last samples").into());
                }
            }
        }
        Ok(())
    }

    /// A worker has said something in this time.
    pub(super) fn is_heard(&self, number: usize, within: Duration) -> bool {
        self.workers[number].last_heard.elapsed() < within
    }

    /// Writes the profiles of the phase that was run last, once.
    pub(super) fn write_profiles(&mut self, over_us: i64) {
        let phases = self.phases.len();
        let Some(outcome) = self.phases.last_mut() else { return };
        let Some(planned) = self.plan.phases.get(outcome.index as usize) else { return };
        if std::mem::replace(&mut self.profiled_phases, phases) == phases {
            return;
        }
        let cuts = Cuts {
            start_us: outcome.started_us,
            measured_us: outcome.measured_from_us,
            end_us: outcome.scheduled_end_us,
        };
        let phase = profiling::Phase { name: &planned.name, cuts, over_us };
        outcome.heaps = self.heaps.write(&self.folder, phase);
        let Some(profiling) = &mut self.profiling else { return };
        let tally = self.tally.phase(outcome.index);
        let cpu_us = |window: Window, process: &str| {
            let resources = tally.and_then(|tally| tally.resources.get(&window));
            let of_it = resources.into_iter().flat_map(|resources| &resources.processes);
            of_it.filter(|((_, name), _)| name == process).map(|(_, used)| used.cpu_us).sum()
        };
        outcome.profiles = profiling.write(&self.folder, phase, cpu_us);
    }

    /// Where the server's WAL ends now; `None` when it doesn't say.
    pub(super) async fn wal_lsn(&self) -> Option<u64> {
        let control = &self.source.as_ref()?.control;
        let sql = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint";
        let lsn = tokio::time::timeout(
            Duration::from_secs(2),
            control.value::<i64>("say where its WAL ends", sql),
        );
        u64::try_from(lsn.await.ok()?.ok()?).ok()
    }

    /// The measured window starts where the warm-up's last sample ends.
    pub(super) fn note_wal_start(&mut self, sample: &ResourceSample) {
        let Some((phase, cuts)) = self.cuts else { return };
        let ends_warmup = sample.interval.start_us < cuts.measured_us
            && sample.interval.end_us >= cuts.measured_us;
        let (Some(outcome), Some(state)) = (self.phases.last_mut(), &sample.postgres) else {
            return;
        };
        if ends_warmup && sample.interval.phase == phase {
            outcome.wal_start_lsn = Some(state.wal_lsn);
        }
    }
}

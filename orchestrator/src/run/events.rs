//! What happens is handled here, one event after the other.

use std::time::Duration;

use tokio::time::Instant;
use walbench_metrics::Failure;
use walbench_metrics::clock::wall_us;
use walbench_metrics::link::LinkError;
use walbench_metrics::message::FromWorker;
use walbench_metrics::sample::{Interval, Sample};

use super::Run;
use crate::event::{Event, FromAny, Stop};

/// What [`Run::next`] leaves for its caller to decide.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A worker said something that a step waits for.
    Said(usize, Box<FromAny>),
    /// The user asks for the end.
    Interrupted,
    /// The time is up.
    TimeUp,
}

impl Run {
    /// Waits until something happens that a step waits for, at most until `deadline`. Samples are
    /// recorded, processes measured and silence noticed meanwhile.
    pub(super) async fn next(&mut self, deadline: Instant) -> Result<Happening, Stop> {
        loop {
            let tick = self.next_tick();
            let wake = tick.map_or(deadline, |tick| tick.min(deadline));
            tokio::select! {
                biased;
                event = self.events.recv() => {
                    // The run holds a sender itself: the queue does not end.
                    if let Some(event) = event && let Some(happening) = self.handle(event)? {
                        return Ok(happening);
                    }
                }
                () = tokio::time::sleep_until(wake) => {
                    let now = Instant::now();
                    if tick.is_some_and(|tick| tick <= now) {
                        self.tick()?;
                    }
                    if now >= deadline {
                        return Ok(Happening::TimeUp);
                    }
                }
            }
        }
    }

    /// Handles one event; what is left of it is for the step that waits.
    pub(super) fn handle(&mut self, event: Event) -> Result<Option<Happening>, Stop> {
        match event {
            Event::Interrupt => {
                self.interrupts += 1;
                if self.interrupts > 1 {
                    return Err(Stop::Interrupted);
                }
                self.live.say("interrupted: finishing what was written; once more to stop now");
                Ok(Some(Happening::Interrupted))
            }
            Event::Resources(sample, walsenders) => {
                self.owed_resources = self.owed_resources.saturating_sub(1);
                if let Some(watch) = &mut self.watch {
                    watch.follow_walsenders(&walsenders);
                }
                self.profile_others();
                self.note_wal_start(&sample);
                self.record(&Sample::Resources(sample))?;
                Ok(None)
            }
            Event::Broke(number, _) if self.workers[number].is_done => Ok(None),
            Event::Broke(number, error) => Err(self.broken(number, &error).into()),
            Event::Said(number, message) => self.said(number, *message),
        }
    }

    fn said(&mut self, number: usize, message: FromAny) -> Result<Option<Happening>, Stop> {
        self.workers[number].last_heard = Instant::now();
        match message {
            FromWorker::Sample(sample) => {
                self.record(&sample)?;
                Ok(None)
            }
            FromWorker::Stacks(stacks) => {
                if let Some(profiling) = &self.profiling {
                    profiling.add(self.workers[number].pid, stacks);
                }
                Ok(None)
            }
            FromWorker::Heap(dump) => {
                self.heaps.keep(&self.workers[number].name, dump);
                Ok(None)
            }
            FromWorker::Failed(failure) => Err(self.workers[number].told(failure).into()),
            FromWorker::Pong { .. } => Ok(None),
            message @ FromWorker::Done(_) => {
                self.workers[number].is_done = true;
                Ok(Some(Happening::Said(number, Box::new(message))))
            }
            message => Ok(Some(Happening::Said(number, Box::new(message)))),
        }
    }

    fn record(&mut self, sample: &Sample) -> Result<(), Stop> {
        self.samples.append_sample(sample)?;
        self.tally.add(sample);
        self.live.sample(sample);
        Ok(())
    }

    /// A link that broke, as the failure of its worker.
    fn broken(&mut self, number: usize, error: &LinkError) -> Failure {
        let worker = &mut self.workers[number];
        match error {
            LinkError::Closed | LinkError::Truncated { .. } => match worker.exit_status() {
                Some(status) => worker.failed(&format!("died ({status})")),
                None => worker.failed("closed its link"),
            },
            _ => worker.failed("speaks nonsense").caused_by(error),
        }
    }

    fn next_tick(&self) -> Option<Instant> {
        let (_, cuts) = self.cuts?;
        let now_us = wall_us();
        // A cut that passed while something else was done is made up for at once.
        let wait_us = match cuts.next_after(self.measured_us) {
            due if due <= now_us => 0,
            due => (due - now_us).unsigned_abs(),
        };
        Some(Instant::now() + Duration::from_micros(wait_us))
    }

    fn tick(&mut self) -> Result<(), Stop> {
        self.measure();
        self.live.tick();
        self.check_silence()
    }

    /// Measures the processes from the last time until now.
    pub(super) fn measure(&mut self) {
        let (Some((phase, cuts)), Some(watch)) = (self.cuts, &mut self.watch) else { return };
        let (start_us, end_us) = (self.measured_us, wall_us());
        let window = cuts.window_at(start_us);
        watch.measure(Interval { phase, window, start_us, end_us });
        self.measured_us = end_us;
        self.owed_resources += 1;
    }

    fn check_silence(&self) -> Result<(), Stop> {
        let limit = Duration::from_secs_f64(self.plan.limits.worker_silence_sec.min(1e9));
        let mut speaking = self.workers.iter().filter(|worker| worker.speaks);
        match speaking.find(|worker| worker.last_heard.elapsed() > limit) {
            Some(worker) => {
                let what = format!("hangs: it has said nothing for {} s", limit.as_secs_f64());
                Err(worker.failed(&what).into())
            }
            None => Ok(()),
        }
    }
}

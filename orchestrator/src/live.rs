//! What the user sees while a run goes on: a bar on a terminal, plain lines elsewhere. All of it on
//! standard error; standard output is for the results.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use walbench_metrics::Timing;
use walbench_metrics::sample::{Interval, Sample};
use walbench_phases::Plan;
use walbench_phases::plan::Phase;

use crate::ending;

/// Plain lines come this often; with `--verbose` each second.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The live view.
#[derive(Debug)]
pub(crate) struct Live {
    verbose: bool,
    phases: usize,
    /// walbench itself writes rows.
    writes: bool,
    /// What another program delivers is known when the phase is over.
    is_external: bool,
    bar: Option<ProgressBar>,
    phase: String,
    started: Instant,
    length: Duration,
    /// When the phase starts, in µs. Workers' first samples begin before.
    start_us: i64,
    last_line: Instant,
    second: Second,
}

/// What the samples of about the last second say.
#[derive(Debug, Default)]
struct Second {
    written: Rate,
    delivered: Rate,
    failed: u64,
    lag: Timing,
    backlog_bytes: u64,
}

/// Rows over the time that their samples cover. These come a moment after the tick that they belong
/// to, each worker's in its own.
#[derive(Debug, Default)]
struct Rate {
    rows: u64,
    /// From when to when, in µs.
    covered_us: Option<(i64, i64)>,
}

impl Rate {
    fn add(&mut self, rows: u64, interval: Interval, phase_start_us: i64) {
        self.rows += rows;
        if interval.end_us > phase_start_us {
            let (from, to) = self.covered_us.unwrap_or((i64::MAX, i64::MIN));
            let start_us = interval.start_us.max(phase_start_us);
            self.covered_us = Some((from.min(start_us), to.max(interval.end_us)));
        }
    }

    fn per_second(&self) -> f64 {
        let (from_us, to_us) = self.covered_us.unwrap_or_default();
        self.rows as f64 * 1e6 / ((to_us - from_us) as f64).max(1.0)
    }
}

impl Live {
    pub(crate) fn new(plan: &Plan, verbose: bool) -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::no_length);
        if let Some(bar) = &bar {
            bar.set_style(style("{wide_msg}"));
        }
        Self {
            verbose,
            phases: plan.phases.len(),
            writes: plan.producer.enabled,
            is_external: plan.consumer.is_external(),
            bar,
            phase: String::new(),
            started: Instant::now(),
            length: Duration::ZERO,
            start_us: 0,
            last_line: Instant::now(),
            second: Second::default(),
        }
    }

    /// Says something that matters.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| ending::say(text)),
            None => ending::say(text),
        }
    }

    /// Says a step of the preparation.
    pub(crate) fn step(&self, text: &str) {
        match &self.bar {
            Some(bar) if !self.verbose => bar.set_message(text.to_owned()),
            _ => self.say(text),
        }
    }

    pub(crate) fn start_phase(&mut self, phase: &Phase, index: u32, start_us: i64) {
        self.start_us = start_us;
        self.phase = format!("phase {}/{} {}", index + 1, self.phases, phase.name);
        self.started = Instant::now();
        self.length = Duration::from_secs_f64(phase.warmup_sec + phase.duration_sec);
        self.last_line = Instant::now();
        self.second = Second::default();
        let warmup = match phase.warmup_sec {
            0.0 => String::new(),
            sec => format!(", after {sec} s of warm-up"),
        };
        let load = match self.writes {
            true => format!("{} rows/s", phase.target_throughput),
            false => "what others write".to_owned(),
        };
        let text = format!("{}: {load} for {} s{warmup}", self.phase, phase.duration_sec);
        match &self.bar {
            Some(bar) => {
                bar.set_style(style("{prefix} [{bar:24}]\n{wide_msg}"));
                bar.set_length(self.length.as_millis().try_into().unwrap_or(u64::MAX));
                bar.set_position(0);
                bar.set_prefix(self.phase.clone());
                bar.set_message("");
            }
            None => ending::say(&text),
        }
    }

    pub(crate) fn drain(&self) {
        match &self.bar {
            Some(bar) => bar.set_message("draining"),
            None if self.verbose => ending::say(&format!("{}: draining", self.phase)),
            None => {}
        }
    }

    pub(crate) fn end_phase(&mut self) {
        if self.bar.is_none() && self.verbose {
            ending::say(&format!("{}: over", self.phase));
        }
    }

    /// Takes a sample into the current second.
    pub(crate) fn sample(&mut self, sample: &Sample) {
        let second = &mut self.second;
        match sample {
            Sample::Producer(sample) => {
                second.written.add(sample.counts.rows, sample.interval, self.start_us);
                second.failed += sample.counts.failed_rows;
            }
            Sample::Consumer(sample) => {
                second.delivered.add(sample.counts.rows, sample.interval, self.start_us);
                second.lag.merge(&sample.lag.commit_to_flushed);
            }
            Sample::Resources(sample) => {
                if let Some(state) = &sample.postgres {
                    second.backlog_bytes =
                        state.slots.iter().map(|slot| slot.lag_bytes).max().unwrap_or_default();
                }
            }
        }
    }

    /// Shows the second that has passed.
    pub(crate) fn tick(&mut self) {
        if let Some(bar) = &self.bar {
            let elapsed = self.started.elapsed().min(self.length);
            bar.set_position(elapsed.as_millis().try_into().unwrap_or(u64::MAX));
        }
        let due = match (&self.bar, self.verbose) {
            (Some(_), _) | (None, true) => true,
            (None, false) => self.last_line.elapsed() >= LINE_INTERVAL,
        };
        if !due || self.second.delivered.covered_us.is_none() {
            return;
        }
        let line = self.second.line(self.is_external);
        match &self.bar {
            Some(bar) => bar.set_message(line),
            None => {
                let (now, of) = (self.started.elapsed().as_secs(), self.length.as_secs());
                ending::say(&format!("{} {now}/{of} s: {line}", self.phase));
            }
        }
        self.last_line = Instant::now();
        self.second = Second { backlog_bytes: self.second.backlog_bytes, ..Second::default() };
    }

    /// Takes the bar away.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Second {
    fn line(&self, is_external: bool) -> String {
        let ms = |us: Option<u64>| us.map_or("-".into(), |us| format!("{:.1}", us as f64 / 1e3));
        let failed = match self.failed {
            0 => String::new(),
            rows => format!(" · {rows} rows failed"),
        };
        if is_external {
            let (written, backlog) = (self.written.per_second(), self.backlog_bytes as f64 / 1e6);
            return format!("written {written:.0}/s · not confirmed {backlog:.1} MB{failed}");
        }
        format!(
            "written {:.0}/s · delivered {:.0}/s · lag p50 {} ms, p99 {} ms · backlog {:.1} MB{failed}",
            self.written.per_second(),
            self.delivered.per_second(),
            ms(self.lag.quantile_us(0.5)),
            ms(self.lag.quantile_us(0.99)),
            self.backlog_bytes as f64 / 1e6,
        )
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

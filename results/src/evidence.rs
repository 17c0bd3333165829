//! The numbers that say what limited a phase, taken from its figures.

use walbench_metrics::Window;
use walbench_metrics::sample::Role;

use crate::environment::Environment;
use crate::human;
use crate::limit::{Busiest, Evidence};
use crate::metrics_json::PhaseFigures;
use crate::outcome::DrainVerdict;
use crate::phase_figures::{PhaseSource, ratio};
use crate::verdict::shortfall;

/// Share of the measured rows up to which what is delivered after the window's end is no backlog.
const BACKLOG_SHARE: f64 = 0.05;
/// Seconds' worth of rows up to which it isn't either, beside the time batches wait by design.
const BACKLOG_SEC: f64 = 1.0;

/// What the rules of [`crate::limit`] look at.
pub(crate) fn evidence(
    source: PhaseSource<'_>,
    figures: &PhaseFigures,
    environment: &Environment,
) -> Evidence {
    let PhaseFigures { producer, consumer, .. } = figures;
    let rows = producer.as_ref().map_or(0, |producer| producer.rows) + consumer.rows;
    Evidence {
        measured: rows > 0,
        short: shortfall(source.plan, figures),
        behind: behind(source, figures),
        held: held(figures),
        failed: failed(figures),
        host_cores: host_cores(figures, environment),
        worker_threads: f64::from(environment.worker_threads.max(1)),
        producer: busiest(figures, Role::Producer),
        consumer: busiest(figures, Role::Consumer),
        walsender: busiest(figures, Role::Walsender),
        connections: connections(source, figures),
        flushes: flushes(source, figures),
        backlog: backlog(source),
    }
}

/// How the consumers fell behind: they had more left at the window's end than a pipeline that keeps
/// up has under way.
fn behind(source: PhaseSource<'_>, figures: &PhaseFigures) -> Option<String> {
    let PhaseFigures { duration_sec, consumer, producer, .. } = figures;
    let tally = source.tally.consumers.get(&Window::Measured)?;
    let within = consumer.rows.saturating_sub(tally.rows_after_end);
    // Rows that never came are as far behind as it gets.
    let written = producer.as_ref().map_or(0, |producer| producer.rows) * source.receivers();
    let all = written.max(consumer.rows) as f64;
    let left = all - within as f64;
    let left_sec = ratio(left * duration_sec, all)?;
    if source.outcome.drain == DrainVerdict::TimedOut {
        let limit = human::sec(source.plan.limits.drain_sec);
        return Some(format!("rows had not arrived {limit} after the phase's end"));
    }
    let by_design = source.plan.consumer.flush_interval_ms + source.plan.consumer.mock_delay_ms;
    let fell_behind = left > BACKLOG_SHARE * all && left_sec > BACKLOG_SEC + by_design as f64 / 1e3;
    fell_behind.then(|| {
        format!(
            "the consumers fell behind: at the window's end they had {} of {} rows left, {} of load",
            human::count(left as u64),
            human::count(all as u64),
            human::sec(left_sec)
        )
    })
}

fn held(figures: &PhaseFigures) -> String {
    let drained = match figures.drain_sec {
        Some(sec) => format!("the consumers kept up (drained in {})", human::sec(sec)),
        None => "the consumers kept up".into(),
    };
    match &figures.producer {
        Some(producer) => format!(
            "{} of {} rows/s were held and {drained}",
            human::rate(producer.achieved_throughput),
            human::rate(figures.planned_throughput)
        ),
        None => drained,
    }
}

/// Errors, where they alone make the shortfall.
fn failed(figures: &PhaseFigures) -> Option<String> {
    let producer = figures.producer.as_ref().filter(|producer| producer.failed_rows > 0)?;
    let codes: Vec<String> = producer
        .errors_by_sqlstate
        .iter()
        .map(|(code, count)| format!("{code} × {}", human::count(*count)))
        .collect();
    let rows = human::counted(producer.failed_rows, "row");
    Some(format!("{rows} failed after all attempts (errors: {})", codes.join(", ")))
}

/// Cores used by all processes in the measured window, and the cores there are. Walsenders are
/// part of the server already.
fn host_cores(figures: &PhaseFigures, environment: &Environment) -> Option<(f64, f64)> {
    let shares: Vec<f64> = figures
        .processes
        .iter()
        .filter(|process| process.role != Role::Walsender)
        .filter_map(|process| process.measured_cpu_share)
        .collect();
    let known = environment.machine.logical_cores > 0 && !shares.is_empty();
    known.then(|| (shares.iter().sum(), environment.machine.cores()))
}

fn busiest(figures: &PhaseFigures, role: Role) -> Option<Busiest> {
    figures
        .processes
        .iter()
        .filter(|process| process.role == role)
        .filter_map(|p| Some(Busiest { name: p.name.clone(), cores: p.measured_cpu_share? }))
        .max_by(|a, b| a.cores.total_cmp(&b.cores))
}

/// Share of the connections' time that was spent waiting for PostgreSQL: a connection carries one
/// transaction at a time.
fn connections(source: PhaseSource<'_>, figures: &PhaseFigures) -> Option<(f64, u32)> {
    let producer = figures.producer.as_ref()?;
    let connections = source.plan.producer.connections * source.plan.producer.processes;
    let waited_sec = producer.service_us.mean? / 1e6 * producer.transactions as f64;
    let busy = ratio(waited_sec, f64::from(connections) * source.sending_sec())?;
    Some((busy, connections))
}

/// Share of the time and of the flushes allowed at once in which flushes were under way.
fn flushes(source: PhaseSource<'_>, figures: &PhaseFigures) -> Option<(f64, u32)> {
    let flush = &figures.consumer.flush_us;
    let consumer = &source.plan.consumer;
    let allowed = consumer.max_flush_concurrency * consumer.processes;
    let flushing_sec = flush.mean? / 1e6 * flush.count as f64;
    let drain_sec = match source.outcome.drain {
        DrainVerdict::TimedOut => source.plan.limits.drain_sec,
        _ => figures.drain_sec.unwrap_or_default(),
    };
    let passed_sec = figures.duration_sec + drain_sec;
    Some((ratio(flushing_sec, f64::from(allowed) * passed_sec)?, allowed))
}

fn backlog(source: PhaseSource<'_>) -> Option<(u64, u64)> {
    let postgres = source.tally.resources.get(&Window::Measured)?.postgres.as_ref()?;
    Some((postgres.first_lag.1, postgres.last_lag.1))
}

//! From tally, outcome and environment to the document.

use walbench_phases::Plan;
use walbench_phases::plan::{ClickhouseMode, MockLevel, SynchronousCommit};
use walbench_profiles::doctor::findings;

use crate::ceilings::CeilingFigures;
use crate::environment::Environment;
use crate::human;
use crate::limit::{Component, Limit};
use crate::metrics_json::{Metrics, PhaseFigures, SCHEMA_VERSION, ThresholdResult};
use crate::outcome::{PhaseOutcome, RunOutcome};
use crate::phase_figures::PhaseSource;
use crate::signals::signals;
use crate::tally::Tally;
use crate::thresholds;
use crate::verdict;
use crate::verification::{Verification, verify};

/// Every figure of a run and what is said of it.
#[must_use]
pub fn metrics(
    plan: &Plan,
    tally: &Tally,
    outcome: &RunOutcome,
    environment: &Environment,
) -> Metrics {
    let verification = verify(plan, outcome);
    let ceiling = outcome.ceilings.as_ref().and_then(CeilingFigures::of);
    let (phases, thresholds): (Vec<_>, Vec<_>) = sources(plan, tally, outcome)
        .map(|source| judged_phase(source, environment, ceiling.as_ref(), &verification))
        .unzip();
    let (verdict, reasons) = verdict::run(plan, outcome, &phases, &verification);
    Metrics {
        schema_version: SCHEMA_VERSION,
        run_id: outcome.run_id.clone(),
        name: plan.name.clone(),
        description: plan.description.clone(),
        started_at: outcome.started_at,
        finished_at: outcome.finished_at,
        verdict,
        reasons,
        limit: run_limit(&phases),
        interrupted: outcome.interrupted,
        failure: outcome.failure.clone(),
        notes: notes(plan, tally, environment, &phases),
        phases,
        ceiling,
        verification,
        thresholds: thresholds.concat(),
    }
}

/// What the figures of each phase that started are made of.
pub(crate) fn sources<'a>(
    plan: &'a Plan,
    tally: &'a Tally,
    outcome: &'a RunOutcome,
) -> impl Iterator<Item = PhaseSource<'a>> {
    outcome.phases.iter().filter_map(|phase| source(plan, tally, phase))
}

/// `None` for a phase the plan does not have.
fn source<'a>(
    plan: &'a Plan,
    tally: &'a Tally,
    outcome: &'a PhaseOutcome,
) -> Option<PhaseSource<'a>> {
    let phase = plan.phases.get(outcome.index as usize)?;
    Some(PhaseSource { plan, phase, outcome, tally: tally.phase(outcome.index)? })
}

fn judged_phase(
    source: PhaseSource<'_>,
    environment: &Environment,
    ceiling: Option<&CeilingFigures>,
    verification: &Verification,
) -> (PhaseFigures, Vec<ThresholdResult>) {
    let PhaseSource { plan, outcome, .. } = source;
    let mut figures = source.figures();
    if let Some((ceiling, rows_per_sec)) = ceiling.zip(figures.consumer.throughput) {
        figures.ceiling_shares = ceiling.shares(rows_per_sec);
    }
    let signals = signals(source, &figures, environment);
    figures.findings = findings(&signals);
    let (short, behind) = (signals.short.as_deref(), signals.behind.as_deref());
    figures.limit = Limit::of(&figures.findings, short, behind);
    let thresholds = thresholds::judge(plan, outcome.index, &figures, verification);
    let delivery = verification.phases.iter().find(|d| d.phase == outcome.index);
    (figures.verdict, figures.reasons) =
        verdict::phase(plan, outcome, &figures, delivery, &thresholds);
    (figures, thresholds)
}

/// The first phase that was limited says what limited the run; else the last one, whose load a plan
/// usually makes the highest.
pub(crate) fn limiting_phase(phases: &[PhaseFigures]) -> Option<&PhaseFigures> {
    let measured = || {
        phases.iter().filter(|phase| {
            phase.consumer.rows > 0 || phase.producer.as_ref().is_some_and(|p| p.rows > 0)
        })
    };
    let limited = measured().find(|phase| phase.limit.component != Component::None);
    limited.or_else(|| measured().next_back())
}

fn run_limit(phases: &[PhaseFigures]) -> Limit {
    match limiting_phase(phases) {
        None => Limit { component: Component::Unknown, evidence: "nothing was measured".into() },
        Some(phase) => Limit {
            component: phase.limit.component,
            evidence: format!("phase {}: {}", phase.name, phase.limit.evidence),
        },
    }
}

/// What a reader must know to judge the figures.
fn notes(
    plan: &Plan,
    tally: &Tally,
    environment: &Environment,
    phases: &[PhaseFigures],
) -> Vec<String> {
    let negative: u64 = phases.iter().map(|phase| phase.consumer.negative_lag_samples).sum();
    let mut notes = vec![
        machine(environment),
        durability(plan, environment),
        sink(plan, environment),
        "Rows due in a phase's warm-up are in none of its figures; rows due in its measured \
         window are, however late they were delivered."
            .into(),
        clocks(environment),
    ];
    notes.extend(plan.consumer.is_external().then(|| {
        "consumer.command has the consumer's place: a row is delivered when its slot is confirmed \
         beyond it, which is looked for every 10 ms, and lag is up to then. What the command does not \
         tell (flushes, retries, errors, what came again) is not known, and ClickHouse's tables, which \
         are its own, were not compared with PostgreSQL's. Bytes received are those of the same changes \
         in pgoutput's text form."
            .into()
    }));
    if negative > 0 {
        let samples = human::counted(negative, "lag sample");
        notes.push(format!(
            "{samples} negative: clocks disagree by more than was measured; they are in no \
             percentile."
        ));
    }
    if environment.build_profile == "debug" {
        notes.push("walbench is a debug build: its CPU figures say little.".into());
    }
    if !plan.consumer.record_timings {
        notes.push("Lag and flush times were not recorded (consumer.record_timings).".into());
    }
    if tally.unplaced() > 0 {
        let samples = human::counted(tally.unplaced(), "sample");
        notes.push(format!("{samples} of phases that the plan does not have were left out."));
    }
    notes.extend(environment.allowances.iter().cloned());
    notes
}

fn machine(environment: &Environment) -> String {
    let machine = &environment.machine;
    let servers: Vec<String> =
        environment.servers.iter().map(|s| format!("{} {}", s.name, s.version)).collect();
    let load = machine
        .load_average
        .map_or_else(String::new, |[one, ..]| format!(", load average at the start {one:.2}"));
    format!(
        "Machine: {}, {:.1} cores, {} of memory, kernel {}{load}. walbench {} ({} build). \
         Servers: {}.",
        machine.cpu_model.as_deref().unwrap_or("unknown CPU"),
        machine.cores(),
        human::bytes(machine.memory_bytes),
        machine.kernel.as_deref().unwrap_or("unknown"),
        environment.walbench_version,
        environment.build_profile,
        if servers.is_empty() { "unknown".into() } else { servers.join(", ") },
    )
}

fn durability(plan: &Plan, environment: &Environment) -> String {
    let commit = match plan.postgres.synchronous_commit {
        SynchronousCommit::On => "on",
        SynchronousCommit::Off => "off",
    };
    let fsync = environment.setting("fsync").unwrap_or("unknown");
    let filesystem = match &environment.data_filesystem {
        Some(filesystem) => format!(", data on {filesystem}"),
        None => String::new(),
    };
    format!("Durability: fsync = {fsync}, synchronous_commit = {commit}{filesystem}.")
}

fn sink(plan: &Plan, environment: &Environment) -> String {
    let clickhouse = environment.servers.iter().find(|server| server.name == "ClickHouse");
    if let Some(server) = clickhouse {
        let what = server.description.as_deref().unwrap_or("an existing server");
        return format!("Sink: ClickHouse {}, {what}.", server.version);
    }
    if plan.consumer.is_external() {
        return "Sink: whatever the command writes into.".into();
    }
    let what = match (plan.clickhouse.mode, plan.consumer.mock_level) {
        (ClickhouseMode::Mock, MockLevel::Discard) => "mock, rows are decoded and discarded",
        (ClickhouseMode::Mock, MockLevel::Encode) => {
            "mock, rows are encoded and compressed, no server"
        }
        (ClickhouseMode::Mock, MockLevel::Http) => "mock, a ClickHouse of walbench's own over HTTP",
        (ClickhouseMode::Managed, _) => "a private ClickHouse",
        (ClickhouseMode::Mock, MockLevel::Files) => {
            "mock, rows are encoded and kept as files of RowBinary"
        }
        (ClickhouseMode::Url, _) => "an existing ClickHouse",
    };
    format!("Sink: {what}.")
}

fn clocks(environment: &Environment) -> String {
    let worst = environment.clocks.iter().max_by_key(|(_, clock)| clock.offset_us.abs());
    match worst {
        None => "Clocks: no offset was measured.".into(),
        Some((name, clock)) => format!(
            "Clocks: the largest offset measured is {} µs (± {} µs, {name}).",
            clock.offset_us, clock.uncertainty_us
        ),
    }
}

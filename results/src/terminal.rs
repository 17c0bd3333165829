//! The end of a run on a terminal: plain text, aligned, without colours.

use std::fmt::Write;

use walbench_metrics::ceiling::Contestant;

use crate::ceilings::{CeilingShare, of_lowest, part};
use crate::destination::{Destination, DestinationTable};
use crate::figures::limiting_phase;
use crate::human;
use crate::limit::figure;
use crate::metrics_json::{AreaFigures, Metrics};
use crate::summary::{advice, sentence};

/// Lines at most.
const LINES: usize = 36;
/// Phases shown; a sweep may have more.
const PHASES: usize = 10;
/// Areas of code shown.
const AREAS: usize = 4;
/// Reasons shown.
const REASONS: usize = 6;
/// What to change, shown.
const ADVICE: usize = 2;
/// Findings shown beside the first.
const OTHER_FINDINGS: usize = 2;

/// The run in at most 36 lines.
#[must_use]
pub fn terminal(metrics: &Metrics) -> String {
    let mut text = format!("{}\n", on_one_line(&sentence(metrics)));
    for reason in metrics.reasons.iter().take(REASONS).skip(1) {
        let _ = writeln!(text, "  - {}", on_one_line(reason));
    }
    more(&mut text, metrics.reasons.len(), REASONS, "reason");
    let _ = writeln!(text, "limit: {}", on_one_line(&metrics.limit.evidence));
    advise(&mut text, metrics);
    text.push('\n');
    text.push_str(&phases(metrics));
    more(&mut text, metrics.phases.len(), PHASES, "phase");
    if let Some(profile) = profiled(metrics) {
        let _ = writeln!(text, "\n{profile}");
    }
    if let Some(ceilings) = ceilings(metrics) {
        let _ = writeln!(text, "\n{ceilings}");
    }
    let _ = writeln!(text, "\n{}", verification(metrics));
    let compared_with = metrics.verification.destination.as_ref();
    if let Some(destination) = compared_with.filter(|it| it.is_compared()) {
        let _ = writeln!(text, "{}", compared(destination));
    }
    if !metrics.thresholds.is_empty() {
        let _ = writeln!(text, "{}", thresholds(metrics));
    }
    debug_assert!(text.lines().count() <= LINES, "the parts are bounded");
    text
}

fn more(text: &mut String, all: usize, shown: usize, noun: &str) {
    if let Some(left @ 1..) = all.checked_sub(shown) {
        let _ = writeln!(text, "  … {} more in SUMMARY.md", human::counted(left as u64, noun));
    }
}

/// What the doctor would change for the limit of the run, and what else it found.
fn advise(text: &mut String, metrics: &Metrics) {
    let Some(phase) = limiting_phase(&metrics.phases) else { return };
    let Some((first, others)) = phase.findings.split_first() else { return };
    for change in first.advice.iter().take(ADVICE) {
        let _ = writeln!(text, "  {}", on_one_line(&advice(change)));
    }
    for other in others.iter().take(OTHER_FINDINGS) {
        let figure = other.evidence.first().map(|first| format!(" ({})", figure(first)));
        let said = format!("{}{}", other.said, figure.unwrap_or_default());
        let _ = writeln!(text, "  also: {}", on_one_line(&said));
    }
}

fn phases(metrics: &Metrics) -> String {
    let head = [
        "phase",
        "verdict",
        "target/s",
        "achieved/s",
        "lag p50",
        "lag p99",
        "lag max",
        "response p99",
        "drain",
        "CPU/row",
    ];
    let mut rows = vec![head.map(String::from)];
    rows.extend(metrics.phases.iter().take(PHASES).map(|phase| {
        let lag = &phase.consumer.lag_us.commit_to_flushed;
        let producer = phase.producer.as_ref();
        [
            phase.name.clone(),
            phase.verdict.word().into(),
            human::rate(phase.target_throughput),
            human::rate(producer.and_then(|p| p.achieved_throughput)),
            human::stat(lag.p50),
            human::stat(lag.p99),
            human::stat(lag.max),
            human::stat(producer.and_then(|p| p.response_us.p99)),
            human::sec(phase.drain_sec),
            human::us_per_row(phase.consumer.cpu_us_per_row),
        ]
    }));
    aligned::<10, 2>(&rows)
}

/// Columns as wide as their widest cell, two spaces apart; the first ones to the left, the others,
/// which are numbers, to the right.
pub(crate) fn aligned<const N: usize, const LEFT: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                column if column < LEFT => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

/// Where the CPU time of the last phase's first consumer went, if that is known.
fn profiled(metrics: &Metrics) -> Option<String> {
    let profiles = &metrics.phases.iter().rev().find(|phase| !phase.profiles.is_empty())?.profiles;
    let profile = profiles.first()?;
    let said = match &profile.flaw {
        Some(flaw) => on_one_line(flaw),
        None => {
            let mut areas: Vec<_> = profile.areas.iter().collect();
            areas.sort_by(|a, b| b.share.total_cmp(&a.share));
            let area =
                |area: &&AreaFigures| format!("{} {}", area.area, human::percent(area.share));
            areas.iter().take(AREAS).map(area).collect::<Vec<_>>().join(", ")
        }
    };
    Some(format!("CPU of {}: {said}; flamegraphs in profiles/", profile.process))
}

/// What the parts can do by themselves, and what the phase that is told of used of it.
fn ceilings(metrics: &Metrics) -> Option<String> {
    let shares = &limiting_phase(&metrics.phases)?.ceiling_shares;
    let parts = &metrics.ceiling.as_ref()?.parts;
    let rate = |of: Contestant| parts.iter().find(|part| part.of == of).map(|it| it.rows_per_sec);
    let ceiling =
        |share: &CeilingShare| format!("{} {}", part(share.of), human::rate(rate(share.of)));
    let said: Vec<String> = shares.iter().map(ceiling).collect();
    let said = said.join(", ");
    let phase = limiting_phase(&metrics.phases)?;
    Some(format!("ceilings: {said} rows/s; phase {}: {}", phase.name, of_lowest(phase)?))
}

fn verification(metrics: &Metrics) -> String {
    let seen = &metrics.verification;
    if seen.confirmed_by_command {
        return format!(
            "delivery: {} ({} of {} rows as confirmed by the command, {} lost, {} wrong)",
            seen.verdict.word(),
            human::count(seen.delivered_rows),
            human::count(seen.expected_rows),
            human::count(seen.lost),
            human::count(seen.wrong),
        );
    }
    format!(
        "delivery: {} ({} of {} rows, {} lost, {} wrong, {} again, {} out of order)",
        seen.verdict.word(),
        human::count(seen.delivered_rows),
        human::count(seen.expected_rows),
        human::count(seen.lost),
        human::count(seen.wrong),
        human::count(seen.duplicated),
        human::count(seen.out_of_order),
    )
}

fn compared(destination: &Destination) -> String {
    let sum = |pick: fn(&DestinationTable) -> u64| {
        human::count(destination.tables.iter().map(pick).sum::<u64>())
    };
    if let (Some(problem), true) = (&destination.problem, destination.tables.is_empty()) {
        return format!("ClickHouse: not compared ({})", on_one_line(problem));
    }
    format!(
        "ClickHouse: {} of {} rows as in PostgreSQL ({} missing, {} extra, {} stale, {} wrong, {} conflicting)",
        sum(|t| t.source_rows.saturating_sub(t.missing + t.stale + t.wrong + t.conflicting)),
        sum(|t| t.source_rows),
        sum(|t| t.missing),
        sum(|t| t.extra),
        sum(|t| t.stale),
        sum(|t| t.wrong),
        sum(|t| t.conflicting),
    )
}

fn thresholds(metrics: &Metrics) -> String {
    let count = |met| metrics.thresholds.iter().filter(|result| result.met == met).count();
    format!(
        "thresholds: {} held, {} did not, {} without data",
        count(Some(true)),
        count(Some(false)),
        count(None)
    )
}

fn on_one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_passing_run() {
        insta::assert_snapshot!(terminal(&testing::passing()));
    }

    #[test]
    fn a_failing_run() {
        insta::assert_snapshot!(terminal(&testing::failing()));
    }

    #[test]
    fn an_invalid_run() {
        insta::assert_snapshot!(terminal(&testing::invalid()));
    }

    #[test]
    fn an_interrupted_run() {
        insta::assert_snapshot!(terminal(&testing::interrupted()));
    }

    #[test]
    fn a_long_sweep_still_fits() {
        let (mut metrics, passing) = (testing::failing(), testing::passing());
        metrics.ceiling = passing.ceiling;
        metrics.phases[0].ceiling_shares = passing.phases[0].ceiling_shares.clone();
        metrics.phases = vec![metrics.phases[0].clone(); 200];
        metrics.reasons = vec!["because".into(); 500];
        assert!(terminal(&metrics).lines().count() <= LINES);
    }
}

//! What is said of a phase and of the run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use walbench_phases::Plan;

use crate::human;
use crate::metrics_json::{PhaseFigures, ThresholdResult};
use crate::outcome::{DrainVerdict, PhaseOutcome, RunOutcome};
use crate::thresholds;
use crate::verification::{PhaseDelivery, Verification};

/// What is said of a phase, of the verification or of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything that was asked for held, and there is evidence for it.
    Pass,
    /// Something that was asked for did not hold.
    Fail,
    /// The load was not the one that was asked for, so the figures answer another question.
    Invalid,
    /// Nothing can be said.
    Inconclusive,
}

impl Verdict {
    /// The exit code of a run that ended by itself: 0, 1 or 3. A failed component (4) and an
    /// interruption (130) come before it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Invalid | Self::Inconclusive => 3,
        }
    }

    /// The word that stands in `metrics.json`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Invalid => "invalid",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// Something to be said, and the verdict that follows from it alone.
pub(crate) type Finding = (Verdict, String);

/// The verdict of several findings, the weightiest first: it decides. Nothing found is a pass.
pub(crate) fn decided(findings: Vec<Finding>) -> (Verdict, Vec<String>) {
    let verdict = findings.first().map_or(Verdict::Pass, |(verdict, _)| *verdict);
    (verdict, findings.into_iter().map(|(_, reason)| reason).collect())
}

/// What is said of a phase. Missing rows weigh most, for they are missing at any rate of load; then
/// the load itself, for at another load a threshold says nothing.
pub(crate) fn phase(
    plan: &Plan,
    outcome: &PhaseOutcome,
    figures: &PhaseFigures,
    delivery: Option<&PhaseDelivery>,
    thresholds: &[ThresholdResult],
) -> (Verdict, Vec<String>) {
    let mut findings = drain(plan, outcome, delivery);
    if outcome.ran_to_its_end() {
        findings.extend(load(plan, figures));
        findings.extend(thresholds.iter().filter_map(unmet));
        findings.extend(unmeasured(plan, figures));
    } else {
        // What an unfinished phase left undone is not the generator's fault.
        findings.push((Verdict::Inconclusive, "the phase did not run to its end".into()));
    }
    decided(findings)
}

fn drain(plan: &Plan, outcome: &PhaseOutcome, delivery: Option<&PhaseDelivery>) -> Vec<Finding> {
    if outcome.drain != DrainVerdict::TimedOut {
        return Vec::new();
    }
    let limit = human::sec(plan.limits.drain_sec);
    let arrived = match delivery.map(|delivery| delivery.missing_rows) {
        Some(0) => "all of them arrived later".into(),
        Some(missing) => format!("{} never arrived", human::counted(missing, "row")),
        None => "how many is not known".into(),
    };
    let reason = format!("the drain timed out: rows were missing after {limit} ({arrived})");
    vec![(Verdict::Fail, reason)]
}

fn load(plan: &Plan, figures: &PhaseFigures) -> Vec<Finding> {
    let Some(producer) = &figures.producer else { return Vec::new() };
    let mut reasons = Vec::new();
    if let Some(shortfall) = shortfall(plan, figures) {
        // Where the limit is of the shortfall, its evidence begins with it and says why.
        let why = &figures.limit.evidence;
        reasons.push(if why.starts_with(&shortfall) { why.clone() } else { shortfall });
    }
    if producer.unsent_rows > 0 {
        let rows = human::counted(producer.unsent_rows, "row");
        reasons.push(format!("{rows} due in the measured window were never sent"));
    }
    if producer.failed_rows > 0 {
        let rows = human::counted(producer.failed_rows, "row");
        reasons.push(format!("{rows} failed after all attempts"));
    }
    reasons.into_iter().map(|reason| (Verdict::Invalid, reason)).collect()
}

/// How the generator fell short of its rate by more than the plan tolerates; `None` if it did not,
/// or if it wrote nothing at all.
pub(crate) fn shortfall(plan: &Plan, figures: &PhaseFigures) -> Option<String> {
    let producer = figures.producer.as_ref().filter(|producer| producer.rows > 0)?;
    let percent = producer.shortfall_percent?;
    (percent > plan.limits.rate_tolerance_percent).then(|| {
        format!(
            "the generator fell short by {}: {} of {} rows/s",
            human::percent(percent / 100.0),
            human::rate(producer.achieved_throughput),
            human::rate(figures.planned_throughput),
        )
    })
}

fn unmet(result: &ThresholdResult) -> Option<Finding> {
    let ThresholdResult { name, expression, met, .. } = result;
    match met {
        Some(true) => None,
        Some(false) => {
            let value = thresholds::shown(result);
            let reason = format!("threshold \"{name}\" ({expression}) did not hold: {value}");
            Some((Verdict::Fail, reason))
        }
        None => {
            let reason = format!("threshold \"{name}\" ({expression}) has no data");
            Some((Verdict::Inconclusive, reason))
        }
    }
}

fn unmeasured(plan: &Plan, figures: &PhaseFigures) -> Option<Finding> {
    let reason = if is_idle(plan, figures) {
        "the plan asks for no load in this phase"
    } else if figures.producer.as_ref().is_some_and(|producer| producer.rows == 0) {
        "PostgreSQL acknowledged no row of the measured window"
    } else if figures.consumer.rows == 0 {
        "no row of the measured window was delivered"
    } else {
        return None;
    };
    Some((Verdict::Inconclusive, reason.into()))
}

fn is_idle(plan: &Plan, figures: &PhaseFigures) -> bool {
    plan.producer.enabled && figures.planned_throughput == 0.0
}

/// What is said of the run.
pub(crate) fn run(
    plan: &Plan,
    outcome: &RunOutcome,
    phases: &[PhaseFigures],
    verification: &Verification,
) -> (Verdict, Vec<String>) {
    let verified = |verdict| {
        let reasons = verification.reasons.iter().cloned();
        reasons.filter(move |_| verification.verdict == verdict).map(move |r| (verdict, r))
    };
    let all_idle = phases.iter().all(|phase| is_idle(plan, phase));
    let of_phases = |verdict| {
        // A pause between two loads takes nothing from what is said of these.
        let judged = phases.iter().filter(move |phase| all_idle || !is_idle(plan, phase));
        judged
            .filter(move |phase| phase.verdict == verdict)
            .flat_map(|phase| phase.reasons.iter().map(|r| format!("phase {}: {r}", phase.name)))
            .map(move |reason| (verdict, reason))
    };
    let findings = verified(Verdict::Fail)
        .chain(of_phases(Verdict::Fail))
        .chain(of_phases(Verdict::Invalid))
        .chain(unfinished(plan, outcome).into_iter().map(|r| (Verdict::Inconclusive, r)))
        .chain(of_phases(Verdict::Inconclusive))
        .chain(verified(Verdict::Inconclusive));
    decided(findings.collect())
}

fn unfinished(plan: &Plan, outcome: &RunOutcome) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(failure) = &outcome.failure {
        reasons.push(format!("the run failed: {failure}"));
    }
    if outcome.interrupted {
        reasons.push("the run was interrupted: the figures are partial".into());
    }
    let missing: Vec<&str> = plan
        .phases
        .iter()
        .zip(0u32..)
        .filter(|(_, index)| outcome.phases.iter().all(|phase| phase.index != *index))
        .map(|(phase, _)| phase.name.as_str())
        .collect();
    if !missing.is_empty() {
        reasons.push(format!("not run: {}", missing.join(", ")));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use walbench_phases::plan::Phase;

    use super::*;
    use crate::limit::Component;
    use crate::metrics_json::Metrics;
    use crate::tally::Tally;
    use crate::testing::{self, environment, outcome, passing_samples, plan};

    fn metrics(change: impl FnOnce(&mut Plan, &mut RunOutcome)) -> Metrics {
        let (mut plan, mut outcome) = (plan(), outcome());
        change(&mut plan, &mut outcome);
        let tally = Tally::replay(&plan, &outcome, &passing_samples());
        crate::metrics(&plan, &tally, &outcome, &environment())
    }

    #[test]
    fn each_verdict_has_its_exit_code() {
        let codes = [testing::passing(), testing::failing(), testing::invalid()]
            .map(|metrics| metrics.verdict.exit_code());
        assert_eq!(codes, [0, 1, 3]);
        assert_eq!(testing::interrupted().verdict, Verdict::Inconclusive);
    }

    #[test]
    fn a_pass_has_no_reasons_and_no_limit() {
        let metrics = metrics(|_, _| {});
        assert_eq!((metrics.verdict, metrics.reasons.len()), (Verdict::Pass, 0));
        assert_eq!(metrics.limit.component, Component::None);
    }

    #[test]
    fn a_phase_that_did_not_run_leaves_no_pass() {
        let metrics = metrics(|_, outcome| outcome.phases.truncate(1));
        assert_eq!(metrics.verdict, Verdict::Inconclusive);
        assert_eq!(metrics.reasons, ["not run: peak"]);
    }

    #[test]
    fn a_failed_component_leaves_no_pass() {
        let metrics = metrics(|_, outcome| outcome.failure = Some("consumer-0 died".into()));
        assert_eq!(metrics.verdict, Verdict::Inconclusive);
        assert_eq!(metrics.reasons, ["the run failed: consumer-0 died"]);
    }

    #[test]
    fn a_threshold_without_data_leaves_no_pass() {
        let metrics = metrics(|plan, outcome| {
            plan.thresholds.insert("quick drain".into(), "drain < 10s".into());
            outcome.phases[0].drained_us = None;
        });
        assert_eq!(metrics.verdict, Verdict::Inconclusive);
        let met: Vec<_> = metrics.thresholds.iter().map(|result| result.met).collect();
        assert_eq!(met, [None, Some(true)]);
    }

    #[test]
    fn a_pause_between_loads_takes_nothing_from_them() {
        let metrics = metrics(|plan, outcome| {
            let pause =
                Phase { name: "pause".into(), target_throughput: 0.0, ..plan.phases[0].clone() };
            plan.phases.push(pause);
            outcome.phases.push(PhaseOutcome { index: 2, ..outcome.phases[0].clone() });
        });
        assert_eq!(metrics.phases[2].verdict, Verdict::Inconclusive);
        assert_eq!(metrics.verdict, Verdict::Pass);
    }

    #[test]
    fn loss_weighs_more_than_a_wrong_load() {
        let mut lossy = testing::invalid();
        lossy.verification.verdict = Verdict::Fail;
        lossy.verification.reasons = vec!["rows are gone".into()];
        let (verdict, reasons) = run(&plan(), &outcome(), &lossy.phases, &lossy.verification);
        assert_eq!((verdict, reasons[0].as_str()), (Verdict::Fail, "rows are gone"));
        assert_eq!(reasons.len(), 2);
    }

    #[test]
    fn missing_rows_at_the_end_of_the_drain_fail_the_phase() {
        let failing = testing::failing();
        assert_eq!(failing.phases[1].verdict, Verdict::Fail);
        assert!(failing.phases[1].reasons[0].starts_with("the drain timed out"));
        assert_ne!(failing.phases[1].limit.component, Component::None);
    }
}

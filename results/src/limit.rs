//! What limited a phase or a run: the weightiest of the doctor's findings, in a sentence.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use walbench_profiles::doctor::{Cause, Figure, Finding, Unit};

use crate::human;

/// Figures of a finding that stand in the sentence.
const FIGURES: usize = 2;

/// What limited a phase or a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Limit {
    /// Which part.
    pub component: Component,
    /// The numbers that say so, in a sentence.
    pub evidence: String,
}

/// A part of the pipeline that can be the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// Nothing: the target was held and the consumers kept up.
    None,
    /// The producers themselves.
    Producer,
    /// PostgreSQL's answers: every connection waited for one, or they were errors.
    Postgres,
    /// A walsender.
    Walsender,
    /// The way from there to a consumer.
    Network,
    /// The consumers.
    Consumer,
    /// The sink.
    Sink,
    /// The machine had no CPU left.
    HostCpu,
    /// No rule explains it.
    Unknown,
}

impl Component {
    fn of(cause: Cause) -> Self {
        match cause {
            Cause::Healthy => Self::None,
            Cause::HarnessBound => Self::Producer,
            Cause::WriteErrors | Cause::DiskWal | Cause::ProducerBound => Self::Postgres,
            Cause::WalsenderBound | Cause::WalsenderSpill => Self::Walsender,
            Cause::Network | Cause::Disconnected => Self::Network,
            Cause::StarvedRuntime
            | Cause::DecodeCpu
            | Cause::ConsumerBound
            | Cause::ConfirmStall
            | Cause::MemoryGrowth => Self::Consumer,
            Cause::SinkBound => Self::Sink,
            Cause::HostCpu => Self::HostCpu,
            Cause::Unknown | Cause::NoData => Self::Unknown,
        }
    }
}

impl Limit {
    /// The first of the findings, and before it what it explains: that the generator fell short, or
    /// that the consumers fell behind.
    pub(crate) fn of(findings: &[Finding], short: Option<&str>, behind: Option<&str>) -> Self {
        let Some(first) = findings.first() else {
            return Self { component: Component::Unknown, evidence: "nothing was measured".into() };
        };
        let figures = first.evidence.iter().take(FIGURES).map(figure).collect::<Vec<_>>();
        let why = match figures.is_empty() {
            true => first.said.clone(),
            false if first.cause == Cause::Healthy => {
                format!("{}; {}", first.said, figures.join(", "))
            }
            false => format!("{} ({})", first.said, figures.join(", ")),
        };
        let what = match first.cause {
            Cause::NoData => None,
            // What explains both is told of the generator: without its rate the rest says little.
            cause if cause.explains_behind() && !cause.explains_short() => behind.or(short),
            _ => short.or(behind),
        };
        let evidence = match what {
            Some(what) => format!("{what}: {why}"),
            None => why,
        };
        Self { component: Component::of(first.cause), evidence }
    }
}

/// A figure as a reader wants it, without its threshold.
pub(crate) fn figure(figure: &Figure) -> String {
    format!("{}: {}", figure.name, value(figure.value, figure.unit))
}

/// A figure with the threshold that it was held against.
pub(crate) fn weighed_figure(weighed: &Figure) -> String {
    match weighed.threshold {
        Some(threshold) => {
            format!("{} (threshold {})", figure(weighed), value(threshold, weighed.unit))
        }
        None => figure(weighed),
    }
}

fn value(value: f64, unit: Unit) -> String {
    let bytes = |bytes: f64| human::bytes(bytes.max(0.0) as u64);
    match unit {
        Unit::Share => human::percent(value),
        Unit::Cores => format!("{value:.2} cores"),
        Unit::Bytes => bytes(value),
        Unit::BytesPerSec => format!("{}/s", bytes(value)),
        Unit::Us => human::us(value),
        Unit::Sec => human::sec(value),
        Unit::Count => human::count(value.max(0.0) as u64),
        Unit::Times => format!("{value:.1} times"),
    }
}

#[cfg(test)]
mod tests {
    use walbench_profiles::doctor::Confidence;

    use super::*;

    fn found(cause: Cause) -> Finding {
        Finding {
            cause,
            is_limit: true,
            confidence: Confidence::High,
            said: "this is why".into(),
            evidence: Vec::new(),
            advice: Vec::new(),
        }
    }

    #[test]
    fn a_reason_is_told_of_what_it_explains() {
        let limit = |cause, short, behind| Limit::of(&[found(cause)], short, behind).evidence;
        let both = |cause| limit(cause, Some("short"), Some("behind"));
        assert_eq!(both(Cause::ProducerBound), "short: this is why");
        assert_eq!(both(Cause::SinkBound), "behind: this is why");
        assert_eq!(both(Cause::HostCpu), "short: this is why");
        assert_eq!(limit(Cause::HostCpu, None, Some("behind")), "behind: this is why");
        assert_eq!(limit(Cause::Healthy, None, None), "this is why");
    }
}

//! What limited a phase: small rules over measured numbers. Each says its numbers, and where none
//! fits the answer is `unknown`, never a guess.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::human;

/// Share of its cores from which a process is CPU-bound.
const BUSY_CPU: f64 = 0.9;
/// Share of the machine's cores from which the machine has none left.
const BUSY_HOST: f64 = 0.95;
/// Share of the time from which all connections wait for PostgreSQL.
const BUSY_CONNECTIONS: f64 = 0.9;
/// Share of the time from which all flushes a consumer may have under way are under way.
const BUSY_FLUSHES: f64 = 0.8;

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
    /// CPU of the producers.
    Producer,
    /// PostgreSQL's answers: every connection waited for one, or they were errors.
    Postgres,
    /// A walsender's CPU.
    Walsender,
    /// CPU of the consumers.
    Consumer,
    /// The sink: flushes were under way all the time.
    Sink,
    /// The machine had no CPU left.
    HostCpu,
    /// No rule explains it.
    Unknown,
}

/// A process and its CPU share in the measured window, in cores.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Busiest {
    pub(crate) name: String,
    pub(crate) cores: f64,
}

/// The numbers the rules look at. Absent: not measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Evidence {
    /// Anything was measured at all.
    pub(crate) measured: bool,
    /// How the generator fell short, in a sentence; `None` when it held the rate.
    pub(crate) short: Option<String>,
    /// How the consumers fell behind, in a sentence; `None` when they kept up.
    pub(crate) behind: Option<String>,
    /// What was held, in a sentence.
    pub(crate) held: String,
    /// Failed rows and their errors, in a sentence.
    pub(crate) failed: Option<String>,
    /// Cores that all processes together used, and that there are.
    pub(crate) host_cores: Option<(f64, f64)>,
    /// Threads of a worker.
    pub(crate) worker_threads: f64,
    /// The producer with the most CPU.
    pub(crate) producer: Option<Busiest>,
    /// The consumer with the most CPU.
    pub(crate) consumer: Option<Busiest>,
    /// The walsender with the most CPU.
    pub(crate) walsender: Option<Busiest>,
    /// Share of the producers' connections that waited for PostgreSQL, and how many there are.
    pub(crate) connections: Option<(f64, u32)>,
    /// Share of the flushes that consumers may have under way that were, and how many these are.
    pub(crate) flushes: Option<(f64, u32)>,
    /// The largest slot's lag at the start and at the end of the measured window, in bytes.
    pub(crate) backlog: Option<(u64, u64)>,
}

impl Evidence {
    /// What limited the phase.
    pub(crate) fn limit(&self) -> Limit {
        let (component, evidence) = match (&self.short, &self.behind) {
            _ if !self.measured => (Component::Unknown, "nothing was measured".into()),
            (Some(short), _) => explained(short, self.generator()),
            (None, Some(behind)) => explained(behind, self.pipeline()),
            (None, None) => (Component::None, self.held.clone()),
        };
        Limit { component, evidence }
    }

    /// Why the generator fell short.
    fn generator(&self) -> Option<(Component, String)> {
        self.failed
            .clone()
            .map(|errors| (Component::Postgres, errors))
            .or_else(|| self.host())
            .or_else(|| self.worker(self.producer.as_ref(), Component::Producer))
            .or_else(|| self.answers())
    }

    /// Why the consumers fell behind.
    fn pipeline(&self) -> Option<(Component, String)> {
        self.host()
            .or_else(|| self.sink())
            .or_else(|| self.worker(self.consumer.as_ref(), Component::Consumer))
            .or_else(|| self.walsender())
    }

    fn host(&self) -> Option<(Component, String)> {
        let (used, there) = self.host_cores?;
        (used >= BUSY_HOST * there).then(|| {
            let text = format!("all processes together used {used:.2} of {there} cores");
            (Component::HostCpu, text)
        })
    }

    fn worker(
        &self,
        busiest: Option<&Busiest>,
        component: Component,
    ) -> Option<(Component, String)> {
        let Busiest { name, cores } = busiest?;
        let threads = self.worker_threads;
        (*cores >= BUSY_CPU * threads).then(|| {
            let text = format!("{name} used {cores:.2} cores of the {threads} it works with");
            (component, text)
        })
    }

    fn answers(&self) -> Option<(Component, String)> {
        let (busy, connections) = self.connections?;
        (busy >= BUSY_CONNECTIONS).then(|| {
            let share = human::percent(busy.min(1.0));
            let connections = human::counted(connections.into(), "connection");
            let text = format!("{connections} waited for PostgreSQL's answers {share} of the time");
            (Component::Postgres, text)
        })
    }

    fn sink(&self) -> Option<(Component, String)> {
        let (busy, flushes) = self.flushes?;
        (busy >= BUSY_FLUSHES).then(|| {
            let share = human::percent(busy.min(1.0));
            let text = format!("of {flushes} flushes allowed at once {share} were under way");
            (Component::Sink, text)
        })
    }

    fn walsender(&self) -> Option<(Component, String)> {
        let Busiest { name, cores } = self.walsender.as_ref()?;
        let (first, last) = self.backlog?;
        (*cores >= BUSY_CPU && last > first).then(|| {
            let (first, last) = (human::bytes(first), human::bytes(last));
            let text = format!(
                "{name} used {cores:.2} of the one core it can use while the slot's lag grew from \
                 {first} to {last}"
            );
            (Component::Walsender, text)
        })
    }
}

fn explained(what: &str, why: Option<(Component, String)>) -> (Component, String) {
    match why {
        Some((component, why)) => (component, format!("{what}: {why}")),
        None => (Component::Unknown, format!("{what}, and no rule explains it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(name: &str, cores: f64) -> Option<Busiest> {
        Some(Busiest { name: name.into(), cores })
    }

    fn evidence() -> Evidence {
        Evidence {
            measured: true,
            held: "all was held".into(),
            host_cores: Some((1.2, 4.0)),
            worker_threads: 1.0,
            producer: busy("producer-0", 0.3),
            consumer: busy("consumer-0", 0.3),
            walsender: busy("walsender-0", 0.3),
            connections: Some((0.5, 8)),
            flushes: Some((0.2, 4)),
            backlog: Some((1_000, 90_000_000)),
            ..Evidence::default()
        }
    }

    fn component(change: impl FnOnce(&mut Evidence)) -> Component {
        let mut evidence = evidence();
        change(&mut evidence);
        evidence.limit().component
    }

    fn short(evidence: &mut Evidence) {
        evidence.short = Some("the generator fell short".into());
    }

    fn behind(evidence: &mut Evidence) {
        evidence.behind = Some("the consumers fell behind".into());
    }

    #[test]
    fn a_held_target_has_no_limit_however_busy_things_were() {
        let found = component(|e| e.producer = busy("producer-0", 1.0));
        assert_eq!(found, Component::None);
        assert_eq!(component(|e| e.measured = false), Component::Unknown);
    }

    #[test]
    fn a_shortfall_is_looked_for_on_the_writing_side() {
        let short_and = |change: fn(&mut Evidence)| {
            component(|e| {
                short(e);
                change(e);
            })
        };
        assert_eq!(short_and(|_| {}), Component::Unknown);
        assert_eq!(short_and(|e| e.flushes = Some((1.0, 4))), Component::Unknown);
        assert_eq!(short_and(|e| e.producer = busy("producer-0", 0.95)), Component::Producer);
        assert_eq!(short_and(|e| e.connections = Some((0.97, 8))), Component::Postgres);
        assert_eq!(short_and(|e| e.host_cores = Some((3.9, 4.0))), Component::HostCpu);
        assert_eq!(short_and(|e| e.failed = Some("disk full".into())), Component::Postgres);
    }

    #[test]
    fn a_backlog_is_looked_for_on_the_reading_side() {
        let behind_and = |change: fn(&mut Evidence)| {
            component(|e| {
                behind(e);
                change(e);
            })
        };
        assert_eq!(behind_and(|_| {}), Component::Unknown);
        assert_eq!(behind_and(|e| e.flushes = Some((0.9, 4))), Component::Sink);
        assert_eq!(behind_and(|e| e.consumer = busy("consumer-0", 0.95)), Component::Consumer);
        assert_eq!(behind_and(|e| e.walsender = busy("walsender-0", 0.95)), Component::Walsender);
    }

    #[test]
    fn a_walsender_without_a_growing_backlog_is_not_blamed() {
        let found = component(|e| {
            behind(e);
            e.walsender = busy("walsender-0", 0.95);
            e.backlog = Some((5_000, 5_000));
        });
        assert_eq!(found, Component::Unknown);
    }

    #[test]
    fn the_numbers_stand_in_the_sentence() {
        let mut evidence = evidence();
        short(&mut evidence);
        evidence.connections = Some((0.97, 8));
        insta::assert_snapshot!(evidence.limit().evidence, @"the generator fell short: 8 connections waited for PostgreSQL's answers 97 % of the time");
    }
}

//! Ceilings: what each part of the way can do by itself, and how much of that a phase used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use walbench_metrics::ceiling::{Ceilings, Contestant, SinkAlone, Turn};

use crate::human;
use crate::metrics_json::PhaseFigures;

/// What each part of the way can do by itself, measured after the last phase with the run's own first
/// rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CeilingFigures {
    /// Rounds, in each of which all had a turn.
    pub rounds: u64,
    /// Row versions that a reader read in a turn.
    pub rows: u64,
    /// There were more behind them: they are the first alone.
    pub is_bounded: bool,
    /// What was measured as the sink by itself, in a sentence; `null` where it was not.
    pub sink: Option<String>,
    /// Row versions whose blocks the sink was given; fewer where they did not fit into memory.
    pub sink_rows: Option<u64>,
    /// Each part.
    pub parts: Vec<PartCeiling>,
}

/// What one part can do by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartCeiling {
    /// `eager_reader` and `late_reader` (the walsender, for a reader that does nothing else, as soon as
    /// there is anything or late and large), `consumer` (without a sink) or `sink` (with the consumer's
    /// blocks from memory).
    #[schemars(with = "String")]
    pub of: Contestant,
    /// The median of all rounds.
    pub rows_per_sec: f64,
    /// The slowest round.
    pub rows_per_sec_min: f64,
    /// The fastest round.
    pub rows_per_sec_max: f64,
    /// The median of the CPU time of the process that reads, or that gives the sink its blocks.
    pub cpu_us_per_row: f64,
}

/// How much of a ceiling a phase used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CeilingShare {
    /// The part, as in `ceiling.parts`; of the two readers the faster one, which is what the walsender
    /// can send.
    #[schemars(with = "String")]
    pub of: Contestant,
    /// Rows/s that were delivered in the phase's window, over those that the part can do.
    pub share: f64,
}

impl CeilingFigures {
    /// Of what was measured; `None` where nothing was.
    #[must_use]
    pub fn of(ceilings: &Ceilings) -> Option<Self> {
        let turns = |of: Contestant| {
            let all = ceilings.rounds.iter().flatten();
            all.filter(move |(who, turn)| *who == of && turn.rows > 0 && turn.seconds > 0.0)
                .map(|(_, turn)| *turn)
        };
        let all = [
            Contestant::EagerReader,
            Contestant::LateReader,
            Contestant::Consumer,
            Contestant::Sink,
        ];
        let parts: Vec<_> = all.into_iter().filter_map(|it| measured(it, turns(it))).collect();
        let rows = turns(Contestant::LateReader).map(|turn| turn.rows).max();
        let sink = ceilings.sink.as_ref();
        (!parts.is_empty()).then(|| Self {
            rounds: ceilings.rounds.len() as u64,
            rows: rows.unwrap_or_default(),
            is_bounded: ceilings.is_bounded,
            sink: sink.map(|SinkAlone { said, .. }| said.clone()),
            sink_rows: sink.map(|SinkAlone { rows, .. }| *rows),
            parts,
        })
    }

    /// What is used of each part at so many rows a second, the lowest ceiling first.
    pub(crate) fn shares(&self, rows_per_sec: f64) -> Vec<CeilingShare> {
        let is_reader =
            |it: &&PartCeiling| matches!(it.of, Contestant::EagerReader | Contestant::LateReader);
        let readers = self.parts.iter().filter(is_reader);
        let walsender = readers.max_by(|a, b| a.rows_per_sec.total_cmp(&b.rows_per_sec));
        let others = self.parts.iter().filter(|it| !is_reader(it));
        let share = |part: &PartCeiling| CeilingShare {
            of: part.of,
            share: rows_per_sec / part.rows_per_sec,
        };
        let mut shares: Vec<_> = walsender.into_iter().chain(others).map(share).collect();
        shares.sort_by(|a, b| b.share.total_cmp(&a.share));
        shares
    }

    /// A table for a terminal, and what it is of.
    #[must_use]
    pub fn text(&self) -> String {
        let mut rows = vec![["", "rows/s", "least", "most", "CPU/row"].map(String::from)];
        rows.extend(self.parts.iter().map(PartCeiling::cells));
        let sink = self.sink.as_ref().map(|said| format!("\nsink: {said}")).unwrap_or_default();
        format!("{}{}{sink}\n", crate::terminal::aligned::<5, 1>(&rows), self.what())
    }

    /// What was measured, in sentences.
    pub(crate) fn what(&self) -> String {
        let rounds = human::counted(self.rounds, "interleaved round");
        let which = match self.is_bounded {
            true => "the first ones, with more behind them",
            false => "all there were",
        };
        let mut text = format!(
            "Medians of {rounds}, each with the same {} ({which}); CPU of the process that reads or \
             sends, without the server's.",
            human::counted(self.rows, "row")
        );
        if let Some(rows) = self.sink_rows.filter(|rows| *rows < self.rows) {
            text += &format!(" The sink has the first {}.", human::counted(rows, "row"));
        }
        text
    }
}

impl PartCeiling {
    /// Its name and figures.
    pub(crate) fn cells(&self) -> [String; 5] {
        let rates = [self.rows_per_sec, self.rows_per_sec_min, self.rows_per_sec_max];
        let [median, least, most] = rates.map(human::rate);
        let cpu = human::us_per_row(Some(self.cpu_us_per_row));
        [name(self.of).into(), median, least, most, cpu]
    }
}

fn measured(of: Contestant, turns: impl Iterator<Item = Turn>) -> Option<PartCeiling> {
    let (mut rates, mut costs): (Vec<_>, Vec<_>) =
        turns.map(|it| (it.rows as f64 / it.seconds, it.cpu_us as f64 / it.rows as f64)).unzip();
    let rows_per_sec = median(&mut rates)?;
    Some(PartCeiling {
        of,
        rows_per_sec,
        rows_per_sec_min: *rates.first()?,
        rows_per_sec_max: *rates.last()?,
        cpu_us_per_row: median(&mut costs)?,
    })
}

/// Sorts them.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values[values.len() / 2]);
    Some(f64::midpoint(*low, high))
}

/// What was measured.
fn name(of: Contestant) -> &'static str {
    match of {
        Contestant::EagerReader => "walsender, read eagerly",
        Contestant::LateReader => "walsender, read late and large",
        Contestant::Consumer => "consumer, without a sink",
        Contestant::Sink => "sink, blocks from memory",
    }
}

/// Whose ceiling it is, in a word.
pub(crate) fn part(of: Contestant) -> &'static str {
    match of {
        Contestant::EagerReader | Contestant::LateReader => "walsender",
        Contestant::Consumer => "consumer",
        Contestant::Sink => "sink",
    }
}

/// What a share is of.
pub(crate) fn can_do(of: Contestant) -> &'static str {
    match of {
        Contestant::EagerReader | Contestant::LateReader => "what the walsender can send",
        Contestant::Consumer => "what the consumer can do without a sink",
        Contestant::Sink => "what the sink can take",
    }
}

/// A phase's share of the lowest ceiling, in words; `None` without ceilings.
pub(crate) fn of_lowest(phase: &PhaseFigures) -> Option<String> {
    let lowest = phase.ceiling_shares.first()?;
    Some(format!("{} of {}", human::percent(lowest.share), can_do(lowest.of)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn turn(rows_per_sec: u64, cpu_us_per_row: u64) -> Turn {
        let rows = 50_000;
        Turn { rows, seconds: rows as f64 / rows_per_sec as f64, cpu_us: cpu_us_per_row * rows }
    }

    #[test]
    fn figures_are_medians_with_their_spread() {
        let figures = CeilingFigures::of(&testing::ceilings()).unwrap();
        assert_eq!((figures.rounds, figures.rows, figures.sink_rows), (3, 50_000, Some(20_000)));
        let of = |of: Contestant| figures.parts.iter().find(|part| part.of == of).unwrap();
        let eager = of(Contestant::EagerReader);
        let rates = [eager.rows_per_sec, eager.rows_per_sec_min, eager.rows_per_sec_max];
        assert_eq!(rates.map(f64::round), [100_000.0, 80_000.0, 125_000.0]);
        assert!((eager.cpu_us_per_row - 2.0).abs() < 1e-9);
        insta::assert_snapshot!(figures.text());
    }

    #[test]
    fn the_walsender_is_what_its_better_reader_reads() {
        let figures = CeilingFigures::of(&testing::ceilings()).unwrap();
        let shares = figures.shares(10_000.0);
        let of: Vec<_> = shares.iter().map(|it| (it.of, (it.share * 100.0).round())).collect();
        let expected =
            [(Contestant::Sink, 25.0), (Contestant::Consumer, 10.0), (Contestant::LateReader, 5.0)];
        assert_eq!(of, expected);
    }

    #[test]
    fn a_turn_that_did_nothing_is_none() {
        let idle = Turn { rows: 0, seconds: 0.0, cpu_us: 9 };
        let of = |turns: &[Turn]| {
            let rounds = turns.iter().map(|turn| vec![(Contestant::Consumer, *turn)]).collect();
            CeilingFigures::of(&Ceilings { rounds, ..Ceilings::default() })
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[idle]), None);
        let figures = of(&[turn(1_000, 1), idle, turn(3_000, 1)]).unwrap();
        assert_eq!(figures.parts[0].rows_per_sec.round(), 2_000.0);
        assert_eq!((figures.sink, figures.sink_rows), (None, None));
    }
}

//! The ladder as a picture: how far behind each part of the pipeline is, and what the consumer does
//! meanwhile.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use walbench_metrics::vitals::ReceiverTime;
use walbench_phases::Plan;

use crate::ladder::{Rungs, Step};
use crate::phase_figures::PhaseSource;
use crate::tally::Tally;
use crate::{RunOutcome, figures};

const SIZE: (u32, u32) = (1_100, 680);
const LEGEND_WIDTH: u32 = 190;

/// Colours that are told apart also by those who see few: <https://jfly.uni-koeln.de/color/>.
const COLORS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(240, 228, 66),
    RGBColor(230, 159, 0),
    RGBColor(213, 94, 0),
];
const LINE: RGBColor = RGBColor(0, 0, 0);

/// The parts of what is behind, from PostgreSQL to the slot.
const BEHIND: [&str; 5] = [
    "not sent by PostgreSQL",
    "sent, not received",
    "received, not decoded",
    "decoded, not durable",
    "durable, not confirmed",
];

/// What is known of another program beside the first of them.
const SENT_AND_NOT_CONFIRMED: &str = "sent, not confirmed";

/// What a receiving thread does.
const DOES: [&str; 5] = [
    "waits for data",
    "lets data pile up",
    "reads, decodes, encodes",
    "has no room for more",
    "has no connection",
];

/// The pictures of a run, with their places in its folder: one for each phase and consumer. None
/// without the doctor.
#[must_use]
pub fn ladder_pictures(plan: &Plan, tally: &Tally, outcome: &RunOutcome) -> Vec<(String, String)> {
    let draw = |source: PhaseSource<'_>| {
        let drawn = pictured(source).into_iter().filter_map(|(consumer, steps)| {
            Some((place(source, consumer), draw(source, consumer, &steps)?))
        });
        drawn.collect::<Vec<_>>()
    };
    figures::sources(plan, tally, outcome).flat_map(draw).collect()
}

/// The places of a phase's pictures.
pub(crate) fn places(source: PhaseSource<'_>) -> Vec<String> {
    pictured(source).into_iter().map(|(consumer, _)| place(source, consumer)).collect()
}

fn place(source: PhaseSource<'_>, consumer: u32) -> String {
    format!("profiles/{}-consumer-{consumer}-ladder.svg", source.phase.name)
}

/// Whom there is a picture of: two steps make a line.
fn pictured(source: PhaseSource<'_>) -> Vec<(u32, Vec<(f64, Step)>)> {
    let is_wanted = source.plan.profiling.wants_doctor();
    let consumers = source.tally.ladder.consumers();
    consumers.filter(|(_, steps)| is_wanted && steps.len() > 1).collect()
}

fn draw(source: PhaseSource<'_>, consumer: u32, steps: &[(f64, Step)]) -> Option<String> {
    let outcome = source.outcome;
    let since_start = |us: i64| (us - outcome.started_us) as f64 / 1e6;
    let measured_sec = since_start(outcome.measured_from_us)..since_start(outcome.scheduled_end_us);
    let title = format!("{}, consumer-{consumer}", source.phase.name);
    let is_external = source.plan.consumer.is_external();
    Picture { title: &title, steps, measured_sec, is_external }.draw()
}

/// One consumer in one phase.
struct Picture<'a> {
    /// What it shows.
    title: &'a str,
    /// Seconds from the phase's start, and what was then; in their order.
    steps: &'a [(f64, Step)],
    /// The measured window, in the same seconds.
    measured_sec: Range<f64>,
    /// Another program than walbench, of which PostgreSQL's side alone is known.
    is_external: bool,
}

type Area<'b> = DrawingArea<SVGBackend<'b>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

impl Picture<'_> {
    /// The picture as SVG; `None` where there are not two steps.
    fn draw(&self) -> Option<String> {
        let (first, last) = (self.steps.first()?.0, self.steps.last()?.0);
        if last <= first {
            return None;
        }
        let mut svg = String::new();
        let drawn = self.draw_into(&mut svg, first..last);
        drawn.ok().map(|()| svg)
    }

    fn draw_into(&self, svg: &mut String, seconds: Range<f64>) -> Drawn {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let area = area.titled(self.title, ("sans-serif", 20))?;
        if self.is_external {
            self.behind(&area, seconds)?;
            area.present()?;
            return Ok(());
        }
        let (above, below) = area.split_vertically(380);
        self.behind(&above, seconds.clone())?;
        self.time(&below, seconds)?;
        area.present()?;
        Ok(())
    }

    fn behind(&self, area: &Area<'_>, seconds: Range<f64>) -> Drawn {
        let parts: Vec<(f64, [f64; 5])> =
            self.steps.iter().map(|(at, step)| (*at, behind_mib(&step.rungs))).collect();
        let most = parts.iter().map(|(_, parts)| parts.iter().sum()).fold(0.0, f64::max);
        let top = (most * 1.05).max(0.01);
        let title = "WAL behind what PostgreSQL has written";
        let (area, legend) = area.split_horizontally(SIZE.0 - LEGEND_WIDTH);
        let mut chart = chart(&area, title, seconds, top)?;
        self.shade(&mut chart, top)?;
        chart.configure_mesh().y_desc("MiB").x_desc("seconds of the phase").draw()?;
        stack(&mut chart, &parts)?;
        // The uppermost area first.
        let parts = BEHIND.into_iter().zip(COLORS).rev();
        if self.is_external {
            let known = [(SENT_AND_NOT_CONFIRMED, COLORS[4]), (BEHIND[0], COLORS[0])];
            return explain(&legend, known.into_iter(), &[]);
        }
        explain(&legend, parts, &[])
    }

    fn time(&self, area: &Area<'_>, seconds: Range<f64>) -> Drawn {
        let shares = |step: &Step| receiver_percent(&step.receiver);
        let parts: Vec<(f64, [f64; 5])> =
            self.steps.iter().map(|(at, step)| (*at, shares(step))).collect();
        let title = "what the consumer's receiving thread does";
        let (area, legend) = area.split_horizontally(SIZE.0 - LEGEND_WIDTH);
        let mut chart = chart(&area, title, seconds, 100.0)?;
        chart.configure_mesh().y_desc("% of the time").x_desc("seconds of the phase").draw()?;
        stack(&mut chart, &parts)?;
        let flushes = |pick: fn(&Step) -> u64| {
            self.steps.iter().map(move |(at, step)| {
                (*at, 100.0 * pick(step) as f64 / step.flushes.passed_us.max(1) as f64)
            })
        };
        let busy = flushes(|step| step.flushes.busy_us);
        chart.draw_series(LineSeries::new(busy, LINE.stroke_width(2)))?;
        let queued = flushes(|step| step.flushes.queued_us);
        chart.draw_series(DashedLineSeries::new(queued, 6, 4, LINE.stroke_width(2)))?;
        let lines = [("a flush is under way", 1), ("a batch waits for a flush", 3)];
        explain(&legend, DOES.into_iter().zip(COLORS).rev(), &lines)
    }

    /// Darkens what is not measured.
    fn shade(&self, chart: &mut Chart<'_, '_>, top: f64) -> Drawn {
        let all = chart.x_range();
        let Range { start, end } = self.measured_sec;
        let outside = [(all.start, start), (end, all.end)];
        let outside = outside.into_iter().filter(|(from, to)| to > from);
        chart.draw_series(outside.map(|(from, to)| {
            Rectangle::new([(from, 0.0), (to, top)], RGBColor(225, 225, 225).filled())
        }))?;
        Ok(())
    }
}

fn chart<'a, 'b>(
    area: &Area<'b>,
    title: &str,
    seconds: Range<f64>,
    top: f64,
) -> Result<Chart<'a, 'b>, Box<dyn std::error::Error>>
where
    'b: 'a,
{
    let chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(seconds, 0.0..top)?;
    Ok(chart)
}

/// Areas one upon the other, the first at the bottom.
fn stack(chart: &mut Chart<'_, '_>, parts: &[(f64, [f64; 5])]) -> Drawn {
    for (number, color) in COLORS.into_iter().enumerate() {
        let upto = |parts: &[f64; 5], count: usize| parts[..count].iter().sum::<f64>();
        let upper = parts.iter().map(|(at, parts)| (*at, upto(parts, number + 1)));
        let lower = parts.iter().rev().map(|(at, parts)| (*at, upto(parts, number)));
        let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
        chart.draw_series(std::iter::once(Polygon::new(outline, color.mix(0.8).filled())))?;
    }
    Ok(())
}

/// Which colour is what, and which line; one that is drawn in several pieces is dashed.
fn explain(
    area: &Area<'_>,
    colors: impl Iterator<Item = (&'static str, RGBColor)>,
    lines: &[(&str, i32)],
) -> Drawn {
    let mut y = 45;
    let text = |name: &str, y| Text::new(name.to_owned(), (30, y - 6), ("sans-serif", 12));
    for (name, color) in colors {
        area.draw(&Rectangle::new([(0, y - 6), (22, y + 6)], color.mix(0.8).filled()))?;
        area.draw(&text(name, y))?;
        y += 20;
    }
    for (name, pieces) in lines {
        let length = 22 / (2 * pieces - 1);
        for piece in 0..*pieces {
            let x = 2 * piece * length;
            area.draw(&PathElement::new([(x, y), (x + length, y)], LINE.stroke_width(2)))?;
        }
        area.draw(&text(name, y))?;
        y += 20;
    }
    Ok(())
}

/// How much lies between each rung and the next, in MiB. A rung that is not known is where the one
/// above it is, and none is above that: what was asked a moment later may be further.
fn behind_mib(rungs: &Rungs) -> [f64; 5] {
    let Rungs { current, sent, received, decoded, flushed, confirmed } = *rungs;
    let mut above = current;
    [sent, received, decoded, flushed, confirmed].map(|rung| {
        let rung = if rung == 0 { above } else { rung.min(above) };
        let behind = std::mem::replace(&mut above, rung) - rung;
        behind as f64 / (1024.0 * 1024.0)
    })
}

fn receiver_percent(time: &ReceiverTime) -> [f64; 5] {
    let ReceiverTime { waiting_us, pacing_us, working_us, blocked_us, disconnected_us } = *time;
    let all = time.total_us().max(1) as f64;
    [waiting_us, pacing_us, working_us, blocked_us, disconnected_us]
        .map(|us| 100.0 * us as f64 / all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn each_part_is_what_lies_between_two_rungs() {
        let rungs = Rungs {
            current: 100 * MIB,
            sent: 90 * MIB,
            received: 89 * MIB,
            decoded: 80 * MIB,
            flushed: 50 * MIB,
            confirmed: 45 * MIB,
        };
        assert_eq!(behind_mib(&rungs), [10.0, 1.0, 9.0, 30.0, 5.0]);
        // Without a walsender, and with a consumer that is ahead of the last answer.
        let rungs = Rungs { sent: 0, received: 120 * MIB, ..rungs };
        assert_eq!(behind_mib(&rungs), [0.0, 0.0, 20.0, 30.0, 5.0]);
    }

    #[test]
    fn all_parts_are_drawn_with_their_names() {
        let step = |n: u64| Step {
            rungs: Rungs {
                current: n * MIB,
                sent: n * MIB / 2,
                received: n * MIB / 3,
                decoded: n * MIB / 4,
                flushed: n * MIB / 5,
                confirmed: n * MIB / 6,
            },
            receiver: ReceiverTime { waiting_us: 700, working_us: 300, ..Default::default() },
            ..Step::default()
        };
        let steps: Vec<_> = (0..20u64).map(|n| (n as f64, step(n))).collect();
        let picture = Picture {
            title: "steady, consumer-0",
            steps: &steps,
            measured_sec: 2.0..18.0,
            is_external: false,
        };
        let svg = picture.draw().unwrap();
        for text in BEHIND.into_iter().chain(DOES).chain(["steady, consumer-0", "MiB"]) {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.matches("<polygon").count() >= 10, "{svg}");
        assert!(Picture { steps: &steps[..1], ..picture }.draw().is_none());
    }
}

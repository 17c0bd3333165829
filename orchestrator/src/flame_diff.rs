//! `walbench flame-diff`: what changed between two profiled runs.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use walbench_metrics::Failure;
use walbench_profiles::diff::{Change, Side, changes, innermost};
use walbench_profiles::formats::flamegraph::difference;
use walbench_results::Metrics;
use walbench_results::metrics_json::{PhaseFigures, ProfileFigures};

use crate::cli::FlameDiffArgs;
use crate::ending::{self, Ending};

/// Functions that are listed.
const FUNCTIONS: usize = 20;

/// A run's profile of a phase and process.
struct Profiled {
    profile: ProfileFigures,
    side: Side,
}

/// `walbench flame-diff`.
pub(crate) fn flame_diff(args: &FlameDiffArgs) -> Result<u8, Ending> {
    let runs = [&args.before, &args.after];
    let [before, after] = runs.map(|run| metrics(run));
    let (before, after) = (before?, after?);
    let phase = phase(args, &before, &after)?;
    let worker = worker(args, phase, &before, &after)?;
    let before = profiled(&args.before, &before, phase, &worker)?;
    let after = profiled(&args.after, &after, phase, &worker)?;
    let changes = changes(&before.side, &after.side);
    let title =
        format!("{worker}, phase {phase}: {} against {}", name(&args.after), name(&args.before));
    let svg = difference(&changes, &after.side, &title).map_err(|e| {
        Ending::component(Failure::new("the flamegraph can't be drawn").caused_by(&e))
    })?;
    fs::write(&args.output, svg).map_err(|e| {
        let text = format!("{} can't be written", args.output.display());
        Ending::usage(Failure::new(text).caused_by(&e).hint("--output names another file"))
    })?;
    let mut text = format!("{worker}, phase {phase}\n\n");
    text.push_str(&areas(&before, &after));
    text.push_str(&functions(&changes));
    for (run, side) in [(&args.before, &before), (&args.after, &after)] {
        if let Some(flaw) = &side.profile.flaw {
            let _ = writeln!(text, "\nnot to be trusted: {}: {flaw}", run.display());
        }
    }
    let _ = writeln!(text, "\nflamegraph: {}", args.output.display());
    ending::print(&text)
}

fn name(run: &Path) -> String {
    run.file_name().unwrap_or(run.as_os_str()).display().to_string()
}

fn metrics(run: &Path) -> Result<Metrics, Ending> {
    let path = run.join("metrics.json");
    let failed = |e: &dyn std::error::Error| {
        let hint = "BEFORE and AFTER are folders that `walbench run` left: runs/<time>-<name>";
        let text = format!("{} can't be read", path.display());
        Ending::usage(Failure::new(text).caused_by(e).hint(hint))
    };
    let text = fs::read_to_string(&path).map_err(|e| failed(&e))?;
    serde_json::from_str(&text).map_err(|e| failed(&e))
}

/// The phase that both runs have profiles of.
fn phase<'a>(
    args: &FlameDiffArgs,
    before: &'a Metrics,
    after: &Metrics,
) -> Result<&'a str, Ending> {
    let is_profiled = |phase: &&PhaseFigures| !phase.profiles.is_empty();
    let has = |name: &str| after.phases.iter().filter(is_profiled).any(|phase| phase.name == name);
    let common = before.phases.iter().filter(is_profiled).map(|phase| &*phase.name);
    let common: Vec<&str> = common.filter(|name| has(name)).collect();
    let wanted = |name: &&&str| args.phase.as_ref().is_none_or(|phase| phase == **name);
    common.iter().rev().find(wanted).copied().ok_or_else(|| {
        let which = args.phase.as_ref().map_or("phase".into(), |name| format!("phase \"{name}\""));
        nothing(&format!("{which} that both runs have profiles of"), &common)
    })
}

/// The process that both runs have profiles of in that phase.
fn worker(
    args: &FlameDiffArgs,
    phase: &str,
    before: &Metrics,
    after: &Metrics,
) -> Result<String, Ending> {
    let of = |run: &Metrics| -> Vec<String> {
        let phase = run.phases.iter().find(|it| it.name == phase);
        phase.into_iter().flat_map(|it| &it.profiles).map(|it| it.process.clone()).collect()
    };
    let after = of(after);
    let common: Vec<String> = of(before).into_iter().filter(|it| after.contains(it)).collect();
    let wanted = |name: &&String| args.worker.as_ref().is_none_or(|worker| worker == *name);
    common.iter().find(wanted).cloned().ok_or_else(|| {
        let which =
            args.worker.as_ref().map_or("process".into(), |name| format!("process \"{name}\""));
        let names: Vec<&str> = common.iter().map(String::as_str).collect();
        nothing(&format!("{which} that both runs have a profile of in phase {phase}"), &names)
    })
}

fn nothing(what: &str, known: &[&str]) -> Ending {
    let hint = match known {
        [] => "`walbench run --profile flame` leaves profiles".to_owned(),
        known => format!("both have {}", known.join(", ")),
    };
    Ending::usage(Failure::new(format!("there is no {what}")).hint(hint))
}

/// The measured window and the drain of a process, as its area table has them.
fn profiled(run: &Path, metrics: &Metrics, phase: &str, worker: &str) -> Result<Profiled, Ending> {
    let unreadable = |file: &str, e: &dyn std::error::Error| {
        let text = format!("{} can't be read", run.join(file).display());
        Ending::usage(Failure::new(text).caused_by(e))
    };
    let in_phase = metrics.phases.iter().find(|it| it.name == phase);
    let of_worker = in_phase.and_then(|it| it.profiles.iter().find(|it| it.process == worker));
    let Some(profile) = of_worker.cloned() else {
        return Err(nothing(&format!("profile of {worker} in phase {phase}"), &[]));
    };
    let mut side = Side { samples: profile.quality.samples, rows: profile.rows, ..Side::default() };
    let is_counted =
        |file: &&String| file.ends_with(".folded") && !file.ends_with("-warmup.folded");
    for file in profile.files.iter().filter(is_counted) {
        let text = fs::read_to_string(run.join(file)).map_err(|e| unreadable(file, &e))?;
        side.add(&text).map_err(|e| unreadable(file, &e))?;
    }
    Ok(Profiled { profile, side })
}

fn areas(before: &Profiled, after: &Profiled) -> String {
    let of = |side: &Profiled, name: &str| {
        let found = side.profile.areas.iter().find(|area| area.area == name);
        found.and_then(|area| area.cpu_us_per_row).unwrap_or_default()
    };
    let mut names: Vec<&str> = Vec::new();
    for area in before.profile.areas.iter().chain(&after.profile.areas) {
        if !names.contains(&&*area.area) {
            names.push(&area.area);
        }
    }
    let mut text = line(["CPU/row by area of code", "before", "after", "change", ""]);
    for name in names {
        text += &numbers(name, of(before, name), of(after, name), None);
    }
    let all = [before, after].map(|side| side.side.ns_per_row() / 1e3);
    text + &numbers("all", all[0], all[1], None)
}

fn functions(changes: &[Change]) -> String {
    let mut significant = innermost(changes);
    // Above the threads is the process, whose time is no question of samples.
    significant.retain(|change| change.depth > 0);
    if significant.is_empty() {
        return "\nNo function changed by more than the samples can tell from chance.\n".into();
    }
    let head = ["CPU/row by function, with all it calls", "before", "after", "change", "±"];
    let mut text = format!("\n{}", line(head));
    for change in significant.iter().take(FUNCTIONS) {
        let Change { function, before_ns, after_ns, margin_ns, .. } = change;
        text += &numbers(function, before_ns / 1e3, after_ns / 1e3, Some(margin_ns / 1e3));
    }
    if let Some(more @ 1..) = significant.len().checked_sub(FUNCTIONS) {
        let _ = writeln!(text, "… and {more} more, which the flamegraph shows");
    }
    text
}

fn numbers(name: &str, before_us: f64, after_us: f64, margin_us: Option<f64>) -> String {
    let us = |us: f64| format!("{us:.3} µs");
    let margin = margin_us.map(us).unwrap_or_default();
    let change = format!("{:+.3} µs", after_us - before_us);
    line([name, &us(before_us), &us(after_us), &change, &margin])
}

/// A row of a table whose first column, of names as long as they like, is the last.
fn line([name, before, after, change, margin]: [&str; 5]) -> String {
    let text = format!("{before:>11}  {after:>11}  {change:>11}  {margin:>9}  {name}");
    format!("{}\n", text.trim_end())
}

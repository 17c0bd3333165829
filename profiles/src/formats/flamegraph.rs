//! The flamegraph: a page that any browser shows, with search and zoom.

use std::io;

use inferno::flamegraph::color::{BasicPalette, Color, MultiPalette, Palette, PaletteMap};
use inferno::flamegraph::{Options, from_lines};

use super::Title;
use super::folded::{Begin, folded};
use crate::diff::{Change, Side};
use crate::profile::{Measure, Profile};

/// Draws a profile; the same profile is always drawn alike. Nothing for one without a sample.
///
/// # Errors
///
/// inferno can't draw it.
pub fn flamegraph(profile: &Profile, title: &Title) -> io::Result<Option<String>> {
    let lines = folded(profile, Begin::AtOurs);
    // A drawing without any width is refused.
    if lines.iter().all(|line| line.ends_with(" 0")) {
        return Ok(None);
    }
    let mut options = Options::default();
    let Title { phase, window, length_us, .. } = title;
    let Profile { total, quality, .. } = profile;
    let seconds = *length_us as f64 / 1e6;
    let megabytes = *total as f64 / 1e6;
    options.title = format!("{}, phase {phase}, {window}", profile.process);
    let what = match profile.measure {
        Measure::Cpu => format!("{:.3} s of CPU in {seconds:.1} s", *total as f64 / 1e9),
        Measure::Heap => format!("{megabytes:.1} MB are held"),
        Measure::HeapGrowth => format!("{megabytes:.1} MB more are held after {seconds:.1} s"),
    };
    options.subtitle = Some(format!("{what}, {} samples", quality.samples));
    (options.count_name, options.colors) = match profile.measure {
        Measure::Cpu => ("µs of CPU".into(), Palette::Multi(MultiPalette::Rust)),
        Measure::Heap | Measure::HeapGrowth => ("kB".into(), Palette::Basic(BasicPalette::Mem)),
    };
    options.factor = 1e-3;
    options.deterministic = true;
    draw(&mut options, &lines).map(Some)
}

/// Draws what a profile became: as wide as it is, red where functions with all they call take more
/// time for each row than before, blue where less, grey where the samples can't tell.
///
/// # Errors
///
/// inferno can't draw it.
pub fn difference(changes: &[Change], after: &Side, title: &str) -> io::Result<String> {
    let significant = || changes.iter().filter(|change| change.is_significant);
    let largest = significant().map(|change| change.ns().abs()).fold(0.0, f64::max);
    let mut colors = PaletteMap::default();
    for change in changes {
        let strength = change.ns().abs() / largest.max(f64::MIN_POSITIVE);
        colors.insert(&change.function, shade(change, strength));
    }
    // What inferno calls "all" has no name yet when it is coloured.
    colors.insert("", SAME);
    // In ps: counts are whole numbers.
    let count = |ns: u64| u128::from(ns) * 1_000 / u128::from(after.rows.max(1));
    let lines: Vec<String> =
        after.stacks.iter().map(|(stack, ns)| format!("{stack} {}", count(*ns))).collect();
    let mut options = Options::default();
    options.title = title.into();
    options.subtitle =
        Some("red: more CPU a row than before; blue: less; grey: no difference".into());
    options.count_name = "ns of CPU a row".into();
    options.factor = 1e-3;
    options.palette_map = Some(&mut colors);
    draw(&mut options, &lines)
}

/// The colour of what has not changed.
const SAME: Color = Color { r: 225, g: 225, b: 225 };

fn shade(change: &Change, strength: f64) -> Color {
    if !change.is_significant {
        return SAME;
    }
    let faint = 200 - (strength * 160.0).round() as u8;
    match change.ns() > 0.0 {
        true => Color { r: 255, g: faint, b: faint },
        false => Color { r: faint, g: faint, b: 255 },
    }
}

fn draw(options: &mut Options<'_>, lines: &[String]) -> io::Result<String> {
    let mut svg = Vec::new();
    from_lines(options, lines.iter().map(String::as_str), &mut svg)
        .map_err(|e| io::Error::other(format!("inferno: {e}")))?;
    String::from_utf8(svg).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::changes;
    use crate::formats::testing::profile;

    #[test]
    fn every_function_is_drawn_and_always_alike() {
        let title = Title { phase: "steady".into(), window: "measured".into(), ..Title::default() };
        let svg = flamegraph(&profile(), &title).unwrap().unwrap();
        for text in
            ["consumer-0, phase steady, measured", "tokio::runtime::park", "walbench_consumer::run"]
        {
            assert!(svg.contains(text), "{text}");
        }
        // What begins a thread is left out where our own code begins.
        assert_eq!(svg.matches("<title>clone3").count(), 1, "{svg}");
        assert_eq!(flamegraph(&profile(), &title).unwrap().unwrap(), svg);
    }

    #[test]
    fn what_grew_is_red_and_what_shrank_is_blue() {
        let side = |folded: &str| {
            let mut side = Side { samples: 10_000, rows: 10, ..Side::default() };
            side.add(folded).unwrap();
            side
        };
        let before = side("p;t;grows 1000\np;t;shrinks 5000\np;t;stays 4000");
        let after = side("p;t;grows 5000\np;t;shrinks 1000\np;t;stays 4000");
        let svg = difference(&changes(&before, &after), &after, "b").unwrap();
        let color = |name: &str| {
            let (_, rest) = svg.split_once(&format!("<title>{name} (")).unwrap();
            rest.split_once("fill=\"").unwrap().1.split('"').next().unwrap().to_owned()
        };
        assert_eq!(color("grows"), "rgb(255,40,40)");
        assert_eq!(color("shrinks"), "rgb(40,40,255)");
        assert_eq!(
            (color("stays"), color("all")),
            ("rgb(225,225,225)".into(), "rgb(225,225,225)".into())
        );
        assert!(svg.contains("stays (400 ns of CPU a row"), "{svg}");
    }

    #[test]
    fn memory_is_told_in_its_own_unit() {
        let heap = Profile { measure: Measure::Heap, total: 12_340_000, ..profile() };
        let svg = flamegraph(&heap, &Title::default()).unwrap().unwrap();
        assert!(svg.contains("12.3 MB are held, 10 samples") && svg.contains(" kB"), "{svg}");
        assert!(!svg.contains("CPU"), "{svg}");
    }

    #[test]
    fn nothing_is_not_drawn() {
        assert_eq!(flamegraph(&Profile::default(), &Title::default()).unwrap(), None);
        let mut idle = profile();
        idle.stacks.iter_mut().for_each(|stack| stack.value = 0);
        assert_eq!(flamegraph(&idle, &Title::default()).unwrap(), None);
    }
}

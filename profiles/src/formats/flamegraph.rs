//! The flamegraph: a page that any browser shows, with search and zoom.

use std::io;

use inferno::flamegraph::color::{MultiPalette, Palette};
use inferno::flamegraph::{Options, from_lines};

use super::Title;
use super::folded::{Begin, folded};
use crate::profile::Profile;

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
    let seconds = |us: f64| us / 1e6;
    options.title = format!("{}, phase {phase}, {window}", profile.process);
    options.subtitle = Some(format!(
        "{:.3} s of CPU in {:.1} s, {} samples",
        seconds(profile.cpu_ns as f64 / 1e3),
        seconds(*length_us as f64),
        profile.quality.samples,
    ));
    options.count_name = "µs of CPU".into();
    options.factor = 1e-3;
    options.deterministic = true;
    options.colors = Palette::Multi(MultiPalette::Rust);
    let mut svg = Vec::new();
    from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)
        .map_err(|e| io::Error::other(format!("inferno: {e}")))?;
    String::from_utf8(svg).map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn nothing_is_not_drawn() {
        assert_eq!(flamegraph(&Profile::default(), &Title::default()).unwrap(), None);
        let idle = Profile { cpu_ns: 0, ..profile() };
        assert_eq!(flamegraph(&idle, &Title::default()).unwrap(), None);
    }
}

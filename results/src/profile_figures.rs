//! The figures of a phase's profiles.

use std::collections::BTreeMap;

use walbench_profiles::area::{Area, Share};
use walbench_profiles::profile::Quality;

use crate::metrics_json::{AreaFigures, ProfileFigures, ProfileQuality};
use crate::outcome::WindowProfile;
use crate::phase_figures::{COUNTED, ratio};

/// Each sampled process, in order of names; `rows` says how many rows a process worked on.
pub(crate) fn profiles(
    windows: &[WindowProfile],
    rows: impl Fn(&str) -> u64,
) -> Vec<ProfileFigures> {
    let mut processes: BTreeMap<&str, Vec<&WindowProfile>> = BTreeMap::new();
    for window in windows {
        processes.entry(&window.process).or_default().push(window);
    }
    processes.into_iter().map(|(process, windows)| figures(&windows, rows(process))).collect()
}

fn figures(windows: &[&WindowProfile], rows: u64) -> ProfileFigures {
    let (mut cpu_ns, mut quality) = (0, Quality::default());
    let mut areas: BTreeMap<Area, (u64, u64)> = BTreeMap::new();
    for window in windows.iter().filter(|window| COUNTED.contains(&window.window)) {
        cpu_ns += window.cpu_ns;
        quality = quality.and(window.quality);
        for found in &window.areas {
            let (samples, in_kernel) = areas.entry(found.area).or_default();
            *samples += found.samples;
            *in_kernel += found.in_kernel;
        }
    }
    let cpu_us = cpu_ns as f64 / 1e3;
    let area = |(area, (samples, in_kernel)): (Area, (u64, u64))| {
        let share = Share::of(samples, quality.samples);
        let us_per_row = |share: f64| ratio(share * cpu_us, rows as f64);
        AreaFigures {
            area: area.name().into(),
            cpu_us_per_row: us_per_row(share.value),
            cpu_us_per_row_low: us_per_row(share.low),
            cpu_us_per_row_high: us_per_row(share.high),
            share: share.value,
            kernel_share: in_kernel as f64 / samples.max(1) as f64,
        }
    };
    let first = windows.first();
    ProfileFigures {
        process: first.map(|window| window.process.clone()).unwrap_or_default(),
        backend: first.map(|window| window.backend.clone()).unwrap_or_default(),
        cpu_seconds: cpu_us / 1e6,
        rows,
        quality: ProfileQuality {
            samples: quality.samples,
            ratio: quality.ratio(),
            empty: quality.share(quality.empty),
            truncated: quality.share(quality.truncated),
            unresolved: quality.share(quality.unresolved),
            lost: quality.lost,
        },
        flaw: quality.flaw(),
        areas: areas.into_iter().map(area).collect(),
        files: windows.iter().flat_map(|window| window.files.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use walbench_metrics::Window;
    use walbench_profiles::area::AreaSamples;

    use super::*;

    fn window(process: &str, window: Window, cpu_ns: u64, areas: &[(Area, u64)]) -> WindowProfile {
        let samples = areas.iter().map(|(_, samples)| samples).sum();
        let found = |(area, samples): &(Area, u64)| AreaSamples {
            area: *area,
            samples: *samples,
            in_kernel: samples / 2,
        };
        WindowProfile {
            process: process.into(),
            window,
            backend: "a clock".into(),
            cpu_ns,
            quality: Quality { samples, expected: samples, ..Quality::default() },
            areas: areas.iter().map(found).collect(),
            files: vec![format!("{process}-{window:?}")],
        }
    }

    #[test]
    fn the_areas_are_all_of_the_measured_rows_cpu_time() {
        let windows = [
            window("a", Window::Warmup, 7_000_000, &[(Area::Send, 900)]),
            window("a", Window::Measured, 3_000_000, &[(Area::Read, 100), (Area::Encode, 40)]),
            window("b", Window::Measured, 1_000_000, &[(Area::Read, 8)]),
            window("a", Window::Drain, 1_000_000, &[(Area::Read, 60)]),
        ];
        let profiles = profiles(&windows, |process| if process == "a" { 1_000 } else { 0 });
        let [a, b] = &profiles[..] else { panic!("{profiles:#?}") };
        assert_eq!((a.process.as_str(), b.process.as_str()), ("a", "b"));
        assert_eq!((a.cpu_seconds, a.quality.samples, a.flaw.as_deref()), (0.004, 200, None));
        let per_row: Vec<_> =
            a.areas.iter().map(|area| (area.area.as_str(), area.cpu_us_per_row.unwrap())).collect();
        assert_eq!(per_row, [("read", 3.2), ("encode", 0.8)]);
        assert_eq!((a.areas[0].share, a.areas[0].kernel_share), (0.8, 0.5));
        let (low, high) = (a.areas[0].cpu_us_per_row_low, a.areas[0].cpu_us_per_row_high);
        assert!(low.unwrap() < 3.1 && high.unwrap() > 3.3, "{:#?}", a.areas);
        // What was sampled in the warm-up can be looked at as well.
        assert_eq!(a.files, ["a-Warmup", "a-Measured", "a-Drain"]);
        assert_eq!(b.areas[0].cpu_us_per_row, None);
        assert_eq!(b.flaw.as_deref(), Some("8 samples are too few to draw shares from"));
    }
}

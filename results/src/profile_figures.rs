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

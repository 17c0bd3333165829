//! `--profile flame`: what a profiled run leaves, whatever ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::GzDecoder;
use nix::sys::signal::Signal;
use pprof::protos::{self, Message};
use serde_json::Value;
use walbench_profiles::sampler::Backend;
use walbench_results::metrics_json::{PhaseFigures, ProfileFigures};

use crate::home::{Home, Running, SHORT_PLAN, Walbench, entries};
use crate::processes::{signal, until};
use crate::server::Server;
use crate::turns::together;

/// A run that the kernel's sampler is to profile; where it permits no samples, it must say so instead,
/// which ends the test.
fn profiled(home: &Home, name: &str) -> Option<Walbench> {
    let command = || {
        let command = home.run(SHORT_PLAN).on(Server::shared(), name).args(["--profile", "flame"]);
        command.set("profiling.backend", "perf-event")
    };
    if Backend::perf_event().is_ok() {
        return Some(command().set("profiling.rate_hz", "997"));
    }
    let refused = command().ended().with_code(4);
    refused.said("permits no samples").said("perf_event_paranoid");
    home.assert_clean();
    None
}

fn of_process<'a>(phase: &'a PhaseFigures, process: &str) -> &'a ProfileFigures {
    let found = phase.profiles.iter().find(|profile| profile.process == process);
    found.unwrap_or_else(|| panic!("no {process}: {:#?}", phase.profiles))
}

fn gunzipped(path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut content).unwrap();
    content
}

/// CPU time in ns by function, with all that it calls, in a profile of pprof's format.
fn by_function(path: &Path) -> BTreeMap<String, i64> {
    let file = protos::Profile::decode(&gunzipped(path)[..]).unwrap();
    let text = |number: i64| &*file.string_table[usize::try_from(number).unwrap()];
    let names: BTreeMap<u64, &str> =
        file.function.iter().map(|it| (it.id, text(it.name))).collect();
    let functions = |location: &protos::Location| -> Vec<&str> {
        location.line.iter().map(|line| names[&line.function_id]).collect()
    };
    let places: BTreeMap<u64, Vec<&str>> =
        file.location.iter().map(|place| (place.id, functions(place))).collect();
    let is_cpu =
        |kind: &protos::ValueType| (text(kind.ty), text(kind.unit)) == ("cpu", "nanoseconds");
    let value = file.sample_type.iter().position(is_cpu).unwrap();
    let mut found = BTreeMap::new();
    for sample in &file.sample {
        let stack: BTreeSet<&str> =
            sample.location_id.iter().flat_map(|id| places[id].clone()).collect();
        for name in stack {
            *found.entry(name.to_owned()).or_default() += sample.value[value];
        }
    }
    found
}

/// How many of a flamegraph's boxes a browser marks when it is searched for a text, and what it says.
fn searched(svg: &Path, text: &str) -> (usize, String) {
    let url = format!("file://{}?s={text}", svg.display());
    let open = |browser: &str| {
        let flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", &url];
        let output = Command::new("timeout").args(["120", browser]).args(flags).output().unwrap();
        output.status.success().then_some(output)
    };
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let browser = browsers.into_iter().find_map(open).expect("Chromium is there (.ci/setup)");
    let page = String::from_utf8(browser.stdout).unwrap();
    let said = page.rsplit_once("id=\"matched\"").expect("it was drawn").1;
    let said = said.split(['>', '<']).nth(1).unwrap_or_default().to_owned();
    (page.matches("fill=\"rgb(230,0,230)\"").count(), said)
}

#[test]
fn a_profile_of_each_process_is_written_and_adds_up() {
    let _turn = together();
    let home = Home::new();
    let Some(command) = profiled(&home, "flames") else { return };
    let plan = [
        ("phases.0.target_throughput", "5000"),
        ("phases.0.duration_sec", "4"),
        ("phases.0.warmup_sec", "1"),
        ("profiling.producers", "true"),
    ];
    let command = plan.into_iter().fold(command, |command, (key, value)| command.set(key, value));
    command.ended().with_code(0);
    let metrics = home.metrics();
    let phase = &metrics.phases[0];
    let folder = home.run_folder();
    for process in ["consumer-0", "producer-0", "walsender-0"] {
        let profile = of_process(phase, process);
        assert!(profile.backend.starts_with("perf-event"), "{profile:#?}");
        assert!(profile.quality.samples > 0, "{profile:#?}");
        // The areas are all of what the process used, by another measure.
        let used = phase.processes.iter().find(|used| used.name == process).unwrap();
        let per_row = used.cpu_us_per_row.unwrap();
        let areas: f64 = profile.areas.iter().filter_map(|area| area.cpu_us_per_row).sum();
        assert!((areas / per_row - 1.0).abs() < 0.05, "{areas} of {per_row}: {profile:#?}");
        // So is the text, of the measured window.
        let text =
            fs::read_to_string(folder.join(format!("profiles/{}-{process}.folded", phase.name)));
        let ns = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        let seconds = text.unwrap().lines().map(ns).sum::<u64>() as f64 / 1e9;
        assert!(seconds > 0.0 && seconds <= profile.cpu_seconds, "{seconds}: {profile:#?}");
        for file in &profile.files {
            let path = folder.join(file);
            let content = match file.ends_with(".gz") {
                true => gunzipped(&path),
                false => fs::read(&path).unwrap(),
            };
            assert!(!content.is_empty(), "{file}");
        }
        assert!(profile.files.iter().any(|file| file.ends_with("-warmup.folded")), "{profile:#?}");
    }
    let functions = by_function(&folder.join(format!("profiles/{}-consumer-0.pb.gz", phase.name)));
    let ns =
        |part: &str| functions.iter().filter(|(name, _)| name.contains(part)).map(|it| *it.1).max();
    assert!(ns("walbench_consumer::receiver").is_some_and(|ns| ns > 0), "{functions:#?}");
    let areas = &of_process(phase, "consumer-0").areas;
    let has = |name: &str| areas.iter().any(|area| area.area == name);
    assert!(has("read") && (has("decode") || has("encode")), "{areas:#?}");

    let svg = folder.join(format!("profiles/{}-consumer-0.svg", phase.name));
    let (marked, said) = searched(&svg, "walbench_consumer");
    assert!(marked > 5 && said.starts_with("Matched: "), "{marked} {said}");
    assert_eq!(searched(&svg, "no_such_function").0, 0);

    let timeline = gunzipped(&folder.join("profiles/timeline.firefox.json.gz"));
    let timeline: Value = serde_json::from_slice(&timeline).unwrap();
    let threads = timeline["threads"].as_array().unwrap();
    let marked = threads.iter().map(|thread| thread["markers"]["length"].as_u64().unwrap());
    assert_eq!(marked.sum::<u64>(), 3);
    let processes = threads.iter().map(|thread| thread["processName"].as_str().unwrap());
    assert!(
        processes.clone().any(|name| name == "walsender-0"),
        "{:?}",
        processes.collect::<Vec<_>>()
    );
}

/// Batches of 10 rows cost the consumer more a row than batches of 2,000, and not in decoding.
#[test]
fn what_a_smaller_batch_costs_is_found() {
    let _turn = together();
    let home = Home::new();
    for (name, batch) in [("large", "2000"), ("small", "10")] {
        let Some(command) = profiled(&home, name) else { return };
        let plan = [
            ("name", name),
            ("phases.0.target_throughput", "5000"),
            ("phases.0.duration_sec", "4"),
            ("consumer.flush_batch_size", batch),
        ];
        plan.into_iter()
            .fold(command, |command, (key, value)| command.set(key, value))
            .ended()
            .with_code(0);
    }
    let run = |name: &str| {
        let is_it = |run: &PathBuf| run.to_str().unwrap().ends_with(name);
        entries(&home.runs()).into_iter().find(is_it).unwrap().display().to_string()
    };
    let [large, small] = ["-large", "-small"].map(run);
    let said = home.walbench(["flame-diff", &large, &small]).ended().with_code(0).stdout;
    // before, after, change, area.
    let change = |area: &str| {
        let is_it = |line: &&str| line.ends_with(&format!("  {area}"));
        let line = said.lines().find(is_it).unwrap_or_else(|| panic!("no {area}: {said}"));
        line.split_whitespace().nth(4).unwrap().parse::<f64>().unwrap()
    };
    assert!(change("runtime") > 0.5, "{said}");
    assert!(change("all") > change("decode") + 0.5, "{said}");
    let svg = home.path().join("flame-diff.svg");
    assert!(searched(&svg, "tokio").0 > 3);
    // Against itself nothing has changed.
    let same = home.walbench(["flame-diff", &small, &small]).ended().with_code(0);
    same.answered("No function changed");

    let flame_diff =
        |more: [&str; 2]| home.walbench(["flame-diff", &large, &small]).args(more).ended();
    flame_diff(["--phase", "other"]).with_code(2).said("phase \"other\"").said("both have only");
    flame_diff(["--worker", "me"])
        .with_code(2)
        .said("process \"me\"")
        .said("consumer-0, walsender-0");
    let nowhere = home.walbench(["flame-diff", &large, "nowhere"]).ended().with_code(2);
    nowhere.said("nowhere/metrics.json can't be read");
}

/// A profiled run in mid-phase.
fn under_load(home: &Home, name: &str) -> Option<Running> {
    let command = profiled(home, name)?.set("phases.0.target_throughput", "3000");
    let mut running = command.set("phases.0.duration_sec", "60").start();
    running.until_under_load();
    // The worker has been at work for a moment.
    std::thread::sleep(std::time::Duration::from_millis(500));
    Some(running)
}

#[test]
fn an_interrupted_run_leaves_what_it_has() {
    let _turn = together();
    let home = Home::new();
    let Some(running) = under_load(&home, "interrupted_flames") else { return };
    running.signal(Signal::SIGINT);
    running.ended().with_code(130);
    let metrics = home.metrics();
    assert!(of_process(&metrics.phases[0], "consumer-0").quality.samples > 0);
    home.assert_clean();
}

#[test]
fn a_worker_that_dies_leaves_its_profile() {
    let _turn = together();
    let home = Home::new();
    let Some(running) = under_load(&home, "dead_flames") else { return };
    signal(running.worker("consumer"), Signal::SIGKILL);
    running.ended().with_code(4).said("consumer-0 died");
    let metrics = home.metrics();
    let profile = of_process(&metrics.phases[0], "consumer-0");
    assert!(profile.files.iter().any(|file| file.ends_with(".pb.gz")), "{profile:#?}");
    home.assert_clean();
}

/// What came before is there, whatever becomes of the run.
#[test]
fn a_killed_run_leaves_the_profiles_of_its_ended_phases() {
    let _turn = together();
    if Backend::perf_event().is_err() {
        return;
    }
    let home = Home::new();
    let second = "[[phases]]\nname = \"second\"\nduration_sec = 60\ntarget_throughput = 500\n";
    let command = home.run(&format!("{SHORT_PLAN}\n{second}"));
    let mut running = command.args(["--profile", "flame"]).set("profiling.rate_hz", "997").start();
    running.until_said("phase 2/");
    running.signal(Signal::SIGKILL);
    assert!(running.ended().was_killed());
    let svg = home.run_folder().join("profiles/only-consumer-0.svg");
    assert!(fs::read_to_string(svg).unwrap().ends_with("</svg>"));
    // Its server's keeper removes it.
    until("the server's end", || entries(&home.servers()).is_empty().then_some(()));
}

/// Where the kernel permits nothing, workers sample themselves; whatever ends them, what they have told
/// is there, and nothing else is left.
#[test]
fn a_worker_that_samples_itself_leaves_its_profile_and_nothing_else() {
    let _turn = together();
    let run = |home: &Home, name: &str| {
        let command = home.run(SHORT_PLAN).on(Server::shared(), name);
        let command = command.args(["--profile", "flame"]).set("profiling.backend", "pprof");
        command.set("profiling.producers", "true").set("phases.0.target_throughput", "8000")
    };
    let home = Home::new();
    run(&home, "own_flames").set("phases.0.duration_sec", "4").ended().with_code(0);
    let metrics = home.metrics();
    let phase = &metrics.phases[0];
    assert_eq!(phase.profiles.len(), 2, "{:#?}", phase.profiles);
    for process in ["consumer-0", "producer-0"] {
        let profile = of_process(phase, process);
        assert!(profile.backend == "pprof" && profile.quality.samples > 0, "{profile:#?}");
        let svg = profile.files.iter().find(|file| file.ends_with(".svg")).unwrap();
        assert!(fs::read_to_string(home.run_folder().join(svg)).unwrap().ends_with("</svg>"));
    }
    let environment = fs::read_to_string(home.run_folder().join("environment.json")).unwrap();
    assert!(environment.contains("walsenders are not sampled"), "{environment}");
    home.assert_clean();

    for (name, victim, code) in [("own_killed", true, 4), ("own_interrupted", false, 130)] {
        let home = Home::new();
        let mut running = run(&home, name).set("phases.0.duration_sec", "60").start();
        running.until_under_load();
        // It hands over what it has each five seconds.
        std::thread::sleep(std::time::Duration::from_secs(7));
        match victim {
            true => signal(running.worker("consumer"), Signal::SIGKILL),
            false => running.signal(Signal::SIGINT),
        }
        running.ended().with_code(code);
        let metrics = home.metrics();
        assert!(of_process(&metrics.phases[0], "consumer-0").quality.samples > 0, "{name}");
        home.assert_clean();
    }
}

#[test]
fn nothing_is_written_without_a_profiler() {
    let _turn = together();
    let home = Home::new();
    let command = home.run(SHORT_PLAN).on(Server::shared(), "no_flames");
    command.args(["--profile", "none"]).ended().with_code(0);
    assert!(home.metrics().phases[0].profiles.is_empty());
    let left = entries(&home.run_folder());
    assert!(!left.iter().any(|path| path.ends_with("profiles")), "{left:?}");
}

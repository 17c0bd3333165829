//! `profiling.heap`: who holds memory, and what grew, whatever ends the run.

use std::fs::{self, File};
use std::io::Read;

use flate2::read::GzDecoder;
use nix::sys::signal::Signal;
use walbench_profiles::heap::HeapFigures;

use crate::home::{Home, Running, SHORT_PLAN, WALBENCH, Walbench};
use crate::processes::signal;
use crate::server::Server;
use crate::turns::together;

/// What leaks, if it is told to.
const LEAK: &str = "walbench_consumer::planted::leak";

fn profiled(home: &Home, name: &str) -> Walbench {
    home.run(SHORT_PLAN).on(Server::shared(), name).set("profiling.heap", "true")
}

#[track_caller]
fn heap_of(home: &Home, process: &str) -> HeapFigures {
    let heaps = home.metrics().phases[0].heaps.clone();
    let found = heaps.iter().find(|heap| heap.process == process);
    found.unwrap_or_else(|| panic!("no {process}: {heaps:#?}")).clone()
}

fn near(found: u64, wanted: f64, tolerance: f64) -> bool {
    (found as f64 / wanted - 1.0).abs() < tolerance
}

/// A file of the run's, uncompressed.
fn content(home: &Home, name: &str) -> Vec<u8> {
    let file = File::open(home.run_folder().join(name)).unwrap();
    let mut content = Vec::new();
    match name.ends_with(".gz") {
        true => GzDecoder::new(file).read_to_end(&mut content).unwrap(),
        false => { file }.read_to_end(&mut content).unwrap(),
    };
    content
}

#[test]
fn what_leaks_is_named_with_its_size() {
    let _turn = together();
    let home = Home::new();
    let command = profiled(&home, "heap_leak").env("WALBENCH_PLANTED", "leak:4096");
    command.set("phases.0.warmup_sec", "1").set("phases.0.duration_sec", "6").ended().with_code(0);
    let heap = heap_of(&home, "consumer-0");
    let log = fs::read_to_string(home.run_folder().join("logs/consumer-0.log")).unwrap();
    let lost = log.lines().find_map(|line| line.strip_prefix("planted: leak lost "));
    let lost: f64 = lost.unwrap().trim_end_matches(" bytes").parse().unwrap();

    let grown = &heap.grown.as_ref().expect("the window was seen from its beginning")[0];
    assert_eq!(grown.function, LEAK, "{heap:#?}");
    assert!(grown.before_bytes > 0 && grown.bytes() > 3 * grown.margin_bytes, "{heap:#?}");
    // Six of seven seconds and a little before and after.
    assert!(near(grown.bytes(), lost * 6.0 / 7.5, 0.25), "{lost} lost: {heap:#?}");
    let holder = &heap.largest[0];
    assert_eq!(holder.function, LEAK, "{heap:#?}");
    // It went on after the last dump.
    assert!((0.7 * lost..1.05 * lost).contains(&(holder.bytes as f64)), "{lost} lost: {heap:#?}");
    // The samples stand for all there is, by the allocator's own count.
    assert!(near(heap.bytes, heap.allocated_bytes as f64, 0.15), "{heap:#?}");

    let names = [
        "heap.svg",
        "heap.pb.gz",
        "heap.folded",
        "heap-growth.svg",
        "heap-growth.pb.gz",
        "heap-growth.folded",
    ];
    let names = names.map(|name| format!("profiles/only-consumer-0-{name}"));
    assert_eq!(heap.files, names);
    for name in &names {
        let text = String::from_utf8_lossy(&content(&home, name)).into_owned();
        assert!(text.contains(LEAK), "{name}");
        assert!(!name.ends_with(".gz") || text.contains("inuse_space"), "{name}");
    }
    let folded = String::from_utf8(content(&home, &names[5])).unwrap();
    let bytes = folded.lines().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
    assert!(near(bytes.sum(), grown.bytes() as f64, 0.1), "{folded}");
    let summary = fs::read_to_string(home.run_folder().join("SUMMARY.md")).unwrap();
    assert!(summary.contains("### Memory of consumer-0"), "{summary}");
    home.assert_clean();
}

#[test]
fn a_quiet_run_grows_nothing_worth_naming_and_producers_are_profiled_if_asked_for() {
    let _turn = together();
    let home = Home::new();
    let command = profiled(&home, "heap_quiet").set("profiling.producers", "true");
    command.set("phases.0.warmup_sec", "2").set("phases.0.duration_sec", "4").ended().with_code(0);
    for process in ["consumer-0", "producer-0"] {
        let heap = heap_of(&home, process);
        let grown = heap.grown.as_ref().unwrap();
        assert!(grown.iter().all(|it| it.bytes() < 2 << 20), "{heap:#?}");
        assert!(heap.samples > 0 && heap.bytes > 0, "{heap:#?}");
    }
    let consumer = home.metrics().phases[0].processes.clone();
    let consumer = consumer.iter().find(|it| it.name == "consumer-0").unwrap();
    let allocated = consumer.max_allocated_bytes.unwrap();
    assert!((1 << 20..consumer.max_rss_bytes).contains(&allocated), "{consumer:#?}");
}

#[test]
fn nothing_of_it_is_there_unless_it_is_asked_for() {
    let _turn = together();
    let home = Home::new();
    home.run(SHORT_PLAN).on(Server::shared(), "no_heap").ended().with_code(0);
    assert_eq!(home.metrics().phases[0].heaps, []);
    let samples = fs::read_to_string(home.run_folder().join("samples.jsonl")).unwrap();
    assert!(samples.contains("allocated_bytes"), "its figures are always there");
}

/// The same executable, but not started by walbench itself.
#[test]
fn workers_behind_a_launcher_are_profiled_too() {
    let _turn = together();
    let home = Home::new();
    let launcher = format!(r#"["env", "LAUNCHED=1", "{WALBENCH}"]"#);
    let command = profiled(&home, "heap_launched").env("WALBENCH_PLANTED", "leak:8192");
    command.set("consumer.launcher", &launcher).ended().with_code(0);
    assert_eq!(heap_of(&home, "consumer-0").largest[0].function, LEAK);
    home.assert_clean();
}

fn under_load(home: &Home, name: &str) -> Running {
    let command = profiled(home, name).set("phases.0.duration_sec", "60");
    let mut running = command.env("WALBENCH_PLANTED", "leak:8192").start();
    running.until_under_load();
    std::thread::sleep(std::time::Duration::from_secs(1));
    running
}

#[test]
fn an_interrupted_run_leaves_its_heaps() {
    let _turn = together();
    let home = Home::new();
    let running = under_load(&home, "interrupted_heap");
    running.signal(Signal::SIGINT);
    running.ended().with_code(130);
    let heap = heap_of(&home, "consumer-0");
    assert_eq!((heap.after.as_str(), &*heap.grown.unwrap()[0].function), ("drain", LEAK));
    home.assert_clean();
}

#[test]
fn a_worker_that_dies_leaves_what_it_had_dumped() {
    let _turn = together();
    let home = Home::new();
    let running = under_load(&home, "dead_heap");
    signal(running.worker("consumer --heap"), Signal::SIGKILL);
    running.ended().with_code(4).said("consumer-0 died");
    let heap = heap_of(&home, "consumer-0");
    assert_eq!((heap.after.as_str(), &heap.grown), ("warmup", &None));
    assert!(content(&home, "profiles/only-consumer-0-heap.svg").ends_with(b"</svg>"));
    home.assert_clean();
}

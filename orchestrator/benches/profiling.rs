//! What looking costs: `cargo bench --bench profiling [-- ROUNDS]`.
//!
//! The same run of a pipeline that is full, so that whatever anybody uses is missing to it, without a
//! profiler and with each: on the kernel's sampler at its default rate, on pprof, with the doctor, with
//! both. Interleaved, and nobody always comes first; each is held against the run without in the same
//! round. A run's throughput is its rows by the time from the first one's being due to the last one's
//! being durable.
#![allow(clippy::unwrap_used, reason = "a measurement that can't go on shall panic")]

use std::path::Path;
use std::process::{Command, Stdio};

use walbench_results::Metrics;

/// Several times what two cores take.
const PLAN: &str = r#"
name = "full"

[[phases]]
name = "only"
duration_sec = 3
target_throughput = 400_000

[postgres]
settings = { max_wal_size = "8GB", shared_buffers = "512MB" }

[producer]
tables = ["event"]
write_method = "copy"
batch_size = 500
connections = 2
insert_update_ratio = 1.0

[limits]
catch_up_sec = 120
drain_sec = 120
"#;

/// What is looked with: `profiling.tool` and `profiling.backend`.
const WAYS: [(&str, &str); 5] = [
    ("none", "auto"),
    ("flame", "perf-event"),
    ("flame", "pprof"),
    ("doctor", "auto"),
    ("both", "perf-event"),
];

fn main() {
    let rounds = std::env::args().skip(1).find_map(|text| text.parse::<usize>().ok()).unwrap_or(9);
    let mut found: [Vec<f64>; WAYS.len()] = Default::default();
    for round in 0..rounds {
        for turn in 0..WAYS.len() {
            let way = (turn + round) % WAYS.len();
            let rows_per_s = run(WAYS[way]);
            eprintln!("round {round} {:?}: {rows_per_s:.0} rows/s", WAYS[way]);
            found[way].push(rows_per_s);
        }
    }
    println!("{rounds} rounds; throughput ÷ that without a profiler, of the same round:");
    for ((tool, backend), of_way) in WAYS.iter().zip(&found).skip(1) {
        let mut ratios: Vec<f64> =
            of_way.iter().zip(&found[0]).map(|(with, none)| with / none).collect();
        ratios.sort_by(f64::total_cmp);
        let (least, most) = (ratios[0], ratios[rounds - 1]);
        let median = ratios[rounds / 2];
        println!("{tool:7} {backend:10} median {median:.3}, {least:.3} to {most:.3}");
    }
}

/// Rows a second of one run.
fn run((tool, backend): (&str, &str)) -> f64 {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("plan.toml"), PLAN).unwrap();
    // Its verdict is that the machine can't do it, which is the point.
    let mut command = Command::new(env!("CARGO_BIN_EXE_walbench"));
    command.args(["run", "plan.toml", "--profile", tool]);
    command.args(["--set", &format!("profiling.backend={backend}")]);
    command.current_dir(home.path()).stdin(Stdio::null());
    let said = command.output().unwrap();
    let run = std::fs::read_dir(home.path().join("runs")).unwrap().next().unwrap().unwrap().path();
    let metrics = metrics(&run);
    let throughput = metrics.phases[0].consumer.end_to_end_throughput;
    throughput.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&said.stderr)))
}

fn metrics(run: &Path) -> Metrics {
    serde_json::from_slice(&std::fs::read(run.join("metrics.json")).unwrap()).unwrap()
}

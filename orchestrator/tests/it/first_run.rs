//! What a newcomer does first, and what is left of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use walbench_metrics::sample::Sample;

use crate::home::{Home, SHORT_PLAN, entries};
use crate::server::Server;
use crate::turns::{alone, together};

fn quickstart_of_a_few_seconds(home: &Home) -> String {
    let command = home.walbench(["run", "quickstart", "--duration", "2"]);
    let ended = command.set("phases.0.warmup_sec", "1").ended().with_code(0);
    ended.stdout
}

#[test]
fn the_quickstart_measures_everything() {
    let _turn = alone();
    let home = Home::new();
    let answer = quickstart_of_a_few_seconds(&home);
    assert!(answer.starts_with("PASS"), "{answer}");
    home.assert_clean();

    let json: Value = serde_json::from_str(&home.metrics_text()).unwrap();
    let schema = home.walbench(["schema", "metrics"]).ended().with_code(0).stdout;
    let schema = serde_json::from_str(&schema).unwrap();
    jsonschema::validate(&schema, &json).unwrap();
    assert_eq!(json["verdict"], "pass");
    let phases = json["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 2);
    for phase in phases {
        for (timing, floor) in [
            // A schedule can be kept to the microsecond; nothing else takes none.
            ("/producer/lateness_us", 0),
            ("/producer/service_us", 1),
            ("/producer/response_us", 1),
            ("/consumer/flush_us", 1),
            ("/consumer/lag_us/commit_to_received", 1),
            ("/consumer/lag_us/received_to_flushed", 1),
            ("/consumer/lag_us/commit_to_flushed", 1),
            ("/consumer/lag_us/due_to_flushed", 1),
        ] {
            for statistic in ["p50", "p90", "p95", "p99", "p999", "max"] {
                let value = phase.pointer(&format!("{timing}/{statistic}")).unwrap();
                assert!(value.as_u64().unwrap() >= floor, "{timing}/{statistic}: {value}");
            }
        }
        for figure in [
            "/producer/rows",
            "/producer/inserts",
            "/producer/updates",
            "/producer/cpu_us_per_row",
            "/producer/max_rss_bytes",
            "/consumer/rows",
            "/consumer/batches",
            "/consumer/bytes",
            "/consumer/cpu_us_per_row",
            "/consumer/max_rss_bytes",
            "/postgres/walsender_cpu_us_per_row",
            "/postgres/cpu_us_per_row",
            "/postgres/cpu_seconds",
            "/postgres/max_rss_bytes",
            "/postgres/wal_bytes",
            "/postgres/slot_lag_bytes_max",
            "/drain_sec",
        ] {
            let value = phase.pointer(figure).unwrap();
            assert!(value.as_f64().is_some_and(|value| value > 0.0), "{figure}: {value}");
        }
    }
    // 1 s of warm-up and 2 s at 1,000 rows/s, 2 s at 3,000 rows/s.
    let verification = &json["verification"];
    assert_eq!(verification["verdict"], "pass");
    assert_eq!(verification["expected_rows"], 9_000);
    assert_eq!(verification["delivered_rows"], 9_000);
}

#[test]
fn a_run_leaves_its_files_for_its_user_alone() {
    let _turn = together();
    let home = Home::new();
    let answer = home.run(SHORT_PLAN).on(Server::shared(), "files").ended().with_code(0);
    let folder = home.run_folder();
    let within = |name: &str| folder.join(name);
    let documents = ["SUMMARY.md", "environment.json", "logs", "metrics.json", "plan.toml"];
    let mut expected: Vec<PathBuf> = documents.map(within).into();
    expected.extend(["profiles", "samples.jsonl"].map(within));
    assert_eq!(entries(&folder), expected);
    let logs = entries(&folder.join("logs"));
    let log = |name: &str| folder.join("logs").join(name);
    assert_eq!(logs, [log("consumer-0.log"), log("producer-0.log")]);
    let pictures = entries(&folder.join("profiles"));
    assert_eq!(pictures, [within("profiles/only-consumer-0-ladder.svg")]);
    for path in expected.iter().chain(&logs).chain(&pictures).chain([&folder]) {
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
    answer.said(&format!("results: runs/{}", name_of(&folder)));

    let samples = fs::read_to_string(folder.join("samples.jsonl")).unwrap();
    let samples: Vec<Sample> = samples.lines().filter_map(as_sample).collect();
    let written = |sample: &Sample| match sample {
        Sample::Producer(sample) => sample.counts.rows,
        _ => 0,
    };
    assert_eq!(samples.iter().map(written).sum::<u64>(), 500);
    assert!(samples.iter().any(|sample| matches!(sample, Sample::Consumer(_))));
    assert!(samples.iter().any(|sample| matches!(sample, Sample::Resources(_))));

    // What ran can be run again from what it left.
    let again = home.walbench(["check"]).args([folder.join("plan.toml").to_str().unwrap()]);
    again.ended().with_code(0).answered("target_throughput = 500");
    let summary = fs::read_to_string(folder.join("SUMMARY.md")).unwrap();
    assert!(summary.contains("PASS"), "{summary}");
}

/// A line of samples.jsonl; the first may describe the file.
fn as_sample(line: &str) -> Option<Sample> {
    serde_json::from_str::<Value>(line).expect("every line is JSON");
    serde_json::from_str(line).ok()
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn a_private_server_can_be_kept() {
    let _turn = together();
    let home = Home::new();
    let command = home.run(SHORT_PLAN).args(["--keep"]).set("postgres.transport", "tcp");
    let ended = command.ended().with_code(0);
    let [server] = entries(&home.servers()).try_into().expect("one server is kept");
    let data = server.join("data");
    assert!(data.join("PG_VERSION").is_file());
    assert!(!data.join("postmaster.pid").exists(), "the server was not stopped");
    ended.said(data.to_str().unwrap());
    // What was kept on purpose was not left behind.
    home.walbench(["clean"]).ended().with_code(0).answered("nothing was left behind");
    assert!(data.is_dir());
}

#[test]
fn a_database_can_be_kept_without_its_slots() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::start());
    home.run(SHORT_PLAN).on(&server, "kept").args(["--keep"]).ended().with_code(0);
    assert_eq!(server.left("kept"), ["database kept"]);
    let rows: i64 = server.session("kept").value("SELECT count(*) FROM event");
    let inserts = home.metrics().phases[0].producer.as_ref().unwrap().inserts;
    assert_eq!(u64::try_from(rows).unwrap(), inserts);
    // What was kept on purpose is nobody's to overwrite or to clean.
    let second = home.run(SHORT_PLAN).on(&server, "kept").args(["--output", "second"]);
    second.ended().with_code(4).said("database \"kept\" was kept by run");
    let clean = home.walbench(["clean", "--postgres", &server.url()]).ended().with_code(0);
    clean.answered("left database \"kept\"");
    assert_eq!(server.left("kept"), ["database kept"]);
}

#[test]
fn nobody_needs_to_listen() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    assert_eq!(home.walbench(["plans"]).ended_unheard().code(), Some(0));
    assert_eq!(home.walbench(["schema"]).ended_unheard().code(), Some(0));
    assert_eq!(home.walbench(["check"]).ended_unheard().code(), Some(0));
    assert_eq!(home.walbench(["check", "nonsense"]).ended_unheard().code(), Some(2));
    let run = home.run(SHORT_PLAN).on(server, "unheard").args(["--verbose"]);
    assert_eq!(run.ended_unheard().code(), Some(0));
    assert_eq!(server.left("unheard"), Vec::<String>::new());
    assert!(home.metrics_text().contains("pass"));
}

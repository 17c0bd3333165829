//! What a reader is told about a plan that does not load.

use std::path::Path;

use walbench_phases::{Env, Override, PlanError, Source, find, load, load_file};

const PHASE: &str = "[[phases]]\nname = 'a'\nduration_sec = 1\ntarget_throughput = 100\n";

fn refuse_with(text: &str, env: &[(&str, &str)], sets: &[(&str, &str)]) -> String {
    let env = Env::from_pairs(env.iter().copied());
    let sets: Vec<Override> = sets
        .iter()
        .map(|(path, value)| Override {
            path: (*path).into(),
            value: Some((*value).into()),
            origin: format!("--set {path}={value}"),
        })
        .collect();
    let source = Source { name: "plan.toml".into(), text: text.into(), env };
    load(&source, &sets).expect_err("the plan is wrong").to_string()
}

fn refuse(text: &str) -> String {
    refuse_with(text, &[], &[])
}

/// `text` after a sound phase.
fn refuse_after_phase(text: &str) -> String {
    refuse(&format!("{PHASE}{text}"))
}

#[test]
fn faults_of_the_mock_server() {
    insta::assert_snapshot!(refuse_after_phase(
        r#"
[consumer]
mock_level = "http"
mock_delay_ms = 5

[clickhouse.mock]
delay_ms = 5

[[clickhouse.mock.faults]]
kind = "outage"
phase = "b"
share = 0.5

[[clickhouse.mock.faults]]
kind = "error"
status = 503
code = 252

[[clickhouse.mock.faults]]
kind = "delay"
applied_share = 1

[[clickhouse.mock.faults]]
kind = "throttle"
for_sec = 0

[[clickhouse.mock.faults]]
kind = "flood"
"#
    ));
    insta::assert_snapshot!(
        "a_mock_server_that_nobody_starts",
        refuse_after_phase("[clickhouse.mock]\ndelay_ms = 5\n")
    );
}

#[test]
fn every_problem_is_told_at_once() {
    insta::assert_snapshot!(refuse(
        r#"name = "my run"
nmae = "x"
batch_size = 5
description = 2024-01-01

[[phases]]
name = "a"
duration_sec = 0
target_throughput = "fast"

[[phases]]
name = "a"
warmup_sec = inf
start_throughput = 5
burst = { throughput = 5, every_sec = 1, length_sec = 1 }

[producer]
batchsize = 5
batch_size = "ten"
processes = 0
connections = 2.0
arrivals = "unifrom"
write_method = 5
seed = 99999999999999999999999
tables = ["event", 5, "event"]
enabled = "yes"
xyzzy = 1
payload_bytes = []

[clickhouse]
mode = "url"

[consumer]
flush_batch_bytes = 1073741825

[postgres]
url = "postgres://ann:hun/ter2@db/"
publication = "Upper"
slot = ""
settings = { shared_buffers = 5 }

[output]
dir = false

[thresholds]
low = "lag.commit_to_flushed.p99 < 500"
"#
    ));
}

#[test]
fn an_empty_plan() {
    insta::assert_snapshot!(refuse(""));
}

#[test]
fn no_phases() {
    insta::assert_snapshot!(refuse("phases = []"));
}

#[test]
fn sections_of_the_wrong_type() {
    insta::assert_snapshot!(refuse("phases = 5\nproducer = 3\nthresholds = []\nconsumer = [1]"));
}

#[test]
fn syntax_errors() {
    let texts =
        ["name = plain", "a = 1\na = 2", "[[phases]\n", "name = \"x", "x = 1\n\u{feff}é =\n"];
    insta::assert_snapshot!(texts.map(refuse).join("\n"));
}

#[test]
fn what_needs_more_than_one_key_to_be_judged() {
    insta::assert_snapshot!(refuse(
        r#"
[[phases]]
name = "a"
duration_sec = 1

[[phases]]
name = "a"
duration_sec = 1
target_throughput = 5
start_throughput = 5
burst = { throughput = 5, every_sec = 1, length_sec = 1 }

[postgres]
url = "postgres://a,b/"
schema_from = "db"
replica_identity = "nothing"
settings = { shared_buffers = "1GB" }

[clickhouse]
url = "ftp://ann:hunter2@db"

[producer]
tables = ["event", "event"]
insert_update_ratio = 0

[consumer]
processes = 3
distribution = "divided"
flush_batch_bytes = 100000
max_in_flight_bytes = 65536

[profiling]
tool = "flame"
backend = "pprof"
heap = true

[thresholds]
"lag stays low" = "lag.p99 < 5ms"
"#
    ));
}

#[test]
fn a_url_without_its_mode_and_a_mode_without_its_url() {
    let texts = [
        "[clickhouse]\nmode = 'url'",
        "[clickhouse]\nmode = 'url'\nurl = 'http:///x'",
        "[clickhouse]\nmode = 'managed'\nurl = 'http://db:8123'",
        "[clickhouse]\nmode = 'url'\nurl = 'http://db:port'",
    ];
    insta::assert_snapshot!(texts.map(refuse_after_phase).join("\n"));
}

#[test]
fn commands_in_the_consumers_place() {
    let texts = [
        "[consumer]\ncommand = ['me', '{slott}', 'a}', '{clickhouse_url}']",
        "[consumer]\ncommand = ['']\nmock_level = 'files'",
        "[consumer]\ncommand = ['me']\nvisible_sql = 'SELECT {x}'",
        "[consumer]\nmock_level = 'http'\nvisible_sql = 'SELECT 1'",
        "[consumer]\ncommand = ['me']\n[profiling]\nheap = true\nceiling = true",
    ];
    insta::assert_snapshot!(texts.map(refuse_after_phase).join("\n"));
}

#[test]
fn variables() {
    let text = "description = '${A} ${B:-b} ${C}'\nname = '${'\n".to_string() + PHASE;
    insta::assert_snapshot!(refuse_with(&text, &[("A", "a")], &[]));
}

#[test]
fn what_a_variable_holds_is_not_shown() {
    let text = "name = '${A}'\n".to_string()
        + PHASE
        + "[producer]\nbatch_size = '${A}'\narrivals = '${A}'\n[postgres]\nurl = '${A}'\n";
    let message = refuse_with(&text, &[("A", "hunter 2")], &[]);
    assert!(!message.contains("hunter"), "{message}");
    insta::assert_snapshot!(message);
}

#[test]
fn overrides() {
    insta::assert_snapshot!(refuse_with(
        PHASE,
        &[],
        &[
            ("producer.batchsize", "5"),
            ("producer.batch_size", "ten"),
            ("producer.batch_size.x", "1"),
            ("phases.3.name", "x"),
            ("phases.first.name", "x"),
            ("phases.*.nmae", "x"),
            ("phases.0.duration_sec", "-1"),
            ("xyzzy", "1"),
            ("", "1"),
            ("producer.\"x", "1"),
            ("postgres.url", "postgres://${HOST}/"),
            ("consumer.processes", "nan"),
        ],
    ));
}

#[test]
fn files_that_are_no_plans() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("latin1.toml"), b"name = \"\xe9\"").unwrap();
    std::fs::write(path("plan.toml"), PHASE).unwrap();
    std::fs::write(path(".env"), "A=1\nB = two words hunter2\n").unwrap();
    let here = format!("{}/", folder.path().display());
    let told = |error: PlanError| {
        error.to_string().replace(&here, "").replace(here.trim_end_matches('/'), "plans")
    };
    let messages = [
        load_file(&path("quick-start.toml"), &[]),
        load_file(&path("latin1.toml"), &[]),
        load_file(folder.path(), &[]),
        load_file(&path("plan.toml"), &[]),
        find("quikstart").and_then(|source| load(&source, &[])),
        find("xyzzy").and_then(|source| load(&source, &[])),
        find("no/such/plan").and_then(|source| load(&source, &[])),
        load_file(Path::new(""), &[]),
    ];
    let messages = messages.map(|message| told(message.unwrap_err()));
    insta::assert_snapshot!(messages.join("\n"));
}

//! Every way of writing, receiving and measuring that a plan can name brings all rows.

use walbench_results::metrics_json::Metrics;
use walbench_results::verdict::Verdict;

use crate::home::{Home, SHORT_PLAN, WALBENCH};
use crate::server::Server;
use crate::turns::together;

/// Runs the short plan with changes; every row must arrive at every consumer that shall have it.
#[track_caller]
fn run<const N: usize>(name: &str, sets: [(&str, &str); N]) -> Metrics {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    let mut command = home.run(SHORT_PLAN).on(server, name);
    for (key, value) in sets {
        command = command.set(key, value);
    }
    // These runs share the machine, and only what arrives is asked.
    command.set("limits.rate_tolerance_percent", "100").ended().with_code(0);
    assert_eq!(server.left(name), Vec::<String>::new());
    let metrics = home.metrics();
    assert_eq!(metrics.verification.verdict, Verdict::Pass, "{:#?}", metrics.verification);
    metrics
}

/// Rows that had to arrive and did, at all consumers together.
fn arrived(metrics: &Metrics) -> u64 {
    let seen = &metrics.verification;
    assert_eq!(seen.expected_rows, Some(seen.delivered_rows));
    seen.delivered_rows
}

#[test]
fn several_consumers_receive_everything_each() {
    let metrics = run("two_all", [("consumer.processes", "2")]);
    assert_eq!(arrived(&metrics), 1_000);
    assert_eq!(metrics.phases[0].consumer.rows, 1_000);
    let walsenders = metrics.phases[0].processes.iter();
    assert_eq!(walsenders.filter(|p| p.name.starts_with("walsender")).count(), 2);
}

#[test]
fn several_consumers_divide_the_tables() {
    let tables = r#"["task_run", "event"]"#;
    let metrics = run(
        "two_divided",
        [
            ("consumer.processes", "2"),
            ("consumer.distribution", "divided"),
            ("producer.tables", tables),
        ],
    );
    assert_eq!(arrived(&metrics), 500);
}

#[test]
fn several_producers_share_the_rate() {
    let metrics = run("producers", [("producer.processes", "2"), ("producer.connections", "3")]);
    assert_eq!(arrived(&metrics), 500);
    let producers = metrics.phases[0].processes.iter();
    assert_eq!(producers.filter(|p| p.name.starts_with("producer")).count(), 2);
}

#[test]
fn a_shared_rate_may_be_odd() {
    // Seven rows a transaction and three producers: nothing divides evenly.
    let sets = [
        ("producer.processes", "3"),
        ("producer.batch_size", "7"),
        ("phases.0.target_throughput", "331"),
    ];
    let metrics = run("odd", sets);
    let producer = metrics.phases[0].producer.as_ref().unwrap();
    assert_eq!(producer.rows, producer.due_rows);
    assert!(producer.rows.abs_diff(331) <= 3 * 7, "{} rows", producer.rows);
}

#[test]
fn rows_are_inserted() {
    assert_eq!(arrived(&run("method_insert", [("producer.write_method", "insert")])), 500);
}

#[test]
fn rows_are_pipelined() {
    assert_eq!(arrived(&run("method_pipelined", [("producer.write_method", "pipelined")])), 500);
}

#[test]
fn rows_are_copied() {
    let metrics = run("method_copy", [("producer.write_method", "copy")]);
    assert_eq!(arrived(&metrics), 500);
}

#[test]
fn updates_only_in_part_and_whole_old_rows() {
    let metrics = run(
        "replica_full",
        [("postgres.replica_identity", "full"), ("producer.insert_update_ratio", "0.5")],
    );
    let producer = metrics.phases[0].producer.as_ref().unwrap();
    assert_eq!(producer.inserts + producer.updates, 500);
    assert!(producer.updates.abs_diff(250) <= 20, "{} updates", producer.updates);
    assert_eq!(producer.missed_updates, 0);
}

#[test]
fn arrivals_as_independent_users_make_them() {
    let metrics = run("poisson", [("producer.arrivals", "poisson")]);
    let producer = metrics.phases[0].producer.as_ref().unwrap();
    assert_eq!(producer.rows, producer.due_rows);
    assert!((250..=750).contains(&producer.rows), "{} rows", producer.rows);
}

#[test]
fn a_ramp() {
    let sets = [("phases.0.start_throughput", "100"), ("phases.0.duration_sec", "2")];
    let metrics = run("ramp", sets);
    assert_eq!(metrics.phases[0].planned_throughput, 300.0);
    assert_eq!(arrived(&metrics), 600);
}

#[test]
fn bursts() {
    let burst = "{ throughput = 1500, every_sec = 1, length_sec = 0.2 }";
    let metrics = run("burst", [("phases.0.burst", burst), ("phases.0.duration_sec", "2")]);
    assert_eq!(arrived(&metrics), 2 * (300 + 400));
}

#[test]
fn rows_that_are_only_decoded() {
    let metrics = run("discard", [("consumer.mock_level", "discard")]);
    assert_eq!(arrived(&metrics), 500);
}

#[test]
fn measuring_can_be_left_out() {
    let metrics = run("unmeasured", [("consumer.record_timings", "false")]);
    assert_eq!(arrived(&metrics), 500);
    let consumer = &metrics.phases[0].consumer;
    assert_eq!(consumer.rows, 500);
    let lag = &consumer.lag_us;
    assert_eq!((consumer.flush_us.count, lag.commit_to_flushed.count), (0, 0));
    assert_eq!(lag.due_to_flushed.p50, None);
}

#[test]
fn the_sinks_delay_is_in_its_flush_times_and_the_lag() {
    let metrics = run("delay", [("consumer.mock_delay_ms", "200")]);
    let consumer = &metrics.phases[0].consumer;
    assert!(consumer.flush_us.min.unwrap() >= 199_000, "{:?}", consumer.flush_us);
    let lag = &consumer.lag_us.commit_to_flushed;
    assert!(lag.min.unwrap() >= 199_000, "{lag:?}");
}

#[test]
fn workers_can_be_started_by_a_command() {
    let launcher = format!(r#"["env", "LAUNCHED=1", "{WALBENCH}"]"#);
    let sets = [("consumer.launcher", &*launcher), ("producer.launcher", &*launcher)];
    let metrics = run("launched", sets);
    assert_eq!(arrived(&metrics), 500);
    let phase = &metrics.phases[0];
    assert!(phase.consumer.lag_us.commit_to_flushed.p50 > Some(0));
    // They may be on another machine, where /proc is not ours.
    assert_eq!((phase.consumer.cpu_us_per_row, phase.consumer.max_rss_bytes), (None, None));
}

#[test]
fn a_launcher_that_is_none_is_named() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    let command = home.run(SHORT_PLAN).on(server, "no_launcher");
    let ended = command.set("producer.launcher", r#"["walbench-no-such-program"]"#).ended();
    ended.with_code(4).said("producer-0 can't be started").said("walbench-no-such-program");
    let command = home.run(SHORT_PLAN).on(server, "no_launcher").args(["--output", "second"]);
    let ended = command.set("consumer.launcher", r#"["echo", "hello"]"#).ended();
    ended.with_code(4).said("consumer-0 does not speak walbench's protocol");
    assert_eq!(server.left("no_launcher"), Vec::<String>::new());
}

#[test]
fn a_server_is_reached_by_its_socket() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    let command = home.run(SHORT_PLAN).on(server, "by_socket");
    let command = command.set("postgres.url", &server.socket_url());
    command.set("limits.rate_tolerance_percent", "100").ended().with_code(0);
    assert_eq!(arrived(&home.metrics()), 500);
}

#[test]
fn a_worker_that_speaks_nonsense_is_named() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    // It greets, is ready and sends a sample or two; then something else gets into its output.
    let garbled = r#""$0" "$@" | sed -u '12i garbage'"#;
    let launcher = format!("['sh', '-c', '''{garbled}''', '{WALBENCH}']");
    let command = home.run(SHORT_PLAN).on(server, "nonsense").set("phases.0.duration_sec", "30");
    let ended = command.set("producer.launcher", &launcher).ended().with_code(4);
    ended.said("producer-0 speaks nonsense").said("not a message: \"garbage\"");
    assert_eq!(server.left("nonsense"), Vec::<String>::new());
}

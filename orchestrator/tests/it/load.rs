//! The load is what was asked for, and what goes wrong with it shows in the figures.

use std::time::Duration;

use nix::sys::signal::Signal;
use walbench_results::metrics_json::{Metrics, TimingFigures};
use walbench_results::outcome::DrainVerdict;
use walbench_results::verdict::Verdict;

use crate::home::Home;
use crate::server::Server;
use crate::turns::alone;

#[test]
fn rates_are_held_and_every_row_is_counted() {
    let _turn = alone();
    let home = Home::new();
    let phase = |rate: u32| {
        format!(
            "[[phases]]\nname = \"r{rate}\"\ntarget_throughput = {rate}\nwarmup_sec = 1\n\
             duration_sec = 3\n"
        )
    };
    let phases = [1_000, 5_000, 10_000].map(phase).concat();
    let plan = format!("{phases}[producer]\ntables = [\"event\"]\nbatch_size = 50\n");
    home.run(&plan).ended().with_code(0);
    let metrics = home.metrics();
    assert_eq!(metrics.phases.len(), 3);
    for phase in &metrics.phases {
        let producer = phase.producer.as_ref().unwrap();
        let achieved = producer.achieved_throughput.unwrap();
        let off = (achieved / phase.target_throughput - 1.0).abs();
        assert!(off <= 0.01, "{} of {} rows/s", achieved, phase.target_throughput);
        assert_eq!(producer.rows, producer.due_rows);
        assert_eq!(producer.rows as f64, phase.target_throughput * phase.duration_sec);
        assert_eq!(phase.consumer.rows, producer.rows);
    }
    assert_every_row_arrived(&metrics, 4 * 16_000);
    // What conducts must not be in the way of what is measured.
    let mut processes = metrics.phases[2].processes.iter();
    let orchestrator = processes.find(|process| process.name == "orchestrator").unwrap();
    let share = orchestrator.measured_cpu_share.unwrap();
    assert!(share < 0.03, "the orchestrator used {share} of a core");
    let [table] = &metrics.verification.tables[..] else { panic!("one table") };
    assert_eq!(table.counted, table.expected);
    // Updates make row versions, not rows.
    assert!(table.counted > 40_000 && table.counted < 64_000, "{table:?}");
    home.assert_clean();
}

/// Of all consumers together.
#[track_caller]
fn assert_every_row_arrived(metrics: &Metrics, rows: u64) {
    let seen = &metrics.verification;
    assert_eq!(seen.verdict, Verdict::Pass, "{seen:#?}");
    assert_eq!((seen.expected_rows, seen.delivered_rows), (Some(rows), rows));
    assert_eq!((seen.lost, seen.wrong), (Some(0), Some(0)));
}

fn max(timing: &TimingFigures) -> u64 {
    timing.max.unwrap()
}

const STEADY: &str = r#"
[[phases]]
name = "steady"
target_throughput = 5_000
duration_sec = 4

[producer]
tables = ["event"]
batch_size = 50
"#;

#[test]
fn a_locked_table_shows_in_the_response_time_and_is_caught_up_with() {
    let _turn = alone();
    let (home, server) = (Home::new(), Server::start());
    let mut running = home.run(STEADY).on(&server, "locked").start();
    running.until_under_load();
    let session = server.session("locked");
    session.execute("BEGIN; LOCK TABLE event IN ACCESS EXCLUSIVE MODE");
    std::thread::sleep(Duration::from_secs(1));
    session.execute("COMMIT");
    drop(session);
    running.ended().with_code(0);

    let metrics = home.metrics();
    let producer = metrics.phases[0].producer.as_ref().unwrap();
    // Rows due while the table was locked are a quarter of all: the last percent waited long.
    assert!(producer.response_us.p99.unwrap() >= 800_000, "{:?}", producer.response_us);
    assert!(max(&producer.lateness_us) >= 800_000, "{:?}", producer.lateness_us);
    // Only the transactions that met the lock were slow.
    assert!(max(&producer.service_us) >= 900_000, "{:?}", producer.service_us);
    assert!(producer.service_us.p50.unwrap() < 100_000, "{:?}", producer.service_us);
    assert!(producer.late_rows >= 2_500, "{} of 20,000 were late", producer.late_rows);
    assert_eq!((producer.rows, producer.unsent_rows, producer.failed_rows), (20_000, 0, 0));
    let achieved = producer.achieved_throughput.unwrap();
    assert!((achieved / 5_000.0 - 1.0).abs() <= 0.01, "{achieved} rows/s");
    assert_every_row_arrived(&metrics, 20_000);
}

#[test]
fn a_stopped_consumer_shows_in_the_lag_and_is_waited_for() {
    let _turn = alone();
    let (home, server) = (Home::new(), Server::start());
    // Stopped until after the phase's end, so that the drain is what has to wait. That it is under load
    // may be known only in its second or third second.
    let mut running =
        home.run(STEADY).on(&server, "stopped").set("phases.0.duration_sec", "5").start();
    running.until_under_load();
    let consumer = running.worker("consumer");
    crate::processes::signal(consumer, Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(6));
    crate::processes::signal(consumer, Signal::SIGCONT);
    running.ended().with_code(0);

    let metrics = home.metrics();
    let phase = &metrics.phases[0];
    let lag = &phase.consumer.lag_us;
    assert!(max(&lag.commit_to_flushed) >= 2_900_000, "{lag:?}");
    assert!(max(&lag.due_to_flushed) >= 2_900_000, "{lag:?}");
    assert_eq!(phase.drain, DrainVerdict::Drained);
    assert!(phase.drain_sec.unwrap() >= 0.5, "{:?}", phase.drain_sec);
    assert!(phase.postgres.slot_lag_bytes_max.unwrap() >= 1_000_000, "{:?}", phase.postgres);
    // The producers knew nothing of it.
    let producer = phase.producer.as_ref().unwrap();
    assert!(producer.service_us.p50.unwrap() < 100_000, "{:?}", producer.service_us);
    assert_every_row_arrived(&metrics, 25_000);
}

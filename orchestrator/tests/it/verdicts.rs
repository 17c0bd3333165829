//! A verdict says what the figures say.

use walbench_results::outcome::DrainVerdict;
use walbench_results::verdict::Verdict;

use crate::home::{Home, SHORT_PLAN};
use crate::server::Server;
use crate::turns::{alone, together};

#[test]
fn a_rate_that_was_not_held_makes_the_run_invalid() {
    let _turn = alone();
    let (home, server) = (Home::new(), Server::shared());
    let command = home.run(SHORT_PLAN).on(server, "too_much");
    let command = command.set("phases.0.target_throughput", "2_000_000");
    let command = command.set("phases.0.duration_sec", "2").set("limits.catch_up_sec", "1");
    let ended = command.ended().with_code(3);
    ended.answered("INVALID").answered("fell short").answered("limit: ");
    let metrics = home.metrics();
    assert_eq!(metrics.verdict, Verdict::Invalid);
    let producer = metrics.phases[0].producer.as_ref().unwrap();
    assert!(producer.unsent_rows > 0);
    assert_eq!(producer.due_rows, 4_000_000);
    assert!(producer.shortfall_percent.unwrap() > 1.0);
    // What was written did arrive.
    assert_eq!(metrics.verification.lost, Some(0), "{:#?}", metrics.verification);
    assert_eq!(server.left("too_much"), Vec::<String>::new());
}

#[test]
fn rows_that_do_not_arrive_in_time_fail_the_run() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    let command = home.run(SHORT_PLAN).on(server, "slow_sink");
    let command = command.set("consumer.mock_delay_ms", "5_000");
    let command = command.set("consumer.max_flush_concurrency", "1").set("limits.drain_sec", "1");
    let ended = command.ended().with_code(1);
    ended.answered("FAIL").answered("the drain timed out");
    let metrics = home.metrics();
    assert_eq!(metrics.phases[0].drain, DrainVerdict::TimedOut);
    assert_eq!(server.left("slow_sink"), Vec::<String>::new());
}

#[test]
fn without_producers_nothing_can_be_said() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    let command = home.run(SHORT_PLAN).on(server, "no_load").set("producer.enabled", "false");
    command.ended().with_code(3).answered("INCONCLUSIVE").answered("producer.enabled = false");
    let metrics = home.metrics();
    assert!(metrics.phases[0].producer.is_none());
    assert_eq!(metrics.verdict, Verdict::Inconclusive);
    assert_eq!(server.left("no_load"), Vec::<String>::new());
}

#[test]
fn thresholds_decide() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    let plan = |threshold: &str| format!("{SHORT_PLAN}\n[thresholds]\n{threshold}\n");
    let run = |plan: &str| {
        let command = home.run(plan).on(server, "thresholds");
        command.set("limits.rate_tolerance_percent", "100").ended()
    };
    let unmet = plan(r#""as fast as light" = "lag.commit_to_flushed.p50 < 1us""#);
    let ended = run(&unmet).with_code(1);
    ended.answered("FAIL").answered("\"as fast as light\"").answered("0 held, 1 did not");
    let [result] = &home.metrics().thresholds[..] else { panic!("one threshold") };
    assert_eq!((result.met, result.phase.as_str()), (Some(false), "only"));

    std::fs::remove_dir_all(home.runs()).unwrap();
    let met = plan(
        "\"all is well\" = \"lag.commit_to_flushed.max < 10min\"\n\"none lost\" = \"lost == 0\"",
    );
    run(&met).with_code(0).answered("PASS").answered("2 held, 0 did not");
}

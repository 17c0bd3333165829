//! Any other program in the consumer's place.

use nix::sys::signal::Signal;
use walbench_profiles::sampler::Backend;
use walbench_results::verdict::Verdict;

use crate::home::{Home, SHORT_PLAN, WALBENCH, Walbench};
use crate::processes::{of_folder, signal, until};
use crate::server::{Server, program};
use crate::turns::together;

/// PostgreSQL's own receiver, which confirms once a second; into nothing, or into a file of its name.
fn pg_recvlogical(file: &str) -> String {
    format!(
        "{} -d {{postgres_database}} --slot {{slot}} --start -o proto_version=1 \
         -o publication_names={{publication}} -f {file} -s 1 -F 1",
        program("pg_recvlogical").display()
    )
}

/// A run with a command whose words are separated by blanks.
fn run(home: &Home, name: &str, command: &str) -> Walbench {
    let words: Vec<&str> = command.split_whitespace().collect();
    run_words(home, name, &words)
}

fn run_words(home: &Home, name: &str, words: &[&str]) -> Walbench {
    let command = home.run(&format!("{SHORT_PLAN}\n[consumer]\ncommand = {words:?}\n"));
    command.on(Server::shared(), name)
}

#[test]
fn another_program_has_the_consumers_figures() {
    let _turn = together();
    let home = Home::new();
    let mut command = run(&home, "recvlogical", &pg_recvlogical("/dev/null"))
        .set("phases.0.target_throughput", "2000")
        .set("phases.0.duration_sec", "4")
        .set("phases.0.warmup_sec", "1")
        .set("consumer.processes", "2");
    let is_profiled = Backend::perf_event().is_ok();
    if is_profiled {
        command = command.args(["--profile", "both"]).set("profiling.rate_hz", "997");
    }
    let ended = command.ended().with_code(0).answered("as confirmed by the command, 0 lost");
    assert!(ended.stderr.contains("not confirmed"), "{}", ended.stderr);
    assert_eq!(Server::shared().left("recvlogical"), Vec::<String>::new());
    home.assert_clean();

    let metrics = home.metrics();
    let phase = &metrics.phases[0];
    let (producer, consumer) = (phase.producer.as_ref().unwrap(), &phase.consumer);
    // Every row by both, each with its lag.
    assert_eq!((producer.rows, consumer.rows), (8_000, 16_000));
    let lag = &consumer.lag_us;
    assert_eq!((lag.commit_to_flushed.count, lag.due_to_flushed.count), (16_000, 16_000));
    assert_eq!((lag.commit_to_received.count, consumer.flush_us.count), (0, 0));
    assert!(lag.commit_to_visible.is_none() && consumer.negative_lag_samples == 0, "{lag:#?}");
    // It confirms at times of its own, about a second apart.
    assert!(consumer.batches >= 4 && lag.commit_to_flushed.max > Some(300_000), "{consumer:#?}");
    assert!(consumer.received_bytes > 1_000_000 && consumer.throughput.is_some(), "{consumer:#?}");
    // What it does not tell is not known.
    assert_eq!((consumer.errors, consumer.retries, consumer.bytes), (None, None, None));
    assert!(consumer.cpu_us_per_row.unwrap() > 0.1, "{consumer:#?}");
    assert!(consumer.max_rss_bytes.unwrap() > 1_000_000, "{consumer:#?}");
    let names: Vec<&str> = phase.processes.iter().map(|it| it.name.as_str()).collect();
    for name in ["consumer-0", "consumer-1", "keeper-0", "walsender-0", "walsender-1"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let verified = &metrics.verification;
    assert_eq!((verified.verdict, verified.lost), (Verdict::Pass, Some(0)), "{verified:#?}");
    assert_eq!((verified.expected_rows, verified.delivered_rows), (Some(20_000), 20_000));
    assert!(verified.confirmed_by_command && verified.duplicated.is_none(), "{verified:#?}");
    if !is_profiled {
        return;
    }
    let profile = phase.profiles.iter().find(|it| it.process == "consumer-0").unwrap();
    assert!(profile.quality.samples > 0, "{profile:#?}");
    let stem = format!("profiles/{}-consumer-0", phase.name);
    let folded = std::fs::read_to_string(home.run_folder().join(format!("{stem}.folded"))).unwrap();
    assert!(folded.contains("pg_recvlogical"), "{folded}");
    assert!(profile.files.contains(&format!("{stem}.svg")), "{profile:#?}");
    let ladder = std::fs::read_to_string(home.run_folder().join(format!("{stem}-ladder.svg")));
    assert!(ladder.unwrap().contains("sent, not confirmed"));
}

#[test]
fn a_command_that_ends_ends_the_run() {
    let _turn = together();
    let home = Home::new();
    let words = ["sh", "-c", "echo no luck for $WALBENCH_SLOT; exit 3"];
    let ended = run_words(&home, "at_once", &words).ended().with_code(4);
    let ended = ended.said("consumer-0 failed").said("ended by itself (exit status: 3)");
    ended.said("no luck for at_once_0");
    let ended = run(&home, "at_once", "no-such-program {worker}").ended().with_code(4);
    ended.said("the command \"no-such-program\" can't be started").said("No such file");
    let later = format!("timeout --signal=KILL 3 {}", pg_recvlogical("/dev/null"));
    let later = run(&home, "at_once", &later).set("phases.0.duration_sec", "60");
    later.ended().with_code(4).said("the command ended by itself");
    assert_eq!(Server::shared().left("at_once"), Vec::<String>::new());
    home.assert_clean();
}

#[test]
fn a_command_that_never_streams_is_not_waited_for() {
    let _turn = together();
    let home = Home::new();
    let command = run(&home, "never", "sleep 600").set("limits.command_start_sec", "0.5");
    let ended = command.ended().with_code(4);
    ended.said("did not stream from slot \"never_0\" in 0.5 s").said("limits.command_start_sec");
    assert_eq!(Server::shared().left("never"), Vec::<String>::new());
    home.assert_clean();
}

#[test]
fn an_interrupt_ends_the_command_in_order() {
    let _turn = together();
    let home = Home::new();
    let command = run(&home, "external_int", &pg_recvlogical("/dev/null"));
    let mut running = command.set("phases.0.duration_sec", "60").start();
    running.until_under_load();
    running.signal(Signal::SIGINT);
    running.ended().with_code(130).said("results: ");
    assert_eq!(Server::shared().left("external_int"), Vec::<String>::new());
    home.assert_clean();
    let metrics = home.metrics();
    let phase = &metrics.phases[0];
    assert!(metrics.interrupted && phase.consumer.rows > 0, "{phase:#?}");
    assert_eq!(phase.consumer.rows, phase.producer.as_ref().unwrap().rows);
}

/// Also what a shell has started for it, and what left its process group.
#[test]
fn nothing_of_a_command_outlives_who_keeps_it() {
    let _turn = together();
    let home = Home::new();
    let script = format!(
        "trap '' TERM; setsid sleep 600 & (sleep 601 &); {} | cat >/dev/null",
        pg_recvlogical("-")
    );
    let command = run_words(&home, "keeperless", &["sh", "-c", &script]);
    let mut running = command.set("phases.0.duration_sec", "60").start();
    running.until_under_load();
    assert!(of_folder(home.path()).iter().any(|process| process.contains("sleep 601")));
    signal(running.worker("consumer"), Signal::SIGKILL);
    running.ended().with_code(4).said("consumer-0 died");
    until("the command's end", || of_folder(home.path()).is_empty().then_some(()));
    let clean = home.walbench(["clean", "--postgres", &Server::shared().url()]);
    clean.ended().with_code(0);
    assert_eq!(Server::shared().left("keeperless"), Vec::<String>::new());
}

#[test]
fn rows_are_visible_in_clickhouse_when_they_are() {
    let _turn = together();
    let home = Home::new();
    let follow = format!(
        "{WALBENCH} follow --postgres {{postgres_url}} --publication {{publication}} --slot {{slot}} \
         --clickhouse {{clickhouse_url}}"
    );
    let run = run(&home, "visible", &follow)
        .set("consumer.mock_level", "http")
        .set("consumer.visible_sql", "\"SELECT count() FROM {clickhouse_database}.walbench_probe\"")
        .set("phases.0.duration_sec", "3")
        .set("thresholds.\"to be read\"", "\"lag.commit_to_visible.p99 < 60s\"");
    run.ended().with_code(0).answered("thresholds: 1 held");
    assert_eq!(Server::shared().left("visible"), Vec::<String>::new());
    home.assert_clean();
    let metrics = home.metrics();
    let consumer = &metrics.phases[0].consumer;
    // Probe rows are none of the load's.
    assert_eq!(consumer.rows, 1_500);
    let visible = consumer.lag_us.commit_to_visible.as_ref().unwrap();
    assert!((10..=31).contains(&visible.count), "{visible:#?}");
    // A batch waits for its age, and is to be read before it is confirmed.
    let flushed = &consumer.lag_us.commit_to_flushed;
    assert!(visible.max < Some(5_000_000) && flushed.count == 1_500, "{visible:#?}");
    let mock = &metrics.verification.destination.as_ref().unwrap();
    assert!(mock.mock["rows_new"] >= 1_500 || !mock.mock.is_empty(), "{mock:#?}");
    assert!(mock.tables.is_empty() && mock.problem.is_none(), "{mock:#?}");
}

#[test]
fn a_plan_with_a_wrong_placeholder_is_refused() {
    let home = Home::new();
    let ended = run(&home, "refused", "my-consumer --slot={slott}").ended().with_code(2);
    ended.said("there is no placeholder {slott}").said("did you mean {slot}?");
    let ended = run(&home, "refused", "my-consumer {clickhouse_url}").ended().with_code(2);
    ended.said("{clickhouse_url} is of a ClickHouse, and the plan has none");
    let ended = run(&home, "refused", "my-consumer").set("consumer.mock_level", "\"discard\"");
    ended.ended().with_code(2).said("is a way of walbench's own consumer");
    let own = home.run(SHORT_PLAN).set("consumer.visible_sql", "\"SELECT 1\"");
    own.ended().with_code(2).said("has no effect without consumer.command");
}

//! The user ends a run.

use std::time::Duration;

use nix::sys::signal::Signal;
use walbench_results::verdict::Verdict;

use crate::home::{Home, Running, SHORT_PLAN};
use crate::processes::{of_folder, signal, until};
use crate::server::Server;
use crate::turns::together;

/// A run in mid-phase.
fn under_load(home: &Home, name: &str) -> Running {
    let command = home.run(SHORT_PLAN).on(Server::shared(), name);
    let mut running = command.set("phases.0.duration_sec", "60").start();
    running.until_under_load();
    running
}

#[test]
fn the_first_interrupt_ends_the_phase_in_order() {
    let _turn = together();
    for (signal, name) in [(Signal::SIGINT, "sigint"), (Signal::SIGTERM, "sigterm")] {
        let home = Home::new();
        let running = under_load(&home, name);
        running.signal(signal);
        let ended = running.ended().with_code(130);
        ended.said("once more to stop now").said("interrupted").said("results: ");
        assert_eq!(Server::shared().left(name), Vec::<String>::new());
        home.assert_clean();
        let metrics = home.metrics();
        assert!(metrics.interrupted);
        assert_eq!(metrics.verdict, Verdict::Inconclusive);
        let phase = &metrics.phases[0];
        assert!(phase.duration_sec < 60.0);
        let rows = phase.producer.as_ref().unwrap().rows;
        assert!(rows > 0);
        // What was written was drained, and can be judged.
        assert_eq!(phase.consumer.rows, rows);
        assert_eq!(metrics.verification.lost, Some(0), "{:#?}", metrics.verification);
    }
}

#[test]
fn the_second_interrupt_ends_the_run_now() {
    let _turn = together();
    let home = Home::new();
    let mut running = under_load(&home, "twice");
    // The drain would wait for it.
    signal(running.worker("consumer"), Signal::SIGSTOP);
    running.signal(Signal::SIGINT);
    running.until_said("once more to stop now");
    running.signal(Signal::SIGINT);
    running.ended().with_code(130).said("interrupted");
    assert_eq!(Server::shared().left("twice"), Vec::<String>::new());
    home.assert_clean();
    let metrics = home.metrics();
    assert!(metrics.interrupted);
    assert!(metrics.phases[0].producer.as_ref().unwrap().rows > 0);
}

/// A terminal that is closed sends SIGHUP, and takes with it whoever listened.
#[test]
fn a_closed_terminal_is_an_interrupt() {
    let _turn = together();
    let home = Home::new();
    let command = home.run(SHORT_PLAN).on(Server::shared(), "hangup");
    let mut terminal = command.set("phases.0.duration_sec", "60").on_a_terminal();
    terminal.until_under_load();
    terminal.signal(Signal::SIGKILL);
    let code = until("its exit code", || {
        let code = std::fs::read_to_string(home.path().join("code")).ok()?;
        (!code.is_empty()).then_some(code)
    });
    assert_eq!(code, "130\n");
    assert_eq!(Server::shared().left("hangup"), Vec::<String>::new());
    until("the shell's end", || of_folder(home.path()).is_empty().then_some(()));
    assert!(home.metrics().interrupted);
}

#[test]
fn an_interrupt_before_the_first_phase_leaves_nothing() {
    let _turn = together();
    // While the cluster is made, which takes about a second, and a moment after.
    for wait_ms in [0, 400, 800, 1_200] {
        let home = Home::new();
        let mut running = home.run(SHORT_PLAN).set("phases.0.duration_sec", "60").start();
        running.until_said("starting a private PostgreSQL");
        std::thread::sleep(Duration::from_millis(wait_ms));
        running.signal(Signal::SIGINT);
        running.ended().with_code(130).said("interrupted");
        home.assert_clean();
    }
}

//! Components that die or hang.

use nix::sys::signal::Signal;
use walbench_results::verdict::Verdict;

use crate::home::{Home, SHORT_PLAN};
use crate::processes::{of_folder, signal, until};
use crate::server::Server;
use crate::turns::together;

#[test]
fn a_killed_worker_is_named() {
    let _turn = together();
    let server = Server::shared();
    for role in ["producer", "consumer"] {
        let home = Home::new();
        let name = format!("killed_{role}");
        let command = home.run(SHORT_PLAN).on(server, &name);
        let mut running = command.set("phases.0.duration_sec", "60").start();
        running.until_under_load();
        signal(running.worker(role), Signal::SIGKILL);
        let ended = running.ended().with_code(4);
        ended.said(&format!("{role}-0 died (signal: 9 (SIGKILL))"));
        assert_eq!(server.left(&name), Vec::<String>::new());
        home.assert_clean();
        // What was measured up to then is there.
        let metrics = home.metrics();
        assert_eq!(metrics.verdict, Verdict::Inconclusive);
        assert!(metrics.failure.as_ref().unwrap().contains(role), "{:?}", metrics.failure);
        assert!(metrics.phases[0].producer.as_ref().unwrap().rows > 0);
    }
}

#[test]
fn a_worker_that_hangs_is_named() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    let command = home.run(SHORT_PLAN).on(server, "hangs");
    let command = command.set("phases.0.duration_sec", "60").set("limits.worker_silence_sec", "2");
    let mut running = command.start();
    running.until_under_load();
    signal(running.worker("producer"), Signal::SIGSTOP);
    running.ended().with_code(4).said("producer-0 hangs: it has said nothing for 2 s");
    assert_eq!(server.left("hangs"), Vec::<String>::new());
    home.assert_clean();
}

#[test]
fn lost_connections_of_producers_are_made_again() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    let command = home.run(SHORT_PLAN).on(server, "reconnects").set("phases.0.duration_sec", "4");
    let mut running = command.set("limits.rate_tolerance_percent", "100").start();
    running.until_under_load();
    let ended: i64 = server.session("postgres").value(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
         WHERE datname = 'reconnects' AND application_name LIKE '%producer%'",
    );
    assert_eq!(ended, 4);
    running.ended().with_code(0);
    let metrics = home.metrics();
    assert_eq!(metrics.verification.verdict, Verdict::Pass, "{:#?}", metrics.verification);
    assert_eq!(metrics.verification.expected_rows, Some(2_000));
}

#[test]
fn a_private_server_that_dies_is_named() {
    let _turn = together();
    let home = Home::new();
    let mut running = home.run(SHORT_PLAN).set("phases.0.duration_sec", "60").start();
    running.until_under_load();
    let keeper = running.worker("postgres");
    let postmaster = until("the server", || {
        let folder = crate::home::entries(&home.servers()).pop()?;
        let pid = std::fs::read_to_string(folder.join("data/postmaster.pid")).ok()?;
        pid.lines().next()?.parse().ok()
    });
    assert_ne!(keeper, postmaster);
    signal(postmaster, Signal::SIGKILL);
    running.ended().with_code(4).said("error: ");
    until("the end of the server's processes", || of_folder(home.path()).is_empty().then_some(()));
    home.assert_clean();
}

#[test]
fn a_killed_keeper_is_named() {
    let _turn = together();
    let home = Home::new();
    let mut running = home.run(SHORT_PLAN).set("phases.0.duration_sec", "60").start();
    running.until_under_load();
    signal(running.worker("postgres"), Signal::SIGKILL);
    running.ended().with_code(4).said("postgres died (signal: 9 (SIGKILL))");
    home.walbench(["clean"]).ended().with_code(0);
    home.assert_clean();
}

#[test]
fn a_server_that_goes_away_is_named() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::start());
    let plan = home.run(SHORT_PLAN).on(&server, "gone").set("phases.0.duration_sec", "60");
    let mut running = plan.set("consumer.reconnect_sec", "1").start();
    running.until_under_load();
    drop(server);
    // Whoever notices first says so.
    running.ended().with_code(4).said("error: ");
    home.assert_clean();
}

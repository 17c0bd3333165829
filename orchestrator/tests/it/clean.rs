//! What a killed walbench leaves, and how it is removed.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::home::{Home, Running, SHORT_PLAN, entries};
use crate::processes::{of_folder, until};
use crate::server::Server;
use crate::turns::together;

/// A run in mid-phase.
fn under_load(home: &Home, server: Option<(&Server, &str)>) -> Running {
    let mut command = home.run(SHORT_PLAN).set("phases.0.duration_sec", "60");
    if let Some((server, name)) = server {
        command = command.on(server, name);
    }
    let mut running = command.start();
    running.until_under_load();
    running
}

fn kill(running: Running) {
    running.signal(Signal::SIGKILL);
    drop(running);
}

fn until_no_process_is_left(home: &Home) {
    until("the end of our processes", || of_folder(home.path()).is_empty().then_some(()));
}

#[test]
fn a_killed_run_takes_its_private_server_with_it() {
    let _turn = together();
    let home = Home::new();
    let running = under_load(&home, None);
    assert!(of_folder(home.path()).len() > 5, "workers and server are not seen");
    kill(running);
    until_no_process_is_left(&home);
    assert_eq!(entries(&home.servers()), Vec::<PathBuf>::new());
}

#[test]
fn a_run_killed_while_its_server_starts_leaves_nothing() {
    let _turn = together();
    for wait_ms in [100, 500, 900] {
        let home = Home::new();
        let mut running = home.run(SHORT_PLAN).start();
        running.until_said("starting a private PostgreSQL");
        std::thread::sleep(Duration::from_millis(wait_ms));
        kill(running);
        until_no_process_is_left(&home);
        assert_eq!(entries(&home.servers()), Vec::<PathBuf>::new());
    }
}

#[test]
fn what_a_killed_run_left_on_a_server_is_removed_and_nothing_else() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::start());
    let postgres = server.session("postgres");
    postgres.execute("CREATE DATABASE theirs");
    postgres.execute("CREATE DATABASE walbench");
    postgres.execute("COMMENT ON DATABASE walbench IS 'walbench'");
    let slot = "SELECT pg_create_logical_replication_slot('killed_1', 'pgoutput')";
    server.session("theirs").value::<String>(&format!("{slot}::text"));

    kill(under_load(&home, Some((&server, "killed"))));
    until_no_process_is_left(&home);
    assert_eq!(server.left("killed"), ["database killed", "slot killed_0", "slot killed_1"]);
    let living_home = Home::new();
    let living = under_load(&living_home, Some((&server, "living")));

    let clean = || home.walbench(["clean", "--postgres", &server.url()]);
    let said = clean().args(["--dry-run"]).ended().with_code(0).stdout;
    assert!(said.contains("would remove database \"killed\""), "{said}");
    assert_eq!(server.left("killed").len(), 3);

    let said = clean().ended().with_code(0).stdout;
    assert!(said.contains("removed database \"killed\""), "{said}");
    assert!(said.contains("left database \"living\""), "{said}");
    assert_eq!(server.left("killed"), ["slot killed_1"]);
    assert_eq!(server.left("theirs"), ["database theirs"]);
    assert_eq!(server.left("walbench"), ["database walbench"]);
    assert_eq!(server.left("living"), ["database living", "slot living_0"]);

    // Undisturbed, it ends when its user says so.
    living.signal(Signal::SIGINT);
    living.ended().with_code(130);
    assert_eq!(living_home.metrics().verification.lost, Some(0));
    clean().ended().with_code(0).answered("nothing was left behind");
}

#[test]
fn the_next_run_needs_no_cleaning() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    kill(under_load(&home, Some((server, "reused"))));
    until_no_process_is_left(&home);
    let command = home.run(SHORT_PLAN).on(server, "reused").args(["--output", "second"]);
    command.ended().with_code(0);
    assert_eq!(server.left("reused"), Vec::<String>::new());
}

#[test]
fn a_server_that_cannot_be_reached_is_named() {
    let home = Home::new();
    let unreachable = "postgres://ann:hunter2@127.0.0.1:1/db";
    let ended = home.walbench(["clean", "--postgres", unreachable]).ended().with_code(4);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    ended.said("127.0.0.1:1");
    let ended = home.walbench(["clean", "--postgres", "nonsense"]).ended();
    ended.with_code(2).said("--postgres");
}

#[test]
fn a_database_that_somebody_looks_at_is_left_and_said() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::start());
    let mut running = home.run(SHORT_PLAN).on(&server, "looked_at").start();
    running.until_said("phase 1/");
    let somebody = server.session("looked_at");
    let ended = running.ended().with_code(4).answered("PASS");
    ended
        .said("database \"looked_at\" is not removed")
        .said("in use by process")
        .said("walbench clean");
    assert_eq!(somebody.value::<i32>("SELECT 1"), 1, "somebody's session was ended");
    assert_eq!(server.left("looked_at"), ["database looked_at"]);
    drop(somebody);
    let clean = home.walbench(["clean", "--postgres", &server.url()]).ended();
    clean.with_code(0).answered("removed database \"looked_at\"");
    assert_eq!(server.left("looked_at"), Vec::<String>::new());
}

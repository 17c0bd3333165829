//! What walbench refuses to begin, and what it does not touch then.

use std::process::{Child, Command, Stdio};

use crate::home::{Home, SHORT_PLAN};
use crate::processes::until;
use crate::server::{Server, program};
use crate::turns::together;

/// Somebody who streams a slot; ended with the test.
struct Holder(Child);

impl Holder {
    fn of(server: &Server, database: &str, slot: &str) -> Self {
        let mut command = Command::new(program("pg_recvlogical"));
        command.args(["--start", "--file=-", "--slot", slot, "--dbname"]);
        command.arg(server.url_of("postgres", database));
        command.args(["--option=proto_version=1", "--option=publication_names=theirs"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_foreign_slot_of_our_name_is_refused_and_its_holder_lives() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::start());
    let session = server.session("postgres");
    session.execute("CREATE DATABASE theirs");
    let theirs = server.session("theirs");
    theirs.execute("CREATE PUBLICATION theirs FOR ALL TABLES");
    theirs
        .value::<String>("SELECT pg_create_logical_replication_slot('taken_0', 'pgoutput')::text");
    let mut holder = Holder::of(&server, "theirs", "taken_0");
    let active = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'taken_0'";
    let pid = || session.value::<Option<i32>>(active);
    let before = until("the holder", pid);

    // Ours are seen even when several consumers would meet several slots.
    let command = home.run(SHORT_PLAN).on(&server, "taken").set("consumer.processes", "2");
    let ended = command.ended().with_code(4);
    ended.said("replication slot \"taken_0\" was not made by walbench").said("theirs");
    assert_eq!(pid(), Some(before), "its holder was disturbed");
    assert_eq!(holder.0.try_wait().unwrap(), None);
    assert_eq!(server.left("taken"), ["slot taken_0"]);

    // Two of them are no harder to refuse than one.
    theirs
        .value::<String>("SELECT pg_create_logical_replication_slot('taken_1', 'pgoutput')::text");
    let command = home.run(SHORT_PLAN).on(&server, "taken").set("consumer.processes", "2");
    let ended = command.args(["--output", "second"]).ended().with_code(4);
    ended.said("replication slot \"taken_").said("was not made by walbench");
    assert_eq!(server.left("taken"), ["slot taken_0", "slot taken_1"]);
}

#[test]
fn a_foreign_database_of_our_name_is_refused() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    server.session("postgres").execute("CREATE DATABASE precious");
    let precious = server.session("precious");
    precious.execute("CREATE TABLE event (kept integer); INSERT INTO event VALUES (42)");
    let ended = home.run(SHORT_PLAN).on(server, "precious").ended().with_code(4);
    ended.said("database \"precious\"").said("was not made by walbench").said("postgres.database");
    assert_eq!(precious.value::<i32>("SELECT kept FROM event"), 42);
}

#[test]
fn a_database_is_one_runs_at_a_time() {
    let _turn = together();
    let (home, second, server) = (Home::new(), Home::new(), Server::shared());
    let mut running =
        home.run(SHORT_PLAN).on(server, "busy").set("phases.0.duration_sec", "3").start();
    running.until_said("phase 1/");
    let ended = second.run(SHORT_PLAN).on(server, "busy").ended().with_code(4);
    ended.said("another run of walbench is using database \"busy\"");
    running.ended().with_code(0);
}

#[test]
fn everything_a_server_lacks_is_said_with_its_remedy() {
    let _turn = together();
    let home = Home::new();
    let server =
        Server::with("wal_level = replica\nmax_replication_slots = 1\nmax_wal_senders = 0");
    let session = server.session("postgres");
    session.execute("CREATE ROLE app LOGIN");
    session.value::<String>("SELECT pg_create_physical_replication_slot('theirs')::text");
    let command = home.run(SHORT_PLAN).on(&server, "lacking");
    let ended = command.set("postgres.url", &server.url_of("app", "postgres")).ended();
    let said = ended.with_code(4).stderr;
    for text in [
        "its wal_level is replica",
        "ALTER SYSTEM SET wal_level = 'logical'; and restart the server",
        "1 of its 1 replication slots are in use, and 1 more",
        "ALTER SYSTEM SET max_replication_slots = 2; and restart the server",
        "0 of its 0 WAL senders are in use, and 1 more",
        "ALTER SYSTEM SET max_wal_senders = 1; and restart the server",
        "role \"app\" may not replicate",
        "ALTER ROLE \"app\" REPLICATION",
        "role \"app\" may not create a database",
        "ALTER ROLE \"app\" CREATEDB",
    ] {
        assert!(said.contains(text), "{text:?} is not in\n{said}");
    }
    assert_eq!(server.left("lacking"), Vec::<String>::new());
}

#[test]
fn a_role_needs_no_more_than_it_is_asked_for() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    server.session("postgres").execute("CREATE ROLE modest LOGIN REPLICATION CREATEDB");
    let command = home.run(SHORT_PLAN).on(server, "modest");
    let command = command.set("postgres.url", &server.url_of("modest", "postgres"));
    command.set("limits.rate_tolerance_percent", "100").ended().with_code(0);
    assert_eq!(server.left("modest"), Vec::<String>::new());
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let home = Home::new();
    let command = home.run(SHORT_PLAN);
    let ended = command.set("postgres.url", "postgres://ann:hunter2@127.0.0.1:1/db").ended();
    let ended = ended.with_code(4).said("127.0.0.1:1");
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
}

#[test]
fn a_folder_without_postgresql_is_named() {
    let home = Home::new();
    let ended = home.run(SHORT_PLAN).args(["--pg-bin", "/nowhere"]).ended().with_code(4);
    ended.said("/nowhere does not hold initdb and postgres").said("--pg-bin");
    home.assert_clean();
}

#[test]
fn settings_that_the_private_server_refuses_are_shown() {
    let _turn = together();
    let home = Home::new();
    let settings = r#"{ shared_buffers = "lots" }"#;
    let ended = home.run(SHORT_PLAN).set("postgres.settings", settings).ended().with_code(4);
    ended.said("shared_buffers").said("\"lots\"");
    home.assert_clean();
}

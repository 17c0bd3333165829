//! What stands between a connection and the stream of a slot, provoked for real.

use std::error::Error;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use walbench_consumer::replication::{
    Connection, CreateSlot, LostReason, ReplicationError, Slot, SlotType, Snapshot, Stream,
    StreamOption, lsn_text,
};
use walbench_phases::address::{Host, PostgresAddress};

use crate::cluster::{Cluster, Version};
use crate::database::{assert_said, on_every_server};

on_every_server![
    the_server_says_what_it_is,
    a_slot_is_made_looked_up_and_dropped,
    a_temporary_slot_is_its_makers_and_its_snapshot_can_be_taken,
    a_missing_slot_and_a_missing_publication_are_said,
    a_slot_that_is_none_of_ours_is_said,
    who_holds_a_slot_is_said,
    a_slot_that_somebody_else_moved_is_said,
    a_slot_whose_wal_was_removed_is_lost,
    too_little_in_the_wal_is_said,
    a_standby_has_slots_from_16_on,
    a_role_that_may_not_is_told_from_one_that_may_not_enter,
    a_server_without_room_may_have_some_later,
    a_slot_that_has_to_wait_too_long_is_not_made,
];

/// The server of all tests here that change nothing for the others.
fn server(version: Version) -> PostgresAddress {
    static CLUSTERS: [OnceLock<Cluster>; Version::COUNT] =
        [const { OnceLock::new() }; Version::COUNT];
    let settings = ["max_wal_senders = 50", "max_replication_slots = 50"];
    let start = || Cluster::start_with(version, &settings, &[]);
    CLUSTERS[version as usize].get_or_init(start).address()
}

fn new_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("slot_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn open(address: &PostgresAddress) -> Connection {
    Connection::open(address, "test").unwrap()
}

/// A connection, and the name of a slot that was made on it.
fn with_slot(address: &PostgresAddress) -> (Connection, String) {
    let (mut connection, slot) = (open(address), new_name());
    connection.create_slot(&CreateSlot::new(&slot)).unwrap();
    (connection, slot)
}

/// Runs a statement and returns its first value.
fn run(connection: &mut Connection, sql: &str) -> Option<String> {
    let rows = connection.query("anything", sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    rows.into_iter().next()?.into_iter().next()?
}

/// What a person reads; the server's own words, which change from version to version, and what
/// changes from run to run stand as what they are.
fn said(error: ReplicationError, changing: &[(&str, &str)]) -> String {
    let words = error.source().map(ToString::to_string);
    let changing =
        words.iter().map(|words| (words.as_str(), "<its words>")).chain(changing.iter().copied());
    let text = error.into_failure().to_string();
    changing.fold(text, |text, (from, to)| text.replace(from, to))
}

/// What a person reads, whichever way an error was met.
fn alike(errors: impl IntoIterator<Item = ReplicationError>, changing: &[(&str, &str)]) -> String {
    let mut texts: Vec<_> = errors.into_iter().map(|error| said(error, changing)).collect();
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:#?}");
    texts.remove(0)
}

fn is_usage(error: &ReplicationError) -> bool {
    error.is_usage() && !error.is_transient()
}

async fn the_server_says_what_it_is(version: Version) {
    let mut connection = open(&server(version));
    let number = run(&mut connection, "SHOW server_version_num").unwrap();
    assert_eq!(connection.server_version().to_string(), number);
    assert!(StreamOption::Binary.is_known_to(connection.server_version()));
    let newest = *connection.protocol_versions().end();
    let (_, slot) = with_slot(&server(version));
    run(&mut connection, "CREATE PUBLICATION newest FOR ALL TABLES");
    let too_new = Stream { protocol_version: newest + 1, ..Stream::new(&slot, "newest") };
    let refused = connection.start(&too_new).unwrap_err();
    assert!(is_usage(&refused), "protocol version {}: {refused:?}", newest + 1);
    connection.start(&Stream { protocol_version: newest, ..too_new }).unwrap();
}

async fn a_slot_is_made_looked_up_and_dropped(version: Version) {
    let (mut connection, name) = (open(&server(version)), new_name());
    assert_eq!(Slot::read(&mut connection, &name).unwrap(), None);
    let made = connection.create_slot(&CreateSlot::new(&name)).unwrap();
    assert_eq!(made.snapshot_name, None);
    let slot = connection.check_slot(&name, Some(made.consistent_lsn)).unwrap();
    assert_eq!(
        (slot.plugin.as_deref(), slot.database.as_deref()),
        (Some("pgoutput"), Some("postgres"))
    );
    assert_eq!((slot.slot_type, slot.active, slot.lost.clone()), (SlotType::Logical, false, None));
    assert!(!slot.temporary && !slot.two_phase, "{slot:?}");
    assert_eq!(slot.confirmed_flush_lsn, Some(made.consistent_lsn));
    assert!(slot.restart_lsn <= slot.confirmed_flush_lsn && slot.restart_lsn.is_some());

    let again = connection.create_slot(&CreateSlot::new(&name)).unwrap_err();
    assert_said!(said(again, &[(&name, "SLOT")]), @r#"
    error: PostgreSQL refused to create slot "SLOT"
      caused by: <its words>
      hint: name another slot, or drop this one if nothing needs it
    "#);
    connection.drop_slot(&name).unwrap();
    assert_eq!(Slot::read(&mut connection, &name).unwrap(), None);
    let missing = connection.drop_slot(&name).unwrap_err();
    assert!(matches!(missing, ReplicationError::SlotMissing { .. }), "{missing:?}");
}

async fn a_temporary_slot_is_its_makers_and_its_snapshot_can_be_taken(version: Version) {
    let (mut connection, name) = (open(&server(version)), new_name());
    run(&mut connection, &format!("CREATE TABLE public.t_{name} AS SELECT 1 AS id"));
    let wanted = CreateSlot {
        temporary: true,
        two_phase: true,
        snapshot: Snapshot::Export,
        ..CreateSlot::new(&name)
    };
    let made = connection.create_slot(&wanted).unwrap();
    let mut other = open(&server(version));
    run(&mut other, &format!("INSERT INTO public.t_{name} VALUES (2)"));
    run(&mut other, "BEGIN ISOLATION LEVEL REPEATABLE READ");
    run(&mut other, &format!("SET TRANSACTION SNAPSHOT '{}'", made.snapshot_name.unwrap()));
    let seen = run(&mut other, &format!("SELECT count(*) FROM public.t_{name}"));
    assert_eq!(seen.as_deref(), Some("1"), "what came behind the slot's start is in its stream");
    run(&mut other, "COMMIT");

    let slot = connection.check_slot(&name, None).unwrap();
    assert!(slot.temporary && slot.two_phase && slot.active, "{slot:?}");
    let held = other.check_slot(&name, None).unwrap_err();
    assert!(held.is_slot_active(), "{held:?}");
    connection.terminate();
    let deadline = Instant::now() + Duration::from_secs(30);
    while Slot::read(&mut other, &name).unwrap().is_some() {
        assert!(Instant::now() < deadline, "the slot outlives its session");
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn a_missing_slot_and_a_missing_publication_are_said(version: Version) {
    let mut connection = open(&server(version));
    let refused = [
        connection.check_slot("it's", None).unwrap_err(),
        connection.start(&Stream::new("it's", "p")).unwrap_err(),
    ];
    assert!(refused.iter().all(is_usage));
    assert_said!(alike(refused, &[]), @r#"
    error: replication slot "it's" does not exist
      hint: create it: SELECT pg_create_logical_replication_slot('it''s', 'pgoutput')
    "#);

    run(&mut connection, "CREATE DATABASE publications");
    let mut connection = open(&server(version).with_database("publications"));
    let none = connection.check_publication("p\"1").unwrap_err();
    assert_said!(said(none, &[]), @r#"
    error: publication "p"1" does not exist in the database
      hint: CREATE PUBLICATION "p""1" FOR ALL TABLES (or FOR TABLE …)
    "#);
    run(&mut connection, "CREATE PUBLICATION a");
    run(&mut connection, "CREATE PUBLICATION \"b c\"");
    let another = connection.check_publication("p").unwrap_err();
    assert!(is_usage(&another));
    assert_said!(said(another, &[]), @r#"
    error: publication "p" does not exist in the database
      hint: CREATE PUBLICATION "p" FOR ALL TABLES (or FOR TABLE …), or name one that exists: a, b c
    "#);
    connection.check_publication("b c").unwrap();
}

async fn a_slot_that_is_none_of_ours_is_said(version: Version) {
    let mut connection = open(&server(version));
    let physical = new_name();
    run(
        &mut connection,
        &format!("SELECT pg_create_physical_replication_slot('{physical}', true)"),
    );
    run(&mut connection, "CREATE DATABASE elsewhere");
    let (_, elsewhere) = with_slot(&server(version).with_database("elsewhere"));
    let mut refused = |slot: &str| {
        let checked = connection.check_slot(slot, None).unwrap_err();
        let started = connection.start(&Stream::new(slot, "p")).unwrap_err();
        assert!(is_usage(&checked) && is_usage(&started));
        alike([checked, started], &[(slot, "SLOT")])
    };
    assert_said!(refused(&physical), @r#"
    error: replication slot "SLOT" is a physical slot, and has no rows to stream
      hint: name another slot, or create one: SELECT pg_create_logical_replication_slot('…', 'pgoutput')
    "#);
    assert_said!(refused(&elsewhere), @r#"
    error: replication slot "SLOT" belongs to database "elsewhere", and this one is "postgres"
      hint: connect to database "elsewhere", or name a slot of this one
    "#);

    // Of the server's contributed modules, which may not be installed.
    let (mut connection, decoding) = (open(&server(version)), new_name());
    let make = format!("SELECT pg_create_logical_replication_slot('{decoding}', 'test_decoding')");
    if connection.query("anything", &make).is_ok() {
        let checked = connection.check_slot(&decoding, None).unwrap_err();
        assert!(is_usage(&checked));
        assert_said!(said(checked, &[(&decoding, "SLOT")]), @r#"
        error: replication slot "SLOT" has the output plugin test_decoding, and walbench reads pgoutput
          hint: name another slot, or create one: SELECT pg_create_logical_replication_slot('…', 'pgoutput')
        "#);
    }
}

async fn who_holds_a_slot_is_said(version: Version) {
    let (mut connection, slot) = with_slot(&server(version));
    run(&mut connection, &format!("CREATE PUBLICATION {slot}"));
    let tcp = PostgresAddress { host: Host::Tcp("127.0.0.1".into()), ..server(version) };
    let mut holder = Connection::open(&tcp, "the holder").unwrap();
    let pid = run(&mut holder, "SELECT pg_backend_pid()").unwrap();
    holder.start(&Stream::new(&slot, &slot)).unwrap();
    let refused = [
        connection.check_slot(&slot, None).unwrap_err(),
        connection.start(&Stream::new(&slot, &slot)).unwrap_err(),
        connection.drop_slot(&slot).unwrap_err(),
    ];
    assert!(refused.iter().all(|error| is_usage(error) && error.is_slot_active()));
    assert_said!(alike(refused, &[(&slot, "SLOT"), (&pid, "<pid>")]), @r#"
    error: replication slot "SLOT" is active for PID <pid> (application "the holder", client 127.0.0.1)
      hint: the slot is in use by another connection, and walbench does not take it over: stop the other one, or name another slot
    "#);

    // The same connection goes on once the slot is free.
    holder.terminate();
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(refused) = connection.start(&Stream::new(&slot, &slot)) {
        assert!(refused.is_slot_active() && Instant::now() < deadline, "{refused:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn a_slot_that_somebody_else_moved_is_said(version: Version) {
    let (mut connection, slot) = with_slot(&server(version));
    let ours = connection.check_slot(&slot, None).unwrap().confirmed_flush_lsn.unwrap();
    connection.check_slot(&slot, Some(ours)).unwrap();
    run(&mut connection, "SELECT pg_logical_emit_message(true, 'test', '')");
    let advance = format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())");
    run(&mut connection, &advance);
    let theirs = connection.check_slot(&slot, None).unwrap().confirmed_flush_lsn.unwrap();
    assert!(theirs > ours);
    let moved = connection.check_slot(&slot, Some(ours)).unwrap_err();
    assert!(!moved.is_usage() && !moved.is_transient());
    let (ours, theirs) = (lsn_text(ours), lsn_text(theirs));
    let changing = [(slot.as_str(), "SLOT"), (&ours, "<ours>"), (&theirs, "<theirs>")];
    assert_said!(said(moved, &changing), @r#"
    error: replication slot "SLOT" is confirmed up to <theirs>, beyond <ours> up to where we have its changes: somebody else consumed from it
      hint: the changes between are missing at the destination for good: fill it again, and keep everything else from reading or advancing the slot
    "#);
}

async fn a_slot_whose_wal_was_removed_is_lost(version: Version) {
    let settings =
        ["max_slot_wal_keep_size = '1MB'", "min_wal_size = '32MB'", "max_wal_size = '32MB'"];
    let cluster = Cluster::start_with(version, &settings, &[]);
    let (mut connection, slot) = with_slot(&cluster.address());
    for _ in 0..20 {
        run(&mut connection, "SELECT pg_logical_emit_message(false, 'test', 'behind the slot')");
        run(&mut connection, "SELECT pg_switch_wal()");
        run(&mut connection, "CHECKPOINT");
        if Slot::read(&mut connection, &slot).unwrap().unwrap().lost.is_some() {
            break;
        }
    }
    let refused = [
        connection.check_slot(&slot, None).unwrap_err(),
        connection.start(&Stream::new(&slot, "p")).unwrap_err(),
    ];
    for error in &refused {
        let ReplicationError::SlotLost { reason, .. } = error else { panic!("{error:?}") };
        assert_eq!(reason, &LostReason::WalRemoved);
        assert!(!error.is_usage() && !error.is_transient());
    }
    assert_said!(alike(refused, &[(&slot, "SLOT")]), @r#"
    error: replication slot "SLOT" is lost: WAL that it needs was removed
      hint: the slot can't be repaired: raise max_slot_wal_keep_size, drop it with pg_drop_replication_slot, create it again, and fill the destination again
    "#);
    connection.drop_slot(&slot).unwrap();
    connection.create_slot(&CreateSlot::new(&slot)).unwrap();
    connection.check_slot(&slot, None).unwrap();
}

async fn too_little_in_the_wal_is_said(version: Version) {
    let cluster = Cluster::start_with(version, &["wal_level = replica"], &[]);
    let mut connection = open(&cluster.address());
    let refused = [
        connection.check_slot("s", None).unwrap_err(),
        connection.create_slot(&CreateSlot::new("s")).unwrap_err(),
        connection.start(&Stream::new("s", "p")).unwrap_err(),
    ];
    assert!(refused.iter().all(is_usage));
    assert_said!(alike(refused, &[]), @r#"
    error: wal_level is replica, and logical replication needs logical
      hint: ALTER SYSTEM SET wal_level = 'logical'; and restart the server
    "#);
}

async fn a_standby_has_slots_from_16_on(version: Version) {
    // A standby says that it accepts read-only connections, where the cluster waits for other
    // words; here they stand before every line of the log.
    let prefix = "log_line_prefix = 'ready to accept connections '";
    let cluster = Cluster::start_with(version, &[prefix], &[("standby.signal", "")]);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut connection = loop {
        match Connection::open(&cluster.address(), "test") {
            Ok(connection) => break connection,
            Err(error) => assert!(error.is_transient() && Instant::now() < deadline, "{error:?}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let refused = [
        connection.check_slot("s", None).unwrap_err(),
        connection.start(&Stream::new("s", "p")).unwrap_err(),
    ];
    assert!(refused.iter().all(is_usage));
    let is_missing =
        |error: &ReplicationError| matches!(error, ReplicationError::SlotMissing { .. });
    if connection.server_version() < 160_000 {
        assert_said!(alike(refused, &[]), @r#"
        error: the server is a standby, and before PostgreSQL 16 a standby has no logical replication
          hint: name the primary in the address
        "#);
    } else {
        assert!(refused.iter().all(is_missing), "{refused:?}");
    }
}

async fn a_role_that_may_not_is_told_from_one_that_may_not_enter(version: Version) {
    let mut connection = open(&server(version));
    run(&mut connection, "CREATE ROLE clear_user LOGIN PASSWORD 'c'");
    let mut address = PostgresAddress { host: Host::Tcp("127.0.0.1".into()), ..server(version) };
    address.user = Some("clear_user".into());
    address.password = Some("c".into());
    let refused = Connection::open(&address, "test").unwrap_err();
    assert!(is_usage(&refused));
    assert_said!(said(refused, &[]), @r#"
    error: role "clear_user" may not replicate
      caused by: <its words>
      hint: ALTER ROLE "clear_user" REPLICATION
    "#);

    run(&mut connection, "ALTER ROLE clear_user REPLICATION");
    run(&mut connection, "CREATE DATABASE closed");
    run(&mut connection, "REVOKE CONNECT ON DATABASE closed FROM PUBLIC");
    let refused = Connection::open(&address.with_database("closed"), "test").unwrap_err();
    assert!(is_usage(&refused));
    assert_said!(said(refused, &[]), @r#"
    error: PostgreSQL refused the login
      caused by: <its words>
      hint: the role lacks a privilege: GRANT it, or log in as another role
    "#);
    Connection::open(&address, "test").unwrap().terminate();
}

async fn a_server_without_room_may_have_some_later(version: Version) {
    let cluster = Cluster::start_with(version, &["max_wal_senders = 1"], &[]);
    let first = open(&cluster.address());
    let refused = Connection::open(&cluster.address(), "test").unwrap_err();
    assert!(refused.is_transient() && !refused.is_usage());
    assert_said!(said(refused, &[]), @r#"
    error: PostgreSQL has no room for another replication connection
      caused by: <its words>
      hint: end replication connections that are not needed, or raise max_wal_senders and restart the server
    "#);
    first.terminate();
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(refused) = Connection::open(&cluster.address(), "test") {
        assert!(refused.is_transient() && Instant::now() < deadline, "{refused:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn a_slot_that_has_to_wait_too_long_is_not_made(version: Version) {
    // With no place for a second WAL sender, to see that looking around needs none.
    let settings = ["max_wal_senders = 1", "max_prepared_transactions = 1"];
    let cluster = Cluster::start_with(version, &settings, &[]);
    let mut connection = open(&cluster.address());
    let writer = session(&cluster.address()).await;
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let wanted = CreateSlot { timeout: Duration::from_millis(300), ..CreateSlot::new("s") };
    writer.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    let blocked = connection.create_slot(&wanted).unwrap_err();
    assert!(blocked.is_transient() && !blocked.is_usage());
    let ReplicationError::SlotBlocked { blockers, .. } = &blocked else { panic!("{blocked:?}") };
    assert_eq!((blockers.sessions, blockers.oldest_pid), (1, u32::try_from(pid).ok()));
    let (pid, age) = (format!("PID {pid}"), format!("for {} s", blockers.oldest_age_s.unwrap()));
    assert_said!(said(blocked, &[(&pid, "PID <pid>"), (&age, "for <age> s")]), @r#"
    error: replication slot "s" was not made within 0.3 s: PostgreSQL waits for the end of 1 transaction that wrote, the oldest of PID <pid>, open for <age> s
      hint: a slot can only be made where no transaction that writes is open: end them or wait for their end, then try again
    "#);
    assert_eq!(Slot::read(&mut connection, "s").unwrap(), None);

    writer.batch_execute("PREPARE TRANSACTION 'forgotten'").await.unwrap();
    let blocked = connection.create_slot(&wanted).unwrap_err();
    assert_said!(said(blocked, &[]), @r#"
    error: replication slot "s" was not made within 0.3 s: PostgreSQL waits for the end of 1 prepared transaction, the oldest 'forgotten'
      hint: a slot can only be made where no transaction that writes is open: end them or wait for their end, then try again
    "#);
    writer.batch_execute("ROLLBACK PREPARED 'forgotten'").await.unwrap();
    assert_eq!(Slot::read(&mut connection, "s").unwrap(), None);
    connection.create_slot(&CreateSlot::new("s")).unwrap();
    connection.check_slot("s", None).unwrap();
}

/// A session like any other: how long a WAL sender's transaction is open is shown to nobody.
async fn session(address: &PostgresAddress) -> tokio_postgres::Client {
    let Host::Unix(folder) = &address.host else { panic!("the tests' server has a Unix socket") };
    let mut config = tokio_postgres::Config::new();
    config.host_path(folder).port(address.port).user("postgres").dbname("postgres");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

//! Whether a server that exists can serve a run, checked before anything is made on it.

use tokio_postgres::Client;
use walbench_metrics::Failure;
use walbench_phases::Plan;

use super::control::{Control, refused};

/// PostgreSQL 14 brought logical decoding messages to pgoutput.
const OLDEST_VERSION_NUM: i32 = 140_000;

/// Sessions of the orchestrator's own, the doctor's included.
const OWN_CONNECTIONS: i64 = 4;

/// Sessions that look at what another program does in a consumer's place.
const CONNECTIONS_OF_A_KEEPER: i64 = 2;

/// What the checks look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) version: String,
    pub(crate) version_num: i32,
    pub(crate) in_recovery: bool,
    pub(crate) wal_level: String,
    pub(crate) max_slots: i64,
    pub(crate) used_slots: i64,
    pub(crate) max_senders: i64,
    pub(crate) used_senders: i64,
    pub(crate) max_connections: i64,
    pub(crate) used_connections: i64,
    pub(crate) role: String,
    pub(crate) is_superuser: bool,
    pub(crate) may_replicate: bool,
    pub(crate) may_create_databases: bool,
}

const SQL: &str = "
SELECT current_setting('server_version'), current_setting('server_version_num')::int,
       pg_is_in_recovery(), current_setting('wal_level'),
       current_setting('max_replication_slots')::bigint,
       (SELECT count(*) FROM pg_replication_slots),
       current_setting('max_wal_senders')::bigint,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender'),
       current_setting('max_connections')::bigint
         - current_setting('superuser_reserved_connections')::bigint,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       rolname::text, rolsuper, rolreplication, rolcreatedb
FROM pg_roles WHERE rolname = current_user";

/// Reads the facts.
pub(crate) async fn facts(client: &Client) -> Result<Facts, Failure> {
    let row = client
        .query_one(SQL, &[])
        .await
        .map_err(|e| refused("say what it is and what it allows", &e))?;
    Ok(Facts {
        version: row.get(0),
        version_num: row.get(1),
        in_recovery: row.get(2),
        wal_level: row.get(3),
        max_slots: row.get(4),
        used_slots: row.get(5),
        max_senders: row.get(6),
        used_senders: row.get(7),
        max_connections: row.get(8),
        used_connections: row.get(9),
        role: row.get(10),
        is_superuser: row.get(11),
        may_replicate: row.get(12),
        may_create_databases: row.get(13),
    })
}

/// Refuses a server that can't serve the plan, with every reason and its remedy.
pub(crate) async fn check(control: &Control, plan: &Plan) -> Result<Facts, Failure> {
    let facts = facts(&control.client).await?;
    let problems = problems(&facts, plan);
    if problems.is_empty() {
        return Ok(facts);
    }
    let mut failure =
        Failure::new(format!("the server at {} can't serve this run", control.address));
    let (causes, remedies): (Vec<_>, Vec<_>) = problems.into_iter().unzip();
    failure.causes = causes;
    Err(failure.hint(remedies.join("\n")))
}

/// What is wrong, and what to do about each.
fn problems(facts: &Facts, plan: &Plan) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut problem = |wrong: bool, what: String, remedy: String| {
        if wrong {
            found.push((what, remedy));
        }
    };
    let Facts { version, wal_level, role, .. } = facts;
    problem(
        facts.version_num < OLDEST_VERSION_NUM,
        format!("it is PostgreSQL {version}, and 14 is the oldest that walbench works with"),
        "use a newer server, or leave postgres.url out for a private one".into(),
    );
    problem(
        facts.in_recovery,
        "it is a standby, which can't be written to".into(),
        "name the primary in postgres.url".into(),
    );
    problem(
        wal_level != "logical",
        format!("its wal_level is {wal_level}"),
        "ALTER SYSTEM SET wal_level = 'logical'; and restart the server".into(),
    );
    let consumers = i64::from(plan.consumer.processes);
    let mut room = |what: &str, setting: &str, max: i64, used: i64, needed: i64| {
        problem(
            max - used < needed,
            format!("{used} of its {max} {what} are in use, and {needed} more are needed"),
            format!("ALTER SYSTEM SET {setting} = {}; and restart the server", used + needed),
        );
    };
    let (slots, senders) = ("replication slots", "WAL senders");
    // Another program's slot has a second one beside it, which is read too; ceilings have one each.
    let ledgers = if plan.consumer.is_external() { consumers } else { 0 };
    let ceilings = if plan.profiling.ceiling { consumers } else { 0 };
    let needed_slots = consumers + ledgers + ceilings;
    room(slots, "max_replication_slots", facts.max_slots, facts.used_slots, needed_slots);
    let needed_senders = consumers + ledgers;
    room(senders, "max_wal_senders", facts.max_senders, facts.used_senders, needed_senders);
    let producers = match plan.producer.enabled {
        true => i64::from(plan.producer.processes) * i64::from(plan.producer.connections),
        false => 0,
    };
    let looks = if plan.consumer.is_external() { CONNECTIONS_OF_A_KEEPER * consumers } else { 0 };
    let connections = producers + OWN_CONNECTIONS + looks;
    room(
        "connections",
        "max_connections",
        facts.max_connections,
        facts.used_connections,
        connections,
    );
    problem(
        !(facts.is_superuser || facts.may_replicate),
        format!("role \"{role}\" may not replicate"),
        format!("ALTER ROLE \"{role}\" REPLICATION"),
    );
    problem(
        !(facts.is_superuser || facts.may_create_databases),
        format!("role \"{role}\" may not create a database"),
        format!("ALTER ROLE \"{role}\" CREATEDB"),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let source = walbench_phases::find("quickstart").unwrap();
        walbench_phases::load(&source, &[]).unwrap()
    }

    fn good() -> Facts {
        Facts {
            version: "15.4".into(),
            version_num: 150_004,
            in_recovery: false,
            wal_level: "logical".into(),
            max_slots: 10,
            used_slots: 9,
            max_senders: 10,
            used_senders: 0,
            max_connections: 97,
            used_connections: 1,
            role: "app".into(),
            is_superuser: false,
            may_replicate: true,
            may_create_databases: true,
        }
    }

    #[test]
    fn a_server_that_can_serve_has_no_problem() {
        assert_eq!(problems(&good(), &plan()), []);
    }

    #[test]
    fn another_program_needs_two_slots() {
        let mut plan = plan();
        plan.consumer.command = vec!["a".into()];
        let said = problems(&good(), &plan);
        assert_eq!(said[0].0, "9 of its 10 replication slots are in use, and 2 more are needed");
        assert_eq!(problems(&Facts { used_slots: 8, ..good() }, &plan), []);
    }

    #[test]
    fn ceilings_need_a_slot_more_for_each_consumer() {
        let mut plan = plan();
        plan.profiling.ceiling = true;
        let (what, _) = problems(&good(), &plan).remove(0);
        assert_eq!(what, "9 of its 10 replication slots are in use, and 2 more are needed");
        assert_eq!(problems(&Facts { used_slots: 8, ..good() }, &plan), []);
    }

    #[test]
    fn every_problem_is_said_with_its_remedy() {
        let bad = Facts {
            version: "13.2".into(),
            version_num: 130_002,
            in_recovery: true,
            wal_level: "replica".into(),
            used_slots: 10,
            used_senders: 10,
            used_connections: 97,
            may_replicate: false,
            may_create_databases: false,
            ..good()
        };
        let said: Vec<String> =
            problems(&bad, &plan()).into_iter().map(|(a, b)| format!("{a}\n  {b}")).collect();
        insta::assert_snapshot!(said.join("\n"), @r#"
        it is PostgreSQL 13.2, and 14 is the oldest that walbench works with
          use a newer server, or leave postgres.url out for a private one
        it is a standby, which can't be written to
          name the primary in postgres.url
        its wal_level is replica
          ALTER SYSTEM SET wal_level = 'logical'; and restart the server
        10 of its 10 replication slots are in use, and 1 more are needed
          ALTER SYSTEM SET max_replication_slots = 11; and restart the server
        10 of its 10 WAL senders are in use, and 1 more are needed
          ALTER SYSTEM SET max_wal_senders = 11; and restart the server
        97 of its 97 connections are in use, and 8 more are needed
          ALTER SYSTEM SET max_connections = 105; and restart the server
        role "app" may not replicate
          ALTER ROLE "app" REPLICATION
        role "app" may not create a database
          ALTER ROLE "app" CREATEDB
        "#);
    }
}

//! A schema of the user's own is copied and filled.

use walbench_results::verdict::Verdict;

use crate::home::{Home, SHORT_PLAN};
use crate::server::Server;
use crate::turns::together;

/// Most of what people have in their tables.
const SCHEMA: &str = "
CREATE SCHEMA shop;
CREATE TYPE shop.state AS ENUM ('new', 'paid', 'sent');
CREATE DOMAIN shop.positive AS integer CHECK (VALUE > 0);
CREATE TABLE shop.customer (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    email varchar(60) NOT NULL UNIQUE,
    code char(4),
    born date,
    is_good boolean NOT NULL DEFAULT true
);
CREATE TABLE shop.\"Order\" (
    id uuid PRIMARY KEY,
    customer bigint NOT NULL REFERENCES shop.customer,
    state shop.state NOT NULL DEFAULT 'new',
    pieces smallint,
    boxes shop.positive,
    weight real,
    volume double precision,
    price numeric(12, 2) NOT NULL,
    priced numeric,
    placed timestamptz NOT NULL DEFAULT now(),
    local timestamp(3),
    at time,
    waits interval,
    details jsonb,
    note json,
    tags text[],
    counts integer[],
    file bytea,
    address inet,
    total numeric GENERATED ALWAYS AS (price * 2) STORED
);
CREATE TABLE public.plain (id serial PRIMARY KEY, text text);
";

#[test]
fn a_copied_schema_is_filled() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    server.session("postgres").execute("CREATE DATABASE shop");
    server.session("shop").execute(SCHEMA);
    let url = server.url_of("postgres", "shop");
    let copied = |name: &str, tables: &str| {
        let command = home.run(SHORT_PLAN).on(server, name).args(["--output", name]);
        let command = command.set("postgres.schema_from", &url).set("producer.tables", tables);
        command.set("limits.rate_tolerance_percent", "100").ended()
    };
    let all = r#"["shop.customer", "shop.Order", "plain"]"#;
    copied("runs", all).with_code(0);
    let metrics = home.metrics();
    let seen = &metrics.verification;
    assert_eq!(seen.verdict, Verdict::Pass, "{seen:#?}");
    assert_eq!((seen.expected_rows, seen.delivered_rows), (Some(500), 500));
    let producer = metrics.phases[0].producer.as_ref().unwrap();
    assert!(producer.inserts > 0 && producer.updates > 0 && producer.failed_rows == 0);
    let notes = metrics.notes.join("\n");
    assert!(notes.contains("foreign key"), "{notes}");

    copied("unknown", r#"["shop.costumer"]"#).with_code(4).said("shop.costumer");
    let rows: i64 = server.session("shop").value("SELECT count(*) FROM shop.customer");
    assert_eq!(rows, 0, "the schema's own database was written to");
    server.session("postgres").execute("DROP DATABASE shop");
    assert_eq!(server.left("unknown"), Vec::<String>::new());
}

#[test]
fn a_table_that_does_not_exist_is_named() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    let command = home.run(SHORT_PLAN).on(server, "no_table");
    let ended = command.set("producer.tables", r#"["event", "evnet"]"#).ended().with_code(2);
    ended
        .said("there is no built-in table \"evnet\"")
        .said("hint: built-in tables are \"task_run\", \"event\"");
    assert_eq!(server.left("no_table"), Vec::<String>::new());
}

#[test]
fn a_schema_that_cannot_be_copied_says_why() {
    let _turn = together();
    let (home, server) = (Home::new(), Server::shared());
    let url = server.url_of("postgres", "nowhere");
    let command = home.run(SHORT_PLAN).on(server, "no_schema").set("postgres.schema_from", &url);
    command.ended().with_code(4).said("pg_dump").said("database \"nowhere\" does not exist");
    assert_eq!(server.left("no_schema"), Vec::<String>::new());
}

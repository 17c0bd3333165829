//! What needs more than one field, or more than a bound, to be judged.

use std::collections::BTreeSet;

use walbench_metrics::Window;

use crate::address::PostgresAddress;
use crate::hint::list;
use crate::key::KeyPath;
use crate::plan::{
    BUILTIN_TABLES, Clickhouse, ClickhouseMode, Consumer, Distribution, Phase, Plan, Postgres,
    Producer, ReplicaIdentity,
};
use crate::schedule::Shape;
use crate::threshold::Threshold;
use crate::url::Url;

/// Something wrong with a plan.
pub(crate) struct Finding {
    /// The key it is reported at, then the others it was concluded from.
    pub(crate) keys: Vec<KeyPath>,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// Everything wrong with a plan whose structure is right.
pub(crate) fn check(plan: &Plan) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    findings.phases(&plan.phases, &plan.producer);
    findings.postgres(&plan.postgres);
    findings.clickhouse(&plan.clickhouse);
    findings.producer(&plan.producer, &plan.postgres);
    findings.consumer(&plan.consumer, &plan.producer);
    for (name, expression) in &plan.thresholds {
        if let Err(error) = Threshold::parse(expression) {
            let key = KeyPath::root().then("thresholds").then(name.as_str());
            findings.add([key], error.message, error.hint);
        }
    }
    findings.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add<const N: usize>(
        &mut self,
        keys: [KeyPath; N],
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        let (message, hint) = (message.into(), hint.into());
        self.0.push(Finding { keys: keys.into(), message, hint });
    }

    fn phases(&mut self, phases: &[Phase], producer: &Producer) {
        let producers_write = producer.enabled;
        let mut names = BTreeSet::new();
        for (index, phase) in phases.iter().enumerate() {
            let key = |name: &str| KeyPath::root().then("phases").then(index).then(name);
            if !names.insert(&phase.name) {
                let message = format!("another phase is called \"{}\"", phase.name);
                self.add([key("name")], message, said("give each phase a name of its own"));
            }
            if producers_write && phase.target_throughput <= 0.0 {
                self.add(
                    [key("target_throughput"), KeyPath::root().then("producer").then("enabled")],
                    format!("must be above 0, is {}", phase.target_throughput),
                    said("set producer.enabled = false to measure what others write"),
                );
            }
            let rows = Shape::new(phase).rows(Window::Measured);
            if producers_write && rows > 0.0 && rows < f64::from(producer.batch_size) {
                let batch = producer.batch_size;
                self.add(
                    [key("target_throughput"), key("duration_sec")],
                    format!("plans {rows:.1} rows, less than one transaction of {batch}"),
                    said("lower producer.batch_size, or make the phase longer"),
                );
            }
            if phase.start_throughput.is_some() && phase.burst.is_some() {
                let message = "a phase can't have both start_throughput and burst";
                self.add(
                    [key("start_throughput"), key("burst")],
                    message,
                    said("make them two phases, a ramp and then bursts"),
                );
            }
            if let Some(burst) = phase.burst.as_ref().filter(|it| it.length_sec >= it.every_sec) {
                let below = |name: &str| key("burst").then(name);
                let (length, every) = (burst.length_sec, burst.every_sec);
                self.add(
                    [below("length_sec"), below("every_sec")],
                    format!("must be less than every_sec ({every}), is {length}"),
                    None,
                );
            }
        }
    }

    fn postgres(&mut self, postgres: &Postgres) {
        let key = |name: &str| KeyPath::root().then("postgres").then(name);
        for (name, url) in [("url", &postgres.url), ("schema_from", &postgres.schema_from)] {
            if let Some(Err(error)) = url.as_deref().map(PostgresAddress::parse) {
                self.add([key(name)], error.message, error.hint);
            }
        }
        if postgres.url.is_some() && !postgres.settings.is_empty() {
            self.add(
                [key("settings"), key("url")],
                "has no effect: postgres.url names a server that walbench does not start",
                said("leave out one of postgres.settings and postgres.url"),
            );
        }
    }

    fn clickhouse(&mut self, clickhouse: &Clickhouse) {
        let key = |name: &str| KeyPath::root().then("clickhouse").then(name);
        let needs_url = clickhouse.mode == ClickhouseMode::Url;
        match &clickhouse.url {
            None if needs_url => self.add(
                [key("url"), key("mode")],
                "is missing, and clickhouse.mode is \"url\"",
                said("set it to the server's HTTP URL, such as http://localhost:8123"),
            ),
            Some(_) if !needs_url => self.add(
                [key("url"), key("mode")],
                "has no effect unless clickhouse.mode is \"url\"",
                said("set clickhouse.mode = \"url\", or leave clickhouse.url out"),
            ),
            _ => {}
        }
        if let Some(Err(message)) = clickhouse.url.as_deref().map(check_http_url) {
            self.add([key("url")], message, said("write it as http://user:password@host:8123"));
        }
    }

    fn producer(&mut self, producer: &Producer, postgres: &Postgres) {
        let replica_identity = postgres.replica_identity;
        let key = |name: &str| KeyPath::root().then("producer").then(name);
        let mut tables = BTreeSet::new();
        for (index, table) in producer.tables.iter().enumerate() {
            if !tables.insert(table) {
                let message = format!("the table \"{table}\" is named before");
                self.add([key("tables").then(index)], message, said("name each table once"));
            }
            if postgres.schema_from.is_none() && !BUILTIN_TABLES.contains(&table.as_str()) {
                let message = format!("there is no built-in table \"{table}\"");
                let hint = format!(
                    "built-in tables are {}; to fill your own, name their database in \
                     postgres.schema_from",
                    list(BUILTIN_TABLES)
                );
                self.add([key("tables").then(index)], message, hint);
            }
        }
        if !producer.enabled {
            return;
        }
        let ratio = producer.insert_update_ratio;
        if ratio <= 0.0 {
            self.add(
                [key("insert_update_ratio"), key("enabled")],
                format!(
                    "must be above 0, is {ratio}: there must be rows before any can be updated"
                ),
                said("0.1 makes nine updates for each insert"),
            );
        }
        if ratio < 1.0 && replica_identity == ReplicaIdentity::Nothing {
            let identity = KeyPath::root().then("postgres").then("replica_identity");
            self.add(
                [identity, key("insert_update_ratio"), key("enabled")],
                "PostgreSQL refuses updates of published tables whose replica identity is \"nothing\"",
                said("set producer.insert_update_ratio = 1.0, or another replica identity"),
            );
        }
    }

    fn consumer(&mut self, consumer: &Consumer, producer: &Producer) {
        let key = |name: &str| KeyPath::root().then("consumer").then(name);
        let tables = producer.tables.len();
        let divided = consumer.distribution == Distribution::Divided;
        if divided && consumer.processes as usize > tables {
            let from_producer = |name: &str| KeyPath::root().then("producer").then(name);
            self.add(
                [key("processes"), key("distribution"), from_producer("tables")],
                format!(
                    "must be at most {tables}, is {}: each consumer needs a table of its own \
                     when tables are divided",
                    consumer.processes
                ),
                said("name more producer.tables, or set consumer.distribution = \"all\""),
            );
        }
        let (batch, bound) = (consumer.flush_batch_bytes, consumer.max_in_flight_bytes);
        if batch > bound {
            self.add(
                [key("flush_batch_bytes"), key("max_in_flight_bytes")],
                format!("must be at most consumer.max_in_flight_bytes ({bound}), is {batch}"),
                said("reading stops at that bound, so that such a batch would never be full"),
            );
        }
    }
}

fn said(hint: &str) -> Option<String> {
    Some(hint.into())
}

/// Never shows the URL: it may hold a password.
fn check_http_url(text: &str) -> Result<(), &'static str> {
    let url = Url::split(text).ok_or("not a URL")?;
    if !["http", "https"].contains(&url.scheme) {
        return Err("the URL's scheme is neither http nor https");
    }
    if url.host.is_empty() || url.host.contains(|c: char| c == '@' || c.is_whitespace()) {
        return Err("the URL names no host");
    }
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if !url.port.is_none_or(is_port) {
        return Err("the URL's port is not a number from 1 to 65535");
    }
    Ok(())
}

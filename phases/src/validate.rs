//! What needs more than one field, or more than a bound, to be judged.

use std::collections::BTreeSet;

use walbench_metrics::Window;

use crate::address::PostgresAddress;
use crate::clickhouse::ClickhouseAddress;
use crate::command::{PlaceholderError, placeholders};
use crate::hint::list;
use crate::key::KeyPath;
use crate::plan::{
    BUILTIN_TABLES, Clickhouse, ClickhouseMode, Consumer, Distribution, Fault, FaultKind,
    MockLevel, MockServer, Phase, Plan, Postgres, Producer, Profiling, ProfilingBackend,
    ReplicaIdentity,
};
use crate::schedule::Shape;
use crate::threshold::Threshold;

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
    findings.mock_server(plan);
    findings.producer(&plan.producer, &plan.postgres);
    findings.consumer(&plan.consumer, &plan.producer);
    findings.profiling(&plan.profiling);
    findings.command(plan);
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
        if let Some(Err(error)) = clickhouse.url.as_deref().map(ClickhouseAddress::parse) {
            self.add([key("url")], error.message, error.hint);
        }
    }

    fn mock_server(&mut self, plan: &Plan) {
        let below = |section: &str, name: &str| KeyPath::root().then(section).then(name);
        let (mock, consumer) = (&plan.clickhouse.mock, &plan.consumer);
        let is_served =
            plan.clickhouse.mode == ClickhouseMode::Mock && consumer.mock_level == MockLevel::Http;
        if *mock != MockServer::default() && !is_served {
            let needs = [below("clickhouse", "mode"), below("consumer", "mock_level")];
            let [mode, level] = needs;
            self.add(
                [below("clickhouse", "mock"), mode, level],
                "has no effect: it is about the mock ClickHouse server",
                said("set consumer.mock_level = \"http\", with clickhouse.mode = \"mock\""),
            );
        }
        if mock.delay_ms.is_some() && consumer.mock_delay_ms > 0 {
            self.add(
                [below("clickhouse", "mock").then("delay_ms"), below("consumer", "mock_delay_ms")],
                "says the same as consumer.mock_delay_ms",
                said("leave one of them out"),
            );
        }
        for (index, fault) in mock.faults.iter().enumerate() {
            self.fault(&below("clickhouse", "mock").then("faults").then(index), fault, plan);
        }
    }

    fn fault(&mut self, key: &KeyPath, fault: &Fault, plan: &Plan) {
        let kind = fault.kind;
        if let Some(phase) = &fault.phase
            && !plan.phases.iter().any(|it| it.name == *phase)
        {
            let names: Vec<&str> = plan.phases.iter().map(|it| it.name.as_str()).collect();
            let hint = format!("phases are {}", list(names));
            self.add([key.then("phase")], format!("no phase is called \"{phase}\""), hint);
        }
        use FaultKind::{Cut, Delay, Error, Hang, Outage, Throttle};
        let of_inserts: &[FaultKind] = &[Error, Hang, Cut, Delay, Throttle];
        for (name, is_set, kinds) in [
            ("share", fault.share < 1.0, of_inserts),
            ("applied_share", fault.applied_share.is_some(), &[Error, Hang, Cut]),
            ("status", fault.status.is_some(), &[Error]),
            ("code", fault.code.is_some(), &[Error]),
            ("delay_ms", fault.delay_ms.is_some(), &[Delay]),
            ("rows_per_sec", fault.rows_per_sec.is_some(), &[Throttle]),
        ] {
            if is_set && !kinds.contains(&kind) {
                let kinds = list(kinds.iter().map(|kind| kind.name()));
                let message = format!("means nothing to a fault of kind \"{}\"", kind.name());
                self.add([key.then(name), key.then("kind")], message, format!("it is for {kinds}"));
            }
        }
        let missing = match kind {
            Error if fault.status.is_some() == fault.code.is_some() => Some((
                "status",
                "an error has either a status or a code",
                "status = 503 is an error of a proxy's, code = 252 one of ClickHouse's",
            )),
            Delay if fault.delay_ms.is_none() => {
                Some(("delay_ms", "is missing", "it is the time that the delay adds, in ms"))
            }
            Throttle if fault.rows_per_sec.is_none() => {
                Some(("rows_per_sec", "is missing", "it is the rate that the throttle leaves"))
            }
            Outage | Error | Hang | Cut | Delay | Throttle => None,
        };
        if let Some((name, message, hint)) = missing {
            self.add([key.then(name), key.then("kind")], message, said(hint));
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

    /// pprof's signal may come in the middle of an allocation that is being sampled.
    fn profiling(&mut self, profiling: &Profiling) {
        let key = |name: &str| KeyPath::root().then("profiling").then(name);
        let is_pprof = profiling.backend == ProfilingBackend::Pprof;
        if profiling.heap && is_pprof && profiling.wants_flames() {
            self.add(
                [key("heap"), key("backend"), key("tool")],
                "can't be true where CPU is sampled by pprof: both look at stacks from within the process",
                said("set profiling.backend = \"perf-event\", or leave flamegraphs for another run"),
            );
        }
    }

    /// Another program in the consumers' place.
    fn command(&mut self, plan: &Plan) {
        let consumer = &plan.consumer;
        let key = |name: &str| KeyPath::root().then("consumer").then(name);
        if consumer.command.first().is_some_and(String::is_empty) {
            let hint =
                said("it is the program and its arguments, such as [\"my-consumer\", \"{slot}\"]");
            self.add([key("command").then(0)], "must not be empty", hint);
        }
        for (index, argument) in consumer.command.iter().enumerate() {
            self.placeholders(&key("command").then(index), argument, plan);
        }
        self.own_keys(plan);
        let Some(sql) = &consumer.visible_sql else { return };
        self.placeholders(&key("visible_sql"), sql, plan);
        if !consumer.is_external() {
            let hint =
                said("walbench's own consumer tells when ClickHouse has its rows: leave it out");
            self.add(
                [key("visible_sql"), key("command")],
                "has no effect without consumer.command",
                hint,
            );
        } else if !plan.has_clickhouse() {
            let mode = KeyPath::root().then("clickhouse").then("mode");
            self.add(
                [key("visible_sql"), mode],
                "asks a ClickHouse, and the plan has none",
                said(A_CLICKHOUSE),
            );
        }
    }

    fn placeholders(&mut self, key: &KeyPath, text: &str, plan: &Plan) {
        match placeholders(text) {
            Err(PlaceholderError { message, hint }) => self.add([key.clone()], message, hint),
            Ok(found) => {
                let needs = found.into_iter().find(|placeholder| placeholder.needs_clickhouse());
                if let Some(placeholder) = needs.filter(|_| !plan.has_clickhouse()) {
                    let name = placeholder.name();
                    let message = format!("{{{name}}} is of a ClickHouse, and the plan has none");
                    let mode = KeyPath::root().then("clickhouse").then("mode");
                    self.add([key.clone(), mode], message, said(A_CLICKHOUSE));
                }
            }
        }
    }

    /// What asks a command for something that only walbench's own consumer gives.
    fn own_keys(&mut self, plan: &Plan) {
        let (consumer, profiling) = (&plan.consumer, &plan.profiling);
        let key = |name: &str| KeyPath::root().then("consumer").then(name);
        for (name, is_set) in [("heap", profiling.heap), ("ceiling", profiling.ceiling)] {
            if consumer.is_external() && is_set {
                self.add(
                    [KeyPath::root().then("profiling").then(name), key("command")],
                    "looks into walbench's own consumer, whose place consumer.command takes",
                    said("leave one of them out"),
                );
            }
        }
        let is_own = matches!(consumer.mock_level, MockLevel::Discard | MockLevel::Files);
        if consumer.is_external() && is_own {
            self.add(
                [key("mock_level"), key("command")],
                "is a way of walbench's own consumer, whose place consumer.command takes",
                said("leave one of them out, or set \"http\" to have a mock server"),
            );
        }
    }
}

/// What gives a plan a ClickHouse.
const A_CLICKHOUSE: &str =
    "set clickhouse.mode = \"managed\" or \"url\", or consumer.mock_level = \"http\"";

fn said(hint: &str) -> Option<String> {
    Some(hint.into())
}

//! The mock as an engine: statements on what it keeps, and inserts as their fate has it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use walbench_metrics::clock::wall_us;
use walbench_phases::faults::{PhaseStarts, is_active};
use walbench_phases::plan::{Fault, FaultKind, MockServer};

use super::counters::Counters;
use super::databases::{DEFAULT, Databases, lock};
use super::fate::{Delay, Fate, decide};
use super::insert::Insert;
use super::pace::Pace;
use super::parse::{self, Select, Statement, TableName};
use super::running::Running;
use super::select::{self, Format, Relation};
use super::table::Table;
use crate::clickhouse::column_type::ColumnType;
use crate::clickhouse::exception::{Exception, READONLY, UNKNOWN_TABLE};
use crate::clickhouse::front::{self, Answer, Engine, Query, Summary, Trouble};

/// The version that it claims to be: one with all that our sink can use.
pub const VERSION: &str = "26.3.1.1";

/// Parts of a result that wait for the client.
const PARTS_WAITING: usize = 2;

/// What a mock is told to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// The plan's section.
    pub plan: MockServer,
    /// The delay where that section has none, in ms.
    pub delay_ms: u64,
    /// The seed of everything that is random.
    pub seed: u64,
}

/// A mock ClickHouse.
#[derive(Debug)]
pub struct Mock {
    options: Options,
    databases: Mutex<Databases>,
    pub(super) running: Running,
    pub(super) pace: Pace,
    /// Inserts so far.
    inserts: AtomicU64,
    counters: Mutex<Counters>,
    starts: watch::Sender<PhaseStarts>,
}

impl Mock {
    /// An empty one. Its faults begin with its phases.
    #[must_use]
    pub fn new(options: Options) -> Arc<Self> {
        Arc::new(Self {
            options,
            databases: Mutex::new(Databases::new()),
            running: Running::default(),
            pace: Pace::default(),
            inserts: AtomicU64::new(0),
            counters: Mutex::default(),
            starts: watch::Sender::default(),
        })
    }

    /// A phase begins at that time of the wall clock, in µs.
    pub fn begin(&self, phase: &str, start_us: i64) {
        self.starts.send_modify(|starts| starts.begin(phase, start_us));
    }

    /// When phases began, as it is told.
    pub(super) fn starts(&self) -> watch::Receiver<PhaseStarts> {
        self.starts.subscribe()
    }

    pub(super) fn faults(&self) -> &[Fault] {
        &self.options.plan.faults
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.count().clone()
    }

    pub(super) fn count(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Faults strike an insert, or an outage begins.
    pub(super) fn count_faults(&self, kinds: &[FaultKind]) {
        let mut counters = self.count();
        for kind in kinds {
            *counters.faults.entry(*kind).or_default() += 1;
        }
    }

    fn databases(&self) -> MutexGuard<'_, Databases> {
        self.databases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_fate(&self) -> Fate {
        let Options { plan, delay_ms, seed } = &self.options;
        let (starts, now_us) = (self.starts.borrow().clone(), wall_us());
        let active = plan.faults.iter().filter(|fault| is_active(fault, &starts, now_us));
        let mean_ms = plan.delay_ms.unwrap_or(*delay_ms);
        let delay = Delay { mean_ms, distribution: plan.delay_distribution };
        let number = self.inserts.fetch_add(1, Ordering::Relaxed);
        decide(delay, plan.rows_per_sec, active, *seed, number)
    }
}

/// Shared by all that an engine does, some of which outlives whoever asked.
#[derive(Clone, Debug)]
pub struct MockEngine(pub Arc<Mock>);

impl Engine for MockEngine {
    fn name(&self) -> String {
        "walbench (mock)".into()
    }

    fn version(&self) -> String {
        VERSION.into()
    }

    async fn run(&self, query: Query) -> Result<Answer, Trouble> {
        let database = query.database.clone().filter(|name| !name.is_empty());
        let database = database.unwrap_or_else(|| DEFAULT.into());
        self.0.databases().check(&database)?;
        let text = match &query.statement {
            front::Statement::Insert { into, .. } => into.clone(),
            front::Statement::Other(text) => text.clone(),
        };
        let mut place = self.0.running.take(query.place.clone(), &query.query_id, text);
        let is_readonly =
            query.settings.iter().any(|(name, value)| name == "readonly" && value != "0");
        match query.statement {
            front::Statement::Insert { .. } if is_readonly => Err(readonly().into()),
            front::Statement::Insert { into, format, data } => {
                let token = setting(&query.settings, "insert_deduplication_token");
                let fate = self.0.next_fate();
                self.0.count_faults(&fate.kinds);
                let insert = Insert { mock: self.0.clone(), database, into, format, token };
                insert.meet(data, fate, place).await
            }
            front::Statement::Other(text) => {
                let statement = parse::statement(&text)?;
                let may_run = matches!(statement, Statement::Select(_) | Statement::Describe(_));
                if is_readonly && !may_run {
                    return Err(readonly().into());
                }
                let answer = self.0.answer(statement, &database, &query.default_format);
                Ok(place.unless_killed(answer).await??)
            }
        }
    }
}

fn setting(settings: &[(String, String)], wanted: &str) -> Option<String> {
    let found = settings.iter().rev().find(|(name, value)| name == wanted && !value.is_empty());
    found.map(|(_, value)| value.clone())
}

fn readonly() -> Exception {
    Exception::new(READONLY, "Cannot execute query in readonly mode")
}

/// An answer without a result.
pub(super) fn nothing(format: &str) -> Answer {
    let body = mpsc::channel(1).1;
    Answer { format: format.into(), summary: Summary::default(), body }
}

impl Mock {
    async fn answer(
        &self,
        statement: Statement,
        current: &str,
        default_format: &str,
    ) -> Result<Answer, Exception> {
        match statement {
            Statement::Select(select) => return self.select(&select, current, default_format),
            Statement::Describe(name) => {
                let relation = self.described(&name, current)?;
                let select = Select {
                    expressions: vec![parse::Expression::All],
                    from: None,
                    is_final: false,
                    conditions: Vec::new(),
                    limit: None,
                    format: None,
                };
                return send(&select, relation, default_format);
            }
            Statement::CreateDatabase { name, if_not_exists } => {
                self.databases().create(&name, if_not_exists)?;
            }
            Statement::DropDatabase { name, if_exists } => {
                self.databases().drop_database(&name, if_exists)?;
            }
            Statement::CreateTable(create) => self.databases().create_table(&create, current)?,
            Statement::DropTable { name, if_exists } => {
                self.databases().drop_table(&name, current, if_exists)?;
            }
            Statement::Truncate { name, if_exists } => match self.table(&name, current) {
                Err(missing) if if_exists && missing.code == UNKNOWN_TABLE.code => {}
                table => lock(&*table?).truncate()?,
            },
            Statement::Alter { name, changes } => {
                lock(&*self.table(&name, current)?).alter(&changes)?;
            }
            Statement::Kill { conditions, is_waited_for } => {
                self.running.kill(&conditions, is_waited_for).await;
            }
        }
        Ok(nothing(default_format))
    }

    pub(super) fn table(
        &self,
        name: &TableName,
        current: &str,
    ) -> Result<Arc<Mutex<Table>>, Exception> {
        self.databases().table(name, current)
    }

    fn select(
        &self,
        select: &Select,
        current: &str,
        default_format: &str,
    ) -> Result<Answer, Exception> {
        let relation = match &select.from {
            None => one_row(),
            Some(name) if name.database.as_deref() == Some("system") => self.system(&name.table)?,
            Some(name) => Relation::Table(lock(&*self.table(name, current)?).reading()),
        };
        send(select, relation, default_format)
    }

    fn described(&self, name: &TableName, current: &str) -> Result<Relation, Exception> {
        let columns = [
            "name",
            "type",
            "default_type",
            "default_expression",
            "comment",
            "codec_expression",
            "ttl_expression",
        ];
        let table = self.table(name, current)?;
        let table = lock(&table);
        let row = |(name, kind): &(String, ColumnType)| {
            let mut row = vec![name.clone(), kind.to_string()];
            row.resize(columns.len(), String::new());
            row
        };
        Ok(Relation::Texts {
            columns: columns.into(),
            rows: table.columns.iter().map(row).collect(),
        })
    }

    /// What the mock tells of itself.
    fn system(&self, table: &str) -> Result<Relation, Exception> {
        let texts =
            |columns: &[&'static str], rows| Relation::Texts { columns: columns.into(), rows };
        Ok(match table {
            "one" => one_row(),
            "databases" => {
                texts(&["name"], self.databases().names().map(|name| vec![name.clone()]).collect())
            }
            "tables" => {
                let databases = self.databases();
                let row = |(database, name, table): (&String, &String, &Arc<Mutex<Table>>)| {
                    vec![database.clone(), name.clone(), lock(table).engine.clone()]
                };
                texts(&["database", "name", "engine"], databases.tables().map(row).collect())
            }
            "columns" => {
                let databases = self.databases();
                let mut rows = Vec::new();
                for (database, name, table) in databases.tables() {
                    let table = lock(table);
                    for (column, kind) in &table.columns {
                        let row = [database, name, column].map(Clone::clone);
                        let is_in_key = if table.order_by.contains(column) { "1" } else { "0" };
                        let more = [kind.to_string(), String::new(), is_in_key.to_owned()];
                        rows.push(row.into_iter().chain(more).collect());
                    }
                }
                let names = ["database", "table", "name", "type", "comment", "is_in_sorting_key"];
                texts(&names, rows)
            }
            "processes" => {
                let rows = self.running.all().into_iter().map(|(id, text)| vec![id, text]);
                texts(&["query_id", "query"], rows.collect())
            }
            "walbench_mock" => {
                let named = self.count().named();
                let rows = named.into_iter().map(|(name, value)| vec![name, value.to_string()]);
                texts(&["name", "value"], rows.collect())
            }
            _ => {
                let text = format!(
                    "Table system.{table} does not exist; the mock has databases, tables, columns, \
                     processes and walbench_mock"
                );
                return Err(Exception::new(UNKNOWN_TABLE, text));
            }
        })
    }
}

fn one_row() -> Relation {
    Relation::Texts { columns: Vec::new(), rows: vec![Vec::new()] }
}

/// Runs a query on a thread of its own, which waits for whoever reads the result.
fn send(select: &Select, relation: Relation, default_format: &str) -> Result<Answer, Exception> {
    let name = select.format.as_deref().unwrap_or(default_format);
    let query = select::Query::new(select, relation, Format::of(name)?, VERSION)?;
    let (parts, body) = mpsc::channel(PARTS_WAITING);
    tokio::task::spawn_blocking(move || {
        if let Err(exception) = query.run(&parts) {
            let _ = parts.blocking_send(Err(exception));
        }
    });
    Ok(Answer { format: name.into(), summary: Summary::default(), body })
}

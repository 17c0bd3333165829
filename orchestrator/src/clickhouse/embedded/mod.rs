//! The embedded engine: ClickHouse as a library, in a process of ours, behind the HTTP front.
//!
//! What it is not: it does not know the query ids that clients give, so `KILL QUERY` and
//! `system.query_log` go by its own; and a query whose client is gone ends with its next part of a
//! result, not at once.

mod library;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use walbench_consumer::clickhouse::Exception;
use walbench_consumer::clickhouse::exception::{UNKNOWN_EXCEPTION, UNKNOWN_SETTING};
use walbench_consumer::clickhouse::front::{
    Answer, Data, Engine, Query, Statement, Summary, Trouble,
};
use walbench_consumer::clickhouse::statement::{output_format, takes_settings};
use walbench_metrics::Failure;

use library::{Asked, Connection, Library, Outcome, Stream};

/// Parts of a result that wait for the client.
const PARTS_WAITING: usize = 1;

/// What the engine says of statements whose result can't come in parts.
const NOT_STREAMED: &str = "Streaming query is not supported";

/// The engine of this process.
#[derive(Debug)]
pub(crate) struct Embedded {
    version: String,
    connections: Arc<Connections>,
}

impl Embedded {
    /// Loads the library and starts the engine on a folder; one engine a process, one process a
    /// folder.
    pub(crate) fn start(library: &Path, folder: &Path) -> Result<Self, Failure> {
        let library = Library::load(library)?;
        let failed = |why: String| {
            Failure::new("the embedded ClickHouse did not start").because(Failure::new(why))
        };
        let mut connection = library
            .connect(folder)
            .ok_or_else(|| failed(format!("it can't use {}", folder.display())))?;
        let version =
            connection.query(plain(b"SELECT version()", "TabSeparatedRaw")).map_err(failed)?;
        let version = String::from_utf8_lossy(version.as_ref()).trim().to_owned();
        let idle = Mutex::new(vec![connection]);
        let connections = Arc::new(Connections { library, folder: folder.into(), idle });
        Ok(Self { version, connections })
    }

    /// Ends the engine, once nothing runs in it any more.
    pub(crate) fn stop(&self) {
        self.connections.idle().clear();
    }
}

/// Each query has a connection of its own: nothing of one query is left in the next, and as many run
/// at once as the front allows.
#[derive(Debug)]
struct Connections {
    library: &'static Library,
    folder: PathBuf,
    /// Those that nothing is left in: to connect costs a tenth of a small INSERT. The first stays
    /// here, since the engine ends with its last connection.
    idle: Mutex<Vec<Connection>>,
}

impl Connections {
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection with nothing in it.
    fn get(&self) -> Result<Connection, Exception> {
        let spare = {
            let mut idle = self.idle();
            if idle.len() > 1 { idle.pop() } else { None }
        };
        spare
            .or_else(|| self.library.connect(&self.folder))
            .ok_or_else(|| Exception::new(UNKNOWN_EXCEPTION, "no connection"))
    }

    /// Takes a connection back that nothing was left in.
    fn give_back(&self, connection: Connection) {
        self.idle().push(connection);
    }
}

fn plain<'a>(sql: &'a [u8], format: &'a str) -> Asked<'a> {
    Asked { sql, format, parameters: &[] }
}

impl Engine for Embedded {
    fn name(&self) -> String {
        "walbench (embedded engine libchdb)".into()
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    async fn run(&self, query: Query) -> Result<Answer, Trouble> {
        let (answer, answered) = oneshot::channel();
        let connections = Arc::clone(&self.connections);
        // The runtime keeps threads: to begin and end one costs the engine more than a small query.
        tokio::task::spawn_blocking(move || work(&connections, query, answer));
        let answer = answered.await.unwrap_or_else(|_| {
            Err(Exception::new(UNKNOWN_EXCEPTION, "the query's thread ended without an answer"))
        });
        Ok(answer?)
    }
}

type Answering = oneshot::Sender<Result<Answer, Exception>>;

/// A query's life, on a thread of its own.
fn work(connections: &Connections, query: Query, answer: Answering) {
    let prepared = connections.get().and_then(|mut connection| {
        let own = insert_with_settings(&query)?;
        if own.is_none() {
            prepare(&mut connection, &query)?;
        }
        Ok((connection, own))
    });
    let (mut connection, own) = match prepared {
        Ok(prepared) => prepared,
        Err(exception) => return drop(answer.send(Err(exception))),
    };
    let parameters = &*query.parameters;
    match query.statement {
        Statement::Insert { ref into, ref format, data } => {
            let sql = own.as_deref().unwrap_or(into);
            let done = insert(&mut connection, Asked { sql, format, parameters }, data);
            if own.is_some() && done.is_ok() {
                connections.give_back(connection);
            }
            // Whoever asked may be gone.
            let _ = answer.send(done);
        }
        Statement::Other(ref sql) => {
            let asked = Asked { sql, format: &query.default_format, parameters };
            other(&mut connection, asked, answer);
        }
    }
}

/// An INSERT that says its settings itself, if it can: it leaves nothing in its connection, and is
/// one statement where a `SET` makes two.
fn insert_with_settings(query: &Query) -> Result<Option<Vec<u8>>, Exception> {
    let Statement::Insert { into, .. } = &query.statement else { return Ok(None) };
    if database(query).is_some() || !takes_settings(into) {
        return Ok(None);
    }
    let mut insert = into.to_vec();
    if let Some(settings) = settings(query)? {
        insert.extend_from_slice(format!(" SETTINGS {settings}").as_bytes());
    }
    Ok(Some(insert))
}

/// Gives a connection what the query has for itself.
fn prepare(connection: &mut Connection, query: &Query) -> Result<(), Exception> {
    let database = database(query).map(|database| {
        let name = database.replace('\\', "\\\\").replace('`', "\\`");
        format!("USE `{name}`")
    });
    let settings = settings(query)?.map(|settings| format!("SET {settings}"));
    for statement in database.into_iter().chain(settings) {
        let asked = plain(statement.as_bytes(), "Null");
        connection.query(asked).map_err(|why| Exception::parse(&why))?;
    }
    Ok(())
}

fn database(query: &Query) -> Option<&str> {
    query.database.as_deref().filter(|database| !database.is_empty())
}

/// The query's settings as ClickHouse reads them, if it has some.
fn settings(query: &Query) -> Result<Option<String>, Exception> {
    let settings = query.settings.iter().map(|(name, value)| setting(name, value));
    let settings = settings.collect::<Result<Vec<_>, _>>()?.join(", ");
    Ok(Some(settings).filter(|settings| !settings.is_empty()))
}

fn setting(name: &str, value: &str) -> Result<String, Exception> {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
    if name.is_empty() || !name.bytes().all(is_part) {
        return Err(Exception::new(UNKNOWN_SETTING, format!("Unknown setting '{name}'")));
    }
    let value = value.replace('\\', "\\\\").replace('\'', "\\'");
    Ok(format!("{name} = '{value}'"))
}

fn insert(
    connection: &mut Connection,
    asked: Asked<'_>,
    mut data: Data,
) -> Result<Answer, Exception> {
    let failed = |why: String| Exception::parse(&why);
    let started = Instant::now();
    let mut insert = connection.insert(asked).map_err(failed)?;
    // Data that end in an error give up the insert, by its drop.
    while let Some(part) = data.blocking_next()? {
        insert.append(&part).map_err(failed)?;
    }
    let outcome = insert.done().map_err(failed)?;
    Ok(Answer {
        format: asked.format.into(),
        summary: summary(&outcome, started),
        body: mpsc::channel(1).1,
    })
}

/// A statement without data: its result in parts if the engine can, else whole.
fn other(connection: &mut Connection, asked: Asked<'_>, answer: Answering) {
    let started = Instant::now();
    match connection.stream(asked) {
        Ok(stream) => return send_parts(stream, format_of(asked), answer),
        Err(why) if why.contains(NOT_STREAMED) => {}
        Err(why) => return drop(answer.send(Err(Exception::parse(&why)))),
    }
    let outcome = match connection.query(asked) {
        Ok(outcome) => outcome,
        Err(why) => return drop(answer.send(Err(Exception::parse(&why)))),
    };
    let (send, body) = mpsc::channel(1);
    let summary = summary(&outcome, started);
    if !outcome.as_ref().is_empty() {
        let _ = send.try_send(Ok(Bytes::from_owner(outcome)));
    }
    let _ = answer.send(Ok(Answer { format: format_of(asked), summary, body }));
}

fn send_parts(mut stream: Stream<'_>, format: String, answer: Answering) {
    let mut next = stream.fetch();
    if let Err(why) = next {
        return drop(answer.send(Err(Exception::parse(&why))));
    }
    let (send, body) = mpsc::channel(PARTS_WAITING);
    if answer.send(Ok(Answer { format, summary: Summary::default(), body })).is_err() {
        return;
    }
    loop {
        let part = match next {
            // Once the client sees the end, there is nothing left to be ended.
            Ok(None) => return drop(stream),
            Ok(Some(part)) => Ok(Bytes::from_owner(part)),
            Err(why) => Err(Exception::parse(&why)),
        };
        let failed = part.is_err();
        if send.blocking_send(part).is_err() || failed {
            return;
        }
        next = stream.fetch();
    }
}

fn format_of(asked: Asked<'_>) -> String {
    output_format(asked.sql).unwrap_or_else(|| asked.format.into())
}

fn summary(outcome: &Outcome, started: Instant) -> Summary {
    Summary {
        read_rows: outcome.read_rows(),
        read_bytes: outcome.read_bytes(),
        written_rows: outcome.written_rows(),
        written_bytes: outcome.written_bytes(),
        elapsed_ns: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        ..Summary::default()
    }
}

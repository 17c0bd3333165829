//! Batches into ClickHouse: tables that fit, blocks, and what became of them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::RwLock;
use walbench_metrics::Failure;
use walbench_phases::clickhouse::ClickhouseAddress;
use walbench_phases::plan::{BadRow, Clickhouse};

use super::client::{Clients, Server};
use super::convert::convert;
use super::ddl::{Place, destination_name, quote_string};
use super::error::{ClickhouseError, Remedy};
use super::fit::{Fit, Present, conversion, fit, fits};
use super::halving::Halving;
use super::marks::Marks;
use super::rejects::Rejects;
use super::settings::insert_settings;
use super::version::Feature;
use crate::backoff::Backoff;
use crate::rowbinary::{NotRows, Table};
use crate::sink::{SinkError, Written};
use crate::stream::{Batch, Part, Work};

/// Bytes of a block's piece that is handed to the connection at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// A chunk that the socket takes no more of for so long is lost.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two looks at whether a query has ended.
const LOOK: Duration = Duration::from_millis(100);

/// A query that was to be killed may take so long to notice.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// ClickHouse's code of a query that can't be killed now.
const CANNOT_KILL: u32 = 380;

/// A server that can't be reached at the start has so long to be there: an address may be wrong.
const UNREACHED_PATIENCE: Duration = Duration::from_secs(3);

/// One that was reached has so long for what may pass; more is for whoever starts it.
const REACHED_PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait before the second try at the start.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// A ClickHouse that rows are written into.
#[derive(Debug)]
pub(crate) struct Destination {
    clients: Clients,
    place: Place,
    /// Its version as it says it.
    version: String,
    /// Sent with every insert.
    settings: BTreeMap<String, String>,
    insert_timeout: Duration,
    marks: Marks,
    /// The tables that are known to be there. Held for writing while one is made or changed: no
    /// insert runs then.
    tables: RwLock<HashMap<String, Arc<Present>>>,
    /// Queries whose end nobody heard of, and where they may be at work still.
    open: Mutex<Vec<Open>>,
    rejects: Rejects,
}

/// What a report says of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The server's version, as it says it.
    pub version: String,
    /// HTTP interfaces, without a login.
    pub endpoints: Vec<String>,
    /// The database.
    pub database: String,
    /// What is sent with every insert.
    pub settings: BTreeMap<String, String>,
}

/// A query whose end nobody heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Open {
    endpoint: String,
    mark: String,
}

/// One table's rows.
#[derive(Clone, Debug)]
struct Block<'a> {
    table: &'a Table,
    /// The rows as they are encoded.
    rows: &'a [u8],
    /// The same in compressed blocks.
    compressed: Bytes,
    /// What tells these rows from all others of this writer, whenever they are sent.
    token: String,
}

impl Destination {
    /// Connects, ends what a former start of the same writer may have at work still, and makes the
    /// database if it is not there.
    ///
    /// # Errors
    /// ClickHouse can't be reached, or refuses.
    pub(crate) async fn open(
        address: &ClickhouseAddress,
        plan: &Clickhouse,
        writer: &str,
    ) -> Result<Self, Failure> {
        let (clients, marks) = (Clients::new(address)?, Marks::new(writer));
        let database = address.database.as_ref().unwrap_or(&plan.database);
        let (started, mut backoff, mut failures) = (Instant::now(), Backoff::of_now(), 0);
        let (place, version) = loop {
            let error = match prepare(&clients, database, plan, &marks).await {
                Ok(prepared) => break prepared,
                Err(error) => error,
            };
            failures += 1;
            let wait = backoff.wait(FIRST_WAIT, failures);
            let patience = match error.is_away && !error.is_open {
                true => UNREACHED_PATIENCE,
                false => REACHED_PATIENCE,
            };
            if error.remedy != Remedy::Retry || started.elapsed() + wait > patience {
                return Err(error.failure(&format!("ClickHouse at {address} can't be used")));
            }
            tokio::time::sleep(wait).await;
        };
        Ok(Self {
            settings: insert_settings(place.version, &plan.settings),
            clients,
            place,
            version,
            insert_timeout: Duration::from_secs_f64(plan.insert_timeout_sec),
            marks,
            tables: RwLock::default(),
            open: Mutex::default(),
            rejects: Rejects::new(plan.on_bad_row == BadRow::SetAside, plan.bad_rows_file.clone()),
        })
    }

    /// What a report says of it.
    pub(crate) fn description(&self) -> Description {
        Description {
            version: self.version.clone(),
            endpoints: self.clients.all().map(|server| server.endpoint.clone()).collect(),
            database: self.place.database.clone(),
            settings: self.settings.clone(),
        }
    }

    /// Does what is asked, and hands it back with what was written, once it is durable.
    pub(crate) async fn carry_out(&self, work: Work) -> (Work, Result<Written, SinkError>) {
        match work {
            Work::Write(batch) => {
                let (batch, blocks) = compress(batch).await;
                let (batch, written) = self.write_parts(batch, blocks).await;
                (Work::Write(batch), written.map_err(|e| sink_error(&e)))
            }
            Work::Truncate(tables) => {
                let mut emptied = Ok(Written::default());
                for table in &tables {
                    if let Err(error) = self.truncate(table).await {
                        emptied = Err(sink_error(&error));
                        break;
                    }
                }
                (Work::Truncate(tables), emptied)
            }
        }
    }

    /// Writes a batch, table by table. What was written is not written again when another table's
    /// part is tried again.
    pub(crate) async fn write_parts(
        &self,
        mut batch: Batch,
        blocks: Vec<Bytes>,
    ) -> (Batch, Result<Written, ClickhouseError>) {
        let mut written = Written::default();
        for (part, compressed) in batch.parts.iter_mut().zip(blocks) {
            if part.rows == 0 {
                continue;
            }
            if part.written.is_none() {
                // It must be the same however often the rows are sent.
                let token = part.token.get_or_insert_with(|| self.marks.next()).clone();
                let sent_bytes = compressed.len() as u64;
                let block = Block { table: &part.table, rows: &part.encoded, compressed, token };
                match self.write(&block).await {
                    Ok(rejected_rows) => part.written = Some((sent_bytes, rejected_rows)),
                    Err(error) => return (batch, Err(error)),
                }
            }
            let (sent_bytes, rejected_rows) = part.written.unwrap_or_default();
            written.encoded_bytes += part.encoded.len() as u64;
            written.sent_bytes += sent_bytes;
            written.rejected_rows += rejected_rows;
        }
        (batch, Ok(written))
    }

    /// Writes rows; they are durable then. Returns how many were put aside.
    async fn write(&self, block: &Block<'_>) -> Result<u64, ClickhouseError> {
        match self.insert(block).await {
            Err(error) if error.remedy == Remedy::LeaveOut => self.write_halves(block).await,
            written => written.map(|()| 0),
        }
    }

    /// Some of the rows can't be written: finds out which, and writes the others.
    async fn write_halves(&self, block: &Block<'_>) -> Result<u64, ClickhouseError> {
        let ends = block.table.row_ends(block.rows).map_err(not_rows)?;
        let (mut halving, mut rejected) = (Halving::new(ends.len()), 0);
        while let Some(range) = halving.next() {
            let rows = &block.rows[bytes_of(&range, &ends)];
            let token = format!("{}-{}-{}", block.token, range.start, range.end);
            let half = Block { rows, compressed: compressed(rows), token, ..*block };
            match self.insert(&half).await {
                Ok(()) => {}
                Err(error) if error.remedy != Remedy::LeaveOut => return Err(error),
                Err(error) => {
                    if halving.refused(range).is_some() {
                        self.rejects.put(block.table, rows, &error)?;
                        rejected += 1;
                    }
                }
            }
        }
        Ok(rejected)
    }

    async fn insert(&self, block: &Block<'_>) -> Result<(), ClickhouseError> {
        let Block { table, rows, compressed: blocks, token } = block;
        loop {
            // Held until the end: no column may change its type under the rows.
            let tables = self.tables.read().await;
            if let Some(present) = tables.get(destination_name(table))
                && fits(&self.place, table, present)
            {
                let blocks = match conversion(table, present) {
                    None => blocks.clone(),
                    Some((from, to)) => compressed(&convert(&from, &to, rows).map_err(not_rows)?),
                };
                return self.send(table, blocks, token).await;
            }
            drop(tables);
            self.make_fit(table).await?;
        }
    }

    async fn send(
        &self,
        table: &Table,
        compressed: Bytes,
        token: &str,
    ) -> Result<(), ClickhouseError> {
        let (mark, server) = (self.marks.next(), self.clients.next());
        let mut insert = server
            .client
            .insert_formatted_with(self.marks.marked(&mark, &self.place.insert(table)))
            .with_timeouts(Some(SEND_TIMEOUT), Some(self.insert_timeout))
            .with_setting("decompress", "1")
            .with_setting("query_id", &mark);
        if self.place.version.has(Feature::DeduplicationToken) {
            insert = insert.with_setting("insert_deduplication_token", token);
        }
        for (name, value) in &self.settings {
            insert = insert.with_setting(name, value);
        }
        let mut rest = compressed;
        let sent = async {
            while !rest.is_empty() {
                insert.send(rest.split_to(rest.len().min(CHUNK_BYTES))).await?;
            }
            insert.end().await
        };
        self.heard(server, sent.await.map_err(ClickhouseError::from), mark)
    }

    /// Remembers a query whose end nobody heard of, and a server that did not answer.
    fn heard(
        &self,
        server: &Server,
        result: Result<(), ClickhouseError>,
        mark: String,
    ) -> Result<(), ClickhouseError> {
        if result.as_ref().is_err_and(|error| error.is_open) {
            let open = Open { endpoint: server.endpoint.clone(), mark };
            self.open.lock().unwrap_or_else(PoisonError::into_inner).push(open);
        }
        server.heard(result)
    }

    /// Makes a table, or changes it, so that these rows can be inserted.
    async fn make_fit(&self, table: &Table) -> Result<(), ClickhouseError> {
        let name = destination_name(table);
        let mut tables = self.tables.write().await;
        let known = tables.remove(name);
        let present = match known {
            Some(present) if fits(&self.place, table, &present) => present,
            // What is known of it may be old: others may have changed it as well.
            _ => Arc::new(self.find_or_create(table).await?),
        };
        let Fit { changes, present: changed, refused } = fit(&self.place, table, &present);
        if !refused.is_empty() {
            let text = format!(
                "table {} does not fit the rows of {}: {}",
                self.place.sql_name(name),
                table.name,
                refused.join("; ")
            );
            return Err(ClickhouseError::refused(text).with_hint(ANOTHER_TABLE));
        }
        // What is at work still would meet another table than it was meant for.
        if !changes.is_empty() {
            self.end_open().await?;
        }
        for change in &changes {
            self.clients.next().execute(change).await?;
        }
        tables.insert(name.to_owned(), Arc::new(changed));
        Ok(())
    }

    async fn find_or_create(&self, table: &Table) -> Result<Present, ClickhouseError> {
        let name = destination_name(table);
        if let Some(mark) = table.columns.iter().find(|column| MARKS.contains(&&*column.name)) {
            return Err(ClickhouseError::refused(format!(
                "{} has a column {}, which is what walbench calls one of its own",
                table.name, mark.name
            )));
        }
        if let Some(present) = self.find(table).await? {
            return Ok(present);
        }
        for statement in self.place.create_table(table) {
            self.clients.next().execute(&statement).await?;
        }
        let missing = || {
            let name = self.place.sql_name(name);
            ClickhouseError::passing(format!("{name} was made, and is not there"))
        };
        self.find(table).await?.ok_or_else(missing)
    }

    /// What is there of a table's name.
    async fn find(&self, table: &Table) -> Result<Option<Present>, ClickhouseError> {
        let (database, name) = (&self.place.database, self.place.local_name(table));
        let which = |column: &str| {
            format!("database = {} AND {column} = {}", quote_string(database), quote_string(&name))
        };
        let server = self.clients.next();
        let engine = format!("SELECT engine FROM system.tables WHERE {}", which("name"));
        let engine = server.text(&engine).await?;
        if engine.is_empty() {
            return Ok(None);
        }
        let columns = format!(
            "SELECT hex(name), hex(type), hex(comment), is_in_sorting_key FROM system.columns \
             WHERE {}",
            which("table")
        );
        let answer = server.text(&columns).await?;
        let mut present =
            Present { replaces: engine.ends_with("ReplacingMergeTree"), ..Present::default() };
        for line in answer.lines() {
            let column = column(line).ok_or_else(|| ClickhouseError::nonsense(&answer))?;
            if column.is_in_key {
                present.key.insert(column.name.clone());
            }
            let kind = self.place.kind_of(&column.sql_type, &column.comment);
            present.columns.insert(column.name, kind.ok_or(column.sql_type));
        }
        let missing = MARKS.into_iter().find(|mark| present.columns.remove(*mark).is_none());
        if missing.is_some() || !engine.ends_with("MergeTree") {
            let text = format!(
                "table {} is there, and is none of walbench's: it is {engine}, with {}",
                self.place.sql_name(&name),
                missing.map_or("the columns of one".into(), |mark| format!("no column {mark}")),
            );
            return Err(ClickhouseError::refused(text).with_hint(ANOTHER_TABLE));
        }
        Ok(Some(present))
    }

    /// Empties a table.
    async fn truncate(&self, table: &Table) -> Result<(), ClickhouseError> {
        loop {
            let tables = self.tables.write().await;
            if tables.contains_key(destination_name(table)) {
                // Rows of before that come later would be there again; so would rows that come behind
                // it be gone, if it came later itself.
                self.end_open().await?;
                let (mark, server) = (self.marks.next(), self.clients.next());
                let sql = self.marks.marked(&mark, &self.place.truncate(table));
                return self.heard(server, server.execute(&sql).await, mark);
            }
            drop(tables);
            self.make_fit(table).await?;
        }
    }

    /// Ends the queries whose end nobody heard of, and waits until they have.
    async fn end_open(&self) -> Result<(), ClickhouseError> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if open.is_empty() {
            return Ok(());
        }
        for server in self.clients.all() {
            let here = open.iter().filter(|open| open.endpoint == server.endpoint);
            let marks: Vec<_> = here.map(|open| open.mark.as_str()).collect();
            if !marks.is_empty() {
                end_queries(server, &self.marks.of_these(&marks)).await?;
            }
        }
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|query| !open.contains(query));
        Ok(())
    }
}

/// Finds out what is there, ends what a former start may have at work still, and makes the database.
async fn prepare(
    clients: &Clients,
    database: &str,
    plan: &Clickhouse,
    marks: &Marks,
) -> Result<(Place, String), ClickhouseError> {
    let (version, version_text) = clients.version().await?;
    let place = Place { database: database.into(), version, cluster: plan.cluster.clone() };
    let find =
        format!("SELECT count() FROM system.databases WHERE name = {}", quote_string(database));
    // Who may not make databases may still have one.
    if clients.next().text(&find).await? == "0" {
        clients.next().execute(&place.create_database()).await?;
    }
    for server in clients.all() {
        match end_queries(server, &marks.of_all_starts()).await {
            // Others are there, and it can't be asked.
            Err(error) if error.is_away && clients.all().len() > 1 => {}
            ended => ended?,
        }
    }
    Ok((place, version_text))
}

/// Columns that every table of walbench's has.
const MARKS: [&str; 2] = ["_version", "_is_deleted"];

/// What to do where a table is in the way.
const ANOTHER_TABLE: &str = "rename or drop that table, or name another database in the URL; rows of \
                             before come with --initial-copy and a new slot";

/// Kills the queries that a condition names, and waits until they have ended.
async fn end_queries(server: &Server, which: &str) -> Result<(), ClickhouseError> {
    let left = format!("SELECT count() FROM system.processes WHERE {which}");
    let kill = format!("KILL QUERY WHERE {which} ASYNC");
    let deadline = Instant::now() + KILL_TIMEOUT;
    while server.text(&left).await? != "0" {
        if Instant::now() >= deadline {
            return Err(ClickhouseError::passing(
                "an insert whose end nobody heard of is at work still".into(),
            ));
        }
        match server.execute(&kill).await {
            // For a moment at a query's beginning and end there is nothing in it that could be killed.
            Err(error) if error.code == Some(CANNOT_KILL) => {}
            killed => killed?,
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

struct PresentColumn {
    name: String,
    sql_type: String,
    comment: String,
    is_in_key: bool,
}

fn column(line: &str) -> Option<PresentColumn> {
    let mut fields = line.split('\t');
    let mut text = || unhex(fields.next()?);
    let (name, sql_type, comment) = (text()?, text()?, text()?);
    Some(PresentColumn { name, sql_type, comment, is_in_key: fields.next()? == "1" })
}

fn bytes_of(rows: &Range<usize>, ends: &[usize]) -> Range<usize> {
    rows.start.checked_sub(1).map_or(0, |before| ends[before])..ends[rows.end - 1]
}

/// Compresses a batch's parts: work for a core, which would hold up the runtime.
pub(crate) async fn compress(batch: Batch) -> (Batch, Vec<Bytes>) {
    let compress = move || {
        let to_bytes = |part: &Part| match part.written.is_some() || part.rows == 0 {
            true => Bytes::new(),
            false => compressed(&part.encoded),
        };
        let blocks = batch.parts.iter().map(to_bytes).collect();
        (batch, blocks)
    };
    let done = tokio::task::spawn_blocking(compress).await;
    // A flush that panics ends the process, as any panic of a worker does.
    done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

fn compressed(rows: &[u8]) -> Bytes {
    crate::sink::with_compressor(|compressor| Bytes::copy_from_slice(compressor.blocks(rows)))
}

fn not_rows(error: NotRows) -> ClickhouseError {
    ClickhouseError::refused(error.to_string())
}

fn sink_error(error: &ClickhouseError) -> SinkError {
    let transient = error.remedy == Remedy::Retry;
    SinkError { failure: error.failure("ClickHouse did not take a batch"), transient }
}

/// What `hex()` made of a text, so that no character in it means anything on its way.
pub(crate) fn unhex(text: &str) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_any_bytes() {
        assert_eq!(unhex("C3BC0A27").as_deref(), Some("ü\n'"));
        assert_eq!((unhex("C3"), unhex("4"), unhex("xx")), (None, None, None));
        let column = column("6964\t496E743332\t\t1").unwrap();
        assert_eq!((&*column.name, &*column.sql_type, &*column.comment), ("id", "Int32", ""));
        assert!(column.is_in_key);
    }
}

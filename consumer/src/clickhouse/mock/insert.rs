//! An INSERT, from its data to what it leaves: read, checked, held up, written; and what its fate
//! makes of that.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::check::{Row, Shape};
use super::convert::is_wider;
use super::databases::lock;
use super::engine::{Mock, nothing};
use super::fate::{End, Fate};
use super::parse;
use super::running::Place;
use super::table::{Projection, Table, no_column};
use crate::clickhouse::column_type::ColumnType;
use crate::clickhouse::exception::{
    Exception, INCORRECT_DATA, MEMORY_LIMIT_EXCEEDED, NOT_IMPLEMENTED,
    NUMBER_OF_COLUMNS_DOESNT_MATCH, TYPE_MISMATCH, UNKNOWN_EXCEPTION, UNKNOWN_FORMAT,
};
use crate::clickhouse::front::{Answer, Data, Summary, Trouble};
use crate::rowbinary::varint;

/// The largest insert, decompressed: it is in memory until it is known to be whole and right.
const LARGEST_INSERT_BYTES: usize = 512 * 1024 * 1024;

/// An INSERT on its way.
pub(super) struct Insert {
    pub(super) mock: Arc<Mock>,
    pub(super) database: String,
    pub(super) into: Bytes,
    pub(super) format: String,
    pub(super) token: Option<String>,
}

/// A block that was checked, for a table.
struct Checked {
    table: Arc<Mutex<Table>>,
    shape: Shape,
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

impl Insert {
    /// Does with it what its fate is.
    pub(super) async fn meet(
        self,
        mut data: Data,
        fate: Fate,
        mut place: Place,
    ) -> Result<Answer, Trouble> {
        let Some(strike) = fate.strike else {
            return Ok(self.detached(data, fate, place).await?);
        };
        let (held, query_id) = (place.held(), place.query_id().to_owned());
        let (running, text) = (self.mock.running.clone(), self.into.clone());
        if strike.is_applied {
            // Whether it could be written or not: nobody hears of it.
            let _ = self.detached(data, fate, place).await;
            place = running.take(held, &query_id, text);
        } else {
            // Of what stands still in mid-body, nobody would notice that its client is gone.
            match strike.end {
                End::Hang => drop(place.unless_killed(gather(&mut data)).await??),
                End::Cut { reads: true } => drop(place.unless_killed(data.next()).await??),
                _ => {}
            }
        }
        match strike.end {
            End::Status(status) => Err(Trouble::Status(status)),
            End::Code(code) => Err(told_to_fail(code).into()),
            End::Cut { .. } => Err(Trouble::Cut),
            End::Hang => {
                let heard: Result<(), Exception> =
                    place.unless_killed(std::future::pending()).await;
                heard.map(|()| nothing("")).map_err(Trouble::from)
            }
        }
    }

    /// It goes on even if whoever sent it goes away once all is there, as it does in ClickHouse.
    async fn detached(self, data: Data, fate: Fate, place: Place) -> Result<Answer, Exception> {
        let mock = self.mock.clone();
        let written = tokio::spawn(self.write(data, fate, place)).await;
        let written = written.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        if let Err(exception) = &written {
            *mock.count().inserts_refused.entry(exception.code).or_default() += 1;
        }
        written
    }

    async fn write(
        self,
        mut data: Data,
        fate: Fate,
        mut place: Place,
    ) -> Result<Answer, Exception> {
        let started = Instant::now();
        let (plan, table, shape) = self.plan()?;
        let bytes = place.unless_killed(gather(&mut data)).await??;
        let with_names = self.format == "RowBinaryWithNamesAndTypes";
        let checking = move || plan.check(table, shape, bytes, with_names);
        let checked = blocking(checking).await?;
        let mut due = started + fate.delay;
        if let Some(rate) = fate.rows_per_sec {
            due = due.max(self.mock.pace.reserve(checked.rows.len(), rate, Instant::now()));
        }
        if due > Instant::now() {
            place.unless_killed(tokio::time::sleep_until(due.into())).await?;
        }
        let (rows, written_bytes) = (checked.rows.len() as u64, checked.bytes.len() as u64);
        let format = self.format.clone();
        blocking(move || self.commit(checked)).await?;
        let summary = Summary {
            written_rows: rows,
            written_bytes,
            elapsed_ns: u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            ..Summary::default()
        };
        drop(place);
        Ok(Answer { summary, ..nothing(&format) })
    }

    /// What the data are, and where they go.
    fn plan(&self) -> Result<(Plan, Arc<Mutex<Table>>, Shape), Exception> {
        if !["RowBinary", "RowBinaryWithNamesAndTypes"].contains(&self.format.as_str()) {
            let text = format!(
                "The mock takes RowBinary and RowBinaryWithNamesAndTypes, and no {}",
                self.format
            );
            let kind = if self.format == "Values" { NOT_IMPLEMENTED } else { UNKNOWN_FORMAT };
            return Err(Exception::new(kind, text));
        }
        let insert = parse::insert(&self.into)?;
        let table = self.mock.table(&insert.name, &self.database)?;
        let shape = lock(&table).shape(insert.columns.as_deref())?;
        Ok((Plan { input: insert.input }, table, shape))
    }

    fn commit(&self, checked: Checked) -> Result<(), Exception> {
        let Checked { table, shape, bytes, rows } = checked;
        let mut table = lock(&table);
        if table.knows(self.token.as_deref()) {
            self.mock.count().inserts_deduplicated += 1;
            return Ok(());
        }
        let fates = table.append(&shape, &bytes, &rows, self.token.clone())?;
        drop(table);
        self.mock.count().written(fates, rows.len() as u64, bytes.len() as u64);
        Ok(())
    }
}

/// What the data of an insert are.
struct Plan {
    /// Other columns than the table's, which are converted.
    input: Option<Vec<(String, ColumnType)>>,
}

impl Plan {
    fn check(
        self,
        table: Arc<Mutex<Table>>,
        shape: Shape,
        mut bytes: Vec<u8>,
        with_names: bool,
    ) -> Result<Checked, Exception> {
        let given = match (self.input, with_names) {
            (Some(_), true) => {
                let text = "The mock's input() is for RowBinary";
                return Err(Exception::new(NOT_IMPLEMENTED, text));
            }
            (Some(columns), false) => Some(columns),
            (None, true) => {
                let (columns, length) = header(&bytes)?;
                bytes.drain(..length);
                Some(columns)
            }
            (None, false) => None,
        };
        let Some(given) = given.filter(|given| *given != shape.columns) else {
            let rows = shape.check(&bytes)?;
            return Ok(Checked { table, shape, bytes, rows });
        };
        // Data with names may come in another order; those of input() stand for the table's one by
        // one.
        let given = match with_names {
            true => given,
            false => named_as(given, &shape)?,
        };
        let bytes = converted(&shape, given, &bytes)?;
        let rows = shape.check(&bytes)?;
        Ok(Checked { table, shape, bytes, rows })
    }
}

/// Columns under the names of the table's they are inserted into.
fn named_as(
    given: Vec<(String, ColumnType)>,
    shape: &Shape,
) -> Result<Vec<(String, ColumnType)>, Exception> {
    if given.len() != shape.columns.len() {
        let text = format!(
            "Number of columns doesn't match (source: {} and result: {})",
            given.len(),
            shape.columns.len()
        );
        return Err(Exception::new(NUMBER_OF_COLUMNS_DOESNT_MATCH, text));
    }
    let names = shape.columns.iter().map(|(name, _)| name.clone());
    Ok(names.zip(given).map(|(name, (_, kind))| (name, kind)).collect())
}

/// Rows of other columns as rows of these.
fn converted(
    shape: &Shape,
    given: Vec<(String, ColumnType)>,
    bytes: &[u8],
) -> Result<Vec<u8>, Exception> {
    for (name, kind) in &given {
        let wanted = shape.columns.iter().find(|(column, _)| column == name);
        let (_, wanted) = wanted.ok_or_else(|| no_column(name))?;
        if !is_wider(wanted, kind) {
            let text = format!("The mock does not convert {kind} of column {name} to {wanted}");
            return Err(Exception::new(TYPE_MISMATCH, text));
        }
    }
    let given = Shape { columns: given, ..Shape::default() };
    given.check(bytes)?;
    let projection = Projection::new(&given, &shape.columns);
    let (mut rest, mut out) = (bytes, Vec::with_capacity(bytes.len()));
    while !rest.is_empty() {
        rest = projection.project(rest, &mut out);
    }
    Ok(out)
}

/// The names and types that data begin with, and their length.
fn header(bytes: &[u8]) -> Result<(Vec<(String, ColumnType)>, usize), Exception> {
    let bad = || Exception::new(INCORRECT_DATA, "the header of names and types can't be read");
    let mut rest = bytes;
    let count = varint(&mut rest).ok().filter(|count| *count <= rest.len() as u64);
    let count = count.ok_or_else(bad)?;
    let mut texts = Vec::new();
    for _ in 0..count * 2 {
        let length = varint(&mut rest).ok().and_then(|length| usize::try_from(length).ok());
        let taken = length.and_then(|length| rest.split_at_checked(length)).ok_or_else(bad)?;
        rest = taken.1;
        texts.push(String::from_utf8(taken.0.to_vec()).map_err(|_| bad())?);
    }
    let types = texts.split_off(texts.len() / 2);
    let types = types.iter().map(|name| ColumnType::parse(name)).collect::<Result<Vec<_>, _>>()?;
    Ok((texts.into_iter().zip(types).collect(), bytes.len() - rest.len()))
}

async fn gather(data: &mut Data) -> Result<Vec<u8>, Exception> {
    let mut all = BytesMut::new();
    while let Some(part) = data.next().await? {
        if all.len() + part.len() > LARGEST_INSERT_BYTES {
            let text = format!(
                "Memory limit exceeded: the mock takes inserts of up to {LARGEST_INSERT_BYTES} bytes"
            );
            return Err(Exception::new(MEMORY_LIMIT_EXCEEDED, text));
        }
        all.extend_from_slice(&part);
    }
    Ok(all.into())
}

/// Work for a core, which would hold up the runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Exception> + Send + 'static,
) -> Result<T, Exception> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

/// An error that the plan asks for, as ClickHouse would say it.
fn told_to_fail(code: u16) -> Exception {
    let (name, text) = match code {
        159 => ("TIMEOUT_EXCEEDED", "Timeout exceeded"),
        202 => ("TOO_MANY_SIMULTANEOUS_QUERIES", "Too many simultaneous queries. Maximum: 100"),
        241 => ("MEMORY_LIMIT_EXCEEDED", "Memory limit (total) exceeded"),
        242 => ("TABLE_IS_READ_ONLY", "Table is in readonly mode"),
        243 => ("NOT_ENOUGH_SPACE", "Not enough space for temporary file"),
        252 => (
            "TOO_MANY_PARTS",
            "Too many parts (300). Merges are processing significantly slower than inserts",
        ),
        319 => ("UNKNOWN_STATUS_OF_INSERT", "Unknown status of the insert"),
        _ => (UNKNOWN_EXCEPTION.name, "An error"),
    };
    let message = format!("{text} (the mock was told to fail so)");
    Exception { code: i32::from(code), name: name.into(), message }
}

//! What ClickHouse stores: a table's columns, all row versions of it row by row, and how many rows
//! it counts itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use clickhouse::Client;
use clickhouse::query::BytesCursor;
use walbench_metrics::Failure;

use crate::clickhouse::ddl::quote_string;
use crate::clickhouse::destination::unhex;
use crate::clickhouse::error::ClickhouseError;
use crate::copy::snapshot::Stop;
use crate::rowbinary::NotRows;

/// How often one that waits looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// A server that says nothing for so long is lost. Long, because it may sort before it answers.
const SILENCE: Duration = Duration::from_secs(600);

/// A table's columns with their types.
pub(super) type Columns = BTreeMap<String, String>;

/// A table's columns; none where there is no such table.
pub(super) async fn columns(
    client: &Client,
    database: &str,
    name: &str,
    stop: &Stop,
) -> Result<Columns, ClickhouseError> {
    let sql = format!(
        "SELECT hex(name), hex(type) FROM system.columns WHERE database = {} AND table = {}",
        quote_string(database),
        quote_string(name)
    );
    let answer = text(client, &sql, stop).await?;
    let column = |line: &str| {
        let (name, sql_type) = line.split_once('\t')?;
        Some((unhex(name)?, unhex(sql_type)?))
    };
    let columns: Option<Columns> = answer.lines().map(column).collect();
    columns.ok_or_else(|| ClickhouseError::nonsense(&answer))
}

/// How many rows of a table with a key ClickHouse says that there are.
pub(super) async fn final_rows(
    client: &Client,
    sql_name: &str,
    stop: &Stop,
) -> Result<u64, ClickhouseError> {
    let sql = format!("SELECT count() FROM {sql_name} FINAL WHERE _is_deleted = 0");
    let answer = text(client, &sql, stop).await?;
    answer.trim().parse().map_err(|_| ClickhouseError::nonsense(&answer))
}

async fn text(client: &Client, sql: &str, stop: &Stop) -> Result<String, ClickhouseError> {
    let mut answer = client.query_raw(sql).fetch_bytes("TabSeparated")?;
    let mut text = Vec::new();
    while let Some(chunk) = next(&mut answer, stop).await? {
        text.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Runs a query, and hands what of its answer is not read yet to `each`, which says how long the
/// row is that it begins with.
pub(super) async fn read(
    client: &Client,
    sql: &str,
    stop: &Stop,
    mut each: impl FnMut(&[u8]) -> Result<usize, RowError>,
) -> Result<(), Failure> {
    let what = "ClickHouse's rows can't be read";
    let fail = |error: ClickhouseError| error.failure(what);
    let mut answer = client.query_raw(sql).fetch_bytes("RowBinary").map_err(|e| fail(e.into()))?;
    let mut unread = BytesMut::new();
    while let Some(chunk) = next(&mut answer, stop).await.map_err(fail)? {
        unread.extend_from_slice(&chunk);
        let mut read = 0;
        while read < unread.len() {
            match each(&unread[read..]) {
                Ok(row_bytes) => read += row_bytes,
                Err(RowError::Row(error)) if error.is_cut() => break,
                Err(RowError::Row(error)) => return Err(no_rows(&unread[read..], error)),
                Err(RowError::Other(failure)) => return Err(failure),
            }
        }
        drop(unread.split_to(read));
    }
    if unread.is_empty() { Ok(()) } else { Err(no_rows(&unread, NotRows::NoLength)) }
}

/// Why a row can't be taken.
pub(super) enum RowError {
    /// It is none, or not all of it is there.
    Row(NotRows),
    /// Anything else.
    Other(Failure),
}

impl From<NotRows> for RowError {
    fn from(error: NotRows) -> Self {
        Self::Row(error)
    }
}

async fn next(
    answer: &mut BytesCursor,
    stop: &Stop,
) -> Result<Option<bytes::Bytes>, ClickhouseError> {
    let asked = Instant::now();
    loop {
        if stop.is_asked() {
            return Err(ClickhouseError::refused("it was asked to stop".into()));
        }
        match tokio::time::timeout(LOOK, answer.next()).await {
            Ok(chunk) => return Ok(chunk?),
            Err(_) if asked.elapsed() > SILENCE => {
                return Err(clickhouse::error::Error::TimedOut.into());
            }
            Err(_) => {}
        }
    }
}

/// Servers of before 2023 put an error behind the rows that they have sent already. It is never
/// taken for rows: none ends as it does.
fn no_rows(bytes: &[u8], error: NotRows) -> Failure {
    let tail = &bytes[bytes.len().saturating_sub(4096)..];
    let text = String::from_utf8_lossy(tail);
    let failure = Failure::new("what ClickHouse sent is not what it was asked for");
    match text.rfind("Code: ").filter(|_| text.contains("DB::Exception")) {
        Some(at) => failure.because(Failure::new(text[at..].trim().to_owned())),
        None => failure.caused_by(&error),
    }
}

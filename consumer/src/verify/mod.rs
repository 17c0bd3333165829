//! The proof that everything arrived: PostgreSQL's rows, and the final state of those that
//! ClickHouse stores, held against each other.
//!
//! ```text
//! PostgreSQL ─► COPY ─► encoded rows ─► records ─► sorted ─┐
//!                                                          ├─► compared, key by key ─► counts
//! ClickHouse ─► all versions, as rows ─► records ─► sorted ─┘           └─► rows that are shown
//! ```
//!
//! Rows are compared as the bytes that replication writes of them, by hashes of their keys and of
//! their values: so no order of the two databases' matters, and nothing depends on how a value looks
//! as text. What of a row is kept has the same size for every row; what is more than the memory that
//! it may take is sorted in a file. A row's newest version is found here, by `_version`, and not by
//! ClickHouse; what ClickHouse itself counts with FINAL is held against it.
//!
//! Rows that differ are read a second time, a few of each table, to say what of them differs.

mod alignment;
mod compare;
mod finding;
mod ranges;
mod record;
mod sorter;
mod stored;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clickhouse::Client;
use serde::Serialize;
use tokio::runtime::{self, Runtime};
use walbench_metrics::Failure;
use walbench_phases::address::PostgresAddress;
use walbench_phases::clickhouse::ClickhouseAddress;
use walbench_phases::plan::Consumer;

use crate::backoff::random_seed;
use crate::clickhouse::client::Clients;
use crate::clickhouse::ddl::{Place, destination_name};
use crate::clickhouse::error::ClickhouseError;
use crate::copy::snapshot::{Snapshot, Stop};
use crate::rowbinary::{Column, EncodeError, RowKind, Table};
use crate::thread::StartError;
pub use alignment::ColumnProblem;
use alignment::{Alignment, align};
pub use compare::{Class, Counts};
use compare::{Differing, compare};
use finding::Chosen;
pub use finding::{Difference, Finding};
use ranges::Ranges;
use record::{Hash, Record, Recorder};
use sorter::Sorter;
use stored::RowError;

/// What PostgreSQL's views call us.
const APPLICATION_NAME: &str = "walbench verify";

/// Between two looks at rows that may still be on their way.
const SETTLE_INTERVAL: Duration = Duration::from_millis(500);

/// What is verified, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// How rows are written: `out_of_range`, `arrays` and `column_format`.
    pub consumer: Consumer,
    /// Tables by their names, with or without their schema; all that are published if there is none.
    pub tables: Vec<String>,
    /// How many differing rows of a table are shown.
    pub show: usize,
    /// The share of rows that is compared, above 0 and up to 1; all without it. See [`Sampled`].
    pub sample: Option<f64>,
    /// Memory for what is kept of rows, in bytes.
    pub memory_bytes: u64,
    /// For how long a row that differs may still come to agree.
    pub settle: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            consumer: Consumer::default(),
            tables: Vec::new(),
            show: 10,
            sample: None,
            memory_bytes: 256 * 1024 * 1024,
            settle: Duration::ZERO,
        }
    }
}

/// What is known at the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// The verdict.
    pub verdict: Verdict,
    /// The share of rows that was to be compared; all without it.
    pub sample: Option<f64>,
    /// How long it took.
    pub seconds: f64,
    /// The tables, by their names.
    pub tables: Vec<TableVerified>,
}

/// What can be said of it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All rows that were compared are the same.
    Same,
    /// Some are not.
    Different,
    /// There was no table to compare.
    Nothing,
}

/// What is known of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableVerified {
    /// Schema and name in PostgreSQL.
    pub table: String,
    /// Its name in ClickHouse.
    pub destination: String,
    /// Whether its rows can be told apart. Where not, it is compared how often each row is there.
    pub has_key: bool,
    /// Why nothing of it could be compared: then all rows are missing.
    pub problem: Option<String>,
    /// Columns that are not compared.
    pub columns: Vec<ColumnProblem>,
    /// Which of its rows were compared; all without it.
    pub sampled: Option<Sampled>,
    /// Rows, and how they compare.
    #[serde(flatten)]
    pub counts: Counts,
    /// Rows that differed at the first look, and have come to agree.
    pub settled: u64,
    /// Rows that ClickHouse itself counts with FINAL; not where there is no key, of a sample, or
    /// where rows may settle.
    pub final_rows: Option<u64>,
    /// Some of the rows that differ.
    pub findings: Vec<Finding>,
}

/// How the rows of a sample are chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Sampled {
    /// Ranges of the key are read. PostgreSQL has an index for that if its key begins with the same
    /// column; else it looks at all rows, and sends those.
    KeyRange {
        /// The first column of the table's that is in the key.
        column: String,
        /// How many.
        ranges: usize,
    },
    /// All rows are read, and those of some keys compared: the table is small, has no key, or one
    /// whose order is not the same on both sides.
    KeyHash,
}

impl TableVerified {
    /// Whether all that was compared is the same, and all was compared.
    #[must_use]
    pub fn is_same(&self) -> bool {
        let counts_same = self.final_rows.is_none_or(|rows| rows == self.counts.clickhouse_rows);
        let all_compared = self.problem.is_none() && self.columns.is_empty();
        counts_same && all_compared && self.counts.differing() == 0
    }
}

/// Compares the tables of a publication with their destinations. Waits for nothing that is still on
/// its way, but for what [`Options::settle`] says. Dropped before its end, it stops.
///
/// # Errors
/// A server can't be reached or refuses, the publication or a table does not exist, or a row can't
/// be read.
pub async fn verify(
    source: &PostgresAddress,
    publication: &str,
    clickhouse: &ClickhouseAddress,
    database: &str,
    options: &Options,
) -> Result<Verified, StartError> {
    let stop = Arc::new(Stop::new());
    let _stops = StopsAtEnd(stop.clone());
    let (source, publication) = (source.clone(), publication.to_owned());
    let (clickhouse, database) = (clickhouse.clone(), database.to_owned());
    let options = options.clone();
    let verify = move || {
        let verifier = Verifier::new(source, publication, &clickhouse, database, options)?;
        verifier.verify(&stop)
    };
    let verified = tokio::task::spawn_blocking(verify).await;
    verified.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

struct StopsAtEnd(Arc<Stop>);

impl Drop for StopsAtEnd {
    fn drop(&mut self) {
        self.0.ask();
    }
}

/// The two sides. Its work is done on threads and a runtime of its own: reading and hashing would
/// hold up others' tasks.
struct Verifier {
    source: PostgresAddress,
    publication: String,
    client: Client,
    place: Place,
    options: Options,
    runtime: Runtime,
}

/// Which rows are looked at.
#[derive(Clone, Debug)]
enum Look {
    /// All, or those of a sample.
    First,
    /// Those of keys that differed.
    Again { ranges: Option<Ranges>, keys: Keys },
}

/// Which keys are compared.
#[derive(Clone, Debug)]
enum Keys {
    /// Those whose hash is at most this.
    Share(u64),
    /// These.
    These(HashSet<Hash>),
}

impl Keys {
    const ALL: Self = Self::Share(u64::MAX);

    fn sampled(share: f64) -> Self {
        // A float becomes the nearest number that there is.
        Self::Share((share * u64::MAX as f64) as u64)
    }

    #[inline]
    fn has(&self, key: Hash) -> bool {
        match self {
            Self::Share(greatest) => key[0] <= *greatest,
            Self::These(keys) => keys.contains(&key),
        }
    }
}

impl Verifier {
    fn new(
        source: PostgresAddress,
        publication: String,
        clickhouse: &ClickhouseAddress,
        database: String,
        options: Options,
    ) -> Result<Self, Failure> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Failure::new("no runtime").caused_by(&e))?;
        let clients = Clients::new(clickhouse)?;
        let version = runtime.block_on(clients.version());
        let what = format!("ClickHouse at {clickhouse} can't be used");
        let (version, _) = version.map_err(|error| error.failure(&what))?;
        let client = clients.next().client.clone();
        let place = Place { database, version, cluster: None };
        Ok(Self { source, publication, client, place, options, runtime })
    }

    fn verify(&self, stop: &Stop) -> Result<Verified, StartError> {
        let started = Instant::now();
        let mut snapshot = self.snapshot(stop)?;
        let (mut tables, mut open) = (Vec::new(), Vec::new());
        for (index, table) in self.chosen_tables(&snapshot)? {
            let (verified, again) =
                self.verify_table(&mut snapshot, index, &table, Look::First, stop)?;
            open.extend(again.map(|look| (tables.len(), table.name.clone(), look)));
            tables.push(verified);
        }
        snapshot.close();
        let looked = Instant::now();
        while !open.is_empty() && looked.elapsed() < self.options.settle {
            std::thread::sleep(SETTLE_INTERVAL);
            open = self.look_again(&mut tables, open, stop)?;
        }
        let verdict = match tables.iter().all(TableVerified::is_same) {
            _ if tables.is_empty() => Verdict::Nothing,
            true => Verdict::Same,
            false => Verdict::Different,
        };
        let seconds = started.elapsed().as_secs_f64();
        Ok(Verified { verdict, sample: self.options.sample, seconds, tables })
    }

    fn snapshot<'a>(&self, stop: &'a Stop) -> Result<Snapshot<'a>, StartError> {
        let Self { source, publication, options, .. } = self;
        Snapshot::open(source, APPLICATION_NAME, publication, &options.consumer, stop)
    }

    /// The tables that are asked for, with their places in the snapshot.
    fn chosen_tables(
        &self,
        snapshot: &Snapshot<'_>,
    ) -> Result<Vec<(usize, Arc<Table>)>, StartError> {
        let mut all: Vec<_> = snapshot.tables().cloned().enumerate().collect();
        let is_named =
            |table: &Table, name: &String| *name == table.name || *name == destination_name(table);
        let names = &self.options.tables;
        let unknown = names.iter().find(|name| !all.iter().any(|(_, table)| is_named(table, name)));
        if let Some(name) = unknown {
            let published: Vec<_> = all.iter().map(|(_, table)| table.name.as_str()).collect();
            let failure = Failure::new(format!("{name:?} is no table of the publication"));
            let hint = format!("it has {}", published.join(", "));
            return Err(StartError::usage(failure.hint(hint)));
        }
        all.retain(|(_, table)| names.is_empty() || names.iter().any(|n| is_named(table, n)));
        Ok(all)
    }

    /// Looks at the rows again that differed; returns those that still do.
    fn look_again(
        &self,
        tables: &mut [TableVerified],
        open: Vec<(usize, String, Look)>,
        stop: &Stop,
    ) -> Result<Vec<(usize, String, Look)>, StartError> {
        let mut snapshot = self.snapshot(stop)?;
        let mut still_open = Vec::new();
        for (place, name, look) in open {
            let table = snapshot.tables().cloned().enumerate().find(|(_, t)| t.name == name);
            let Some((index, table)) = table else { continue };
            let (now, again) = self.verify_table(&mut snapshot, index, &table, look, stop)?;
            tables[place].take_later(now);
            still_open.extend(again.map(|look| (place, name, look)));
        }
        snapshot.close();
        Ok(still_open)
    }

    /// Compares a table; beside that, what of it is to be looked at again.
    fn verify_table(
        &self,
        snapshot: &mut Snapshot<'_>,
        index: usize,
        table: &Table,
        look: Look,
        stop: &Stop,
    ) -> Result<(TableVerified, Option<Look>), Failure> {
        let destination = destination_name(table);
        let mut verified = TableVerified {
            table: table.name.clone(),
            destination: destination.into(),
            has_key: table.has_key(),
            problem: None,
            columns: Vec::new(),
            sampled: None,
            counts: Counts::default(),
            settled: 0,
            final_rows: None,
            findings: Vec::new(),
        };
        let what = format!("{destination} can't be compared");
        let database = &self.place.database;
        let theirs = self.ask(stored::columns(&self.client, database, destination, stop), &what)?;
        let alignment = match align(&self.place, table, &theirs) {
            Ok(alignment) => alignment,
            Err(problem) => {
                verified.counts.postgres_rows = snapshot.count(index)?;
                verified.counts.missing = verified.counts.postgres_rows;
                // A table is made there with its first row.
                let is_empty = theirs.is_empty() && verified.counts.postgres_rows == 0;
                verified.problem = (!is_empty).then_some(problem);
                return Ok((verified, Some(Look::First)));
            }
        };
        let (ranges, keys) = match look {
            Look::First => self.sampled(snapshot, index, &alignment)?,
            Look::Again { ranges, keys } => (ranges, keys),
        };
        verified.sampled = self.options.sample.map(|_| match &ranges {
            Some(ranges) => {
                Sampled::KeyRange { column: ranges.column.clone(), ranges: ranges.count() }
            }
            None => Sampled::KeyHash,
        });
        let mut reading = Reading {
            verifier: self,
            snapshot,
            index,
            destination,
            alignment: &alignment,
            ranges: ranges.as_ref(),
            stop,
        };
        let (counts, chosen, differing) = reading.compare(&keys)?;
        verified.final_rows = self.final_rows(destination, table, stop)?;
        verified.findings = reading.show(chosen)?;
        verified.counts = counts;
        verified.columns = alignment.problems;
        let is_open = !differing.is_empty();
        Ok((verified, is_open.then(|| Look::Again { ranges, keys: Keys::These(differing) })))
    }

    /// Which rows of a table are compared at the first look.
    fn sampled(
        &self,
        snapshot: &mut Snapshot<'_>,
        index: usize,
        alignment: &Alignment,
    ) -> Result<(Option<Ranges>, Keys), Failure> {
        let Some(share) = self.options.sample else { return Ok((None, Keys::ALL)) };
        let orders_as_utf8 = snapshot.orders_as_utf8()?;
        let is_ordered = |column: &&Column| ranges::has_ranges(column, orders_as_utf8);
        let ordered = alignment.first_of_key().filter(is_ordered);
        if let Some(column) = ordered {
            let values = snapshot.some_values(index, &column.name)?;
            if let Some(ranges) = Ranges::draw(column, values, share, random_seed()) {
                return Ok((Some(ranges), Keys::ALL));
            }
        }
        Ok((None, Keys::sampled(share)))
    }

    /// Rows as ClickHouse counts them, if that can be compared.
    fn final_rows(
        &self,
        destination: &str,
        table: &Table,
        stop: &Stop,
    ) -> Result<Option<u64>, Failure> {
        let Options { sample, settle, .. } = &self.options;
        // Only what has a key can be asked for with FINAL.
        if !table.has_key() || sample.is_some() || !settle.is_zero() {
            return Ok(None);
        }
        let name = self.place.sql_name(destination);
        let what = format!("the rows of {destination} can't be counted");
        self.ask(stored::final_rows(&self.client, &name, stop), &what).map(Some)
    }

    fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, ClickhouseError>>,
        what: &str,
    ) -> Result<T, Failure> {
        self.runtime.block_on(question).map_err(|error| error.failure(what))
    }
}

impl TableVerified {
    /// Takes what a later look at the rows found that differed before.
    fn take_later(&mut self, later: Self) {
        if self.problem.is_some() {
            *self = later;
            return;
        }
        let (before, now) = (self.counts.differing(), later.counts);
        self.settled += before.saturating_sub(now.differing());
        let Counts { missing, extra, stale, wrong, conflicting, .. } = now;
        self.counts = Counts { missing, extra, stale, wrong, conflicting, ..self.counts };
        self.findings = later.findings;
        self.columns = later.columns;
    }
}

/// One table, read from both sides.
struct Reading<'a, 'b> {
    verifier: &'a Verifier,
    snapshot: &'a mut Snapshot<'b>,
    index: usize,
    destination: &'a str,
    alignment: &'a Alignment,
    ranges: Option<&'a Ranges>,
    stop: &'a Stop,
}

impl Reading<'_, '_> {
    /// Compares all rows with such keys.
    fn compare(&mut self, keys: &Keys) -> Result<(Counts, Chosen, HashSet<Hash>), Failure> {
        let Options { show, memory_bytes, settle, .. } = self.verifier.options;
        let half = || Sorter::new(memory_bytes / 2);
        let (mut here, mut there) = (half(), half());
        let take = |sorter: &mut Sorter, record: Record| match keys.has(record.key) {
            true => sorter.push(record).map_err(|e| no_file(&e)),
            false => Ok(()),
        };
        self.read(|record, _| take(&mut here, record), |record, _| take(&mut there, record))?;
        let has_key = self.alignment.here.has_key();
        let (mut chosen, mut differing) = (Chosen::new(show), HashSet::new());
        let each = |found: Differing| {
            if !settle.is_zero() {
                differing.insert(found.key());
            }
            chosen.offer(found);
        };
        let sorted = here.sorted().and_then(|here| Ok((here, there.sorted()?)));
        let counts = sorted.and_then(|(here, there)| compare(here, there, has_key, each));
        Ok((counts.map_err(|e| no_file(&e))?, chosen, differing))
    }

    /// Reads the chosen rows again, and says what of them differs.
    fn show(&mut self, chosen: Chosen) -> Result<Vec<Finding>, Failure> {
        let shown = chosen.choose();
        if shown.is_empty() {
            return Ok(Vec::new());
        }
        let places: HashMap<Hash, usize> =
            shown.iter().enumerate().map(|(place, shown)| (shown.key(), place)).collect();
        let wanted = |key: Hash| places.get(&key).copied();
        let (mut here, mut there) = (HashMap::new(), HashMap::new());
        let newest: Vec<_> = shown.iter().map(|shown| shown.there).collect();
        self.read(
            |record, row| {
                if let Some(place) = wanted(record.key) {
                    here.insert(place, row.to_vec());
                }
                Ok(())
            },
            |record, row| {
                if let Some(place) = wanted(record.key).filter(|p| newest[*p] == Some(record)) {
                    there.insert(place, row.to_vec());
                }
                Ok(())
            },
        )?;
        let alignment = self.alignment;
        let finding = |(place, shown): (usize, Differing)| {
            Finding::new(&shown, alignment, here.get(&place), there.get(&place))
        };
        let mut findings: Vec<_> = shown.into_iter().enumerate().map(finding).collect();
        findings.sort_by_cached_key(Finding::order);
        Ok(findings)
    }

    /// Reads all rows of PostgreSQL's and all versions of ClickHouse's, or those in the ranges, at once.
    fn read(
        &mut self,
        here: impl FnMut(Record, &[u8]) -> Result<(), Failure>,
        there: impl FnMut(Record, &[u8]) -> Result<(), Failure> + Send,
    ) -> Result<(), Failure> {
        let Self { verifier, snapshot, index, destination, alignment, ranges, stop } = self;
        let conditions = ranges.map(|ranges| [ranges.postgres(), ranges.clickhouse()]);
        let [here_if, there_if] = [0, 1].map(|side| conditions.as_ref().map(|c| c[side].as_str()));
        let first = OnceLock::new();
        let fail = |failure: Failure| {
            // The other one is told to stop, and says so: that is not why.
            let _ = first.set(failure);
            stop.ask();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let sql = alignment.query(&verifier.place.sql_name(destination), there_if);
                let read = read_there(&verifier.client, &sql, alignment, stop, there);
                verifier.runtime.block_on(read).unwrap_or_else(fail);
            });
            read_here(snapshot, *index, here_if, alignment, here).unwrap_or_else(fail);
        });
        first.into_inner().map_or(Ok(()), Err)
    }
}

fn read_here(
    snapshot: &mut Snapshot<'_>,
    index: usize,
    condition: Option<&str>,
    alignment: &Alignment,
    mut each: impl FnMut(Record, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut recorder = Recorder::new(alignment.here.clone(), alignment.compared.clone());
    let mut row = Vec::new();
    snapshot.read(index, condition, |tuple| {
        row.clear();
        let encoded = recorder.table().encode(tuple, None, RowKind::Present, 0, &mut row);
        encoded.map_err(|error| unencodable(&error))?;
        let recorded = recorder.record(&row);
        let (record, _) =
            recorded.map_err(|e| Failure::new("a row can't be read again").caused_by(&e))?;
        each(record, &row)
    })
}

async fn read_there(
    client: &Client,
    sql: &str,
    alignment: &Alignment,
    stop: &Stop,
    mut each: impl FnMut(Record, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let compared = vec![true; alignment.there.columns.len()];
    let mut recorder = Recorder::new(alignment.there.clone(), compared);
    stored::read(client, sql, stop, |bytes| {
        let (record, row_bytes) = recorder.record(bytes)?;
        each(record, &bytes[..row_bytes]).map_err(RowError::Other)?;
        Ok(row_bytes)
    })
    .await
}

#[cold]
fn unencodable(error: &EncodeError) -> Failure {
    let failure = Failure::new("a row can't be compared").caused_by(error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

#[cold]
fn no_file(error: &std::io::Error) -> Failure {
    Failure::new("what is compared can't be kept in a file")
        .caused_by(error)
        .hint("TMPDIR is where; with more memory (--memory-mib) less of it is kept there")
}

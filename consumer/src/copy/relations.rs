//! What is to be copied: which tables hold the rows of the published ones, and how they are read.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use walbench_metrics::Failure;
use walbench_phases::plan::{ColumnFormat, Consumer};

use super::rows::Format;
use super::session::{Session, Trouble};
use crate::catalogue::Catalogue;
use crate::replication::{quote, quote_identifier};
use crate::rowbinary::{BinaryForm, Codec, Facts, Policy, Table, TableFacts};

/// A published table: what rows are written as.
#[derive(Debug)]
pub(super) struct Published {
    /// It.
    pub(super) table: Arc<Table>,
    /// Which form of its values is read.
    pub(super) format: Format,
    /// How many columns are asked for.
    pub(super) columns: u16,
    /// Their types, as OID and modifier; domains are what they are made of.
    types: Vec<(u32, i32)>,
    /// Their names, as SQL.
    select_list: String,
}

/// A table that holds rows: the published one, or a partition of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relation {
    /// Its OID.
    pub(super) oid: u32,
    /// Which of the published tables its rows are written as.
    pub(super) published: usize,
    /// Its name, as SQL.
    pub(super) sql_name: String,
    /// Which rows are published, as SQL.
    filter: Option<String>,
    /// Its size as the plan was made.
    pub(super) size: Size,
}

/// A table's file, and how large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// `relfilenode`.
    pub(super) file: u32,
    /// Pages.
    pub(super) pages: u32,
    /// Bytes of its pages and of values stored outside of them.
    pub(super) bytes: u64,
}

/// The tables that hold the published rows. A row a table: OID of the published one, OID, schema,
/// name and file of the one with the rows, the publication's filter, size in bytes, page size, size
/// with what is stored outside of the pages.
///
/// The file is the one the snapshot sees: one from before a rewrite shows that there was one. The
/// sizes are of now. Foreign tables are left out: they have no WAL, and nothing of them comes later
/// either. Filters came with PostgreSQL 15.
const RELATIONS: &str = "
    SELECT c.oid, l.oid, n.nspname, l.relname, l.relfilenode,
           pg_catalog.to_jsonb(t) ->> 'rowfilter',
           pg_catalog.pg_relation_size(l.oid), pg_catalog.current_setting('block_size'),
           pg_catalog.pg_table_size(l.oid)
    FROM pg_catalog.pg_publication_tables t
    JOIN pg_catalog.pg_namespace p ON p.nspname = t.schemaname
    JOIN pg_catalog.pg_class c ON c.relnamespace = p.oid AND c.relname = t.tablename
    CROSS JOIN LATERAL (
        SELECT c.oid WHERE c.relkind = 'r'
        UNION ALL
        SELECT leaf.relid FROM pg_catalog.pg_partition_tree(c.oid) leaf
        WHERE c.relkind = 'p' AND leaf.isleaf
    ) AS holding(oid)
    JOIN pg_catalog.pg_class l ON l.oid = holding.oid AND l.relkind = 'r'
    JOIN pg_catalog.pg_namespace n ON n.oid = l.relnamespace
    WHERE t.pubname = {publication}
    ORDER BY p.nspname, c.relname, n.nspname, l.relname";

impl Published {
    fn new(facts: &TableFacts, plan: &Consumer) -> Self {
        let table = Table::new(&facts.relation(), Some(facts), Policy::from(plan));
        let columns = facts.columns.iter().filter(|column| column.published);
        let names = columns.clone().map(|column| quote_identifier(&column.name));
        let type_of = |column: &Facts| {
            (column.source.oid, column.source.modifier.unwrap_or(column.type_modifier))
        };
        let is_readable = table.binary_unreadable().is_empty() && !lacks_send(&table);
        let is_binary = is_readable && plan.column_format != ColumnFormat::Text;
        Self {
            format: if is_binary { Format::Binary } else { Format::Text },
            // PostgreSQL's own bound is 1,600.
            columns: u16::try_from(table.columns.len()).unwrap_or(u16::MAX),
            select_list: names.collect::<Vec<_>>().join(", "),
            types: columns.map(type_of).collect(),
            table: Arc::new(table),
        }
    }
}

/// Whether a column has no binary form: the stream has text in its place, COPY fails.
fn lacks_send(table: &Table) -> bool {
    table.columns.iter().any(|column| matches!(column.codec, Codec::Text(BinaryForm::Never)))
}

impl Relation {
    /// The COPY of some pages.
    pub(super) fn copy_pages(&self, published: &Published, pages: &Range<u32>) -> String {
        let Range { start, end } = pages;
        let pages =
            format!("ctid >= '({start},0)'::pg_catalog.tid AND ctid < '({end},0)'::pg_catalog.tid");
        self.copy(published, Some(&pages))
    }

    /// The COPY of rows that meet a condition.
    pub(super) fn copy(&self, published: &Published, condition: Option<&str>) -> String {
        let form = if published.format == Format::Binary { "binary" } else { "text" };
        let select = self.select(published) + &self.conditions(condition);
        format!("COPY ({select}) TO STDOUT (FORMAT {form})")
    }

    /// Values of a column, as text: of the rows of about so many percent of its pages.
    pub(super) fn some_values(&self, column: &str, percent: f64) -> String {
        let column = quote_identifier(column);
        format!(
            "SELECT {column}::pg_catalog.text FROM ONLY {} TABLESAMPLE SYSTEM ({percent}){}",
            self.sql_name,
            self.conditions(None)
        )
    }

    /// How many rows there are.
    pub(super) fn count(&self) -> String {
        format!("SELECT pg_catalog.count(*) FROM ONLY {}{}", self.sql_name, self.conditions(None))
    }

    /// Which rows: those that are published, and of those these.
    fn conditions(&self, condition: Option<&str>) -> String {
        let all: Vec<_> = [condition, self.filter.as_deref()]
            .into_iter()
            .flatten()
            .map(|condition| format!("({condition})"))
            .collect();
        if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) }
    }

    /// Checks that its columns are of the types that the plan was made with, and keeps it from being
    /// changed until the transaction's end. What a COPY in binary form sends says nothing of types.
    pub(super) fn lock(
        &self,
        session: &mut Session<'_>,
        published: &Published,
    ) -> Result<bool, Trouble> {
        let what = format!("to read {}", self.sql_name);
        let types = session.types(&what, &format!("{} LIMIT 0", self.select(published)))?;
        Ok(types == published.types)
    }

    /// Partitions are copied each: a row of theirs is none of what they are partitions of.
    fn select(&self, published: &Published) -> String {
        let Published { select_list, .. } = published;
        format!("SELECT {select_list} FROM ONLY {}", self.sql_name)
    }

    /// Tells apart what is asked and as what it is written: rows of one shape are of no use beside
    /// those of another.
    pub(super) fn shape(&self, published: &Published) -> String {
        let table = &published.table;
        let mut text = format!("{:?} {} {:?}", self.select(published), table.name, self.filter);
        for column in &table.columns {
            let _ = write!(text, " {:?} {} {}", column.name, column.clickhouse_type(), column.key);
        }
        format!("{:032x}", cityhash_rs::cityhash_102_128(text.as_bytes()))
    }
}

/// Looks up what a publication has, in the session's transaction.
pub(super) fn relations(
    session: &mut Session<'_>,
    publication: &str,
    catalogue: &Catalogue,
    plan: &Consumer,
) -> Result<(Vec<Published>, Vec<Relation>), Trouble> {
    let sql = RELATIONS.replace("{publication}", &quote(publication));
    let rows = session.query("to look up the published tables' sizes", &sql)?;
    let (mut published, mut relations) = (Vec::new(), Vec::new());
    let mut indices = BTreeMap::new();
    for row in rows {
        let nonsense = || Failure::new(format!("a published table is described as {row:?}"));
        let (parent, relation) = read(&row).ok_or_else(|| Trouble::Failed(nonsense()))?;
        // One that the catalogue does not have was made since it was read, and its rows come later;
        // or it has no columns, and its rows say nothing.
        let Some(facts) = catalogue.facts(parent) else { continue };
        let index = *indices.entry(parent).or_insert_with(|| {
            published.push(Published::new(facts, plan));
            published.len() - 1
        });
        relations.push(Relation { published: index, ..relation });
    }
    Ok((published, relations))
}

/// Reads a row of [`RELATIONS`].
fn read(row: &[Option<String>]) -> Option<(u32, Relation)> {
    let [parent, oid, schema, name, file, filter, sizes @ ..] = row else { return None };
    let number = |text: &Option<String>| text.as_ref()?.parse::<u64>().ok();
    let [bytes, page_size, table_bytes] = sizes else { return None };
    let quoted = |text: &Option<String>| Some(quote_identifier(text.as_ref()?));
    let relation = Relation {
        oid: number(oid)?.try_into().ok()?,
        published: 0,
        sql_name: format!("{}.{}", quoted(schema)?, quoted(name)?),
        filter: filter.clone(),
        size: Size {
            file: number(file)?.try_into().ok()?,
            // A table that is dropped at this moment has no size any more.
            pages: pages(number(bytes).unwrap_or(0), number(page_size)?)?,
            bytes: number(table_bytes).unwrap_or(0),
        },
    };
    Some((number(parent)?.try_into().ok()?, relation))
}

fn pages(bytes: u64, page_size: u64) -> Option<u32> {
    u32::try_from(bytes.checked_div(page_size)?).ok()
}

/// The file a table has now, whatever the transaction's snapshot sees; `None` when it is gone.
pub(super) fn file_now(session: &mut Session<'_>, oid: u32) -> Result<Option<u32>, Trouble> {
    let sql = format!("SELECT pg_catalog.pg_relation_filenode({oid})");
    let rows = session.query("to look up a table's file", &sql)?;
    let text = rows.first().and_then(|row| row.first()?.as_deref());
    Ok(text.and_then(|text| text.parse().ok()))
}

/// A table's size now; `None` when it is gone.
pub(super) fn size_now(session: &mut Session<'_>, oid: u32) -> Result<Option<Size>, Trouble> {
    let sql = format!(
        "SELECT pg_catalog.pg_relation_filenode({oid}), pg_catalog.pg_relation_size({oid}), \
                pg_catalog.current_setting('block_size'), pg_catalog.pg_table_size({oid})"
    );
    let rows = session.query("to look up a table's size", &sql)?;
    let size = || {
        let row: Vec<u64> =
            rows.first()?.iter().map(|v| v.as_ref()?.parse().ok()).collect::<Option<_>>()?;
        let [file, bytes, page_size, table_bytes] = row[..] else { return None };
        let pages = pages(bytes, page_size)?;
        Some(Size { file: file.try_into().ok()?, pages, bytes: table_bytes })
    };
    Ok(size())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::ReplicaIdentity;
    use crate::rowbinary::SourceType;

    fn published(names: &[&str], type_oid: u32) -> Published {
        let facts = |name: &&str| Facts {
            name: (*name).into(),
            not_null: false,
            primary_key: true,
            identity: true,
            published: true,
            type_oid,
            type_modifier: -1,
            source: SourceType::of(type_oid),
        };
        let (namespace, name) = ("public".into(), "t".into());
        let (identity, columns) = (ReplicaIdentity::Default, names.iter().map(facts).collect());
        let facts = TableFacts { oid: 1, namespace, name, identity, columns };
        Published::new(&facts, &Consumer::default())
    }

    fn relation(filter: Option<&str>) -> Relation {
        Relation {
            oid: 7,
            published: 0,
            sql_name: "\"public\".\"t\"".into(),
            filter: filter.map(Into::into),
            size: Size { file: 8, pages: 9, bytes: 10 },
        }
    }

    #[test]
    fn a_chunk_is_asked_for_by_its_pages() {
        let plain = relation(None).copy_pages(&published(&["id", "a\"b"], 20), &(0..9));
        assert_eq!(
            plain,
            "COPY (SELECT \"id\", \"a\"\"b\" FROM ONLY \"public\".\"t\" \
             WHERE (ctid >= '(0,0)'::pg_catalog.tid AND ctid < '(9,0)'::pg_catalog.tid)) \
             TO STDOUT (FORMAT binary)"
        );
        // A type that is known by its OID alone is read as text.
        let filtered = relation(Some("a > 1 OR b")).copy_pages(&published(&["a"], 99_999), &(5..6));
        assert!(filtered.ends_with(") AND (a > 1 OR b)) TO STDOUT (FORMAT text)"), "{filtered}");
        let values = relation(Some("a > 1")).some_values("a\"b", 2.5);
        assert_eq!(
            values,
            "SELECT \"a\"\"b\"::pg_catalog.text FROM ONLY \"public\".\"t\" TABLESAMPLE SYSTEM (2.5) \
             WHERE (a > 1)"
        );
        // aclitem has no binary form, which COPY refuses and the stream does not.
        assert_eq!(published(&["a"], 1033).format, Format::Text);
    }

    #[test]
    fn whatever_makes_other_rows_makes_another_shape() {
        let shapes = [
            relation(None).shape(&published(&["a"], 20)),
            relation(None).shape(&published(&["b"], 20)),
            relation(None).shape(&published(&["a"], 23)),
            relation(Some("a > 1")).shape(&published(&["a"], 20)),
            Relation { sql_name: "x".into(), ..relation(None) }.shape(&published(&["a"], 20)),
        ];
        let distinct: std::collections::BTreeSet<_> = shapes.iter().collect();
        assert_eq!(distinct.len(), shapes.len());
        assert_eq!(shapes[0], relation(None).shape(&published(&["a"], 20)));
    }

    #[test]
    fn a_described_table_is_read_or_refused() {
        let row = |values: &[&str]| {
            values.iter().map(|v| (*v != "-").then(|| (*v).to_owned())).collect::<Vec<_>>()
        };
        let values = ["1", "7", "public", "t", "8", "-", "73728", "8192", "10"];
        assert_eq!(read(&row(&values)), Some((1, relation(None))));
        let gone = read(&row(&["1", "7", "public", "t", "8", "-", "-", "8192", "-"])).unwrap().1;
        assert_eq!((gone.size.pages, gone.size.bytes), (0, 0));
        assert_eq!(read(&row(&values[..8])), None);
        assert_eq!(read(&row(&["1", "x", "public", "t", "8", "-", "1", "8192", "10"])), None);
    }
}

//! What PostgreSQL's catalogue knows of the published tables and the stream does not say.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::pgoutput::ReplicaIdentity;
use crate::replication::{Connection, ReplicationError, quote};
use crate::rowbinary::{BinaryForm, Facts, Policy, SourceType, Table, TableFacts};

/// The published tables, by their OIDs; those that partitions are published as are among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue(BTreeMap<u32, TableFacts>);

/// The columns of the published tables. A row a column: table (OID, schema, name, replica
/// identity), then name, whether it is not NULL, in the primary key, in the replica identity's
/// index and published, then OID and modifier of its type.
///
/// `attnotnull` may be of a constraint that was never validated (PostgreSQL 18); an index's columns
/// may be followed by others that are only included; lists of columns to publish came with
/// PostgreSQL 15, and generated columns in them with 18.
const COLUMNS: &str = "
    SELECT c.oid, n.nspname, c.relname, c.relreplident, a.attname,
           a.attnotnull AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_constraint k
               WHERE k.conrelid = a.attrelid AND k.contype = 'n' AND NOT k.convalidated
                 AND a.attnum = ANY (k.conkey)),
           COALESCE(a.attnum = ANY ((p.indkey::int2[])[0:p.indnkeyatts - 1]), false),
           COALESCE(a.attnum = ANY ((r.indkey::int2[])[0:r.indnkeyatts - 1]), false),
           {published},
           a.atttypid, a.atttypmod
    FROM {tables}
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_catalog.pg_index p ON p.indrelid = c.oid AND p.indisprimary
        -- Two rows may have one value of a deferrable key for a while: it tells none apart.
        AND (p.indimmediate OR c.relreplident <> 'f')
    LEFT JOIN pg_catalog.pg_index r ON r.indrelid = c.oid AND r.indisreplident
    WHERE {which}
    ORDER BY c.oid, a.attnum";

/// Which columns of a publication's tables are published.
const PUBLISHED: &str = "
    COALESCE(pg_catalog.to_jsonb(t) -> 'attnames' ? a.attname::text, true)
        AND (a.attgenerated = '' OR current_setting('server_version_num')::int >= 180000)";

/// A publication's tables.
const TABLES: &str = "
    pg_catalog.pg_publication_tables t
    JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename";

/// All tables. Looking into a publication takes locks on its tables, and waits for those who alter
/// them; this doesn't.
const ALL_TABLES: &str = "
    pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";

/// Types, and what they are made of: OID, name, base type if it is a domain (else 0) with its
/// modifier, element if it is an array (else 0), delimiter, and the send function, if there is one:
/// the server's own function behind it, or nothing if it is an extension's (12 is the language
/// `internal`).
const TYPES: &str = "
    WITH RECURSIVE used(oid) AS (
        SELECT pg_catalog.unnest(ARRAY[{oids}]::oid[])
        UNION
        SELECT part.oid FROM used
        JOIN pg_catalog.pg_type t ON t.oid = used.oid
        CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) part(oid)
        WHERE part.oid <> 0
    )
    SELECT t.oid, pg_catalog.format_type(t.oid, NULL), t.typbasetype, t.typtypmod,
           COALESCE(e.oid, 0), pg_catalog.ascii(t.typdelim::text),
           CASE WHEN s.oid IS NULL THEN NULL WHEN s.prolang = 12 THEN s.prosrc ELSE '' END
    FROM used
    JOIN pg_catalog.pg_type t ON t.oid = used.oid
    LEFT JOIN pg_catalog.pg_type e ON e.typarray = t.oid
    LEFT JOIN pg_catalog.pg_proc s ON s.oid = t.typsend";

impl Catalogue {
    /// Reads it for the tables of a publication; it has none where there is no such publication.
    ///
    /// # Errors
    /// The connection's, or the server's refusal.
    pub fn read(connection: &mut Connection, publication: &str) -> Result<Self, ReplicationError> {
        let which = format!("t.pubname = {}", quote(publication));
        Self::query(connection, PUBLISHED, TABLES, &which)
    }

    /// Reads it for one table, as if all of it were published: what the stream describes says
    /// itself what is. Empty if the table is gone.
    ///
    /// # Errors
    /// The connection's, or the server's refusal.
    pub fn read_table(connection: &mut Connection, oid: u32) -> Result<Self, ReplicationError> {
        Self::query(connection, "true", ALL_TABLES, &format!("c.oid = {oid}"))
    }

    fn query(
        connection: &mut Connection,
        published: &str,
        tables: &str,
        which: &str,
    ) -> Result<Self, ReplicationError> {
        let columns = COLUMNS.replace("{published}", published).replace("{tables}", tables);
        let columns = columns.replace("{which}", which);
        let columns = connection.query("to describe the published tables", &columns)?;
        let columns: Vec<ColumnRow> =
            columns.iter().filter_map(|row| ColumnRow::read(row)).collect();
        let oids: BTreeSet<_> = columns.iter().map(|row| row.type_oid.to_string()).collect();
        let oids: Vec<_> = oids.into_iter().collect();
        let types = TYPES.replace("{oids}", &oids.join(","));
        let types = connection.query("to describe the published columns' types", &types)?;
        let types = types.iter().filter_map(|row| TypeRow::read(row)).collect();
        Ok(Self(table_facts(columns, &types)))
    }

    /// Adds what was read later. Tables that are gone stay: their rows may still come.
    pub(crate) fn learn(&mut self, later: Self) {
        self.0.extend(later.0);
    }

    /// What is known of a table. Where its [`TableFacts::relation`] is not what the stream
    /// describes, the catalogue is out of date.
    #[must_use]
    pub fn facts(&self, table: u32) -> Option<&TableFacts> {
        self.0.get(&table)
    }

    /// The published tables as rows will be written for them, by their names.
    #[must_use]
    pub fn tables(&self, policy: Policy) -> Vec<Table> {
        let mut tables: Vec<_> = self
            .0
            .values()
            .map(|facts| Table::new(&facts.relation(), Some(facts), policy))
            .collect();
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        tables
    }
}

/// A row of [`COLUMNS`].
struct ColumnRow {
    table: u32,
    namespace: String,
    table_name: String,
    identity: ReplicaIdentity,
    column: String,
    not_null: bool,
    primary_key: bool,
    identity_key: bool,
    published: bool,
    type_oid: u32,
    type_modifier: i32,
}

type Row = [Option<String>];

impl ColumnRow {
    fn read(row: &Row) -> Option<Self> {
        let [table, namespace, table_name, identity, column, flags @ .., type_oid, modifier] = row
        else {
            return None;
        };
        let [not_null, primary_key, in_index, published] = flags else { return None };
        let is_set = |flag: &Option<String>| flag.as_deref() == Some("t");
        let (identity, identity_key) = match identity.as_deref()? {
            "n" => (ReplicaIdentity::Nothing, false),
            "f" => (ReplicaIdentity::Full, true),
            "i" => (ReplicaIdentity::Index, is_set(in_index)),
            _ => (ReplicaIdentity::Default, is_set(primary_key)),
        };
        Some(Self {
            table: table.as_ref()?.parse().ok()?,
            namespace: namespace.clone()?,
            table_name: table_name.clone()?,
            identity,
            column: column.clone()?,
            not_null: is_set(not_null),
            primary_key: is_set(primary_key),
            identity_key,
            published: is_set(published),
            type_oid: type_oid.as_ref()?.parse().ok()?,
            type_modifier: modifier.as_ref()?.parse().ok()?,
        })
    }
}

/// A row of [`TYPES`].
struct TypeRow {
    name: String,
    base: u32,
    modifier: i32,
    element: u32,
    delimiter: u8,
    binary: BinaryForm,
}

type Types = HashMap<u32, TypeRow>;

impl TypeRow {
    fn read(row: &Row) -> Option<(u32, Self)> {
        let [oid, name, base, modifier, element, delimiter, send] = row else { return None };
        let read = Self {
            name: name.clone()?,
            base: base.as_ref()?.parse().ok()?,
            modifier: modifier.as_ref()?.parse().ok()?,
            element: element.as_ref()?.parse().ok()?,
            delimiter: delimiter.as_ref()?.parse().ok()?,
            binary: send.as_deref().map_or(BinaryForm::Never, form_by_send_function),
        };
        Some((oid.as_ref()?.parse().ok()?, read))
    }
}

/// PostgreSQL names a send function after the type it was made for; others share it.
fn form_by_send_function(name: &str) -> BinaryForm {
    let stem = name.strip_suffix("send").unwrap_or_default();
    BinaryForm::of(stem.strip_suffix('_').unwrap_or(stem))
}

fn table_facts(columns: Vec<ColumnRow>, types: &Types) -> BTreeMap<u32, TableFacts> {
    let mut tables = BTreeMap::new();
    for row in columns {
        let table = tables.entry(row.table).or_insert_with(|| TableFacts {
            oid: row.table,
            namespace: row.namespace,
            name: row.table_name,
            identity: row.identity,
            columns: Vec::new(),
        });
        table.columns.push(Facts {
            name: row.column,
            not_null: row.not_null,
            primary_key: row.primary_key,
            identity: row.identity_key,
            published: row.published,
            type_oid: row.type_oid,
            type_modifier: row.type_modifier,
            source: resolved(row.type_oid, types),
        });
    }
    tables
}

/// A type with its domains taken away, however many are put on one another. PostgreSQL refuses a
/// type that is made of itself.
fn resolved(oid: u32, types: &Types) -> SourceType {
    let Some(row) = types.get(&oid) else { return SourceType::of(oid) };
    if row.base != 0 {
        let base = resolved(row.base, types);
        // An outer domain can't give a modifier to an inner one.
        let modifier = Some(row.modifier).filter(|modifier| *modifier != -1).or(base.modifier);
        return SourceType { modifier, ..base };
    }
    let element = (row.element != 0).then(|| Box::new(resolved(row.element, types)));
    SourceType {
        name: row.name.clone(),
        oid,
        modifier: None,
        binary: row.binary,
        element,
        delimiter: row.delimiter,
    }
}

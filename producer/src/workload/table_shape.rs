//! A table as PostgreSQL's catalogue describes it.

use std::collections::HashMap;

use tokio_postgres::Client;
use tokio_postgres::types::{Oid, Type};
use walbench_metrics::Failure;

use super::column_type::ColumnType;

/// A table as PostgreSQL's catalogue describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct TableShape {
    /// Schema.
    pub schema: String,
    /// Name within the schema.
    pub name: String,
    /// The number of the table's row type.
    pub row_type: Oid,
    /// All columns that are not dropped, in their order.
    pub columns: Vec<ColumnShape>,
    /// The primary key's columns, as indexes into `columns`; empty without a primary key.
    pub key: Vec<usize>,
    /// The columns of every unique index, the primary key's included.
    pub unique: Vec<Vec<usize>>,
}

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnShape {
    /// Name.
    pub name: String,
    /// Its type's number.
    pub oid: Oid,
    /// Its type as a person writes it.
    pub type_name: String,
    /// Its type, if it is one that can be filled.
    pub column_type: Option<ColumnType>,
    /// NULL is refused.
    pub not_null: bool,
    /// NULL is refused by the type, a domain: even where the column isn't written.
    pub domain_not_null: bool,
    /// Something takes the place of a value that isn't written.
    pub has_default: bool,
    /// `GENERATED ALWAYS AS (…)`: can't be written.
    pub is_generated: bool,
    /// `GENERATED ALWAYS AS IDENTITY`: is written only when asked for.
    pub is_identity_always: bool,
}

const TABLE: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, c.reltype
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p')
  AND (n.nspname || '.' || c.relname = $1
       OR c.relname = $1 AND pg_catalog.pg_table_is_visible(c.oid))
ORDER BY n.nspname || '.' || c.relname = $1 DESC LIMIT 1";

const TABLES: &str = "
SELECT CASE WHEN n.nspname = 'public' THEN c.relname::text ELSE n.nspname || '.' || c.relname END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 1 LIMIT 20";

const COLUMNS: &str = "
SELECT a.attnum, a.attname::text, a.atttypid, a.atttypmod,
       pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.atthasdef OR a.attidentity <> '', a.attgenerated <> '', a.attidentity = 'a'
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

// An index on an expression doesn't name its columns; what it depends on does.
const UNIQUE_INDEXES: &str = "
SELECT i.indisprimary, ARRAY(
    SELECT k FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS u (k, place)
    WHERE k > 0 AND place <= i.indnkeyatts
    UNION
    SELECT d.refobjsubid::int2 FROM pg_catalog.pg_depend d
    WHERE i.indexprs IS NOT NULL AND d.classid = 'pg_catalog.pg_class'::regclass
      AND d.objid = i.indexrelid AND d.refclassid = 'pg_catalog.pg_class'::regclass
      AND d.refobjid = i.indrelid AND d.refobjsubid > 0)
FROM pg_catalog.pg_index i WHERE i.indrelid = $1 AND i.indisunique";

const TYPE: &str = "
SELECT t.typname::text, t.typtype = 'd', t.typtype = 'e', t.typcategory = 'A' AND t.typlen = -1,
       t.typelem, t.typbasetype, t.typtypmod, t.typnotnull,
       ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e
             WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)
FROM pg_catalog.pg_type t WHERE t.oid = $1";

impl TableShape {
    /// Reads `table`, written as `schema.table`, or as `table` to be found on the search path.
    ///
    /// # Errors
    ///
    /// There is no such table, or the catalogue can't be read.
    pub async fn describe(client: &Client, table: &str) -> Result<Self, Failure> {
        let failed = |error: tokio_postgres::Error| {
            Failure::new(format!("can't read the columns of table {table}")).caused_by(&error)
        };
        let found = client.query_typed_opt(TABLE, &[(&table, Type::TEXT)]).await.map_err(failed)?;
        let Some(row) = found else { return Err(unknown_table(client, table).await) };
        let oid: Oid = row.get(0);
        let mut types = Types { client, known: HashMap::new() };
        let mut columns = Vec::new();
        let mut numbers = Vec::new();
        for row in client.query_typed(COLUMNS, &[(&oid, Type::OID)]).await.map_err(failed)? {
            let type_oid = row.get(2);
            let described = types.resolve(type_oid, row.get(3)).await.map_err(failed)?;
            numbers.push(row.get::<_, i16>(0));
            columns.push(ColumnShape {
                name: row.get(1),
                oid: type_oid,
                type_name: row.get(4),
                column_type: described.column_type,
                not_null: row.get::<_, bool>(5) || described.not_null,
                domain_not_null: described.not_null,
                has_default: row.get(6),
                is_generated: row.get(7),
                is_identity_always: row.get(8),
            });
        }
        let mut shape = Self {
            schema: row.get(1),
            name: row.get(2),
            row_type: row.get(3),
            columns,
            key: Vec::new(),
            unique: Vec::new(),
        };
        for row in client.query_typed(UNIQUE_INDEXES, &[(&oid, Type::OID)]).await.map_err(failed)? {
            let place = |number: i16| numbers.iter().position(|known| *known == number);
            let index: Vec<usize> =
                row.get::<_, Vec<i16>>(1).into_iter().filter_map(place).collect();
            if row.get(0) {
                shape.key.clone_from(&index);
            }
            shape.unique.push(index);
        }
        Ok(shape)
    }

    /// `schema.table`, as people write it.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// `"schema"."table"`, as SQL takes it whatever the names hold.
    #[must_use]
    pub fn quoted_name(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }
}

/// An identifier as SQL takes it, whatever it holds.
#[must_use]
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

async fn unknown_table(client: &Client, table: &str) -> Failure {
    let failure = Failure::new(format!("there is no table {table} in the database"));
    let names: Vec<String> = match client.query_typed(TABLES, &[]).await {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
        Err(_) => Vec::new(),
    };
    failure.hint(if names.is_empty() {
        "the database holds no table; producer.tables may name the built-in task_run and event, or \
         tables of the copied schema (postgres.schema_from)"
            .into()
    } else {
        format!("producer.tables may name: {}", names.join(", "))
    })
}

/// A type with what belongs to it as a domain.
#[derive(Clone, Default)]
struct Described {
    column_type: Option<ColumnType>,
    not_null: bool,
}

/// A row of `pg_type`.
#[derive(Clone)]
struct CatalogType {
    name: String,
    is_domain: bool,
    is_enum: bool,
    is_array: bool,
    element: Oid,
    base: Oid,
    base_modifier: i32,
    not_null: bool,
    labels: Vec<String>,
}

/// Types by number, each asked for once.
struct Types<'a> {
    client: &'a Client,
    known: HashMap<Oid, Option<CatalogType>>,
}

impl Types<'_> {
    /// What a column of type `oid` with type modifier `modifier` holds.
    async fn resolve(
        &mut self,
        oid: Oid,
        modifier: i32,
    ) -> Result<Described, tokio_postgres::Error> {
        let (mut oid, mut modifier, mut not_null) = (oid, modifier, false);
        loop {
            let Some(found) = self.read(oid).await? else { return Ok(Described::default()) };
            if found.is_domain {
                not_null |= found.not_null;
                (oid, modifier) = (found.base, found.base_modifier);
            } else if found.is_array {
                let element_oid = found.element;
                let element = Box::pin(self.resolve(element_oid, modifier)).await?.column_type;
                let column_type = element
                    .map(|element| ColumnType::Array { element: Box::new(element), element_oid });
                return Ok(Described { column_type, not_null });
            } else {
                let column_type = if found.is_enum {
                    Some(ColumnType::Enum { labels: found.labels }).filter(has_label)
                } else {
                    scalar(&found.name, modifier)
                };
                return Ok(Described { column_type, not_null });
            }
        }
    }

    async fn read(&mut self, oid: Oid) -> Result<Option<CatalogType>, tokio_postgres::Error> {
        if let Some(known) = self.known.get(&oid) {
            return Ok(known.clone());
        }
        let row = self.client.query_typed_opt(TYPE, &[(&oid, Type::OID)]).await?;
        let found = row.map(|row| CatalogType {
            name: row.get(0),
            is_domain: row.get(1),
            is_enum: row.get(2),
            is_array: row.get(3),
            element: row.get(4),
            base: row.get(5),
            base_modifier: row.get(6),
            not_null: row.get(7),
            labels: row.get(8),
        });
        self.known.insert(oid, found.clone());
        Ok(found)
    }
}

fn has_label(column_type: &ColumnType) -> bool {
    !matches!(column_type, ColumnType::Enum { labels } if labels.is_empty())
}

/// The scalar type called `name`, its modifier read as that type's `typmodout` function does.
fn scalar(name: &str, modifier: i32) -> Option<ColumnType> {
    // Lengths of text are kept with the 4 bytes of a header added.
    let characters = u32::try_from(modifier - 4).ok();
    let digits = u32::try_from(modifier).unwrap_or(6);
    let count = u32::try_from(modifier).ok();
    Some(match name {
        "bool" => ColumnType::Bool,
        "int2" => ColumnType::Int2,
        "int4" => ColumnType::Int4,
        "int8" => ColumnType::Int8,
        "oid" => ColumnType::Oid,
        "float4" => ColumnType::Float4,
        "float8" => ColumnType::Float8,
        "numeric" => numeric(modifier),
        "money" => ColumnType::Money,
        "text" | "citext" => ColumnType::Text { max: None },
        "varchar" | "bpchar" => ColumnType::Text { max: characters },
        "name" => ColumnType::Text { max: Some(63) },
        "char" => ColumnType::Char,
        "bytea" => ColumnType::Bytea,
        "uuid" => ColumnType::Uuid,
        "date" => ColumnType::Date,
        "time" => ColumnType::Time { digits, zone: false },
        "timetz" => ColumnType::Time { digits, zone: true },
        "timestamp" | "timestamptz" => ColumnType::Timestamp { digits },
        "interval" => ColumnType::Interval,
        "json" => ColumnType::Json,
        "jsonb" => ColumnType::Jsonb,
        "inet" => ColumnType::Inet,
        "cidr" => ColumnType::Cidr,
        "macaddr" => ColumnType::Macaddr,
        "macaddr8" => ColumnType::Macaddr8,
        "bit" => ColumnType::Bit { length: count.unwrap_or(1) },
        "varbit" => ColumnType::Varbit { max: count },
        _ => return None,
    })
}

/// Precision and scale share the modifier; the scale is a signed number of 11 bits since
/// PostgreSQL 15 and was never beyond 1000 before.
fn numeric(modifier: i32) -> ColumnType {
    let Ok(packed) = u32::try_from(modifier - 4) else {
        return ColumnType::Numeric { precision: None, scale: 4 };
    };
    let scale = ((packed & 0x7ff) ^ 1024).cast_signed() - 1024;
    ColumnType::Numeric {
        precision: Some((packed >> 16) as u16),
        scale: i16::try_from(scale).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_are_read() {
        let numeric = |precision, scale| Some(ColumnType::Numeric { precision, scale });
        assert_eq!(scalar("numeric", -1), numeric(None, 4));
        assert_eq!(scalar("numeric", (12 << 16 | 2) + 4), numeric(Some(12), 2));
        assert_eq!(scalar("numeric", (3 << 16 | (-2i32 & 0x7ff)) + 4), numeric(Some(3), -2));
        assert_eq!(scalar("varchar", 24), Some(ColumnType::Text { max: Some(20) }));
        assert_eq!(scalar("varchar", -1), Some(ColumnType::Text { max: None }));
        assert_eq!(scalar("bit", 9), Some(ColumnType::Bit { length: 9 }));
        assert_eq!(scalar("timestamptz", -1), Some(ColumnType::Timestamp { digits: 6 }));
        assert_eq!(scalar("tsvector", -1), None);
    }

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
    }
}

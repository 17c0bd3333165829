//! Destination tables as SQL: how they are made, and what makes an older one fit.

use std::fmt::Write;

use super::kind::{ColumnKind, Kind};
use super::version::{Feature, Version};
use crate::rowbinary::{Codec, Column, Table};

/// Where tables are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The database.
    pub database: String,
    /// The server's version.
    pub version: Version,
    /// The cluster, if tables are to be on all of its servers.
    pub cluster: Option<String>,
}

/// Inserts of which ClickHouse remembers that it had them.
const WINDOW: u32 = 10_000;

/// A name as SQL.
#[must_use]
pub fn quote_name(name: &str) -> String {
    quoted(name, '`')
}

/// A string as SQL.
#[must_use]
pub fn quote_string(text: &str) -> String {
    quoted(text, '\'')
}

fn quoted(text: &str, quote: char) -> String {
    let mut quoted = String::from(quote);
    for character in text.chars() {
        if [quote, '\\'].contains(&character) {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push(quote);
    quoted
}

/// A source table's name at the destination: its schema's stands before it unless that is `public`.
/// Rows of different tables must not meet.
#[must_use]
pub fn destination_name(table: &Table) -> &str {
    let name = table.name.strip_prefix("public.").filter(|name| !name.contains('.'));
    name.unwrap_or(&table.name)
}

impl Place {
    /// A table's name as SQL, database included.
    #[must_use]
    pub fn sql_name(&self, name: &str) -> String {
        format!("{}.{}", quote_name(&self.database), quote_name(name))
    }

    /// Where its rows are kept: what bears its name is spread over a cluster.
    #[must_use]
    pub fn local_name(&self, table: &Table) -> String {
        let suffix = if self.cluster.is_some() { "_local" } else { "" };
        format!("{}{suffix}", destination_name(table))
    }

    fn on_cluster(&self) -> String {
        let on = |cluster: &String| format!(" ON CLUSTER {}", quote_name(cluster));
        self.cluster.as_ref().map(on).unwrap_or_default()
    }

    /// Makes the database, if it is not there.
    #[must_use]
    pub fn create_database(&self) -> String {
        let name = quote_name(&self.database);
        format!("CREATE DATABASE IF NOT EXISTS {name}{}", self.on_cluster())
    }

    /// Makes a table, if it is not there, by one statement or more.
    #[must_use]
    pub fn create_table(&self, table: &Table) -> Vec<String> {
        let local = self.sql_name(&self.local_name(table));
        let mut create = format!("CREATE TABLE IF NOT EXISTS {local}{}\n(\n", self.on_cluster());
        for column in &table.columns {
            let _ = writeln!(create, "    {},", self.column(table, column));
        }
        let _ = writeln!(create, "    `_version` UInt64{},", self.codec("Delta, LZ4"));
        let _ = write!(create, "    `_is_deleted` UInt8\n)\nENGINE = {}\n", self.engine(table));
        let _ = write!(create, "ORDER BY {}", order(table));
        if !table.has_key() && self.version.has(Feature::DeduplicationToken) {
            // Where nobody heard of an insert's end, it is sent again: nothing else would tell its
            // rows from others.
            let _ = write!(create, "\nSETTINGS non_replicated_deduplication_window = {WINDOW}");
        }
        let Some(cluster) = &self.cluster else { return vec![create] };
        let distributed = format!(
            "CREATE TABLE IF NOT EXISTS {}{} AS {local}\nENGINE = Distributed({}, {}, {}, {})",
            self.sql_name(destination_name(table)),
            self.on_cluster(),
            quote_string(cluster),
            quote_string(&self.database),
            quote_string(&self.local_name(table)),
            sharding(table),
        );
        vec![create, distributed]
    }

    /// Adds a column to a table that is there, by one statement or more.
    #[must_use]
    pub fn add_column(&self, table: &Table, column: &Column) -> Vec<String> {
        self.alter(table, &format!("ADD COLUMN {}", self.column(table, column)))
    }

    /// Makes a column one of another type, by one statement or more.
    #[must_use]
    pub fn modify_column(&self, table: &Table, column: &Column, kind: &ColumnKind) -> Vec<String> {
        let (name, sql_type) = (quote_name(&column.name), self.sql_type(kind));
        self.alter(table, &format!("MODIFY COLUMN {name} {sql_type}{}", self.comment(kind)))
    }

    fn alter(&self, table: &Table, what: &str) -> Vec<String> {
        let mut names = vec![self.local_name(table)];
        if self.cluster.is_some() {
            names.push(destination_name(table).to_owned());
        }
        let alter = |name: String| {
            format!("ALTER TABLE {}{} {what}", self.sql_name(&name), self.on_cluster())
        };
        names.into_iter().map(alter).collect()
    }

    /// Empties a table.
    #[must_use]
    pub fn truncate(&self, table: &Table) -> String {
        let name = self.sql_name(&self.local_name(table));
        format!("TRUNCATE TABLE {name}{}", self.on_cluster())
    }

    /// How a batch of a table's rows begins.
    #[must_use]
    pub fn insert(&self, table: &Table) -> String {
        let mut names: Vec<_> = table.columns.iter().map(|c| quote_name(&c.name)).collect();
        names.extend(["`_version`", "`_is_deleted`"].map(String::from));
        let name = self.sql_name(destination_name(table));
        format!("INSERT INTO {name} ({}) FORMAT RowBinary", names.join(", "))
    }

    fn column(&self, table: &Table, column: &Column) -> String {
        let hint = hint(table, column);
        let name = quote_name(&column.name);
        let mut sql_type = self.column_type(column);
        let is_low = hint == Some(Hint::FewValues) && self.version.has(Feature::LowCardinality);
        if is_low && matches!(column.codec, Codec::Text(_)) {
            sql_type = format!("LowCardinality({sql_type})");
        }
        let codec = match (&column.codec, hint) {
            (Codec::Timestamp, _) => self.codec("Delta, ZSTD"),
            (_, Some(Hint::Large)) => self.codec("ZSTD"),
            _ => String::new(),
        };
        format!("{name} {sql_type}{codec}{}", self.comment(&ColumnKind::of(column)))
    }

    /// Where a number stands for a type that the server lacks, a comment says so to whoever reads
    /// the table, and to a later start.
    fn comment(&self, kind: &ColumnKind) -> String {
        match self.stands_in(&kind.kind) {
            true => format!(" COMMENT {}", quote_string(&kind.to_string())),
            false => String::new(),
        }
    }

    fn codec(&self, codec: &str) -> String {
        match self.version.has(Feature::LowCardinality) {
            true => format!(" CODEC({codec})"),
            false => String::new(),
        }
    }

    /// A column's type on this server.
    #[must_use]
    pub fn column_type(&self, column: &Column) -> String {
        self.sql_type(&ColumnKind::of(column))
    }

    /// A type on this server. One that it lacks is written as the number that stands for it in
    /// RowBinary: the bytes are the same.
    #[must_use]
    pub fn sql_type(&self, kind: &ColumnKind) -> String {
        let name = self.type_of(&kind.kind);
        if kind.nullable { format!("Nullable({name})") } else { name }
    }

    fn type_of(&self, kind: &Kind) -> String {
        match kind {
            Kind::Array(element) => format!("Array(Nullable({}))", self.type_of(element)),
            Kind::Bool if self.stands_in(kind) => "UInt8".into(),
            Kind::Date if self.stands_in(kind) => "Int32".into(),
            Kind::Timestamp if self.stands_in(kind) => "Int64".into(),
            other => other.to_string(),
        }
    }

    /// Whether this server lacks a type, so that a number stands for it.
    #[must_use]
    pub fn stands_in(&self, kind: &Kind) -> bool {
        let feature = match kind {
            Kind::Bool => Feature::Bool,
            Kind::Date => Feature::Date32,
            Kind::Timestamp => Feature::DateTime64,
            Kind::Array(element) => return self.stands_in(element),
            _ => return false,
        };
        !self.version.has(feature)
    }

    /// What a column of a table that is there holds, by its type and comment; `None` for types that
    /// are not written here.
    #[must_use]
    pub fn kind_of(&self, sql_type: &str, comment: &str) -> Option<ColumnKind> {
        let meant = ColumnKind::parse(comment).filter(|kind| self.sql_type(kind) == sql_type);
        meant.or_else(|| ColumnKind::parse(sql_type))
    }

    fn engine(&self, table: &Table) -> String {
        let arguments = match (table.has_key(), self.version.has(Feature::IsDeleted)) {
            (false, _) => "",
            (true, false) => "_version",
            (true, true) => "_version, _is_deleted",
        };
        let family = if table.has_key() { "ReplacingMergeTree" } else { "MergeTree" };
        if self.cluster.is_none() {
            return format!("{family}({arguments})");
        }
        let path =
            format!("/clickhouse/tables/{{shard}}/{}/{}", self.database, self.local_name(table));
        let comma = if arguments.is_empty() { "" } else { ", " };
        format!("Replicated{family}({}, '{{replica}}'{comma}{arguments})", quote_string(&path))
    }
}

/// Rows are told apart by the key, and so they are in its order.
fn order(table: &Table) -> String {
    let key = key(table);
    if key.is_empty() { "tuple()".into() } else { format!("({})", key.join(", ")) }
}

/// All versions of a row must meet on one server.
fn sharding(table: &Table) -> String {
    let key = key(table);
    if key.is_empty() { "rand()".into() } else { format!("cityHash64({})", key.join(", ")) }
}

fn key(table: &Table) -> Vec<String> {
    let key = table.columns.iter().filter(|column| column.key);
    key.map(|column| quote_name(&column.name)).collect()
}

/// What is known of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    /// They are few, and come again and again.
    FewValues,
    /// They are large, and seldom read.
    Large,
}

/// What is known of the built-in tables. They are in the order of their key, and not in that of
/// time or of whoever owns a run: a deleted row comes with its key alone, and would not meet the row
/// elsewhere. For the same reason they have no partitions.
fn hint(table: &Table, column: &Column) -> Option<Hint> {
    match (table.name.as_str(), column.name.as_str()) {
        (
            "public.task_run",
            "status" | "environment_type" | "environment_id" | "project_id" | "organization_id"
            | "task_identifier" | "queue" | "worker_group" | "ttl" | "sdk_version" | "cli_version"
            | "machine_preset" | "payload_type",
        )
        | ("public.event", "kind") => Some(Hint::FewValues),
        ("public.task_run", "payload" | "metadata" | "output" | "error")
        | ("public.event", "payload") => Some(Hint::Large),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rowbinary::BinaryForm;

    const OLD: Version = Version { major: 18, minor: 16 };
    const NEW: Version = Version { major: 26, minor: 7 };

    fn place(version: Version) -> Place {
        Place { database: "d".into(), version, cluster: None }
    }

    fn column(name: &str, codec: Codec, nullable: bool, key: bool) -> Column {
        let type_name = "t".into();
        Column { name: name.into(), codec, nullable, key, loses_null: false, type_name }
    }

    fn text() -> Codec {
        Codec::Text(BinaryForm::Text)
    }

    fn task_run() -> Table {
        let columns = vec![
            column("id", text(), false, true),
            column("status", text(), false, false),
            column("created_at", Codec::Timestamp, false, false),
            column("day", Codec::Date, true, false),
            column("is_test", Codec::Bool, false, false),
            column("cost", Codec::Decimal { precision: 20, scale: 6 }, true, false),
            column(
                "tags",
                Codec::Array { element: Box::new(text()), delimiter: b',' },
                false,
                false,
            ),
            column("payload", text(), false, false),
        ];
        Table { name: "public.task_run".into(), columns, clamps: false }
    }

    #[test]
    fn a_table_as_the_newest_servers_have_it() {
        insta::assert_snapshot!(place(NEW).create_table(&task_run())[0], @"
        CREATE TABLE IF NOT EXISTS `d`.`task_run`
        (
            `id` String,
            `status` LowCardinality(String),
            `created_at` DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
            `day` Nullable(Date32),
            `is_test` Bool,
            `cost` Nullable(Decimal(20, 6)),
            `tags` Array(Nullable(String)),
            `payload` String CODEC(ZSTD),
            `_version` UInt64 CODEC(Delta, LZ4),
            `_is_deleted` UInt8
        )
        ENGINE = ReplacingMergeTree(_version, _is_deleted)
        ORDER BY (`id`)
        ");
    }

    #[test]
    fn a_table_as_the_oldest_servers_have_it() {
        insta::assert_snapshot!(place(OLD).create_table(&task_run())[0], @r"
        CREATE TABLE IF NOT EXISTS `d`.`task_run`
        (
            `id` String,
            `status` String,
            `created_at` Int64 COMMENT 'DateTime64(6, \'UTC\')',
            `day` Nullable(Int32) COMMENT 'Nullable(Date32)',
            `is_test` UInt8 COMMENT 'Bool',
            `cost` Nullable(Decimal(20, 6)),
            `tags` Array(Nullable(String)),
            `payload` String,
            `_version` UInt64,
            `_is_deleted` UInt8
        )
        ENGINE = ReplacingMergeTree(_version)
        ORDER BY (`id`)
        ");
    }

    #[test]
    fn a_table_on_a_cluster() {
        let place = Place { cluster: Some("c".into()), ..place(NEW) };
        let sql = [
            place.create_table(&task_run()),
            place.add_column(&task_run(), &task_run().columns[3]),
            vec![place.truncate(&task_run()), place.create_database()],
        ];
        insta::assert_snapshot!(sql.concat().join(";\n"), @"
        CREATE TABLE IF NOT EXISTS `d`.`task_run_local` ON CLUSTER `c`
        (
            `id` String,
            `status` LowCardinality(String),
            `created_at` DateTime64(6, 'UTC') CODEC(Delta, ZSTD),
            `day` Nullable(Date32),
            `is_test` Bool,
            `cost` Nullable(Decimal(20, 6)),
            `tags` Array(Nullable(String)),
            `payload` String CODEC(ZSTD),
            `_version` UInt64 CODEC(Delta, LZ4),
            `_is_deleted` UInt8
        )
        ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/d/task_run_local', '{replica}', _version, _is_deleted)
        ORDER BY (`id`);
        CREATE TABLE IF NOT EXISTS `d`.`task_run` ON CLUSTER `c` AS `d`.`task_run_local`
        ENGINE = Distributed('c', 'd', 'task_run_local', cityHash64(`id`));
        ALTER TABLE `d`.`task_run_local` ON CLUSTER `c` ADD COLUMN `day` Nullable(Date32);
        ALTER TABLE `d`.`task_run` ON CLUSTER `c` ADD COLUMN `day` Nullable(Date32);
        TRUNCATE TABLE `d`.`task_run_local` ON CLUSTER `c`;
        CREATE DATABASE IF NOT EXISTS `d` ON CLUSTER `c`
        ");
    }

    #[test]
    fn a_table_without_a_key_keeps_every_row() {
        let columns = vec![column("note", text(), true, false)];
        let table = Table { name: "other.odd`name".into(), columns, clamps: false };
        let sql = [place(NEW).create_table(&table), vec![place(NEW).insert(&table)]];
        insta::assert_snapshot!(sql.concat().join(";\n"), @r"
        CREATE TABLE IF NOT EXISTS `d`.`other.odd\`name`
        (
            `note` Nullable(String),
            `_version` UInt64 CODEC(Delta, LZ4),
            `_is_deleted` UInt8
        )
        ENGINE = MergeTree()
        ORDER BY tuple()
        SETTINGS non_replicated_deduplication_window = 10000;
        INSERT INTO `d`.`other.odd\`name` (`note`, `_version`, `_is_deleted`) FORMAT RowBinary
        ");
    }

    #[test]
    fn names_and_strings_are_quoted() {
        assert_eq!(quote_name("a`b\\c'"), "`a\\`b\\\\c'`");
        assert_eq!(quote_string("it's \\"), "'it\\'s \\\\'");
    }
}

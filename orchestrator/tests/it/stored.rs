//! Reads tables of a ClickHouse, as the folder's reader reads files: both are held against PostgreSQL
//! in the same way.

use std::collections::BTreeMap;

use crate::clickhouse::{Private, exchange};
use crate::folder::Row;
use crate::reader::Reader;

/// A database of walbench's in a ClickHouse.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// What walbench is told.
    pub(crate) url: String,
    address: String,
    login: (String, String),
}

/// A column's name, and its type as rows are written in it.
type Column = (String, String);

impl Stored {
    /// In a server that a test has for itself.
    pub(crate) fn of(server: &Private) -> Self {
        Self::at(server.address(), &server.login())
    }

    /// In a server at this address.
    pub(crate) fn at(address: &str, login: &str) -> Self {
        let (user, password) = login.split_once(':').unwrap();
        Self {
            url: format!("http://{login}@{address}/"),
            address: address.into(),
            login: (user.into(), password.into()),
        }
    }

    /// The same, which walbench reaches through somebody at another address.
    pub(crate) fn through(self, address: &str) -> Self {
        let (user, password) = &self.login;
        Self { url: format!("http://{user}:{password}@{address}/"), ..self }
    }

    fn bytes(&self, sql: &str) -> Vec<u8> {
        let (user, password) = &self.login;
        let head = format!(
            "POST / HTTP/1.0\r\nX-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n\
             Content-Length: {}\r\n\r\n",
            sql.len()
        );
        let (head, body) = exchange(&self.address, &[head.as_bytes(), sql.as_bytes()].concat());
        assert!(head.contains(" 200 OK"), "{sql}\n{head}\n{}", String::from_utf8_lossy(&body));
        body
    }

    /// What a query answers, or a statement.
    pub(crate) fn ask(&self, sql: &str) -> String {
        String::from_utf8(self.bytes(sql)).unwrap().trim_end().to_owned()
    }

    fn columns(&self, table: &str) -> Vec<Column> {
        let sql = format!(
            "SELECT name, type, comment FROM system.columns \
             WHERE database = 'walbench' AND table = {} FORMAT RowBinary",
            quoted(table, '\'')
        );
        let bytes = self.bytes(&sql);
        let (mut reader, mut columns) = (Reader(&bytes), Vec::new());
        while !reader.0.is_empty() {
            let [name, sql_type, comment] = [(); 3].map(|()| reader.value("String"));
            // Where a number stands for a type that the server lacks, the comment names that.
            let kind = if comment.is_empty() { sql_type } else { comment };
            let kind = kind
                .strip_prefix("LowCardinality(")
                .map_or(kind.as_str(), |kind| kind.strip_suffix(')').unwrap());
            columns.push((name, kind.to_owned()));
        }
        columns
    }

    /// Rows of a table, column by column under escaped names.
    fn read(&self, table: &str, rest: &str) -> Vec<Row> {
        let columns = self.columns(table);
        let ours = |(name, _): &&Column| !["_version", "_is_deleted"].contains(&name.as_str());
        let columns: Vec<_> = columns.iter().filter(ours).collect();
        if columns.is_empty() {
            // Made when its first row comes.
            return Vec::new();
        }
        let names: Vec<_> = columns.iter().map(|(name, _)| quoted(name, '`')).collect();
        let (names, table) = (names.join(", "), quoted(table, '`'));
        let sql = format!("SELECT {names} FROM walbench.{table} {rest} FORMAT RowBinary");
        let bytes = self.bytes(&sql);
        let (mut reader, mut rows) = (Reader(&bytes), Vec::new());
        while !reader.0.is_empty() {
            let value =
                |(name, kind): &&Column| (name.escape_default().to_string(), reader.value(kind));
            rows.push(columns.iter().map(value).collect());
        }
        rows
    }

    /// The rows that are, by their key. Newer servers leave out deleted ones by themselves.
    pub(crate) fn state(&self, table: &str, key: &[String]) -> BTreeMap<Vec<String>, Row> {
        let rows = self.read(table, "FINAL WHERE _is_deleted = 0");
        let count = rows.len();
        let key_of = |row: &Row| key.iter().map(|column| row[column].clone()).collect();
        let state: BTreeMap<_, _> = rows.into_iter().map(|row| (key_of(&row), row)).collect();
        assert_eq!(state.len(), count, "a key of {table} is there twice");
        state
    }

    /// Every row of a table.
    pub(crate) fn log(&self, table: &str) -> Vec<Row> {
        self.read(table, "")
    }
}

fn quoted(text: &str, quote: char) -> String {
    let escaped = text.replace('\\', "\\\\").replace(quote, &format!("\\{quote}"));
    format!("{quote}{escaped}{quote}")
}

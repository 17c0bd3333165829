//! Queries: rows of a table, or of what the mock tells of itself, under conditions and in a format.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::check::Shape;
use super::condition::Condition;
use super::parse::{Expression, Select};
use super::table::{Projection, Reading, broken};
use super::text;
use crate::clickhouse::column_type::ColumnType;
use crate::clickhouse::exception::{
    Exception, ILLEGAL_FINAL, NOT_IMPLEMENTED, UNKNOWN_FORMAT, UNKNOWN_IDENTIFIER,
};
use crate::rowbinary::put_varint;

/// Size of a result's parts.
const PART_BYTES: usize = 256 * 1024;

/// Rows that a query reads.
pub(super) enum Relation {
    /// Of a table.
    Table(Reading),
    /// Texts: what the mock tells of itself.
    Texts { columns: Vec<&'static str>, rows: Vec<Vec<String>> },
}

/// A format of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    RowBinary,
    RowBinaryWithNamesAndTypes,
    TabSeparated,
    TabSeparatedWithNames,
}

impl Format {
    pub(super) fn of(name: &str) -> Result<Self, Exception> {
        match name {
            "RowBinary" => Ok(Self::RowBinary),
            "RowBinaryWithNamesAndTypes" => Ok(Self::RowBinaryWithNamesAndTypes),
            "TabSeparated" | "TSV" => Ok(Self::TabSeparated),
            "TabSeparatedWithNames" | "TSVWithNames" => Ok(Self::TabSeparatedWithNames),
            _ => Err(Exception::new(
                UNKNOWN_FORMAT,
                format!(
                    "The mock does not know the format {name}: it knows RowBinary, \
                     RowBinaryWithNamesAndTypes, TabSeparated and TabSeparatedWithNames"
                ),
            )),
        }
    }
}

/// A query that can be run.
pub(super) struct Query {
    relation: Relation,
    is_final: bool,
    conditions: Vec<Condition>,
    columns: Vec<(String, ColumnType)>,
    outputs: Vec<(String, ColumnType, Output)>,
    limit: u64,
    format: Format,
}

/// What is put out for a row.
enum Output {
    Column(usize),
    Hex(usize),
    Constant(Vec<u8>),
    Count,
}

/// Where parts of the result go.
pub(super) type Parts = mpsc::Sender<Result<Bytes, Exception>>;

impl Relation {
    fn columns(&self) -> Vec<(String, ColumnType)> {
        match self {
            Self::Table(reading) => reading.columns.clone(),
            Self::Texts { columns, .. } => {
                columns.iter().map(|name| ((*name).to_owned(), ColumnType::String)).collect()
            }
        }
    }
}

impl Query {
    /// Finds what is named in what there is.
    pub(super) fn new(
        select: &Select,
        relation: Relation,
        format: Format,
        version: &str,
    ) -> Result<Self, Exception> {
        let columns = relation.columns();
        let outputs = outputs(select, &columns, version)?;
        let reads_columns =
            |(_, _, output): &_| matches!(output, Output::Column(_) | Output::Hex(_));
        let counts = outputs.iter().any(|(_, _, output)| matches!(output, Output::Count));
        if counts && outputs.iter().any(reads_columns) {
            let text = "The mock does not group: count() stands alone, or with literals";
            return Err(Exception::new(NOT_IMPLEMENTED, text));
        }
        for name in select.conditions.iter().flat_map(Condition::columns) {
            place(&columns, name)?;
        }
        let is_kept_by_key = matches!(&relation, Relation::Table(reading) if reading.is_replacing);
        if select.is_final && !is_kept_by_key {
            let text = "Storage MergeTree doesn't support FINAL";
            return Err(Exception::new(ILLEGAL_FINAL, text));
        }
        Ok(Self {
            is_final: select.is_final,
            conditions: select.conditions.clone(),
            columns,
            outputs,
            limit: select.limit.unwrap_or(u64::MAX),
            format,
            relation,
        })
    }

    /// Runs it, on a thread that may wait for whoever reads.
    pub(super) fn run(&self, parts: &Parts) -> Result<(), Exception> {
        let mut result = Writing { query: self, parts, part: Vec::new(), rows: 0, is_read: true };
        result.begin();
        let counts = self.outputs.iter().any(|(_, _, output)| matches!(output, Output::Count));
        let mut count = 0u64;
        self.each_row(|values| {
            if !self.holds(values) {
                return true;
            }
            count += 1;
            counts || result.put(values, 0)
        })?;
        if counts {
            result.put(&[], count);
        }
        result.end();
        Ok(())
    }

    /// Hands over each row's values, until nobody wants more.
    fn each_row(&self, mut take: impl FnMut(&[&[u8]]) -> bool) -> Result<(), Exception> {
        let reading = match &self.relation {
            Relation::Texts { rows, .. } => {
                for row in rows {
                    let encoded: Vec<Vec<u8>> = row.iter().map(|t| string(t.as_bytes())).collect();
                    let values: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
                    if !take(&values) {
                        break;
                    }
                }
                return Ok(());
            }
            Relation::Table(reading) => reading,
        };
        let columns = &reading.columns;
        let projections: Vec<_> =
            reading.shapes.iter().map(|shape| Projection::new(shape, columns)).collect();
        let shape = Shape { columns: columns.clone(), ..Shape::default() };
        let (mut row, mut wants_more) = (Vec::new(), true);
        let read = reading.snapshot.read(|layout, bytes| {
            let mut rest = bytes;
            while !rest.is_empty() && wants_more {
                row.clear();
                rest = projections[layout as usize].project(rest, &mut row);
                let mut values = Vec::with_capacity(columns.len());
                shape.values(&row, &mut values);
                wants_more = take(&values);
            }
            Ok::<_, std::io::Error>(wants_more)
        });
        read.map_err(|e| broken(&e))
    }

    fn holds(&self, values: &[&[u8]]) -> bool {
        if self.is_final && self.is_deleted(values) {
            return false;
        }
        let text_of = |name: &str| {
            let column = self.columns.iter().zip(values).find(|((column, _), _)| column == name);
            column.map(|((_, kind), value)| text::of(kind, value)).unwrap_or_default()
        };
        self.conditions.iter().all(|condition| condition.is_met(&text_of))
    }

    fn is_deleted(&self, values: &[&[u8]]) -> bool {
        let Relation::Table(reading) = &self.relation else { return false };
        let Some(deleted) = &reading.deleted else { return false };
        let place = reading.columns.iter().position(|(name, _)| name == deleted);
        place.is_some_and(|n| values[n].iter().any(|byte| *byte != 0))
    }
}

type Columns = [(String, ColumnType)];

fn place(columns: &Columns, name: &str) -> Result<usize, Exception> {
    columns.iter().position(|(column, _)| column == name).ok_or_else(|| {
        let text = format!("Unknown expression identifier '{name}'");
        Exception::new(UNKNOWN_IDENTIFIER, text)
    })
}

/// What is put out, with names and types.
fn outputs(
    select: &Select,
    columns: &Columns,
    version: &str,
) -> Result<Vec<(String, ColumnType, Output)>, Exception> {
    let mut outputs = Vec::new();
    for expression in &select.expressions {
        match expression {
            Expression::All => {
                let all = columns.iter().enumerate();
                outputs.extend(
                    all.map(|(n, (name, kind))| (name.clone(), kind.clone(), Output::Column(n))),
                );
            }
            Expression::Column(name) => {
                let n = place(columns, name)?;
                outputs.push((name.clone(), columns[n].1.clone(), Output::Column(n)));
            }
            Expression::Hex(name) => {
                let n = place(columns, name)?;
                if *columns[n].1.plain() != ColumnType::String {
                    let text = "The mock's hex() is for columns of strings";
                    return Err(Exception::new(NOT_IMPLEMENTED, text));
                }
                outputs.push((format!("hex({name})"), ColumnType::String, Output::Hex(n)));
            }
            Expression::Count => {
                outputs.push(("count()".into(), ColumnType::UInt(64), Output::Count));
            }
            Expression::Version => {
                let constant = Output::Constant(string(version.as_bytes()));
                outputs.push(("version()".into(), ColumnType::String, constant));
            }
            Expression::Number(number) => {
                let bits = [8, 16, 32].into_iter().find(|bits| number >> bits == 0);
                let bits = bits.unwrap_or(64);
                let bytes = number.to_le_bytes()[..usize::from(bits / 8)].to_vec();
                let kind = ColumnType::UInt(bits);
                outputs.push((number.to_string(), kind, Output::Constant(bytes)));
            }
            Expression::String(text) => {
                let constant = Output::Constant(string(text.as_bytes()));
                outputs.push((format!("'{text}'"), ColumnType::String, constant));
            }
        }
    }
    Ok(outputs)
}

/// A result on its way.
struct Writing<'a> {
    query: &'a Query,
    parts: &'a Parts,
    part: Vec<u8>,
    rows: u64,
    /// Somebody reads it.
    is_read: bool,
}

impl Writing<'_> {
    fn begin(&mut self) {
        let outputs = &self.query.outputs;
        match self.query.format {
            Format::RowBinary | Format::TabSeparated => {}
            Format::RowBinaryWithNamesAndTypes => {
                put_varint(outputs.len() as u64, &mut self.part);
                for (name, _, _) in outputs {
                    self.part.extend(string(name.as_bytes()));
                }
                for (_, kind, _) in outputs {
                    self.part.extend(string(kind.to_string().as_bytes()));
                }
            }
            Format::TabSeparatedWithNames => {
                for (n, (name, _, _)) in outputs.iter().enumerate() {
                    self.part.extend_from_slice(if n == 0 { b"" } else { b"\t" });
                    text::put_escaped(name.as_bytes(), &mut self.part);
                }
                self.part.push(b'\n');
            }
        }
    }

    /// Puts a row out; tells whether more are wanted.
    fn put(&mut self, values: &[&[u8]], count: u64) -> bool {
        if self.rows >= self.query.limit {
            return false;
        }
        self.rows += 1;
        for (n, (_, kind, output)) in self.query.outputs.iter().enumerate() {
            let made;
            let value = match output {
                Output::Column(n) => values[*n],
                Output::Constant(value) => value,
                Output::Hex(n) => {
                    made = string(&hex(&content(values[*n])));
                    &made
                }
                Output::Count => {
                    made = count.to_le_bytes().to_vec();
                    &made
                }
            };
            match self.query.format {
                Format::RowBinary | Format::RowBinaryWithNamesAndTypes => {
                    self.part.extend_from_slice(value);
                }
                Format::TabSeparated | Format::TabSeparatedWithNames => {
                    self.part.extend_from_slice(if n == 0 { b"" } else { b"\t" });
                    put_tab_separated(kind, value, &mut self.part);
                }
            }
        }
        if matches!(self.query.format, Format::TabSeparated | Format::TabSeparatedWithNames) {
            self.part.push(b'\n');
        }
        if self.part.len() >= PART_BYTES {
            self.end();
        }
        self.is_read && self.rows < self.query.limit
    }

    fn end(&mut self) {
        if !self.part.is_empty() {
            let part = std::mem::take(&mut self.part);
            self.is_read &= self.parts.blocking_send(Ok(part.into())).is_ok();
        }
    }
}

/// A string as RowBinary has it.
fn string(text: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(text.len() + 2);
    put_varint(text.len() as u64, &mut encoded);
    encoded.extend_from_slice(text);
    encoded
}

/// The bytes of an encoded string.
fn content(value: &[u8]) -> Vec<u8> {
    text::of(&ColumnType::String, value)
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| format!("{byte:02X}").into_bytes()).collect()
}

fn put_tab_separated(kind: &ColumnType, value: &[u8], out: &mut Vec<u8>) {
    let inner = match kind.plain() {
        ColumnType::Nullable(_) if value.first() == Some(&1) => {
            return out.extend_from_slice(b"\\N");
        }
        ColumnType::Nullable(inner) => inner,
        other => other,
    };
    match inner.plain() {
        ColumnType::String | ColumnType::FixedString(_) | ColumnType::Enum { .. } => {
            text::put_escaped(&text::of(kind, value), out);
        }
        _ => text::put(kind, value, out),
    }
}

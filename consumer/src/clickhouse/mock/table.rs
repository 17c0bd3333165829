//! A table of the mock: its columns, and its rows under whatever columns they came.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use super::check::{Row, Shape};
use super::convert::{convert, is_wider};
use super::parse::{Change, CreateTable};
use super::rows::{Block, Fates, Rows, Snapshot};
use crate::clickhouse::column_type::ColumnType;
use crate::clickhouse::exception::{
    ALTER_OF_COLUMN_IS_FORBIDDEN, BAD_TYPE_OF_FIELD, CANNOT_WRITE_TO_FILE_DESCRIPTOR,
    DUPLICATE_COLUMN, Exception, ILLEGAL_COLUMN, NO_SUCH_COLUMN_IN_TABLE,
    NOT_FOUND_COLUMN_IN_BLOCK, NOT_IMPLEMENTED, UNKNOWN_IDENTIFIER,
};

/// Deduplication tokens that are remembered, as ClickHouse's `replicated_deduplication_window`.
const TOKENS: usize = 10_000;

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) columns: Vec<(String, ColumnType)>,
    /// The engine's name.
    pub(super) engine: String,
    /// Rows are in the order of these columns.
    pub(super) order_by: Vec<String>,
    /// Rows are told apart by these columns; none: they are not.
    key: Vec<String>,
    version: Option<String>,
    /// Says whether a row is deleted.
    pub(super) deleted: Option<String>,
    /// The columns under which rows came, by number.
    shapes: Vec<Arc<Shape>>,
    rows: Rows,
    tokens: Tokens,
}

/// The last deduplication tokens.
#[derive(Debug, Default)]
struct Tokens {
    in_order: VecDeque<String>,
    known: HashSet<String>,
}

impl Tokens {
    fn contains(&self, token: &str) -> bool {
        self.known.contains(token)
    }

    fn add(&mut self, token: String) {
        if self.in_order.len() == TOKENS
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.in_order.push_back(token.clone());
        self.known.insert(token);
    }
}

/// What a query reads.
pub(super) struct Reading {
    pub(super) columns: Vec<(String, ColumnType)>,
    pub(super) deleted: Option<String>,
    pub(super) is_replacing: bool,
    pub(super) shapes: Vec<Arc<Shape>>,
    pub(super) snapshot: Snapshot,
}

impl Table {
    /// As a statement says.
    pub(super) fn new(create: &CreateTable) -> Result<Self, Exception> {
        let mut names = HashSet::new();
        for (name, _) in &create.columns {
            if !names.insert(name) {
                let text =
                    format!("Cannot add column {name}: column with this name already exists");
                return Err(Exception::new(ILLEGAL_COLUMN, text));
            }
        }
        if let Some(unknown) = create.order_by.iter().find(|name| !names.contains(name)) {
            let text = format!("Missing columns: '{unknown}' in the sorting key");
            return Err(Exception::new(UNKNOWN_IDENTIFIER, text));
        }
        let is_replacing = match create.engine.as_str() {
            "MergeTree" | "Memory" => false,
            "ReplacingMergeTree" => true,
            engine => {
                let text = format!(
                    "The mock has no engine {engine}: it has MergeTree and Memory, which keep all \
                     rows, and ReplacingMergeTree"
                );
                return Err(Exception::new(NOT_IMPLEMENTED, text));
            }
        };
        let allowed = if is_replacing { 2 } else { 0 };
        if create.arguments.len() > allowed {
            let text = format!("The mock's {} has at most {allowed} arguments", create.engine);
            return Err(Exception::new(NOT_IMPLEMENTED, text));
        }
        for name in &create.arguments {
            let column = create.columns.iter().find(|(column, _)| column == name);
            let (_, column_type) = column.ok_or_else(|| {
                let text = format!("There is no column {name}, which the engine names");
                Exception::new(NO_SUCH_COLUMN_IN_TABLE, text)
            })?;
            if !matches!(column_type, ColumnType::UInt(8..=64)) {
                let text = format!("The column {name} of the engine must be an unsigned number");
                return Err(Exception::new(BAD_TYPE_OF_FIELD, text));
            }
        }
        let rows = Rows::new(is_replacing).map_err(|e| broken(&e))?;
        let key = if is_replacing { create.order_by.clone() } else { Vec::new() };
        Ok(Self {
            columns: create.columns.clone(),
            engine: create.engine.clone(),
            order_by: create.order_by.clone(),
            key,
            version: create.arguments.first().cloned(),
            deleted: create.arguments.get(1).cloned(),
            shapes: Vec::new(),
            rows,
            tokens: Tokens::default(),
        })
    }

    /// What a block of these columns is made of; of all without a list.
    pub(super) fn shape(&self, names: Option<&[String]>) -> Result<Shape, Exception> {
        let columns = match names {
            None => self.columns.clone(),
            Some(names) => {
                let mut given = HashSet::new();
                if let Some(twice) = names.iter().find(|name| !given.insert(*name)) {
                    let text = format!("Column {twice} specified more than once");
                    return Err(Exception::new(DUPLICATE_COLUMN, text));
                }
                let column = |name: &String| Ok((name.clone(), self.type_of(name)?.clone()));
                names.iter().map(column).collect::<Result<Vec<_>, Exception>>()?
            }
        };
        let place = |name: &String| {
            columns.iter().position(|(column, _)| column == name).ok_or_else(|| {
                let text = format!("The mock needs {name} in each insert: it tells rows apart");
                Exception::new(NOT_IMPLEMENTED, text)
            })
        };
        let key = self.key.iter().map(place).collect::<Result<_, _>>()?;
        let version = self.version.as_ref().map(place).transpose()?;
        Ok(Shape { columns, key, version })
    }

    fn type_of(&self, name: &str) -> Result<&ColumnType, Exception> {
        let found = self.columns.iter().find(|(column, _)| column == name);
        found.map(|(_, column_type)| column_type).ok_or_else(|| no_column(name))
    }

    /// Whether an insert of that token was written before.
    pub(super) fn knows(&self, token: Option<&str>) -> bool {
        token.is_some_and(|token| self.tokens.contains(token))
    }

    /// Takes a block that was checked, whole or not at all.
    pub(super) fn append(
        &mut self,
        shape: &Shape,
        bytes: &[u8],
        rows: &[Row],
        token: Option<String>,
    ) -> Result<Fates, Exception> {
        let layout = self.layout(shape);
        let (shapes, columns) = (&self.shapes, &self.columns);
        let is_same = |stored_layout: u32, stored: &[u8], new: &[u8]| {
            if stored_layout == layout {
                return stored == new;
            }
            let [mut one, mut other] = [Vec::new(), Vec::new()];
            Projection::new(&shapes[stored_layout as usize], columns).project(stored, &mut one);
            Projection::new(&shapes[layout as usize], columns).project(new, &mut other);
            one == other
        };
        let block = Block { bytes, rows, layout };
        let fates = self.rows.append(block, is_same).map_err(|e| broken(&e))?;
        if let Some(token) = token {
            self.tokens.add(token);
        }
        Ok(fates)
    }

    fn layout(&mut self, shape: &Shape) -> u32 {
        let known = self.shapes.iter().position(|known| **known == *shape);
        let number = known.unwrap_or_else(|| {
            self.shapes.push(Arc::new(shape.clone()));
            self.shapes.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// Changes columns, all that is asked or nothing. Rows keep the columns under which they came,
    /// and are converted when they are read.
    pub(super) fn alter(&mut self, changes: &[Change]) -> Result<(), Exception> {
        let mut columns = self.columns.clone();
        for change in changes {
            match change {
                Change::Add { column, column_type, if_not_exists } => {
                    if !columns.iter().any(|(name, _)| name == column) {
                        columns.push((column.clone(), column_type.clone()));
                    } else if !if_not_exists {
                        let text = format!(
                            "Cannot add column {column}: column with this name already exists"
                        );
                        return Err(Exception::new(DUPLICATE_COLUMN, text));
                    }
                }
                Change::Modify { column, column_type } => {
                    let present = columns.iter_mut().find(|(name, _)| name == column);
                    let (_, present) = present.ok_or_else(|| no_column_to_change(column))?;
                    self.check_change(column, column_type)?;
                    *present = column_type.clone();
                }
            }
        }
        self.columns = columns;
        Ok(())
    }

    fn check_change(&self, column: &str, to: &ColumnType) -> Result<(), Exception> {
        let is_needed = |name: &Option<String>| name.as_deref() == Some(column);
        let is_key = self.key.iter().any(|name| name == column);
        if is_key || is_needed(&self.version) || is_needed(&self.deleted) {
            let text = format!("ALTER of key column {column} is forbidden");
            return Err(Exception::new(ALTER_OF_COLUMN_IS_FORBIDDEN, text));
        }
        let present = self.type_of(column)?;
        let stored = self.shapes.iter().flat_map(|shape| &shape.columns);
        let stored = stored.filter(|(name, _)| name == column).map(|(_, stored)| stored);
        for from in stored.chain([present]) {
            if !is_wider(to, from) {
                let text = format!("The mock does not convert {from} of column {column} to {to}");
                return Err(Exception::new(NOT_IMPLEMENTED, text));
            }
        }
        Ok(())
    }

    /// Forgets all rows.
    pub(super) fn truncate(&mut self) -> Result<(), Exception> {
        self.tokens = Tokens::default();
        self.rows.clear().map_err(|e| broken(&e))
    }

    /// What is there now.
    pub(super) fn reading(&self) -> Reading {
        Reading {
            columns: self.columns.clone(),
            deleted: self.deleted.clone(),
            is_replacing: self.engine == "ReplacingMergeTree",
            shapes: self.shapes.clone(),
            snapshot: self.rows.snapshot(),
        }
    }
}

pub(super) fn no_column(name: &str) -> Exception {
    Exception::new(NO_SUCH_COLUMN_IN_TABLE, format!("No such column {name} in table"))
}

fn no_column_to_change(name: &str) -> Exception {
    let text = format!("Wrong column. Cannot find column {name} to modify");
    Exception::new(NOT_FOUND_COLUMN_IN_BLOCK, text)
}

/// The file of a table's rows can't be used.
pub(super) fn broken(error: &io::Error) -> Exception {
    let text = format!("the mock's file of rows can't be used: {error}");
    Exception::new(CANNOT_WRITE_TO_FILE_DESCRIPTOR, text)
}

/// How rows that came under some columns are seen under others.
pub(super) struct Projection<'a> {
    shape: &'a Shape,
    sources: Vec<Source<'a>>,
}

enum Source<'a> {
    /// The value itself.
    Same(usize),
    /// The value as one of the wider type.
    Wider(usize, &'a ColumnType),
    /// The row came without it.
    Default(Vec<u8>),
}

impl<'a> Projection<'a> {
    pub(super) fn new(shape: &'a Shape, columns: &'a [(String, ColumnType)]) -> Self {
        let source = |(name, to): &'a (String, ColumnType)| match shape
            .columns
            .iter()
            .position(|(column, _)| column == name)
        {
            None => Source::Default(to.default_value()),
            Some(n) if shape.columns[n].1.plain() == to.plain() => Source::Same(n),
            Some(n) => Source::Wider(n, to),
        };
        Self { shape, sources: columns.iter().map(source).collect() }
    }

    /// Appends a row as one of those columns; returns what follows it.
    pub(super) fn project<'r>(&self, row: &'r [u8], out: &mut Vec<u8>) -> &'r [u8] {
        let mut values = Vec::with_capacity(self.shape.columns.len());
        let rest = self.shape.values(row, &mut values);
        for source in &self.sources {
            match source {
                Source::Same(n) => out.extend_from_slice(values[*n]),
                Source::Wider(n, to) => convert(to, &self.shape.columns[*n].1, values[*n], out),
                Source::Default(value) => out.extend_from_slice(value),
            }
        }
        rest
    }
}

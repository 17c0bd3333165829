//! The mock's databases and tables, by their names.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::parse::{CreateTable, TableName};
use super::table::Table;
use crate::clickhouse::exception::{
    DATABASE_ALREADY_EXISTS, Exception, TABLE_ALREADY_EXISTS, UNKNOWN_DATABASE, UNKNOWN_TABLE,
};

/// The database that is there from the beginning.
pub(super) const DEFAULT: &str = "default";

type Tables = BTreeMap<String, Arc<Mutex<Table>>>;

/// All that is there.
#[derive(Debug)]
pub(super) struct Databases {
    by_name: BTreeMap<String, Tables>,
}

/// Locks a table.
pub(super) fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Databases {
    pub(super) fn new() -> Self {
        Self { by_name: BTreeMap::from([(DEFAULT.to_owned(), Tables::new())]) }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.by_name.keys()
    }

    /// All tables, with the names of their databases and their own.
    pub(super) fn tables(&self) -> impl Iterator<Item = (&String, &String, &Arc<Mutex<Table>>)> {
        let tables = |(database, tables)| {
            let tables: &Tables = tables;
            tables.iter().map(move |(name, table)| (database, name, table))
        };
        self.by_name.iter().flat_map(tables)
    }

    /// The table of that name.
    pub(super) fn table(
        &self,
        name: &TableName,
        current: &str,
    ) -> Result<Arc<Mutex<Table>>, Exception> {
        let database = name.database.as_deref().unwrap_or(current);
        let tables = self.by_name.get(database).ok_or_else(|| unknown_database(database))?;
        tables.get(&name.table).cloned().ok_or_else(|| unknown_table(database, &name.table))
    }

    pub(super) fn check(&self, database: &str) -> Result<(), Exception> {
        match self.by_name.contains_key(database) {
            true => Ok(()),
            false => Err(unknown_database(database)),
        }
    }

    pub(super) fn create(&mut self, name: &str, if_not_exists: bool) -> Result<(), Exception> {
        if self.by_name.contains_key(name) {
            let text = format!("Database {name} already exists");
            return if if_not_exists {
                Ok(())
            } else {
                Err(Exception::new(DATABASE_ALREADY_EXISTS, text))
            };
        }
        self.by_name.insert(name.to_owned(), Tables::new());
        Ok(())
    }

    pub(super) fn drop_database(&mut self, name: &str, if_exists: bool) -> Result<(), Exception> {
        match self.by_name.remove(name) {
            None if !if_exists => Err(unknown_database(name)),
            _ => Ok(()),
        }
    }

    pub(super) fn create_table(
        &mut self,
        create: &CreateTable,
        current: &str,
    ) -> Result<(), Exception> {
        let database = create.name.database.as_deref().unwrap_or(current);
        let tables = self.by_name.get_mut(database).ok_or_else(|| unknown_database(database))?;
        let name = &create.name.table;
        if tables.contains_key(name) {
            let text = format!("Table {database}.{name} already exists");
            return if create.if_not_exists {
                Ok(())
            } else {
                Err(Exception::new(TABLE_ALREADY_EXISTS, text))
            };
        }
        tables.insert(name.clone(), Arc::new(Mutex::new(Table::new(create)?)));
        Ok(())
    }

    pub(super) fn drop_table(
        &mut self,
        name: &TableName,
        current: &str,
        if_exists: bool,
    ) -> Result<(), Exception> {
        let database = name.database.as_deref().unwrap_or(current);
        let tables = self.by_name.get_mut(database).ok_or_else(|| unknown_database(database))?;
        match tables.remove(&name.table) {
            None if !if_exists => Err(unknown_table(database, &name.table)),
            _ => Ok(()),
        }
    }
}

fn unknown_database(name: &str) -> Exception {
    Exception::new(UNKNOWN_DATABASE, format!("Database {name} does not exist"))
}

fn unknown_table(database: &str, name: &str) -> Exception {
    Exception::new(UNKNOWN_TABLE, format!("Table {database}.{name} does not exist"))
}

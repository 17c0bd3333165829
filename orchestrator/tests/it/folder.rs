//! Reads the folder of the mock `files` as a destination would have taken it in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::home::entries;
use crate::reader::Reader;

/// Values by the names of their columns. Names are escaped, as the folder has them.
pub(crate) type Row = BTreeMap<String, String>;

/// A row version.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    /// Its values; without those of columns that were not there when it was written.
    pub(crate) row: Row,
    /// Newer ones have a higher one.
    pub(crate) version: u64,
    /// What it says is that the row is gone.
    pub(crate) deleted: bool,
}

/// Where a mock writes.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// Row versions of tables since each was last emptied, in the order in which they were kept. A
    /// table that was renamed has several names.
    pub(crate) fn log(&self, tables: &[String]) -> Vec<Version> {
        let mut versions: BTreeMap<&String, Vec<Version>> = BTreeMap::new();
        for path in entries(&self.0) {
            let Some((table, kind)) = table_and_kind(&path) else { continue };
            let Some(table) = tables.iter().find(|name| **name == table) else { continue };
            let versions = versions.entry(table).or_default();
            match kind.as_str() {
                "truncate" => versions.clear(),
                "rowbinary" => versions.extend(rows(&path)),
                _ => {}
            }
        }
        versions.into_values().flatten().collect()
    }

    /// What ClickHouse's `ReplacingMergeTree(_version, _is_deleted)` makes of it with this key.
    pub(crate) fn state(&self, tables: &[String], key: &[String]) -> BTreeMap<Vec<String>, Row> {
        let mut newest: BTreeMap<Vec<String>, Version> = BTreeMap::new();
        for version in self.log(tables) {
            let key: Vec<String> = key.iter().map(|column| version.row[column].clone()).collect();
            let older = newest.get(&key).is_none_or(|other| other.version <= version.version);
            if older {
                newest.insert(key, version);
            }
        }
        newest.retain(|_, version| !version.deleted);
        newest.into_iter().map(|(key, version)| (key, version.row)).collect()
    }

    /// Tables that it has anything of.
    pub(crate) fn tables(&self) -> Vec<String> {
        let names = entries(&self.0).into_iter().filter_map(|path| Some(table_and_kind(&path)?.0));
        let mut names: Vec<_> = names.collect();
        names.sort();
        names.dedup();
        names
    }

    /// Files of one kind.
    pub(crate) fn count(&self, kind: &str) -> usize {
        entries(&self.0).iter().filter_map(|p| table_and_kind(p)).filter(|(_, k)| k == kind).count()
    }
}

/// `<number>.<writer>.<index>.<table>.<kind>`, where the table's name may have dots in it. What a killed
/// process left half begins with a dot.
fn table_and_kind(path: &Path) -> Option<(String, String)> {
    let name = path.file_name()?.to_str()?;
    let (number, rest) = name.split_once('.')?;
    number.parse::<u64>().ok()?;
    let (_index, rest) = rest.split_once('.')?.1.split_once('.')?;
    let (table, kind) = rest.rsplit_once('.')?;
    Some((table.into(), kind.into()))
}

fn rows(path: &Path) -> Vec<Version> {
    let columns = fs::read_to_string(path.with_extension("columns")).unwrap();
    let columns: Vec<_> = columns.lines().map(|line| line.split_once('\t').unwrap()).collect();
    let bytes = fs::read(path).unwrap();
    let (mut reader, mut versions) = (Reader(&bytes), Vec::new());
    while !reader.0.is_empty() {
        let values = columns.iter().map(|(name, kind)| ((*name).into(), reader.value(kind)));
        let row = values.collect();
        let (version, rest) = reader.0.split_first_chunk().unwrap();
        let (deleted, rest) = rest.split_first().unwrap();
        versions.push(Version {
            row,
            version: u64::from_le_bytes(*version),
            deleted: *deleted == 1,
        });
        reader.0 = rest;
    }
    versions
}

//! A destination that does with rows what ClickHouse's ReplacingMergeTree does: of each key the
//! highest version stays.

use super::database::{KEYED, KEYS, LOG, Model, Row, TABLES, Version};
use super::message::NAMES;
use crate::rowbinary::{Codec, Column, Table};
use crate::stream::{Batch, Work};

/// A row version as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub version: u64,
    pub is_deleted: bool,
    /// As it was at the source; a deleted row has nothing but its key.
    pub row: Row,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pub keyed: [[Option<Stored>; KEYS]; KEYED],
    /// How often each row of the log is there, by its value.
    pub log: Vec<u32>,
    /// Writes that nobody waits for any more, and that may still be carried out.
    late: Vec<Vec<Stored>>,
    /// How often tables were emptied.
    pub truncations: u64,
}

impl Sink {
    /// Holds what a database does: somebody has copied it.
    pub(super) fn copied(model: &Model) -> Self {
        let mut sink = Self::default();
        for (table, key) in (0..KEYED).flat_map(|table| (0..KEYS).map(move |key| (table, key))) {
            let deleted = Row { table, key: key as u64, value: 0, columns: 2 };
            sink.keyed[table][key] = model.keyed[table][key].map(|Version { lsn, row }| Stored {
                version: lsn,
                is_deleted: row.is_none(),
                row: row.unwrap_or(deleted),
            });
        }
        model.log.iter().for_each(|value| sink.add_to_log(*value));
        sink
    }

    /// Carries out a job.
    pub(super) fn apply(&mut self, work: &Work) -> Result<(), String> {
        match work {
            Work::Write(batch) => self.write(rows(batch)?),
            Work::Truncate(tables) => {
                self.truncations += 1;
                tables.iter().try_for_each(|table| self.truncate(table))
            }
        }
    }

    /// Keeps a write for later. A truncation is not carried out later: a sink has to see to that,
    /// because nothing could repair what it does then.
    pub(super) fn keep(&mut self, work: &Work) -> Result<(), String> {
        if let Work::Write(batch) = work {
            self.late.push(rows(batch)?);
        }
        Ok(())
    }

    /// How many writes are kept for later.
    pub(super) fn late(&self) -> usize {
        self.late.len()
    }

    /// Carries out a write that was kept.
    pub(super) fn apply_late(&mut self, index: usize) -> Result<(), String> {
        let rows = self.late.swap_remove(index);
        self.write(rows)
    }

    /// No write that was kept is carried out any more.
    pub(super) fn forget_late(&mut self) {
        self.late.clear();
    }

    fn truncate(&mut self, table: &Table) -> Result<(), String> {
        match index(table)? {
            LOG => self.log.clear(),
            keyed => self.keyed[keyed] = Default::default(),
        }
        Ok(())
    }

    fn write(&mut self, rows: Vec<Stored>) -> Result<(), String> {
        for stored in rows {
            if stored.row.table == LOG {
                self.add_to_log(stored.row.value);
            } else {
                self.replace(stored)?;
            }
        }
        Ok(())
    }

    fn add_to_log(&mut self, value: u64) {
        let at = value as usize;
        if self.log.len() <= at {
            self.log.resize(at + 1, 0);
        }
        self.log[at] += 1;
    }

    fn replace(&mut self, stored: Stored) -> Result<(), String> {
        let Row { table, key, .. } = stored.row;
        let there = &mut self.keyed[table][key as usize];
        match there {
            Some(old) if old.version > stored.version => {}
            Some(old) if old.version == stored.version && *old != stored => {
                return Err(format!("one version of two rows: {old:?} and {stored:?}"));
            }
            _ => *there = Some(stored),
        }
        Ok(())
    }
}

fn index(table: &Table) -> Result<usize, String> {
    let found = (0..TABLES).find(|index| table.name.strip_prefix("public.") == Some(NAMES[*index]));
    found.ok_or_else(|| format!("no table is called {:?}", table.name))
}

/// The rows of a batch.
fn rows(batch: &Batch) -> Result<Vec<Stored>, String> {
    let mut rows = Vec::with_capacity(batch.rows as usize);
    for part in batch.parts.iter().filter(|part| part.rows > 0) {
        let (mut reader, before) = (Reader(&part.encoded), rows.len());
        while !reader.0.is_empty() {
            rows.push(reader.row(&part.table)?);
        }
        if (rows.len() - before) as u64 != part.rows {
            return Err(format!("{} rows, and {} are counted", rows.len() - before, part.rows));
        }
    }
    Ok(rows)
}

/// Encoded rows that are being read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn row(&mut self, table: &Table) -> Result<Stored, String> {
        let mut row = Row { table: index(table)?, key: 0, value: 0, columns: table.columns.len() };
        for (at, column) in table.columns.iter().enumerate() {
            let value = self.value(column)?;
            match at {
                0 => row.key = value.ok_or("a row without a key")?,
                1 => row.value = value.unwrap_or_default(),
                _ if value.unwrap_or_default() == row.value => {}
                _ => return Err(format!("a row of {} holds {value:?} at {at}", table.name)),
            }
        }
        let version = u64::from_le_bytes(self.array()?);
        let [is_deleted] = self.array()?;
        Ok(Stored { version, is_deleted: is_deleted == 1, row })
    }

    fn value(&mut self, column: &Column) -> Result<Option<u64>, String> {
        if column.nullable && self.array()? == [1] {
            return Ok(None);
        }
        match column.codec {
            Codec::Int64 => self.array().map(|bytes| Some(u64::from_le_bytes(bytes))),
            _ => self.text().map(Some),
        }
    }

    /// A number that was written as text of fewer than 128 digits.
    fn text(&mut self) -> Result<u64, String> {
        let [length] = self.array()?;
        let (text, rest) = self.0.split_at_checked(length.into()).ok_or("a text is cut off")?;
        self.0 = rest;
        let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
        text.parse().map_err(|_| format!("{text:?} is no number"))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or("a row is cut off")?;
        self.0 = rest;
        Ok(*head)
    }
}

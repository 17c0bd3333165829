//! The rows of a transaction, encoded.

use std::ops::Range;

use walbench_phases::plan::WriteMethod;

use crate::workload::{Purpose, RowVersion, Table};

/// First bytes of binary COPY: signature, flags, length of a header extension (PostgreSQL manual,
/// COPY, "Binary Format").
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Last bytes of binary COPY: a row of -1 columns.
const COPY_TRAILER: [u8; 2] = (-1i16).to_be_bytes();

/// Which rows a transaction writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Rows inserted, as numbers k of this process.
    pub inserts: Range<u64>,
    /// Rows updated, likewise, ascending: two transactions that lock rows in the same order can't
    /// lock each other out.
    pub updates: Vec<u64>,
    /// The revision that the updates make.
    pub revision: u64,
}

impl Rows {
    /// Row versions in all.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.inserts.end - self.inserts.start + self.updates.len() as u64
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which of several processes makes which rows: row n belongs to process n modulo processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// This process.
    pub index: u32,
    /// How many there are.
    pub processes: u32,
}

impl Part {
    /// The number n of this process's row `k`.
    #[must_use]
    pub fn row(self, k: u64) -> u64 {
        u64::from(self.index) + u64::from(self.processes) * k
    }
}

/// The rows of a transaction in the form they are sent; the memory is used again and again.
#[derive(Debug, Default)]
pub struct Batch {
    /// Which table, as an index.
    pub table: usize,
    /// Which rows.
    pub rows: Rows,
    /// The first inserted row's key, each value behind its length.
    pub(super) first_key: Vec<u8>,
    /// The inserts, as the write method has them.
    pub(super) inserts: Vec<u8>,
    /// Where each insert ends in `inserts`, where they are sent one by one.
    pub(super) ends: Vec<usize>,
    /// The updates, as an array of the table's row type.
    pub(super) updates: Vec<u8>,
}

impl Batch {
    /// Encodes `self.rows` of `table`.
    pub fn encode(&mut self, table: &Table, part: Part, method: WriteMethod) {
        let Self { table: _, rows, first_key, inserts, ends, updates } = self;
        first_key.clear();
        inserts.clear();
        ends.clear();
        updates.clear();
        if !rows.inserts.is_empty() {
            table.write_key(part.row(rows.inserts.start), first_key);
            encode_inserts(table, part, rows.inserts.clone(), method, inserts, ends);
        }
        if !rows.updates.is_empty() {
            array_header(table, rows.updates.len(), updates);
            for k in &rows.updates {
                let row = RowVersion { n: part.row(*k), revision: rows.revision };
                table.write_composite(row, Purpose::Update, updates);
            }
        }
    }

    /// Bytes of row data.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.inserts.len() + self.updates.len()) as u64
    }
}

fn encode_inserts(
    table: &Table,
    part: Part,
    range: Range<u64>,
    method: WriteMethod,
    out: &mut Vec<u8>,
    ends: &mut Vec<usize>,
) {
    let count = (range.end - range.start) as usize;
    let rows = range.map(|k| part.row(k));
    match method {
        WriteMethod::Insert => {
            array_header(table, count, out);
            for n in rows {
                table.write_composite(RowVersion::first(n), Purpose::Insert, out);
            }
        }
        WriteMethod::Pipelined => {
            for n in rows {
                table.write_values(n, out);
                ends.push(out.len());
            }
        }
        WriteMethod::Copy => {
            out.extend_from_slice(COPY_HEADER);
            for n in rows {
                table.write_copy(n, out);
            }
            out.extend(COPY_TRAILER);
        }
    }
}

/// The start of an array of rows: one dimension, no NULL, the element's type, how many there are,
/// and that they are counted from 1 (PostgreSQL: `array_recv`).
fn array_header(table: &Table, count: usize, out: &mut Vec<u8>) {
    for field in [1, 0, table.shape.row_type, count as u32, 1] {
        out.extend(field.to_be_bytes());
    }
}

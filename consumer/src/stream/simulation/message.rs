//! CopyData bodies as PostgreSQL writes them (PostgreSQL manual, sections 55.4 and 55.9).

use walbench_metrics::stamp::{self, Stamp};

use super::database::{LOG, Row, Span};

/// Relation OIDs start here.
const FIRST_RELATION: u32 = 16_384;

/// The run that stamps are of.
pub(super) const RUN: u64 = 77;

/// A body that is being written.
pub(super) struct Body(Vec<u8>);

/// A prepared transaction, as messages name it.
#[derive(Clone, Copy)]
pub(super) struct Gid {
    /// Its id.
    pub xid: u32,
    /// Where its PREPARE is.
    pub prepared: Span,
}

/// A keepalive.
pub(super) fn keepalive(end_lsn: u64, reply: bool) -> Vec<u8> {
    Body(vec![b'k']).u64(end_lsn).u64(0).u8(reply.into()).0
}

/// What one message of the output plugin begins with.
fn data(lsn: u64, tag: u8) -> Body {
    Body(vec![b'w']).u64(lsn).u64(lsn).u64(0).u8(tag)
}

/// The same for a message that names its transaction inside a stream block.
fn change(lsn: u64, tag: u8, streamed: Option<u32>) -> Body {
    let body = data(lsn, tag);
    match streamed {
        Some(xid) => body.u32(xid),
        None => body,
    }
}

pub(super) fn begin(first_lsn: u64, commit_lsn: u64, xid: u32) -> Vec<u8> {
    data(first_lsn, b'B').u64(commit_lsn).u64(commit_lsn).u32(xid).0
}

pub(super) fn commit(span: Span) -> Vec<u8> {
    data(span.end_lsn, b'C').u8(0).span(span).0
}

pub(super) fn stream_start(lsn: u64, xid: u32, is_first: bool) -> Vec<u8> {
    data(lsn, b'S').u32(xid).u8(is_first.into()).0
}

pub(super) fn stream_stop(lsn: u64) -> Vec<u8> {
    data(lsn, b'E').0
}

pub(super) fn stream_commit(xid: u32, span: Span) -> Vec<u8> {
    data(span.end_lsn, b'c').u32(xid).u8(0).span(span).0
}

/// `tells_where`: as it is sent under `streaming 'parallel'`.
pub(super) fn stream_abort(xid: u32, subxid: u32, lsn: u64, tells_where: bool) -> Vec<u8> {
    let body = data(lsn, b'A').u32(xid).u32(subxid);
    if tells_where { body.u64(lsn).u64(lsn).0 } else { body.0 }
}

pub(super) fn begin_prepare(first_lsn: u64, gid: Gid) -> Vec<u8> {
    data(first_lsn, b'b').gid(gid).0
}

pub(super) fn prepare(gid: Gid) -> Vec<u8> {
    data(gid.prepared.end_lsn, b'P').u8(0).gid(gid).0
}

pub(super) fn stream_prepare(gid: Gid) -> Vec<u8> {
    data(gid.prepared.end_lsn, b'p').u8(0).gid(gid).0
}

pub(super) fn commit_prepared(xid: u32, span: Span) -> Vec<u8> {
    data(span.end_lsn, b'K').u8(0).span(span).u32(xid).text("gid").0
}

pub(super) fn rollback_prepared(gid: Gid, span: Span) -> Vec<u8> {
    let body = data(span.end_lsn, b'r').u8(0).u64(gid.prepared.end_lsn).u64(span.end_lsn);
    body.u64(0).u64(0).u32(gid.xid).text("gid").0
}

/// Has no position: PostgreSQL leaves it out where another message follows for the same change.
pub(super) fn relation(table: usize, columns: usize, streamed: Option<u32>) -> Vec<u8> {
    let is_log = table == LOG;
    let head = change(0, b'R', streamed).u32(oid(table)).text("public").text(NAMES[table]);
    let mut body = head.u8(if is_log { b'n' } else { b'd' }).u16(columns);
    for column in 0..columns {
        let (name, type_oid) = match column {
            0 => ("key", 20),
            1 => ("value", 25),
            _ => ("more", 20),
        };
        let key = !is_log && column == 0;
        let name = if column < 2 { name.to_owned() } else { format!("{name}{column}") };
        body = body.u8(key.into()).text(&name).u32(type_oid).u32(u32::MAX);
    }
    body.0
}

/// Names of the tables at the source.
pub(super) const NAMES: [&str; 3] = ["accounts", "items", "log"];

pub(super) fn insert(lsn: u64, new: &Row, streamed: Option<u32>) -> Vec<u8> {
    change(lsn, b'I', streamed).u32(oid(new.table)).row(new).0
}

pub(super) fn update(lsn: u64, old_key: Option<u64>, new: &Row, streamed: Option<u32>) -> Vec<u8> {
    let mut body = change(lsn, b'U', streamed).u32(oid(new.table));
    if let Some(key) = old_key {
        body = body.key(key, new.columns);
    }
    body.row(new).0
}

/// Of the deleted row nothing but its key is sent.
pub(super) fn delete(lsn: u64, old: &Row, streamed: Option<u32>) -> Vec<u8> {
    change(lsn, b'D', streamed).u32(oid(old.table)).key(old.key, old.columns).0
}

pub(super) fn truncate(lsn: u64, tables: &[(usize, usize)], streamed: Option<u32>) -> Vec<u8> {
    let body = change(lsn, b'T', streamed).u32(tables.len() as u32).u8(0);
    tables.iter().fold(body, |body, (table, _)| body.u32(oid(*table))).0
}

/// The stamp of the transaction with this sequence number.
pub(super) fn stamp(lsn: u64, sequence: u64, streamed: Option<u32>) -> Vec<u8> {
    let stamp = Stamp { run: RUN, phase: 0, measured: true, producer: 0, sequence, due_us: 0 };
    logical(change(lsn, b'M', streamed).u8(1), lsn, &stamp.encode())
}

/// A logical message outside of all transactions, made to look like a stamp.
pub(super) fn lone_message(lsn: u64) -> Vec<u8> {
    let stamp = Stamp { run: RUN, phase: 9, measured: true, producer: 9, sequence: 9, due_us: 0 };
    logical(data(lsn, b'M').u8(0), lsn, &stamp.encode())
}

fn logical(body: Body, lsn: u64, content: &[u8]) -> Vec<u8> {
    let mut body = body.u64(lsn).text(stamp::PREFIX).u32(content.len() as u32);
    body.0.extend_from_slice(content);
    body.0
}

fn oid(table: usize) -> u32 {
    FIRST_RELATION + table as u32
}

impl Body {
    fn u8(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    fn u16(mut self, number: usize) -> Self {
        self.0.extend_from_slice(&(number as u16).to_be_bytes());
        self
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(text.as_bytes());
        self.u8(0)
    }

    /// Where something is and where it ends; the time is the position again.
    fn span(self, Span { lsn, end_lsn }: Span) -> Self {
        self.u64(lsn).u64(end_lsn).u64(lsn)
    }

    fn gid(self, Gid { xid, prepared }: Gid) -> Self {
        self.span(prepared).u32(xid).text("gid")
    }

    fn value(self, number: u64) -> Self {
        let text = number.to_string();
        let mut body = self.u8(b't').u32(text.len() as u32);
        body.0.extend_from_slice(text.as_bytes());
        body
    }

    /// Every column but the key holds the row's value.
    fn row(self, row: &Row) -> Self {
        let body = self.u8(b'N').u16(row.columns).value(row.key);
        (1..row.columns).fold(body, |body, _| body.value(row.value))
    }

    fn key(self, key: u64, columns: usize) -> Self {
        let body = self.u8(b'K').u16(columns).value(key);
        (1..columns).fold(body, |body, _| body.u8(b'n'))
    }
}

//! The same changes by a second slot: what there was to be confirmed.

use std::io::Write;
use std::time::Duration;

use walbench_metrics::Failure;
use walbench_metrics::clock::wall_us;
use walbench_metrics::stamp::{self, Stamp};
use walbench_phases::address::PostgresAddress;

use super::probe::PROBE_TABLE;
use super::reckoning::Transaction;
use crate::pgoutput::{Malformed, Message, Value};
use crate::replication::{
    Connection, Frame, ReplicationError, ServerError, StatusUpdate, Stream, frame,
};

/// A server that is silent for so long has lost us.
const SILENCE: Duration = Duration::from_secs(60);

/// The server takes in what is confirmed.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The name of the second slot beside a followed one.
#[must_use]
pub fn ledger_slot(slot: &str) -> String {
    format!("{slot}_ledger")
}

/// A slot that is read after a phase.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) address: PostgresAddress,
    pub(super) application_name: String,
    pub(super) slot: String,
    pub(super) publication: String,
    /// The run, as its stamps carry it.
    pub(super) run: u64,
    /// Everything before it was read.
    pub(super) read_lsn: u64,
}

impl Ledger {
    /// Reads the transactions whose commit lies before a position and that were not read yet, in the
    /// order of their commits, and lets PostgreSQL forget them.
    pub(super) fn read(
        &mut self,
        until_lsn: u64,
        take: impl FnMut(&Transaction),
    ) -> Result<(), Failure> {
        if until_lsn <= self.read_lsn {
            return Ok(());
        }
        self.stream(until_lsn, take).map_err(|error| {
            let text = format!("slot \"{}\" can't be read", self.slot);
            Failure::new(text).because(error.into_failure())
        })?;
        self.read_lsn = until_lsn;
        Ok(())
    }

    fn stream(
        &self,
        until_lsn: u64,
        take: impl FnMut(&Transaction),
    ) -> Result<(), ReplicationError> {
        let Self { address, application_name, slot, publication, .. } = self;
        let mut connection = Connection::open(address, application_name)?;
        connection.start(&Stream::new(slot, publication))?;
        connection.transport.set_read_timeout(Some(SILENCE))?;
        let mut reading = Reading::new(self.run, until_lsn, take);
        loop {
            while let Some((tag, body)) = connection.input.next_message()? {
                match tag {
                    b'd' => reading
                        .copy_data(body)
                        .map_err(|e| ReplicationError::Protocol(e.to_string()))?,
                    b'N' | b'S' => {}
                    b'E' => {
                        let error = ServerError::from_body(body);
                        return Err(ReplicationError::ended(slot, publication, error));
                    }
                    _ => return Err(ReplicationError::Closed),
                }
                if reading.is_over {
                    return confirm(connection, until_lsn);
                }
            }
            if std::mem::take(&mut reading.is_asked) {
                send(&mut connection, 0)?;
            }
            connection.fill()?;
        }
    }
}

/// PostgreSQL gives up on a client that does not answer; 0 confirms nothing.
fn send(connection: &mut Connection, flushed_lsn: u64) -> Result<(), ReplicationError> {
    let update = StatusUpdate {
        written_lsn: flushed_lsn,
        flushed_lsn,
        now_us: wall_us(),
        asks_reply: false,
    };
    connection.transport.write_all(&update.encode())?;
    connection.transport.flush()?;
    Ok(())
}

fn confirm(mut connection: Connection, until_lsn: u64) -> Result<(), ReplicationError> {
    send(&mut connection, until_lsn)?;
    connection.end_stream(END_TIMEOUT);
    Ok(())
}

/// What is made of the stream.
struct Reading<F> {
    run: u64,
    until_lsn: u64,
    take: F,
    open: Option<Transaction>,
    probe_table: Option<u32>,
    /// The server wants to hear of us.
    is_asked: bool,
    is_over: bool,
}

impl<F: FnMut(&Transaction)> Reading<F> {
    fn new(run: u64, until_lsn: u64, take: F) -> Self {
        let (open, probe_table) = (None, None);
        Self { run, until_lsn, take, open, probe_table, is_asked: false, is_over: false }
    }

    fn copy_data(&mut self, body: &[u8]) -> Result<(), Malformed> {
        match frame(body) {
            Some(Frame::Data { body, .. }) => self.message(body),
            Some(Frame::Keepalive { end_lsn, reply }) => {
                self.is_asked |= reply;
                self.is_over |= self.open.is_none() && end_lsn >= self.until_lsn;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn message(&mut self, body: &[u8]) -> Result<(), Malformed> {
        if let Some(open) = &mut self.open {
            open.bytes += body.len() as u64;
        }
        match body {
            // Whatever they hold, rows count.
            [b'U' | b'D', ..] => self.row(),
            [b'I', a, b, c, d, ..] if !self.is_probe(u32::from_be_bytes([*a, *b, *c, *d])) => {
                self.row();
            }
            _ => self.other(Message::decode(body)?, body.len())?,
        }
        Ok(())
    }

    fn is_probe(&self, relation: u32) -> bool {
        self.probe_table == Some(relation)
    }

    fn row(&mut self) {
        if let Some(open) = &mut self.open {
            open.rows += 1;
        }
    }

    fn other(&mut self, message: Message<'_>, length: usize) -> Result<(), Malformed> {
        match message {
            // What PostgreSQL would still send again is read the next time.
            Message::Begin(begin) if begin.commit_lsn >= self.until_lsn => self.is_over = true,
            Message::Begin(begin) => {
                self.open = Some(Transaction {
                    commit_lsn: begin.commit_lsn,
                    commit_us: begin.commit_us,
                    bytes: length as u64,
                    ..Transaction::default()
                });
            }
            Message::Logical(logical) if logical.transactional => {
                let stamp = (logical.prefix == stamp::PREFIX).then_some(logical.content);
                let stamp = stamp.and_then(Stamp::decode).filter(|stamp| stamp.run == self.run);
                if let (Some(stamp), Some(open)) = (stamp, &mut self.open) {
                    open.stamp = Some(stamp);
                }
            }
            Message::Relation(relation)
                if relation.name == PROBE_TABLE && relation.namespace == "public" =>
            {
                self.probe_table = Some(relation.id);
            }
            Message::Insert { new, .. } => {
                let first = new.values().next().transpose()?;
                if let (Some(Value::Text(id)), Some(open)) = (first, &mut self.open) {
                    open.probe = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
                }
            }
            Message::Commit(_) => {
                if let Some(transaction) = self.open.take() {
                    (self.take)(&transaction);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(commit_lsn: u64) -> Vec<u8> {
        let mut body = b"B".to_vec();
        body.extend(commit_lsn.to_be_bytes());
        body.extend(7_000_000_i64.to_be_bytes());
        body.extend(9_u32.to_be_bytes());
        body
    }

    fn commit(commit_lsn: u64) -> Vec<u8> {
        let mut body = b"C\0".to_vec();
        body.extend(commit_lsn.to_be_bytes());
        body.extend((commit_lsn + 8).to_be_bytes());
        body.extend(7_000_000_i64.to_be_bytes());
        body
    }

    fn insert(relation: u32, id: &str) -> Vec<u8> {
        let mut body = b"I".to_vec();
        body.extend(relation.to_be_bytes());
        body.extend(b"N\0\x01t");
        body.extend(u32::try_from(id.len()).unwrap().to_be_bytes());
        body.extend(id.as_bytes());
        body
    }

    fn stamp(run: u64) -> Vec<u8> {
        let stamp = Stamp { run, phase: 1, measured: true, producer: 2, sequence: 3, due_us: 4 };
        let mut body = b"M\x01".to_vec();
        body.extend(5_u64.to_be_bytes());
        body.extend(b"walbench\0");
        let content = stamp.encode();
        body.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
        body.extend(content);
        body
    }

    /// What is made of messages that come before position 100.
    fn read(messages: &[Vec<u8>]) -> (Vec<Transaction>, bool) {
        let mut transactions = Vec::new();
        let mut reading = Reading::new(42, 100, |t: &Transaction| transactions.push(*t));
        for body in messages {
            let mut data = vec![b'w'];
            data.extend([0; 24]);
            data.extend(body);
            reading.copy_data(&data).unwrap();
        }
        let is_over = reading.is_over;
        (transactions, is_over)
    }

    #[test]
    fn rows_count_probes_do_not_and_the_stamp_is_of_this_run() {
        let relation =
            b"R\0\0\0\x05public\0walbench_probe\0d\0\x01\x01id\0\0\0\0\x14\xff\xff\xff\xff";
        let (transactions, is_over) = read(&[
            begin(10),
            stamp(42),
            insert(7, "1"),
            insert(7, "2"),
            commit(10),
            begin(20),
            stamp(41),
            insert(7, "3"),
            commit(20),
            begin(30),
            relation.to_vec(),
            insert(5, "77"),
            commit(30),
        ]);
        let seen: Vec<_> = transactions
            .iter()
            .map(|t| (t.commit_lsn, t.rows, t.stamp.map(|s| s.sequence), t.probe))
            .collect();
        assert_eq!(seen, [(10, 2, Some(3), None), (20, 1, None, None), (30, 0, None, Some(77))]);
        assert!(!is_over && transactions[0].bytes > 60);
    }

    #[test]
    fn what_is_not_confirmed_is_left_for_later() {
        let (transactions, is_over) = read(&[begin(99), commit(99), begin(100)]);
        assert_eq!((transactions.len(), is_over), (1, true));
    }

    #[test]
    fn a_sign_of_life_behind_the_end_is_the_end() {
        let keepalive = |end_lsn: u64, reply: u8| {
            let mut data = vec![b'k'];
            data.extend(end_lsn.to_be_bytes());
            data.extend([0; 8]);
            data.push(reply);
            data
        };
        let mut reading = Reading::new(42, 100, |_: &Transaction| {});
        reading.copy_data(&keepalive(99, 1)).unwrap();
        assert!(reading.is_asked && !reading.is_over);
        reading.copy_data(&keepalive(100, 0)).unwrap();
        assert!(reading.is_over);
    }
}

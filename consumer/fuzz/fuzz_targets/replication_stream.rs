//! What a server sends: framing, CopyData, pgoutput in and out of stream blocks, and rows through
//! their table.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_consumer::pgoutput::{Message, OldTuple, Tuple, streamed_xid};
use walbench_consumer::replication::{Frame, Input, frame};
use walbench_consumer::rowbinary::{Policy, RowKind, Table};
use walbench_phases::plan::Consumer;

#[derive(Default)]
struct Sink {
    table: Option<Table>,
    out: Vec<u8>,
}

impl Sink {
    fn take(&mut self, lsn: u64, message: &Message<'_>) {
        match *message {
            Message::Relation(ref relation) => self.table = Some(Table::new(relation, None, Policy::from(&Consumer::default()))),
            Message::Insert { new, .. } => self.row(new, None, RowKind::Present, lsn),
            Message::Update { old, new, .. } => {
                let old = old.map(|(OldTuple::Key(old) | OldTuple::Full(old))| old);
                if let Some(old) = old {
                    assert!(old.values().all(|value| value.is_ok()), "walked to find its end");
                    assert_eq!(old.values().count(), old.columns());
                }
                self.row(new, old, RowKind::Present, lsn);
            }
            Message::Delete { old: OldTuple::Key(old) | OldTuple::Full(old), .. } => {
                self.row(old, None, RowKind::Deleted, lsn);
            }
            Message::Truncate { relations, .. } => {
                assert_eq!(relations.iter().count(), relations.iter().len());
            }
            _ => {}
        }
    }

    fn row(&mut self, tuple: Tuple<'_>, old: Option<Tuple<'_>>, kind: RowKind, lsn: u64) {
        let mut values = tuple.values();
        if values.by_ref().all(|value| value.is_ok()) {
            let _ = values.finish();
        }
        if let Some(table) = &self.table {
            let before = self.out.len();
            let encoded = table.encode(tuple, old, kind, lsn, &mut self.out);
            assert!(encoded.is_ok() || self.out.len() == before, "an error leaves nothing behind");
            let _ = table.check(tuple);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (mut input, mut source, mut sink) = (Input::default(), bytes, Sink::default());
    loop {
        loop {
            let Ok(next) = input.next_message() else { return };
            let Some((_, body)) = next else { break };
            let Some(Frame::Data { lsn, body }) = frame(body) else { continue };
            if let Ok(message) = Message::decode(body) {
                sink.take(lsn, &message);
            }
            if let Ok((xid, message)) = Message::decode_streamed(body) {
                assert_eq!(streamed_xid(body), Ok(xid), "both look at the same bytes");
                sink.take(lsn, &message);
            }
        }
        if !matches!(input.fill(&mut source), Ok(1..)) {
            return;
        }
    }
});

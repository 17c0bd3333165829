//! What a server sends: framing, CopyData, pgoutput, and rows through their table.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_consumer::pgoutput::{Message, OldTuple};
use walbench_consumer::replication::{Frame, Input, frame};
use walbench_consumer::rowbinary::{Policy, RowKind, Table};
use walbench_phases::plan::Consumer;

fuzz_target!(|bytes: &[u8]| {
    let (mut input, mut source) = (Input::default(), bytes);
    let (mut table, mut out): (Option<Table>, Vec<u8>) = (None, Vec::new());
    loop {
        loop {
            let Ok(next) = input.next_message() else { return };
            let Some((_, body)) = next else { break };
            let Some(Frame::Data { lsn, body }) = frame(body) else { continue };
            let (tuple, old, kind) = match Message::decode(body) {
                Ok(Message::Relation(relation)) => {
                    table = Some(Table::new(&relation, None, Policy::from(&Consumer::default())));
                    continue;
                }
                Ok(Message::Insert { new, .. }) => (new, None, RowKind::Present),
                Ok(Message::Update { old: Some(OldTuple::Full(old)), new, .. }) => {
                    (new, Some(old), RowKind::Present)
                }
                Ok(Message::Update { new, .. }) => (new, None, RowKind::Present),
                Ok(Message::Delete { old: OldTuple::Key(old) | OldTuple::Full(old), .. }) => {
                    (old, None, RowKind::Deleted)
                }
                _ => continue,
            };
            if let Some(table) = &table {
                let before = out.len();
                let encoded = table.encode(tuple, old, kind, lsn, &mut out);
                assert!(encoded.is_ok() || out.len() == before, "an error leaves nothing behind");
                let _ = table.check(tuple);
            }
        }
        if !matches!(input.fill(&mut source), Ok(1..)) {
            return;
        }
    }
});

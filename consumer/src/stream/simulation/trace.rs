//! What a simulation did, in words.

use crate::pgoutput::Message;
use crate::replication::{Frame, frame};
use crate::stream::Work;

/// Notes a step, if somebody reads along.
macro_rules! note {
    ($world:expr, $($arg:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            let ms = ($world.now - $world.start).as_micros() as f64 / 1_000.0;
            trace.push(format!("{ms:10.3} ms  {}", format!($($arg)*)));
        }
    };
}

/// A job in words.
pub(super) fn work(work: &Work) -> String {
    match work {
        Work::Write(batch) => format!("write {} rows", batch.rows),
        Work::Truncate(tables) => {
            format!("truncate {:?}", tables.iter().map(|t| t.name.as_str()).collect::<Vec<_>>())
        }
    }
}

/// A CopyData body in words.
pub(super) fn readable(body: &[u8]) -> String {
    match frame(body) {
        Some(Frame::Keepalive { end_lsn, reply }) => format!("keepalive {end_lsn} {reply}"),
        Some(Frame::Data { lsn, body }) => {
            let message = Message::decode(body).or_else(|e| {
                Message::decode_streamed(body).map(|(_, message)| message).map_err(|_| e)
            });
            match message {
                Ok(Message::Insert { relation, .. }) => format!("{lsn}: insert {relation}"),
                Ok(Message::Update { relation, .. }) => format!("{lsn}: update {relation}"),
                Ok(Message::Delete { relation, .. }) => format!("{lsn}: delete {relation}"),
                Ok(Message::Relation(relation)) => {
                    format!("{lsn}: relation {} of {}", relation.id, relation.columns.len())
                }
                Ok(Message::Logical(message)) => format!("{lsn}: message {}", message.lsn),
                Ok(other) => format!("{lsn}: {other:?}"),
                Err(_) => format!("{lsn}: {:?} in a block", char::from(body[0])),
            }
        }
        None => "nonsense".into(),
    }
}

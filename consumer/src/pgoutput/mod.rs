//! pgoutput, PostgreSQL's logical replication messages (manual, section 55.9), protocol versions 1
//! to 4, read in place: nothing is copied and nothing allocated a row.

mod cursor;
#[cfg(test)]
mod laws;
mod message;
mod relation;
mod transaction;
mod tuple;

pub use cursor::Malformed;
pub use message::{LogicalMessage, Message, OldTuple, streamed_xid};
pub use relation::{Relation, RelationColumn, RelationIds, ReplicaIdentity, Type};
pub use transaction::{
    Abort, Begin, Commit, CommitPrepared, Prepared, RollbackPrepared, StreamAbort,
};
pub use tuple::{Tuple, Value, Values};

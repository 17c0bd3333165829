//! pgoutput, PostgreSQL's logical replication messages (manual, section 55.9), read in place:
//! nothing is copied and nothing allocated a row.

mod cursor;
mod message;
mod tuple;

pub use cursor::Malformed;
pub use message::{
    Begin, Commit, LogicalMessage, Message, OldTuple, Relation, RelationColumn, ReplicaIdentity,
};
pub use tuple::{Tuple, Value, Values};

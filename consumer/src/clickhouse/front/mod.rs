//! An HTTP server that speaks ClickHouse's HTTP interface over an [`Engine`].
//!
//! ```text
//! request ─► upload (decompressed) ─► statement | data ─► Engine::run ─► download (compressed) ─► response
//! ```
//!
//! It knows what the interface is made of: where a query, its settings and parameters stand, both
//! ways of compression, who may ask, how errors travel. It knows nothing of tables or types.
//! Bodies are streams both ways; what is in memory of one is bounded.
//!
//! Not here: sessions, roles, external tables. Whoever asks for them is told.

mod download;
mod encoding;
mod form;
mod request;
mod server;
mod upload;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

pub use request::{Access, Request};
pub use server::{Front, Place};
pub use upload::Data;

use super::exception::Exception;

/// Parts of a body, in order; the first error ends it.
pub type Parts = mpsc::Receiver<Result<Bytes, Exception>>;

/// What answers queries.
pub trait Engine: Send + Sync + 'static {
    /// What it calls itself: `libchdb (embedded)`.
    fn name(&self) -> String;

    /// The ClickHouse version it claims to be.
    fn version(&self) -> String;

    /// Runs a query. If the future is dropped, or the answer's body, nobody waits any more; what goes on
    /// with it all the same holds its place until its end.
    fn run(&self, query: Query) -> impl Future<Output = Result<Answer, Trouble>> + Send;
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// An error of ClickHouse's.
    Exception(Exception),
    /// A bare HTTP status, as from something on the way to ClickHouse.
    Status(u16),
    /// The connection is cut.
    Cut,
}

impl From<Exception> for Trouble {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

/// What is asked.
#[derive(Debug)]
pub struct Query {
    /// The statement, and data if it takes some.
    pub statement: Statement,
    /// Settings of this query alone, in the order they were given.
    pub settings: Vec<(String, String)>,
    /// Values of `{name:Type}`, in ClickHouse's escaped text form.
    pub parameters: Vec<(String, String)>,
    /// The database that names without one mean; absent: the engine's default.
    pub database: Option<String>,
    /// The format of results whose query names none.
    pub default_format: String,
    /// Its identity, made up if the client gave none.
    pub query_id: String,
    /// Who asks.
    pub user: String,
    /// Its place among those that run at once, which is taken as long as this is held.
    pub place: Arc<Place>,
}

/// A statement.
#[derive(Debug)]
pub enum Statement {
    /// An INSERT with data.
    Insert {
        /// The statement without its format: `INSERT INTO t (a, b)`.
        into: Bytes,
        /// The data's format.
        format: String,
        /// The data.
        data: Data,
    },
    /// Any other, whole.
    Other(Bytes),
}

/// What is answered.
#[derive(Debug)]
pub struct Answer {
    /// The body's format.
    pub format: String,
    /// What was done by the time the answer began.
    pub summary: Summary,
    /// The result.
    pub body: Parts,
}

/// What a query did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows read from tables.
    pub read_rows: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Rows written.
    pub written_rows: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Rows of the result.
    pub result_rows: u64,
    /// Their bytes.
    pub result_bytes: u64,
    /// Time it took, in ns.
    pub elapsed_ns: u64,
}

impl Summary {
    /// As `X-ClickHouse-Summary` carries it.
    fn json(&self) -> String {
        let Self { read_rows, read_bytes, written_rows, written_bytes, .. } = self;
        let Self { result_rows, result_bytes, elapsed_ns, .. } = self;
        format!(
            r#"{{"read_rows":"{read_rows}","read_bytes":"{read_bytes}","written_rows":"{written_rows}","written_bytes":"{written_bytes}","total_rows_to_read":"0","result_rows":"{result_rows}","result_bytes":"{result_bytes}","elapsed_ns":"{elapsed_ns}"}}"#
        )
    }
}

/// 16 hexadecimal digits nobody chose.
fn random_word() -> String {
    format!("{:016x}", crate::backoff::random_seed())
}

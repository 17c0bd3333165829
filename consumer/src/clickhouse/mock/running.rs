//! The queries that run, so that they can be asked for and ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::condition::Condition;
use crate::clickhouse::exception::{Exception, QUERY_WAS_CANCELLED};
use crate::clickhouse::front;

/// Between two looks at whether queries have ended.
const LOOK: Duration = Duration::from_millis(5);

type Queries = HashMap<String, Query>;

/// All that run.
#[derive(Clone, Debug, Default)]
pub(super) struct Running {
    queries: Arc<Mutex<Queries>>,
}

#[derive(Debug)]
struct Query {
    text: Bytes,
    killer: watch::Sender<bool>,
}

/// One that runs, until it is dropped.
pub(super) struct Place {
    /// In the front.
    held: Arc<front::Place>,
    queries: Arc<Mutex<Queries>>,
    query_id: String,
    killed: watch::Receiver<bool>,
}

fn lock(queries: &Mutex<Queries>) -> MutexGuard<'_, Queries> {
    queries.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    pub(super) fn take(&self, held: Arc<front::Place>, query_id: &str, text: Bytes) -> Place {
        let (killer, killed) = watch::channel(false);
        lock(&self.queries).insert(query_id.to_owned(), Query { text, killer });
        Place { held, queries: self.queries.clone(), query_id: query_id.to_owned(), killed }
    }

    /// Their ids and texts.
    pub(super) fn all(&self) -> Vec<(String, String)> {
        let text = |query: &Query| String::from_utf8_lossy(&query.text).into_owned();
        lock(&self.queries).iter().map(|(id, query)| (id.clone(), text(query))).collect()
    }

    /// Ends queries; waits until they have ended, if that is asked for.
    pub(super) async fn kill(&self, conditions: &[Condition], is_waited_for: bool) {
        while self.ask_to_end(conditions) && is_waited_for {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether there is any.
    fn ask_to_end(&self, conditions: &[Condition]) -> bool {
        let mut runs = false;
        for (id, Query { text, killer }) in &*lock(&self.queries) {
            let text_of = |column: &str| match column {
                "query_id" => id.clone().into_bytes(),
                _ => text.to_vec(),
            };
            if conditions.iter().all(|condition| condition.is_met(&text_of)) {
                killer.send_replace(true);
                runs = true;
            }
        }
        runs
    }
}

impl Place {
    pub(super) fn held(&self) -> Arc<front::Place> {
        self.held.clone()
    }

    pub(super) fn query_id(&self) -> &str {
        &self.query_id
    }

    /// Does work unless the query is killed meanwhile.
    pub(super) async fn unless_killed<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Exception> {
        tokio::select! {
            // Its sender lives as long as this place.
            _ = self.killed.wait_for(|killed| *killed) => {
                Err(Exception::new(QUERY_WAS_CANCELLED, "Query was cancelled"))
            }
            done = work => Ok(done),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.queries).remove(&self.query_id);
    }
}

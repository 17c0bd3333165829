//! One connection that copies, chunk by chunk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use walbench_metrics::Failure;

use super::board::Chunk;
use super::handing::{Handing, Tally, Writer};
use super::relations::{Published, Relation, Size, file_now, size_now};
use super::rows::Rows;
use super::session::{Session, Trouble};
use crate::reconnect::Reconnecting;
use crate::replication::ReplicationError;
use crate::source::Source;

/// So often a chunk is tried: a connection that comes back each time and is lost again over the same
/// rows would go on for ever.
const CHUNK_TRIES: u32 = 10;

/// What those who copy share, and nobody changes.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) source: Source,
    pub(super) handing: Arc<Handing>,
    pub(super) published: Vec<Published>,
    pub(super) relations: Vec<Relation>,
    /// The snapshot of the slot's start.
    pub(super) snapshot: Option<String>,
    /// Version of the rows.
    pub(super) version: u64,
    /// How long a lost connection may take to come back.
    pub(super) patience: Duration,
}

/// What became of a chunk.
enum Outcome {
    /// It was read; it is done when its last batch is.
    Read,
    /// The snapshot it was to be read in is gone.
    StartIsGone,
    /// Its table was rewritten since the chunk was made, and is so large now; or is gone.
    Rewritten(Option<Size>),
}

/// See the module.
pub(super) struct Worker<'a> {
    errand: &'a Errand,
    session: Option<Session<'a>>,
    reconnecting: Option<Reconnecting>,
    /// Rows without a key were handed over of the chunk that is being read.
    has_begun: bool,
}

impl<'a> Worker<'a> {
    pub(super) fn new(errand: &'a Errand) -> Self {
        Self { errand, session: None, reconnecting: None, has_begun: false }
    }

    /// Copies until nothing is left, or nothing is wanted any more.
    pub(super) fn run(mut self) {
        let handing = &self.errand.handing;
        while let Some(chunk) = handing.board.next() {
            match self.finish(&chunk) {
                Ok(()) => {}
                Err(Trouble::Stopped) => break,
                Err(Trouble::Lost(error)) => {
                    handing.fail(self.failure(&chunk, error.into_failure()));
                }
                Err(Trouble::Failed(failure)) => handing.fail(self.failure(&chunk, failure)),
            }
        }
        if let Some(session) = self.session.take() {
            session.close();
        }
    }

    fn failure(&self, chunk: &Chunk, because: Failure) -> Failure {
        let name = &self.errand.relations[chunk.table].sql_name;
        Failure::new(format!("{name} can't be copied")).because(because)
    }

    /// Copies a chunk, over as many connections as it takes.
    fn finish(&mut self, chunk: &Chunk) -> Result<(), Trouble> {
        self.has_begun = false;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.attempt(chunk) {
                Ok(Outcome::Read) => return Ok(()),
                Ok(Outcome::StartIsGone) => return self.start_is_gone(chunk),
                Ok(Outcome::Rewritten(size)) => return self.rewritten(chunk, size),
                Err(Trouble::Lost(error)) => self.lost(chunk, error, attempts)?,
                Err(trouble) => return Err(trouble),
            }
        }
    }

    fn attempt(&mut self, chunk: &Chunk) -> Result<Outcome, Trouble> {
        let Errand { relations, snapshot, handing, source, .. } = self.errand;
        let relation = &relations[chunk.table];
        // Taken out: a connection that something went wrong on is of no more use.
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(&source.address, &source.application_name, &handing.gate)?,
        };
        if let Some(reconnecting) = self.reconnecting.take() {
            reconnecting.came_back();
        }
        let snapshot = snapshot.as_deref().filter(|_| chunk.at_start);
        if !session.begin(snapshot)? {
            self.session = Some(session);
            return Ok(Outcome::StartIsGone);
        }
        if self.is_same(&mut session, chunk)? {
            self.read(&mut session, chunk)?;
            // It is read whatever becomes of the connection: another try would count it twice.
            if session.end().is_ok() {
                self.session = Some(session);
            }
            return Ok(Outcome::Read);
        }
        session.end()?;
        let size = size_now(&mut session, relation.oid)?;
        self.session = Some(session);
        Ok(Outcome::Rewritten(size))
    }

    /// Whether a chunk's pages are what they were when it was made. They stay it until the
    /// transaction's end.
    fn is_same(&self, session: &mut Session<'_>, chunk: &Chunk) -> Result<bool, Trouble> {
        let Errand { relations, published, .. } = self.errand;
        let relation = &relations[chunk.table];
        // Before the lock, because what is gone can't be locked.
        if file_now(session, relation.oid)? != Some(chunk.file) {
            return Ok(false);
        }
        if !relation.lock(session, &published[relation.published])? {
            let text = "its columns were changed (ALTER TABLE) while it was copied";
            let hint = "start again: what of the table must be copied again is";
            return Err(Trouble::Failed(Failure::new(text).hint(hint)));
        }
        Ok(file_now(session, relation.oid)? == Some(chunk.file))
    }

    /// Reads a chunk's rows.
    fn read(&mut self, session: &mut Session<'_>, chunk: &Chunk) -> Result<(), Trouble> {
        let Errand { relations, published, handing, version, .. } = self.errand;
        let relation = &relations[chunk.table];
        let table = &published[relation.published];
        let tally = Tally::new(chunk.clone());
        let mut writer = Writer::new(handing, &tally, &table.table, relation.published, *version);
        let mut rows = Rows::new(table.format, table.columns);
        let what = format!("to copy {}", relation.sql_name);
        let sql = relation.copy_pages(table, &chunk.pages);
        let copied = session.copy(&what, &sql, &mut rows, |tuple| writer.row(tuple));
        let finished = copied.and_then(|()| writer.cut());
        self.has_begun |= writer.has_begun();
        finished?;
        tally.finish(&handing.board);
        Ok(())
    }

    /// A connection was lost, or none could be made: waits for the next try, if there is one.
    fn lost(
        &mut self,
        chunk: &Chunk,
        error: ReplicationError,
        attempts: u32,
    ) -> Result<(), Trouble> {
        let Errand { handing, patience, .. } = self.errand;
        if handing.gate.is_closed() {
            return Err(Trouble::Stopped);
        }
        if self.has_begun {
            return Err(Trouble::Failed(self.begun(chunk).because(error.into_failure())));
        }
        if !error.is_transient() || patience.is_zero() || attempts >= CHUNK_TRIES {
            return Err(Trouble::Lost(error));
        }
        let now = Instant::now();
        let next_try = match &mut self.reconnecting {
            None => {
                let what = "a connection of the initial copy";
                let reconnecting = Reconnecting::new(what, *patience, handing.news(), now);
                let reconnecting = reconnecting.lost(error);
                self.reconnecting.insert(reconnecting).next_try
            }
            Some(reconnecting) => {
                if !reconnecting.failed(error, now) {
                    return Err(Trouble::Failed(reconnecting.give_up()));
                }
                reconnecting.next_try
            }
        };
        handing.board.pause_until(next_try);
        Ok(())
    }

    /// Tables whose rows have a key are copied in a snapshot of now.
    fn start_is_gone(&self, chunk: &Chunk) -> Result<(), Trouble> {
        let Errand { published, relations, handing, .. } = self.errand;
        if !published[relations[chunk.table].published].table.has_key() {
            let text = "it has no key, and the snapshot that it must be copied in is gone: its \
                        connection was lost";
            return Err(Trouble::Failed(Failure::new(text).hint(START_AGAIN)));
        }
        handing.board.start_is_gone(chunk.clone());
        Ok(())
    }

    fn rewritten(&self, chunk: &Chunk, size: Option<Size>) -> Result<(), Trouble> {
        let Errand { published, relations, handing, .. } = self.errand;
        let relation = &relations[chunk.table];
        let table = &published[relation.published];
        if !table.table.has_key() {
            let text = "it has no key, and was rewritten (VACUUM FULL, CLUSTER, TRUNCATE or ALTER \
                        TABLE) since the slot's start";
            return Err(Trouble::Failed(Failure::new(text).hint(START_AGAIN)));
        }
        handing.board.rewritten(chunk, size, relation.shape(table));
        Ok(())
    }

    fn begun(&self, chunk: &Chunk) -> Failure {
        let name = &self.errand.relations[chunk.table].sql_name;
        Failure::new(format!(
            "{name} has no key, and its copy was under way: rows that were copied would come again"
        ))
        .hint(START_AGAIN)
    }
}

/// What to do where a table without a key can't be copied any more.
pub(super) const START_AGAIN: &str = "give the table a primary key; or drop the slot, empty the \
                                      destination, remove the file of consumer.copy_state, and \
                                      start again with --create-slot";

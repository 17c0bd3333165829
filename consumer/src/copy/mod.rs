//! The initial copy: rows that exist when a slot starts, which the slot does not bring.
//!
//! ```text
//! slot's start ─► snapshot ─► chunks (pages) ─► COPY ─► rows ─► batches ─► sink
//!                               ▲    │ several connections               │
//!                             board ◄┴──── chunk done ◄── acknowledged ◄──┘
//!                               └─► state (file)
//! ```
//!
//! The tables are copied before the slot is streamed, so a change of a row comes after the row.
//!
//! **Versions.** Copied rows have the slot's restart position as their `_version`, and not the
//! position it starts at: a transaction that was open there and is committed later is streamed
//! whole, with the positions of its changes, which may lie before the slot's start; never before
//! the restart position, from which the server reads. So every change that is streamed wins
//! against the row that was copied.
//!
//! **Snapshots.** All rows are read in the snapshot of the slot's start, for as long as the
//! connection that made the slot is there. After a kill, what is left is read in snapshots of now.
//! For a table with a key that is right as well. Take any key:
//!
//! - *No change since the slot's start*: every snapshot has the row, in the same place, because only
//!   an update moves it (for a rewrite see below). The chunk of its page brings it once.
//! - *Inserted since*: it may be copied or not. The slot brings it, with a higher version.
//! - *Updated since*: it may have moved from a page that was not copied to one that was, or the other
//!   way, and so be copied once, twice in two forms, or not at all. The slot brings its last form,
//!   with the highest version.
//! - *Deleted since*: it may be copied or not. The slot brings its end, with a higher version.
//! - *Its key changed since*: the slot brings the end of the old key and the row with the new one;
//!   for either key one of the above holds.
//! - *Moved into a filter's rows or out of them, or to another partition*: the slot brings that as an
//!   insert or the end of a row.
//!
//! So between copy and stream the destination may have rows of several moments, and at every
//! position of the stream behind the last change that one of the snapshots saw it is exact.
//!
//! **Rewrites.** VACUUM FULL and CLUSTER put rows into other places, ALTER TABLE and TRUNCATE leave
//! nothing that an older snapshot can see. All of them give the table another file, which is looked
//! up in each transaction that copies: such a table is copied from the start, as it is now. Where
//! columns have other types than before, the copy ends with an error, and the next start goes on.
//!
//! **Tables without a key.** A row that comes twice is two rows there. They are copied first, each
//! as a whole, in the snapshot of the slot's start and in no other; where that can't be, the copy is
//! refused.

mod board;
mod chunks;
mod exported;
mod gate;
mod handing;
mod progress;
mod relations;
mod rows;
mod session;
pub(crate) mod snapshot;
mod state;
mod worker;

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use walbench_metrics::Failure;
use walbench_metrics::sample::StreamPosition;
use walbench_phases::plan::Consumer;

use crate::flusher::Flusher;
use crate::replication::ReplicationError;
use crate::source::{Opened, Source};
use crate::thread::StartError;
use board::{Board, Entry};
use chunks::chunk_pages;
pub use exported::Exported;
use gate::Gate;
use handing::Handing;
pub(crate) use progress::Progress;
pub use progress::{Copying, TableCopying};
use relations::{Published, Relation, relations};
pub use rows::{Format, MalformedCopy, Rows};
use session::{Session, Trouble};
use state::{Origin, State, TableState};
use worker::{Errand, START_AGAIN, Worker};

/// Between two looks at whether the copy is still wanted, and whether its state is to be kept.
const LOOK: Duration = Duration::from_millis(20);

/// Keeping the state takes at most one part in so many of the time.
const SAVE_SHARE: u32 = 10;

/// At the end the sink has this long for what it was given.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// A copy that can begin.
#[derive(Debug)]
pub(crate) struct Copy {
    errand: Errand,
    exported: Option<Exported>,
    connections: u32,
    /// What a person should know about it.
    pub(crate) notes: Vec<String>,
}

/// How a copy ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyEnd {
    /// Every row is at the sink.
    Complete {
        /// All were read in the snapshot of the slot's start, as far as this start knows.
        of_one_moment: bool,
    },
    /// It was asked to end before.
    Stopped,
}

/// Whether a slot may be made for a copy that keeps its state where the plan says.
///
/// # Errors
/// There is a state: it is of a slot that was made before, and would be taken for the new one's.
pub fn check_no_state(plan: &Consumer) -> Result<(), StartError> {
    let Some(path) = &plan.copy_state else { return Ok(()) };
    match State::load(path)? {
        None => Ok(()),
        Some(state) => Err(stale(path, &format!("of slot {}, which is gone", state.origin.slot))),
    }
}

impl Copy {
    /// Finds out what is to be copied; `None` when a former start has copied everything.
    ///
    /// # Errors
    /// The state is another slot's, a table can't be copied any more, or the connection's.
    pub(crate) fn prepare(
        source: &Source,
        plan: &Consumer,
        opened: &mut Opened,
        exported: Option<Exported>,
        flusher: &Arc<Flusher>,
    ) -> Result<Option<Self>, StartError> {
        let asked = origin(source, opened)?;
        let saved = plan.copy_state.as_deref().map(State::load).transpose()?.flatten();
        if let (Some(saved), Some(path)) = (&saved, &plan.copy_state) {
            let foreign = saved.foreign(&asked);
            let is_new = exported.is_some().then(|| "of a slot that was made before".into());
            if let Some(how) = foreign.or(is_new) {
                return Err(stale(path, &how));
            }
            if saved.complete {
                return Ok(None);
            }
        }
        let snapshot = exported.as_ref().map(|exported| exported.name().to_owned());
        let (published, relations) =
            look(source, plan, opened, snapshot.as_deref()).map_err(start_failed)?;
        let is_resumed = saved.is_some();
        let mut state = saved.unwrap_or_else(|| State::new(asked));
        let (entries, mut notes) =
            reconcile(&mut state, &published, &relations, plan, (is_resumed, snapshot.is_some()))?;
        if !is_resumed && exported.is_none() {
            notes.push(
                "the slot was there before: all rows are copied, as they are now; what a former \
                 copy left is overwritten"
                    .into(),
            );
        }
        let version = state.origin.version;
        let names = published.iter().map(|published| published.table.name.clone());
        let progress = Arc::new(Progress::new(names));
        let (file, connections) = (plan.copy_state.clone(), plan.copy_connections);
        let at_start = snapshot.is_some();
        let board = Board::new(entries, state, at_start, connections, file, progress.clone());
        board.save()?;
        let handing = Arc::new(Handing::new(plan, flusher.clone(), board, progress));
        let errand = Errand {
            source: source.clone(),
            handing,
            published,
            relations,
            snapshot,
            version,
            patience: Duration::from_secs_f64(plan.reconnect_sec),
        };
        Ok(Some(Self { errand, exported, connections, notes }))
    }

    /// How far it is, while it runs and after that.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.errand.handing.progress.clone()
    }

    /// Copies until everything is at the sink, or the flusher is asked to stop.
    ///
    /// # Errors
    /// A table or its rows can't be read, a batch can't be written, or the state not be kept.
    pub(crate) fn run(self) -> Result<CopyEnd, Failure> {
        let Self { errand, exported, connections, .. } = self;
        let handing = &errand.handing;
        thread::scope(|scope| {
            let workers: Vec<_> =
                (0..connections).map(|_| scope.spawn(|| Worker::new(&errand).run())).collect();
            let mut next_save = Instant::now();
            while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
                handing.board.wait(LOOK);
                next_save = oversee(handing, next_save);
            }
        });
        handing.gate.wait_until_empty(FINISH_TIMEOUT);
        let is_complete = handing.board.complete();
        if let Err(failure) = handing.board.save() {
            handing.fail(failure);
        }
        if let Some(exported) = exported {
            exported.close();
        }
        tell_position(handing);
        handing.progress.end(is_complete);
        match handing.board.failure() {
            Some(failure) => Err(failure),
            None if is_complete => {
                Ok(CopyEnd::Complete { of_one_moment: handing.board.is_of_one_moment() })
            }
            None => Ok(CopyEnd::Stopped),
        }
    }
}

/// Tells how much is on its way.
fn tell_position(handing: &Handing) {
    let in_flight_bytes = handing.gate.bytes();
    handing.flusher.stands_at(StreamPosition { in_flight_bytes, ..handing.flusher.position() });
}

/// Keeps what is done if it is time for that, and ends what is not wanted any more. Returns when it
/// is time again: however many tables there are, most of the time goes into copying them.
fn oversee(handing: &Handing, next_save: Instant) -> Instant {
    tell_position(handing);
    if handing.flusher.is_stopping() {
        handing.close();
    }
    let started = Instant::now();
    if started < next_save {
        return next_save;
    }
    if let Err(failure) = handing.board.save() {
        handing.fail(failure);
    }
    Instant::now() + started.elapsed() * SAVE_SHARE
}

/// What the copy is of, as the server has it now.
fn origin(source: &Source, opened: &mut Opened) -> Result<Origin, ReplicationError> {
    let rows = opened.connection.query("to say which it is", "IDENTIFY_SYSTEM")?;
    let mut row = rows.into_iter().next().unwrap_or_default().into_iter();
    Ok(Origin {
        system: row.next().flatten().unwrap_or_default(),
        database: row.nth(2).flatten().unwrap_or_default(),
        publication: source.publication.clone(),
        slot: source.slot.clone(),
        consistent_lsn: opened.confirmed_lsn,
        version: opened.restart_lsn,
    })
}

/// Looks up what there is to copy: which tables and files there were in the snapshot, if there is
/// one, and how large they are now. Later, because then no row of the snapshot is behind the last
/// page.
fn look(
    source: &Source,
    plan: &Consumer,
    opened: &Opened,
    snapshot: Option<&str>,
) -> Result<(Vec<Published>, Vec<Relation>), Trouble> {
    let gate = Gate::new(0, 0);
    let mut session = Session::open(&source.address, &source.application_name, &gate)?;
    if !session.begin(snapshot)? {
        let text = "the snapshot of the slot's start is gone: its connection was lost";
        return Err(Trouble::Failed(Failure::new(text)));
    }
    let found = relations(&mut session, &source.publication, &opened.catalogue, plan)?;
    session.end()?;
    session.close();
    Ok(found)
}

/// Brings together what a former start has done and what there is; returns what is on the board,
/// in the order of the tables, and what a person should know.
fn reconcile(
    state: &mut State,
    published: &[Published],
    relations: &[Relation],
    plan: &Consumer,
    (is_resumed, at_start): (bool, bool),
) -> Result<(Vec<Entry>, Vec<String>), StartError> {
    let (mut entries, mut notes, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for relation in relations {
        let of = &published[relation.published];
        let keyed = of.table.has_key();
        let size = relation.size;
        let shape = relation.shape(of);
        let saved = state.tables.get(&relation.oid);
        let is_done =
            saved.is_some_and(|saved| saved.is_complete() && (saved.shape == shape || !keyed));
        let is_half = saved.is_some_and(|saved| saved.file == size.file && saved.shape == shape);
        let may_be_copied = keyed || at_start;
        match saved {
            _ if is_done || (is_half && keyed) => {}
            // Counted behind the slot's start: there was no row at it.
            None if !may_be_copied && is_resumed && size.pages > 0 => notes.push(format!(
                "{}: no key, and not there when the copy began: only what comes through the slot is \
                 written",
                relation.sql_name
            )),
            _ if !may_be_copied && size.pages > 0 => refused.push(relation.sql_name.clone()),
            _ => {
                let name = relation.sql_name.clone();
                let fresh = TableState::new(name, size.file, shape, size.pages);
                state.tables.insert(relation.oid, fresh);
            }
        }
        let pages = chunk_pages(size.pages, size.bytes, plan.copy_connections);
        let chunk_pages = if keyed { pages } else { u32::MAX };
        let Relation { oid, published, .. } = *relation;
        entries.push(Entry { oid, published, keyed, chunk_pages });
    }
    if refused.is_empty() { Ok((entries, notes)) } else { Err(no_key(&refused)) }
}

fn no_key(names: &[String]) -> StartError {
    let names = names.join(", ");
    let failure = Failure::new(format!(
        "{names} can't be copied: without a key, only the snapshot of the slot's start has the rows \
         that the slot does not bring, and it is gone"
    ));
    StartError::usage(failure.hint(START_AGAIN))
}

fn stale(path: &Path, how: &str) -> StartError {
    let failure = Failure::new(format!("the copy's state in {} is {how}", path.display())).hint(
        "name the file of this slot's copy, or another one that is not there yet: then all rows \
         are copied",
    );
    StartError::usage(failure)
}

fn start_failed(trouble: Trouble) -> StartError {
    match trouble {
        Trouble::Stopped => Failure::new("it was asked to stop").into(),
        Trouble::Lost(error) => error.into(),
        Trouble::Failed(failure) => failure.into(),
    }
}

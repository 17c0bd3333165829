//! What a copy has done, in memory and in the file that outlives a kill.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use rangemap::RangeSet;
use serde::{Deserialize, Serialize};
use walbench_metrics::Failure;

use super::chunks::pages_of;
use crate::replication::{lsn_text, parse_lsn};

/// Changes with every change to what the file holds.
const FORMAT: u32 = 1;

/// What a copy belongs to, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    format: u32,
    /// The slot whose start is copied.
    pub(super) origin: Origin,
    /// Every row is at the sink.
    pub(super) complete: bool,
    /// Tables that hold rows (partitions and not what they are partitions of), by their OIDs.
    pub(super) tables: BTreeMap<u32, TableState>,
}

/// Which slot, and where it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Origin {
    /// The server's `system_identifier`.
    pub(super) system: String,
    /// Database.
    pub(super) database: String,
    /// Publication.
    pub(super) publication: String,
    /// Slot.
    pub(super) slot: String,
    /// Where the slot starts: all rows of transactions that were committed before are copied, and
    /// all changes of others come through the slot.
    #[serde(with = "lsn")]
    pub(super) consistent_lsn: u64,
    /// The version that copied rows have: see [`super`].
    #[serde(with = "lsn")]
    pub(super) version: u64,
}

/// How far a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TableState {
    /// Schema and name, for whoever reads the file.
    pub(super) name: String,
    /// Its file at the server (`relfilenode`): another one when the table was rewritten, and then
    /// no page has what it had.
    pub(super) file: u32,
    /// Tells apart what is asked of it and as what it is written: other columns or another filter
    /// make other rows.
    pub(super) shape: String,
    /// Its pages when they were counted first, after the slot's start: pages behind them have
    /// nothing that is older than that.
    pub(super) pages: u32,
    /// Pages whose every row is at the sink.
    #[serde(with = "ranges")]
    pub(super) done: RangeSet<u32>,
    /// Rows of a table without a key were handed to the sink: copying it again would double them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) begun: bool,
}

impl State {
    pub(super) fn new(origin: Origin) -> Self {
        Self { format: FORMAT, origin, complete: false, tables: BTreeMap::new() }
    }

    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// It can't be read, or is not what [`Self::save`] writes.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, Failure> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(unusable(path).caused_by(&e)),
        };
        let state: Self =
            serde_json::from_slice(&bytes).map_err(|e| damaged(path).caused_by(&e))?;
        let fits = |table: &TableState| table.done.iter().all(|range| range.end <= table.pages);
        if state.format != FORMAT || !state.tables.values().all(fits) {
            return Err(damaged(path));
        }
        Ok(Some(state))
    }

    /// Writes a file that is there whole or not at all, whenever the machine stops.
    ///
    /// # Errors
    /// The folder's or the disk's.
    pub(super) fn save(&self, path: &Path) -> Result<(), Failure> {
        self.write(path).map_err(|e| {
            Failure::new(format!("the copy's state can't be kept in {}", path.display()))
                .caused_by(&e)
        })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        // The name is the folder's, and as durable as that is.
        File::open(folder)?.sync_all()
    }

    /// Says in what a file's origin is not the one that is asked for.
    pub(super) fn foreign(&self, asked: &Origin) -> Option<String> {
        let ours = &self.origin;
        let differ = |what: &str, ours: &str, asked: &str| {
            (ours != asked).then(|| format!("of {what} {ours}, and this one is {asked}"))
        };
        differ("server", &ours.system, &asked.system)
            .or_else(|| differ("database", &ours.database, &asked.database))
            .or_else(|| differ("publication", &ours.publication, &asked.publication))
            .or_else(|| differ("slot", &ours.slot, &asked.slot))
            .or_else(|| self.moved(asked.consistent_lsn))
    }

    /// A slot that was streamed has gone on, which is as it should be once the copy is complete.
    fn moved(&self, confirmed_lsn: u64) -> Option<String> {
        let ours = self.origin.consistent_lsn;
        let is_ours = if self.complete { confirmed_lsn >= ours } else { confirmed_lsn == ours };
        let [ours, asked] = [ours, confirmed_lsn].map(lsn_text);
        (!is_ours).then(|| format!("of a slot that starts at {ours}, and this one does at {asked}"))
    }
}

impl TableState {
    /// A table of which nothing is copied.
    pub(super) fn new(name: String, file: u32, shape: String, pages: u32) -> Self {
        Self { name, file, shape, pages, done: RangeSet::new(), begun: false }
    }

    /// Whether all its rows are at the sink.
    pub(super) fn is_complete(&self) -> bool {
        self.pages_done() == u64::from(self.pages)
    }

    /// How many pages' rows are at the sink.
    pub(super) fn pages_done(&self) -> u64 {
        pages_of(&self.done)
    }

    /// The rows of these pages are at the sink.
    pub(super) fn finish(&mut self, pages: Range<u32>) {
        if !pages.is_empty() {
            self.done.insert(pages);
        }
    }
}

fn unusable(path: &Path) -> Failure {
    Failure::new(format!("the copy's state in {} can't be read", path.display()))
}

fn damaged(path: &Path) -> Failure {
    unusable(path).hint(format!(
        "the file is damaged, or none that this version of walbench wrote: name another, or remove \
         it and start again with an empty destination and a new slot ({})",
        "walbench follow --create-slot --initial-copy"
    ))
}

/// Positions are written as PostgreSQL writes them.
mod lsn {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    use super::{lsn_text, parse_lsn};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde wants")]
    pub(super) fn serialize<S: Serializer>(lsn: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&lsn_text(*lsn))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        parse_lsn(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no WAL position")))
    }
}

/// Ranges are written as pairs; one that is empty or upside down is refused where the set would
/// panic.
mod ranges {
    use rangemap::RangeSet;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(set: &RangeSet<u32>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(set.iter().map(|range| (range.start, range.end)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<RangeSet<u32>, D::Error> {
        let mut set = RangeSet::new();
        for (start, end) in Vec::<(u32, u32)>::deserialize(from)? {
            if start >= end {
                return Err(D::Error::custom(format!("pages {start} to {end}")));
            }
            set.insert(start..end);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            system: "7".into(),
            database: "d".into(),
            publication: "p".into(),
            slot: "s".into(),
            consistent_lsn: 0x2_0000_0010,
            version: 0x1_0000_0000,
        }
    }

    fn state() -> State {
        let mut state = State::new(origin());
        let mut table = TableState::new("public.t".into(), 5, "shape".into(), 10);
        table.begun = true;
        table.finish(0..3);
        table.finish(5..5);
        table.finish(6..10);
        state.tables.insert(16_384, table);
        state
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert_eq!(State::load(&path).unwrap(), None);
        let mut state = state();
        state.save(&path).unwrap();
        assert_eq!(State::load(&path).unwrap(), Some(state.clone()));
        let table = state.tables.get_mut(&16_384).unwrap();
        assert_eq!((table.pages_done(), table.is_complete()), (7, false));
        table.finish(2..7);
        assert!(table.is_complete());
        state.save(&path).unwrap();
        assert_eq!(State::load(&path).unwrap(), Some(state));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        state().save(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let changed = [
            String::new(),
            text[..text.len() / 2].into(),
            text.replace("\"format\": 1", "\"format\": 2"),
            text.replace("\"pages\": 10", "\"pages\": 9"),
            text.replace("2/10", "nowhere"),
            text.replace("\"begun\"", "\"began\""),
            // A range upside down.
            text.replace("          3\n", "          0\n"),
        ];
        for changed in changed {
            assert_ne!(changed, text);
            fs::write(&path, &changed).unwrap();
            let failure = State::load(&path).unwrap_err().to_string();
            assert!(failure.contains("can't be read") && failure.contains("hint"), "{failure}");
        }
        let failure = State::load(folder.path()).unwrap_err().to_string();
        assert!(failure.contains("can't be read"), "{failure}");
    }

    #[test]
    fn another_slots_state_is_told_by_what_differs() {
        let mut state = state();
        assert_eq!(state.foreign(&origin()), None);
        let foreign = |state: &State, change: fn(&mut Origin)| {
            let mut asked = origin();
            change(&mut asked);
            state.foreign(&asked).unwrap_or_default()
        };
        assert!(foreign(&state, |o| o.system = "8".into()).starts_with("of server 7"));
        assert!(foreign(&state, |o| o.database = "e".into()).starts_with("of database d"));
        assert!(foreign(&state, |o| o.publication = "q".into()).starts_with("of publication p"));
        assert!(foreign(&state, |o| o.slot = "t".into()).starts_with("of slot s"));
        let later = |o: &mut Origin| o.consistent_lsn += 1;
        assert_eq!(
            foreign(&state, later),
            "of a slot that starts at 2/10, and this one does at 2/11"
        );
        // The version goes with the slot's restart position, which moves when the slot does.
        assert_eq!(foreign(&state, |o| o.version += 1), "");
        state.complete = true;
        assert_eq!(foreign(&state, later), "");
        assert!(!foreign(&state, |o| o.consistent_lsn -= 1).is_empty());
    }
}

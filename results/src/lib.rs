//! What it means: from samples and the run's outcome to figures, verdicts and the summary.
//!
//! - [`folder`]: the folder a run leaves, and its log of samples.
//! - [`tally`]: all samples of a run, merged as they come.
//! - [`timeline`]: when rows were written and delivered; [`ladder`]: how far each part was.
//! - [`trend`]: whether something grows.
//! - [`outcome`]: what the orchestrator knows of a run beside the samples.
//! - [`environment`]: what a run ran on and against (`environment.json`).
//! - [`metrics_json`]: the document `metrics.json`.
//! - [`figures`]: from tally, outcome and environment to that document.
//! - [`verification`]: whether every acknowledged row arrived.
//! - [`ceilings`]: what each part can do by itself, and how much of it was used.
//! - [`destination`]: what ClickHouse's tables hold, against PostgreSQL's.
//! - [`limit`]: what limited a phase, by the doctor's findings.
//! - [`verdict`]: what is said of a phase and of the run.
//! - [`summary`] and [`terminal`]: the document for a reader.
//!
//! But for the run folder all of it is pure: no files, processes or sockets.

pub mod ceilings;
pub mod destination;
pub mod environment;
pub mod figures;
pub mod folder;
mod human;
pub mod ladder;
mod ladder_picture;
pub mod limit;
pub mod metrics_json;
pub mod outcome;
mod phase_figures;
mod profile_figures;
mod signals;
mod steps;
pub mod summary;
pub mod tally;
pub mod terminal;
#[cfg(test)]
mod testing;
mod thresholds;
pub mod timeline;
pub mod trend;
pub mod verdict;
pub mod verification;

pub use ceilings::CeilingFigures;
pub use environment::Environment;
pub use figures::metrics;
pub use folder::RunFolder;
pub use human::count;
pub use ladder_picture::ladder_pictures;
pub use metrics_json::{Metrics, schema};
pub use outcome::{PhaseOutcome, RunOutcome};
pub use summary::summary;
pub use tally::Tally;
pub use terminal::terminal;

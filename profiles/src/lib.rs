//! Where the CPU goes, and the memory: what processes and the machine say through `/proc`, and what samples of
//! running processes show.
//!
//! ```text
//! sampler ─► recording ─► profile (by symbols) ─► area, formats
//! ```
//!
//! - [`process`]: CPU time and memory of one process.
//! - [`process_group`]: CPU time and memory of a process and all that it started together.
//! - [`scheduling`]: how the threads of one process are scheduled.
//! - [`machine`]: what a run ran on; [`machine_use`]: how it spends its time.
//! - [`tcp`]: what the kernel says of connections.
//! - [`sampler`]: samples of processes; [`recording`]: what they are.
//! - [`profile`]: a window of them, with names by [`symbols`].
//! - [`diff`]: what changed between two profiles.
//! - [`doctor`]: what limits a pipeline, by rules over measured signals.
//! - [`heap`]: who holds memory, by what an allocator has sampled.
//! - [`area`]: CPU time by kind of work; [`formats`]: files for other tools.
//!
//! This crate knows nothing of plans or databases.

pub mod area;
pub mod diff;
pub mod doctor;
pub mod formats;
pub mod heap;
pub mod machine;
pub mod machine_use;
mod modules;
pub mod process;
pub mod process_group;
pub mod profile;
pub mod recording;
pub mod sampler;
pub mod scheduling;
pub mod symbols;
pub mod tcp;

pub use machine::{Machine, filesystem_of};
pub use machine_use::MachineMeter;
pub use process::{ProcessMeter, Usage};
pub use process_group::TreeMeter;
pub use scheduling::{GroupSchedulingMeter, SchedulingMeter};
pub use tcp::{TcpEnd, TcpMeter};

/// Why a process can't be measured.
#[derive(Debug, thiserror::Error)]
#[error("process {pid} can't be measured")]
pub struct MeterError {
    /// The process.
    pub pid: u32,
    /// What `/proc` answered.
    source: procfs::ProcError,
}

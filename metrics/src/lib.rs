//! What happened: the measurements of a run, and how they travel between walbench's processes.
//!
//! - [`ceiling`]: what each part of the pipeline can do by itself.
//! - [`allocator`]: what this process's allocator holds, and for whom.
//! - [`clock`]: wall-clock microseconds and the measured offset between two clocks.
//! - [`cuts`]: when samples are cut.
//! - [`timing`]: an HDR histogram with fixed bounds that merges and serialises whole.
//! - [`stamp`]: the mark each write transaction carries through the WAL.
//! - [`ledger`]: which stamped transactions were acknowledged or delivered.
//! - [`sample`]: one worker's counters and timings for one interval.
//! - [`vitals`]: how workers, servers and the machine spent it: what the doctor reads.
//! - [`stacks`]: what samplers take of running programs.
//! - [`message`]: what orchestrator and workers say to each other.
//! - [`link`]: the byte stream they say it over.
//! - [`failure`]: an error that can cross the link and be printed for a person.
//!
//! This crate knows nothing of plans, databases or files.

pub mod allocator;
pub mod ceiling;
pub mod clock;
pub mod cuts;
pub mod failure;
pub mod ledger;
pub mod link;
pub mod message;
pub mod sample;
pub mod stacks;
pub mod stamp;
pub mod timing;
pub mod vitals;

pub use cuts::Cuts;
pub use failure::Failure;
pub use sample::Window;
pub use timing::Timing;

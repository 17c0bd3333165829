//! A worker that samples itself by pprof.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use walbench_metrics::Failure;
use walbench_metrics::stacks::OwnSampler;
use walbench_profiles::sampler::own;

use crate::keeper;
use crate::postgres::private::parent_folder;

/// How the folders of workers that sample themselves are called.
pub(crate) const FOLDER_PREFIX: &str = "walbench-pprof-";

/// A worker's sampler, and the folder that it needs.
pub(crate) struct Pprof {
    pub(crate) sampler: Box<dyn OwnSampler>,
    pub(crate) folder: OwnFolder,
}

impl Pprof {
    /// To be called while the process has one thread.
    pub(crate) fn prepare(rate_hz: u32) -> Result<Self, Failure> {
        let failed =
            |e: std::io::Error| Failure::new("this worker can't sample itself").caused_by(&e);
        let folder = OwnFolder::make().map_err(failed)?;
        let sampler = own::OwnSampler::prepare(rate_hz, &folder.path).map_err(failed)?;
        Ok(Self { sampler: Box::new(sampler), folder })
    }
}

/// A folder for temporary files, which goes with this; locked, so that `walbench clean` can tell one
/// that was left.
pub(crate) struct OwnFolder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl OwnFolder {
    fn make() -> std::io::Result<Self> {
        let path = folder_of(std::process::id());
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = keeper::lock(&path)?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn folder_of(pid: u32) -> PathBuf {
    parent_folder().join(format!("{FOLDER_PREFIX}{pid}"))
}

/// Removes what a worker of this machine that was killed has left.
pub(crate) fn forget(pid: u32) {
    remove(&folder_of(pid));
}

fn remove(folder: &Path) {
    // What can't be removed now `walbench clean` may remove later.
    let _ = std::fs::remove_dir_all(folder);
}

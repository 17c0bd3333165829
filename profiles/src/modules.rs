//! What a process runs: its threads' names and the files it has mapped.

use std::io;

use procfs::process::{MMPermissions, MMapPath, MemoryMaps, Process};

use crate::recording::{Mapping, Recording};

/// The kernel's code in each process: what it is called by.
pub(crate) const VDSO: &str = "[vdso]";

/// Reads both from `/proc`, beside what was known before: a thread that has ended keeps its name.
pub(crate) fn describe(recording: &mut Recording) -> io::Result<()> {
    let pid = i32::try_from(recording.pid).map_err(io::Error::other)?;
    let process = Process::new(pid).map_err(io::Error::other)?;
    for task in process.tasks().into_iter().flatten().flatten() {
        if let Ok(stat) = task.stat() {
            recording.threads.insert(task.tid.unsigned_abs(), stat.comm);
        }
    }
    let maps = process.maps().map_err(io::Error::other)?;
    for mapping in runnable(maps) {
        if !recording.mappings.contains(&mapping) {
            recording.mappings.push(mapping);
        }
    }
    Ok(())
}

/// What of a process's mappings can be run.
pub(crate) fn runnable(maps: MemoryMaps) -> impl Iterator<Item = Mapping> {
    let runnable = maps.into_iter().filter(|map| map.perms.contains(MMPermissions::EXECUTE));
    runnable.filter_map(|map| {
        let path = match map.pathname {
            MMapPath::Path(path) => path,
            MMapPath::Vdso => VDSO.into(),
            _ => return None,
        };
        let (start, end) = map.address;
        Some(Mapping { start, end, offset: map.offset, path })
    })
}

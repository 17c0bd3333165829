//! The executable's allocator: jemalloc, since it can tell who holds memory. Its profiler sleeps unless it
//! is asked for.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use tikv_jemallocator::Jemalloc;
use walbench_metrics::Failure;
use walbench_metrics::allocator::is_profiled;

use crate::ending::Ending;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// jemalloc's settings, by the name that they have in Rust's executables.
const SETTINGS: &str = "_RJEM_MALLOC_CONF";

/// With the profiler, at one sample in 64 KiB instead of in 512: a consumer holds little, and allocates
/// seldom.
const PROFILER: &str = "prof:true,lg_prof_sample:16";

/// Profiles this process's heap. jemalloc reads its settings before `main`, so the process begins anew
/// with them, as the same one: with its links, whoever started it, and where that was.
pub(crate) fn profile() -> Result<(), Ending> {
    if is_profiled() {
        return Ok(());
    }
    let settings = env::var(SETTINGS).unwrap_or_default();
    if settings.ends_with(PROFILER) {
        let text = "this walbench's allocator has no profiler";
        return Err(Ending::component(Failure::new(text).hint("set profiling.heap = false")));
    }
    // Of two, the later one counts.
    let settings = [&*settings, PROFILER].join(",");
    let mut again = Command::new("/proc/self/exe");
    let error = again.args(env::args_os().skip(1)).env(SETTINGS, settings.trim_matches(',')).exec();
    Err(Ending::component(Failure::new("the worker can't begin anew").caused_by(&error)))
}

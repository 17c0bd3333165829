//! `walbench clean`: finds and removes what a killed run left. What a living run holds stays, and
//! so does everything without our mark.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use walbench_consumer::clickhouse::client::Clients;
use walbench_metrics::Failure;
use walbench_phases::address::PostgresAddress;
use walbench_phases::clickhouse::ClickhouseAddress;

use crate::address::{given_address, given_clickhouse};
use crate::cli::CleanArgs;
use crate::clickhouse::claim::{self as clickhouse_claim, Life};
use crate::clickhouse::private as clickhouse;
use crate::ending::{self, Ending};
use crate::keeper::LOCK_FILE;
use crate::postgres::control::Control;
use crate::postgres::private::{FOLDER_PREFIX, parent_folder, postmaster_pid};
use crate::postgres::{claim, mark};
use crate::pprof;

/// A server without its keeper is stopped at once; its processes need a moment.
const SERVER_TIMEOUT: Duration = Duration::from_secs(10);

/// `walbench clean`.
pub(crate) async fn clean(args: &CleanArgs) -> Result<u8, Ending> {
    let mut said = clean_folders(&parent_folder(), args.dry_run).map_err(Ending::component)?;
    if let Some(url) = &args.postgres {
        let address = given_address("--postgres", url).map_err(Ending::usage)?;
        said.extend(clean_server(&address, args.dry_run).await.map_err(Ending::component)?);
    }
    if let Some(url) = &args.clickhouse {
        let address = given_clickhouse("--clickhouse", url).map_err(Ending::usage)?;
        said.extend(clean_clickhouse(&address, args.dry_run).await.map_err(Ending::component)?);
    }
    if said.is_empty() {
        said.push("nothing was left behind".into());
    }
    ending::print(&(said.join("\n") + "\n"))
}

fn removed(dry_run: bool) -> &'static str {
    if dry_run { "would remove" } else { "removed" }
}

async fn clean_server(address: &PostgresAddress, dry_run: bool) -> Result<Vec<String>, Failure> {
    let control = Control::open(address).await?;
    let mut said = Vec::new();
    for (database, mark) in mark::all(&control.client).await? {
        if mark.kept {
            said.push(format!("left database \"{database}\": run {} was to keep it", mark.run_id));
            continue;
        }
        let lock = claim::lock_sql(&database);
        if !control.value::<bool>("take walbench's lock", &lock).await? {
            said.push(format!("left database \"{database}\": run {} is using it", mark.run_id));
            continue;
        }
        if !dry_run && let Err(failure) = claim::drop_database(&control, &database).await {
            said.push(format!("left database \"{database}\": {}", failure.error));
            continue;
        }
        said.push(format!(
            "{} database \"{database}\" of run {}, with its slots",
            removed(dry_run),
            mark.run_id
        ));
    }
    Ok(said)
}

async fn clean_clickhouse(
    address: &ClickhouseAddress,
    dry_run: bool,
) -> Result<Vec<String>, Failure> {
    let clients = Clients::new(address)?;
    let mut said = Vec::new();
    for (database, holder) in clickhouse_claim::all(&clients).await? {
        let (database_is, run) = (format!("database \"{database}\" in ClickHouse"), &holder.run_id);
        let reason = match holder.life() {
            _ if holder.kept => format!("run {run} was to keep it"),
            Life::Alive => format!("run {run} is using it"),
            Life::Elsewhere => format!("run {run} is on another machine"),
            Life::Dead => {
                if !dry_run {
                    clickhouse_claim::drop_marked(&clients, &database).await?;
                }
                said.push(format!("{} {database_is} of run {run}", removed(dry_run)));
                continue;
            }
        };
        said.push(format!("left {database_is}: {reason}"));
    }
    Ok(said)
}

fn clean_folders(parent: &Path, dry_run: bool) -> Result<Vec<String>, Failure> {
    let mut said = Vec::new();
    for folder in private_folders(parent) {
        // Held until it is removed: its keeper may be about to take it.
        let Some(_lock) = lock_abandoned(&folder) else {
            said.push(format!("left {}: its run is alive", folder.display()));
            continue;
        };
        if !dry_run {
            remove_server(&folder)?;
        }
        said.push(format!("{} {}", removed(dry_run), folder.display()));
    }
    Ok(said)
}

fn private_folders(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let is_ours = |name: &str| {
        let ours = [FOLDER_PREFIX, clickhouse::FOLDER_PREFIX, pprof::FOLDER_PREFIX];
        ours.iter().any(|prefix| name.starts_with(prefix))
    };
    let ours = entries.filter(|e| is_ours(&e.file_name().to_string_lossy()));
    // A folder without the lock file is none of ours, or not made whole yet.
    let mut folders: Vec<PathBuf> =
        ours.map(|e| e.path()).filter(|folder| folder.join(LOCK_FILE).is_file()).collect();
    folders.sort();
    folders
}

/// The lock is its keeper's for as long as that lives. One kept with `--keep` has none.
fn lock_abandoned(folder: &Path) -> Option<Flock<File>> {
    let file = File::open(folder.join(LOCK_FILE)).ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

/// Stops a server without a keeper and removes its folder.
pub(crate) fn remove_server(folder: &Path) -> Result<(), Failure> {
    stop_server(folder)?;
    fs::remove_dir_all(folder)
        .map_err(|e| Failure::new(format!("can't remove {}", folder.display())).caused_by(&e))
}

/// Stops a server whose keeper was killed: the process that the folder names, if it is what it
/// says it is.
pub(crate) fn stop_server(folder: &Path) -> Result<(), Failure> {
    let is_its_server = |pid: u32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*folder.to_string_lossy()))
    };
    let pid = postmaster_pid(folder).or_else(|| clickhouse::server_pid(folder));
    let Some(pid) = pid.filter(|pid| is_its_server(*pid)) else { return Ok(()) };
    let failed = || Failure::new(format!("the server of {} can't be stopped", folder.display()));
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGQUIT).map_err(|e| failed().caused_by(&e))?;
    let deadline = Instant::now() + SERVER_TIMEOUT;
    while is_its_server(pid) {
        if Instant::now() > deadline {
            return Err(failed().hint(format!("look at process {pid}")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_abandoned_folders_of_ours_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let make = |name: &str, lock: bool| {
            let folder = parent.path().join(name);
            fs::create_dir(&folder).unwrap();
            if lock {
                File::create(folder.join(LOCK_FILE)).unwrap();
            }
            folder
        };
        let abandoned = make("walbench-pg-1", true);
        let alive = make("walbench-pg-2", true);
        let unlocked = make("walbench-pg-3", false);
        let foreign = make("other", true);
        let held = File::open(alive.join(LOCK_FILE)).unwrap();
        let _held = Flock::lock(held, FlockArg::LockExclusiveNonblock).unwrap();

        assert_eq!(clean_folders(parent.path(), true).unwrap().len(), 2);
        assert!(abandoned.exists());
        clean_folders(parent.path(), false).unwrap();
        assert!(!abandoned.exists());
        assert!(alive.exists() && unlocked.exists() && foreign.exists());
    }
}

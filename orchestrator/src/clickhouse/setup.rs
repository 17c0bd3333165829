//! `walbench setup`: gets the embedded ClickHouse by the npm client, this very version or none.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha512};
use walbench_metrics::Failure;

use super::binaries::{LIBRARY, cache_folder, cached_library, library_folder};
use crate::ending::{self, Ending};
use crate::postgres::private::random_word;

/// The version that walbench is tested with.
pub(super) const VERSION: &str = "26.7.3-stable.1";

const PACKAGE: &str = "@chdb/lib-linux-x64-gnu";

/// SHA-512 of the package's file, in base64, as npm states it.
const INTEGRITY: &str =
    "XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==";

const ELSEWHERE: &str = "another libchdb.so can be named by --chdb-lib or WALBENCH_CHDB_LIB, and a \
                         ClickHouse server by --clickhouse-bin";

/// Gets what is not there.
pub(crate) fn setup() -> Result<u8, Ending> {
    if let Some(library) = cached_library() {
        return ending::print(&format!(
            "the embedded ClickHouse is there: {}\n",
            library.display()
        ));
    }
    let library = get_library().map_err(Ending::component)?;
    ending::print(&format!("got the embedded ClickHouse: {}\n", library.display()))
}

/// The library, got if it is not there yet.
pub(super) fn get_library() -> Result<PathBuf, Failure> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")) {
        let text = format!("there is no {PACKAGE} {VERSION} for this kind of machine");
        return Err(Failure::new(text).hint(ELSEWHERE));
    }
    let cache = cache_folder().ok_or_else(|| {
        Failure::new("there is no cache folder").hint("set HOME or XDG_CACHE_HOME")
    })?;
    let failed = |e: &dyn std::error::Error| {
        Failure::new(format!("the embedded ClickHouse can't be put into {}", cache.display()))
            .caused_by(e)
            .hint("XDG_CACHE_HOME names another cache folder")
    };
    fs::create_dir_all(&cache).map_err(|e| failed(&e))?;
    // The same lock as .ci/setup's: two may be set up at once.
    let lock = File::create(cache.join("lock")).map_err(|e| failed(&e))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| failed(&e))?;
    let library = library_folder(&cache).join(LIBRARY);
    if library.is_file() {
        return Ok(library);
    }
    ending::say(&format!(
        "getting the embedded ClickHouse by npm ({PACKAGE} {VERSION}, 178 MB, 566 MB unpacked) into {}",
        cache.display()
    ));
    // Below the cache, so that it gets to its place whole or not at all.
    let new = New::make(&cache).map_err(|e| failed(&e))?;
    let package = pack(&new.0)?;
    check(&package).map_err(|e| failed(&e))??;
    unpack(&package, &new.0)?;
    fs::rename(new.0.join("package"), library_folder(&cache)).map_err(|e| failed(&e))?;
    Ok(library)
}

/// A folder that is gone in the end, whatever that is.
struct New(PathBuf);

impl New {
    fn make(cache: &Path) -> io::Result<Self> {
        let folder = cache.join(format!("new.{}", random_word()));
        DirBuilder::new().mode(0o755).create(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for New {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pack(folder: &Path) -> Result<PathBuf, Failure> {
    let npm = Command::new("npm")
        .args(["pack", "--silent"])
        .arg(format!("{PACKAGE}@{VERSION}"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .output();
    let npm = npm.map_err(|e| {
        Failure::new("npm, which gets the embedded ClickHouse, can't be started")
            .caused_by(&e)
            .hint(format!("install it (Debian, Ubuntu: apt-get install npm); {ELSEWHERE}"))
    })?;
    let packages = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut packages = packages.filter(|path| path.extension().is_some_and(|e| e == "tgz"));
    match packages.next() {
        Some(package) if npm.status.success() => Ok(package),
        _ => {
            let mut failure = Failure::new(format!("npm can't get {PACKAGE} ({})", npm.status));
            failure.causes.push(String::from_utf8_lossy(&npm.stderr).trim().to_owned());
            Err(failure.hint(ELSEWHERE))
        }
    }
}

fn check(package: &Path) -> io::Result<Result<(), Failure>> {
    let mut hash = HashWriter(Sha512::new());
    io::copy(&mut File::open(package)?, &mut hash)?;
    let found = BASE64.encode(hash.0.finalize());
    if found == INTEGRITY {
        return Ok(Ok(()));
    }
    let text = format!("npm's {PACKAGE} {VERSION} is not the one that walbench was tested with");
    Ok(Err(Failure::new(text)
        .because(Failure::new(format!("its SHA-512 is {found}, and not {INTEGRITY}")))
        .hint(ELSEWHERE)))
}

struct HashWriter(Sha512);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unpack(package: &Path, folder: &Path) -> Result<(), Failure> {
    let tar = Command::new("tar")
        .arg("-xzf")
        .arg(package)
        .arg("-C")
        .arg(folder)
        .args(["--no-same-owner", "--no-same-permissions", &format!("package/{LIBRARY}")])
        .stdin(Stdio::null())
        .output();
    let failed = || Failure::new(format!("tar can't unpack {}", package.display()));
    let tar = tar.map_err(|e| failed().caused_by(&e))?;
    if tar.status.success() {
        return Ok(());
    }
    Err(failed().because(Failure::new(String::from_utf8_lossy(&tar.stderr).trim().to_owned())))
}

//! ClickHouse on this machine: a server binary, or the engine as a library.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use walbench_metrics::Failure;

/// Where distributions put it; a user's PATH need not name it.
const USUAL_FOLDERS: [&str; 2] = ["/usr/bin", "/usr/sbin"];

/// The folder that `.ci/setup` and `walbench setup` fill when root runs them.
const SHARED_CACHE: &str = "/var/cache/walbench";

/// The library's name.
pub(crate) const LIBRARY: &str = "libchdb.so";

/// What can be run as a private ClickHouse.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Program {
    /// `clickhouse`, which is all programs in one and wants to be told which.
    Clickhouse(PathBuf),
    /// `clickhouse-server`.
    Server(PathBuf),
    /// `libchdb.so`.
    Library(PathBuf),
}

impl Program {
    /// A server binary of that path.
    fn server(path: PathBuf) -> Self {
        match path.file_name().is_some_and(|name| name == "clickhouse") {
            true => Self::Clickhouse(path),
            false => Self::Server(path),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Clickhouse(path) | Self::Server(path) | Self::Library(path) => path,
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Library(_) => "private, the embedded engine libchdb behind walbench's HTTP front",
            Self::Clickhouse(_) | Self::Server(_) => "private server",
        };
        write!(f, "{kind} ({})", self.path().display())
    }
}

/// What the user named.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Named<'a> {
    /// `--clickhouse-bin`: the binary, or its folder.
    pub(crate) server: Option<&'a Path>,
    /// `--chdb-lib` or `WALBENCH_CHDB_LIB`.
    pub(crate) library: Option<&'a Path>,
}

/// What is named, else a server binary, else the library; `None` if nothing of that is here.
pub(crate) fn find(named: Named<'_>) -> Result<Option<Program>, Failure> {
    if let Some(server) = named.server {
        return named_server(server).map(Some);
    }
    if let Some(library) = named.library {
        if library.is_file() {
            return Ok(Some(Program::Library(library.into())));
        }
        return Err(Failure::new(format!("{} is not a file", library.display()))
            .hint("--chdb-lib and WALBENCH_CHDB_LIB name libchdb.so itself"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(USUAL_FOLDERS.map(PathBuf::from));
    let server = folders.into_iter().find_map(|folder| in_folder(&folder)).map(Program::server);
    Ok(server.or_else(|| cached_library().map(Program::Library)))
}

fn named_server(named: &Path) -> Result<Program, Failure> {
    let server = if named.is_dir() { in_folder(named) } else { Some(named.to_path_buf()) };
    server.filter(|server| server.is_file()).map(Program::server).ok_or_else(|| {
        Failure::new(format!("{} is no ClickHouse server", named.display()))
            .hint("--clickhouse-bin names clickhouse or clickhouse-server, or the folder it is in")
    })
}

fn in_folder(folder: &Path) -> Option<PathBuf> {
    let names = ["clickhouse-server", "clickhouse"].map(|name| folder.join(name));
    names.into_iter().find(|path| path.is_file())
}

/// The library in a cache folder.
pub(crate) fn cached_library() -> Option<PathBuf> {
    let folders = [cache_folder(), Some(SHARED_CACHE.into())];
    let found = folders.into_iter().flatten().map(|cache| library_folder(&cache).join(LIBRARY));
    found.into_iter().find(|library| library.is_file())
}

/// Where `walbench setup` puts what it gets: the same places as `.ci/setup`.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(SHARED_CACHE.into());
    }
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|f| f.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    cache.map(|cache| cache.join("walbench"))
}

/// The library's own folder: another version has another.
pub(crate) fn library_folder(cache: &Path) -> PathBuf {
    cache.join(format!("libchdb-{}", super::setup::VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_taken_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: &str| {
            std::fs::write(folder.path().join(name), "").unwrap();
            folder.path().join(name)
        };
        let find = |server: Option<&Path>, library: Option<&Path>| find(Named { server, library });
        assert!(
            find(Some(folder.path()), None).unwrap_err().hint.unwrap().contains("--clickhouse-bin")
        );
        let library = touch(LIBRARY);
        assert_eq!(find(None, Some(&library)).unwrap(), Some(Program::Library(library)));
        assert!(find(None, Some(folder.path())).unwrap_err().hint.unwrap().contains("--chdb-lib"));
        let all = touch("clickhouse");
        assert_eq!(find(Some(folder.path()), None).unwrap(), Some(Program::Clickhouse(all)));
        let server = touch("clickhouse-server");
        assert_eq!(find(Some(folder.path()), None).unwrap(), Some(Program::Server(server.clone())));
        assert_eq!(find(Some(&server), None).unwrap(), Some(Program::Server(server)));
    }
}

//! PostgreSQL's programs on this machine.

use std::path::{Path, PathBuf};

use walbench_metrics::Failure;

/// Where Debian and its relatives put each major version.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// A folder with PostgreSQL's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binaries(PathBuf);

impl Binaries {
    /// A program's path.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The server's programs: in `given` if that is named, else the newest of
    /// `/usr/lib/postgresql/*/bin`, else those on PATH.
    pub(crate) fn find_server(given: Option<&Path>) -> Result<Self, Failure> {
        Self::find(given, &["initdb", "postgres"])
    }

    /// The client programs, likewise.
    pub(crate) fn find_client(given: Option<&Path>) -> Result<Self, Failure> {
        Self::find(given, &["pg_dump", "psql"])
    }

    fn find(given: Option<&Path>, programs: &[&str]) -> Result<Self, Failure> {
        let complete = |folder: &PathBuf| programs.iter().all(|p| folder.join(p).is_file());
        if let Some(folder) = given {
            let folder = folder.to_path_buf();
            if complete(&folder) {
                return Ok(Self(folder));
            }
            let text = format!("{} does not hold {}", folder.display(), programs.join(" and "));
            return Err(Failure::new(text)
                .hint("--pg-bin names the folder of PostgreSQL's programs, such as /usr/lib/postgresql/17/bin"));
        }
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        debian_folders(Path::new(DEBIAN_ROOT))
            .into_iter()
            .chain(std::env::split_paths(&on_path))
            .find(complete)
            .map(Self)
            .ok_or_else(|| {
                let text = format!("PostgreSQL's programs ({}) are not here", programs.join(", "));
                Failure::new(text).hint(
                    "install PostgreSQL 14 or newer (Debian, Ubuntu: apt-get install postgresql; \
                     Fedora: dnf install postgresql-server postgresql-contrib; macOS: brew install \
                     postgresql), name its folder with --pg-bin, or set postgres.url in the plan",
                )
            })
    }
}

/// The versions' folders, newest first.
fn debian_folders(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_first() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "notes", "100"] {
            std::fs::create_dir_all(root.path().join(version).join("bin")).unwrap();
        }
        let folders = debian_folders(root.path());
        let expected = ["100/bin", "15/bin", "9/bin"].map(|v| root.path().join(v));
        assert_eq!(folders, expected);
    }

    #[test]
    fn a_given_folder_without_the_programs_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let failure = Binaries::find_server(Some(folder.path())).unwrap_err();
        assert!(failure.error.ends_with("does not hold initdb and postgres"), "{failure}");
        assert!(failure.hint.unwrap().contains("--pg-bin"));
    }
}

//! The folder a run leaves, and its log of samples.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use walbench_metrics::sample::Sample;

/// Name of the log of samples.
const SAMPLES: &str = "samples.jsonl";

/// Longest time that a sample waits in memory while others keep coming.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Why the run folder can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct FolderError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Gives an I/O error the place where it happened.
fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FolderError + 'a {
    move |source| FolderError { action, path: path.to_owned(), source }
}

/// `<UTC time>-<name>`: what a run is called. Sorts by time.
#[must_use]
pub fn run_id(now: Timestamp, name: &str) -> String {
    format!("{}-{name}", now.strftime("%Y%m%dT%H%M%SZ"))
}

/// The folder of one run. The folder is its owner's alone (0700), and so are its files (0600):
/// logs and settings may tell more than others should read.
#[derive(Debug)]
pub struct RunFolder {
    id: String,
    path: PathBuf,
}

impl RunFolder {
    /// Makes the folder `dir/run_id`, and `dir` where it is missing. Where the folder exists
    /// already, `-2`, `-3`, … is added to the id: see [`Self::id`].
    ///
    /// # Errors
    ///
    /// A folder that can't be made.
    pub fn create(dir: &Path, run_id: &str) -> Result<Self, FolderError> {
        fs::create_dir_all(dir).map_err(at("can't make the folder", dir))?;
        let mut number = 1u32;
        loop {
            let id = if number == 1 { run_id.into() } else { format!("{run_id}-{number}") };
            let path = dir.join(&id);
            match private_folder(&path) {
                Ok(()) => {
                    let logs = path.join("logs");
                    private_folder(&logs).map_err(at("can't make the folder", &logs))?;
                    return Ok(Self { id, path });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(at("can't make the folder", &path)(e)),
            }
        }
    }

    /// The run's id: the folder's name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the workers' logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Opens the log of samples, `samples.jsonl`.
    ///
    /// # Errors
    ///
    /// The file exists already or can't be made.
    pub fn samples(&self) -> Result<SampleLog, FolderError> {
        let path = self.path.join(SAMPLES);
        let file = private_file()
            .create_new(true)
            .open(&path)
            .map_err(at("can't make the file", &path))?;
        Ok(SampleLog { path, writer: BufWriter::new(file), flushed: Instant::now() })
    }

    /// Makes the folder `name` in the run's, unless it is there.
    ///
    /// # Errors
    ///
    /// It can't be made.
    pub fn subfolder(&self, name: &str) -> Result<(), FolderError> {
        let path = self.path.join(name);
        match private_folder(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(at("can't make the folder", &path)),
        }
    }

    /// Writes the file `name` of the run, or of a folder in it (`profiles/a.svg`): to a temporary name
    /// first, so that whoever looks finds the file whole or not at all.
    ///
    /// # Errors
    ///
    /// A file that can't be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), FolderError> {
        let path = self.path.join(name);
        let file_name = path.file_name().unwrap_or_default().display().to_string();
        let partial = path.with_file_name(format!(".{file_name}.partial"));
        let written = private_file()
            .create(true)
            .truncate(true)
            .open(&partial)
            .and_then(|mut file| {
                file.write_all(content.as_ref())?;
                file.sync_data()
            })
            .and_then(|()| fs::rename(&partial, &path));
        written.map_err(at("can't write", &path))
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn private_file() -> OpenOptions {
    let mut options = File::options();
    options.write(true).mode(0o600);
    options
}

/// The log of samples: one a line, as they came.
#[derive(Debug)]
pub struct SampleLog {
    path: PathBuf,
    writer: BufWriter<File>,
    flushed: Instant,
}

impl SampleLog {
    /// Appends one line, which must be a sample's JSON without a line break. Lines are handed to
    /// the operating system about once a second.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn append(&mut self, line: &str) -> Result<(), FolderError> {
        let written = self
            .writer
            .write_all(line.trim_end_matches(['\r', '\n']).as_bytes())
            .and_then(|()| self.writer.write_all(b"\n"));
        written.map_err(at("can't write", &self.path))?;
        if self.flushed.elapsed() >= FLUSH_EVERY { self.flush() } else { Ok(()) }
    }

    /// Appends a sample that was made here.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn append_sample(&mut self, sample: &Sample) -> Result<(), FolderError> {
        let line = serde_json::to_string(sample)
            .map_err(|e| at("can't write", &self.path)(io::Error::other(e)))?;
        self.append(&line)
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn flush(&mut self) -> Result<(), FolderError> {
        self.flushed = Instant::now();
        self.writer.flush().map_err(at("can't write", &self.path))
    }
}

/// Why a sample can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file can't be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A line is not a sample.
    #[error("line {line} of {} is not a sample", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Reads a run's samples from `path`, a `samples.jsonl`, one at a time.
///
/// # Errors
///
/// The file can't be opened.
pub fn read_samples(path: &Path) -> Result<Samples, FolderError> {
    let file = File::open(path).map_err(at("can't open", path))?;
    Ok(Samples { path: path.to_owned(), reader: BufReader::new(file), line: 0, truncated: false })
}

/// The samples of a file, in the order they came.
///
/// A last line that was cut off (the run was killed while it was written) is left out and said by
/// [`Samples::truncated`].
#[derive(Debug)]
pub struct Samples {
    path: PathBuf,
    reader: BufReader<File>,
    line: u64,
    truncated: bool,
}

impl Samples {
    /// Whether the last line was cut off; known once the iterator has ended.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.truncated
    }
}

impl Iterator for Samples {
    type Item = Result<Sample, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut text = Vec::new();
        match self.reader.read_until(b'\n', &mut text) {
            Ok(0) => return None,
            Ok(_) => self.line += 1,
            Err(e) => return Some(Err(at("can't read", &self.path)(e).into())),
        }
        let whole = text.ends_with(b"\n");
        match serde_json::from_slice(&text) {
            Ok(sample) => Some(Ok(sample)),
            // A line is written in one piece with its end: without the end it was cut off.
            Err(_) if !whole => {
                self.truncated = true;
                None
            }
            Err(source) => {
                Some(Err(ReadError::Line { path: self.path.clone(), line: self.line, source }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::passing_samples;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn folder() -> (tempfile::TempDir, RunFolder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&dir.path().join("runs"), "20260101T000000Z-x").unwrap();
        (dir, folder)
    }

    fn read(path: &Path) -> (Vec<Result<Sample, ReadError>>, bool) {
        let mut samples = read_samples(path).unwrap();
        let read: Vec<_> = samples.by_ref().collect();
        (read, samples.truncated())
    }

    #[test]
    fn a_run_is_called_after_its_time_and_plan() {
        let now = "2026-03-04T05:06:07.9+02:00".parse().unwrap();
        assert_eq!(run_id(now, "quickstart"), "20260304T030607Z-quickstart");
    }

    #[test]
    fn an_existing_run_is_never_written_over() {
        let (dir, first) = folder();
        first.write("metrics.json", "{}").unwrap();
        let runs = dir.path().join("runs");
        let second = RunFolder::create(&runs, "20260101T000000Z-x").unwrap();
        let third = RunFolder::create(&runs, "20260101T000000Z-x").unwrap();
        assert_eq!(second.id(), "20260101T000000Z-x-2");
        assert_eq!(third.id(), "20260101T000000Z-x-3");
        assert_eq!(fs::read_to_string(first.path().join("metrics.json")).unwrap(), "{}");
    }

    #[test]
    fn everything_is_the_owners_alone() {
        let (_dir, folder) = folder();
        folder.write("metrics.json", "{}").unwrap();
        drop(folder.samples().unwrap());
        assert_eq!((mode(folder.path()), mode(&folder.logs())), (0o700, 0o700));
        for name in ["metrics.json", "samples.jsonl"] {
            assert_eq!(mode(&folder.path().join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let (_dir, folder) = folder();
        folder.write("logs/a.txt", "long content").unwrap();
        folder.write("logs/a.txt", "short").unwrap();
        assert_eq!(fs::read_to_string(folder.logs().join("a.txt")).unwrap(), "short");
        assert_eq!(fs::read_dir(folder.logs()).unwrap().count(), 1);
        let error = folder.write("missing/a.txt", "").unwrap_err();
        assert!(error.to_string().starts_with("can't write"), "{error}");
    }

    #[test]
    fn samples_come_back_as_they_were() {
        let (_dir, folder) = folder();
        let samples = passing_samples();
        let mut log = folder.samples().unwrap();
        for (index, sample) in samples.iter().enumerate() {
            if index % 2 == 0 {
                log.append_sample(sample).unwrap();
            } else {
                log.append(&(serde_json::to_string(sample).unwrap() + "\n")).unwrap();
            }
        }
        log.flush().unwrap();
        assert!(folder.samples().is_err(), "the log is opened once");
        let (read, truncated) = read(&folder.path().join("samples.jsonl"));
        let read: Vec<Sample> = read.into_iter().map(Result::unwrap).collect();
        assert_eq!((read, truncated), (samples, false));
    }

    #[test]
    fn a_line_that_was_cut_off_is_said_and_nonsense_is_an_error() {
        let (_dir, folder) = folder();
        let line = serde_json::to_string(&passing_samples()[0]).unwrap();
        let path = folder.path().join("samples.jsonl");
        fs::write(&path, format!("{line}\n{}", &line[..line.len() / 2])).unwrap();
        let (cut, truncated) = read(&path);
        assert_eq!((cut.len(), truncated), (1, true));
        assert!(cut[0].is_ok());

        fs::write(&path, format!("nonsense\n{line}\n")).unwrap();
        let (odd, truncated) = read(&path);
        assert!(!truncated && odd[0].is_err() && odd[1].is_ok());
    }
}

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

    /// Writes a file of the run: to a temporary name first, so that whoever looks finds the file
    /// whole or not at all.
    ///
    /// # Errors
    ///
    /// A file that can't be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), FolderError> {
        let path = self.path.join(name);
        let partial = self.path.join(format!(".{name}.partial"));
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

//! What a private ClickHouse is: a folder, an engine, and who may ask it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::binaries::Program;
use crate::postgres::private::{parent_folder, random_word};

/// Prefix of the folders of private servers.
pub(crate) const FOLDER_PREFIX: &str = "walbench-ch-";

/// The only user; its password is known to nobody else.
pub(crate) const USER: &str = "walbench";

/// What [`PrivateClickHouse::ask`] is for fits into this.
const LONGEST_ANSWER_BYTES: u64 = 64 * 1024;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const PID_FILE: &str = "pid";

/// Everything the keeper needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PrivateClickHouse {
    /// What runs.
    pub(crate) program: Program,
    /// The folder that holds everything, made and removed by the keeper.
    pub(crate) folder: PathBuf,
    /// The user's password.
    pub(crate) password: String,
    /// Leave the folder when the server stops.
    pub(crate) keep: bool,
}

impl PrivateClickHouse {
    /// A server, not started yet.
    pub(crate) fn new(program: Program, keep: bool) -> Self {
        let folder = parent_folder().join(format!("{FOLDER_PREFIX}{}", random_word()));
        Self { program, folder, password: random_word() + &random_word(), keep }
    }

    /// Folder of the data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What a server says.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// What a server says of errors before it has a log, or of its end.
    pub(crate) fn output(&self) -> PathBuf {
        self.folder.join("output")
    }

    /// Where its first process is written down.
    pub(crate) fn pid(&self) -> PathBuf {
        self.folder.join(PID_FILE)
    }

    /// Where the keeper writes the port down, once it answers.
    pub(crate) fn port(&self) -> PathBuf {
        self.folder.join("port")
    }

    /// How to reach it.
    pub(crate) fn url(&self, port: u16) -> String {
        format!("http://{USER}:{}@127.0.0.1:{port}/", self.password)
    }
}

/// The process of the server in a private server's folder, as its keeper wrote it down. An embedded
/// engine ends with its keeper.
pub(crate) fn server_pid(folder: &Path) -> Option<u32> {
    std::fs::read_to_string(folder.join(PID_FILE)).ok()?.parse().ok()
}

/// A private server that answers.
#[derive(Debug)]
pub(crate) struct Found {
    /// How to reach it, user and password included.
    pub(crate) url: String,
    pub(crate) version: String,
}

impl PrivateClickHouse {
    /// Where it is, once its keeper has said that it is ready.
    pub(crate) async fn found(&self) -> io::Result<Found> {
        let port = std::fs::read_to_string(self.port())?;
        let port = port.trim().parse().map_err(io::Error::other)?;
        let version = self.ask(port, "SELECT version()").await?;
        Ok(Found { url: self.url(port), version: version.trim().into() })
    }

    /// Asks it something small.
    pub(crate) async fn ask(&self, port: u16, sql: &str) -> io::Result<String> {
        let request = format!(
            "POST / HTTP/1.0\r\nHost: localhost\r\nX-ClickHouse-User: {USER}\r\n\
             X-ClickHouse-Key: {}\r\nContent-Length: {}\r\n\r\n{sql}",
            self.password,
            sql.len()
        );
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(LONGEST_ANSWER_BYTES).read_to_end(&mut answer).await?;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            match answer.split_once("\r\n\r\n") {
                Some((_, body)) => Ok(body.to_owned()),
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange).await?
    }
}

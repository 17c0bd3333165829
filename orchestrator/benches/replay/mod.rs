//! Stands between a consumer and PostgreSQL: records a replication stream, and replays it as fast as
//! it is read, so that no walsender takes part. All other connections are passed on.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

/// What a walsender sent.
#[derive(Default)]
struct Recording {
    /// Up to the consumer's end of the stream.
    stream: Vec<u8>,
    /// Its answer to that.
    farewell: Vec<u8>,
}

/// A Unix socket that looks like PostgreSQL's.
pub(crate) struct Replay {
    folder: TempDir,
    recording: Arc<Mutex<Arc<Recording>>>,
}

impl Replay {
    /// The first stream is recorded, those behind it are replayed.
    pub(crate) fn of(folder: &Path, port: u16) -> Self {
        let upstream = folder.join(socket_name(port));
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join(socket_name(port))).unwrap();
        let replay = Self { folder, recording: Arc::default() };
        let recording = replay.recording.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, upstream, recording) =
                    (client.unwrap(), upstream.clone(), recording.clone());
                std::thread::spawn(move || serve(client, &upstream, &recording));
            }
        });
        replay
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Panics unless there is a stream to replay.
    pub(crate) fn assert_recorded(&self) {
        assert!(!self.recording.lock().unwrap().farewell.is_empty(), "no stream was recorded");
    }
}

fn socket_name(port: u16) -> PathBuf {
    format!(".s.PGSQL.{port}").into()
}

/// What is heard of one server.
#[derive(Default)]
struct Heard {
    recording: Recording,
    part: Part,
}

/// What its next bytes belong to.
#[derive(Default)]
enum Part {
    #[default]
    NotAStream,
    Stream,
    Farewell,
}

impl Heard {
    fn hear(&mut self, bytes: &[u8]) {
        match self.part {
            Part::NotAStream => {}
            Part::Stream => self.recording.stream.extend_from_slice(bytes),
            Part::Farewell => self.recording.farewell.extend_from_slice(bytes),
        }
    }
}

/// Passes on what a client and the server say, or replays what the server said before.
fn serve(mut client: UnixStream, upstream: &Path, recording: &Mutex<Arc<Recording>>) {
    let server = UnixStream::connect(upstream).unwrap();
    let heard = Arc::new(Mutex::new(Heard::default()));
    let (mut answers, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let hearing = heard.clone();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(length @ 1..) = answers.read(&mut buffer) {
            hearing.lock().unwrap().hear(&buffer[..length]);
            if to_client.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let recorded = recording.lock().unwrap().clone();
    pass_on(&mut client, &server, &heard, &recorded);
    let heard = std::mem::take(&mut heard.lock().unwrap().recording);
    if !heard.farewell.is_empty() {
        *recording.lock().unwrap() = Arc::new(heard);
    }
    let _ = server.shutdown(Shutdown::Both);
}

/// Passes a client's messages on until its end.
fn pass_on(
    client: &mut UnixStream,
    mut server: &UnixStream,
    heard: &Mutex<Heard>,
    recorded: &Recording,
) -> Option<()> {
    server.write_all(&read_message(client, 0)?).ok()?;
    loop {
        let message = read_message(client, 1)?;
        if message[0] == b'Q' && message[5..].starts_with(b"START_REPLICATION") {
            if !recorded.farewell.is_empty() {
                return replay(client, recorded);
            }
            heard.lock().unwrap().part = Part::Stream;
        }
        // CopyDone.
        if message[0] == b'c' {
            heard.lock().unwrap().part = Part::Farewell;
        }
        server.write_all(&message).ok()?;
    }
}

fn replay(client: &mut UnixStream, recorded: &Recording) -> Option<()> {
    let mut to_client = client.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || to_client.write_all(&recorded.stream));
        // What is confirmed is of no interest.
        while read_message(client, 1)?[0] != b'c' {}
        Some(())
    })?;
    client.write_all(&recorded.farewell).ok()?;
    while read_message(client, 1).is_some() {}
    None
}

/// A message of the protocol's, whole: its length, which counts itself, comes behind so many bytes.
fn read_message(client: &mut UnixStream, before: usize) -> Option<Vec<u8>> {
    let mut message = vec![0; before + 4];
    client.read_exact(&mut message).ok()?;
    let length = u32::from_be_bytes(message[before..].try_into().unwrap()) as usize;
    message.resize(before + length, 0);
    client.read_exact(&mut message[before + 4..]).ok()?;
    Some(message)
}

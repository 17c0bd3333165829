//! An answer on its way to the client: compressed, with an error at its end if there is one.

use std::io::{Read, Seek, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tempfile::SpooledTempFile;
use tokio::sync::mpsc;

use super::encoding::Encoder;
use super::{Parts, random_word};
use crate::clickhouse::exception::{Exception, UNKNOWN_EXCEPTION};

/// Parts that wait for the client; the engine waits with those beyond.
const PARTS_WAITING: usize = 2;

/// What of an answer that is gathered stays in memory; the rest goes to a file.
const GATHERED_BYTES: usize = 1024 * 1024;

const PART_BYTES: usize = 256 * 1024;

/// What an error in mid-stream is given to reach the client before the connection is cut, by which
/// clients notice that do not look for it.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The answer stops short, and so does the connection.
#[derive(Debug)]
pub(super) struct CutShort;

impl std::fmt::Display for CutShort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut")
    }
}

impl std::error::Error for CutShort {}

/// A response's body.
pub(super) struct Download {
    parts: mpsc::Receiver<Result<Bytes, CutShort>>,
}

impl Body for Download {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        self.parts.poll_recv(context).map(|part| part.map(|part| part.map(Frame::data)))
    }
}

/// What stands around an error in mid-stream, so that clients know it from data.
pub(super) struct ExceptionTag(pub(super) String);

impl ExceptionTag {
    pub(super) fn new() -> Self {
        Self(random_word())
    }

    fn block(&self, exception: &Exception, version: &str) -> Bytes {
        let (tag, text) = (&self.0, exception.text(version));
        let length = text.len();
        format!("\r\n__exception__\r\n{tag}\r\n{text}{length} {tag}\r\n__exception__\r\n").into()
    }
}

/// How an answer travels.
pub(super) struct Way {
    pub(super) encoder: Encoder,
    pub(super) tag: ExceptionTag,
    pub(super) version: String,
}

/// Sends an answer on its way, whose first part is there already. `place` is held until its end.
pub(super) fn send(
    way: Way,
    first: Option<Bytes>,
    parts: Parts,
    place: impl Send + 'static,
) -> Download {
    let (send, receive) = mpsc::channel(PARTS_WAITING);
    tokio::spawn(async move {
        // It fails if the client is gone: then nothing is left to do.
        let _ = pump(way, first, parts, &send).await;
        drop(place);
    });
    Download { parts: receive }
}

type Sender = mpsc::Sender<Result<Bytes, CutShort>>;

async fn pump(
    mut way: Way,
    first: Option<Bytes>,
    mut parts: Parts,
    send: &Sender,
) -> Result<(), mpsc::error::SendError<Result<Bytes, CutShort>>> {
    let mut next = first.map(Ok);
    loop {
        let part = match next.take() {
            Some(part) => part,
            None => tokio::select! {
                part = parts.recv() => match part {
                    Some(part) => part,
                    None => break,
                },
                () = send.closed() => return Ok(()),
            },
        };
        let encoded = part.and_then(|part| way.encoder.push(part).map_err(|e| not_encoded(&e)));
        match encoded {
            Ok(encoded) if encoded.is_empty() => {}
            Ok(encoded) => send.send(Ok(encoded)).await?,
            Err(exception) => {
                let block = way.tag.block(&exception, &way.version);
                for last in [way.encoder.flush(), way.encoder.push(block), way.encoder.flush()] {
                    let last = last.unwrap_or_default();
                    if !last.is_empty() {
                        send.send(Ok(last)).await?;
                    }
                }
                tokio::time::sleep(LAST_WORDS).await;
                return send.send(Err(CutShort)).await;
            }
        }
    }
    match way.encoder.finish() {
        Ok(last) if last.is_empty() => Ok(()),
        Ok(last) => send.send(Ok(last)).await,
        Err(_) => send.send(Err(CutShort)).await,
    }
}

fn not_encoded(error: &std::io::Error) -> Exception {
    Exception::new(UNKNOWN_EXCEPTION, format!("the answer can't be compressed: {error}"))
}

/// Gathers an answer whole before any of it is sent, so that its errors have a status of their own.
pub(super) async fn gather(mut parts: Parts) -> Result<Parts, Exception> {
    let failed = |e: std::io::Error| {
        Exception::new(UNKNOWN_EXCEPTION, format!("the answer can't be gathered: {e}"))
    };
    let mut gathered = SpooledTempFile::new(GATHERED_BYTES);
    while let Some(part) = parts.recv().await.transpose()? {
        gathered.write_all(&part).map_err(failed)?;
    }
    gathered.rewind().map_err(failed)?;
    let (send, receive) = mpsc::channel(PARTS_WAITING);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut part = Vec::with_capacity(PART_BYTES);
            let read = (&mut gathered).take(PART_BYTES as u64).read_to_end(&mut part);
            let part = match read {
                Ok(0) => return,
                Ok(_) => Ok(part.into()),
                Err(e) => Err(failed(e)),
            };
            if send.blocking_send(part).is_err() {
                return;
            }
        }
    });
    Ok(receive)
}

//! A request's body on its way to the engine: decompressed, and parted into statement and data.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::sync::mpsc;

use super::encoding::Encoding;
use super::{Parts, Request, Statement, form};
use crate::clickhouse::blocks::BlockReader;
use crate::clickhouse::exception::{
    BAD_REQUEST_PARAMETER, CANNOT_READ_ALL_DATA, Exception, Kind, NETWORK_ERROR, SYNTAX_ERROR,
    UNKNOWN_EXCEPTION,
};
use crate::clickhouse::statement::{Beginning, LONGEST_STATEMENT_BYTES, split};

/// Parts that wait for the engine; what arrives beyond them waits in the client.
const PARTS_WAITING: usize = 2;

/// Size of decompressed parts.
const PART_BYTES: usize = 256 * 1024;

/// How much of a body that nobody wants any more is read on: a client that is still writing would
/// see a broken connection instead of the error.
const DRAINED_BYTES: usize = 64 * 1024 * 1024;

/// The data of an INSERT.
#[derive(Debug)]
pub struct Data {
    first: Bytes,
    rest: Parts,
}

impl Data {
    /// The next part; `None` behind the last one.
    ///
    /// # Errors
    /// What was sent can't be read: none of it should be taken.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Exception> {
        match self.take_first() {
            Some(first) => Ok(Some(first)),
            None => self.rest.recv().await.transpose(),
        }
    }

    /// The same, for a thread of the engine's own.
    ///
    /// # Errors
    /// See [`Data::next`].
    pub fn blocking_next(&mut self) -> Result<Option<Bytes>, Exception> {
        match self.take_first() {
            Some(first) => Ok(Some(first)),
            None => self.rest.blocking_recv().transpose(),
        }
    }

    fn take_first(&mut self) -> Option<Bytes> {
        (!self.first.is_empty()).then(|| std::mem::take(&mut self.first))
    }
}

/// A body's bytes, decompressed as the request says.
pub(super) fn parts(request: &Request, body: Incoming) -> Parts {
    let (send, receive) = mpsc::channel(PARTS_WAITING);
    if request.encoding.is_none() && !request.decompress {
        tokio::spawn(forward(body, send));
        return receive;
    }
    let (compressed, blocks) = mpsc::channel(PARTS_WAITING);
    tokio::spawn(forward(body, compressed));
    let (encoding, decompress) = (request.encoding, request.decompress);
    tokio::task::spawn_blocking(move || {
        let body = Reader { parts: blocks, part: Bytes::new() };
        let failure = encoding.map_or(UNKNOWN_EXCEPTION, Encoding::failure);
        let decoded: io::Result<Box<dyn Read>> = match encoding {
            Some(encoding) => encoding.decoder(body),
            None => Ok(Box::new(body)),
        };
        let decoded = decoded.map(|decoded| match decompress {
            true => Box::new(BlockReader::new(decoded)),
            false => decoded,
        });
        match decoded {
            Ok(mut decoded) => read_parts(&mut *decoded, failure, &send),
            Err(e) => drop(send.blocking_send(Err(Exception::new(failure, e.to_string())))),
        }
    });
    receive
}

async fn forward(mut body: Incoming, parts: mpsc::Sender<Result<Bytes, Exception>>) {
    let mut drained = 0;
    while let Some(frame) = body.frame().await {
        let part = match frame.map(Frame::into_data) {
            Ok(Ok(part)) => part,
            // Trailers.
            Ok(Err(_)) => continue,
            Err(e) => {
                let text = format!("the request's body broke off: {e}");
                let _ = parts.send(Err(Exception::new(NETWORK_ERROR, text))).await;
                return;
            }
        };
        let length = part.len();
        if parts.send(Ok(part)).await.is_err() {
            drained += length;
            if drained > DRAINED_BYTES {
                return;
            }
        }
    }
}

/// Reads a body that arrives in parts, from a thread that may wait.
struct Reader {
    parts: Parts,
    part: Bytes,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.part = part.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let length = self.part.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.part.split_to(length));
        Ok(length)
    }
}

fn read_parts(body: &mut dyn Read, failure: Kind, parts: &mpsc::Sender<Result<Bytes, Exception>>) {
    loop {
        let mut part = Vec::with_capacity(PART_BYTES);
        let read = body.take(PART_BYTES as u64).read_to_end(&mut part);
        let part = match read {
            Ok(0) => return,
            Ok(_) => Ok(part.into()),
            Err(e) => Err(exception(e, failure)),
        };
        let failed = part.is_err();
        if parts.blocking_send(part).is_err() || failed {
            return;
        }
    }
}

/// What a decoder says, or what it was told by the body it reads.
fn exception(error: io::Error, failure: Kind) -> Exception {
    let kind = error.kind();
    match error.downcast::<Exception>() {
        Ok(exception) => exception,
        Err(error) if kind == io::ErrorKind::UnexpectedEof => {
            Exception::new(CANNOT_READ_ALL_DATA, format!("Cannot read all data: {error}"))
        }
        Err(error) => Exception::new(failure, format!("the body can't be decoded: {error}")),
    }
}

/// Takes the fields of a form into the request.
pub(super) async fn take_form(
    request: &mut Request,
    boundary: &str,
    mut body: Parts,
) -> Result<(), Exception> {
    let mut form = BytesMut::new();
    while let Some(part) = body.recv().await.transpose()? {
        form.extend_from_slice(&part);
        if form.len() > form::LARGEST_FORM_BYTES {
            let text = format!("the form is larger than {} bytes", form::LARGEST_FORM_BYTES);
            return Err(Exception::new(BAD_REQUEST_PARAMETER, text));
        }
    }
    for (name, value) in form::fields(&form, boundary)? {
        request.set(&name, value)?;
    }
    Ok(())
}

/// Parts a query and the body behind it into a statement and data.
pub(super) async fn statement(query: &str, mut body: Parts) -> Result<Statement, Exception> {
    let mut text = BytesMut::from(query);
    // ClickHouse puts a line's end between them, too.
    if !text.is_empty() {
        text.extend_from_slice(b"\n");
    }
    let mut looked_at = 0;
    loop {
        // Looked at again only when there is twice as much: however small the parts are, that takes
        // a time in proportion to the text.
        if looked_at == 0 || text.len() >= looked_at * 2 {
            looked_at = text.len();
            if let Beginning::Insert { into, format, data } = split(&text, false) {
                return Ok(insert(text, into.end, format, data, body));
            }
        }
        if text.len() > LONGEST_STATEMENT_BYTES + query.len() {
            let text = format!("Max query size exceeded: {LONGEST_STATEMENT_BYTES} bytes");
            return Err(Exception::new(SYNTAX_ERROR, text));
        }
        match body.recv().await.transpose()? {
            Some(part) => text.extend_from_slice(&part),
            None => break,
        }
    }
    Ok(match split(&text, true) {
        Beginning::Insert { into, format, data } => insert(text, into.end, format, data, body),
        Beginning::Other | Beginning::Open => Statement::Other(text.freeze()),
    })
}

fn insert(mut text: BytesMut, end: usize, format: String, data: usize, rest: Parts) -> Statement {
    let first = text.split_off(data).freeze();
    text.truncate(end);
    Statement::Insert { into: text.freeze(), format, data: Data { first, rest } }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn part_up(query: &str, parts: &[&str]) -> Result<(String, String, String), Exception> {
        let (send, body) = mpsc::channel(parts.len() + 1);
        for part in parts {
            send.try_send(Ok(Bytes::copy_from_slice(part.as_bytes()))).unwrap();
        }
        drop(send);
        let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        match statement(query, body).await? {
            Statement::Other(text) => Ok((string(&text), String::new(), String::new())),
            Statement::Insert { into, format, mut data } => {
                let mut all = Vec::new();
                while let Some(part) = data.next().await? {
                    all.extend(part);
                }
                Ok((string(&into), format, string(&all)))
            }
        }
    }

    #[tokio::test]
    async fn data_follow_the_statement_wherever_it_stands() {
        let expected = ("INSERT INTO t".to_owned(), "TSV".to_owned(), "1\n2\n".to_owned());
        let whole = "INSERT INTO t FORMAT TSV\n1\n2\n";
        assert_eq!(part_up("INSERT INTO t FORMAT TSV", &["1\n", "2\n"]).await.unwrap(), expected);
        assert_eq!(part_up("", &[whole]).await.unwrap(), expected);
        assert_eq!(part_up("INSERT INTO t", &["FORMAT TSV\n1\n2\n"]).await.unwrap().1, "TSV");
        let bytes: Vec<&str> = whole.split_inclusive(|_| true).collect();
        assert_eq!(part_up("", &bytes).await.unwrap(), expected);
    }

    #[tokio::test]
    async fn other_statements_are_taken_whole_and_not_too_long() {
        let found = part_up("SELECT", &["1", "\n+2"]).await.unwrap();
        assert_eq!(found.0, "SELECT\n1\n+2");
        let long = "x".repeat(LONGEST_STATEMENT_BYTES);
        let refused = part_up("", &["SELECT ", &long, &long]).await.unwrap_err();
        assert_eq!(refused.code, 62);
    }

    #[test]
    fn errors_below_a_decoder_stay_what_they_are() {
        let below = Exception::new(NETWORK_ERROR, "gone");
        let kept = exception(io::Error::other(below.clone()), UNKNOWN_EXCEPTION);
        assert_eq!(kept, below);
        let cut = exception(io::ErrorKind::UnexpectedEof.into(), UNKNOWN_EXCEPTION);
        assert_eq!(cut.code, 33);
    }
}

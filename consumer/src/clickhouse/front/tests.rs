//! The front over an engine that says what it was asked, by requests as they go over the wire.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use super::{Access, Answer, Engine, Front, Query, Statement, Summary, Trouble};
use crate::clickhouse::Exception;
use crate::clickhouse::exception::UNKNOWN_EXCEPTION;
use crate::sink::compress::Compressor;

/// Answers an INSERT with its data, and another statement with what it was asked; `fail` fails,
/// `break` fails in mid-answer, `wait` takes a while, `away` and `cut` are other kinds of trouble; what
/// is to `last` does so, whoever has gone, until it is let go.
#[derive(Default)]
struct Echo {
    begun: Arc<Notify>,
    let_go: Arc<Notify>,
}

impl Engine for Echo {
    fn name(&self) -> String {
        "echo".into()
    }

    fn version(&self) -> String {
        "1.2.3".into()
    }

    async fn run(&self, query: Query) -> Result<Answer, Trouble> {
        let (send, body) = mpsc::channel(1);
        let say = |text: String| async { drop(send.send(Ok(text.into())).await) };
        let failure = || Exception::new(UNKNOWN_EXCEPTION, "as asked");
        let summary = Summary { written_rows: 7, ..Summary::default() };
        match query.statement {
            Statement::Insert { into, format, mut data } => {
                let mut all = Vec::new();
                while let Some(part) = data.next().await? {
                    all.extend(part);
                }
                say(told(&String::from_utf8_lossy(&into), &format, &all)).await;
            }
            Statement::Other(text) if text.starts_with(b"fail") => return Err(failure().into()),
            Statement::Other(text) if text.starts_with(b"break") => {
                tokio::spawn(async move {
                    let _ = send.send(Ok("some".into())).await;
                    let _ = send.send(Err(failure())).await;
                });
            }
            Statement::Other(ref text) if text.starts_with(b"last") => {
                self.begun.notify_one();
                let let_go = self.let_go.clone();
                let work = tokio::spawn(async move {
                    let_go.notified().await;
                    drop(query);
                });
                let _ = work.await;
                return Err(failure().into());
            }
            Statement::Other(text) if text.starts_with(b"away") => {
                return Err(Trouble::Status(503));
            }
            Statement::Other(text) if text.starts_with(b"cut") => return Err(Trouble::Cut),
            Statement::Other(text) if text.starts_with(b"wait") => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                say("waited".into()).await;
            }
            Statement::Other(text) => {
                let (settings, parameters) = (query.settings, query.parameters);
                say(format!("{text:?}|{settings:?}|{parameters:?}|{}", query.user)).await;
            }
        }
        Ok(Answer { format: query.default_format, summary, body })
    }
}

/// What is said of data.
fn told(into: &str, format: &str, data: &[u8]) -> String {
    format!("{into}|{format}|{}|{:x}", data.len(), cityhash_rs::cityhash_102_128(data))
}

async fn front() -> Front {
    front_of(Echo::default()).await
}

async fn front_of(engine: Echo) -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let access = Access { user: "me".into(), password: "pw".into() };
    Front::start(listener, Arc::new(engine), Some(access)).unwrap()
}

/// Sends bytes as they are, and reads until the connection ends.
async fn exchange(front: &Front, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(front.address()).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is cut is an end as well.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn post(front: &Front, url: &str, headers: &str, body: &[u8]) -> String {
    let head = format!(
        "POST {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-ClickHouse-User: me\r\n\
         X-ClickHouse-Key: pw\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    exchange(front, &[head.as_bytes(), body].concat()).await
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn health_is_told_to_anybody() {
    let front = front().await;
    for path in ["/ping", "/"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = exchange(&front, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200") && body(&answer) == "Ok.\n", "{answer}");
    }
    let lost = exchange(&front, b"GET /x HTTP/1.0\r\n\r\n").await;
    assert!(lost.starts_with("HTTP/1.0 404"), "{lost}");
}

#[tokio::test]
async fn a_query_is_asked_with_all_it_needs() {
    let front = front().await;
    let answer = post(&front, "/?max_threads=2&param_x=1&query_id=q%0A7", "", b"SELECT 1").await;
    assert!(answer.contains("x-clickhouse-query-id: q?7\r\n"), "{answer}");
    assert!(answer.contains("\"written_rows\":\"7\""), "{answer}");
    assert!(answer.contains("x-clickhouse-server-display-name: echo\r\n"), "{answer}");
    let said = r#"b"SELECT 1"|[("max_threads", "2")]|[("x", "1")]|me"#;
    assert!(body(&answer).contains(said), "{answer}");
}

#[tokio::test]
async fn strangers_are_refused() {
    let front = front().await;
    let request =
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8\r\n\r\nSELECT 1";
    let answer = exchange(&front, request).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("x-clickhouse-exception-code: 516\r\n"), "{answer}");
    assert!(answer.ends_with("(AUTHENTICATION_FAILED) (version 1.2.3)\n"), "{answer}");
}

#[tokio::test]
async fn errors_have_a_status_before_the_answer_and_marks_within_it() {
    let front = front().await;
    let failed = post(&front, "/", "", b"fail").await;
    assert!(failed.starts_with("HTTP/1.1 500"), "{failed}");
    assert_eq!(
        body(&failed),
        "Code: 1002. DB::Exception: as asked. (UNKNOWN_EXCEPTION) (version 1.2.3)\n"
    );

    let broken = post(&front, "/", "", b"break").await;
    assert!(broken.starts_with("HTTP/1.1 200"), "{broken}");
    let tag = broken.lines().find_map(|l| l.strip_prefix("x-clickhouse-exception-tag: ")).unwrap();
    let marked = format!(" {tag}\r\n__exception__\r\n");
    assert!(broken.contains("as asked") && broken.contains(&marked), "{broken}");
    assert!(!broken.ends_with("0\r\n\r\n"), "its end is not told: {broken}");

    let waited = post(&front, "/?wait_end_of_query=1", "", b"break").await;
    assert!(waited.starts_with("HTTP/1.1 500"), "{waited}");
}

#[tokio::test]
async fn data_are_taken_in_every_compression() {
    let front = front().await;
    let url = "/?query=INSERT+INTO+t+FORMAT+TSV";
    let data = "row\n".repeat(100_000);
    let said = told("INSERT INTO t", "TSV", data.as_bytes());
    let gzip = {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::bulk::compress(data.as_bytes(), 1).unwrap();
    let blocks = Compressor::default().blocks(data.as_bytes()).to_vec();
    for (url, header, sent) in [
        (url.to_owned(), "", data.clone().into_bytes()),
        (url.to_owned(), "Content-Encoding: gzip\r\n", gzip),
        (url.to_owned(), "Content-Encoding: zstd\r\n", zstd),
        (format!("{url}&decompress=1"), "", blocks.clone()),
    ] {
        let answer = post(&front, &format!("{url}&wait_end_of_query=1"), header, &sent).await;
        assert!(body(&answer).contains(&said), "{header}{answer}");
    }
    let url = format!("{url}&decompress=1");
    let mut flipped = blocks.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (sent, code) in [(&flipped[..], 40), (&blocks[..blocks.len() - 1], 33), (b"x", 33)] {
        let answer = post(&front, &url, "", sent).await;
        let header = format!("x-clickhouse-exception-code: {code}\r\n");
        assert!(answer.starts_with("HTTP/1.1 500") && answer.contains(&header), "{answer}");
    }
    let garbled = post(&front, "/", "Content-Encoding: gzip\r\n", b"this is not gzip").await;
    assert!(garbled.contains("x-clickhouse-exception-code: 354\r\n"), "{garbled}");
}

#[tokio::test]
async fn a_form_may_hold_it_all() {
    let front = front().await;
    let form = "--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {x:String}\r\n\
                --b\r\nContent-Disposition: form-data; name=\"param_x\"\r\n\r\n1\r\n--b--\r\n";
    let header = "Content-Type: multipart/form-data; boundary=b\r\n";
    let answer = post(&front, "/", header, form.as_bytes()).await;
    assert!(answer.contains(r#"b"SELECT {x:String}\n"|[]|[("x", "1")]"#), "{answer}");
}

#[tokio::test]
async fn what_waits_for_a_word_before_its_body_gets_it() {
    let front = front().await;
    let mut stream = TcpStream::connect(front.address()).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-ClickHouse-User: me\r\n\
                 X-ClickHouse-Key: pw\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut word = [0; 25];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"7\r\nSELECT \r\n1\r\n1\r\n0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("b\"SELECT 1\""), "{answer}");
}

#[tokio::test]
async fn there_are_other_kinds_of_trouble_than_errors() {
    let front = front().await;
    let away = post(&front, "/", "", b"away").await;
    assert!(away.starts_with("HTTP/1.1 503") && body(&away).is_empty(), "{away}");
    assert!(!away.contains("x-clickhouse-exception-code"), "{away}");
    assert_eq!(post(&front, "/", "", b"cut").await, "");
    let (address, idle) = (front.address(), TcpStream::connect(front.address()).await);
    front.cut().await;
    assert_eq!(idle.unwrap().read_to_string(&mut String::new()).await.unwrap_or_default(), 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_stop_waits_for_what_runs() {
    let front = front().await;
    let address = front.address();
    let running = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"POST /?query_id=one HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: me\r\n\
                        X-ClickHouse-Key: pw\r\nContent-Length: 4\r\n\r\nwait";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let twin = post(&front, "/?query_id=one", "", b"SELECT 1").await;
    assert!(twin.contains("x-clickhouse-exception-code: 216\r\n"), "{twin}");
    assert!(front.stop(Duration::from_secs(20)).await, "all have ended");
    assert!(running.await.unwrap().contains("waited"));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn requests_follow_each_other_on_a_connection() {
    let front = front().await;
    let one = "POST /?compress=1 HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: me\r\nX-ClickHouse-Key: pw\r\n\
               Content-Length: 4\r\n\r\nSELE";
    let last = one.replace("Host: x", "Host: x\r\nConnection: close").replace("?compress=1", "");
    let answers = exchange(&front, format!("{one}{last}").as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
}

#[tokio::test]
async fn a_query_has_its_place_until_it_has_ended() {
    let engine = Echo::default();
    let (begun, let_go) = (engine.begun.clone(), engine.let_go.clone());
    let front = front_of(engine).await;
    let again = || post(&front, "/?query_id=x", "", b"again");
    let mut stream = TcpStream::connect(front.address()).await.unwrap();
    let request = "POST /?query_id=x HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: me\r\n\
                   X-ClickHouse-Key: pw\r\nContent-Length: 4\r\n\r\nlast";
    stream.write_all(request.as_bytes()).await.unwrap();
    begun.notified().await;
    // Whoever asked is gone, and the work goes on.
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = again().await;
    assert!(answer.contains("Code: 216."), "{answer}");
    let_go.notify_one();
    while again().await.contains("Code: 216.") {}
}

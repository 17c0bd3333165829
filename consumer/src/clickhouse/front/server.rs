//! The server: connections, paths, and a request from its first byte to its answer's last.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::http::response::Builder;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use super::download::{self, CutShort, ExceptionTag, Way};
use super::encoding::Encoder;
use super::{Access, Engine, Parts, Query, Request, Statement, Trouble, random_word, upload};
use crate::clickhouse::exception::{
    Exception, QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING, SYNTAX_ERROR, TOO_MANY_SIMULTANEOUS_QUERIES,
    UNKNOWN_EXCEPTION,
};

/// Queries at once. Each may need a thread to decompress on and one in the engine.
const MOST_QUERIES: usize = 100;

/// What a connection that can't be accepted is waited for: it is for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Body = UnsyncBoxBody<Bytes, CutShort>;

/// A server that runs.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Connections>,
}

impl Front {
    /// Serves an engine to whoever may ask; to all if there is no `access`.
    ///
    /// # Errors
    /// The listener has no address.
    pub fn start<E: Engine>(
        listener: TcpListener,
        engine: Arc<E>,
        access: Option<Access>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let state = Arc::new(State { engine, access, running: Arc::default() });
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, state, stopped));
        Ok(Self { address, stop, serving })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections and queries, and waits for those that run, but no longer than
    /// `grace`. Tells whether all have ended.
    pub async fn stop(self, grace: Duration) -> bool {
        drop(self.stop);
        let Ok(connections) = self.serving.await else { return false };
        tokio::time::timeout(grace, connections.graceful.shutdown()).await.is_ok()
    }

    /// Closes its port and cuts all connections at once.
    pub async fn cut(self) {
        drop(self.stop);
        if let Ok(mut connections) = self.serving.await {
            connections.tasks.shutdown().await;
        }
    }
}

/// The connections that are open. They end with this.
#[derive(Default)]
struct Connections {
    graceful: GracefulShutdown,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connections({})", self.tasks.len())
    }
}

async fn serve<E: Engine>(
    listener: TcpListener,
    state: Arc<State<E>>,
    mut stopped: oneshot::Receiver<()>,
) -> Connections {
    let mut connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = connections.tasks.join_next(), if !connections.tasks.is_empty() => continue,
            _ = &mut stopped => return connections,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        serve_connection(stream, &state, &mut connections);
    }
}

fn serve_connection<E: Engine>(
    stream: TcpStream,
    state: &Arc<State<E>>,
    connections: &mut Connections,
) {
    // Without it a small answer would wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    let state = state.clone();
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { state.answer(request).await }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A connection's own errors are its client's affair, who sees them too.
    let served = connections.graceful.watch(connection);
    connections.tasks.spawn(async move { drop(served.await) });
}

struct State<E> {
    engine: Arc<E>,
    access: Option<Access>,
    running: Arc<Mutex<HashSet<String>>>,
}

impl<E: Engine> State<E> {
    /// An error ends the connection.
    async fn answer(&self, request: hyper::Request<Incoming>) -> Result<Response<Body>, CutShort> {
        let is_bare = *request.method() == Method::GET && request.uri().query().is_none();
        match request.uri().path() {
            "/ping" | "/replicas_status" => return Ok(self.say(StatusCode::OK, "Ok.\n")),
            "/" if is_bare => return Ok(self.say(StatusCode::OK, "Ok.\n")),
            "/" | "" => {}
            path => {
                let text = format!("There is no handle {path}\n\nUse / for queries, or /ping.\n");
                return Ok(self.say(StatusCode::NOT_FOUND, text));
            }
        }
        if ![Method::GET, Method::HEAD, Method::POST, Method::PUT].contains(request.method()) {
            let text = format!("There is no method {} here; use POST\n", request.method());
            return Ok(self.say(StatusCode::METHOD_NOT_ALLOWED, text));
        }
        let asked = Request::parse(&request).and_then(|asked| match asked.boundary {
            // A form may hold who asks.
            Some(_) => Ok(asked),
            None => asked.check(self.access.as_ref()).map(|_| asked),
        });
        match asked {
            Ok(asked) => {
                let query_id = asked.query_id.clone().filter(|id| !id.is_empty());
                let query_id = query_id.unwrap_or_else(new_query_id);
                let body = upload::parts(&asked, request.into_body());
                match self.query(asked, &query_id, body).await {
                    Ok(response) => Ok(response),
                    Err(Trouble::Exception(exception)) => {
                        Ok(self.refuse(&exception, Some(&query_id)))
                    }
                    Err(Trouble::Status(status)) => {
                        let status = StatusCode::from_u16(status);
                        Ok(self.say(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), ""))
                    }
                    Err(Trouble::Cut) => Err(CutShort),
                }
            }
            Err(exception) => {
                // Who waits for our word before the body is not made to send it.
                if !request.headers().contains_key(EXPECT) {
                    drop(upload::parts(&Request::default(), request.into_body()));
                }
                Ok(self.refuse(&exception, None))
            }
        }
    }

    async fn query(
        &self,
        mut asked: Request,
        query_id: &str,
        mut body: Parts,
    ) -> Result<Response<Body>, Trouble> {
        if let Some(boundary) = asked.boundary.take() {
            upload::take_form(&mut asked, &boundary, body).await?;
            body = tokio::sync::mpsc::channel(1).1;
        }
        let user = asked.check(self.access.as_ref())?;
        let place = Arc::new(Place::take(&self.running, query_id)?);
        let statement = upload::statement(&asked.query, body).await?;
        if matches!(&statement, Statement::Other(text) if text.trim_ascii().is_empty()) {
            return Err(Exception::new(SYNTAX_ERROR, "Syntax error: Empty query").into());
        }
        let query = Query {
            statement,
            settings: asked.settings,
            parameters: asked.parameters,
            database: asked.database,
            default_format: asked.default_format.unwrap_or_else(|| "TabSeparated".into()),
            query_id: query_id.into(),
            user,
            place: place.clone(),
        };
        let answer = self.engine.run(query).await?;
        let mut parts = answer.body;
        if asked.waits_for_end {
            parts = download::gather(parts).await?;
        }
        // As long as nothing was sent, an error can have a status of its own.
        let first = parts.recv().await.transpose()?;

        let encoding = asked.accepted.filter(|_| !asked.compress);
        let encoder = match asked.compress {
            true => Ok(Encoder::blocks()),
            false => Encoder::new(encoding),
        };
        let encoder = encoder.map_err(|e| Exception::new(UNKNOWN_EXCEPTION, e.to_string()))?;
        let tag = ExceptionTag::new();
        let mut response = self
            .response(StatusCode::OK, content_type(&answer.format))
            .header("X-ClickHouse-Query-Id", text(query_id))
            .header("X-ClickHouse-Format", text(&answer.format))
            .header("X-ClickHouse-Summary", answer.summary.json())
            .header("X-ClickHouse-Exception-Tag", &tag.0);
        if let Some(encoding) = encoding {
            response = response.header(CONTENT_ENCODING, encoding.name());
        }
        let way = Way { encoder, tag, version: self.engine.version() };
        Ok(finish(response, download::send(way, first, parts, place).boxed_unsync()))
    }

    fn say(&self, status: StatusCode, words: impl Into<Bytes>) -> Response<Body> {
        finish(self.response(status, "text/plain; charset=UTF-8"), full(words.into()))
    }

    fn refuse(&self, exception: &Exception, query_id: Option<&str>) -> Response<Body> {
        let status = StatusCode::from_u16(exception.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = self
            .response(status, "text/plain; charset=UTF-8")
            .header("X-ClickHouse-Exception-Code", exception.code);
        if let Some(query_id) = query_id {
            response = response.header("X-ClickHouse-Query-Id", text(query_id));
        }
        if status == StatusCode::UNAUTHORIZED {
            response = response.header(WWW_AUTHENTICATE, "Basic realm=\"ClickHouse HTTP API\"");
        }
        finish(response, full(exception.text(&self.engine.version()).into()))
    }

    fn response(&self, status: StatusCode, content_type: &'static str) -> Builder {
        Response::builder()
            .status(status)
            .header(CONNECTION, "Keep-Alive")
            .header(CONTENT_TYPE, content_type)
            .header("X-ClickHouse-Server-Display-Name", text(&self.engine.name()))
    }
}

fn finish(response: Builder, body: Body) -> Response<Body> {
    response.body(body).expect("its headers were made of valid values")
}

fn full(words: Bytes) -> Body {
    Full::new(words).map_err(|never| match never {}).boxed_unsync()
}

/// A header's value of text that others chose.
fn text(text: &str) -> HeaderValue {
    let visible = |b: u8| b == b'\t' || (b >= 0x20 && b != 0x7f);
    let bytes: Vec<u8> = text.bytes().map(|b| if visible(b) { b } else { b'?' }).collect();
    HeaderValue::from_bytes(&bytes).expect("its bytes are visible")
}

fn content_type(format: &str) -> &'static str {
    match format {
        "TabSeparated" | "TSV" => "text/tab-separated-values; charset=UTF-8",
        "CSV" => "text/csv; charset=UTF-8; header=absent",
        "CSVWithNames" => "text/csv; charset=UTF-8; header=present",
        _ if format.starts_with("JSON") => "application/json; charset=UTF-8",
        _ if format.starts_with("RowBinary") || format == "Native" => "application/octet-stream",
        _ => "text/plain; charset=UTF-8",
    }
}

/// In a UUID's form, as ClickHouse makes them up.
fn new_query_id() -> String {
    let word = random_word() + &random_word();
    [&word[..8], &word[8..12], &word[12..16], &word[16..20], &word[20..]].join("-")
}

/// A query's place among those that run: whoever works at it holds it, and so does its answer.
#[derive(Debug)]
pub struct Place {
    running: Arc<Mutex<HashSet<String>>>,
    query_id: String,
}

impl Place {
    fn take(running: &Arc<Mutex<HashSet<String>>>, query_id: &str) -> Result<Self, Exception> {
        let mut ids = lock(running);
        if ids.len() >= MOST_QUERIES {
            let text = format!("Too many simultaneous queries. Maximum: {MOST_QUERIES}");
            return Err(Exception::new(TOO_MANY_SIMULTANEOUS_QUERIES, text));
        }
        if !ids.insert(query_id.to_owned()) {
            let text = format!("Query with id = {query_id} is already running");
            return Err(Exception::new(QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING, text));
        }
        drop(ids);
        Ok(Self { running: running.clone(), query_id: query_id.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.query_id);
    }
}

fn lock(running: &Mutex<HashSet<String>>) -> MutexGuard<'_, HashSet<String>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

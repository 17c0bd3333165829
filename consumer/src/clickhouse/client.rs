//! The way to ClickHouse: one client for each server of the address, used in turn.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clickhouse::{Client, Compression};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use walbench_metrics::Failure;
use walbench_phases::clickhouse::ClickhouseAddress;
use walbench_phases::tls;

use super::error::ClickhouseError;
use super::version::Version;

/// A server that can't be reached in this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A query that takes longer has lost its server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// ClickHouse closes what is idle for longer than 3 s, in its oldest versions.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

const KEEPALIVE: Duration = Duration::from_secs(60);

/// A server that did not answer is passed over for so long, if there are others.
const AWAY: Duration = Duration::from_secs(5);

/// The servers of an address.
#[derive(Debug)]
pub struct Clients {
    servers: Vec<Server>,
    next: AtomicUsize,
}

/// One of them.
pub struct Server {
    pub(crate) client: Client,
    /// Its HTTP interface, without a login.
    pub(super) endpoint: String,
    /// It did not answer, and is not asked before this if another can be.
    away_until: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.endpoint)
    }
}

impl Clients {
    /// For an address; connects to nothing yet.
    ///
    /// # Errors
    /// TLS can't be set up as the address says.
    pub fn new(address: &ClickhouseAddress) -> Result<Self, Failure> {
        let config = tls::client_config(&address.ssl)
            .map_err(|e| Failure::new(format!("TLS can't be set up for {address}")).caused_by(&e))?
            .ok_or_else(|| Failure::new("TLS without a policy"))?;
        let mut http = HttpConnector::new();
        // Without it, an insert waits 40 ms for the acknowledgement of its first packet.
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_keepalive(Some(KEEPALIVE));
        http.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config((*config).clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let server = |endpoint: &String| {
            let hyper = HyperClient::builder(TokioExecutor::new())
                .pool_idle_timeout(IDLE_TIMEOUT)
                .pool_timer(TokioTimer::new())
                .build(connector.clone());
            let mut client = Client::with_http_client(hyper)
                .with_url(endpoint)
                .with_user(&address.user)
                // Rows are compressed before they come here.
                .with_compression(Compression::None)
                .with_validation(false);
            if let Some(password) = &address.password {
                client = client.with_password(password);
            }
            let client = address
                .settings
                .iter()
                .fold(client, |client, (name, value)| client.with_setting(name, value));
            Server { client, endpoint: endpoint.clone(), away_until: Mutex::default() }
        };
        let servers = address.endpoints.iter().map(server).collect();
        Ok(Self { servers, next: AtomicUsize::new(0) })
    }

    /// The next server whose turn it is. One that is away is passed over, unless all are: then it is
    /// the one that has been longest.
    #[must_use]
    pub fn next(&self) -> &Server {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let in_turn = (0..self.servers.len())
            .map(|offset| &self.servers[turn.wrapping_add(offset) % self.servers.len()]);
        // The first of those that are equal.
        in_turn.min_by_key(|server| server.away_until(now)).unwrap_or(&self.servers[0])
    }

    /// Each server.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &Server> {
        self.servers.iter()
    }

    /// What the servers are: what the first says that answers.
    ///
    /// # Errors
    /// None can be reached, or it is no ClickHouse.
    pub async fn version(&self) -> Result<(Version, String), ClickhouseError> {
        let mut tried = Err(ClickhouseError::refused("the address names no server".into()));
        for server in &self.servers {
            tried = server.text("SELECT version()").await;
            if !tried.as_ref().is_err_and(|error| error.is_away) {
                break;
            }
        }
        let text = tried?;
        let version = Version::parse(&text).ok_or_else(|| ClickhouseError::nonsense(&text))?;
        Ok((version, text))
    }
}

impl Server {
    /// Runs a statement, and waits for its end.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub async fn execute(&self, sql: &str) -> Result<(), ClickhouseError> {
        self.within(async { Ok(self.client.query_raw(sql).execute().await?) }).await
    }

    /// Runs a query, and returns its answer as tab-separated text, without the last line's end.
    ///
    /// # Errors
    /// The server's, or the connection's.
    pub async fn text(&self, sql: &str) -> Result<String, ClickhouseError> {
        let answer = async {
            let query = self.client.query_raw(sql);
            let bytes = query.fetch_bytes("TabSeparated")?.collect().await?;
            Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
        };
        self.within(answer).await
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, ClickhouseError>>,
    ) -> Result<T, ClickhouseError> {
        let done = tokio::time::timeout(QUERY_TIMEOUT, work).await;
        self.heard(done.unwrap_or_else(|_| Err(clickhouse::error::Error::TimedOut.into())))
    }

    /// Remembers whether it answered.
    pub(super) fn heard<T>(
        &self,
        result: Result<T, ClickhouseError>,
    ) -> Result<T, ClickhouseError> {
        let is_away = result.as_ref().is_err_and(|error| error.is_away);
        *self.away() = is_away.then(|| Instant::now() + AWAY);
        result
    }

    fn away(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.away_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn away_until(&self, now: Instant) -> Option<Instant> {
        self.away().filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(url: &str) -> Clients {
        Clients::new(&ClickhouseAddress::parse(url).unwrap()).unwrap()
    }

    fn away() -> Result<(), ClickhouseError> {
        Err(clickhouse::error::Error::TimedOut.into())
    }

    #[test]
    fn servers_have_turns_and_those_that_are_away_have_none() {
        let clients = clients("http://a:1,http://b:2,http://c:3");
        let turns = |n| (0..n).map(|_| clients.next().endpoint.clone()).collect::<Vec<_>>();
        assert_eq!(turns(4), ["http://a:1", "http://b:2", "http://c:3", "http://a:1"]);
        let _ = clients.servers[1].heard(away());
        assert!(!turns(9).contains(&"http://b:2".into()));
        // What a server refuses it was there for.
        let _ = clients.servers[1].heard::<()>(Err(ClickhouseError::refused("no".into())));
        assert!(turns(3).contains(&"http://b:2".into()));
        // Where all are away, the one is asked that has been so for longest.
        for index in [2, 0, 1] {
            let _ = clients.servers[index].heard(away());
        }
        assert_eq!(turns(2), ["http://c:3", "http://c:3"]);
    }
}

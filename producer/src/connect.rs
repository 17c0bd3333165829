//! A connection to PostgreSQL from an address taken apart.

use std::str::FromStr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config::{ChannelBinding, SslMode as WireSslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{CancelToken, Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use walbench_metrics::Failure;
use walbench_phases::address::{Host, PostgresAddress, SslMode};
use walbench_phases::tls::{TlsError, client_config};

/// How long connecting and logging in may take together, unless the address says otherwise
/// (`connect_timeout`).
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, driven by a task of its own.
#[derive(Debug)]
pub struct Connected {
    /// What statements are sent with. Dropping it closes the connection.
    pub client: Client,
    /// The task that reads and writes the socket; it ends with the connection.
    pub task: JoinHandle<Result<(), tokio_postgres::Error>>,
    cancel: Cancel,
}

/// Ends a statement under way from outside.
#[derive(Clone)]
pub struct Cancel {
    token: CancelToken,
    tls: Option<MakeRustlsConnect>,
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").finish_non_exhaustive()
    }
}

impl Cancel {
    /// Asks the server to cancel what the connection is doing. Nothing says whether it did.
    ///
    /// # Errors
    ///
    /// The server can't be reached.
    pub async fn cancel(&self) -> Result<(), tokio_postgres::Error> {
        match &self.tls {
            None => self.token.cancel_query(NoTls).await,
            Some(tls) => self.token.cancel_query(tls.clone()).await,
        }
    }
}

impl Connected {
    /// What ends a statement of this connection from outside.
    #[must_use]
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The network, the server or the login refused.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// The server let us in and then refused what every session begins with.
    #[error("the session can't be set up")]
    Setup(#[source] tokio_postgres::Error),
    /// Nobody answered in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// TLS could not be set up on our side.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A parameter of the address can't be used.
    #[error("the connection parameter {name} can't be {value:?}: {reason}")]
    Parameter {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// Why.
        reason: &'static str,
    },
    /// The address names no user and the operating system doesn't either.
    #[error("the address names no user, and this process's user has no name")]
    NoUser,
}

/// Connects and logs in. The connection's task runs on the current tokio runtime.
///
/// # Errors
///
/// See [`ConnectError`]; [`connection_failure`] makes it fit for a person.
pub async fn connect(
    address: &PostgresAddress,
    application_name: &str,
) -> Result<Connected, ConnectError> {
    let mut config = configure(address)?;
    config.application_name(application_name);
    let limit = config.get_connect_timeout().copied();
    let connecting = open(address, &config);
    match limit {
        None => connecting.await,
        // tokio-postgres bounds only the TCP handshake; a server that accepts and says nothing
        // would hold us for ever.
        Some(limit) => tokio::time::timeout(limit, connecting)
            .await
            .unwrap_or(Err(ConnectError::Timeout(limit))),
    }
}

async fn open(address: &PostgresAddress, config: &Config) -> Result<Connected, ConnectError> {
    let tls = match address.host {
        // libpq never encrypts a Unix socket.
        Host::Unix(_) => None,
        Host::Tcp(_) => client_config(&address.ssl)?,
    };
    let tls = tls.map(|config| MakeRustlsConnect::new((*config).clone()));
    let (client, task) = if let Some(tls) = &tls {
        let (client, connection) = config.connect(tls.clone()).await?;
        (client, tokio::spawn(connection))
    } else {
        let (client, connection) = config.connect(NoTls).await?;
        (client, tokio::spawn(connection))
    };
    let cancel = Cancel { token: client.cancel_token(), tls };
    Ok(Connected { client, task, cancel })
}

fn configure(address: &PostgresAddress) -> Result<Config, ConnectError> {
    let mut config = Config::new();
    let user = match &address.user {
        Some(user) => user.clone(),
        None => system_user().ok_or(ConnectError::NoUser)?,
    };
    config.dbname(address.dbname.as_deref().unwrap_or(&user)).user(user).port(address.port);
    if let Some(password) = &address.password {
        config.password(password);
    }
    match &address.host {
        Host::Tcp(host) => config.host(host).ssl_mode(match address.ssl.mode {
            SslMode::Disable => WireSslMode::Disable,
            SslMode::Prefer => WireSslMode::Prefer,
            // Who the server is, the TLS configuration checks.
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => WireSslMode::Require,
        }),
        Host::Unix(folder) => config.host_path(folder).ssl_mode(WireSslMode::Disable),
    };
    config.connect_timeout(DEFAULT_CONNECT_TIMEOUT);
    for (name, value) in &address.options {
        set_parameter(&mut config, name, value)?;
    }
    Ok(config)
}

fn system_user() -> Option<String> {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name)
}

fn set_parameter(config: &mut Config, name: &str, value: &str) -> Result<(), ConnectError> {
    let refuse =
        |reason| ConnectError::Parameter { name: name.into(), value: value.into(), reason };
    let number = || u64::from_str(value).map_err(|_| refuse("a whole number is expected"));
    match name {
        "options" => _ = config.options(value),
        "connect_timeout" => match number()? {
            // libpq: zero waits for ever.
            0 => _ = config.connect_timeout(Duration::MAX),
            seconds => _ = config.connect_timeout(Duration::from_secs(seconds)),
        },
        "keepalives" => _ = config.keepalives(number()? != 0),
        "keepalives_idle" => _ = config.keepalives_idle(Duration::from_secs(number()?)),
        "keepalives_interval" => _ = config.keepalives_interval(Duration::from_secs(number()?)),
        "keepalives_count" => {
            let count = u32::try_from(number()?).map_err(|_| refuse("it is too large"))?;
            config.keepalives_retries(count);
        }
        "tcp_user_timeout" => _ = config.tcp_user_timeout(Duration::from_millis(number()?)),
        "channel_binding" => {
            config.channel_binding(match value {
                "disable" => ChannelBinding::Disable,
                "prefer" => ChannelBinding::Prefer,
                _ => return Err(refuse("disable or prefer is expected")),
            });
        }
        // The others ask for nothing, or the address would have been refused: the sessions are named
        // by walbench and always speak UTF-8.
        _ => {}
    }
    Ok(())
}

/// A connection that did not come about, with what to do about it.
#[must_use]
pub fn connection_failure(address: &PostgresAddress, error: &ConnectError) -> Failure {
    let failure =
        Failure::new(format!("can't connect to PostgreSQL at {}", address.to_masked_string()))
            .caused_by(error);
    match hint(address, error) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn hint(address: &PostgresAddress, error: &ConnectError) -> Option<String> {
    let place = match &address.host {
        Host::Tcp(host) => format!("{host}, port {}", address.port),
        Host::Unix(folder) => format!("{}/.s.PGSQL.{}", folder.display(), address.port),
    };
    let error = match error {
        ConnectError::Postgres(error) | ConnectError::Setup(error) => error,
        ConnectError::Timeout(_) => {
            return Some(format!(
                "check that {place} is the right address and that no firewall drops the packets; \
                 connect_timeout=<seconds> in the URL waits longer"
            ));
        }
        ConnectError::Tls(_) => return Some("check sslmode and sslrootcert in the URL".into()),
        ConnectError::NoUser => {
            return Some("name a user in the URL: postgres://user@host/".into());
        }
        ConnectError::Parameter { .. } => return None,
    };
    match error.code() {
        Some(code) => login_hint(address, code, &error.to_string()),
        None => network_hint(error, &place),
    }
}

fn login_hint(address: &PostgresAddress, code: &SqlState, text: &str) -> Option<String> {
    Some(match *code {
        SqlState::INVALID_PASSWORD => "check user and password in the URL".into(),
        // One code for a refused login and for a login that no line of pg_hba.conf describes.
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION if text.contains("pg_hba.conf") => {
            "add a line for this host, user and database to the server's pg_hba.conf; if it asks \
             for encryption, put sslmode=require in the URL"
                .into()
        }
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "check the user in the URL; CREATE ROLE … LOGIN makes one".into()
        }
        SqlState::INVALID_CATALOG_NAME => format!(
            "create the database {}, or name an existing one in the URL",
            address.dbname.as_deref().unwrap_or("named after the user")
        ),
        SqlState::TOO_MANY_CONNECTIONS => {
            "raise max_connections on the server, or lower producer.connections in the plan".into()
        }
        SqlState::INSUFFICIENT_PRIVILEGE => {
            "grant the user CONNECT on the database and INSERT, UPDATE and SELECT on its tables"
                .into()
        }
        SqlState::CANNOT_CONNECT_NOW => {
            "the server is starting or stopping: try again when it is up".into()
        }
        _ => return None,
    })
}

fn network_hint(error: &tokio_postgres::Error, place: &str) -> Option<String> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return io_hint(io.kind(), place);
        }
        let text = cause.to_string();
        if text.contains("password missing") {
            return Some("put the password in the URL, in PGPASSWORD or in a password file".into());
        }
        if text.contains("does not support TLS") {
            return Some("check the server's ssl setting and sslmode in the URL".into());
        }
        next = cause.source();
    }
    None
}

fn io_hint(kind: std::io::ErrorKind, place: &str) -> Option<String> {
    use std::io::ErrorKind;
    Some(match kind {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
            format!("check that the server is running and that {place} is where it listens")
        }
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            format!("check that {place} is the right address and can be reached from here")
        }
        ErrorKind::PermissionDenied => format!("check who may open {place}"),
        // rustls reports a refused certificate as invalid data.
        ErrorKind::InvalidData => {
            "the server's certificate was refused: check sslmode and sslrootcert in the URL".into()
        }
        _ => return None,
    })
}

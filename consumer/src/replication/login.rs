//! Start-up and login (PostgreSQL manual, section 55.2).

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use walbench_phases::address::PostgresAddress;

use super::connection::Connection;
use super::error::ReplicationError;
use super::input::Input;
use super::server_error::ServerError;
use super::transport::Transport;

/// Everything the text of a value depends on, pinned: a server's or role's own settings must not
/// change what a column means.
const PINNED_SETTINGS: [(&str, &str); 11] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, YMD"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    // Names in values (regclass) then always have their schema.
    ("search_path", ""),
    ("quote_all_identifiers", "off"),
    ("statement_timeout", "0"),
    // A backslash in a literal of ours is one.
    ("standard_conforming_strings", "on"),
];

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Replication,
    Queries,
}

/// What a session is known by, and may be cancelled with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BackendKey {
    pub(super) pid: u32,
    pub(super) secret: i32,
}

impl Connection {
    pub(super) fn log_in(
        transport: Transport,
        address: &PostgresAddress,
        application_name: &str,
        purpose: Purpose,
    ) -> Result<Self, ReplicationError> {
        let user = address.user.as_deref().ok_or_else(|| {
            ReplicationError::Login("the address names no user to log in as".into())
        })?;
        let mut connection = Self {
            transport,
            input: Input::default(),
            address: address.with_database(address.dbname.as_deref().unwrap_or(user)),
            key: BackendKey::default(),
            server_version: 0,
        };
        connection.start_up(user, application_name, purpose).map_err(|error| match error {
            ReplicationError::Server { source, .. } => refused(user, address, source),
            error => error,
        })?;
        connection.server_version = connection.read_version()?;
        Ok(connection)
    }

    fn start_up(
        &mut self,
        user: &str,
        application_name: &str,
        purpose: Purpose,
    ) -> Result<(), ReplicationError> {
        let PostgresAddress { dbname, password, options, .. } = self.address.clone();
        let mut parameters = vec![
            ("user", user),
            ("database", dbname.as_deref().unwrap_or(user)),
            ("application_name", application_name),
        ];
        if purpose == Purpose::Replication {
            parameters.push(("replication", "database"));
        }
        if let Some(options) = options.get("options") {
            parameters.push(("options", options));
        }
        parameters.extend(PINNED_SETTINGS);
        let mut out = BytesMut::new();
        frontend::startup_message(parameters, &mut out)?;
        self.send(&out)?;
        self.authenticate(&Secret { user, password: password.as_deref() })?;
        loop {
            match self.answer(LOGIN)? {
                Message::BackendKeyData(body) => {
                    let (pid, secret) = (body.process_id().cast_unsigned(), body.secret_key());
                    self.key = BackendKey { pid, secret };
                }
                Message::ReadyForQuery(_) => return Ok(()),
                _ => {}
            }
        }
    }

    fn authenticate(&mut self, secret: &Secret<'_>) -> Result<(), ReplicationError> {
        let mut exchange = None;
        loop {
            let mut out = BytesMut::new();
            match self.answer(LOGIN)? {
                // A server that skips its half of the exchange has not shown that it knows the
                // password either.
                Message::AuthenticationOk => {
                    return match exchange {
                        None | Some(Exchange::Proven) => Ok(()),
                        Some(Exchange::Open(_)) => Err(exchange_lost()),
                    };
                }
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(secret.password()?, &mut out)?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let user = secret.user.as_bytes();
                    let hash = authentication::md5_hash(user, secret.password()?, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut out)?;
                }
                Message::AuthenticationSasl(body) => {
                    exchange = Some(Exchange::begin(&body, secret, &mut out)?);
                }
                Message::AuthenticationSaslContinue(body) => match &mut exchange {
                    Some(Exchange::Open(scram)) => {
                        scram.update(body.data()).map_err(exchange_failed)?;
                        frontend::sasl_response(scram.message(), &mut out)?;
                    }
                    _ => return Err(exchange_lost()),
                },
                Message::AuthenticationSaslFinal(body) => match exchange.take() {
                    Some(Exchange::Open(mut scram)) => {
                        scram.finish(body.data()).map_err(exchange_failed)?;
                        exchange = Some(Exchange::Proven);
                    }
                    _ => return Err(exchange_lost()),
                },
                _ => return Err(unknown_way()),
            }
            self.send(&out)?;
        }
    }

    fn read_version(&mut self) -> Result<u32, ReplicationError> {
        let rows = self.query("its version", "SHOW server_version_num")?;
        let text = rows.first().and_then(|row| row.first()?.as_deref());
        text.and_then(|text| text.parse().ok()).ok_or_else(|| {
            ReplicationError::Protocol(format!(
                "the server's version is {}",
                text.unwrap_or("NULL")
            ))
        })
    }
}

const LOGIN: &str = "the login";

/// Who logs in, and with what.
struct Secret<'a> {
    user: &'a str,
    password: Option<&'a str>,
}

impl<'a> Secret<'a> {
    fn password(&self) -> Result<&'a [u8], ReplicationError> {
        self.password.map(str::as_bytes).ok_or_else(|| {
            let text = "the server wants a password, and neither the URL has one nor PGPASSWORD \
                        or a password file";
            ReplicationError::Login(text.into())
        })
    }
}

/// How far a SCRAM exchange is.
enum Exchange {
    Open(Box<ScramSha256>),
    /// The server has shown that it knows the password too.
    Proven,
}

impl Exchange {
    fn begin(
        offered: &AuthenticationSaslBody,
        secret: &Secret<'_>,
        out: &mut BytesMut,
    ) -> Result<Self, ReplicationError> {
        if !offered.mechanisms().any(|mechanism| Ok(mechanism == SCRAM_SHA_256))? {
            let text = "the server offers no SASL mechanism that is supported";
            return Err(ReplicationError::Login(text.into()));
        }
        let scram = ScramSha256::new(secret.password()?, ChannelBinding::unsupported());
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out)?;
        Ok(Self::Open(Box::new(scram)))
    }
}

fn exchange_lost() -> ReplicationError {
    ReplicationError::Login("the SCRAM exchange is out of step".into())
}

#[allow(clippy::needless_pass_by_value, reason = "the form that map_err wants")]
fn exchange_failed(error: std::io::Error) -> ReplicationError {
    ReplicationError::Login(error.to_string())
}

fn unknown_way() -> ReplicationError {
    let text = "the server wants a way of logging in that walbench does not know (it knows trust, \
                password, MD5 and SCRAM-SHA-256)";
    ReplicationError::Login(text.into())
}

/// What a server's refusal of a login means.
fn refused(user: &str, address: &PostgresAddress, source: Box<ServerError>) -> ReplicationError {
    let user = user.to_owned();
    match source.code.as_str() {
        "28P01" | "28000" => ReplicationError::LoginRefused { user, source },
        "3D000" => {
            let database = address.dbname.clone().unwrap_or(user);
            ReplicationError::DatabaseMissing { database, source }
        }
        // The other one that shares it is a role that may not CONNECT to the database.
        "42501" if !source.is_from("CheckMyDatabase") => {
            ReplicationError::NotReplicationRole { user, source }
        }
        "53300" => ReplicationError::NoWalSenders(source),
        _ => ReplicationError::Server { what: LOGIN.into(), source },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use walbench_phases::address::{Host, SslMode, SslPolicy};

    use super::*;

    fn refusal(code: &str, routine: &str) -> ReplicationError {
        let address = PostgresAddress {
            host: Host::Tcp("h".into()),
            port: 1,
            user: Some("u".into()),
            password: None,
            dbname: None,
            ssl: SslPolicy { mode: SslMode::Disable, root_cert: None },
            options: BTreeMap::new(),
        };
        let (code, routine) = (code.into(), Some(routine.into()));
        refused("u", &address, Box::new(ServerError { code, routine, ..ServerError::default() }))
    }

    #[test]
    fn a_refused_login_is_known_by_its_code() {
        use ReplicationError as E;
        assert!(matches!(refusal("28P01", "auth_failed"), E::LoginRefused { .. }));
        assert!(matches!(refusal("28000", "ClientAuthentication"), E::LoginRefused { .. }));
        assert!(matches!(refusal("53300", "InitProcess"), E::NoWalSenders(_)));
        assert!(matches!(refusal("57P03", "ProcessStartupPacket"), E::Server { .. }));
        let E::DatabaseMissing { database, .. } = refusal("3D000", "InitPostgres") else {
            panic!("another error")
        };
        assert_eq!(database, "u", "the database is named after the user");
    }

    #[test]
    fn who_may_not_replicate_is_told_from_who_may_not_connect() {
        let replicate = refusal("42501", "InitPostgres");
        assert!(matches!(replicate, ReplicationError::NotReplicationRole { .. }));
        let connect = refusal("42501", "CheckMyDatabase");
        assert!(matches!(connect, ReplicationError::Server { .. }));
    }
}

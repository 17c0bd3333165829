//! Where a PostgreSQL server is and how to log in: a connection string, taken apart.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::env::Env;
use crate::hint::did_you_mean;
use crate::password_file;
use crate::url::{MASK, Url, decode, encode};

/// Where libpq looks for a server when no host is named, as Debian and Red Hat build it.
const DEFAULT_SOCKET_FOLDER: &str = "/var/run/postgresql";

/// PostgreSQL's port.
const DEFAULT_PORT: u16 = 5432;

/// The parameters that are passed on as [`PostgresAddress::options`]. libpq knows more; one that
/// would be ignored in silence, such as `sslcert` or a misspelt `sslmode`, is refused.
const OPTIONS: [&str; 14] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "options",
    "sslnegotiation",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// What some of them may be: the values that ask for nothing that walbench can't do, and what to do
/// where another is given.
const KEPT: [(&str, &[&str], &str); 4] = [
    (
        "channel_binding",
        &["disable", "prefer"],
        "leave it out; sslmode=verify-full keeps everybody else from standing in between",
    ),
    ("gssencmode", &["disable", "prefer"], "leave it out; sslmode says how to encrypt by TLS"),
    (
        "sslnegotiation",
        &["postgres"],
        "leave it out; walbench asks for TLS as every server knows it",
    ),
    ("target_session_attrs", &["any"], "leave it out, and name the server that you mean"),
];

/// Those that are whole numbers.
const NUMBERS: [&str; 6] = [
    "connect_timeout",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "tcp_user_timeout",
];

/// The parameters that have a field of their own.
const FIELDS: [&str; 8] =
    ["host", "hostaddr", "port", "user", "password", "dbname", "sslmode", "sslrootcert"];

/// A connection string, taken apart.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresAddress {
    /// Where the server listens.
    pub host: Host,
    /// Its port; for a Unix socket, the number in the socket's name.
    pub port: u16,
    /// Whom to log in as; absent: the operating system's user, as libpq does.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The database; absent: the one named after the user.
    pub dbname: Option<String>,
    /// Whether and how the connection is encrypted.
    pub ssl: SslPolicy,
    /// All other parameters (`application_name`, `connect_timeout`, `options`, …) by name.
    pub options: BTreeMap<String, String>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Host {
    /// A host name or IP address (an IPv6 address without brackets).
    Tcp(String),
    /// The folder of a Unix socket.
    Unix(PathBuf),
}

/// Whether and how a connection is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SslPolicy {
    /// libpq's `sslmode`.
    pub mode: SslMode,
    /// libpq's `sslrootcert`: a PEM file, or the word `system` for the platform's store.
    pub root_cert: Option<PathBuf>,
}

/// libpq's `sslmode`. Its `allow` is read as [`SslMode::Prefer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server can, unverified.
    Prefer,
    /// Encrypted, unverified.
    Require,
    /// Encrypted, and the certificate is signed by a trusted authority.
    VerifyCa,
    /// Encrypted, the certificate is signed by a trusted authority and names the host.
    VerifyFull,
}

impl SslPolicy {
    /// No encryption.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { mode: SslMode::Disable, root_cert: None }
    }

    /// Whether `root_cert` is the word that means the platform's store.
    #[must_use]
    pub fn uses_system_roots(&self) -> bool {
        self.root_cert.as_deref() == Some(Path::new("system"))
    }
}

impl SslMode {
    const NAMES: [(&str, Self); 6] = [
        ("disable", Self::Disable),
        ("prefer", Self::Prefer),
        ("allow", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    /// What libpq calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(text: &str) -> Result<Self, AddressError> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, mode)| *mode).ok_or_else(|| {
            let hint = did_you_mean(text, Self::NAMES.iter().map(|(name, _)| *name));
            AddressError::new("the sslmode is not known", hint)
        })
    }
}

impl Host {
    fn parse(text: String) -> Self {
        // An @ starts the name of an abstract socket.
        if text.starts_with(['/', '@']) { Self::Unix(text.into()) } else { Self::Tcp(text) }
    }

    fn encoded(&self) -> String {
        match self {
            Self::Tcp(host) if host.parse::<Ipv6Addr>().is_ok() => format!("[{host}]"),
            Self::Tcp(host) => encode(host),
            Self::Unix(folder) => encode(&folder.to_string_lossy()),
        }
    }
}

/// Why a connection string can't be used. Never holds a value of the string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AddressError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl AddressError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

impl PostgresAddress {
    /// Takes a connection string apart: a `postgres://` or `postgresql://` URL, or `key=value`
    /// words.
    ///
    /// # Errors
    ///
    /// Anything that is neither, several hosts, or a parameter that is not known or asks for what
    /// walbench can't do.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        match scheme.filter(|scheme| !scheme.contains(['=', ' '])) {
            Some("postgres" | "postgresql") => Self::from_parameters(url_parameters(text)?),
            Some(_) => Err(AddressError::new(
                "the URL's scheme is not postgres",
                "write postgres://user@host:5432/",
            )),
            None => Self::from_parameters(word_parameters(text)?),
        }
    }

    fn from_parameters(mut parameters: BTreeMap<String, String>) -> Result<Self, AddressError> {
        parameters.retain(|_, value| !value.is_empty());
        let host = take_host(&mut parameters)?;
        let port = take_port(&mut parameters)?;
        let ssl = take_ssl(&mut parameters, &host)?;
        let address = Self {
            host,
            port,
            user: parameters.remove("user"),
            password: parameters.remove("password"),
            dbname: parameters.remove("dbname"),
            ssl,
            options: parameters,
        };
        address.options.iter().try_for_each(|(name, value)| check_option(name, value))?;
        Ok(address)
    }

    /// The address with what libpq takes from elsewhere where it says nothing: the user from
    /// `PGUSER` or the operating system, the password from `PGPASSWORD` or the password file
    /// (`PGPASSFILE`, `~/.pgpass`). Beside it, why a password file was not read.
    #[must_use]
    pub fn completed(mut self, env: &Env) -> (Self, Option<String>) {
        let set = |name: &str| env.get(name).filter(|value| !value.is_empty());
        self.user = self.user.or_else(|| set("PGUSER")).or_else(|| env.system_user());
        self.password = self.password.or_else(|| set("PGPASSWORD"));
        let in_home = || Some(Path::new(&set("HOME")?).join(".pgpass"));
        let file = set("PGPASSFILE").map(PathBuf::from).or_else(in_home);
        let Some(file) = file.filter(|_| self.password.is_none()) else { return (self, None) };
        match read_password_file(&file) {
            Ok(text) => {
                self.password = self.password_in(&text).filter(|password| !password.is_empty());
                (self, None)
            }
            Err(reason) => {
                (self, reason.map(|why| format!("{} is not read: {why}", file.display())))
            }
        }
    }

    /// What a password file has for it. A server on this machine's usual socket is `localhost`.
    fn password_in(&self, text: &str) -> Option<String> {
        let host = match &self.host {
            Host::Tcp(host) => host.into(),
            Host::Unix(folder) if folder == Path::new(DEFAULT_SOCKET_FOLDER) => "localhost".into(),
            Host::Unix(folder) => folder.to_string_lossy(),
        };
        let user = self.user.as_deref()?;
        let dbname = self.dbname.as_deref().unwrap_or(user);
        password_file::find(text, [&*host, &self.port.to_string(), dbname, user])
    }

    /// The same server and login, another database.
    #[must_use]
    pub fn with_database(&self, dbname: &str) -> Self {
        Self { dbname: Some(dbname.into()), ..self.clone() }
    }

    /// The whole address as a URL, password included: [`Self::parse`] gives the same address back.
    #[must_use]
    pub fn to_url(&self) -> String {
        self.url_with(self.password.as_deref().map(encode))
    }

    /// The address as a URL with `***` for the password, for people to read.
    #[must_use]
    pub fn to_masked_string(&self) -> String {
        self.url_with(self.password.as_ref().map(|_| MASK.into()))
    }

    fn url_with(&self, password: Option<String>) -> String {
        let user = self.user.as_deref().map(encode).unwrap_or_default();
        let login = match password {
            Some(password) => format!("{user}:{password}@"),
            None if user.is_empty() => user,
            None => format!("{user}@"),
        };
        let (host, port) = (self.host.encoded(), self.port);
        let dbname = self.dbname.as_deref().map(encode).unwrap_or_default();
        let parameters: Vec<String> = self
            .parameters()
            .map(|(name, value)| format!("{}={}", encode(name), encode(&value)))
            .collect();
        let separator = if parameters.is_empty() { "" } else { "?" };
        format!("postgres://{login}{host}:{port}/{dbname}{separator}{}", parameters.join("&"))
    }

    fn parameters(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let encrypted = matches!(self.host, Host::Tcp(_));
        let mode = encrypted.then(|| ("sslmode", self.ssl.mode.as_str().into()));
        let root = self.ssl.root_cert.as_ref().filter(|_| encrypted);
        let root = root.map(|path| ("sslrootcert", path.to_string_lossy()));
        let options = self.options.iter().map(|(name, value)| (name.as_str(), value.into()));
        mode.into_iter().chain(root).chain(options)
    }
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_masked_string())
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresAddress({})", self.to_masked_string())
    }
}

/// The text of a password file; none if there is no such file, and why, if one is not to be read.
fn read_password_file(path: &Path) -> Result<String, Option<&'static str>> {
    let facts = std::fs::metadata(path).map_err(|_| None)?;
    if !facts.is_file() {
        return Err(Some("it is no plain file"));
    }
    if facts.permissions().mode() & 0o077 != 0 {
        return Err(Some(
            "it has group or world access; permissions should be u=rw (0600) or less",
        ));
    }
    let is_text = |e: &io::Error| e.kind() == io::ErrorKind::InvalidData;
    std::fs::read_to_string(path).map_err(|e| is_text(&e).then_some("it is not text in UTF-8"))
}

fn check_option(name: &str, value: &str) -> Result<(), AddressError> {
    if !OPTIONS.contains(&name) {
        return Err(unknown_parameter(name));
    }
    if NUMBERS.contains(&name) && value.parse::<u32>().is_err() {
        let hint = format!("write it as {name}=10, or leave it out");
        return Err(AddressError::new(format!("{name} is not a whole number"), hint));
    }
    match KEPT.iter().find(|(kept, _, _)| *kept == name) {
        Some((_, values, hint)) if !values.contains(&value) => {
            Err(AddressError::new(format!("walbench can't do what {name} asks for"), *hint))
        }
        _ => Ok(()),
    }
}

fn unknown_parameter(name: &str) -> AddressError {
    let known = FIELDS.into_iter().chain(OPTIONS);
    AddressError::new(
        format!("walbench does not know the parameter \"{name}\""),
        did_you_mean(name, known),
    )
}

fn url_parameters(text: &str) -> Result<BTreeMap<String, String>, AddressError> {
    let encode_it = "write @ / : ? # % in a password as %40 %2F %3A %3F %23 %25";
    let split = Url::split(text);
    let url = split.ok_or_else(|| AddressError::new("not a URL", encode_it))?;
    let bare_host = url.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare_host.unwrap_or(url.host);
    // An @ in the path of a URL without a login ends a login whose password holds a /.
    let broken_login = host.contains('@') || (url.user.is_none() && url.path.contains('@'));
    if broken_login || (bare_host.is_none() && host.contains([':', '[', ']'])) {
        let several = url.host.contains(',');
        return Err(if several { several_hosts() } else { bad_host(encode_it) });
    }
    let parts = [
        ("host", Some(host)),
        ("port", url.port),
        ("user", url.user),
        ("password", url.password),
        ("dbname", url.path.strip_prefix('/')),
    ];
    let parts = parts.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let mut parameters = BTreeMap::new();
    for (name, value) in parts.map(|(name, value)| (name, Some(value))).chain(url.parameters()) {
        let decoded = decode(name).zip(value.and_then(decode)).ok_or_else(|| {
            let message = "a part of the URL is not well percent-encoded, or a parameter has no =";
            AddressError::new(message, encode_it)
        });
        let (name, value) = decoded?;
        match (name.as_str(), value.as_str()) {
            // What JDBC's URLs say; libpq takes it too.
            ("ssl", "true") => parameters.insert("sslmode".into(), "require".into()),
            _ => parameters.insert(name, value),
        };
    }
    Ok(parameters)
}

fn bad_host(hint: &str) -> AddressError {
    AddressError::new(
        "the host is not a name or address",
        format!("{hint}; write an IPv6 address in brackets"),
    )
}

fn several_hosts() -> AddressError {
    AddressError::new(
        "several hosts are named",
        "name the one server that walbench shall write to; it can't follow a failover",
    )
}

/// Reads `key = value` words: a value may stand in single quotes, and a backslash takes the next
/// character as it is.
fn word_parameters(text: &str) -> Result<BTreeMap<String, String>, AddressError> {
    let malformed = |message| AddressError::new(message, "write postgres://user@host:5432/");
    let mut parameters = BTreeMap::new();
    let mut rest = text;
    if rest.is_empty() {
        return Err(malformed("the address is empty"));
    }
    while !rest.is_empty() {
        let (name, value) = rest
            .split_once('=')
            .filter(|(name, _)| !name.trim_end().contains(char::is_whitespace))
            .ok_or_else(|| malformed("neither a postgres:// URL nor key=value words"))?;
        let (value, after) =
            take_value(value.trim_start()).ok_or_else(|| malformed("a quote is not closed"))?;
        parameters.insert(name.trim_end().into(), value);
        rest = after.trim_start();
    }
    if parameters.values().any(|value: &String| value.contains('\0')) {
        return Err(malformed("a value holds a NUL character"));
    }
    Ok(parameters)
}

/// The value that `text` starts with and what follows it; `None` if its quote isn't closed.
fn take_value(text: &str) -> Option<(String, &str)> {
    let (quoted, text) = text.strip_prefix('\'').map_or((false, text), |rest| (true, rest));
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            _ if !quoted && character.is_whitespace() => return Some((value, &text[at..])),
            _ => value.push(character),
        }
    }
    (!quoted).then_some((value, ""))
}

fn take_host(parameters: &mut BTreeMap<String, String>) -> Result<Host, AddressError> {
    let host = match (parameters.remove("host"), parameters.remove("hostaddr")) {
        (Some(_), Some(_)) => {
            let hint = "leave hostaddr out; the host's name is looked up";
            return Err(AddressError::new("both host and hostaddr are given", hint));
        }
        (None, Some(address)) if !address.contains(',') && address.parse::<IpAddr>().is_err() => {
            let hint = "name a server or a socket's folder by host";
            return Err(AddressError::new("hostaddr is not an IP address", hint));
        }
        (host, address) => host.or(address).unwrap_or_else(|| DEFAULT_SOCKET_FOLDER.into()),
    };
    if host.contains(',') { Err(several_hosts()) } else { Ok(Host::parse(host)) }
}

fn take_port(parameters: &mut BTreeMap<String, String>) -> Result<u16, AddressError> {
    let Some(port) = parameters.remove("port") else { return Ok(DEFAULT_PORT) };
    if port.contains(',') {
        return Err(several_hosts());
    }
    port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        let hint = "a password that holds / or @ must be percent-encoded (%2F, %40)";
        AddressError::new("the port is not a number from 1 to 65535", hint)
    })
}

fn take_ssl(
    parameters: &mut BTreeMap<String, String>,
    host: &Host,
) -> Result<SslPolicy, AddressError> {
    let mode = parameters.remove("sslmode").map(|mode| SslMode::parse(&mode)).transpose()?;
    let root_cert = parameters.remove("sslrootcert").map(PathBuf::from);
    if matches!(host, Host::Unix(_)) {
        return Ok(SslPolicy::disabled());
    }
    let mut policy = SslPolicy { mode: mode.unwrap_or(SslMode::Prefer), root_cert };
    if policy.uses_system_roots() {
        // A public authority signs for anyone, so that only the name tells the server from others.
        if mode.is_some_and(|mode| mode < SslMode::VerifyFull) {
            let message = "sslrootcert=system needs sslmode=verify-full";
            return Err(AddressError::new(message, "write sslmode=verify-full, or leave it out"));
        }
        policy.mode = SslMode::VerifyFull;
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn parse(text: &str) -> PostgresAddress {
        PostgresAddress::parse(text).unwrap()
    }

    #[test]
    fn a_url_is_taken_apart() {
        let address = parse(
            "postgresql://ann:p%40ss@db.example:5433/app?sslmode=verify-full&sslrootcert=ca.pem\
             &application_name=a%20b",
        );
        assert_eq!(address.host, Host::Tcp("db.example".into()));
        assert_eq!(address.port, 5433);
        assert_eq!(address.user.as_deref(), Some("ann"));
        assert_eq!(address.password.as_deref(), Some("p@ss"));
        assert_eq!(address.dbname.as_deref(), Some("app"));
        assert_eq!(address.ssl.mode, SslMode::VerifyFull);
        assert_eq!(address.ssl.root_cert.as_deref(), Some(Path::new("ca.pem")));
        assert_eq!(address.options["application_name"], "a b");
    }

    #[test]
    fn what_is_left_out_is_as_in_libpq() {
        let address = parse("postgres://db");
        assert_eq!((address.port, address.ssl.mode), (5432, SslMode::Prefer));
        assert_eq!((address.user, address.password, address.dbname), (None, None, None));
        assert_eq!(parse("postgres://").host, Host::Unix(DEFAULT_SOCKET_FOLDER.into()));
    }

    #[test]
    fn sockets_are_never_encrypted() {
        for text in [
            "postgres://ann@%2Frun%2Fpg/app?sslmode=require",
            "postgres://ann@/app?host=/run/pg&sslmode=require",
            "user=ann host = '/run/pg' dbname=app sslmode=require",
        ] {
            let address = parse(text);
            assert_eq!(address.host, Host::Unix("/run/pg".into()), "{text}");
            assert_eq!(address.ssl, SslPolicy::disabled(), "{text}");
            assert_eq!(address.dbname.as_deref(), Some("app"), "{text}");
        }
    }

    #[test]
    fn words_may_be_quoted_and_escaped() {
        let address = parse(r"host=db password = 'it\'s \\ me' user=a\ b port=1");
        assert_eq!(address.password.as_deref(), Some(r"it's \ me"));
        assert_eq!((address.user.as_deref(), address.port), (Some("a b"), 1));
    }

    #[test]
    fn addresses_of_ipv6_stand_in_brackets() {
        assert_eq!(parse("postgres://[::1]:5433/").host, Host::Tcp("::1".into()));
        assert_eq!(
            parse("postgres://[::1]:5433/").to_url(),
            "postgres://[::1]:5433/?sslmode=prefer"
        );
    }

    #[test]
    fn system_roots_imply_a_verified_name() {
        let address = parse("postgres://db/?sslrootcert=system");
        assert_eq!(address.ssl.mode, SslMode::VerifyFull);
        assert!(
            PostgresAddress::parse("postgres://db/?sslrootcert=system&sslmode=require").is_err()
        );
    }

    #[test]
    fn the_password_is_never_shown() {
        let address = parse("postgres://ann:hunter2@db/app");
        for shown in [address.to_string(), format!("{address:?}"), address.to_masked_string()] {
            assert!(shown.contains("ann:***@db") && !shown.contains("hunter2"), "{shown}");
        }
        assert!(address.with_database("other").to_url().contains("hunter2@db:5432/other"));
    }

    #[test]
    fn errors_say_what_to_do() {
        let wrong = [
            "",
            "mysql://db",
            "just words",
            "host='db",
            "postgres://a,b/",
            "postgres://a:1,b:2/",
            "postgres://::1/",
            "postgres://ann:pa/ss@db/",
            "postgres://ann:p@ss@db/",
            "postgres://ann:1/ss@db/",
            "postgres://db:0/",
            "postgres://db/%zz",
            "postgres://db/?sslmode=verify_full",
            "postgres://db/?ssl_mode=require",
            "postgres://db/?sslcert=x",
            "postgres://db/?hostaddr=::1",
            "postgres:///?hostaddr=db",
            "postgres://db/?target_session_attrs=read-write",
            "postgres://db/?sslnegotiation=direct",
            "postgres://db/?gssencmode=require",
            "postgres://db/?channel_binding=require",
            "postgres://db/?connect_timeout=soon",
        ];
        let text: Vec<String> = wrong
            .iter()
            .map(|text| {
                let error = PostgresAddress::parse(text).unwrap_err();
                format!("{text}\n  {error}\n  {}", error.hint.as_deref().unwrap())
            })
            .collect();
        insta::assert_snapshot!(text.join("\n"));
    }

    #[test]
    fn what_asks_for_nothing_is_taken() {
        let address = parse(
            "postgres://db/?target_session_attrs=any&sslnegotiation=postgres&gssencmode=prefer\
             &channel_binding=prefer&connect_timeout=0&keepalives=1",
        );
        assert_eq!(address.options.len(), 6);
        assert_eq!(parse("postgres:///?hostaddr=::1").host, Host::Tcp("::1".into()));
    }

    fn completed(url: &str, env: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let (address, note) = parse(url).completed(&Env::from_pairs(env.iter().copied()));
        assert_eq!(note, None);
        (address.user, address.password)
    }

    #[test]
    fn what_an_address_leaves_out_comes_from_the_environment() {
        let some = |text: &str| Some(text.to_owned());
        let env = [("PGUSER", "bob"), ("PGPASSWORD", "secret")];
        assert_eq!(completed("postgres://db", &env), (some("bob"), some("secret")));
        assert_eq!(completed("postgres://ann@db", &env), (some("ann"), some("secret")));
        assert_eq!(completed("postgres://ann:own@db", &env), (some("ann"), some("own")));
        assert_eq!(completed("postgres://ann@db", &[("PGPASSWORD", "")]), (some("ann"), None));
        assert_eq!(completed("postgres://db", &[]), (None, None));
        assert!(parse("postgres://db").completed(&Env::here()).0.user.is_some());
    }

    #[test]
    fn a_password_file_is_read_if_nobody_else_can() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".pgpass");
        let text = "db:5432:app:ann:of app\nlocalhost:*:*:ann:of this machine\n\
                    /run/pg:*:ann:ann:of a socket\n*:*:*:carl:of carl\n";
        std::fs::write(&path, text).unwrap();
        let allow =
            |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let home_env = Env::from_pairs([("HOME", home.path().to_str().unwrap())]);
        let password = |url: &str, env: &Env| parse(url).completed(env);
        for mode in [0o640, 0o604, 0o660] {
            allow(mode);
            let (address, note) = password("postgres://ann@db/app", &home_env);
            let note = note.unwrap();
            assert!(address.password.is_none() && note.contains("u=rw (0600)"), "{note}");
        }
        allow(0o600);
        for (url, expected) in [
            ("postgres://ann@db/app", Some("of app")),
            ("postgres://ann:own@db/app", Some("own")),
            ("postgres://ann@db/other", None),
            ("postgres://ann@/other", Some("of this machine")),
            ("postgres://ann@/?host=/run/pg", Some("of a socket")),
            ("postgres://carl@anywhere:1/any", Some("of carl")),
        ] {
            let (address, note) = password(url, &home_env);
            assert_eq!((address.password.as_deref(), note), (expected, None), "{url}");
        }
        // Named itself, and not there.
        let (file, gone) = (path.to_str().unwrap(), "/nowhere/at/all");
        for (file, expected) in [(file, Some("of app")), (gone, None)] {
            let env = Env::from_pairs([("PGPASSFILE", file), ("HOME", "/nowhere")]);
            let (address, note) = password("postgres://ann@db/app", &env);
            assert_eq!((address.password.as_deref(), note), (expected, None), "{file}");
        }
        let folder = home.path().to_str().unwrap();
        let note = password("postgres://ann@db", &Env::from_pairs([("PGPASSFILE", folder)])).1;
        assert_eq!(note, Some(format!("{folder} is not read: it is no plain file")));
    }

    /// A value that the option may have.
    fn option() -> impl Strategy<Value = (&'static str, String)> {
        select(OPTIONS.as_slice()).prop_flat_map(|name| {
            let kept = KEPT.iter().find(|(kept, _, _)| *kept == name);
            let value = match kept {
                Some((_, values, _)) => select(*values).prop_map(String::from).boxed(),
                None if NUMBERS.contains(&name) => {
                    any::<u32>().prop_map(|number| number.to_string()).boxed()
                }
                None => "[^\0]{1,12}".boxed(),
            };
            (Just(name), value)
        })
    }

    fn address() -> impl Strategy<Value = PostgresAddress> {
        let text = || "[^\0]{1,12}";
        let tcp = "[^\0,/@][^\0,]{0,12}".prop_map(Host::Tcp);
        let unix = "[/@][^\0,]{0,12}".prop_map(|folder| Host::Unix(folder.into()));
        let modes: Vec<SslMode> = SslMode::NAMES.iter().map(|(_, mode)| *mode).collect();
        let ssl = (select(modes), of("[a-z/.]{1,5}"));
        let options = vec(option(), 0..3);
        let login = (of(text()), of(text()), of(text()));
        (prop_oneof![tcp, unix], 1..=u16::MAX, login, ssl, options).prop_map(
            |(host, port, (user, password, dbname), (mode, root), options)| PostgresAddress {
                ssl: match host {
                    Host::Tcp(_) => SslPolicy { mode, root_cert: root.map(PathBuf::from) },
                    Host::Unix(_) => SslPolicy::disabled(),
                },
                host,
                port,
                user,
                password,
                dbname,
                options: options.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
            },
        )
    }

    proptest! {
        #[test]
        fn an_address_survives_its_url(address in address()) {
            prop_assert_eq!(PostgresAddress::parse(&address.to_url()), Ok(address));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", url in "[a-z%0-9:/@?&=,\\[\\]#' \\\\]*") {
            let _ = PostgresAddress::parse(&text);
            let _ = PostgresAddress::parse(&url);
            let _ = PostgresAddress::parse(&format!("postgres://{url}"));
            let _ = PostgresAddress::parse(&format!("host={url}"));
        }
    }
}

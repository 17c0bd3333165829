//! Where ClickHouse is and how to log in: one URL, or several of one cluster, taken apart.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Env;
use crate::address::{AddressError, SslMode, SslPolicy};
use crate::hint::did_you_mean;
use crate::url::{MASK, Url, decode, encode, is_secret};

/// What a URL should look like.
const EXAMPLE: &str = "write http://user:password@host:8123/database";

/// Parameters of our own; others are settings of ClickHouse.
const OPTIONS: [&str; 2] = ["sslmode", "sslrootcert"];

/// Who is logged in as where nothing says so: ClickHouse's own.
const DEFAULT_USER: &str = "default";

/// A ClickHouse server, or several that hold the same tables.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClickhouseAddress {
    /// Its HTTP interfaces, such as `http://host:8123`; at least one.
    pub endpoints: Vec<String>,
    /// Whom to log in as.
    pub user: String,
    /// The password.
    pub password: Option<String>,
    /// The database that the URL names.
    pub database: Option<String>,
    /// How certificates are verified, where a URL is one of https.
    pub ssl: SslPolicy,
    /// Settings of ClickHouse that the URL gives, for every query.
    pub settings: BTreeMap<String, String>,
}

impl ClickhouseAddress {
    /// Takes a URL apart: `http://user:password@host:8123/database?setting=value`, or several with
    /// a comma between them, of which the first says all but the host.
    ///
    /// `sslmode` is `strict` (the default) or `none`, and `sslrootcert` a file of certificates that
    /// are trusted.
    ///
    /// # Errors
    /// Anything that is no such URL.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let mut urls = text.trim().split(',');
        let first = split(urls.next().unwrap_or_default())?;
        let mut endpoints = vec![endpoint(&first)];
        for url in urls {
            let url = split(url)?;
            if url.user.is_some() || url.query.is_some() || url.path.len() > 1 {
                let message = "only the first of several URLs may say more than a host and a port";
                return Err(problem(message, "move login, database and settings into the first"));
            }
            endpoints.push(endpoint(&url));
        }
        let mut settings = BTreeMap::new();
        for (name, value) in first.parameters() {
            let (name, value) = (part(Some(name))?, part(value)?);
            let (Some(name), Some(value)) = (name, value) else {
                return Err(problem("a setting in the URL has no value", "write name=value"));
            };
            settings.insert(name, value);
        }
        let ssl = take_ssl(&mut settings)?;
        // ClickHouse's own interface takes all three as parameters.
        let mut once = |name: &str, said: Option<String>| match (said, settings.remove(name)) {
            (Some(_), Some(_)) => {
                Err(problem(&format!("the URL says the {name} twice"), "leave out one of them"))
            }
            (said, parameter) => Ok(said.or(parameter)),
        };
        let database = part(first.path.strip_prefix('/'))?.filter(|name| !name.is_empty());
        let user = part(first.user)?.filter(|user| !user.is_empty());
        let user = once("user", user)?.unwrap_or_default();
        let password = once("password", part(first.password)?)?;
        let database = once("database", database)?;
        Ok(Self { endpoints, user, password, database, ssl, settings })
    }

    /// Takes what the URL does not say of the login from `CLICKHOUSE_USER` and
    /// `CLICKHOUSE_PASSWORD`, as ClickHouse's own client does.
    #[must_use]
    pub fn with_login_from(mut self, env: &Env) -> Self {
        if self.user.is_empty() {
            let user = env.get("CLICKHOUSE_USER").filter(|user| !user.is_empty());
            self.user = user.unwrap_or_else(|| DEFAULT_USER.into());
        }
        if self.password.is_none() {
            self.password = env.get("CLICKHOUSE_PASSWORD");
        }
        self
    }

    /// The whole address as text, password included: [`Self::parse`] gives the same address back.
    #[must_use]
    pub fn to_url(&self) -> String {
        self.url_with(self.password.as_deref().map(encode), encode)
    }

    fn url_with(&self, password: Option<String>, secret: impl Fn(&str) -> String) -> String {
        let login = match (self.user.as_str(), password) {
            ("", None) => String::new(),
            (user, None) => format!("{}@", encode(user)),
            (user, Some(password)) => format!("{}:{password}@", encode(user)),
        };
        let (first, others) = self
            .endpoints
            .split_first()
            .map_or(("", &[][..]), |(first, others)| (first.as_str(), others));
        let (scheme, host) = first.split_once("://").unwrap_or(("http", first));
        let database = self.database.as_deref().map(encode).unwrap_or_default();
        let mut parameters: Vec<_> = self
            .settings
            .iter()
            .map(|(name, value)| match is_secret(name) {
                true => format!("{}={}", encode(name), secret(value)),
                false => format!("{}={}", encode(name), encode(value)),
            })
            .collect();
        if self.ssl.mode != SslMode::VerifyFull {
            parameters.push("sslmode=none".into());
        }
        if let Some(path) = &self.ssl.root_cert {
            parameters.push(format!("sslrootcert={}", encode(&path.to_string_lossy())));
        }
        let question = if parameters.is_empty() { "" } else { "?" };
        let mut text =
            format!("{scheme}://{login}{host}/{database}{question}{}", parameters.join("&"));
        for other in others {
            text += &format!(",{other}");
        }
        text
    }
}

impl fmt::Display for ClickhouseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| MASK.into());
        f.write_str(&self.url_with(password, |_| MASK.into()))
    }
}

impl fmt::Debug for ClickhouseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClickhouseAddress({self})")
    }
}

fn problem(message: &str, hint: &str) -> AddressError {
    AddressError { message: message.into(), hint: Some(hint.into()) }
}

fn split(text: &str) -> Result<Url<'_>, AddressError> {
    let url = Url::split(text.trim()).ok_or_else(|| problem("not a URL", EXAMPLE))?;
    if !["http", "https"].contains(&url.scheme) {
        return Err(problem("the URL's scheme is neither http nor https", EXAMPLE));
    }
    if url.host.is_empty() || url.host.contains(|c: char| "@/,".contains(c) || c.is_whitespace()) {
        return Err(problem("the URL names no host", EXAMPLE));
    }
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if !url.port.is_none_or(is_port) {
        return Err(problem("the URL's port is not a number from 1 to 65535", EXAMPLE));
    }
    Ok(url)
}

/// ClickHouse listens at 8123, and at 8443 with TLS.
fn endpoint(url: &Url<'_>) -> String {
    let default = if url.scheme == "https" { "8443" } else { "8123" };
    format!("{}://{}:{}", url.scheme, url.host, url.port.unwrap_or(default))
}

fn part(text: Option<&str>) -> Result<Option<String>, AddressError> {
    let decoded = text.map(|text| {
        let message = "a part of the URL is not well percent-encoded";
        let hint = "write @ / : ? # % in a password as %40 %2F %3A %3F %23 %25";
        decode(text).ok_or_else(|| problem(message, hint))
    });
    decoded.transpose()
}

fn take_ssl(settings: &mut BTreeMap<String, String>) -> Result<SslPolicy, AddressError> {
    let [mode, root] = OPTIONS.map(|name| settings.remove(name));
    let mode = match mode.as_deref() {
        None | Some("strict") => SslMode::VerifyFull,
        Some("none") => SslMode::Require,
        Some(other) => {
            let hint = did_you_mean(other, ["strict", "none"]);
            return Err(problem("the sslmode is not known", &hint));
        }
    };
    if mode == SslMode::Require && root.is_some() {
        return Err(problem("sslmode=none looks at no certificate", "leave out sslrootcert"));
    }
    Ok(SslPolicy { mode, root_cert: root.map(PathBuf::from) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> ClickhouseAddress {
        ClickhouseAddress::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn a_url_says_everything() {
        let address = parse("https://me:p%40ss@h.example/db?sslrootcert=/ca.pem&max_threads=4");
        assert_eq!(address.endpoints, ["https://h.example:8443"]);
        assert_eq!((address.user.as_str(), address.password.as_deref()), ("me", Some("p@ss")));
        assert_eq!(address.database.as_deref(), Some("db"));
        assert_eq!(address.settings, BTreeMap::from([("max_threads".into(), "4".into())]));
        assert_eq!(address.ssl.root_cert.as_deref(), Some("/ca.pem".as_ref()));
        let shown = format!("{address} {address:?}");
        assert!(!shown.contains("p@ss") && !shown.contains("p%40ss"), "{shown}");
    }

    #[test]
    fn a_login_may_be_in_the_parameters() {
        let address = parse("http://h:1/?user=me&password=hunter2&database=d&some_token=hunter2");
        assert_eq!((address.user.as_str(), address.password.as_deref()), ("me", Some("hunter2")));
        assert_eq!(address.database.as_deref(), Some("d"));
        assert_eq!(address.to_string(), "http://me:***@h:1/d?some_token=***");
    }

    #[test]
    fn several_urls_are_one_address() {
        let address = parse("http://me@a:1/db, http://b:2/,https://[::1]");
        assert_eq!(address.endpoints, ["http://a:1", "http://b:2", "https://[::1]:8443"]);
        let error = ClickhouseAddress::parse("http://a,http://me@b").unwrap_err();
        assert!(error.message.contains("only the first"), "{error}");
    }

    #[test]
    fn the_environment_fills_in_the_login() {
        let env = Env::from_pairs([("CLICKHOUSE_USER", "e"), ("CLICKHOUSE_PASSWORD", "s")]);
        let login = |text: &str, env: &Env| {
            let address = parse(text).with_login_from(env);
            (address.user, address.password)
        };
        assert_eq!(login("http://h", &env), ("e".into(), Some("s".into())));
        assert_eq!(login("http://me:p@h", &env), ("me".into(), Some("p".into())));
        assert_eq!(login("http://h", &Env::default()), ("default".into(), None));
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_shown() {
        for (text, message) in [
            ("localhost:8123", "not a URL"),
            ("tcp://h:9000", "neither http nor https"),
            ("http://", "names no host"),
            ("http://h:0", "port"),
            ("http://u:secr%zz@h", "percent-encoded"),
            ("http://h?flag", "no value"),
            ("http://h?sslmode=strikt", "sslmode"),
            ("http://u:secret@h?password=secret", "twice"),
            ("https://h?sslmode=none&sslrootcert=x", "certificate"),
        ] {
            let error = ClickhouseAddress::parse(text).unwrap_err();
            assert!(error.message.contains(message), "{text}: {error}");
            assert!(error.hint.is_some() && !format!("{error:?}").contains("secr"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_address_survives_its_text(
            hosts in prop::collection::vec("[a-z]{1,9}", 1..4),
            user in ".{1,9}",
            password in prop::option::of(".{0,9}"),
            database in prop::option::of(".{1,9}"),
            settings in prop::collection::btree_map("[a-z_]{1,5}x", ".{0,5}", 0..3),
            verified: bool,
        ) {
            let has_nul = |text: &str| text.contains('\0');
            let texts = [Some(&user), password.as_ref(), database.as_ref()];
            prop_assume!(!texts.into_iter().flatten().chain(settings.values()).any(|t| has_nul(t)));
            let mode = if verified { SslMode::VerifyFull } else { SslMode::Require };
            let address = ClickhouseAddress {
                endpoints: hosts.iter().map(|host| format!("https://{host}:1")).collect(),
                user,
                password,
                database,
                ssl: SslPolicy { mode, root_cert: None },
                settings,
            };
            prop_assert_eq!(parse(&address.to_url()), address);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let _ = ClickhouseAddress::parse(&text);
        }
    }
}

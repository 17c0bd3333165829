//! A request, but for its body: what is asked for, and by whom.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::{HeaderMap, Method, header};
use percent_encoding::percent_decode;

use super::encoding::Encoding;
use super::form;
use crate::clickhouse::exception::{
    AUTHENTICATION_FAILED, BAD_REQUEST_PARAMETER, CANNOT_PARSE_BOOL, Exception, NOT_IMPLEMENTED,
    UNKNOWN_COMPRESSION_METHOD,
};

/// Who may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The only user.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// What a request's line and headers say, and the fields of a form in its body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The query, or its beginning: the body goes on with it.
    pub query: String,
    /// Settings, in the order they were given.
    pub settings: Vec<(String, String)>,
    /// Values of the query's parameters.
    pub parameters: Vec<(String, String)>,
    /// The database.
    pub database: Option<String>,
    /// The format of results whose query names none.
    pub default_format: Option<String>,
    /// The query's identity.
    pub query_id: Option<String>,
    /// Who asks.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<String>,
    /// The body is ClickHouse's compressed blocks.
    pub decompress: bool,
    /// The answer is wanted as ClickHouse's compressed blocks.
    pub compress: bool,
    /// The answer begins once it is known whole.
    pub waits_for_end: bool,
    /// How the body is encoded.
    pub(super) encoding: Option<Encoding>,
    /// How the answer may be encoded.
    pub(super) accepted: Option<Encoding>,
    /// The body is a form, with this boundary.
    pub(super) boundary: Option<String>,
}

impl Request {
    /// Reads the line and the headers.
    ///
    /// # Errors
    /// They ask for something that makes no sense or is not supported.
    pub fn parse<B>(request: &hyper::Request<B>) -> Result<Self, Exception> {
        let (headers, uri) = (request.headers(), request.uri());
        let mut parsed = Self {
            database: header(headers, "x-clickhouse-database")?,
            default_format: header(headers, "x-clickhouse-format")?,
            query_id: header(headers, "x-clickhouse-query-id")?,
            encoding: content_encoding(headers)?,
            boundary: form::boundary(headers)?,
            ..Self::default()
        };
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parsed.set(&decode(name)?, decode(value)?)?;
        }
        // What is asked with GET must not change anything.
        if *request.method() == Method::GET || *request.method() == Method::HEAD {
            parsed.settings.retain(|(name, _)| name != "readonly");
            parsed.settings.push(("readonly".into(), "2".into()));
        }
        parsed.accepted = parsed.accepted_encoding(headers)?;
        parsed.credentials(headers)?;
        Ok(parsed)
    }

    /// Takes one parameter of the URL or field of a form.
    pub(super) fn set(&mut self, name: &str, value: String) -> Result<(), Exception> {
        match name {
            "query" => self.query.push_str(&value),
            "database" => self.database = Some(value),
            "default_format" => self.default_format = Some(value),
            "query_id" => self.query_id = Some(value),
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "decompress" => self.decompress = flag(name, &value)?,
            "compress" => self.compress = flag(name, &value)?,
            "wait_end_of_query" => self.waits_for_end = flag(name, &value)?,
            // How much ClickHouse gathers before it answers: nothing to a client that reads on.
            "buffer_size" | "quota_key" | "stacktrace" => {}
            "session_id" | "session_timeout" | "session_check" | "close_session" | "role" => {
                let text = format!("{name} is not supported here: each query stands alone");
                return Err(Exception::new(NOT_IMPLEMENTED, text));
            }
            _ => match name.strip_prefix("param_") {
                Some(parameter) => self.parameters.push((parameter.into(), value)),
                None => self.settings.push((name.into(), value)),
            },
        }
        Ok(())
    }

    /// Whether that user may ask.
    pub(super) fn check(&self, access: Option<&Access>) -> Result<String, Exception> {
        let user = self.user.as_deref().filter(|user| !user.is_empty()).unwrap_or("default");
        let Some(access) = access else { return Ok(user.into()) };
        if user == access.user && self.password.as_deref().unwrap_or_default() == access.password {
            return Ok(user.into());
        }
        let text = format!(
            "{user}: Authentication failed: password is incorrect, or there is no user with such \
             name"
        );
        Err(Exception::new(AUTHENTICATION_FAILED, text))
    }

    fn credentials(&mut self, headers: &HeaderMap) -> Result<(), Exception> {
        let in_url = self.user.is_some() || self.password.is_some();
        let user = header(headers, "x-clickhouse-user")?;
        let key = header(headers, "x-clickhouse-key")?;
        let in_headers = user.is_some() || key.is_some();
        let basic = headers.get(header::AUTHORIZATION).map(basic).transpose()?;
        if usize::from(in_url) + usize::from(in_headers) + usize::from(basic.is_some()) > 1 {
            let text = "Invalid authentication: it is not allowed to use several of the \
                        X-ClickHouse headers, the Authorization header and the URL's user and \
                        password at once";
            return Err(Exception::new(AUTHENTICATION_FAILED, text));
        }
        if in_headers {
            (self.user, self.password) = (user, key);
        } else if let Some((user, password)) = basic {
            (self.user, self.password) = (Some(user), Some(password));
        }
        Ok(())
    }

    /// ClickHouse encodes if the client can read it and the setting, on by default, allows it.
    fn accepted_encoding(&self, headers: &HeaderMap) -> Result<Option<Encoding>, Exception> {
        let name = "enable_http_compression";
        let allowed = self.settings.iter().rev().find(|(setting, _)| setting == name);
        if !allowed.map_or(Ok(true), |(_, value)| flag(name, value))? {
            return Ok(None);
        }
        let accepted = headers.get_all(header::ACCEPT_ENCODING).iter();
        let texts = accepted.filter_map(|value| value.to_str().ok());
        Ok(texts.flat_map(|text| text.split(',')).find_map(|wish| {
            let (name, quality) = wish.split_once(';').unwrap_or((wish, ""));
            let refused = quality.trim().trim_start_matches("q=").parse() == Ok(0.0);
            Encoding::of(name).filter(|_| !refused)
        }))
    }
}

/// A percent-encoded part of a URL's query.
fn decode(text: &str) -> Result<String, Exception> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode(spaced.as_bytes()).decode_utf8();
    decoded.map(Into::into).map_err(|_| {
        let text = "the URL is not UTF-8; other bytes can stand in the body";
        Exception::new(BAD_REQUEST_PARAMETER, text)
    })
}

fn flag(name: &str, value: &str) -> Result<bool, Exception> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" | "" => Ok(false),
        _ => {
            let text = format!("Cannot parse {name}: 0 or 1, true or false, and not '{value}'");
            Err(Exception::new(CANNOT_PARSE_BOOL, text))
        }
    }
}

fn header(headers: &HeaderMap, name: &str) -> Result<Option<String>, Exception> {
    let text = headers.get(name).map(|value| std::str::from_utf8(value.as_bytes()));
    let text = text.transpose().map_err(|_| {
        Exception::new(BAD_REQUEST_PARAMETER, format!("the header {name} is not UTF-8"))
    })?;
    Ok(text.map(Into::into))
}

fn content_encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Exception> {
    let name = header(headers, "content-encoding")?.unwrap_or_default();
    if name.is_empty() || name.eq_ignore_ascii_case("identity") {
        return Ok(None);
    }
    let unknown = || {
        let text = format!("Unknown compression method {name}; known are gzip, deflate, lz4, zstd");
        Exception::new(UNKNOWN_COMPRESSION_METHOD, text)
    };
    Encoding::of(&name).map(Some).ok_or_else(unknown)
}

fn basic(value: &header::HeaderValue) -> Result<(String, String), Exception> {
    let parsed = value.to_str().ok().and_then(|text| {
        let (scheme, encoded) = text.split_once(' ')?;
        let decoded = String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        scheme.eq_ignore_ascii_case("basic").then(|| (user.to_owned(), password.to_owned()))
    });
    parsed.ok_or_else(|| {
        let text = "Invalid authentication: only Basic is known, with user:password in base64";
        Exception::new(AUTHENTICATION_FAILED, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str, headers: &[(&str, &str)]) -> Result<Request, Exception> {
        let mut request = hyper::Request::post(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Request::parse(&request.body(()).unwrap())
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn a_url_says_what_is_asked() {
        let asked = request(
            "/?query=SELECT+%7Bx%3AString%7D%2C%20'%C3%A4'&param_x=a%26b&database=d&max_threads=2\
             &default_format=CSV&query_id=q&decompress=1&compress=true&wait_end_of_query=1&",
            &[],
        );
        let asked = asked.unwrap();
        assert_eq!(asked.query, "SELECT {x:String}, 'ä'");
        assert_eq!(asked.parameters, [pair("x", "a&b")]);
        assert_eq!(asked.settings, [pair("max_threads", "2")]);
        assert_eq!(asked.database.as_deref(), Some("d"));
        assert_eq!(asked.default_format.as_deref(), Some("CSV"));
        assert_eq!(asked.query_id.as_deref(), Some("q"));
        assert!(asked.decompress && asked.compress && asked.waits_for_end);
    }

    #[test]
    fn the_url_wins_over_headers() {
        let headers = [("X-ClickHouse-Format", "TSV"), ("X-ClickHouse-Query-Id", "h")];
        let asked = request("/?query_id=u", &headers).unwrap();
        assert_eq!(asked.default_format.as_deref(), Some("TSV"));
        assert_eq!(asked.query_id.as_deref(), Some("u"));
    }

    #[test]
    fn get_changes_nothing() {
        let get = hyper::Request::get("/?query=SELECT+1&readonly=0").body(()).unwrap();
        let settings = Request::parse(&get).unwrap().settings;
        assert_eq!(settings, [pair("readonly", "2")]);
    }

    #[test]
    fn who_asks_is_known_in_one_way() {
        let access = Access { user: "me".into(), password: "p:w".into() };
        let check = |url: &str, headers: &[(&str, &str)]| {
            request(url, headers).and_then(|asked| asked.check(Some(&access)))
        };
        let basic = format!("Basic {}", BASE64.encode("me:p:w"));
        let header = [("X-ClickHouse-User", "me"), ("X-ClickHouse-Key", "p:w")];
        assert_eq!(check("/?user=me&password=p:w", &[]).unwrap(), "me");
        assert_eq!(check("/", &header).unwrap(), "me");
        assert_eq!(check("/", &[("Authorization", &basic)]).unwrap(), "me");
        for (url, headers) in [
            ("/", &[][..]),
            ("/?user=me", &[]),
            ("/?user=me&password=p", &[]),
            ("/?user=me", &header),
            ("/", &[("Authorization", "Bearer x")]),
            ("/", &[("Authorization", "Basic ???")]),
        ] {
            assert_eq!(check(url, headers).unwrap_err().code, 516, "{url} {headers:?}");
        }
        assert_eq!(request("/", &[]).unwrap().check(None).unwrap(), "default");
    }

    #[test]
    fn an_encoding_is_taken_if_it_is_known_and_allowed() {
        let accepted =
            |url: &str, wish: &str| request(url, &[("Accept-Encoding", wish)]).unwrap().accepted;
        assert_eq!(accepted("/", "br, lz4;q=0, zstd;q=0.5, gzip"), Some(Encoding::Zstd));
        assert_eq!(accepted("/?enable_http_compression=1", "gzip"), Some(Encoding::Gzip));
        assert_eq!(accepted("/?enable_http_compression=0", "gzip"), None);
        assert_eq!(accepted("/", "br"), None);
        assert_eq!(request("/", &[("Content-Encoding", "br")]).unwrap_err().code, 89);
        let zstd = request("/", &[("Content-Encoding", "zstd")]).unwrap();
        assert_eq!(zstd.encoding, Some(Encoding::Zstd));
    }

    #[test]
    fn what_is_not_supported_is_said() {
        assert_eq!(request("/?session_id=s", &[]).unwrap_err().code, 48);
        assert_eq!(request("/?decompress=maybe", &[]).unwrap_err().code, 467);
        assert_eq!(request("/?query=%FF", &[]).unwrap_err().code, 408);
    }
}

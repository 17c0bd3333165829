//! The parts of a URL, as slices of its text.

/// The parts of `scheme://user:password@host:port/path?query`, still percent-encoded.
///
/// Splits as libpq does: the login ends at the first `@` before the first `/`, and `#` means
/// nothing, so that a password may hold `?` and `#`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Url<'a> {
    pub(crate) scheme: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
    /// With the brackets of an IPv6 address.
    pub(crate) host: &'a str,
    pub(crate) port: Option<&'a str>,
    /// With its first `/`, where there is one.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
}

impl<'a> Url<'a> {
    /// `None` without a scheme.
    pub(crate) fn split(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if scheme.is_empty() || !scheme.chars().all(is_scheme) {
            return None;
        }
        let (login, rest) = match rest.find(['@', '/']) {
            Some(at) if rest[at..].starts_with('@') => (Some(&rest[..at]), &rest[at + 1..]),
            _ => (None, rest),
        };
        let (user, password) = match login.map(|login| login.split_once(':').ok_or(login)) {
            None => (None, None),
            Some(Ok((user, password))) => (Some(user), Some(password)),
            Some(Err(user)) => (Some(user), None),
        };
        let (rest, query) = split_off(rest, '?');
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = split_port(authority);
        Some(Self { scheme, user, password, host, port, path, query })
    }

    /// The parameters of the query; a word without `=` has no value.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let words = self.query.into_iter().flat_map(|query| query.split('&'));
        words.filter(|word| !word.is_empty()).map(|word| split_off(word, '='))
    }
}

fn split_off(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(left, right)| (left, Some(right)))
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    // The colons inside brackets are an IPv6 address's.
    let after_address = authority.rfind(']').map_or(0, |end| end + 1);
    match authority[after_address..].rfind(':') {
        Some(colon) => {
            let colon = after_address + colon;
            (&authority[..colon], Some(&authority[colon + 1..]))
        }
        None => (authority, None),
    }
}

/// `text` with each `%XX` replaced by its byte; `None` if a `%` is followed by anything else, or
/// the result is not UTF-8 or holds a NUL, which no setting of PostgreSQL can.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            _ => byte,
        });
    }
    String::from_utf8(decoded).ok().filter(|text| !text.contains('\0'))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| value.try_into().ok())
}

/// `text` with every byte that could mean something in a URL as `%XX`.
pub(crate) fn encode(text: &str) -> String {
    let encode_byte = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode_byte).collect()
}

/// What stands where a secret was.
pub(crate) const MASK: &str = "***";

/// The URL with its password, and every query parameter that looks like a secret, masked. All of
/// it, when it is no URL or holds an `@` that ends no login (from a password with a `/` or `@`):
/// where the secret stands in it is then unknown.
pub(crate) fn mask(text: &str) -> String {
    let Some(url) = Url::split(text) else { return MASK.into() };
    if text.matches('@').count() > usize::from(url.user.is_some()) {
        return MASK.into();
    }
    let login = match (url.user, url.password) {
        (Some(user), Some(_)) => format!("{user}:{MASK}@"),
        (Some(user), None) => format!("{user}@"),
        (None, _) => String::new(),
    };
    let port = url.port.map_or_else(String::new, |port| format!(":{port}"));
    let query: Vec<String> = url.parameters().map(mask_parameter).collect();
    let separator = if url.query.is_some() { "?" } else { "" };
    let Url { scheme, host, path, .. } = url;
    format!("{scheme}://{login}{host}{port}{path}{separator}{}", query.join("&"))
}

fn mask_parameter((name, value): (&str, Option<&str>)) -> String {
    match value {
        Some(_) if is_secret(name) => format!("{name}={MASK}"),
        Some(value) => format!("{name}={value}"),
        None => name.into(),
    }
}

/// What is so called is not shown.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = decode(name).unwrap_or_else(|| name.into()).to_lowercase();
    ["password", "passwd", "secret", "token"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_url_is_split() {
        let url = Url::split("https://ann:p?#w@[::1]:8443/db?a=1&b").unwrap();
        assert_eq!((url.scheme, url.user, url.password), ("https", Some("ann"), Some("p?#w")));
        assert_eq!((url.host, url.port, url.path), ("[::1]", Some("8443"), "/db"));
        assert_eq!(url.parameters().collect::<Vec<_>>(), [("a", Some("1")), ("b", None)]);
    }

    #[test]
    fn secrets_are_masked() {
        let masked = mask("http://ann:hunter2@ch:8123/?user=x&Password=hunter2&API_TOKEN=hunter2");
        assert_eq!(masked, "http://ann:***@ch:8123/?user=x&Password=***&API_TOKEN=***");
        for secret in ["hunter2", "http://ann:hunter/2@ch", "http://ann:hunter@2@ch"] {
            assert_eq!(mask(secret), "***");
        }
        assert_eq!(mask("http://ch:8123"), "http://ch:8123");
    }

    #[test]
    fn a_bad_percent_sign_is_refused() {
        assert_eq!(decode("a%20b"), Some("a b".into()));
        for bad in ["%", "%2", "%zz", "%ff", "%00"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in "[^\0]*") {
            prop_assert_eq!(decode(&encode(&text)), Some(text));
        }

        #[test]
        fn any_text_can_be_split_and_masked(text in "\\PC*", login in "[a-z:@/?#\\[\\]]*") {
            let _ = mask(&text);
            let _ = mask(&format!("http://{login}"));
        }
    }
}

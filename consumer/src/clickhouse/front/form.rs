//! Forms: a POST whose body holds the query and its parameters as fields, for those that are too
//! long for a URL.

use hyper::HeaderMap;
use hyper::header::CONTENT_TYPE;

use crate::clickhouse::exception::{BAD_REQUEST_PARAMETER, Exception, NOT_IMPLEMENTED};

/// The largest form that is taken.
pub(super) const LARGEST_FORM_BYTES: usize = 1024 * 1024;

/// The boundary between a form's fields, if the body is one.
pub(super) fn boundary(headers: &HeaderMap) -> Result<Option<String>, Exception> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (kind, parameters) = kind.split_once(';').unwrap_or((kind, ""));
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return Ok(None);
    }
    let parameters = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let mut boundaries =
        parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"));
    let boundary = boundaries.next().map(|(_, boundary)| boundary.trim().trim_matches('"'));
    match boundary.filter(|boundary| !boundary.is_empty()) {
        Some(boundary) => Ok(Some(boundary.to_owned())),
        None => Err(malformed("it has no boundary")),
    }
}

/// The fields of a form, in order.
pub(super) fn fields(body: &[u8], boundary: &str) -> Result<Vec<(String, String)>, Exception> {
    let delimiter = format!("\r\n--{boundary}");
    // The first boundary may stand at the very beginning.
    let body = [b"\r\n", body].concat();
    let mut parts = split(&body, delimiter.as_bytes());
    parts.next();
    let mut fields = Vec::new();
    for part in parts {
        if part.starts_with(b"--") {
            return Ok(fields);
        }
        fields.push(field(part)?);
    }
    Err(malformed("its last boundary is missing"))
}

fn field(part: &[u8]) -> Result<(String, String), Exception> {
    let at =
        memchr::memmem::find(part, b"\r\n\r\n").ok_or_else(|| malformed("a field is cut off"))?;
    let head = String::from_utf8_lossy(&part[..at]);
    let disposition = head.lines().filter_map(|line| line.split_once(':'));
    let mut disposition =
        disposition.filter(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"));
    let (_, disposition) = disposition.next().ok_or_else(|| malformed("a field has no name"))?;
    let attribute = |wanted: &str| {
        let attributes = disposition.split(';').filter_map(|attribute| attribute.split_once('='));
        let mut found = attributes.filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
        found.next().map(|(_, value)| value.trim().trim_matches('"').to_owned())
    };
    if attribute("filename").is_some() {
        let text = "external tables in a form are not supported here";
        return Err(Exception::new(NOT_IMPLEMENTED, text));
    }
    let name = attribute("name").ok_or_else(|| malformed("a field has no name"))?;
    let value = String::from_utf8(part[at + 4..].to_vec());
    Ok((name, value.map_err(|_| malformed("a field is not UTF-8"))?))
}

fn split<'a>(mut rest: &'a [u8], delimiter: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let Some(at) = memchr::memmem::find(rest, delimiter) else {
            ended = true;
            return Some(rest);
        };
        let part = &rest[..at];
        rest = &rest[at + delimiter.len()..];
        Some(part)
    })
}

fn malformed(why: &str) -> Exception {
    Exception::new(BAD_REQUEST_PARAMETER, format!("the form can't be read: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_read_in_order() {
        let body = "--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {x:String}\r\n\
                    --b\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; \
                    name=\"param_x\"\r\n\r\nx--b\r\n\r\n--b--\r\n";
        let expected = [("query", "SELECT {x:String}"), ("param_x", "x--b\r\n")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields(body.as_bytes(), "b").unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_with_a_form_is_said() {
        let code = |body: &str| fields(body.as_bytes(), "b").unwrap_err().code;
        assert_eq!(code(""), 408);
        assert_eq!(code("--b\r\nno head\r\n--b--"), 408);
        assert_eq!(code("--b\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\ncut"), 408);
        let file = "--b\r\nContent-Disposition: form-data; name=t; filename=t\r\n\r\n1\r\n--b--";
        assert_eq!(code(file), 48);
    }

    #[test]
    fn only_forms_are_forms() {
        let read = |kind: &str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);
            boundary(&headers)
        };
        // What curl says of any text it posts.
        assert_eq!(read("application/x-www-form-urlencoded").unwrap(), None);
        let form = read("Multipart/form-data; charset=x; boundary=\"a b\"").unwrap();
        assert_eq!(form.as_deref(), Some("a b"));
        assert_eq!(read("multipart/form-data").unwrap_err().code, 408);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = fields(&body, "-");
        }
    }
}

//! Request targets (RFC 9112 section 3.2) and the value of `Host`.
//!
//! A target comes out as path and query, still encoded, or as the asterisk. Visible ASCII that the URI
//! grammar would have escaped passes, since clients send it and decoding settles it; a fragment, another
//! form, an invalid authority or a foreign scheme is a `BadRequest`.

use super::head::Method;
use crate::base::error::{Code, Error, Result};

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A path with its query, both as they came; absolute-form is reduced to this.
    Origin {
        /// Begins with `/`.
        path: String,
        /// What follows the first `?`, if there is one.
        query: Option<String>,
    },
    /// `OPTIONS *`: the server as a whole.
    Asterisk,
}

/// Reads a target of visible ASCII; `method` is `None` for one that this server does not know.
pub(super) fn parse(raw: &str, method: Option<Method>) -> Result<Target> {
    let refused = |why: &'static str| Err(Error::new(Code::BadRequest, why));
    if raw.bytes().any(|b| !b.is_ascii_graphic()) {
        return refused("the request target has a byte that is not visible ASCII: escape it as %XX");
    }
    if raw.contains('#') {
        return refused("the request target has a fragment: write # as %23");
    }
    if raw.starts_with('/') {
        return Ok(origin(raw));
    }
    if raw == "*" {
        return match method {
            Some(Method::Options) | None => Ok(Target::Asterisk),
            Some(_) => refused("only OPTIONS has the request target *"),
        };
    }
    let Some(rest) = strip_scheme(raw) else {
        return refused("the request target is neither a path nor an http URL");
    };
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !is_authority(authority) {
        return refused("the request target names no valid host");
    }
    Ok(origin(rest))
}

/// Splits path and query; an empty path is `/`.
fn origin(raw: &str) -> Target {
    let (path, query) = raw.split_once('?').map_or((raw, None), |(path, query)| (path, Some(query)));
    let path = if path.is_empty() { "/" } else { path };
    Target::Origin { path: path.to_owned(), query: query.map(str::to_owned) }
}

fn strip_scheme(raw: &str) -> Option<&str> {
    let (scheme, rest) = raw.split_once("://")?;
    ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)).then_some(rest)
}

/// Whether the text is a host with or without a port (`uri-host [ ":" port ]`), and not empty. There is no
/// user information in one (RFC 9110 section 4.2.4).
pub(super) fn is_authority(text: &str) -> bool {
    let (host_is_valid, port) = if let Some(literal) = text.strip_prefix('[') {
        let (address, port) = literal.split_once(']').unwrap_or_default();
        (address.parse::<std::net::Ipv6Addr>().is_ok(), port)
    } else {
        let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        (is_reg_name(host), port)
    };
    let port_is_valid = match port.strip_prefix(':') {
        Some(digits) => {
            digits.is_empty() || (digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok())
        }
        None => port.is_empty(),
    };
    host_is_valid && port_is_valid
}

/// Whether the text is a name or an IPv4 address (RFC 3986 `reg-name`), and not empty.
fn is_reg_name(host: &str) -> bool {
    let bytes = host.as_bytes();
    let escape = |at: usize| bytes.len() > at + 2 && bytes[at + 1..at + 3].iter().all(u8::is_ascii_hexdigit);
    !bytes.is_empty()
        && bytes.iter().enumerate().all(|(at, b)| match b {
            b'%' => escape(at),
            b => b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(b),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_reduced_to_path_and_query() {
        for (raw, path, query) in [
            ("/", "/", None),
            ("/objects/a%2Fb", "/objects/a%2Fb", None),
            ("/a?", "/a", Some("")),
            ("/a?b=c?d", "/a", Some("b=c?d")),
            ("//a/../b", "//a/../b", None),
            ("/a{|}^\"<>\\`", "/a{|}^\"<>\\`", None),
            ("/*", "/*", None),
            ("http://h", "/", None),
            ("HTTP://h:80?x", "/", Some("x")),
            ("https://[::1]:8080/a?b", "/a", Some("b")),
            ("http://1.2.3.4:/a", "/a", None),
        ] {
            let target = Target::Origin { path: path.to_owned(), query: query.map(str::to_owned) };
            assert_eq!(parse(raw, Some(Method::Get)).unwrap(), target, "{raw}");
        }
        assert_eq!(parse("*", Some(Method::Options)).unwrap(), Target::Asterisk);
    }

    #[test]
    fn other_targets_are_refused() {
        for raw in [
            "",
            "*",
            "**",
            "a",
            "host:443",
            "a/b",
            "?a",
            "/a#b",
            "/#",
            "http://h#",
            "/\u{e9}",
            "/a b",
            "/\x01",
            "ftp://h/",
            "http:/a",
            "http:",
            "http://",
            "http:///a",
            "http://?a",
            "http://u@h/",
            "http://h:x/",
            "http://h:65536/",
            "://h/",
        ] {
            assert_eq!(parse(raw, Some(Method::Get)).unwrap_err().code, Code::BadRequest, "{raw}");
        }
        assert_eq!(parse("host:443", Some(Method::Connect)).unwrap_err().code, Code::BadRequest);
    }

    #[test]
    fn hosts_are_names_or_addresses_with_a_port() {
        for good in
            ["a", "a.b-c_d", "127.0.0.1", "127.0.0.1:8080", "a:", "[::1]", "[fe80::1]:80", "a%20b", "x:65535"]
        {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "", ":80", "a b", "a/b", "a@b", "a:b", "a:1:2", "a:-1", "a:+1", "[::1", "::1", "[x]", "[]",
            "a%2", "a%zz", "a?b", "a#b", "\u{e9}", "a:99999", "[::1]x", "a\\b",
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }
}

//! Request heads: from the bytes of a connection to method, target, fields and framing.
//!
//! A head that comes out is well-formed by the strict reading of RFC 9112: CRLF line ends, one valid `Host`,
//! one framing. Nothing is repaired, because another reader on the way might have repaired it differently.
//! Every error means that the connection cannot be used any more; its code is that of the answer. Where
//! several things are wrong, malformed (400) goes before unknown (501), and that before an expectation (417).

pub use super::framing::Framing;
pub use super::headers::Headers;
pub use super::target::Target;
use super::{headers, scan, target};
use crate::base::error::{Code, Error, Result};
use crate::limits::{HEADER_FIELDS_MAX, PEER_FIELDS_ADDS};

/// The methods of RFC 9110 and PATCH; any other is refused as `NotImplemented`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Method {
    Get,
    Head,
    Put,
    Delete,
    Options,
    Post,
    Patch,
    Trace,
    Connect,
}

impl Method {
    /// Reads a method token; methods have a case.
    pub fn parse(token: &str) -> Option<Self> {
        Some(match token {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "POST" => Self::Post,
            "PATCH" => Self::Patch,
            "TRACE" => Self::Trace,
            "CONNECT" => Self::Connect,
            _ => return None,
        })
    }
}

/// A request without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The request target.
    pub target: Target,
    /// Whether the client speaks HTTP/1.1 rather than 1.0.
    pub http11: bool,
    /// All fields.
    pub headers: Headers,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client wants the connection to persist: 1.1 without `close`, 1.0 with `keep-alive`.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue`; it may say so without having a body.
    pub expect_continue: bool,
}

/// What is known of a head so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Call again with more bytes behind these.
    Partial,
    /// The head, and how many bytes of the buffer it took; the body or the next request follows.
    Complete {
        /// The head.
        head: Head,
        /// Its length in the buffer, skipped empty lines included.
        len: usize,
    },
}

/// Reads the head at the start of a connection's unread bytes.
///
/// # Errors
/// `UriTooLong`, `HeadersTooLarge`, `BadRequest`, `NotImplemented`, `ExpectationFailed`; the first two, and
/// line ends and control characters, before the head is complete.
pub fn parse(buf: &[u8]) -> Result<Parsed> {
    parse_within(buf, scan::CLIENT)
}

/// The same of what another node sends, which may be larger by what it adds to a client's head.
///
/// # Errors
/// As above.
pub fn parse_of_peer(buf: &[u8]) -> Result<Parsed> {
    parse_within(buf, scan::PEER)
}

fn parse_within(buf: &[u8], bounds: scan::Bounds) -> Result<Parsed> {
    let Some(extent) = scan::extent(buf, bounds)? else {
        return Ok(Parsed::Partial);
    };
    let len = extent.end;
    let mut fields = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX + PEER_FIELDS_ADDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(&buf[extent.clone()]) {
        Ok(httparse::Status::Complete(parsed)) if parsed == extent.len() => {}
        Ok(_) => return refused("the request head is malformed"),
        Err(error) => return refused(reason(error)),
    }
    let (Some(token), Some(raw_target), Some(minor)) = (request.method, request.path, request.version) else {
        return refused("the request line is malformed");
    };
    let method = Method::parse(token);
    let target = target::parse(raw_target, method)?;
    let headers = request.headers.iter().map(|field| (field.name, headers::trim(field.value))).collect();
    let http11 = minor == 1;
    check_host(&headers, http11)?;
    let framing = Framing::of(&headers, http11);
    if let Err(error) = &framing
        && error.code == Code::BadRequest
    {
        return Err(error.clone());
    }
    let Some(method) = method else {
        return Err(Error::new(Code::NotImplemented, "the method is unknown to this server"));
    };
    let framing = framing?;
    let expect_continue = expects_continue(&headers, http11)?;
    let keep_alive = keeps_alive(&headers, http11);
    let head = Head { method, target, http11, headers, framing, keep_alive, expect_continue };
    Ok(Parsed::Complete { head, len })
}

fn refused<T>(why: &'static str) -> Result<T> {
    Err(Error::new(Code::BadRequest, why))
}

fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::Version => "the HTTP version is neither 1.1 nor 1.0",
        httparse::Error::HeaderName => {
            "a field line is folded, has no colon, or has a space or an invalid character in its name"
        }
        httparse::Error::HeaderValue => "a field value has a control character",
        httparse::Error::TooManyHeaders => "there are more than 100 fields",
        httparse::Error::NewLine | httparse::Error::Token | httparse::Error::Status => {
            "the request line is not a method, a target and a version with single spaces between them"
        }
    }
}

/// One valid `Host`, which only HTTP/1.0 may leave out (RFC 9112 section 3.2).
fn check_host(headers: &Headers, http11: bool) -> Result<()> {
    let mut hosts = headers.all("host");
    let valid = |host: &[u8]| std::str::from_utf8(host).is_ok_and(target::is_authority);
    match (hosts.next(), hosts.next()) {
        (None, _) if http11 => refused("Host is missing"),
        (Some(_), Some(_)) => refused("Host is repeated: send it once"),
        (Some(host), None) if !valid(host) => {
            refused("the value of Host is not a host with or without a port")
        }
        _ => Ok(()),
    }
}

/// Whether every expectation is `100-continue`, and there is one; HTTP/1.0 has none.
fn expects_continue(headers: &Headers, http11: bool) -> Result<bool> {
    let mut expects = false;
    for expectation in headers.list("expect").filter(|_| http11) {
        if !expectation.eq_ignore_ascii_case(b"100-continue") {
            return Err(Error::new(
                Code::ExpectationFailed,
                "100-continue is the only expectation this server meets",
            ));
        }
        expects = true;
    }
    Ok(expects)
}

fn keeps_alive(headers: &Headers, http11: bool) -> bool {
    let named = |option: &[u8]| headers.list("connection").any(|token| token.eq_ignore_ascii_case(option));
    !named(b"close") && (http11 || named(b"keep-alive"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{HEADERS_MAX, REQUEST_LINE_MAX};

    fn complete(bytes: &[u8]) -> (Head, usize) {
        match parse(bytes) {
            Ok(Parsed::Complete { head, len }) => (head, len),
            other => panic!("{}: {other:?}", bytes.escape_ascii()),
        }
    }

    fn code(bytes: &[u8]) -> Code {
        parse(bytes).expect_err(&bytes.escape_ascii().to_string()).code
    }

    /// A GET with these field lines besides a valid Host.
    fn with(lines: &str) -> Vec<u8> {
        format!("GET /a HTTP/1.1\r\nHost: h\r\n{lines}\r\n").into_bytes()
    }

    #[test]
    fn a_head_becomes_its_parts() {
        let bytes = b"PUT /objects/a%2Fb?version=7 HTTP/1.1\r\nHost: h:80\r\nX-Amber-Meta-K:\t \xe9 v \r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\nabc";
        let (head, len) = complete(bytes);
        assert_eq!(len, bytes.len() - 3);
        assert_eq!(head.method, Method::Put);
        assert_eq!(
            head.target,
            Target::Origin { path: "/objects/a%2Fb".into(), query: Some("version=7".into()) }
        );
        assert_eq!((head.http11, head.keep_alive, head.expect_continue), (true, true, true));
        assert_eq!(head.framing, Framing::Length(3));
        assert_eq!(head.headers.get("x-amber-meta-k"), Some(&b"\xe9 v"[..]));
        let names: Vec<_> = head.headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["host", "x-amber-meta-k", "content-length", "expect"]);
    }

    #[test]
    fn every_known_method_is_read_with_any_framing() {
        let methods = [
            ("GET", Method::Get),
            ("HEAD", Method::Head),
            ("PUT", Method::Put),
            ("DELETE", Method::Delete),
            ("OPTIONS", Method::Options),
            ("POST", Method::Post),
            ("PATCH", Method::Patch),
            ("TRACE", Method::Trace),
            ("CONNECT", Method::Connect),
        ];
        for (token, method) in methods {
            for (field, framing) in [
                ("", Framing::None),
                ("Content-Length: 9\r\n", Framing::Length(9)),
                ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
            ] {
                let (head, _) = complete(format!("{token} / HTTP/1.1\r\nHost: h\r\n{field}\r\n").as_bytes());
                assert_eq!((head.method, head.framing), (method, framing));
            }
        }
    }

    #[test]
    fn empty_lines_before_the_request_are_skipped_and_counted() {
        let (head, len) = complete(b"\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: h\r\n\r\nGET");
        assert_eq!((head.target, len), (Target::Asterisk, 35));
        assert_eq!(code(b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"), Code::BadRequest);
    }

    #[test]
    fn unknown_methods_are_not_implemented() {
        for method in ["BREW", "get", "Put", "PROPFIND", "G"] {
            assert_eq!(
                code(format!("{method} /a HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()),
                Code::NotImplemented
            );
        }
        assert_eq!(code(b"BREW /a HTTP/1.1\r\n\r\n"), Code::BadRequest, "malformed goes first");
    }

    #[test]
    fn malformed_request_lines_are_refused() {
        for line in [
            "GET",
            "GET /",
            "GET /  HTTP/1.1",
            "GET  / HTTP/1.1",
            " GET / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET / HTTP/1.2",
            "GET / HTTP/2.0",
            "GET / HTTP/0.9",
            "GET / http/1.1",
            "GET / HTTP/1.11",
            "GET / HTTP/11",
            "GET / XTTP/1.1",
            "GET /a b HTTP/1.1",
            "G(T / HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET /#f HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
            "GET * HTTP/1.1",
            "GET a HTTP/1.1",
            "CONNECT h:80 HTTP/1.1",
            "PRI * HTTP/2.0",
            "/ HTTP/1.1",
            "GET / HTTP/1.1\r",
        ] {
            assert_eq!(code(format!("{line}\r\nHost: h\r\n\r\n").as_bytes()), Code::BadRequest, "{line}");
        }
    }

    #[test]
    fn http11_has_exactly_one_valid_host() {
        for bad in [
            "",
            "Host: a\r\nHost: a\r\n",
            "Host: a\r\nhost: b\r\n",
            "Host:\r\n",
            "Host: a b\r\n",
            "Host: a, b\r\n",
            "Host: u@h\r\n",
            "Host: h/x\r\n",
            "Host: \u{e9}\r\n",
        ] {
            assert_eq!(code(format!("GET / HTTP/1.1\r\n{bad}\r\n").as_bytes()), Code::BadRequest, "{bad}");
        }
        assert!(!complete(b"GET / HTTP/1.0\r\n\r\n").0.http11);
        assert_eq!(code(b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), Code::BadRequest);
        assert_eq!(code(b"GET http://h/ HTTP/1.1\r\n\r\n"), Code::BadRequest, "absolute-form needs Host too");
    }

    #[test]
    fn persistence_follows_version_and_connection() {
        for (version, connection, keep) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: x, CLOSE\r\n", false),
            ("1.1", "Connection: x\r\nConnection: Close\r\n", false),
            ("1.1", "Connection: closed\r\n", true),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let (head, _) =
                complete(format!("GET / HTTP/{version}\r\nHost: h\r\n{connection}\r\n").as_bytes());
            assert_eq!(head.keep_alive, keep, "{version} {connection}");
        }
    }

    #[test]
    fn one_expectation_is_met_and_others_fail() {
        assert!(!complete(&with("")).0.expect_continue);
        assert!(complete(&with("Expect: 100-continue, 100-CONTINUE\r\n")).0.expect_continue);
        assert_eq!(code(&with("Expect: 200-maybe\r\n")), Code::ExpectationFailed);
        assert_eq!(code(&with("Expect: 100-continue, x\r\n")), Code::ExpectationFailed);
        for expectation in ["100-continue", "x"] {
            let (head, _) = complete(format!("GET / HTTP/1.0\r\nExpect: {expectation}\r\n\r\n").as_bytes());
            assert!(!head.expect_continue, "HTTP/1.0 has no expectations");
        }
    }

    #[test]
    fn limits_hold_before_the_end_arrives() {
        assert_eq!(code(&vec![b'A'; REQUEST_LINE_MAX + 1]), Code::UriTooLong);
        let endless = [&b"GET / HTTP/1.1\r\nHost: h\r\nA: "[..], &vec![b'a'; HEADERS_MAX]].concat();
        assert_eq!(code(&endless), Code::HeadersTooLarge);
        assert_eq!(code(&with(&"A: b\r\n".repeat(HEADER_FIELDS_MAX))), Code::HeadersTooLarge);
        let (head, _) = complete(&with(&"A: b\r\n".repeat(HEADER_FIELDS_MAX - 1)));
        assert_eq!(head.headers.len(), HEADER_FIELDS_MAX);
    }
}

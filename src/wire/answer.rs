//! Response heads that a node receives from another one, read as strictly as requests are.

use super::framing::Framing;
use super::headers::{self, Headers};
use crate::base::error::{Code, Error, Result};
use crate::limits::{HEADER_FIELDS_MAX, HEADERS_MAX, PEER_FIELDS_ADDS};

/// A response without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// The status.
    pub status: u16,
    /// All fields.
    pub headers: Headers,
    /// Where the body ends; nodes always announce its length.
    pub framing: Framing,
    /// Whether the connection can be used again.
    pub keep_alive: bool,
}

/// Reads the head at the start of `bytes`, and how long it is; none while it is not complete.
///
/// # Errors
/// `BadRequest`; the connection cannot be used any more.
pub fn parse(bytes: &[u8]) -> Result<Option<(AnswerHead, usize)>> {
    let refused = |what: &str| Err(Error::new(Code::BadRequest, format!("a peer's response {what}")));
    let mut fields = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX + PEER_FIELDS_ADDS];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() <= HEADERS_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return refused("has too large a head"),
        Err(error) => return refused(&format!("is malformed: {error}")),
    };
    let Some(status) = response.code.filter(|status| (100..600).contains(status)) else {
        return refused("has no status");
    };
    let headers: Headers =
        response.headers.iter().map(|field| (field.name, headers::trim(field.value))).collect();
    let bodiless = status < 200 || status == 204 || status == 304;
    let framing = if bodiless { Framing::None } else { Framing::of(&headers, true)? };
    let closes = headers.list("connection").any(|option| option.eq_ignore_ascii_case(b"close"));
    Ok(Some((AnswerHead { status, headers, framing, keep_alive: !closes }, len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let bytes = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\nhello";
        for len in 0..bytes.len() - 5 {
            assert_eq!(parse(&bytes[..len]).unwrap(), None, "{len} bytes");
        }
        let (head, len) = parse(bytes).unwrap().unwrap();
        assert_eq!((head.status, head.framing, len), (206, Framing::Length(5), bytes.len() - 5));
        assert!(head.keep_alive);
        assert_eq!(head.headers.get_str("etag"), Some("\"x\""));
    }

    #[test]
    fn rubbish_is_refused() {
        for bytes in [
            &b"SSH-2.0-x\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"HTTP/1.1 999 No\r\n\r\n",
        ] {
            assert!(parse(bytes).is_err());
        }
        let endless = [&b"HTTP/1.1 200 OK\r\n"[..], &b"a: b\r\n".repeat(HEADERS_MAX)].concat();
        assert!(parse(&endless).is_err());
    }
}

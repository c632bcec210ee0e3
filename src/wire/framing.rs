//! How a request's body is framed (RFC 9112 section 6): the one place where two readers of the same bytes
//! must not come to different ends, since what one takes for a body the other would take for the next
//! request.
//!
//! There is exactly one reading or none: whatever could be read in two ways is a `BadRequest`. A transfer
//! coding that is not known is `NotImplemented`, as the end of the body cannot be told.

use super::headers::{Headers, is_token, trim};
use crate::base::error::{Code, Error, Result};

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// After this many bytes.
    Length(u64),
    /// Where the chunked coding says so.
    Chunked,
}

impl Framing {
    /// Reads `Content-Length` and `Transfer-Encoding`.
    pub(super) fn of(headers: &Headers, http11: bool) -> Result<Self> {
        let lengths = headers.all("content-length").count();
        let chunked = headers.get("transfer-encoding").is_some();
        match (lengths, chunked) {
            (0, false) => Ok(Self::None),
            (1, false) => content_length(headers.get("content-length").unwrap_or_default()).map(Self::Length),
            (0, true) if http11 => transfer_encoding(headers).map(|()| Self::Chunked),
            (0, true) => refused("HTTP/1.0 has no Transfer-Encoding"),
            (_, true) => refused("the request has Content-Length and Transfer-Encoding: send one of them"),
            (_, false) => refused("Content-Length is repeated: send it once"),
        }
    }
}

/// Digits and nothing else; `u64::from_str` would take a sign.
fn content_length(value: &[u8]) -> Result<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
    number.map_or_else(|| refused("Content-Length is not a decimal number of bytes"), Ok)
}

/// Accepts `chunked` alone.
fn transfer_encoding(headers: &Headers) -> Result<()> {
    let (mut count, mut foreign, mut chunked_at) = (0, false, None);
    for coding in headers.list("transfer-encoding") {
        let name = coding.split(|b| *b == b';').next().map(trim).unwrap_or_default();
        if !is_token(name) {
            return refused("Transfer-Encoding is malformed");
        }
        if !name.eq_ignore_ascii_case(b"chunked") {
            foreign = true;
        } else if chunked_at.replace(count).is_some() {
            return refused("Transfer-Encoding names chunked twice");
        } else if name.len() != coding.len() {
            return refused("the chunked coding has no parameters");
        }
        count += 1;
    }
    match chunked_at {
        _ if count == 0 => refused("Transfer-Encoding names no coding"),
        Some(at) if at + 1 != count => refused("chunked is not the last transfer coding"),
        _ if foreign => {
            Err(Error::new(Code::NotImplemented, "chunked is the only transfer coding of this server"))
        }
        _ => Ok(()),
    }
}

fn refused<T>(why: &'static str) -> Result<T> {
    Err(Error::new(Code::BadRequest, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(fields: &[(&str, &str)], http11: bool) -> std::result::Result<Framing, Code> {
        Framing::of(&fields.iter().copied().collect(), http11).map_err(|e| e.code)
    }

    #[test]
    fn a_content_length_is_digits_once() {
        for (value, length) in [("0", 0), ("5", 5), ("005", 5), ("18446744073709551615", u64::MAX)] {
            assert_eq!(framing(&[("Content-Length", value)], true), Ok(Framing::Length(length)));
            assert_eq!(framing(&[("content-length", value)], false), Ok(Framing::Length(length)));
        }
        for value in [
            "",
            "+5",
            "-5",
            "0x5",
            "5, 5",
            "5,",
            "5 5",
            "5;",
            "5.0",
            "1e3",
            "18446744073709551616",
            "\u{665}",
        ] {
            assert_eq!(framing(&[("Content-Length", value)], true), Err(Code::BadRequest), "{value}");
        }
        assert_eq!(framing(&[], true), Ok(Framing::None));
    }

    #[test]
    fn smuggling_by_two_lengths_is_refused() {
        for second in ["5", "6", ""] {
            let fields = [("Content-Length", "5"), ("CONTENT-LENGTH", second)];
            assert_eq!(framing(&fields, true), Err(Code::BadRequest), "even when they agree");
        }
    }

    #[test]
    fn smuggling_by_length_and_transfer_encoding_is_refused() {
        for coding in ["chunked", "gzip", "", "identity"] {
            let fields = [("Content-Length", "5"), ("Transfer-Encoding", coding)];
            assert_eq!(framing(&fields, true), Err(Code::BadRequest), "{coding}");
            assert_eq!(framing(&[fields[1], fields[0]], false), Err(Code::BadRequest), "{coding}");
        }
        assert_eq!(framing(&[("Transfer-Encoding", "chunked")], false), Err(Code::BadRequest), "HTTP/1.0");
    }

    #[test]
    fn transfer_encoding_is_chunked_or_refused() {
        for good in ["chunked", "Chunked", "CHUNKED", ", chunked,", "chunked ,"] {
            assert_eq!(framing(&[("Transfer-Encoding", good)], true), Ok(Framing::Chunked), "{good}");
        }
        for bad in [
            "",
            ",",
            "chunked, chunked",
            "chunked, gzip",
            "chunked,identity",
            "chunked;a=b",
            "chun ked",
            "\"chunked\"",
            "chunked\x0b",
            "chunked; ",
            ";",
        ] {
            assert_eq!(framing(&[("Transfer-Encoding", bad)], true), Err(Code::BadRequest), "{bad}");
        }
        for unknown in ["gzip", "gzip, chunked", "identity", "xchunked", "gzip;q=1, chunked", "chunkedx"] {
            assert_eq!(
                framing(&[("Transfer-Encoding", unknown)], true),
                Err(Code::NotImplemented),
                "{unknown}"
            );
        }
    }

    #[test]
    fn smuggling_by_a_second_transfer_encoding_line_is_refused() {
        let lines = |a, b| framing(&[("Transfer-Encoding", a), ("Transfer-Encoding", b)], true);
        assert_eq!(lines("chunked", "chunked"), Err(Code::BadRequest));
        assert_eq!(lines("chunked", "identity"), Err(Code::BadRequest));
        assert_eq!(lines("identity", "chunked"), Err(Code::NotImplemented));
        assert_eq!(lines("", "chunked"), Ok(Framing::Chunked));
    }
}

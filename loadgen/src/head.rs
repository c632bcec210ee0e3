//! Response heads: bytes in, a typed head out, no IO.
//!
//! Only what a load generator must know is kept: the status, how the body is framed, whether the connection lives on, which range came
//! back. What is not a head by RFC 9112 is refused, since a generator that guesses would report a broken server as a fast one.

/// A head larger than this is refused.
pub(crate) const MAX_HEAD: usize = 64 * 1024;

/// What a response says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
    pub(crate) content_range: Option<ContentRange>,
}

/// Where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// `Content-Range: bytes first-last/total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// Why bytes are no response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadHead;

/// The head at the front of `bytes` and its length, or `None` while it is not complete.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, BadHead> {
    let Some(end) = find_end(bytes) else {
        let plausible =
            bytes.len() <= MAX_HEAD && bytes.iter().zip(b"HTTP/1.").all(|(have, want)| have == want);
        return if plausible { Ok(None) } else { Err(BadHead) };
    };
    if end > MAX_HEAD {
        return Err(BadHead);
    }
    let text = std::str::from_utf8(&bytes[..end - 3]).map_err(|_| BadHead)?;
    // Each line keeps its carriage return here; one that has none ended in a bare line feed.
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').ok_or(BadHead));
    let (status, http_1_1) = status_line(lines.next().ok_or(BadHead)??)?;
    let mut fields = Fields::default();
    for line in lines {
        fields.take(line?)?;
    }
    Ok(Some((fields.into_head(status, http_1_1)?, end)))
}

fn find_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The status, and whether the peer speaks HTTP/1.1.
fn status_line(line: &str) -> Result<(u16, bool), BadHead> {
    let (version, rest) = line.split_once(' ').ok_or(BadHead)?;
    let http_1_1 = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return Err(BadHead),
    };
    let code = rest.split(' ').next().unwrap_or_default();
    let status = decimal(code).filter(|_| code.len() == 3).and_then(|n| u16::try_from(n).ok());
    status.filter(|status| (100..=999).contains(status)).map(|status| (status, http_1_1)).ok_or(BadHead)
}

#[derive(Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    content_range: Option<ContentRange>,
}

impl Fields {
    fn take(&mut self, line: &str) -> Result<(), BadHead> {
        let (name, value) = line.split_once(':').ok_or(BadHead)?;
        if name.is_empty()
            || !name.bytes().all(|b| b.is_ascii_graphic())
            || value.bytes().any(|b| matches!(b, b'\r' | b'\0'))
        {
            return Err(BadHead);
        }
        let value = value.trim_matches([' ', '\t']);
        if name.eq_ignore_ascii_case("content-length") {
            let length = decimal(value).ok_or(BadHead)?;
            if self.length.is_some_and(|before| before != length) {
                return Err(BadHead);
            }
            self.length = Some(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") || self.chunked {
                return Err(BadHead);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case("connection") {
            for option in value.split(',').map(str::trim) {
                self.close |= option.eq_ignore_ascii_case("close");
                self.keep_alive |= option.eq_ignore_ascii_case("keep-alive");
            }
        } else if name.eq_ignore_ascii_case("content-range") {
            self.content_range = content_range(value);
        }
        Ok(())
    }

    fn into_head(self, status: u16, http_1_1: bool) -> Result<Head, BadHead> {
        let bodiless = status < 200 || status == 204 || status == 304;
        let framing = match (bodiless, self.chunked, self.length) {
            (true, ..) => Framing::Length(0),
            (false, true, None) => Framing::Chunked,
            (false, true, Some(_)) => return Err(BadHead),
            (false, false, Some(length)) => Framing::Length(length),
            (false, false, None) => Framing::UntilClose,
        };
        let keep_alive = !self.close && (http_1_1 || self.keep_alive) && framing != Framing::UntilClose;
        Ok(Head { status, framing, keep_alive, content_range: self.content_range })
    }
}

/// `bytes A-B/T`, or `None` for anything else, an unsatisfied `bytes */T` among them.
fn content_range(value: &str) -> Option<ContentRange> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (decimal(first)?, decimal(last)?);
    let within = total == "*" || decimal(total).is_some_and(|total| last < total);
    (first <= last && within).then_some(ContentRange { first, last })
}

/// Digits only: `parse` alone would also take a sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        let (head, len) = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(len, text.len());
        head
    }

    #[test]
    fn a_partial_answer_says_status_length_and_range() {
        let head = head(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: 10\r\ncontent-range: bytes 5-14/100\r\n\r\n",
        );
        assert_eq!(head.status, 206);
        assert_eq!(head.framing, Framing::Length(10));
        assert!(head.keep_alive);
        assert_eq!(head.content_range, Some(ContentRange { first: 5, last: 14 }));
    }

    #[test]
    fn the_body_stays_behind_the_head() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(parse(bytes).unwrap().unwrap().1, bytes.len() - 4);
    }

    #[test]
    fn every_prefix_of_a_head_asks_for_more() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n";
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), Ok(None), "prefix of {len}");
        }
    }

    #[test]
    fn the_connection_lives_by_version_and_option() {
        assert!(!head("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").keep_alive);
        assert!(!head("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").keep_alive);
        assert!(head("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n").keep_alive);
        assert!(!head("HTTP/1.1 200 OK\r\n\r\n").keep_alive, "a body up to the close ends the connection");
    }

    #[test]
    fn bodies_that_cannot_be_have_length_zero() {
        assert_eq!(head("HTTP/1.1 204 No Content\r\n\r\n").framing, Framing::Length(0));
        assert_eq!(head("HTTP/1.1 100 Continue\r\n\r\n").framing, Framing::Length(0));
        assert_eq!(head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").framing, Framing::Chunked);
    }

    #[test]
    fn rubbish_is_refused() {
        for text in [
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 +20 OK\r\n\r\n",
            "HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\nX: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: 1\nY: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: 1\r2\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: empty\r\n\r\n",
            "HTTP/1.1 200 OK\r\nspaced name: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "\0\0\0\0",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(BadHead), "{text:?} was taken");
        }
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nX: \xff\xfe\r\n\r\n"), Err(BadHead));
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(MAX_HEAD));
        assert_eq!(parse(endless.as_bytes()), Err(BadHead));
    }

    #[test]
    fn a_range_that_contradicts_itself_is_none() {
        for value in [
            "bytes */100",
            "bytes 9-5/100",
            "bytes 0-100/100",
            "items 0-1/2",
            "bytes 0-1",
            "bytes -1/2",
            "bytes a-b/c",
        ] {
            assert_eq!(content_range(value), None, "{value:?} was taken");
        }
        assert_eq!(content_range("bytes 0-0/*"), Some(ContentRange { first: 0, last: 0 }));
    }
}

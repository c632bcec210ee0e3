//! Where a request head begins and ends, found before anything in it is interpreted.
//!
//! A head that passes has lines that end in CRLF and only there, no control character (a tab in a field value
//! aside), and keeps every limit. An offence is reported as soon as its byte has arrived, and the first one
//! in the buffer decides, so that a head cut in any way gets the same answer. A scan starts over with every
//! call and costs a nanosecond for several bytes; the limits keep what a client gains by sending single bytes
//! small.

use std::ops::Range;

use super::headers::is_value_byte;
use crate::base::error::{Code, Error, Result};
use crate::limits::{
    HEADER_FIELDS_MAX, HEADERS_MAX, PEER_FIELDS_ADDS, PEER_HEADERS_ADDS, PEER_LINE_ADDS, REQUEST_LINE_MAX,
};

/// Empty lines skipped before a request line (RFC 9112 section 2.2).
const EMPTY_LINES_MAX: usize = 2;

/// How large a head may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    line: usize,
    section: usize,
    fields: usize,
}

/// From a client.
pub(super) const CLIENT: Bounds =
    Bounds { line: REQUEST_LINE_MAX, section: HEADERS_MAX, fields: HEADER_FIELDS_MAX };
/// From another node: what a client may send to it, and what it adds.
pub(super) const PEER: Bounds = Bounds {
    line: REQUEST_LINE_MAX + PEER_LINE_ADDS,
    section: HEADERS_MAX + PEER_HEADERS_ADDS,
    fields: HEADER_FIELDS_MAX + PEER_FIELDS_ADDS,
};

/// The head in the buffer, from its request line to its empty line with the CRLF; `None` until it is
/// complete.
pub(super) fn extent(buf: &[u8], bounds: Bounds) -> Result<Option<Range<usize>>> {
    let mut start = 0;
    for _ in 0..EMPTY_LINES_MAX {
        if buf[start..].starts_with(b"\r\n") {
            start += 2;
        }
    }
    let request_line = match line(&buf[start..], bounds.line, |b| (b' '..0x7f).contains(&b))? {
        Line::Waiting => return Ok(None),
        Line::Over => return Err(Error::new(Code::UriTooLong, "the request line is longer than 8 KiB")),
        Line::Ended(0) => {
            return Err(Error::new(Code::BadRequest, "empty lines stand where a request line should"));
        }
        Line::Ended(length) => length,
    };
    let section = start + request_line + 2;
    let mut at = section;
    let mut fields = 0;
    loop {
        let room = if fields < bounds.fields { bounds.section.saturating_sub(at - section + 2) } else { 0 };
        match line(&buf[at..], room, is_value_byte)? {
            Line::Waiting => return Ok(None),
            Line::Over => {
                let why = "the header section is larger than 32 KiB or has more than 100 fields";
                return Err(Error::new(Code::HeadersTooLarge, why));
            }
            Line::Ended(0) => return Ok(Some(start..at + 2)),
            Line::Ended(length) => at += length + 2,
        }
        fields += 1;
    }
}

/// What is known of a line.
enum Line {
    /// Its end has not arrived.
    Waiting,
    /// It is longer than it may be.
    Over,
    /// Its length, the CRLF not counted.
    Ended(usize),
}

/// Reads as far as one line of at most `max` bytes can reach.
fn line(buf: &[u8], max: usize, allowed: impl Fn(u8) -> bool) -> Result<Line> {
    let reach = &buf[..buf.len().min(max + 2)];
    let newline = find_newline(reach);
    let text = &reach[..newline.unwrap_or(reach.len())];
    let (text, carriage_return) = text.strip_suffix(b"\r").map_or((text, false), |text| (text, true));
    // Not `any`, which stops at the first and so is not vectorised.
    if text[..text.len().min(max)].iter().fold(false, |bad, b| bad | !allowed(*b)) {
        let why = "the request head has a control character, or a byte that is not ASCII in its request line";
        return Err(Error::new(Code::BadRequest, why));
    }
    match newline {
        _ if text.len() > max => Ok(Line::Over),
        None => Ok(Line::Waiting),
        Some(_) if carriage_return => Ok(Line::Ended(text.len())),
        Some(_) => Err(Error::new(Code::BadRequest, "a line ends in LF alone: end every line with CRLF")),
    }
}

/// Position of the first LF, sought by blocks.
fn find_newline(buf: &[u8]) -> Option<usize> {
    const BLOCK: usize = 128;
    let blocks = buf.chunks(BLOCK).take_while(|block| !block.contains(&b'\n')).count();
    let from = blocks * BLOCK;
    buf.get(from..)?.iter().position(|b| *b == b'\n').map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(buf: &[u8]) -> Result<Option<Range<usize>>> {
        super::extent(buf, CLIENT)
    }

    fn fields(count: usize) -> Vec<u8> {
        [&b"GET / HTTP/1.1\r\n"[..], &b"a: b\r\n".repeat(count)].concat()
    }

    #[test]
    fn a_head_ends_at_its_empty_line() {
        for (buf, extent_of) in [
            (&b"GET / HTTP/1.1\r\n\r\nGET"[..], Some(0..18)),
            (b"\r\nG\r\n\r\n\0\n", Some(2..7)),
            (b"\r\n\r\nG\r\na: b\r\n\r\n", Some(4..15)),
            (b"", None),
            (b"\r", None),
            (b"\r\n\r", None),
            (b"\r\n\r\n\r", None),
            (b"G\r\n\r", None),
            (b"G\r\na:\t\xff\r\n", None),
        ] {
            assert_eq!(extent(buf).unwrap(), extent_of, "{}", buf.escape_ascii());
        }
    }

    #[test]
    fn an_offence_is_found_before_the_head_is_complete() {
        for buf in [
            &b"\n"[..],
            b"G\n",
            b"G\r\na: b\n",
            b"G\rx",
            b"G\0",
            b"G\t",
            b"G\x7f",
            b"G \xc3",
            b"\r\n\r\n\r\n",
            b"G\r\na: \0",
            b"G\r\na\rb",
            b"G\r\r\n",
            b"G\r\n\n",
            b"\x16\x03\x01",
        ] {
            assert_eq!(extent(buf).unwrap_err().code, Code::BadRequest, "{}", buf.escape_ascii());
        }
    }

    #[test]
    fn the_request_line_is_bounded_with_and_without_its_end() {
        let line = vec![b'x'; REQUEST_LINE_MAX + 1];
        let code = |parts: &[&[u8]]| extent(&parts.concat()).map_err(|e| e.code);
        assert_eq!(code(&[&line[1..], b"\r\n\r\n"]), Ok(Some(0..REQUEST_LINE_MAX + 4)));
        assert_eq!(code(&[&line[1..], b"\r"]), Ok(None));
        assert_eq!(code(&[&line]), Err(Code::UriTooLong));
        assert_eq!(code(&[&line, b"\r\n\r\n"]), Err(Code::UriTooLong));
        assert_eq!(code(&[&line, &line]), Err(Code::UriTooLong));
        assert_eq!(code(&[b"\0", &line]), Err(Code::BadRequest));
    }

    #[test]
    fn the_header_section_is_bounded_with_and_without_its_end() {
        let code = |parts: &[&[u8]]| extent(&parts.concat()).map_err(|e| e.code);
        let value = vec![b'x'; HEADERS_MAX - 5];
        let whole = [b"G\r\na: ", &value[..]].concat();
        assert_eq!(code(&[&whole, b"\r\n\r\n"]), Ok(Some(0..3 + HEADERS_MAX + 2)));
        assert_eq!(code(&[&whole, b"\r\n"]), Ok(None));
        assert_eq!(code(&[&whole, b"x\r\n\r\n"]), Err(Code::HeadersTooLarge));
        assert_eq!(code(&[&whole, b"xxx"]), Err(Code::HeadersTooLarge));
        assert_eq!(code(&[&whole, b"\r\nb"]), Err(Code::HeadersTooLarge));
        assert_eq!(code(&[&fields(HEADER_FIELDS_MAX), b"\r\n"]).map(|e| e.is_some()), Ok(true));
        assert_eq!(code(&[&fields(HEADER_FIELDS_MAX), b"\r"]), Ok(None));
        assert_eq!(code(&[&fields(HEADER_FIELDS_MAX), b"a"]), Err(Code::HeadersTooLarge));
        assert_eq!(code(&[&fields(HEADER_FIELDS_MAX + 1)]), Err(Code::HeadersTooLarge));
    }

    #[test]
    fn another_node_may_add_to_what_a_client_may_send() {
        let whole = [fields(HEADER_FIELDS_MAX + PEER_FIELDS_ADDS), b"\r\n".to_vec()].concat();
        assert!(super::extent(&whole, PEER).unwrap().is_some());
        assert_eq!(super::extent(&whole, CLIENT).unwrap_err().code, Code::HeadersTooLarge);
        let line = [&vec![b'x'; REQUEST_LINE_MAX + PEER_LINE_ADDS][..], b"\r\n\r\n"].concat();
        assert!(super::extent(&line, PEER).unwrap().is_some());
    }
}

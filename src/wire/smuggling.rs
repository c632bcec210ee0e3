//! Request smuggling: heads that two readers might split differently, and the properties that keep ours to
//! one reading. Tests only.
//!
//! What is accepted ends at the first empty line, has a CRLF per line and no other CR or LF, and reads the
//! same however the network cuts it.

use proptest::prelude::*;

use super::head::{Parsed, parse};
use crate::base::error::Code;

fn code(head: &str) -> Code {
    parse(head.as_bytes()).expect_err(head).code
}

/// A PUT with these field lines besides a valid Host.
fn with(lines: &str) -> String {
    format!("PUT /a HTTP/1.1\r\nHost: h\r\n{lines}\r\n")
}

#[test]
fn smuggling_by_line_ends_and_field_names_is_refused() {
    for lines in [
        "A: b\nTransfer-Encoding: chunked\r\n",
        "A: b\rTransfer-Encoding: chunked\r\n",
        "A: b\r\n Transfer-Encoding: chunked\r\n",
        "A: b\r\n\tc\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\t: chunked\r\n",
        "Transfer-Encoding\r\n",
        "Transfer Encoding: chunked\r\n",
        ": chunked\r\n",
        "Transfer-Encoding: chunked\0\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "\u{e9}: x\r\n",
    ] {
        assert_eq!(code(&with(lines)), Code::BadRequest, "{lines:?}");
    }
    assert_eq!(code("GET / HTTP/1.1\r\n Host: h\r\n\r\n"), Code::BadRequest, "a fold before the first field");
    assert_eq!(code("PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Code::BadRequest);
    assert_eq!(code(&with("Transfer-Encoding: gzip, chunked\r\n")), Code::NotImplemented);
}

/// What a connection sees that reads up to each of these positions in turn.
fn parse_in_pieces(bytes: &[u8], mut cuts: Vec<usize>) -> Result<Parsed, Code> {
    cuts.push(bytes.len());
    cuts.sort_unstable();
    for cut in cuts {
        match parse(&bytes[..cut]) {
            Ok(Parsed::Partial) => {}
            other => return other.map_err(|e| e.code),
        }
    }
    Ok(Parsed::Partial)
}

const VALID: &[u8] = b"\r\nPUT /objects/a?version=7 HTTP/1.1\r\nHost: h:80\r\nX-Amber-Meta-K: \xe9\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n";

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn a_head_cut_anywhere_reads_the_same(
        edits in prop::collection::vec((0..VALID.len(), prop_oneof![any::<u8>(), prop::sample::select(&b"\r\n :\t\0,"[..])]), 0..3),
        cuts in prop::collection::vec(0..VALID.len(), 0..6),
    ) {
        let mut bytes = VALID.to_vec();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        let whole = parse(&bytes).map_err(|e| e.code);
        prop_assert_eq!(parse_in_pieces(&bytes, cuts), whole);
    }

    #[test]
    fn an_accepted_head_has_one_reading(
        edits in prop::collection::vec((0..VALID.len(), prop::sample::select(&b"\r\n :\tcC5,"[..])), 1..4),
    ) {
        let mut bytes = VALID.to_vec();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        if let Ok(Parsed::Complete { head, len }) = parse(&bytes) {
            let first_end = bytes[2..].windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 6);
            prop_assert_eq!(Some(len), first_end);
            let count = |wanted| bytes[..len].split(|b| *b == wanted).count() - 1;
            let lines = head.headers.len() + 3;
            prop_assert_eq!((count(b'\r'), count(b'\n')), (lines, lines));
        }
    }
}

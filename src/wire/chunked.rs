//! The framing of a chunked body (RFC 9112 section 7.1): where its data is, and its trailers.
//!
//! The decoder never sees the data: the caller moves those bytes itself and reports how many. What the
//! decoder keeps is one line and the trailers, both bounded. Line ends are CRLF; a size is up to 16
//! hexadecimal digits; chunk extensions are skipped. A framing error ends the connection, as the next request
//! cannot be found, and so the decoder refuses everything after one.

use super::headers::{field_line, is_value_byte, may_be_trailer};
use crate::base::error::{Code, Error, Result};
use crate::limits::{CHUNK_LINE_MAX, HEADER_FIELDS_MAX, TRAILERS_MAX};

/// Digits of a chunk size: as many as fit 64 bits.
const SIZE_DIGITS_MAX: usize = 16;

/// What the decoder waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Framing bytes, to be given to [`Decoder::feed`].
    NeedLine,
    /// So many bytes of data come next, at least one, to be reported to [`Decoder::consumed`].
    Data(u64),
    /// Nothing: the body is over, and the bytes that follow belong to the next request.
    Done,
}

/// Which line is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Size,
    Data(u64),
    /// The CRLF behind a chunk's data.
    DataEnd,
    Trailers,
    Done,
    Broken,
}

/// Decodes one body.
#[derive(Debug)]
pub struct Decoder {
    phase: Phase,
    /// What has arrived of a line, without its LF.
    line: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
    /// Trailer fields that arrived, ignored ones too.
    trailer_fields: usize,
    /// Bytes of the trailer section so far.
    trailer_bytes: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder before the first chunk.
    pub fn new() -> Self {
        Self {
            phase: Phase::Size,
            line: Vec::new(),
            trailers: Vec::new(),
            trailer_fields: 0,
            trailer_bytes: 0,
        }
    }

    /// What to do next.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Data(left) => State::Data(left),
            Phase::Done => State::Done,
            Phase::Size | Phase::DataEnd | Phase::Trailers | Phase::Broken => State::NeedLine,
        }
    }

    /// Takes framing bytes up to the next data or the end of the body; answers how many it took, which is all
    /// of them unless the state is now another. A line may arrive in pieces.
    ///
    /// # Errors
    /// `BadRequest`, or `HeadersTooLarge` for trailers; the decoder is of no use afterwards.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize> {
        for (taken, byte) in bytes.iter().enumerate() {
            if self.state() != State::NeedLine {
                return Ok(taken);
            }
            if let Err(error) = self.byte(*byte) {
                self.phase = Phase::Broken;
                return Err(error);
            }
        }
        Ok(bytes.len())
    }

    /// Takes note of `n` bytes of data, at most as many as [`State::Data`] says.
    pub fn consumed(&mut self, n: u64) {
        let left = if let Phase::Data(left) = self.phase { left } else { 0 };
        assert!(n <= left, "{n} bytes were taken from a chunk that has {left} left");
        if n > 0 {
            self.phase = if n == left { Phase::DataEnd } else { Phase::Data(left - n) };
        }
    }

    /// The trailer fields so far, names in lower case, without those that trailers cannot carry; complete
    /// when done.
    pub fn trailers(&self) -> &[(String, Vec<u8>)] {
        &self.trailers
    }

    fn byte(&mut self, byte: u8) -> Result<()> {
        let after_cr = self.line.last() == Some(&b'\r');
        match byte {
            b'\n' if after_cr => {
                self.line.pop();
                let line = std::mem::take(&mut self.line);
                let next = self.line_ended(&line);
                self.line = line;
                self.line.clear();
                self.phase = next?;
                return Ok(());
            }
            b'\n' => return refused("a line of a chunked body ends in LF alone: end every line with CRLF"),
            _ if after_cr => return refused("a line of a chunked body has a CR without LF"),
            b'\r' => {}
            _ if !is_value_byte(byte) => return refused("a line of a chunked body has a control character"),
            _ => {}
        }
        self.line.push(byte);
        match self.phase {
            Phase::DataEnd if byte != b'\r' => refused("a chunk's data is longer than its size"),
            // The CR and the LF still to come do not count.
            Phase::Size if byte != b'\r' && self.line.len() > CHUNK_LINE_MAX => {
                refused("a chunk-size line is longer than 1 KiB")
            }
            Phase::Trailers => self.trailer_byte(),
            Phase::Broken => refused("the chunked body was refused already"),
            _ => Ok(()),
        }
    }

    fn trailer_byte(&mut self) -> Result<()> {
        self.trailer_bytes += 1;
        let begins_field = self.line.len() == 1 && self.line[0] != b'\r';
        if self.trailer_bytes > TRAILERS_MAX || (begins_field && self.trailer_fields == HEADER_FIELDS_MAX) {
            let why = "the trailer section is larger than 8 KiB or has more than 100 fields";
            return Err(Error::new(Code::HeadersTooLarge, why));
        }
        Ok(())
    }

    /// Acts on a line without its CRLF and says what comes next.
    fn line_ended(&mut self, line: &[u8]) -> Result<Phase> {
        match self.phase {
            Phase::Size => match chunk_size(line)? {
                0 => Ok(Phase::Trailers),
                size => Ok(Phase::Data(size)),
            },
            Phase::DataEnd => Ok(Phase::Size),
            Phase::Trailers if line.is_empty() => Ok(Phase::Done),
            Phase::Trailers => {
                let (name, value) = field_line(line)?;
                let name = name.to_ascii_lowercase();
                self.trailer_fields += 1;
                if may_be_trailer(&name) {
                    self.trailers.push((name, value.to_vec()));
                }
                Ok(Phase::Trailers)
            }
            Phase::Data(_) | Phase::Done | Phase::Broken => refused("the chunked body is malformed"),
        }
    }
}

/// Reads `chunk-size [ chunk-ext ]`.
fn chunk_size(line: &[u8]) -> Result<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let gap = extension.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    if digits == 0
        || digits > SIZE_DIGITS_MAX
        || !(extension.is_empty() || extension[gap..].starts_with(b";"))
    {
        return refused("a chunk size is not 1 to 16 hexadecimal digits");
    }
    let size = std::str::from_utf8(size).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    size.map_or_else(|| refused("a chunk size is not a number"), Ok)
}

fn refused<T>(why: &'static str) -> Result<T> {
    Err(Error::new(Code::BadRequest, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Body {
        data: Vec<u8>,
        trailers: Vec<(String, Vec<u8>)>,
        /// Bytes behind the end of the body.
        rest: usize,
    }

    /// Decodes what arrives in these pieces; `None` if the end does not arrive.
    fn decode(pieces: &[&[u8]]) -> std::result::Result<Option<Body>, Code> {
        let mut decoder = Decoder::new();
        let (mut data, mut rest) = (Vec::new(), 0);
        for piece in pieces {
            let mut bytes = *piece;
            while !bytes.is_empty() {
                let taken = match decoder.state() {
                    State::NeedLine => decoder.feed(bytes).map_err(|e| e.code)?,
                    State::Data(left) => {
                        let n = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        data.extend_from_slice(&bytes[..n]);
                        decoder.consumed(n as u64);
                        n
                    }
                    State::Done => {
                        rest += bytes.len();
                        bytes.len()
                    }
                };
                bytes = &bytes[taken..];
            }
        }
        let body = Body { data, trailers: decoder.trailers().to_vec(), rest };
        Ok((decoder.state() == State::Done).then_some(body))
    }

    fn code(body: &str) -> Code {
        decode(&[body.as_bytes()]).expect_err(body)
    }

    #[test]
    fn bodies_are_decoded_to_their_last_byte() {
        for (body, data, rest) in [
            ("0\r\n\r\n", "", 0),
            ("5\r\nhello\r\n0\r\n\r\nGET", "hello", 3),
            ("5\r\nhello\r\n00A\r\n\r\n0123\n567\r\n000\r\n\r\n", "hello\r\n0123\n567", 0),
            ("1;a=b;c=\"d;e\"\r\nx\r\n0;z\r\n\r\n", "x", 0),
            ("1 \t; a\r\nx\r\n0000000000000000\r\n\r\n", "x", 0),
        ] {
            let expected = Body { data: data.into(), trailers: Vec::new(), rest };
            assert_eq!(decode(&[body.as_bytes()]), Ok(Some(expected)), "{body:?}");
        }
        for body in ["", "5", "5\r\nhel", "5\r\nhello", "5\r\nhello\r\n", "0\r\n", "0\r\n\r", "0\r\na: b\r\n"]
        {
            assert_eq!(decode(&[body.as_bytes()]), Ok(None), "{body:?}");
        }
    }

    #[test]
    fn smuggling_by_chunk_lines_is_refused() {
        for body in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            " 1\r\n",
            "0x1\r\n",
            "1 \r\n",
            "1 2\r\n",
            "1,\r\n",
            "1\n",
            "\n",
            "1\rx",
            "1;a\nb",
            "1;\0",
            "1;a\rb",
            "\r\r\n",
            "00000000000000001\r\n",
            "10000000000000000\r\n",
            "1\r\nxy\r\n",
            "1\r\nx\n",
            "1\r\nx\r\r",
            "1\r\nx0\r\n\r\n",
            "0\r\n\n",
            "0\r\n\r\r",
        ] {
            assert_eq!(code(body), Code::BadRequest, "{body:?}");
        }
    }

    #[test]
    fn the_largest_size_does_not_overflow() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.feed(b"fFfFfFfFfFfFfFfF\r\nx").unwrap(), 18);
        assert_eq!(decoder.state(), State::Data(u64::MAX));
        decoder.consumed(0);
        decoder.consumed(1);
        assert_eq!(decoder.state(), State::Data(u64::MAX - 1));
        assert_eq!(decoder.feed(b"x").unwrap(), 0, "data is not for feed");
    }

    #[test]
    fn lines_and_trailers_are_bounded() {
        let line = |length: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(length - 2));
        assert!(decode(&[line(CHUNK_LINE_MAX).as_bytes()]).unwrap().is_some());
        assert_eq!(code(&line(CHUNK_LINE_MAX + 1)), Code::BadRequest);
        assert_eq!(code(&"0".repeat(CHUNK_LINE_MAX + 1)), Code::BadRequest, "before its end arrives");
        let fields = |count: usize| format!("0\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert_eq!(
            decode(&[fields(HEADER_FIELDS_MAX).as_bytes()]).unwrap().unwrap().trailers.len(),
            HEADER_FIELDS_MAX
        );
        assert_eq!(code(&fields(HEADER_FIELDS_MAX + 1)), Code::HeadersTooLarge);
        assert_eq!(
            code(&format!("0\r\n{}", "Host: b\r\n".repeat(HEADER_FIELDS_MAX + 1))),
            Code::HeadersTooLarge,
            "ignored ones count"
        );
        assert_eq!(code(&format!("0\r\na: {}", "b".repeat(TRAILERS_MAX))), Code::HeadersTooLarge);
    }

    #[test]
    fn trailers_are_checked_and_framing_fields_ignored() {
        let body = "0\r\nRepr-Digest: sha-256=:x: \r\nContent-Length: 5\r\ntransfer-encoding: chunked\r\nHOST: h\r\nX: \u{e9}\r\n\r\n";
        let trailers = decode(&[body.as_bytes()]).unwrap().unwrap().trailers;
        assert_eq!(
            trailers,
            [("repr-digest".to_owned(), b"sha-256=:x:".to_vec()), ("x".to_owned(), "\u{e9}".into())]
        );
        for field in
            ["a", " a: b", "a : b", "a: b\r\n c", "a: \0", ": b", "a b: c", "a: b\nc: d", "GET / HTTP/1.1"]
        {
            assert_eq!(code(&format!("0\r\n{field}\r\n\r\n")), Code::BadRequest, "{field:?}");
        }
    }

    #[test]
    fn nothing_is_accepted_after_an_error() {
        let mut decoder = Decoder::new();
        assert!(decoder.feed(b"x\r\n").is_err());
        assert!(decoder.feed(b"0\r\n\r\n").is_err());
        assert_eq!(decoder.state(), State::NeedLine);
    }

    #[test]
    #[should_panic(expected = "2 bytes were taken from a chunk that has 1 left")]
    fn more_data_than_a_chunk_has_is_a_mistake_of_the_caller() {
        let mut decoder = Decoder::new();
        decoder.feed(b"1\r\n").unwrap();
        decoder.consumed(2);
    }

    const VALID: &[u8] = b"5\r\nhello\r\nc;x=y\r\n, wide world\r\n0\r\nA: b\r\nHost: c\r\n\r\nGET";

    proptest! {
        #[test]
        fn a_body_cut_anywhere_decodes_the_same(
            edits in prop::collection::vec((0..VALID.len(), prop_oneof![any::<u8>(), prop::sample::select(&b"\r\n05f;:\0"[..])]), 0..3),
            mut cuts in prop::collection::vec(0..VALID.len(), 0..8),
        ) {
            let mut bytes = VALID.to_vec();
            for (at, byte) in edits {
                bytes[at] = byte;
            }
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(decode(&pieces), decode(&[&bytes]));
        }

        #[test]
        fn what_was_encoded_is_decoded(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8)) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(&[&body]).unwrap().unwrap().data, chunks.concat());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&[&bytes]);
        }
    }
}

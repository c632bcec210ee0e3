//! The chunked transfer coding, decoded bytewise: some peers frame even small answers so.
//!
//! The decoder keeps no bytes: it hands on slices of what it is fed. Chunk sizes, extensions and trailers are bounded; whatever breaks
//! RFC 9112 section 7.1 is an error, after which the decoder must not be used.

/// Extensions and trailers together may not be longer than this.
const MAX_OVERHEAD: u32 = 64 * 1024;

/// The bytes are no chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadChunk;

/// Where in the coding the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size { value: u64, digits: u8 },
    Extension { size: u64 },
    SizeLineFeed { size: u64 },
    Data { left: u64 },
    DataReturn,
    DataLineFeed,
    TrailerStart,
    Trailer,
    TrailerLineFeed,
    LastLineFeed,
    Done,
}

/// A decoder for one body.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    at: At,
    overhead: u32,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { at: SIZE, overhead: 0 }
    }

    /// Whether the last byte of the body has been fed.
    pub(crate) fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Takes bytes off the front of `input`: the next piece of data, empty if there is none, and how many bytes were used.
    pub(crate) fn next<'a>(&mut self, input: &'a [u8]) -> Result<(&'a [u8], usize), BadChunk> {
        let mut used = 0;
        while used < input.len() && self.at != At::Done {
            if let At::Data { left } = self.at {
                let take = (input.len() - used).min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - take as u64;
                self.at = if left == 0 { At::DataReturn } else { At::Data { left } };
                return Ok((&input[used..used + take], used + take));
            }
            self.at = self.step(input[used])?;
            used += 1;
        }
        Ok((&[], used))
    }

    fn step(&mut self, byte: u8) -> Result<At, BadChunk> {
        match (self.at, byte) {
            (At::Size { value, digits }, _) if byte.is_ascii_hexdigit() && digits < 15 => {
                let digit = char::from(byte).to_digit(16).ok_or(BadChunk)?;
                Ok(At::Size { value: value * 16 + u64::from(digit), digits: digits + 1 })
            }
            (At::Size { value, digits: 1.. } | At::Extension { size: value }, b'\r') => {
                Ok(At::SizeLineFeed { size: value })
            }
            (At::Size { value, digits: 1.. }, b';' | b' ' | b'\t') => {
                self.count(At::Extension { size: value })
            }
            (At::Extension { size }, _) if byte != b'\n' => self.count(At::Extension { size }),
            (At::SizeLineFeed { size: 0 } | At::TrailerLineFeed, b'\n') => Ok(At::TrailerStart),
            (At::SizeLineFeed { size }, b'\n') => Ok(At::Data { left: size }),
            (At::DataReturn, b'\r') => Ok(At::DataLineFeed),
            (At::DataLineFeed, b'\n') => Ok(SIZE),
            (At::TrailerStart, b'\r') => Ok(At::LastLineFeed),
            (At::Trailer, b'\r') => Ok(At::TrailerLineFeed),
            (At::TrailerStart | At::Trailer, _) if byte != b'\n' => self.count(At::Trailer),
            (At::LastLineFeed, b'\n') => Ok(At::Done),
            _ => Err(BadChunk),
        }
    }

    fn count(&mut self, at: At) -> Result<At, BadChunk> {
        self.overhead += 1;
        if self.overhead > MAX_OVERHEAD { Err(BadChunk) } else { Ok(at) }
    }
}

const SIZE: At = At::Size { value: 0, digits: 0 };

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in pieces of `step` bytes; the data and the bytes left behind.
    fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, bool, usize), BadChunk> {
        let mut decoder = Decoder::new();
        let (mut data, mut consumed) = (Vec::new(), 0);
        for piece in input.chunks(step) {
            let mut at = 0;
            while at < piece.len() && !decoder.is_done() {
                let (slice, used) = decoder.next(&piece[at..])?;
                data.extend_from_slice(slice);
                at += used;
                consumed += used;
            }
        }
        Ok((data, decoder.is_done(), input.len() - consumed))
    }

    #[test]
    fn chunks_come_out_whole_however_they_are_cut() {
        let input = b"5\r\nhello\r\n1;name=value\r\n,\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\nrest";
        for step in 1..input.len() {
            assert_eq!(decode(input, step), Ok((b"hello, world".to_vec(), true, 4)), "cut every {step}");
        }
    }

    #[test]
    fn rubbish_is_refused() {
        for input in [
            &b"\r\n"[..],
            b"g\r\n",
            b"5\nhello",
            b"2\r\nhello",
            b"5\r\nhello5\r\n",
            b"0\r\n\rX",
            b"fffffffffffffffff\r\n",
            b";x\r\n",
        ] {
            assert_eq!(decode(input, input.len()), Err(BadChunk), "{input:?} was taken");
        }
        let endless = [b"1;".to_vec(), vec![b'x'; MAX_OVERHEAD as usize + 1]].concat();
        assert_eq!(decode(&endless, 4096), Err(BadChunk));
    }

    #[test]
    fn a_cut_body_is_not_done() {
        assert_eq!(decode(b"5\r\nhel", 3), Ok((b"hel".to_vec(), false, 0)));
    }
}

//! multipart/byteranges (RFC 9110 section 14.6): what stands between the ranges of one response.
//!
//! The body is `part_head(0)`, the bytes of the first range, `part_head(1)`, ..., `trailer()`; its length is
//! known before a byte of it is sent. The boundary is the caller's, who takes one that the data cannot be
//! made to contain: random, 1 to 70 letters and digits.

use super::range::ByteRange;
use super::response::{append, append_field};

/// The framing of one multipart body.
#[derive(Clone, Debug)]
pub struct Multipart {
    boundary: String,
    content_type: Vec<u8>,
    size: u64,
    ranges: Vec<ByteRange>,
}

impl Multipart {
    /// For these ranges, in this order, of a representation with this type and size.
    pub fn new(boundary: &str, content_type: &[u8], size: u64, ranges: &[ByteRange]) -> Self {
        let valid = (1..=70).contains(&boundary.len()) && boundary.bytes().all(|b| b.is_ascii_alphanumeric());
        assert!(valid, "a boundary is 1 to 70 letters and digits, not {boundary:?}");
        Self {
            boundary: boundary.to_owned(),
            content_type: content_type.to_owned(),
            size,
            ranges: ranges.to_owned(),
        }
    }

    /// The response's `Content-Type`.
    pub fn content_type_value(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// What goes before the bytes of range `i`; there must be such a range.
    pub fn part_head(&self, i: usize) -> Vec<u8> {
        let ByteRange { start, end } = self.ranges[i];
        let mut head = Vec::with_capacity(256);
        if i > 0 {
            head.extend_from_slice(b"\r\n");
        }
        append(&mut head, format_args!("--{}\r\n", self.boundary));
        append_field(&mut head, "Content-Type", |value| value.extend_from_slice(&self.content_type));
        let range = format_args!("bytes {start}-{}/{}", end.saturating_sub(1), self.size);
        append_field(&mut head, "Content-Range", |value| append(value, range));
        head.extend_from_slice(b"\r\n");
        head
    }

    /// What goes behind the last range.
    pub fn trailer(&self) -> Vec<u8> {
        format!("\r\n--{}--\r\n", self.boundary).into_bytes()
    }

    /// The length of the whole body.
    pub fn total_len(&self) -> u64 {
        let parts =
            self.ranges.iter().enumerate().map(|(i, range)| self.part_head(i).len() as u64 + range.len());
        parts.sum::<u64>() + self.trailer().len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(multipart: &Multipart, data: &[u8], ranges: &[ByteRange]) -> Vec<u8> {
        let mut body = Vec::new();
        for (i, range) in ranges.iter().enumerate() {
            body.extend(multipart.part_head(i));
            body.extend_from_slice(&data[range.start as usize..range.end as usize]);
        }
        body.extend(multipart.trailer());
        body
    }

    #[test]
    fn a_body_is_as_the_rfc_shows_it() {
        let ranges = [ByteRange { start: 0, end: 2 }, ByteRange { start: 7, end: 10 }];
        let multipart = Multipart::new("B0", b"text/plain", 10, &ranges);
        assert_eq!(multipart.content_type_value(), "multipart/byteranges; boundary=B0");
        let expected = "--B0\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
                        \r\n--B0\r\nContent-Type: text/plain\r\nContent-Range: bytes 7-9/10\r\n\r\n789\r\n--B0--\r\n";
        assert_eq!(body(&multipart, b"0123456789", &ranges), expected.as_bytes());
        assert_eq!(multipart.total_len(), expected.len() as u64);
    }

    #[test]
    fn a_type_cannot_break_out_of_its_field() {
        let ranges = [ByteRange { start: 0, end: 1 }];
        let head = Multipart::new("B", b"a\r\n\r\nb", 1, &ranges).part_head(0);
        assert_eq!(head, b"--B\r\nContent-Range: bytes 0-0/1\r\n\r\n");
    }

    #[test]
    #[should_panic(expected = "a boundary is 1 to 70 letters and digits")]
    fn a_boundary_needs_no_quotes() {
        Multipart::new("a b", b"", 0, &[]);
    }

    proptest! {
        #[test]
        fn the_length_is_that_of_the_body(
            bounds in prop::collection::vec((0..500u64, 1..500u64), 1..16),
            content_type in "[ -~]{0,30}",
            boundary in "[a-zA-Z0-9]{1,70}",
        ) {
            let ranges: Vec<_> = bounds.iter().map(|(start, length)| ByteRange { start: *start, end: start + length }).collect();
            let multipart = Multipart::new(&boundary, content_type.as_bytes(), 1000, &ranges);
            prop_assert_eq!(multipart.total_len(), body(&multipart, &[b'x'; 1000], &ranges).len() as u64);
        }
    }
}

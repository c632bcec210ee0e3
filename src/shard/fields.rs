//! Header fields that are stored with a blob and come back with it.
//!
//! Stored as a JSON list of `[name, value]`, names in lower case. A value is kept byte by byte (each byte as the
//! character with its number), since field values need not be UTF-8.

use crate::base::error::{Code, Error, Result};
use crate::limits::STORED_HEADERS_MAX;
use crate::wire::head::Headers;

const STORED: [&str; 5] =
    ["content-type", "content-encoding", "content-language", "content-disposition", "cache-control"];
const META: &str = "x-amber-meta-";

/// The fields of a PUT that are kept.
///
/// # Errors
/// `HeadersTooLarge`; `BadRequest` for a repeated `Content-Type`.
pub(super) fn from_request(headers: &Headers) -> Result<String> {
    let mut stored: Vec<(&str, String)> = Vec::new();
    for (name, value) in headers.iter().filter(|(name, _)| STORED.contains(name) || name.starts_with(META)) {
        let value: String = value.iter().map(|byte| char::from(*byte)).collect();
        match stored.iter_mut().find(|(known, _)| *known == name) {
            Some(_) if name == "content-type" => {
                return Err(Error::new(Code::BadRequest, "Content-Type is given twice: send one"));
            }
            Some((_, first)) => {
                first.push_str(", ");
                first.push_str(&value);
            }
            None => stored.push((name, value)),
        }
    }
    if stored.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > STORED_HEADERS_MAX {
        return Err(Error::new(
            Code::HeadersTooLarge,
            "the stored header fields (Content-*, Cache-Control, x-amber-meta-*) are larger than 16 KiB together",
        ));
    }
    if stored.is_empty() {
        return Ok("[]".to_owned());
    }
    serde_json::to_string(&stored).map_err(|error| Error::new(Code::Internal, error.to_string()))
}

/// The stored fields, names and bytes of values.
pub(super) fn parse(stored: &str) -> Vec<(String, Vec<u8>)> {
    if stored == "[]" {
        return Vec::new();
    }
    let fields: Vec<(String, String)> = serde_json::from_str(stored).unwrap_or_default();
    let bytes = |value: String| value.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect();
    fields.into_iter().map(|(name, value)| (name, bytes(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_byte_by_byte() {
        let headers: Headers = [
            ("Content-Type", &b"text/plain"[..]),
            ("X-Amber-Meta-A", b"\xff\xe9 \"x\""),
            ("X-Other", b"no"),
            ("x-amber-meta-a", b"again"),
        ]
        .into_iter()
        .collect();
        let fields = parse(&from_request(&headers).unwrap());
        assert_eq!(
            fields,
            [
                ("content-type".to_owned(), b"text/plain".to_vec()),
                ("x-amber-meta-a".to_owned(), b"\xff\xe9 \"x\", again".to_vec()),
            ]
        );
    }

    #[test]
    fn too_much_is_refused() {
        let value = vec![b'x'; STORED_HEADERS_MAX];
        let headers: Headers = [("x-amber-meta-a", value)].into_iter().collect();
        assert_eq!(from_request(&headers).unwrap_err().code, Code::HeadersTooLarge);
    }
}

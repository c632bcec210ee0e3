//! Blob paths: UTF-8, 1 to 1024 bytes, no empty, `.` or `..` segment, no control character.
//!
//! A path names a blob and never a file: it reaches the file system only as a hash.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use super::error::{Code, Error, Result};
use crate::limits::PATH_MAX;

/// A valid path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobPath(Rc<str>);

impl BlobPath {
    /// Checks a decoded path.
    ///
    /// # Errors
    /// `InvalidPath`, with the reason.
    pub fn new(path: &str) -> Result<Self> {
        let invalid = |why: &'static str| Err(Error::new(Code::InvalidPath, why));
        if path.is_empty() {
            return invalid("the path is empty: name a blob after /objects/");
        }
        if path.len() > PATH_MAX {
            return invalid("the path is longer than 1024 bytes");
        }
        if path.chars().any(char::is_control) {
            return invalid("the path has a control character");
        }
        if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return invalid("the path has an empty segment, '.' or '..'");
        }
        Ok(Self(path.into()))
    }

    /// Decodes `%XX` once and checks the result.
    ///
    /// # Errors
    /// `InvalidPath` for a broken escape, bytes that are not UTF-8, or an invalid path.
    pub fn from_encoded(encoded: &str) -> Result<Self> {
        Self::new(&percent_decode(encoded).map_err(|why| Error::new(Code::InvalidPath, why))?)
    }
}

/// Decodes `%XX` once.
///
/// # Errors
/// The reason, when an escape is broken or the result is not UTF-8.
pub fn percent_decode(encoded: &str) -> std::result::Result<String, &'static str> {
    let bytes = encoded.as_bytes();
    let broken = |at: usize| !bytes[at + 1..].iter().take(2).filter(|b| b.is_ascii_hexdigit()).count().eq(&2);
    if bytes.iter().enumerate().any(|(at, b)| *b == b'%' && broken(at)) {
        return Err("a % is not followed by two hexadecimal digits: write it as %25");
    }
    percent_encoding::percent_decode(bytes)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| "the decoded bytes are not UTF-8")
}

impl Deref for BlobPath {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_paths_are_decoded_once() {
        for (encoded, path) in
            [("a", "a"), ("a%2Fb", "a/b"), ("%2525", "%25"), ("a+b", "a+b"), ("%C3%A9", "é"), ("...", "...")]
        {
            assert_eq!(&*BlobPath::from_encoded(encoded).unwrap(), path);
        }
        assert!(BlobPath::new(&"x".repeat(1024)).is_ok());
    }

    #[test]
    fn bad_paths_are_refused() {
        let long = "x".repeat(1025);
        for bad in [
            "", "/a", "a/", "a//b", ".", "a/../b", "a%2F%2e", "%", "%4", "%zz", "a%00", "a%0a", "%7f",
            "%C2%85", "%ff", &long,
        ] {
            assert_eq!(BlobPath::from_encoded(bad).unwrap_err().code, Code::InvalidPath, "{bad}");
        }
    }
}

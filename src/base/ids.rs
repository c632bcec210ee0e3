//! Identities: a blob's ULID, a chunk's SHA-256.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Identity of one version of one path, sorted by the time it was made; strong ETag and directory name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u128", into = "u128")]
pub struct BlobId(Ulid);

impl BlobId {
    /// A new identity; never given twice.
    pub fn generate() -> Self {
        Self(Ulid::generate())
    }

    /// An identity from its number.
    pub fn from_u128(number: u128) -> Self {
        Self(Ulid(number))
    }

    /// As a number, for keys in memory and records.
    pub fn to_u128(self) -> u128 {
        self.0.0
    }
}

impl From<u128> for BlobId {
    fn from(number: u128) -> Self {
        Self::from_u128(number)
    }
}

impl From<BlobId> for u128 {
    fn from(blob: BlobId) -> Self {
        blob.to_u128()
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for BlobId {
    type Err = NotAnId;
    /// Only the canonical spelling: 26 upper-case characters.
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let id = Self(Ulid::from_str(text).map_err(|_| NotAnId)?);
        if id.to_string() == text { Ok(id) } else { Err(NotAnId) }
    }
}

/// SHA-256 of a chunk's bytes; 64 lower-case hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChunkId(pub [u8; 32]);

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ChunkId {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Ok(b - b'0'),
            b'a'..=b'f' => Ok(b - b'a' + 10),
            _ => Err(NotAnId),
        };
        let mut id = [0; 32];
        if text.len() != 64 {
            return Err(NotAnId);
        }
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(id))
    }
}

/// The text is not an identity of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an identity")]
pub struct NotAnId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_only_as_written() {
        let blob = BlobId::generate();
        assert_eq!(blob.to_string().parse(), Ok(blob));
        assert_eq!(blob.to_string().to_lowercase().parse::<BlobId>(), Err(NotAnId));
        let chunk = ChunkId([0xa5; 32]);
        assert_eq!(chunk.to_string(), "a5".repeat(32));
        assert_eq!(chunk.to_string().parse(), Ok(chunk));
        assert!("A5".repeat(32).parse::<ChunkId>().is_err());
        assert!("a5".parse::<ChunkId>().is_err());
    }
}

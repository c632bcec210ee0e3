//! Where an object is.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

use crate::base::slot::Slot;

const SCHEME: &str = "s3://";

/// Where an object is: `s3://<bucket>/<key>`. It names the bucket, so that it means the same after the config has changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The bucket.
    pub bucket: String,
    /// The key; it has one content, for ever.
    pub key: String,
}

impl Location {
    /// A new place for a chunk; never given twice.
    pub fn of_chunk(bucket: &str, prefix: &str, slot: Slot) -> Self {
        let key = format!("{}{}.chunk", Self::keys_of(prefix, slot), Ulid::generate());
        Self { bucket: bucket.to_owned(), key }
    }

    /// A new place for several chunks of a slot; never given twice.
    pub fn of_pack(bucket: &str, prefix: &str, slot: Slot) -> Self {
        let key = format!("{}{}.pack", Self::keys_of(prefix, slot), Ulid::generate());
        Self { bucket: bucket.to_owned(), key }
    }

    /// What the keys of a slot begin with.
    pub fn keys_of(prefix: &str, slot: Slot) -> String {
        format!("{prefix}{slot:04}/")
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.bucket, self.key)
    }
}

impl FromStr for Location {
    type Err = NotALocation;
    fn from_str(text: &str) -> Result<Self, NotALocation> {
        let (bucket, key) =
            text.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/')).ok_or(NotALocation)?;
        if bucket.is_empty() || key.is_empty() {
            return Err(NotALocation);
        }
        Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() })
    }
}

/// The text does not say where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a place of an object: such a place is written s3://bucket/key")]
pub struct NotALocation;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_chunks_are_told_apart_and_read_back() {
        let slot = Slot::new(7).unwrap();
        let first = Location::of_chunk("b", "node-1/", slot);
        let second = Location::of_chunk("b", "node-1/", slot);
        assert_ne!(first, second);
        assert!(
            first.key.starts_with("node-1/0007/") && first.key.split('.').next_back() == Some("chunk"),
            "{first}"
        );
        assert_eq!(first.key.len(), "node-1/0007/.chunk".len() + 26);
        assert_eq!(first.to_string().parse(), Ok(first));
        assert!(Location::of_chunk("b", "", slot).to_string().starts_with("s3://b/0007/"));
    }

    #[test]
    fn what_names_no_object_is_refused() {
        for text in ["", "s3://", "s3://b", "s3://b/", "s3:///k", "http://b/k", "b/k"] {
            assert_eq!(text.parse::<Location>(), Err(NotALocation), "{text}");
        }
        let nested = Location { bucket: "b".to_owned(), key: "a/b/c".to_owned() };
        assert_eq!("s3://b/a/b/c".parse(), Ok(nested));
    }
}

//! What a server tells of a version: its size, its chunks, its fields.

use hyper::HeaderMap;
use serde_json::{Map, Value, json};

use super::link::{Failure, Link, target};
use crate::limits::CHUNK_SIZE;

/// A version of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) path: String,
    pub(super) version: u64,
    pub(super) id: String,
    pub(super) size: u64,
    /// SHA-256 of its chunks.
    pub(super) chunks: Vec<[u8; 32]>,
}

impl Blob {
    /// The bytes of a chunk.
    pub(super) fn len_of(&self, number: u64) -> u64 {
        (self.size - number * CHUNK_SIZE).min(CHUNK_SIZE)
    }

    /// The query that names it.
    pub(super) fn query(&self) -> String {
        format!("version={}", self.version)
    }

    /// Its entity tag.
    pub(super) fn etag(&self) -> String {
        format!("\"{}\"", self.id)
    }
}

fn no_sense(link: &Link<'_>, what: &str) -> Failure {
    Failure::broken(format!("{} answers without {what}: it is no AmberBlob", link.server()))
}

/// The head of a version, the newest one if none is named.
pub(super) async fn head(
    link: &mut Link<'_>,
    path: &str,
    version: Option<u64>,
) -> Result<(Blob, HeaderMap), Failure> {
    let query = version.map_or_else(String::new, |version| format!("version={version}"));
    let fields = link.head(&target(path, &query)).await?;
    let text = |name: &str| fields.get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| text(name).and_then(|value| value.parse().ok());
    let version = number("x-amber-version").ok_or_else(|| no_sense(link, "a version"))?;
    let size = number("content-length").ok_or_else(|| no_sense(link, "a size"))?;
    let id = text("etag").map(|tag| tag.trim_matches('"').to_owned());
    let id = id.ok_or_else(|| no_sense(link, "an entity tag"))?;
    Ok((Blob { path: path.to_owned(), version, id, size, chunks: Vec::new() }, fields))
}

/// A version with its chunks.
pub(super) async fn find(link: &mut Link<'_>, path: &str, version: Option<u64>) -> Result<Blob, Failure> {
    let (mut blob, _) = head(link, path, version).await?;
    let count = blob.size.div_ceil(CHUNK_SIZE) as usize;
    let mut cursor = None;
    while blob.chunks.len() < count {
        let query = format!("{}&chunks{}", blob.query(), from(cursor.as_deref()));
        let page = link.json(&target(path, &query)).await?;
        let before = blob.chunks.len();
        for chunk in page.get("chunks").and_then(Value::as_array).into_iter().flatten() {
            let id = chunk.get("id").and_then(Value::as_str).and_then(sha256_of);
            let len = chunk.get("len").and_then(Value::as_u64);
            let id = id
                .filter(|_| blob.chunks.len() < count && len == Some(blob.len_of(blob.chunks.len() as u64)));
            blob.chunks.push(id.ok_or_else(|| no_sense(link, "the chunks of the blob"))?);
        }
        cursor = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
        if blob.chunks.len() == before || (cursor.is_none() && blob.chunks.len() < count) {
            return Err(no_sense(link, "all chunks of the blob"));
        }
    }
    Ok(blob)
}

/// Where a page begins, as a part of a query.
pub(super) fn from(cursor: Option<&str>) -> String {
    let encode = |cursor| percent_encoding::utf8_percent_encode(cursor, percent_encoding::NON_ALPHANUMERIC);
    cursor.map_or_else(String::new, |cursor| format!("&cursor={}", encode(cursor)))
}

/// The bytes of a hash in lower-case hexadecimal digits.
fn sha256_of(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        hex.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (digits.len() == 64).then(|| bytes.try_into().ok()).flatten()
}

/// What is known of a version, for `stat`.
pub(super) fn described(blob: &Blob, fields: &HeaderMap) -> Value {
    let text =
        |name: &str| fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut headers = Map::new();
    for (name, value) in fields {
        let is_stored = matches!(
            name.as_str(),
            "content-type"
                | "content-encoding"
                | "content-language"
                | "content-disposition"
                | "cache-control"
        ) || name.as_str().starts_with("x-amber-meta-");
        if is_stored {
            headers.insert(name.to_string(), String::from_utf8_lossy(value.as_bytes()).into());
        }
    }
    json!({
        "path": blob.path,
        "version": blob.version,
        "blob_id": blob.id,
        "size": blob.size,
        "chunks": blob.size.div_ceil(CHUNK_SIZE),
        "last_modified": text("last-modified"),
        "headers": headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_64_digits() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_of(hex).map(|hash| (hash[0], hash[31])), Some((0xe3, 0x55)));
        for wrong in
            [&hex[1..], &format!("{hex}00"), "x", &format!("{}g", &hex[1..]), &format!("{}é", &hex[1..])]
        {
            assert_eq!(sha256_of(wrong), None, "{wrong}");
        }
    }
}

//! The header fields of a representation: what a GET, a HEAD and a 304 say about a version, written once for as long as
//! the version is remembered.

use super::fields;
use crate::base::clock::Timestamp;
use crate::base::ids::ChunkId;
use crate::meta::types::BlobMeta;
use crate::wire::digest::format_sha256;
use crate::wire::response::{FieldLines, ResponseHead};

const DEFAULT_TYPE: &[u8] = b"application/octet-stream";
/// SHA-256 of nothing.
const EMPTY_SHA256: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
    0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// What is said about a version.
#[derive(Debug)]
pub(super) struct Description {
    /// The entity tag, without its quotes.
    pub(super) etag: String,
    pub(super) content_type: Vec<u8>,
    created: Timestamp,
    modified: String,
    common: FieldLines,
    of_body: FieldLines,
}

impl Description {
    /// Of a version, and the SHA-256 of its only chunk where it has one.
    pub(super) fn new(record: &BlobMeta, only_chunk: Option<ChunkId>) -> Self {
        let etag = record.blob_id.to_string();
        let stored = fields::parse(&record.headers);
        let find = |name: &str| stored.iter().find(|(stored, _)| stored == name).map(|(_, value)| value);
        let mut common = FieldLines::default()
            .header("ETag", format_args!("\"{etag}\""))
            .header("Accept-Ranges", "bytes")
            .header("x-amber-version", record.version);
        if find("cache-control").is_none() {
            common = common.header("Cache-Control", "no-cache");
        }
        let digest = if record.size == 0 { Some(EMPTY_SHA256) } else { only_chunk.map(|chunk| chunk.0) };
        if let Some(digest) = digest {
            common = common.header("Repr-Digest", format_sha256(&digest));
        }
        for (name, value) in stored.iter().filter(|(name, _)| name != "content-type") {
            common = common.header_bytes(name, value);
        }
        let content_type = find("content-type").map_or(DEFAULT_TYPE, Vec::as_slice).to_vec();
        let of_body = FieldLines::default()
            .header("X-Content-Type-Options", "nosniff")
            .header_bytes("Content-Type", &content_type);
        let modified = record.created_at.http_date();
        Self { etag, content_type, created: record.created_at, modified, common, of_body }
    }

    /// When it was modified, for conditions: never after `now`.
    pub(super) fn modified(&self, now: Timestamp) -> Timestamp {
        self.created.min(now)
    }

    /// A head that says what every response says about it.
    pub(super) fn head(&self, status: u16, now: Timestamp) -> ResponseHead {
        let head = ResponseHead::new(status).fields(&self.common);
        if self.created <= now {
            head.header("Last-Modified", &self.modified)
        } else {
            head.header("Last-Modified", now.http_date())
        }
    }

    /// A head of a response that has its bytes, or would have.
    pub(super) fn head_of_body(&self, status: u16, now: Timestamp) -> ResponseHead {
        self.head(status, now).fields(&self.of_body)
    }

    /// Bytes of memory, about.
    pub(super) fn memory(&self) -> usize {
        self.common.len() + self.of_body.len() + self.content_type.len() + 128
    }
}

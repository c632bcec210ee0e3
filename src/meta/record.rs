//! A PUT as the journal keeps it: everything that makes its rows again, its place in the slot's history decided.
//!
//! Numbers are little-endian, lists and texts begin with their length (u32). There is no version byte here: the frame
//! that holds a record names the format ([`super::journal`]). What cannot be read is no record, never a panic.

use bytes::Bytes;

use super::types::{BlobMeta, Entry, NewBlob, Row, Stored};
use crate::base::clock::Timestamp;
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::{Part, Parts};
use crate::base::slot::Slot;
use crate::wire::condition::Conditions;

/// A blob whose version and row are chosen.
#[derive(Debug)]
pub(super) struct Record {
    pub slot: Slot,
    /// Number of the transaction in its slot.
    pub seq: u64,
    pub row: Row,
    pub version: u64,
    pub now: Timestamp,
    pub blob: Box<NewBlob>,
}

impl Record {
    /// Bytes it takes in memory and in a frame, about.
    pub(super) fn weight(&self) -> usize {
        Self::weight_of(&self.blob)
    }

    /// The same, of a blob that is no record yet.
    pub(super) fn weight_of(blob: &NewBlob) -> usize {
        let parts: usize = blob.parts.parts.iter().map(|part| 40 + part.sums.len() * 4).sum();
        let inline: usize = blob.parts.inline.iter().map(|(_, bytes)| 16 + bytes.len()).sum();
        256 + blob.path.len() + blob.headers.len() + blob.chunks.len() * 32 + parts + inline
    }

    /// The version it makes.
    pub(super) fn meta(&self) -> BlobMeta {
        BlobMeta {
            row: self.row,
            version: self.version,
            blob_id: self.blob.blob_id,
            size: self.blob.size,
            created_at: self.now,
            tombstoned_at: None,
            headers: self.blob.headers.clone(),
            hollow: false,
        }
    }

    /// What its client is told.
    pub(super) fn stored(&self) -> Stored {
        Stored { record: self.meta(), created: true }
    }

    /// Its line of a listing.
    pub(super) fn entry(&self) -> Entry {
        Entry {
            path: self.blob.path.clone(),
            version: self.version,
            blob_id: self.blob.blob_id.to_string(),
            size: self.blob.size,
            created_at: self.now.to_string(),
            tombstoned_at: None,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let blob = &self.blob;
        out.extend((self.slot.index() as u16).to_le_bytes());
        out.extend(self.seq.to_le_bytes());
        out.extend(self.row.0.to_le_bytes());
        out.extend(self.version.to_le_bytes());
        out.extend(self.now.0.to_le_bytes());
        out.extend(blob.blob_id.to_u128().to_le_bytes());
        out.extend(blob.size.to_le_bytes());
        put_bytes(out, blob.path.as_bytes());
        put_bytes(out, blob.headers.as_bytes());
        put_len(out, blob.chunks.len());
        blob.chunks.iter().for_each(|chunk| out.extend(chunk.0));
        out.extend(blob.parts.first.to_le_bytes());
        put_len(out, blob.parts.parts.len());
        for part in &blob.parts.parts {
            out.extend(part.chunk.0);
            put_len(out, part.sums.len());
            part.sums.iter().for_each(|sum| out.extend(sum.to_le_bytes()));
        }
        put_len(out, blob.parts.inline.len());
        for (number, bytes) in &blob.parts.inline {
            out.extend(number.to_le_bytes());
            put_bytes(out, bytes);
        }
    }

    /// Takes a record off the front of `bytes`.
    pub(super) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let slot = Slot::new(u16::from_le_bytes(take(bytes)?))?;
        let seq = u64::from_le_bytes(take(bytes)?);
        let row = Row(i64::from_le_bytes(take(bytes)?));
        let version = u64::from_le_bytes(take(bytes)?);
        let now = Timestamp(i64::from_le_bytes(take(bytes)?));
        let blob_id = BlobId::from_u128(u128::from_le_bytes(take(bytes)?));
        let size = u64::from_le_bytes(take(bytes)?);
        let path = String::from_utf8(take_bytes(bytes)?.to_vec()).ok()?;
        let headers = String::from_utf8(take_bytes(bytes)?.to_vec()).ok()?;
        let chunks = take_list(bytes, |bytes| Some(ChunkId(take(bytes)?)))?;
        let first = u64::from_le_bytes(take(bytes)?);
        let parts = take_list(bytes, |bytes| {
            let chunk = ChunkId(take(bytes)?);
            let sums = take_list(bytes, |bytes| Some(u32::from_le_bytes(take(bytes)?)))?;
            Some(Part { chunk, sums })
        })?;
        let inline = take_list(bytes, |bytes| {
            let number = u64::from_le_bytes(take(bytes)?);
            Some((number, Bytes::copy_from_slice(take_bytes(bytes)?)))
        })?;
        let blob = Box::new(NewBlob {
            path,
            version: None,
            blob_id,
            size,
            chunks,
            parts: Parts { first, parts, inline, ..Parts::default() },
            staged: None,
            headers,
            conditions: Conditions::default(),
        });
        Some(Self { slot, seq, row, version, now, blob })
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend((len as u32).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::from_le_bytes(take(bytes)?) as usize;
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn take_list<T>(bytes: &mut &[u8], mut item: impl FnMut(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    let len = u32::from_le_bytes(take(bytes)?);
    // The length is not believed before the items are there.
    let mut items = Vec::new();
    for _ in 0..len {
        items.push(item(bytes)?);
    }
    Some(items)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::meta) fn record(path: &str, seq: u64, bytes: &[u8]) -> Record {
        let chunk = ChunkId([seq as u8; 32]);
        let blob = Box::new(NewBlob {
            path: path.to_owned(),
            version: None,
            blob_id: BlobId::generate(),
            size: bytes.len() as u64,
            chunks: vec![chunk],
            parts: Parts {
                parts: vec![Part { chunk, sums: vec![1, 2, 3] }],
                inline: vec![(0, Bytes::copy_from_slice(bytes))],
                ..Parts::default()
            },
            staged: None,
            headers: "[]".to_owned(),
            conditions: Conditions::default(),
        });
        Record { slot: Slot::of(path), seq, row: Row(7), version: 3, now: Timestamp(1), blob }
    }

    #[test]
    fn a_record_is_read_back_as_written() {
        let (one, other) = (record("a/\u{e4}", 9, b"bytes"), record("b", 10, b""));
        let mut bytes = Vec::new();
        one.encode(&mut bytes);
        other.encode(&mut bytes);
        assert!(bytes.len() <= one.weight() + other.weight());
        let mut rest = &bytes[..];
        for record in [&one, &other] {
            let read = Record::decode(&mut rest).unwrap();
            assert_eq!(format!("{read:?}"), format!("{record:?}"));
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_record_that_is_cut_off_is_none() {
        let mut bytes = Vec::new();
        record("a", 9, b"bytes").encode(&mut bytes);
        for len in 0..bytes.len() {
            assert!(Record::decode(&mut &bytes[..len]).is_none(), "{len} bytes");
        }
        bytes[0..2].copy_from_slice(&u16::MAX.to_le_bytes());
        assert!(Record::decode(&mut &bytes[..]).is_none(), "a slot that does not exist");
    }
}

//! Small chunks of several versions of a slot are stored in one object, one after the other without header or index: rows name
//! their ranges. That is all that is done here; a version whose chunks have rows is then archived as any other.
//!
//! Of a pack that is needed no more for the most part, what is needed is stored anew: another object, and rows one generation up.

use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::{Chunk, Object, Step, Stored, Trouble, Version};
use crate::archive::location::Location;
use crate::archive::target::Target;
use crate::background::archive::Archiver;
use crate::background::archive::keys::Held;
use crate::background::archive::source::Fault;
use crate::background::archive::store::pause;
use crate::base::ids::ChunkId;
use crate::base::sha256::Sha256;
use crate::base::slot::Slot;
use crate::limits::{ARCHIVE_READ_TIME, ARCHIVE_TRIES, PACK_BYTES, PACK_NEEDED};
use crate::meta::archives::{Candidate, Member as Named};
use crate::shard::archive::desk::Working;

/// A chunk on its way into a pack.
struct Member {
    version: Version,
    chunk: Chunk,
    bytes: Vec<u8>,
    /// The object that its row names before.
    before: Option<String>,
    _working: Working,
}

impl Archiver {
    /// Stores the chunks of some versions of a slot in one object, as far as they are small and were not stored before; how many.
    pub(in crate::background::archive) async fn pack(
        &self,
        slot: Slot,
        candidates: &[Candidate],
    ) -> Result<usize, String> {
        let _place = self.budget.place().await.ok_or("the node stops")?;
        let (mut members, mut bytes) = (Vec::new(), 0);
        for candidate in candidates {
            if bytes + candidate.size > PACK_BYTES {
                break;
            }
            let member = self.member(slot, candidate).await;
            if let Some(member) = member.map_err(why)? {
                bytes += candidate.size;
                members.push(member);
            }
        }
        // One alone has an object of its own.
        if members.len() < 2 { Ok(0) } else { self.store_pack(slot, members).await.map_err(why) }
    }

    /// The only chunk of a version, if it may go into a pack.
    async fn member(&self, slot: Slot, candidate: &Candidate) -> Step<Option<Member>> {
        let Some(working) = self.desk.work_on(candidate.blob) else { return Ok(None) };
        let readers = &self.node.readers;
        let Some(whole) = readers.whole(slot, candidate.row).await? else { return Ok(None) };
        if whole.chunks() != 1
            || whole.is_inline(0)
            || readers.archived_chunk(slot, candidate.row, 0).await?.is_some()
        {
            return Ok(None);
        }
        let Some(id) = readers.chunk_ids(slot, candidate.row, 0, 1).await?.pop() else { return Ok(None) };
        let chunk = Chunk { number: 0, id, len: whole.size };
        let version = Version::new(slot, whole);
        let source = match self.source(&version, &chunk).await {
            Err(Trouble::Gone | Trouble::Chunk(_)) => return Ok(None),
            source => source?,
        };
        let read = source.read().await.and_then(|bytes| {
            // The store compares the whole of the pack only.
            if ChunkId(Sha256::digest(&bytes)) == chunk.id { Ok(bytes) } else { Err(Fault::Hash) }
        });
        match read {
            Ok(bytes) => Ok(Some(Member { version, chunk, bytes, before: None, _working: working })),
            Err(fault) => {
                // It is entered as damaged, and the others go without it.
                self.damaged(&version, &chunk, &fault).await;
                Ok(None)
            }
        }
    }

    /// Stores chunks in one object, and has rows name it; how many do.
    async fn store_pack(&self, slot: Slot, mut members: Vec<Member>) -> Step<usize> {
        let Some(first) = members.first() else { return Ok(0) };
        let path = first.version.whole.path.clone();
        let size: u64 = members.iter().map(|member| member.chunk.len).sum();
        let mut bytes = Vec::with_capacity(size as usize);
        for member in &mut members {
            let start = bytes.len();
            bytes.append(&mut std::mem::take(&mut member.bytes));
            if ChunkId(Sha256::digest(&bytes[start..])) != member.chunk.id {
                return Err(Trouble::Ends("the memory of this machine changes bytes: test it".to_owned()));
            }
        }
        let (target, held) = self.put_pack(slot, &path, bytes.into()).await?;
        let (mut named, mut start) = (0, 0);
        for Member { version, chunk, before, .. } in &members {
            let range = start..start + chunk.len;
            start = range.end;
            let object = Object { target: target.clone(), range };
            match self.name(version, chunk, object, before.clone()).await {
                Ok(Stored::Named(_)) => named += 1,
                // Another node was faster, or it was deleted meanwhile.
                Ok(Stored::Another(_)) | Err(Trouble::Gone | Trouble::Chunk(_)) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        if named > 0 {
            held.named();
            self.desk.note_unspread(slot);
        }
        self.desk.note_leftovers(slot);
        Ok(named)
    }

    /// Stores a pack, each try under a key of its own; its place, which is held until rows name it.
    async fn put_pack(&self, slot: Slot, path: &str, bytes: Bytes) -> Step<(String, Held)> {
        let (size, sha256) = (bytes.len() as u64, Sha256::digest(&bytes));
        let mut tried = 0;
        loop {
            let at = Location::of_pack(&self.settings.bucket, &self.settings.prefix, slot);
            let target = at.to_string();
            let held = self.keys.hold(&self.desk, slot, target.clone());
            self.node.writers.begin_object(slot, target.clone(), path.to_owned()).await?;
            self.budget.begin(size).await;
            self.budget.go_on(size).await;
            self.store.pace().await;
            let (credentials, store) = self.store.target();
            let (sender, body) = mpsc::channel(1);
            let _ = sender.try_send(Ok(bytes.clone()));
            drop(sender);
            let stored = store.put(&at, size, sha256, body).await;
            self.store.note("put", &at.bucket, &stored);
            tried += 1;
            match stored {
                Ok(()) => {
                    self.node.metrics.archive.uploaded_bytes.inc_by(size);
                    if self.is_pack(&at, size, sha256).await? {
                        return Ok((target, held));
                    }
                    return Err(Trouble::Ends(format!(
                        "PUT {at}: the archive says that it has stored it, and has not"
                    )));
                }
                Err(failure) => {
                    if tried >= ARCHIVE_TRIES || !self.store.is_worth_a_try(&failure, credentials).await {
                        return Err(Trouble::Ends(failure.message));
                    }
                }
            }
            sleep(pause(tried)).await;
        }
    }

    /// Whether the store has a pack.
    async fn is_pack(&self, at: &Location, size: u64, sha256: [u8; 32]) -> Step<bool> {
        let stat = async |store: Target| store.stat(at).await;
        self.store.pace().await;
        let asked = self.store.ask("stat", &at.bucket, ARCHIVE_TRIES, stat).await;
        let stat = asked.map_err(|failure| Trouble::Ends(failure.message))?;
        if stat.size != size {
            return Ok(false);
        }
        if let Some(hash) = stat.sha256 {
            return Ok(hash == sha256);
        }
        let hash = self.hash(at, 0..size).await;
        Ok(hash.map_err(|failure| Trouble::Ends(failure.message))? == sha256)
    }

    /// Stores anew what is needed of a pack, if that is little of it; whether nothing is to be done about it for now.
    pub(in crate::background::archive) async fn rewrite(
        &self,
        slot: Slot,
        target: &str,
    ) -> Result<bool, String> {
        let Ok(at) = target.parse::<Location>() else { return Ok(true) };
        let rows = self.node.readers.members(slot, target.to_owned()).await;
        let rows = rows.map_err(|error| error.message.into_owned())?;
        let needed: u64 = rows.iter().map(|row| row.archived.length).sum();
        if needed == 0 || needed > PACK_BYTES {
            return Ok(true);
        }
        if !self.looked.is_due(target, needed, Instant::now()) {
            return Ok(false);
        }
        let stat = async |store: Target| store.stat(&at).await;
        self.store.pace().await;
        let stat = self.store.ask("stat", &at.bucket, ARCHIVE_TRIES, stat).await;
        let size = stat.map_err(|failure| failure.message)?.size;
        if needed * 100 >= size * PACK_NEEDED {
            return Ok(true);
        }
        let (mut members, count) = (Vec::new(), rows.len());
        for row in rows {
            if let Some(member) = self.member_again(slot, &at, row).await.map_err(why)? {
                members.push(member);
            }
        }
        let stored = self.store_pack(slot, members).await.map_err(why)?;
        tracing::info!(%slot, object = %target, chunks = stored, "what is needed of a pack was stored anew");
        Ok(stored == count)
    }

    /// A chunk that is in a pack already, from there; none: it cannot be moved now.
    async fn member_again(&self, slot: Slot, at: &Location, row: Named) -> Step<Option<Member>> {
        let Named { row, number, archived } = row;
        let Some(whole) = self.node.readers.whole(slot, row).await? else { return Ok(None) };
        let Some(working) = self.desk.work_on(whole.blob) else { return Ok(None) };
        let chunk = Chunk { number, id: archived.chunk, len: archived.length };
        let version = Version::new(slot, whole);
        let get = async |store: Target| store.get(at, archived.range.clone()).await;
        self.store.pace().await;
        let asked = self.store.ask("get", &at.bucket, ARCHIVE_TRIES, get);
        let Ok(asked) = timeout(ARCHIVE_READ_TIME, asked).await else {
            let why = format!("GET {at}: a chunk of it was not had within {ARCHIVE_READ_TIME:?}");
            return Err(Trouble::Ends(why));
        };
        let bytes = asked.map_err(|failure| Trouble::Ends(failure.message))?;
        self.node.metrics.archive.fetched_bytes.inc_by(bytes.len() as u64);
        if ChunkId(Sha256::digest(&bytes)) != chunk.id {
            tracing::error!(
                %slot,
                path = %version.whole.path,
                object = %at,
                "a pack has other bytes than a chunk that it should have: the chunk stays there"
            );
            return Ok(None);
        }
        let before = Some(archived.target);
        Ok(Some(Member { version, chunk, bytes, before, _working: working }))
    }
}

fn why(trouble: Trouble) -> String {
    match trouble {
        Trouble::Chunk(why) | Trouble::Ends(why) => why,
        Trouble::Gone => super::GONE.to_owned(),
        Trouble::Over => "the order has ended".to_owned(),
    }
}

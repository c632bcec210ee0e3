//! Fetching the chunks of a version from a replica that has them, chunk by chunk.
//!
//! The bytes of a chunk come like those of an upload, are hashed and written like them, and count only if they are the ones that the
//! version was decided with. A chunk that is on the disk already is read and verified instead. What is whole when a fetch is cut
//! off stays for the next one, which may be from another replica.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use monoio::time::timeout;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::base::error::{Code, Error, Result};
use crate::base::ids::ChunkId;
use crate::base::parts::{Part, Parts, content};
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::chunk::incoming::Received;
use crate::chunk::kept;
use crate::io::file::on_storage_thread;
use crate::limits::{CHUNK_SIZE, CLUSTER_TIME, HOPS_MAX, INLINE_MAX, PARTS_PER_CHUNK, STAGE_CHUNKS};
use crate::meta::replica::Uploaded;
use crate::meta::types::Row;
use crate::shard::body::Body;
use crate::shard::connection::Plane;
use crate::shard::core::Core;
use crate::shard::peers::ask::ask_sync;
use crate::shard::peers::cluster::Cluster;
use crate::shard::peers::link::{HOPS_FIELD, Link};
use crate::shard::peers::upload::Streams;
use crate::shard::reply::Failure;
use crate::shard::upload::Upload;
use crate::wire::head::Framing;
use crate::wire::peer::Held;
use crate::wire::peer::sync::{Answer, Question};

/// What stands in a path as it is.
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Gives a version its chunks, from whichever other replica has them.
pub(super) async fn from_any(core: &Rc<Core>, cluster: &Arc<Cluster>, slot: Slot, held: &Held) -> Result<()> {
    let mut why = Error::new(Code::QuorumUnavailable, "there is no other replica");
    for from in cluster.others(slot).into_iter().filter(|node| cluster.is_reachable(*node)) {
        let mut fetch = Fetch { core, cluster, slot, from, held, staged: None };
        let filled = match fetch.run().await {
            // Not taken: deleted meanwhile, and they go with the sweep; or not hollow any more, and they are needed.
            Ok(data) => core.node.writers.fill(slot, Arc::new(data)).await.map(drop),
            Err(error) => Err(Error::new(
                Code::SlotUnavailable,
                format!("node '{}': {error}", cluster.topology().name(from)),
            )),
        };
        match filled {
            Ok(()) => return Ok(()),
            // It may be on disk: then what was staged is needed.
            Err(error) if error.code == Code::OutcomeUnknown => return Err(error),
            Err(error) => {
                fetch.abandon().await;
                why = error;
            }
        }
    }
    Err(why)
}

/// A fetch of a version's chunks.
struct Fetch<'a> {
    core: &'a Rc<Core>,
    cluster: &'a Arc<Cluster>,
    slot: Slot,
    from: NodeId,
    held: &'a Held,
    staged: Option<Row>,
}

fn other(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

impl Fetch<'_> {
    async fn run(&mut self) -> io::Result<Uploaded> {
        let (node, row) = (&self.core.node, &self.held.row);
        let (blob_id, size) = (row.attempt.blob_id, row.size);
        if size > INLINE_MAX {
            let birth = node.writers.birth(self.slot).await;
            birth.map_err(|error| other(error.message))?;
        }
        let known = self.known_chunks().await?;
        // What a fetch that was cut off has left of a chunk is in the way.
        let (dir, keep) = (node.slot_dir(self.slot).to_path_buf(), known.clone().unwrap_or_default());
        on_storage_thread(move || kept::tidy(&dir, blob_id, &keep)).await?;
        let (mut chunks, mut parts) = (Vec::new(), Parts::default());
        for number in 0..size.div_ceil(CHUNK_SIZE) {
            let len = (size - number * CHUNK_SIZE).min(CHUNK_SIZE);
            let id = known.as_ref().and_then(|known| known.get(chunks.len()).copied());
            let here = match id {
                Some(id) => self.kept(id, len).await?,
                None => None,
            };
            match (here, id) {
                (Some(here), Some(id)) => {
                    chunks.push(id);
                    parts.parts.extend(here);
                }
                (_, id) => {
                    let received = self.fetch(number, len).await?;
                    if id.is_some_and(|id| received.chunks != [id]) {
                        return Err(self.other_bytes());
                    }
                    chunks.extend(received.chunks);
                    parts.parts.extend(received.parts.parts);
                    let place = |(first, bytes)| (first + number * PARTS_PER_CHUNK, bytes);
                    parts.inline.extend(received.parts.inline.into_iter().map(place));
                }
            }
            if parts.parts.len() >= STAGE_CHUNKS * PARTS_PER_CHUNK as usize {
                parts = self.stage(parts).await?;
            }
        }
        let data = Uploaded { blob_id, size, chunks, parts };
        if data.content() == row.content { Ok(data) } else { Err(self.other_bytes()) }
    }

    fn other_bytes(&self) -> io::Error {
        let (node, blob) = (self.cluster.topology().name(self.from), self.held.row.attempt.blob_id);
        tracing::error!(node, %blob, "a replica sent other bytes");
        other("its bytes are not those of the version")
    }

    /// The chunks of the version; none: that is not known before they are here, and nothing of them is here.
    async fn known_chunks(&self) -> io::Result<Option<Vec<ChunkId>>> {
        let row = &self.held.row;
        let blob = row.attempt.blob_id;
        if row.size > CHUNK_SIZE {
            let mut chunks = Vec::new();
            while (chunks.len() as u64) < row.size.div_ceil(CHUNK_SIZE) {
                let (slot, first) = (self.slot.index() as u16, chunks.len() as u64);
                match ask_sync(self.core, self.from, &Question::Chunks { slot, blob, first }).await? {
                    Answer::Chunks(more) if !more.is_empty() => chunks.extend(more),
                    _ => return Err(other("it has no chunks of the version")),
                }
            }
            return if content(row.size, &chunks) == row.content {
                Ok(Some(chunks))
            } else {
                Err(self.other_bytes())
            };
        }
        let dir = self.core.node.slot_dir(self.slot).to_path_buf();
        let named = on_storage_thread(move || kept::named(&dir, blob)).await?;
        Ok(named.into_iter().find(|id| content(row.size, &[*id]) == row.content).map(|id| vec![id]))
    }

    /// The parts of a chunk that is on the disk.
    async fn kept(&self, id: ChunkId, len: u64) -> io::Result<Option<Vec<Part>>> {
        let (node, blob) = (&self.core.node, self.held.row.attempt.blob_id);
        let (dir, synced) = (node.slot_dir(self.slot).to_path_buf(), node.synced);
        on_storage_thread(move || kept::verify(&dir, blob, id, len, synced)).await
    }

    /// Fetches a chunk to the disk.
    async fn fetch(&self, number: u64, len: u64) -> io::Result<Received> {
        let (core, row) = (self.core, &self.held.row);
        if len > INLINE_MAX && !core.node.disk(self.slot).has_room(len) {
            return Err(other("the disk here has no room for it"));
        }
        let path = utf8_percent_encode(&row.path, &PLAIN);
        let mut target = format!("/objects/{path}?version={}&consistency=local", row.version);
        if len < row.size {
            let start = number * CHUNK_SIZE;
            target = format!("{target}&start={start}&end={}", start + len);
        }
        let question = Link::head(core, self.from, "GET", &target).header(HOPS_FIELD, HOPS_MAX).write();
        let mut link = Link::open(core, self.from, false).await?;
        link.connection.send(question).await?;
        let answered = timeout(CLUSTER_TIME, link.answer()).await;
        let head = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        if head.status != if len < row.size { 206 } else { 200 } {
            return Err(other(format!("it answers {}", head.status)));
        }
        if head.headers.get_str("etag") != Some(&format!("\"{}\"", row.attempt.blob_id)) {
            return Err(other("it has another blob of that version"));
        }
        if head.framing != Framing::Length(len) {
            return Err(other("its blob has another size"));
        }
        let mut body = Body::of_length(len, Plane::Peer(Some(self.from))).limited(Arc::clone(self.cluster));
        let mut upload = Upload::new(core, self.slot, row.attempt.blob_id, Streams::default());
        let received = upload.run(&mut link.connection, &mut body, false).await;
        core.node.metrics.sync_fetched.inc_by(len - body.remaining().unwrap_or(0));
        let received = received.map_err(|failure| match failure {
            Failure::Refused(error, _) => other(error.message),
            _ => io::ErrorKind::UnexpectedEof.into(),
        })?;
        if head.keep_alive {
            link.keep(core);
        }
        Ok(received)
    }

    /// Stores parts beside the slot's versions, so that those of a large blob are not all held in memory.
    async fn stage(&mut self, parts: Parts) -> io::Result<Parts> {
        let next = parts.first + parts.parts.len() as u64;
        let blob = self.held.row.attempt.blob_id;
        let staged = self.core.node.writers.stage(self.slot, self.staged, blob, parts).await;
        self.staged = Some(staged.map_err(|error| other(error.message))?);
        Ok(Parts { first: next, ..Parts::default() })
    }

    /// Forgets what was staged; whole chunks stay.
    async fn abandon(&self) {
        if let Some(row) = self.staged
            && let Err(error) = self.core.node.writers.abandon(self.slot, row).await
        {
            tracing::warn!(slot = %self.slot, %error, "staged rows stay until the next start");
        }
    }
}

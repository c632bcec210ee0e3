//! A blob's bytes on their way to its replicas: sent while they arrive, at most a few buffers behind, verified by each replica
//! before it votes. A replica that is slow or fails is left out, if a quorum remains.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::TrySendError::{Closed, Full};
use async_channel::{Receiver, Sender};
use monoio::time::timeout;
use serde::{Deserialize, Serialize};

use super::ask::is_lost;
use super::link::Link;
use crate::base::error::Code;
use crate::base::ids::BlobId;
use crate::base::seal::sealed_len;
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::chunk::incoming::Piece;
use crate::io::bulk::memory::{Gather, Region};
use crate::limits::{LAG_MIN, PEER_MESSAGE_MAX, SEND_TIME, UPLOAD_FINISH};
use crate::meta::replica::Uploaded;
use crate::replication::machine::NodeSet;
use crate::shard::core::Core;
use crate::shard::reply::{Failure, refuse};
use crate::wire::head::Framing;
use crate::wire::peer::{Content, decode};

/// Where uploads go: `/peer/upload/<slot>/<blob_id>`, or `/peer/upload/<slot>/<blob_id>/<size>` with a [`Seal`](crate::base::seal::Seal) behind each chunk.
pub(super) const TARGET: &str = "/peer/upload/";

/// What a replica says when everything is on its disk.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) size: u64,
    pub(super) content: Content,
}

enum Item {
    Piece(Piece),
    End,
}

/// The ways to the other replicas of one upload.
pub(in crate::shard) struct Streams {
    to: Vec<NodeId>,
    /// Replicas beside this one that must remain.
    needed: usize,
    ways: Vec<Way>,
    is_open: bool,
    /// Whether the seals are sent too: only where it is known at the beginning how many bytes will be.
    sealed: bool,
    begun: Option<Instant>,
    /// How each way ended.
    end: Sender<(NodeId, Option<Stored>)>,
    ended: Receiver<(NodeId, Option<Stored>)>,
}

impl Default for Streams {
    fn default() -> Self {
        Self::new(Vec::new(), 0)
    }
}

struct Way {
    node: NodeId,
    /// Pieces that did not fit yet.
    waiting: Vec<Item>,
    sender: Sender<Item>,
    /// How long the upload has waited for it.
    waited: Duration,
}

impl Streams {
    /// To these replicas, of which `needed` must remain; opened with the first bytes that make a file.
    pub(in crate::shard) fn new(to: Vec<NodeId>, needed: usize) -> Self {
        let (end, ended) = async_channel::bounded(to.len().max(1));
        Self { to, needed, ways: Vec::new(), is_open: false, sealed: false, begun: None, end, ended }
    }

    /// Whether anything was sent: else the bytes go with the question to vote.
    pub(in crate::shard) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Opens the ways, if they are not; `first` bytes and then the `rest` will be sent, if that is known.
    pub(in crate::shard) fn open(
        &mut self,
        core: &Rc<Core>,
        slot: Slot,
        blob: BlobId,
        first: u64,
        rest: Option<u64>,
    ) {
        if std::mem::replace(&mut self.is_open, true) {
            return;
        }
        self.begun = Some(Instant::now());
        let size = rest.map(|rest| first + rest);
        self.sealed = size.is_some();
        for node in self.to.iter().copied() {
            let (sender, items) = async_channel::bounded(1);
            let (core, ended) = (Rc::clone(core), self.end.clone());
            monoio::spawn(async move {
                let stored = send(core, node, slot, blob, size, items).await;
                // Who does not want to know any more is gone.
                let _ = ended.try_send((node, stored));
            });
            self.ways.push(Way { node, waiting: Vec::new(), sender, waited: Duration::ZERO });
        }
    }

    /// Takes a piece for all of them.
    pub(in crate::shard) fn put(&mut self, piece: &Piece) {
        if matches!(piece, Piece::Seal(_)) && !self.sealed {
            return;
        }
        for way in &mut self.ways {
            way.put(Item::Piece(piece.clone()));
        }
    }

    /// Waits until everyone who is not left out is at most a buffer behind.
    ///
    /// # Errors
    /// When too few remain.
    pub(in crate::shard) async fn keep_up(&mut self) -> Result<(), Failure> {
        let patience = self.begun.map_or(LAG_MIN, |begun| LAG_MIN + begun.elapsed() / 4);
        let mut ways = std::mem::take(&mut self.ways);
        for mut way in ways.drain(..) {
            if way.flush(patience).await {
                self.ways.push(way);
            } else {
                tracing::info!(
                    node = way.node.0,
                    "a replica is left out of an upload: it is slow, or failed"
                );
            }
        }
        if self.is_open && self.ways.len() < self.needed {
            return refuse(
                Code::QuorumUnavailable,
                "too few replicas take the bytes: nothing was stored, try again",
            );
        }
        Ok(())
    }

    /// Ends the ways; the nodes that have all of `data` on their disks.
    ///
    /// # Errors
    /// When too few have.
    pub(in crate::shard) async fn finish(&mut self, data: &Uploaded) -> Result<Vec<NodeId>, Failure> {
        for way in &mut self.ways {
            way.put(Item::End);
        }
        self.keep_up().await?;
        let wanted = Stored { size: data.size, content: data.content() };
        let mut stored = Vec::new();
        let mut missing: NodeSet = self.ways.iter().map(|way| way.node).collect();
        let deadline = Instant::now() + UPLOAD_FINISH;
        while !missing.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            // With enough of them, the others get a little time more.
            let patience = if stored.len() >= self.needed { LAG_MIN.min(left) } else { left };
            let Ok(Ok((node, theirs))) = timeout(patience, self.ended.recv()).await else { break };
            if !missing.remove(node) {
                // Left out before.
                continue;
            }
            match theirs {
                Some(theirs) if theirs == wanted => stored.push(node),
                Some(_) => {
                    tracing::error!(node = node.0, blob = %data.blob_id, "a replica has other bytes than were sent");
                }
                None => tracing::info!(node = node.0, "a replica is left out of an upload"),
            }
        }
        self.ways.clear();
        if stored.len() < self.needed {
            return refuse(
                Code::QuorumUnavailable,
                "too few replicas have the bytes: nothing was stored, try again",
            );
        }
        Ok(stored)
    }
}

impl Way {
    /// Hands on an item, at once if there is room.
    fn put(&mut self, item: Item) {
        let left = if self.waiting.is_empty() { self.sender.try_send(item) } else { Err(Full(item)) };
        // Of one that is closed, `flush` says so.
        if let Err(Full(item) | Closed(item)) = left {
            self.waiting.push(item);
        }
    }

    /// Hands on what is waiting; false: it is left out.
    async fn flush(&mut self, patience: Duration) -> bool {
        for item in self.waiting.drain(..) {
            let item = match self.sender.try_send(item) {
                Ok(()) => continue,
                Err(Closed(_)) => return false,
                Err(Full(item)) => item,
            };
            let begun = Instant::now();
            let sent = timeout(patience.saturating_sub(self.waited), self.sender.send(item)).await;
            self.waited += begun.elapsed();
            if !matches!(sent, Ok(Ok(()))) {
                return false;
            }
        }
        true
    }
}

/// What leaves in one send.
struct Framed {
    before: Vec<u8>,
    piece: Piece,
    after: &'static [u8],
}

impl Framed {
    fn len(&self) -> usize {
        let piece = match &self.piece {
            Piece::Large(_, len) => *len,
            Piece::Small(bytes) | Piece::Seal(bytes) => bytes.len(),
        };
        self.before.len() + piece + self.after.len()
    }
}

#[expect(unsafe_code, reason = "memory shared with the kernel")]
// SAFETY: a vector's bytes, a static's, and shares of memory, which neither move nor change while they are held.
unsafe impl Gather for Framed {
    fn regions(&self, name: &mut dyn FnMut(Region)) {
        self.before.regions(name);
        match &self.piece {
            Piece::Large(buffer, len) => name(Region::of(&buffer[..*len])),
            Piece::Small(bytes) | Piece::Seal(bytes) => bytes.regions(name),
        }
        name(Region::of(self.after));
    }
}

/// Sends what comes; none: it failed, or was given up.
async fn send(
    core: Rc<Core>,
    to: NodeId,
    slot: Slot,
    blob: BlobId,
    size: Option<u64>,
    items: Receiver<Item>,
) -> Option<Stored> {
    let cluster = core.node.cluster.as_ref().map(Arc::clone)?;
    match try_send(&core, to, slot, blob, size, items).await {
        Ok(stored) => stored,
        Err(error) => {
            tracing::info!(node = cluster.topology().name(to), %error, "cannot send a blob to a replica");
            // One that refuses is there.
            if is_lost(error.kind()) {
                cluster.set_reachable(to, false);
            }
            None
        }
    }
}

async fn try_send(
    core: &Rc<Core>,
    to: NodeId,
    slot: Slot,
    blob: BlobId,
    size: Option<u64>,
    items: Receiver<Item>,
) -> std::io::Result<Option<Stored>> {
    let mut link = Link::open(core, to, true).await?;
    let head = |target| Link::head(core, to, "PUT", target);
    let head = match size {
        Some(size) => {
            head(&format!("{TARGET}{slot}/{blob}/{size}")).header("Content-Length", sealed_len(size))
        }
        None => head(&format!("{TARGET}{slot}/{blob}")).header("Transfer-Encoding", "chunked"),
    };
    link.connection.send(head.write()).await?;
    loop {
        match items.recv().await {
            // The upload was given up: the connection ends, and the replica forgets it.
            Err(_) => return Ok(None),
            Ok(Item::Piece(piece)) => send_piece(&mut link, piece, size.is_none()).await?,
            Ok(Item::End) => break,
        }
    }
    drop(items);
    if size.is_none() {
        link.connection.send(b"0\r\n\r\n".to_vec()).await?;
    }
    let answer = async {
        let head = link.answer().await?;
        let len = match head.framing {
            Framing::Length(len) => usize::try_from(len).unwrap_or(usize::MAX),
            _ => 0,
        };
        if len > PEER_MESSAGE_MAX {
            return Err(std::io::Error::other("an answer that is too long"));
        }
        let answer = link.receive(len).await?;
        if head.status != 200 {
            return Err(std::io::Error::other(String::from_utf8_lossy(&answer).into_owned()));
        }
        decode(&answer).map_err(|error| std::io::Error::other(error.to_string()))
    };
    let stored = timeout(UPLOAD_FINISH, answer).await;
    let stored = stored.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
    link.keep(core);
    Ok(Some(stored))
}

async fn send_piece(link: &mut Link, piece: Piece, chunked: bool) -> std::io::Result<()> {
    let mut framed = Framed { before: Vec::new(), piece, after: b"" };
    if framed.len() == 0 {
        return Ok(());
    }
    if chunked {
        framed.before = format!("{:x}\r\n", framed.len()).into_bytes();
        framed.after = b"\r\n";
    }
    let (framed, mut sent) = (Rc::new(framed), 0);
    while sent < framed.len() {
        let moved = link.connection.send_parts(&framed, sent, SEND_TIME).await?;
        sent += moved.bytes;
        if moved.out_of_patience && sent < framed.len() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

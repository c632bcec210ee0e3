//! An upload under way: received, hashed (or held against its seals) and written at once, and sent on to the other replicas in a cluster, in buffers that
//! grow for as long as the client is fast.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use monoio::time::timeout;

use super::archive;
use super::body::Body;
use super::connection::Connection;
use super::core::Core;
use super::peers::upload::Streams;
use super::reply::{Failure, refuse};
use crate::base::error::{Code, Error};
use crate::base::ids::BlobId;
use crate::base::seal::Seal;
use crate::base::slot::Slot;
use crate::chunk::incoming::{self, Incoming, Received};
use crate::io::budget::Share;
use crate::io::buffer::Buffer;
use crate::io::file::on_storage_thread;
use crate::limits::{
    BLOB_MAX, BUFFER_MAX, BUFFER_MIN, BUFFER_WAIT, FAST_FILL, GRANULE_SIZE, INLINE_MAX, STAGE_CHUNKS,
    WRITES_IN_FLIGHT,
};
use crate::meta::types::Row;

/// An upload under way.
pub(super) struct Upload<'a> {
    core: &'a Rc<Core>,
    slot: Slot,
    pub(super) blob: BlobId,
    pub(super) staged: Option<Row>,
    /// The way to the other replicas.
    pub(super) streams: Streams,
    /// Whether it waits for room on a disk above its watermark.
    waits: bool,
}

pub(super) fn disk_full() -> Error {
    Error::new(Code::DiskFull, "the disk is full: delete blobs or add space, then try again")
}

impl<'a> Upload<'a> {
    pub(super) fn new(core: &'a Rc<Core>, slot: Slot, blob: BlobId, streams: Streams) -> Self {
        Self { core, slot, blob, staged: None, streams, waits: true }
    }

    /// The same, from who sends on to several replicas and waits for room itself: one that did, too, would look slow.
    pub(super) fn of_coordinator(self) -> Self {
        Self { waits: false, ..self }
    }

    /// Receives a body to the disk. After a failure nothing of it is under way, and its files are still there.
    pub(super) async fn run(
        &mut self,
        connection: &mut Connection,
        body: &mut Body,
        digest_wanted: bool,
    ) -> Result<Received, Failure> {
        let node = &self.core.node;
        let slot_dir = node.slot_dir(self.slot).to_path_buf();
        let disk = Arc::clone(node.disk(self.slot));
        let mut incoming = if body.is_sealed() {
            Incoming::sealed(disk, slot_dir, self.blob, node.synced)
        } else {
            let hashing = self.core.hashing.clone();
            Incoming::new(disk, slot_dir, self.blob, node.synced, digest_wanted, hashing)
        };
        match self.receive(connection, body, &mut incoming).await {
            Ok(received) => Ok(received),
            Err(failure) => {
                // Before the budget gets the buffers back, and before the files are removed.
                incoming.settle().await;
                Err(failure)
            }
        }
    }

    /// Receives the body: the next buffer fills while the last ones are hashed and written.
    async fn receive(
        &mut self,
        connection: &mut Connection,
        body: &mut Body,
        incoming: &mut Incoming,
    ) -> Result<Received, Failure> {
        let mut buffers = Buffers::new(self.core).await?;
        let mut buffer = buffers.first();
        let mut since = Instant::now();
        loop {
            let end = usize::try_from(incoming.chunk_room()).unwrap_or(usize::MAX).min(buffer.capacity());
            let room = end - buffer.len();
            let Some(received) = body.read(connection, &mut buffer, room, buffers.patience()).await? else {
                buffer = self.let_go(body, incoming, buffer).await?;
                buffers.shrink();
                since = Instant::now();
                continue;
            };
            self.core.node.metrics.received.inc_by(received as u64);
            let last = received == 0 || body.remaining() == Some(0);
            if incoming.size() + buffer.len() as u64 > BLOB_MAX {
                return refuse(Code::TooLarge, "the body is larger than 16 TiB, the largest blob");
            }
            if !last && buffer.len() < end {
                continue;
            }
            let fast = since.elapsed() < FAST_FILL;
            if fast {
                buffers.grow();
            }
            let in_flight = if fast { buffers.in_flight() } else { 0 };
            let ends = last || buffer.len() as u64 == incoming.chunk_room();
            let is_file = !(last && buffer.len() as u64 <= INLINE_MAX);
            if self.waits && is_file && !incoming.is_in_chunk() {
                archive::pressure::ease(&self.core.node, self.slot).await;
            }
            let mut back = self.hand_over(incoming, buffer, last, body.remaining(), in_flight).await?;
            if ends && incoming.is_in_chunk() {
                if !body.await_seal(connection, buffers.patience()).await? {
                    incoming.drain().await.map_err(|error| self.file_error(&error))?;
                    back = None;
                    buffers.shrink();
                }
                let seal = body.seal(connection).await?;
                self.end_chunk(incoming, seal, last).await?;
            }
            if last {
                return incoming.finish().await.map_err(|error| self.file_error(&error));
            }
            if !fast {
                buffers.shrink();
            }
            if incoming.held_chunks() >= STAGE_CHUNKS {
                let parts = incoming.take_parts();
                self.staged =
                    Some(self.core.node.writers.stage(self.slot, self.staged, self.blob, parts).await?);
            }
            buffer = buffers.next(back);
            since = Instant::now();
        }
    }

    /// Hands over what a large buffer holds, while the client is silent: gives back a small one with what does not fill a
    /// granule.
    async fn let_go(
        &mut self,
        body: &Body,
        incoming: &mut Incoming,
        mut buffer: Buffer,
    ) -> Result<Buffer, Failure> {
        let granules = buffer.len() - buffer.len() % GRANULE_SIZE as usize;
        let mut small = Buffer::new(BUFFER_MIN);
        small.extend(&buffer[granules..]);
        buffer.set_len(granules);
        let rest = body.remaining().map(|rest| rest + small.len() as u64);
        self.hand_over(incoming, buffer, false, rest, 0).await?;
        Ok(small)
    }

    /// [`Incoming::write`], as long as there is room on the disk.
    async fn hand_over(
        &mut self,
        incoming: &mut Incoming,
        buffer: Buffer,
        last: bool,
        rest: Option<u64>,
        in_flight: usize,
    ) -> Result<Option<Buffer>, Failure> {
        if !last && !self.core.node.disk(self.slot).has_room(buffer.capacity() as u64) {
            return Err(disk_full().into());
        }
        let first = incoming.size() == 0;
        if first && !(last && buffer.len() as u64 <= INLINE_MAX) {
            self.streams.open(self.core, self.slot, self.blob, buffer.len() as u64, rest);
        }
        let ends = last || buffer.len() as u64 == incoming.chunk_room();
        let streams = &mut self.streams;
        let written = incoming.write(buffer, ends, rest, in_flight, &mut |piece| streams.put(&piece)).await;
        let back = written.map_err(|error| self.file_error(&error))?;
        self.streams.keep_up().await?;
        Ok(back)
    }

    /// Ends the chunk that was handed over. Its seal leaves before the last steps of its file, for which nobody else need wait.
    async fn end_chunk(
        &mut self,
        incoming: &mut Incoming,
        seal: Option<Seal>,
        last: bool,
    ) -> Result<(), Failure> {
        let streams = &mut self.streams;
        let named = incoming.name_chunk(seal, &mut |piece| streams.put(&piece)).await;
        let id = named.map_err(|error| self.file_error(&error))?;
        self.streams.keep_up().await?;
        incoming.finish_chunk(id, last).await.map_err(|error| self.file_error(&error))
    }

    fn file_error(&self, error: &io::Error) -> Failure {
        if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
            return disk_full().into();
        }
        if error.kind() == io::ErrorKind::InvalidData {
            let message = "the bytes of a chunk are not those that were hashed: they were damaged on the way, send them again";
            tracing::error!(slot = %self.slot, blob = %self.blob, "{message}");
            return Error::new(Code::BadRequest, message).into();
        }
        self.core.node.disk(self.slot).health().note_write(error);
        tracing::error!(slot = %self.slot, blob = %self.blob, %error, "cannot write a chunk");
        Error::new(Code::Internal, format!("slot {}: the blob cannot be written: {error}", self.slot)).into()
    }

    /// Forgets what was staged, and removes the files.
    pub(super) async fn discard(&self) {
        let node = &self.core.node;
        if let Some(row) = self.staged
            && let Err(error) = node.writers.abandon(self.slot, row).await
        {
            tracing::warn!(slot = %self.slot, %error, "staged rows stay until the next start");
        }
        discard_files(self.core, self.slot, self.blob).await;
    }
}

/// Removes the files of a blob that nothing names.
pub(super) async fn discard_files(core: &Core, slot: Slot, blob: BlobId) {
    let slot_dir = core.node.slot_dir(slot).to_path_buf();
    if let Err(error) = on_storage_thread(move || incoming::discard(&slot_dir, blob)).await {
        tracing::warn!(%slot, %blob, %error, "files of a failed upload stay until the sweep");
    }
}

/// The buffers of one upload, taken from the core's budgets: one small one at first, larger and more of them for as
/// long as the client fills them fast.
struct Buffers<'a> {
    core: &'a Core,
    size: usize,
    in_flight: usize,
    _first: Share,
    more: Vec<Share>,
}

impl<'a> Buffers<'a> {
    async fn new(core: &'a Core) -> Result<Self, Failure> {
        match timeout(BUFFER_WAIT, core.first_buffers.take(BUFFER_MIN)).await {
            Ok(first) => Ok(Self { core, size: BUFFER_MIN, in_flight: 0, _first: first, more: Vec::new() }),
            Err(_) => refuse(Code::SlotUnavailable, "too many uploads are under way on this core: try again"),
        }
    }

    fn first(&self) -> Buffer {
        Buffer::new(self.size)
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// How long a silent client may keep them.
    fn patience(&self) -> Option<Duration> {
        (self.size > BUFFER_MIN).then_some(FAST_FILL)
    }

    /// Takes larger buffers where the budget allows.
    fn grow(&mut self) {
        let held = self.size * (self.in_flight + 1);
        let size = (self.size * 4).min(BUFFER_MAX);
        let wanted = size * (WRITES_IN_FLIGHT + 1);
        if wanted > held
            && let Some(share) = self.core.more_buffers.try_take(wanted - held)
        {
            self.more.push(share);
            (self.size, self.in_flight) = (size, WRITES_IN_FLIGHT);
        }
    }

    /// Gives all but the first one back.
    fn shrink(&mut self) {
        self.more.clear();
        (self.size, self.in_flight) = (BUFFER_MIN, 0);
    }

    /// The next buffer to fill: one that came back if it has the right size.
    fn next(&self, back: Option<Buffer>) -> Buffer {
        match back {
            Some(mut buffer) if buffer.capacity() == self.size => {
                buffer.set_len(0);
                buffer
            }
            _ => Buffer::new(self.size),
        }
    }
}

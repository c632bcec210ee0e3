//! PUT: receive, hash and write at once; sync; then one commit makes the blob visible.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use monoio::time::timeout;

use serde::Serialize;

use super::body::Body;
use super::connection::Connection;
use super::core::Core;
use super::fields;
use super::reply::{Failure, Handled, Reply, refuse};
use crate::base::error::{Code, Error};
use crate::base::ids::BlobId;
use crate::base::path::BlobPath;
use crate::base::slot::Slot;
use crate::chunk::incoming::{self, Incoming, Received};
use crate::io::budget::Share;
use crate::io::buffer::Buffer;
use crate::io::file::on_storage_thread;
use crate::limits::{
    BLOB_MAX, BUFFER_MAX, BUFFER_MIN, BUFFER_WAIT, FAST_FILL, GRANULE_SIZE, INLINE_MAX, STAGE_CHUNKS,
    WRITES_IN_FLIGHT,
};
use crate::meta::types::{NewBlob, Row, Stored};
use crate::wire::condition::Conditions;
use crate::wire::digest::parse_sha256;
use crate::wire::head::{Framing, Head, Headers};
use crate::wire::query::Query;
use crate::wire::response::ResponseHead;

const DIGESTS: [&str; 2] = ["repr-digest", "content-digest"];

#[derive(Serialize)]
struct PutAnswer<'a> {
    path: &'a str,
    version: u64,
    blob_id: String,
    size: u64,
    chunks_stored: u64,
}

/// What the head of a PUT asks for.
struct Request {
    path: BlobPath,
    slot: Slot,
    version: Option<u64>,
    conditions: Conditions,
    headers: String,
    digests: Vec<[u8; 32]>,
}

/// An upload under way.
struct Upload<'a> {
    core: &'a Core,
    slot: Slot,
    blob: BlobId,
    staged: Option<Row>,
}

pub(super) async fn put(
    core: &Core,
    connection: &mut Connection,
    head: &Head,
    body: &mut Body,
    path: BlobPath,
    query: &Query,
) -> Handled {
    let request = admit(core, head, path, query).await?;
    let mut upload = Upload { core, slot: request.slot, blob: BlobId::generate(), staged: None };
    core.node.live.insert(upload.blob);
    let result = upload.run(connection, body, head, &request).await;
    upload.end(&result).await;
    let stored = result?;
    let record = stored.record;
    let answer = PutAnswer {
        path: &request.path,
        version: record.version,
        blob_id: record.blob_id.to_string(),
        size: record.size,
        chunks_stored: record.chunks(),
    };
    let status = if stored.created { 201 } else { 200 };
    let head = ResponseHead::new(status)
        .header("ETag", format_args!("\"{}\"", record.blob_id))
        .header("x-amber-version", record.version);
    Ok(Reply::json_with(status, head, &answer))
}

/// Everything that can be refused from the head alone.
async fn admit(core: &Core, head: &Head, path: BlobPath, query: &Query) -> Result<Request, Failure> {
    if head.headers.get("content-range").is_some() {
        return refuse(
            Code::BadRequest,
            "a PUT with Content-Range cannot change a part of a blob: send all of it",
        );
    }
    let version = query.version()?;
    let conditions = Conditions::from_headers(&head.headers)?;
    let digests = digests(&head.headers)?;
    let headers = fields::from_request(&head.headers)?;
    let length = match head.framing {
        Framing::Length(length) => length,
        Framing::None => 0,
        Framing::Chunked => 1,
    };
    if length > BLOB_MAX {
        return refuse(Code::TooLarge, "the body is larger than 16 TiB, the largest blob");
    }
    let slot = Slot::of(&path);
    core.node.slots.admit(slot)?;
    if !core.node.disk(slot).has_room(length) {
        return Err(disk_full().into());
    }
    if version.is_some() || !conditions.is_empty() {
        core.node.readers.admit(slot, &path, version, &conditions).await?;
    }
    // A small blob makes no file: its commit makes the slot.
    if head.framing == Framing::Chunked || length > INLINE_MAX {
        core.node.writers.birth(slot).await?;
    }
    Ok(Request { path, slot, version, conditions, headers, digests })
}

fn disk_full() -> Error {
    Error::new(Code::DiskFull, "the disk is full: delete blobs or add space, then try again")
}

fn digests(headers: &Headers) -> Result<Vec<[u8; 32]>, Failure> {
    let mut digests = Vec::new();
    for name in DIGESTS {
        if let Some(value) = headers.joined(name) {
            digests.extend(parse_sha256(&value)?);
        }
    }
    Ok(digests)
}

impl Upload<'_> {
    async fn run(
        &mut self,
        connection: &mut Connection,
        body: &mut Body,
        head: &Head,
        request: &Request,
    ) -> Result<Stored, Failure> {
        let digest_wanted = !request.digests.is_empty() || head.framing == Framing::Chunked;
        let node = &self.core.node;
        let slot_dir = node.slot_dir(self.slot).to_path_buf();
        let disk = Arc::clone(node.disk(self.slot));
        let hashing = self.core.hashing.clone();
        let mut incoming = Incoming::new(disk, slot_dir, self.blob, node.synced, digest_wanted, hashing);
        let received = match self.receive(connection, body, &mut incoming).await {
            Ok(received) => received,
            Err(failure) => {
                // Before the budget gets the buffers back, and before the files are removed.
                incoming.settle().await;
                return Err(failure);
            }
        };
        check_digests(&received, request, body)?;
        let Received { size, chunks, parts, .. } = received;
        let blob = NewBlob {
            path: request.path.to_string(),
            version: request.version,
            blob_id: self.blob,
            size,
            chunks,
            parts,
            staged: self.staged,
            headers: request.headers.clone(),
            conditions: request.conditions.clone(),
        };
        Ok(node.writers.put(self.slot, blob).await?)
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
            let back = self.hand_over(incoming, buffer, last, body.remaining(), in_flight).await?;
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
        &self,
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
        &self,
        incoming: &mut Incoming,
        buffer: Buffer,
        last: bool,
        rest: Option<u64>,
        in_flight: usize,
    ) -> Result<Option<Buffer>, Failure> {
        if !last && !self.core.node.disk(self.slot).has_room(buffer.capacity() as u64) {
            return Err(disk_full().into());
        }
        let written = incoming.write(buffer, last, rest, in_flight).await;
        written.map_err(|error| self.file_error(&error))
    }

    fn file_error(&self, error: &io::Error) -> Failure {
        if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
            return disk_full().into();
        }
        tracing::error!(slot = %self.slot, blob = %self.blob, %error, "cannot write a chunk");
        Error::new(Code::Internal, format!("slot {}: the blob cannot be written: {error}", self.slot)).into()
    }

    /// Removes what the upload left, unless a row names it, or may name it.
    async fn end(&self, result: &Result<Stored, Failure>) {
        let node = &self.core.node;
        let (failed, named) = match result {
            Ok(stored) => (false, stored.created),
            Err(Failure::Refused(error, _)) => (true, error.code == Code::OutcomeUnknown),
            Err(Failure::Gone) => (true, false),
        };
        if let Some(row) = self.staged
            && failed
            && !named
            && let Err(error) = node.writers.abandon(self.slot, row).await
        {
            tracing::warn!(slot = %self.slot, %error, "staged rows stay until the next start");
        }
        if !named {
            self.discard().await;
        }
        node.live.remove(self.blob);
    }

    async fn discard(&self) {
        let (slot_dir, blob) = (self.core.node.slot_dir(self.slot).to_path_buf(), self.blob);
        if let Err(error) = on_storage_thread(move || incoming::discard(&slot_dir, blob)).await {
            tracing::warn!(slot = %self.slot, blob = %self.blob, %error, "files of a failed upload stay until the sweep");
        }
    }
}

fn check_digests(received: &Received, request: &Request, body: &Body) -> Result<(), Failure> {
    let trailers: Headers = body.trailers().iter().map(|(name, value)| (name, value)).collect();
    let announced = request.digests.iter().copied().chain(digests(&trailers)?);
    for digest in announced {
        if received.digest != Some(digest) {
            return refuse(
                Code::DigestMismatch,
                "the body does not have the announced sha-256: it was damaged on the way, send it again",
            );
        }
    }
    Ok(())
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

//! PUT: receive, hash and write at once; sync; then one commit makes the blob visible: of this node's own, or, in a cluster, that
//! of a quorum of the slot's replicas.

use std::rc::Rc;

use serde::Serialize;

use super::body::Body;
use super::connection::Connection;
use super::core::Core;
use super::fields;
use super::peers::upload::Streams;
use super::replicated::{self, Replica};
use super::reply::{Failure, Handled, Reply, refuse};
use super::upload::{Upload, disk_full};
use crate::base::clock::Timestamp;
use crate::base::error::Code;
use crate::base::ids::BlobId;
use crate::base::path::BlobPath;
use crate::base::slot::Slot;
use crate::chunk::incoming::Received;
use crate::limits::{BLOB_MAX, INLINE_MAX};
use crate::meta::types::{NewBlob, Stored};
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
pub(super) struct Request {
    pub(super) path: BlobPath,
    pub(super) slot: Slot,
    pub(super) version: Option<u64>,
    pub(super) conditions: Conditions,
    pub(super) headers: String,
    digests: Vec<[u8; 32]>,
    digest_wanted: bool,
    /// Whether the body may make files.
    large: bool,
}

pub(super) async fn put(
    core: &Rc<Core>,
    connection: &mut Connection,
    head: &Head,
    body: &mut Body,
    path: BlobPath,
    query: &Query,
) -> Handled {
    let request = admit(core, head, path, query)?;
    match replicated::replica(core, request.slot)? {
        Some(replica) => put_replicated(&replica, connection, body, &request).await,
        None => put_alone(core, connection, body, &request).await,
    }
}

/// Everything that can be refused from the head alone, without asking the metadata.
fn admit(core: &Core, head: &Head, path: BlobPath, query: &Query) -> Result<Request, Failure> {
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
    if replicated::is_here(core, slot) {
        // In a cluster another replica may do.
        if core.node.cluster.is_none() {
            core.node.slots.admit(slot)?;
        }
        if !replicated::is_out(core, slot) && !core.node.disk(slot).has_room(length) {
            return Err(disk_full().into());
        }
    }
    let chunked = head.framing == Framing::Chunked;
    let digest_wanted = !digests.is_empty() || chunked;
    let large = chunked || length > INLINE_MAX;
    Ok(Request { path, slot, version, conditions, headers, digests, digest_wanted, large })
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

/// On a node that runs alone: one commit of the slot's writer.
async fn put_alone(
    core: &Rc<Core>,
    connection: &mut Connection,
    body: &mut Body,
    request: &Request,
) -> Handled {
    let (node, slot) = (&core.node, request.slot);
    if request.version.is_some() || !request.conditions.is_empty() {
        node.readers.admit(slot, &request.path, request.version, &request.conditions).await?;
    }
    // A small blob makes no file: its commit makes the slot.
    if request.large {
        node.writers.birth(slot).await?;
    }
    let mut upload = Upload::new(core, slot, BlobId::generate(), Streams::default());
    node.live.insert(upload.blob);
    let result = match upload.run(connection, body, request.digest_wanted).await {
        Ok(received) => commit(core, &upload, request, received, body).await,
        Err(failure) => Err(failure),
    };
    // What it left goes, unless a row names it, or may name it.
    let named = match &result {
        Ok(stored) => stored.created,
        Err(Failure::Refused(error, _)) => error.code == Code::OutcomeUnknown,
        Err(_) => false,
    };
    if result.is_ok() {
        upload.staged = None;
    }
    if !named {
        upload.discard().await;
    }
    node.live.remove(upload.blob);
    let Stored { record, created } = result?;
    Ok(stored(&request.path, record.version, record.blob_id, record.size, record.chunks(), created))
}

async fn commit(
    core: &Core,
    upload: &Upload<'_>,
    request: &Request,
    received: Received,
    body: &Body,
) -> Result<Stored, Failure> {
    check_digests(&received, request, body)?;
    let Received { size, chunks, parts, .. } = received;
    let blob = NewBlob {
        path: request.path.to_string(),
        version: request.version,
        blob_id: upload.blob,
        size,
        chunks,
        parts,
        staged: upload.staged,
        headers: request.headers.clone(),
        conditions: request.conditions.clone(),
    };
    Ok(core.node.writers.put(request.slot, blob).await?)
}

/// In a cluster: the bytes go to all replicas as they come, and a quorum of them decides.
async fn put_replicated(
    replica: &Replica<'_>,
    connection: &mut Connection,
    body: &mut Body,
    request: &Request,
) -> Handled {
    let core = replica.core;
    replica.admit(request).await?;
    core.node.writers.birth(request.slot).await?;
    let mut upload = Upload::new(core, request.slot, BlobId::generate(), replica.streams());
    core.node.live.insert(upload.blob);
    let received = match upload.run(connection, body, request.digest_wanted).await {
        Ok(received) => check_digests(&received, request, body).map(|()| received),
        Err(failure) => Err(failure),
    };
    let received = match received {
        Ok(received) => received,
        Err(failure) => {
            upload.discard().await;
            core.node.live.remove(upload.blob);
            return Err(failure);
        }
    };
    let (row, created) = replica.put(upload, request, received, Timestamp::now()).await?;
    let chunks = row.size.div_ceil(crate::limits::CHUNK_SIZE);
    Ok(stored(&request.path, row.version, row.attempt.blob_id, row.size, chunks, created))
}

fn stored(path: &str, version: u64, blob_id: BlobId, size: u64, chunks_stored: u64, created: bool) -> Reply {
    let answer = PutAnswer { path, version, blob_id: blob_id.to_string(), size, chunks_stored };
    let status = if created { 201 } else { 200 };
    let head = ResponseHead::new(status)
        .header("ETag", format_args!("\"{blob_id}\""))
        .header("x-amber-version", version);
    Reply::json_with(status, head, &answer)
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

//! What a writer can be asked to do to a slot.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;

use super::apply::{self, Moment};
use super::archives::{self, Place};
use super::digests;
use super::replica::{self, Replica, Uploaded};
use super::types::{BlobMeta, Failure, NewBlob, Reply, Row, Stored, Which};
use super::whole;
use crate::base::error::{Code, Error, Result};
use crate::base::ids::{BlobId, ChunkId};
use crate::base::parts::Parts;
use crate::replication::participant::{self, Context, Surroundings};
use crate::wire::condition::Conditions;
use crate::wire::peer::{self, archive::ArchiveRow};

/// What a writer is asked for, and where its answer goes.
pub(super) enum Op {
    /// The slot is on disk, and its database has all that was acknowledged.
    Settle(Reply<()>),
    /// Everything of the slot that was asked for before has been done, or refused.
    Barrier(Reply<()>),
    /// Another database in the place of one that was lost.
    PutAside(u32, Reply<()>),
    /// The next rows are taken into the slot's digest; false: there are more.
    Digest(Reply<bool>),
    Put(Box<NewBlob>, Reply<Stored>),
    Stage {
        staged: Option<Row>,
        blob_id: BlobId,
        parts: Parts,
        reply: Reply<Row>,
    },
    Abandon(Row),
    Delete {
        path: String,
        which: Which,
        conditions: Conditions,
        reply: Reply<BlobMeta>,
    },
    Dropped {
        rows: Vec<Row>,
        reply: Reply<()>,
    },
    /// A request of a coordinator, with the data of a proposal.
    Peer {
        request: Box<peer::Request>,
        data: Option<Arc<Uploaded>>,
        around: Surroundings,
        reply: Reply<peer::Response>,
    },
    /// Whether the files of a blob that nothing names may go.
    Sweep(BlobId, Reply<bool>),
    /// Chunks for a version that lacks them.
    Fill(Arc<Uploaded>, Reply<bool>),
    /// The bytes of a chunk that lives in the database and is damaged.
    Mend {
        row: Row,
        number: u64,
        bytes: Bytes,
        reply: Reply<bool>,
    },
    /// Checksums of parts of a version in the place of damaged ones.
    Resum(Row, Parts, Reply<bool>),
    /// An object of the archive is about to be stored, for a version of a path.
    BeginObject {
        target: String,
        path: String,
        reply: Reply<()>,
    },
    /// Where the archive has a chunk, in the place of another object.
    Archive {
        row: Row,
        place: Place,
        expected: Option<String>,
        reply: Reply<bool>,
    },
    /// The file of a chunk that this object has is to go.
    DropChunk {
        row: Row,
        chunk: ChunkId,
        target: String,
        reply: Reply<bool>,
    },
    /// The file of a chunk is here again.
    BroughtBack(Row, ChunkId, Reply<()>),
    /// An object is not in the archive any more.
    ForgetObject(String, Reply<()>),
    /// All replicas hold these archive rows.
    MarkSpread(Vec<ArchiveRow>, Reply<()>),
    /// When versions were read last, in seconds since 1970.
    NoteReads(Vec<(Row, i64)>, Reply<()>),
    /// Nothing more of a version can go to the archive.
    SetArchivedWhole(Row, Reply<()>),
}

/// What an operation came to, before its commit.
pub(super) enum Answer {
    Done,
    Stored(Stored),
    Staged(Row),
    Deleted(BlobMeta),
    /// With what changed.
    Peer(peer::Response, Changes),
    Is(bool),
    /// The path of the version whose row changed, if one did.
    Changed(Option<String>),
}

/// What an answer to a coordinator changed.
#[derive(Default)]
pub(super) struct Changes {
    /// Paths whose versions changed.
    pub paths: Vec<String>,
    /// How many more live versions lack their chunks now.
    pub hollow: i64,
    /// What it is to the slot's digest.
    pub digest: Vec<digests::Change>,
}

impl Answer {
    /// Whether the newest version of a path may be another one now.
    pub(super) fn changes_versions(&self) -> bool {
        matches!(self, Self::Deleted(_) | Self::Stored(Stored { created: true, .. }))
    }
}

/// What a transaction is told beside its operations.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub moment: Moment,
    /// Of the replica, in a cluster.
    pub context: Option<&'a Context>,
}

impl Op {
    /// Makes the change, inside the writer's transaction.
    pub(super) fn apply(&self, db: &Connection, told: Told<'_>) -> std::result::Result<Answer, Failure> {
        let moment = told.moment;
        Ok(match self {
            Self::Settle(_) | Self::Barrier(_) | Self::PutAside(..) | Self::Digest(_) => Answer::Done,
            Self::Put(blob, _) => Answer::Stored(apply::put(db, blob, moment)?),
            Self::Stage { staged, blob_id, parts, .. } => {
                Answer::Staged(apply::stage(db, *staged, *blob_id, parts)?)
            }
            Self::Abandon(row) => {
                apply::abandon(db, Some(*row))?;
                Answer::Done
            }
            Self::Delete { path, which, conditions, .. } => {
                Answer::Deleted(apply::delete(db, path, *which, conditions, moment)?)
            }
            Self::Dropped { rows, .. } => {
                apply::dropped(db, rows, moment)?;
                Answer::Done
            }
            Self::Peer { request, data, around, .. } => {
                let context = told.context.ok_or_else(no_cluster)?;
                let mut around = *around;
                if let Some(data) = data {
                    around.has_data &= replica::has_staged(db, data)?;
                }
                let mut rows = Replica::new(db, moment, data.as_ref());
                let reply = participant::answer(&mut rows, context, around, request)?;
                Answer::Peer(reply, rows.changes)
            }
            Self::Sweep(blob, _) => {
                let mut rows = Replica::new(db, moment, None);
                let may_go = participant::sweep(&mut rows, *blob)?;
                if may_go {
                    replica::discard(db, *blob)?;
                }
                Answer::Is(may_go)
            }
            Self::Fill(data, _) => Answer::Is(replica::fill(db, data, moment.seq)?),
            Self::Mend { row, number, bytes, .. } => Answer::Is(whole::mend(db, *row, *number, bytes)?),
            Self::Resum(row, parts, _) => Answer::Is(whole::resum(db, *row, parts)?),
            Self::BeginObject { target, path, .. } => {
                archives::begin(db, target, path, moment.now)?;
                Answer::Done
            }
            Self::Archive { row, place, expected, .. } => {
                Answer::Changed(archives::archive(db, *row, place, expected.as_deref(), moment)?)
            }
            Self::DropChunk { row, chunk, target, .. } => {
                Answer::Changed(archives::drop_chunk(db, *row, *chunk, target, moment)?)
            }
            Self::BroughtBack(row, chunk, _) => {
                Answer::Changed(archives::brought_back(db, *row, *chunk, moment)?)
            }
            Self::ForgetObject(target, _) => {
                archives::forget(db, target)?;
                Answer::Done
            }
            Self::MarkSpread(rows, _) => {
                archives::mark_spread(db, rows)?;
                Answer::Done
            }
            Self::NoteReads(reads, _) => {
                archives::note_reads(db, reads)?;
                Answer::Done
            }
            Self::SetArchivedWhole(row, _) => {
                archives::set_whole(db, *row)?;
                Answer::Done
            }
        })
    }

    /// Whether tries without an outcome may be more or fewer after this.
    pub(super) fn changes_tries(&self) -> bool {
        matches!(self, Self::Peer { .. })
    }

    /// Whether versions may be tombstones after this.
    pub(super) fn buries(&self) -> bool {
        match self {
            Self::Delete { .. } => true,
            Self::Peer { request, .. } => matches!(**request, peer::Request::Finish { .. }),
            _ => false,
        }
    }

    /// Whether it gives space back, or finishes what space was reserved for, so that a full disk's ballast is for it. All steps on the
    /// way to a file that goes because the archive has it are.
    pub(super) fn may_use_ballast(&self) -> bool {
        match self {
            Self::Delete { .. }
            | Self::Dropped { .. }
            | Self::Abandon(_)
            | Self::Sweep(..)
            | Self::BeginObject { .. }
            | Self::Archive { .. }
            | Self::DropChunk { .. }
            | Self::ForgetObject(..)
            | Self::MarkSpread(..)
            | Self::SetArchivedWhole(..) => true,
            Self::Peer { request, .. } => !matches!(**request, peer::Request::Prepare { .. }),
            _ => false,
        }
    }

    /// The path whose versions this changes, if it says so itself: what is told only a row finds it in the transaction.
    pub(super) fn path(&self) -> Option<&str> {
        match self {
            Self::Put(blob, _) => Some(&blob.path),
            Self::Delete { path, .. } => Some(path),
            Self::Peer { request, .. } => Some(request.path()),
            _ => None,
        }
    }

    /// Answers whoever asked; one that is gone needs no answer.
    pub(super) fn answer(self, result: Result<Answer>) {
        fn send<T>(reply: Reply<T>, result: Result<Answer>, pick: impl FnOnce(Answer) -> Option<T>) {
            let _ = reply.send(result.and_then(|answer| pick(answer).ok_or_else(stopped)));
        }
        match self {
            Self::Settle(reply)
            | Self::Barrier(reply)
            | Self::PutAside(_, reply)
            | Self::Dropped { reply, .. }
            | Self::BeginObject { reply, .. }
            | Self::BroughtBack(_, _, reply)
            | Self::ForgetObject(_, reply)
            | Self::MarkSpread(_, reply)
            | Self::NoteReads(_, reply)
            | Self::SetArchivedWhole(_, reply) => {
                send(reply, result, |_| Some(()));
            }
            Self::Put(_, reply) => {
                send(
                    reply,
                    result,
                    |answer| if let Answer::Stored(stored) = answer { Some(stored) } else { None },
                );
            }
            Self::Stage { reply, .. } => {
                send(reply, result, |answer| if let Answer::Staged(row) = answer { Some(row) } else { None });
            }
            Self::Delete { reply, .. } => {
                send(
                    reply,
                    result,
                    |answer| if let Answer::Deleted(record) = answer { Some(record) } else { None },
                );
            }
            Self::Peer { reply, .. } => {
                send(
                    reply,
                    result,
                    |answer| if let Answer::Peer(reply, _) = answer { Some(reply) } else { None },
                );
            }
            Self::Sweep(_, reply)
            | Self::Fill(_, reply)
            | Self::Digest(reply)
            | Self::Mend { reply, .. }
            | Self::Resum(_, _, reply) => {
                send(reply, result, |answer| if let Answer::Is(is) = answer { Some(is) } else { None });
            }
            Self::Archive { reply, .. } | Self::DropChunk { reply, .. } => {
                send(reply, result, |answer| {
                    if let Answer::Changed(path) = answer { Some(path.is_some()) } else { None }
                });
            }
            Self::Abandon(row) => {
                if let Err(error) = result {
                    tracing::warn!(?row, %error, "an abandoned upload keeps its rows until the next start");
                }
            }
        }
    }
}

fn no_cluster() -> Failure {
    Error::new(Code::BadRequest, "this node runs alone: it has no part in a two-phase commit").into()
}

/// What is told when the writer's thread is gone.
pub(super) fn stopped() -> Error {
    Error::new(Code::OutcomeUnknown, "the metadata writer has stopped; see the server's log")
}

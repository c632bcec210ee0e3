//! What a writer can be asked to do to a slot.

use rusqlite::Connection;

use super::apply::{self, Moment};
use super::types::{BlobMeta, Failure, NewBlob, Reply, Row, Stored, Which};
use crate::base::error::{Code, Error, Result};
use crate::base::ids::BlobId;
use crate::base::parts::Parts;
use crate::wire::condition::Conditions;

/// What a writer is asked for, and where its answer goes.
pub(super) enum Op {
    /// The slot is on disk, and its database has all that was acknowledged.
    Settle(Reply<()>),
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
}

/// What an operation came to, before its commit.
pub(super) enum Answer {
    Done,
    Stored(Stored),
    Staged(Row),
    Deleted(BlobMeta),
}

impl Answer {
    /// Whether the newest version of a path may be another one now.
    pub(super) fn changes_versions(&self) -> bool {
        matches!(self, Self::Deleted(_) | Self::Stored(Stored { created: true, .. }))
    }
}

impl Op {
    /// Makes the change, inside the writer's transaction.
    pub(super) fn apply(&self, db: &Connection, moment: Moment) -> std::result::Result<Answer, Failure> {
        Ok(match self {
            Self::Settle(_) => Answer::Done,
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
        })
    }

    /// The path whose versions this changes.
    pub(super) fn path(&self) -> Option<&str> {
        match self {
            Self::Put(blob, _) => Some(&blob.path),
            Self::Delete { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Answers whoever asked; one that is gone needs no answer.
    pub(super) fn answer(self, result: Result<Answer>) {
        fn send<T>(reply: Reply<T>, result: Result<Answer>, pick: impl FnOnce(Answer) -> Option<T>) {
            let _ = reply.send(result.and_then(|answer| pick(answer).ok_or_else(stopped)));
        }
        match self {
            Self::Settle(reply) | Self::Dropped { reply, .. } => send(reply, result, |_| Some(())),
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
            Self::Abandon(row) => {
                if let Err(error) = result {
                    tracing::warn!(?row, %error, "an abandoned upload keeps its rows until the next start");
                }
            }
        }
    }
}

/// What is told when the writer's thread is gone.
pub(super) fn stopped() -> Error {
    Error::new(Code::OutcomeUnknown, "the metadata writer has stopped; see the server's log")
}

//! One machine that runs on a node, for a client or in the background.

use super::history::{Asked, Condition, Seen, Told};
use crate::base::clock::Timestamp;
use crate::base::ids::BlobId;
use crate::base::topology::NodeId;
use crate::replication::delete::{self, Delete};
use crate::replication::get::{self, Get};
use crate::replication::machine::{Event, Group, Machine, NodeSet, Send, Step, Time};
use crate::replication::put::{self, Put, Wanted};
use crate::replication::settle::{self, Settle};
use crate::wire::condition::Conditions;
use crate::wire::head::Headers;
use crate::wire::peer::{Attempt, Held, Query};

/// Any of the machines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Any {
    Put(Box<Put>, Attempt),
    Delete(Box<Delete>),
    Get(Box<Get>),
    Settle(Box<Settle>),
}

/// A machine that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Run {
    pub(super) node: NodeId,
    /// The client's operation, by number, and its path.
    pub(super) client: Option<(usize, usize)>,
    pub(super) machine: Any,
    /// The node's clock as the machine last saw it.
    pub(super) clock: Time,
    pub(super) is_over: bool,
    /// The node has crashed since.
    pub(super) is_dead: bool,
}

fn conditions(condition: Condition) -> Conditions {
    let etag = |blob: BlobId| format!("\"{blob}\"");
    let headers: Headers = match condition {
        Condition::None => return Conditions::default(),
        Condition::Absent => [("If-None-Match", "*")].into_iter().collect(),
        Condition::Is(blob) => [("If-Match", etag(blob).as_str())].into_iter().collect(),
    };
    Conditions::from_headers(&headers).expect("these are well formed")
}

fn seen(held: &Held) -> Seen {
    Seen {
        version: held.row.version,
        blob: held.row.attempt.blob_id,
        content: held.row.content[0],
        deleted: held.tombstoned_at.is_some(),
    }
}

/// The machine of a client's request.
pub(super) fn machine(asked: Asked, path: &str, group: Group, with_data: NodeSet, highest: u64) -> Any {
    match asked {
        Asked::Put { version, condition, content, blob } => {
            let wanted = Wanted {
                path: path.to_owned(),
                version,
                blob_id: blob,
                size: 1,
                content: [content; 32],
                created_at: Timestamp(0),
                headers: String::new(),
                conditions: conditions(condition),
                inline: None,
            };
            let attempt = Attempt { blob_id: blob, ballot: 0 };
            Any::Put(Box::new(Put::new(group, wanted, with_data, highest)), attempt)
        }
        Asked::Delete { which } => {
            Any::Delete(Box::new(Delete::new(group, path, which, Conditions::default(), Timestamp(1))))
        }
        Asked::Get { version } => {
            Any::Get(Box::new(Get::new(group, path, version.map_or(Query::Newest, Query::At), 0)))
        }
    }
}

/// Translates an outcome.
fn told<O>(step: Step<O>, translate: impl FnOnce(O) -> Told) -> (Vec<Send>, Option<Told>) {
    (step.sends, step.outcome.map(translate))
}

impl Any {
    pub(super) fn step(&mut self, now: Time, event: Event) -> (Vec<Send>, Option<Told>) {
        match self {
            Self::Put(put, _) => told(put.step(now, event), |outcome| match outcome {
                put::Outcome::Stored { row, created } => {
                    Told::Stored { version: row.version, blob: row.attempt.blob_id, created }
                }
                put::Outcome::Refused(refusal) => Told::Refused(refusal),
                put::Outcome::Unknown => Told::Unknown,
            }),
            Self::Delete(delete) => told(delete.step(now, event), |outcome| match outcome {
                delete::Outcome::Deleted(version) => Told::Deleted(version),
                delete::Outcome::Missing => Told::Missing,
                delete::Outcome::Precondition => Told::Precondition,
                delete::Outcome::InDoubt | delete::Outcome::NoQuorum => Told::Nothing,
                delete::Outcome::Unknown => Told::Unknown,
            }),
            Self::Get(get) => told(get.step(now, event), |outcome| match outcome {
                get::Outcome::Known(known) => Told::Read(known.held.first().map(seen)),
                get::Outcome::InDoubt | get::Outcome::Unavailable => Told::Nothing,
            }),
            Self::Settle(settle) => told(settle.step(now, event), |outcome| match outcome {
                settle::Outcome::Committed | settle::Outcome::Aborted => Told::Missing,
                settle::Outcome::Live | settle::Outcome::Unknown => Told::Unknown,
            }),
        }
    }

    pub(super) fn wake(&self) -> Option<Time> {
        match self {
            Self::Put(put, _) => put.wake(),
            Self::Delete(delete) => delete.wake(),
            Self::Get(get) => get.wake(),
            Self::Settle(settle) => settle.wake(),
        }
    }
}

impl Run {
    /// Whether it can still do anything.
    pub(super) fn is_running(&self) -> bool {
        !self.is_dead && !self.is_over
    }

    /// Whether it is a PUT that works on a try.
    pub(super) fn works_on(&self, node: NodeId, attempt: Attempt) -> bool {
        self.node == node
            && self.is_running()
            && matches!(&self.machine, Any::Put(_, current) if *current == attempt)
    }
}

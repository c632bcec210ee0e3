//! Requests in a cluster: this node as a replica of a slot and coordinator of what is asked of it; what it cannot do itself goes
//! to another replica.

use std::rc::Rc;
use std::sync::Arc;

use super::core::Core;
use super::peers::cluster::Cluster;
use super::peers::drive;
use super::peers::receiving;
use super::peers::upload::Streams;
use super::put::Request;
use super::reply::{Failure, refuse};
use super::upload::{Upload, discard_files};
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error};
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::chunk::incoming::Received;
use crate::meta::slots::State;
use crate::meta::types::Which;
use crate::replication::delete::{self, Delete};
use crate::replication::get::{self, Get};
use crate::replication::machine::{Group, NodeSet};
use crate::replication::put::{self, Put, Refusal, Wanted, check};
use crate::replication::read::Known;
use crate::wire::condition::Conditions;
use crate::wire::forward::Scope;
use crate::wire::peer::{Query, Reply, Request as PeerRequest, Row};
use crate::wire::query::{Key, Query as HttpQuery};

/// This node as a replica of a slot.
pub(super) struct Replica<'a> {
    pub(super) core: &'a Rc<Core>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) slot: Slot,
    group: Group,
    /// Those that are worth asking.
    worth: NodeSet,
}

/// Whether this node has the slot.
pub(super) fn is_here(core: &Core, slot: Slot) -> bool {
    core.node.cluster.as_ref().is_none_or(|cluster| cluster.topology().is_mine(slot))
}

/// Whether this node's replica of a slot is out of service and others may do.
pub(super) fn is_out(core: &Core, slot: Slot) -> bool {
    core.node.cluster.is_some() && core.node.slots.state(slot) == State::Failed
}

/// This node as a replica of a slot; none: there is one replica, which is here, and nobody to ask.
///
/// # Errors
/// `Elsewhere`, where others must be asked instead; `QuorumUnavailable` while the cluster is not formed.
pub(super) fn replica(core: &Rc<Core>, slot: Slot) -> Result<Option<Replica<'_>>, Failure> {
    let Some(cluster) = core.node.cluster.as_ref().map(Arc::clone) else { return Ok(None) };
    let slots = &core.node.slots;
    let others = || Failure::Elsewhere(cluster.others(slot), Scope::Asked);
    if !cluster.topology().is_mine(slot) || slots.is_recovering(slot) || slots.state(slot) == State::Failed {
        return Err(others());
    }
    let group = cluster.group(slot)?;
    if cluster.topology().replica_count() == 1 {
        return Ok(None);
    }
    let worth = cluster.worth_asking(slot, &group);
    Ok(Some(Replica { core, cluster, slot, group, worth }))
}

/// Whether this node's own copy will do.
pub(super) fn wants_local(query: &HttpQuery) -> bool {
    query.text(Key::Consistency) == Some("local")
}

/// What this node cannot answer by itself.
pub(super) fn elsewhere<T>(core: &Core, slot: Slot) -> Result<T, Failure> {
    match &core.node.cluster {
        Some(cluster) => Err(Failure::Elsewhere(cluster.others(slot), Scope::Own)),
        None => refuse(Code::Internal, "this node runs alone and lacks chunks"),
    }
}

impl Replica<'_> {
    fn me(&self) -> NodeId {
        self.group.me
    }

    /// What is known of a path by a quorum.
    ///
    /// # Errors
    /// `QuorumUnavailable`, `OutcomeUnknown`.
    pub(super) async fn read(&self, path: &str, query: Query) -> Result<Known, Failure> {
        let machine = Get::new(self.group.clone(), path, query, 0);
        known(drive(self.core, &self.cluster, self.worth, machine).await)
    }

    /// The same, while something else is done.
    pub(super) fn begin_read(
        &self,
        path: &str,
        query: Query,
    ) -> impl Future<Output = Result<Known, Failure>> + use<> {
        let machine = Get::new(self.group.clone(), path, query, 0);
        let (core, cluster, worth) = (Rc::clone(self.core), Arc::clone(&self.cluster), self.worth);
        let reading = monoio::spawn(async move { drive(&core, &cluster, worth, machine).await });
        async move { known(reading.await) }
    }

    /// The other replicas among some, or all others where there is none.
    pub(super) fn others_of(&self, nodes: NodeSet) -> Vec<NodeId> {
        let others: Vec<NodeId> = nodes.iter().filter(|node| *node != self.me()).collect();
        if others.is_empty() { self.cluster.others(self.slot) } else { others }
    }

    /// Refuses what a PUT will be refused for whatever its bytes are.
    pub(super) async fn admit(&self, request: &Request) -> Result<(), Failure> {
        if request.version.is_none() && request.conditions.is_empty() {
            if self.cluster.has_quorum(self.slot) {
                return Ok(());
            }
            // Before the bytes come: is anybody there?
            return self.read(&request.path, Query::Newest).await.map(drop);
        }
        let query = request.version.map_or(Query::Newest, Query::At);
        let known = self.read(&request.path, query).await?;
        let current = known.held.first();
        if let Some(version) = request.version
            && current.is_some_and(|held| held.tombstoned_at.is_some())
        {
            return Err(refusal(&request.path, Refusal::Tombstoned(version)).into());
        }
        if check(&request.conditions, current) {
            Ok(())
        } else {
            Err(refusal(&request.path, Refusal::Precondition).into())
        }
    }

    /// The ways to the other replicas for an upload.
    pub(super) fn streams(&self) -> Streams {
        let others = self.worth.iter().filter(|node| *node != self.me()).collect();
        Streams::new(others, self.group.write_quorum - 1)
    }

    /// Makes an upload a version; not created: it was there before.
    pub(super) async fn put(
        &self,
        mut upload: Upload<'_>,
        request: &Request,
        received: Received,
        now: Timestamp,
    ) -> Result<(Row, bool), Failure> {
        let (core, cluster, blob) = (self.core, &self.cluster, upload.blob);
        cluster.coordinate(blob, true);
        let outcome = self.decide(&mut upload, request, received, now).await;
        cluster.coordinate(blob, false);
        let (result, named) = match outcome {
            Ok(put::Outcome::Stored { row, created }) => (Ok((row, created)), created),
            Ok(put::Outcome::Refused(why)) => (Err(refusal(&request.path, why).into()), false),
            Ok(put::Outcome::Unknown) => {
                let message = format!(
                    "'{}': too few replicas answered: the write may or may not take place: ask again, or repeat it \
                     with a version",
                    &*request.path
                );
                // The replicas settle it among themselves; what came to nothing is swept.
                return Err(Error::new(Code::OutcomeUnknown, message).into());
            }
            Err(failure) => (Err(failure), false),
        };
        cluster.forget_upload(blob);
        if !named && core.node.writers.sweep(self.slot, blob).await.unwrap_or(false) {
            discard_files(core, self.slot, blob).await;
        }
        core.node.live.remove(blob);
        if let Ok((row, true)) = &result
            && core.node.keep_versions > 0
        {
            self.bury_old(&request.path, row.version, now);
        }
        result
    }

    async fn decide(
        &self,
        upload: &mut Upload<'_>,
        request: &Request,
        received: Received,
        now: Timestamp,
    ) -> Result<put::Outcome, Failure> {
        let sent = upload.streams.is_open();
        let inline = match received.parts.inline.first() {
            Some((0, bytes)) if !sent => Some(bytes.clone()),
            _ if received.size == 0 => Some(bytes::Bytes::new()),
            _ => None,
        };
        let data = receiving::keep(&self.cluster, self.slot, upload.blob, received)?;
        let with_data = if sent {
            let mut nodes: NodeSet = upload.streams.finish(&data).await?.into_iter().collect();
            nodes.insert(self.me());
            nodes
        } else {
            self.worth
        };
        let wanted = Wanted {
            path: request.path.to_string(),
            version: request.version,
            blob_id: upload.blob,
            size: data.size,
            content: data.content(),
            created_at: now,
            headers: request.headers.clone(),
            conditions: request.conditions.clone(),
            inline,
        };
        let highest = self.highest(&request.path).await?;
        // The disks may have changed while the bytes came.
        let group = self.cluster.group(self.slot)?;
        let machine = Put::new(group, wanted, with_data, highest);
        Ok(drive(self.core, &self.cluster, self.worth, machine).await)
    }

    /// The highest version that this replica knows.
    async fn highest(&self, path: &str) -> Result<u64, Failure> {
        let request = PeerRequest::Read { path: path.to_owned(), query: Query::Newest };
        match self.core.node.readers.peer(self.slot, request).await?.reply {
            Reply::Known { highest, .. } => Ok(highest),
            _ => Ok(0),
        }
    }

    /// Tombstones versions; answers with the highest of them.
    pub(super) async fn delete(
        &self,
        path: &str,
        which: Which,
        conditions: Conditions,
        now: Timestamp,
    ) -> Result<u64, Failure> {
        let which = match which {
            Which::Newest => delete::Which::Newest,
            Which::Version(version) => delete::Which::Version(version),
            Which::All => delete::Which::All,
        };
        let machine = Delete::new(self.group.clone(), path, which, conditions, now);
        match drive(self.core, &self.cluster, self.worth, machine).await {
            delete::Outcome::Deleted(version) => Ok(version),
            delete::Outcome::Missing => {
                refuse(Code::BlobNotFound, format!("'{path}' has no such version to delete"))
            }
            delete::Outcome::Precondition => Err(refusal(path, Refusal::Precondition).into()),
            delete::Outcome::InDoubt => Err(refusal(path, Refusal::InDoubt).into()),
            delete::Outcome::NoQuorum => Err(refusal(path, Refusal::NoQuorum).into()),
            delete::Outcome::Unknown => refuse(
                Code::OutcomeUnknown,
                format!(
                    "'{path}': too few replicas answered: the delete may or may not take place: repeat it"
                ),
            ),
        }
    }

    /// After a PUT: older versions go, as far as replicas can be asked; the next PUT tries again.
    fn bury_old(&self, path: &str, put: u64, now: Timestamp) {
        let which = delete::Which::AllBut { keep: self.core.node.keep_versions, spare: put };
        let machine = Delete::new(self.group.clone(), path, which, Conditions::default(), now);
        let (core, cluster, worth) = (Rc::clone(self.core), Arc::clone(&self.cluster), self.worth);
        monoio::spawn(async move { drive(&core, &cluster, worth, machine).await });
    }
}

fn known(outcome: get::Outcome) -> Result<Known, Failure> {
    match outcome {
        get::Outcome::Known(known) => Ok(known),
        get::Outcome::InDoubt => refuse(
            Code::OutcomeUnknown,
            "this version is being settled between its replicas, and too few of them can be asked: try again",
        ),
        get::Outcome::Unavailable => refuse(
            Code::QuorumUnavailable,
            "too few replicas can be asked: try again, or ask with consistency=local",
        ),
    }
}

/// What a client is told when nothing was stored.
fn refusal(path: &str, why: Refusal) -> Error {
    match why {
        Refusal::Tombstoned(version) => Error::new(
            Code::VersionConflict,
            format!(
                "version {version} of '{path}' was deleted and its number is not given again: use a higher one"
            ),
        ),
        Refusal::OtherBytes(version) => Error::new(
            Code::VersionConflict,
            format!("version {version} of '{path}' exists with other bytes: use another version"),
        ),
        Refusal::Precondition => Error::new(
            Code::PreconditionFailed,
            "a condition of the request does not hold for the current version",
        ),
        Refusal::NoVersionLeft => {
            Error::new(Code::VersionConflict, format!("'{path}' has the highest version there can be"))
        }
        Refusal::DiskFull => Error::new(
            Code::DiskFull,
            "too many replicas have full disks: delete blobs or add space, then try again",
        ),
        Refusal::NoQuorum => Error::new(
            Code::QuorumUnavailable,
            "too few replicas can be asked: nothing was changed, try again",
        ),
        Refusal::InDoubt => Error::new(
            Code::SlotUnavailable,
            format!(
                "'{path}': an earlier write is being settled between its replicas: nothing was changed, try again"
            ),
        ),
        Refusal::Contended => Error::new(
            Code::SlotUnavailable,
            format!("'{path}' is written to by too many at once: nothing was changed, try again"),
        ),
    }
}

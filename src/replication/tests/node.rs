//! One node: its replica of the slot, as it is in memory and as it would be after a crash.

use std::collections::BTreeSet;

use super::shared::Shared;
use super::store::{Store, Transaction};
use crate::base::ids::BlobId;
use crate::base::topology::NodeId;
use crate::replication::machine::NodeSet;
use crate::replication::mistake::{Mistake, is_planted};
use crate::replication::participant::{self, Context, Surroundings};
use crate::wire::peer::{Attempt, Member, Members, Request, Response};

/// An exchange between a coordinator and a replica: the request, or the answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Body {
    Request(Request),
    Reply(Response),
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Envelope {
    /// The machine that asks.
    pub(super) run: usize,
    /// The replica.
    pub(super) replica: NodeId,
    pub(super) round: u32,
    pub(super) body: Body,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) context: Context,
    pub(super) store: Shared<Store>,
    /// What is on disk, where that is not everything yet.
    pub(super) synced: Option<Shared<Store>>,
    /// Answers that wait for the disk.
    pub(super) waiting: Vec<Envelope>,
    /// Files of blobs that were verified when they came, and those that are there.
    pub(super) verified: BTreeSet<BlobId>,
    pub(super) files: BTreeSet<BlobId>,
    pub(super) is_full: bool,
    /// The disk was replaced, and bytes that were on the old one are not all back.
    pub(super) lacks_bytes: bool,
    /// Those that have handed over their rows to this node's new disk.
    pub(super) handed: NodeSet,
}

/// Takes over higher generations.
pub(super) fn adopt(mine: &mut Members, theirs: &[Member]) {
    for (mine, theirs) in mine.iter_mut().zip(theirs) {
        if theirs.generation > mine.generation {
            *mine = *theirs;
        }
    }
}

impl Node {
    pub(super) fn new(me: NodeId, members: Members, write_quorum: usize, store: Store) -> Self {
        let files: BTreeSet<BlobId> = store.held.keys().copied().collect();
        Self {
            context: Context { me, members, write_quorum, recovering: false },
            store: Shared::new(store),
            synced: None,
            waiting: Vec::new(),
            verified: files.clone(),
            files,
            is_full: false,
            lacks_bytes: false,
            handed: NodeSet::default(),
        }
    }

    pub(super) fn knows_less(&self, members: &[Member]) -> bool {
        self.context.members.iter().zip(members).any(|(mine, theirs)| mine.generation < theirs.generation)
    }

    /// What would be there after a crash.
    pub(super) fn durable(&self) -> &Store {
        self.synced.as_ref().unwrap_or(&self.store)
    }

    pub(super) fn upload(&mut self, blob: BlobId) {
        self.files.insert(blob);
        self.verified.insert(blob);
    }

    /// Answers; with `late_sync` the answer waits in the node. Whether anything was written.
    pub(super) fn receive(
        &mut self,
        envelope: &Envelope,
        request: &Request,
        is_live: bool,
        late_sync: bool,
    ) -> (Option<Response>, bool) {
        if let Request::Prepare { proposal, .. } = request {
            adopt(&mut self.context.members, &proposal.members);
        }
        let blob = match request {
            Request::Prepare { proposal, .. } => Some(proposal.row.attempt.blob_id),
            _ => None,
        };
        let around = Surroundings {
            has_data: blob.is_some_and(|blob| self.verified.contains(&blob)),
            has_room: !self.is_full,
            is_live,
        };
        let before = (late_sync && self.synced.is_none()).then(|| self.store.clone());
        let mut transaction = Transaction::new(&mut self.store);
        let Ok(reply) = participant::answer(&mut transaction, &self.context, around, request);
        let wrote = transaction.wrote;
        if !late_sync {
            return (Some(reply), wrote);
        }
        if wrote && let Some(before) = before {
            self.synced = Some(before);
        }
        let leaves = self.synced.is_none()
            || is_planted(Mistake::VoteBeforeSync) && matches!(request, Request::Prepare { .. })
            || is_planted(Mistake::ReadsAboveTheSynced) && matches!(request, Request::Read { .. });
        if leaves {
            return (Some(reply), wrote);
        }
        self.waiting.push(Envelope { body: Body::Reply(reply), ..envelope.clone() });
        (None, wrote)
    }

    /// Everything written is on disk: the answers that rest on it.
    pub(super) fn sync(&mut self) -> Vec<Envelope> {
        self.synced = None;
        std::mem::take(&mut self.waiting)
    }

    /// The process ends and begins again.
    pub(super) fn crash(&mut self) {
        if let Some(synced) = self.synced.take() {
            self.store = synced;
        }
        self.waiting.clear();
    }

    /// The disk is replaced by an empty one; `others` is what the others know.
    pub(super) fn wipe(&mut self, others: &[Members], identity: u128) {
        self.crash();
        self.store = Shared::new(Store::default());
        self.files.clear();
        self.verified.clear();
        self.handed = NodeSet::default();
        self.lacks_bytes = true;
        if is_planted(Mistake::WipedDiskVotes) {
            return;
        }
        others.iter().for_each(|theirs| adopt(&mut self.context.members, theirs));
        let me = self.context.me;
        if let Some(mine) = self.context.members.iter_mut().find(|member| member.node == me) {
            mine.generation += 1;
            mine.identity = identity;
        }
        self.context.recovering = true;
    }

    /// Records that the disk of another node is a new one, and hands over what this one has.
    pub(super) fn admit(&mut self, members: &Members) -> Store {
        adopt(&mut self.context.members, members);
        self.durable().clone()
    }

    pub(super) fn take_over(&mut self, from: NodeId, rows: &Store) {
        self.store.change(|store| rows.held.values().for_each(|held| store.take(held)));
        if let Some(synced) = &mut self.synced {
            synced.change(|store| rows.held.values().for_each(|held| store.take(held)));
        }
        self.handed.insert(from);
        if self.handed.len() + 1 == self.context.members.len() {
            self.context.recovering = false;
        }
    }

    /// The sweep of one blob's files.
    pub(super) fn sweep(&mut self, blob: BlobId) {
        if self.context.recovering {
            return;
        }
        let Ok(may) = participant::sweep(&mut Transaction::new(&mut self.store), blob);
        if may {
            self.files.remove(&blob);
        }
    }

    /// Versions whose bytes are not here.
    pub(super) fn hollow(&self) -> Vec<BlobId> {
        let hollow = self.store.held.iter().filter(|(_, held)| held.hollow);
        hollow.map(|(blob, _)| *blob).collect()
    }

    /// The bytes of a version have been fetched.
    pub(super) fn fill(&mut self, blob: BlobId) {
        self.files.insert(blob);
        for store in [Some(&mut self.store), self.synced.as_mut()].into_iter().flatten() {
            store.change(|store| {
                store.held.entry(blob).and_modify(|held| held.hollow = false);
            });
        }
    }

    /// Whether a blob's bytes are here and will stay.
    pub(super) fn has_bytes(&self, blob: BlobId) -> bool {
        let durable = self.durable();
        let named =
            durable.prepared.contains_key(&blob) || durable.held.get(&blob).is_some_and(|held| !held.hollow);
        named && self.files.contains(&blob)
    }

    pub(super) fn prepared(&self) -> impl Iterator<Item = Attempt> {
        self.store.prepared.values().map(|proposal| proposal.row.attempt)
    }
}

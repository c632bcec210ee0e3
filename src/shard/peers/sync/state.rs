//! What all cores share of anti-entropy: what there is a reason to look at, how the replicas compared when they were last
//! looked at, and the slots that wait to be pulled.
//!
//! All of it is bounded by the nodes and the slots there are.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use futures_channel::oneshot;

use super::limiter::Limiter;
use crate::antientropy::reconcile::Found;
use crate::base::clock::Timestamp;
use crate::base::slot::Slot;
use crate::base::topology::{NodeId, Topology};
use crate::limits::SLOTS;
use crate::wire::peer::sync::Digest;

/// How it is done.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How often replicas are compared without any other reason.
    pub interval: Duration,
    /// Bytes of chunks that the node fetches per second; 0: any.
    pub rate: u64,
}

/// What a look at another node came to.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// Why it did not answer; none: it did.
    pub silent: Option<String>,
    /// Slots that were compared.
    pub compared: usize,
    /// Slots of those that differed.
    pub differed: usize,
    /// Slots that could not be compared, here or there.
    pub unsure: usize,
    /// Slots that differed and could not be pulled.
    pub failed: usize,
    /// What was lacking.
    pub found: Found,
}

impl Looked {
    /// Whether there is nothing left to do.
    pub fn is_even(&self) -> bool {
        self.silent.is_none() && self.differed == 0 && self.unsure == 0
    }

    /// Takes in what the next look came to: how things stand now, and what was found in all.
    pub fn add(&mut self, next: &Self) {
        let before = self.found;
        let differed = self.differed.max(next.differed);
        *self = Self { differed, ..next.clone() };
        self.found.versions += before.versions;
        self.found.tombstones += before.tombstones;
        self.found.contradictions += before.contradictions;
    }
}

/// A slot to be pulled.
pub(super) struct Job {
    pub(super) node: NodeId,
    pub(super) slot: Slot,
    /// The other one's digest, which differed.
    pub(super) theirs: Digest,
    pub(super) done: Sender<(Slot, Result<Found, String>)>,
}

/// How a replica on another node compares.
#[derive(Default)]
struct Seen {
    /// When it was last equal, in milliseconds since 1970; 0: never.
    equal: AtomicI64,
    differs: AtomicBool,
}

/// Another node, from here.
pub(super) struct Peer {
    wake: Sender<()>,
    woken: Receiver<()>,
    /// Whether there is a reason to look at all slots.
    all: AtomicBool,
    /// Slots that it said are worth a look.
    told: Mutex<BTreeSet<Slot>>,
    /// Slots in which it has missed something that was decided here.
    missed: Mutex<BTreeSet<Slot>>,
    /// Who wants to know what the next look at all slots comes to.
    asking: Mutex<Vec<oneshot::Sender<Looked>>>,
    seen: Vec<Seen>,
}

/// Anti-entropy of a node.
pub struct Syncing {
    pub(super) settings: Settings,
    /// What keeps `sync.rate`.
    pub limiter: Limiter,
    peers: Vec<Peer>,
    /// How often there was a new reason to try what failed before.
    occasions: AtomicU64,
    /// At most one job for each slot and node.
    pub(super) jobs: (Sender<Job>, Receiver<Job>),
}

impl Syncing {
    pub(in crate::shard::peers) fn new(topology: &Topology, settings: Settings) -> Self {
        Self {
            settings,
            limiter: Limiter::new(settings.rate),
            peers: topology.nodes().map(|_| Peer::new()).collect(),
            occasions: AtomicU64::new(0),
            jobs: async_channel::unbounded(),
        }
    }

    pub(super) fn peer(&self, node: NodeId) -> &Peer {
        &self.peers[node.index()]
    }

    /// There is a reason to compare everything with a node.
    pub(in crate::shard::peers) fn look_at_all(&self, node: NodeId) {
        let peer = self.peer(node);
        peer.all.store(true, Ordering::Release);
        self.occasions.fetch_add(1, Ordering::AcqRel);
        peer.wake();
    }

    /// Changes when a node answers again, or an operator asks: what could not be fetched before may be there now.
    pub(in crate::shard::peers) fn occasion(&self) -> u64 {
        self.occasions.load(Ordering::Acquire)
    }

    /// A commit or a tombstone of a slot did not reach a node, as far as is known.
    pub(in crate::shard::peers) fn missed(&self, node: NodeId, slot: Slot) {
        let peer = self.peer(node);
        peer.miss(slot);
        peer.wake();
    }

    /// Compares everything with a node now; the answer comes when that is done.
    pub fn look(&self, node: NodeId) -> oneshot::Receiver<Looked> {
        let (asking, answer) = oneshot::channel();
        let peer = self.peer(node);
        lock(&peer.asking).push(asking);
        self.occasions.fetch_add(1, Ordering::AcqRel);
        peer.wake();
        answer
    }

    /// When a slot was last equal on a node, and whether it differed when it was last looked at.
    pub fn seen(&self, node: NodeId, slot: Slot) -> (Option<Timestamp>, bool) {
        let seen = &self.peer(node).seen[slot.index()];
        let equal = seen.equal.load(Ordering::Relaxed);
        ((equal > 0).then_some(Timestamp(equal)), seen.differs.load(Ordering::Relaxed))
    }

    /// Replicas on other nodes that differed when they were last looked at.
    pub fn differing(&self) -> usize {
        let differs = |seen: &&Seen| seen.differs.load(Ordering::Relaxed);
        self.peers.iter().map(|peer| peer.seen.iter().filter(differs).count()).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    fn new() -> Self {
        let (wake, woken) = async_channel::bounded(1);
        Self {
            wake,
            woken,
            // After the start it was not looked at yet.
            all: AtomicBool::new(true),
            told: Mutex::default(),
            missed: Mutex::default(),
            asking: Mutex::default(),
            seen: (0..SLOTS).map(|_| Seen::default()).collect(),
        }
    }

    fn wake(&self) {
        // One that waits already is enough.
        let _ = self.wake.try_send(());
    }

    /// Waits until there may be a reason to look.
    pub(super) async fn woken(&self) {
        // The sender is here: the channel is open.
        let _ = self.woken.recv().await;
    }

    pub(super) fn miss(&self, slot: Slot) {
        lock(&self.missed).insert(slot);
    }

    pub(super) fn take_missed(&self) -> BTreeSet<Slot> {
        std::mem::take(&mut *lock(&self.missed))
    }

    /// The node says that these slots are worth a look.
    pub(super) fn tell(&self, slots: impl Iterator<Item = Slot>) {
        lock(&self.told).extend(slots);
        self.wake();
    }

    pub(super) fn take_told(&self) -> Vec<Slot> {
        std::mem::take(&mut *lock(&self.told)).into_iter().collect()
    }

    pub(super) fn is_asked(&self) -> bool {
        !lock(&self.asking).is_empty()
    }

    pub(super) fn take_asking(&self) -> Vec<oneshot::Sender<Looked>> {
        std::mem::take(&mut *lock(&self.asking))
    }

    pub(super) fn take_all(&self) -> bool {
        self.all.swap(false, Ordering::AcqRel)
    }

    pub(super) fn note(&self, slot: Slot, is_equal: bool) {
        let seen = &self.seen[slot.index()];
        seen.differs.store(!is_equal, Ordering::Relaxed);
        if is_equal {
            seen.equal.store(Timestamp::now().0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_noted_once_and_by_node() {
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        let topology = Topology::new("x", names, "a", 3, 2).unwrap();
        let settings = Settings { interval: Duration::from_mins(1), rate: 0 };
        let syncing = Syncing::new(&topology, settings);
        let (b, c) = (syncing.peer(NodeId(1)), syncing.peer(NodeId(2)));
        assert!(b.take_all() && c.take_all() && !b.take_all(), "after the start everything is looked at");
        let slot = |number| Slot::new(number).unwrap();
        let before = syncing.occasion();
        (0..3).for_each(|_| syncing.missed(NodeId(1), slot(7)));
        assert_eq!((b.take_missed().len(), b.take_missed().len(), c.take_missed().len()), (1, 0, 0));
        syncing.look_at_all(NodeId(2));
        assert!(c.take_all() && !b.take_all() && syncing.occasion() > before);
        c.tell([slot(1), slot(1), slot(2)].into_iter());
        assert_eq!((c.take_told(), c.take_told()), (vec![slot(1), slot(2)], Vec::new()));
        b.note(slot(5), false);
        assert_eq!((syncing.seen(NodeId(1), slot(5)), syncing.differing()), ((None, true), 1));
        b.note(slot(5), true);
        let (equal, differs) = syncing.seen(NodeId(1), slot(5));
        assert!(equal.is_some() && !differs && syncing.differing() == 0);
    }
}

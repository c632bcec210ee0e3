//! Who is where: what this node knows of the others, for every thread to read.
//!
//! The config's word on an address stands above what is announced; what was announced last stays good when the registry is
//! gone, for ever if need be. Only the driver writes here.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::record::{Addresses, Charter, Record, ReplicaState};
use crate::base::clock::Timestamp;
use crate::base::slot::Slot;
use crate::base::topology::{NodeId, Topology};

/// What the config says of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Where it is.
    pub addresses: Addresses,
    /// How many disks it has.
    pub disks: Option<usize>,
}

/// What is known of a node.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Where it is, as far as is known.
    pub addresses: Addresses,
    /// Its last announcement.
    pub record: Option<Arc<Record>>,
    /// Whether it is there: its lease is alive, or it answers; none where nobody can tell.
    pub alive: Option<bool>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When it was last heard of.
    pub heard: Option<Timestamp>,
    /// Whether it said that it serves requests.
    pub serving: bool,
    disks: Option<usize>,
}

/// How it stands with the registry itself.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Whether it answered when it was last asked; none before that.
    pub reachable: Option<bool>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// What it, or the way to it, has against us.
    pub trouble: Option<String>,
    /// Times that it could not be asked.
    pub failures: u64,
    /// Another process uses this node's name, or the registry knows another cluster by this name.
    pub contradiction: Option<String>,
}

#[derive(Debug)]
struct Inner {
    peers: Vec<Peer>,
    standing: Standing,
}

/// What this node knows of all nodes.
#[derive(Debug)]
pub struct Directory {
    topology: Arc<Topology>,
    known: Vec<Known>,
    fingerprint: String,
    /// Whether peers may be reached beyond the loopback.
    may_cross_networks: bool,
    inner: RwLock<Inner>,
}

impl Directory {
    /// What the config says, and where this node itself is.
    pub fn new(topology: Arc<Topology>, known: &[Known], me: Addresses, may_cross_networks: bool) -> Self {
        let mut known = known.to_vec();
        known.resize(topology.nodes().count(), Known::default());
        known[topology.me().index()].addresses = me;
        let peer = |known: &Known| Peer { addresses: known.addresses, disks: known.disks, ..Peer::default() };
        let mut peers: Vec<Peer> = known.iter().map(peer).collect();
        peers[topology.me().index()].mark(true, Timestamp::now());
        let fingerprint = Charter::of(&topology).fingerprint();
        let inner = RwLock::new(Inner { peers, standing: Standing::default() });
        Self { topology, known, fingerprint, may_cross_networks, inner }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who there is at all.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// Where a node's clients go.
    pub fn public(&self, node: NodeId) -> Option<SocketAddr> {
        self.read().peers[node.index()].addresses.public
    }

    /// Where other nodes reach a node.
    pub fn peer(&self, node: NodeId) -> Option<SocketAddr> {
        self.read().peers[node.index()].addresses.peer
    }

    /// Whether a node is there; none where nobody can tell.
    pub fn alive(&self, node: NodeId) -> Option<bool> {
        self.read().peers[node.index()].alive
    }

    /// All that is known of a node.
    pub fn get(&self, node: NodeId) -> Peer {
        self.read().peers[node.index()].clone()
    }

    /// How it stands with the registry.
    pub fn standing(&self) -> Standing {
        self.read().standing.clone()
    }

    /// Nodes whose addresses are not known, by name.
    pub fn missing(&self) -> Vec<&str> {
        let inner = self.read();
        let lost = |id: &NodeId| {
            let addresses = inner.peers[id.index()].addresses;
            addresses.public.is_none() || addresses.peer.is_none()
        };
        self.topology.nodes().filter(lost).map(|id| self.topology.name(id)).collect()
    }

    /// Whether every node was found where it was looked for.
    pub fn all_alive(&self) -> bool {
        self.read().peers.iter().all(|peer| peer.alive == Some(true))
    }

    /// Why this node is not ready, as far as finding others goes. A registry that is gone is no reason by itself: with the
    /// addresses known, nothing needs it.
    pub fn troubles(&self) -> Vec<String> {
        let standing = self.standing();
        let mut troubles: Vec<String> = standing.contradiction.into_iter().collect();
        let missing = self.missing();
        if standing.reachable != Some(true) && !missing.is_empty() {
            let why = standing.trouble.unwrap_or_else(|| "it has not been asked yet".to_owned());
            troubles.push(format!("the addresses of {} are not known: {why}", missing.join(", ")));
        }
        troubles
    }

    /// Takes in a node's announcement, whose lease is alive.
    ///
    /// # Errors
    /// One line, when it is none of this cluster's; it is then not believed.
    pub(super) fn hear(&self, node: NodeId, record: Record) -> Result<(), String> {
        let name = self.topology.name(node);
        if record.node != name || record.cluster != self.topology.cluster() {
            return Err(format!("it is of '{}' in '{}'", record.node, record.cluster));
        }
        if record.fingerprint != self.fingerprint {
            return Err("its config has other nodes or quorums than the one here".to_owned());
        }
        let remote = record.addresses.peer.filter(|address| !address.ip().is_loopback());
        if let Some(address) = remote.filter(|_| !self.may_cross_networks) {
            return Err(format!(
                "its peer address {address} needs [cluster.tls] or cluster.insecure = true in the config here"
            ));
        }
        let now = Timestamp::now();
        let known = self.known[node.index()].addresses;
        let addresses = Addresses {
            public: known.public.or(record.addresses.public),
            peer: known.peer.or(record.addresses.peer),
            admin: known.admin.or(record.addresses.admin),
        };
        let mut inner = self.write();
        let peer = &mut inner.peers[node.index()];
        let last = peer.record.as_ref().map(|last| (last.run.clone(), last.beat));
        if last != Some((record.run.clone(), record.beat)) {
            peer.heard = Some(now);
        }
        peer.mark(true, now);
        peer.addresses = addresses;
        peer.serving = record.health.serving;
        peer.disks = Some(record.disks.len());
        peer.record = Some(Arc::new(record));
        Ok(())
    }

    /// A node was looked for and answered, or not.
    pub(super) fn note(&self, node: NodeId, answered: Option<bool>) {
        let now = Timestamp::now();
        let mut inner = self.write();
        let peer = &mut inner.peers[node.index()];
        peer.mark(answered.is_some(), now);
        if let Some(serving) = answered {
            peer.heard = Some(now);
            peer.serving = serving;
        }
    }

    /// What this node announced of itself.
    pub(super) fn said(&self, record: Record) {
        let now = Timestamp::now();
        let mut inner = self.write();
        let me = &mut inner.peers[self.topology.me().index()];
        me.serving = record.health.serving;
        me.heard = Some(now);
        me.record = Some(Arc::new(record));
    }

    /// The registry answered. Whether that is news.
    pub(super) fn reached(&self) -> bool {
        let mut inner = self.write();
        let news = inner.standing.reachable != Some(true);
        if news {
            inner.standing.since = Some(Timestamp::now());
        }
        inner.standing.reachable = Some(true);
        inner.standing.trouble = None;
        news
    }

    /// The registry did not answer. Whether that is news.
    pub(super) fn lost(&self, trouble: String) -> bool {
        let mut inner = self.write();
        let standing = &mut inner.standing;
        let news = standing.reachable != Some(false);
        if news {
            standing.since = Some(Timestamp::now());
        }
        standing.reachable = Some(false);
        standing.trouble = Some(trouble);
        standing.failures += 1;
        news
    }

    /// Nobody can tell any longer who is there.
    pub(super) fn doubt(&self) {
        let me = self.topology.me().index();
        let now = Timestamp::now();
        for (index, peer) in self.write().peers.iter_mut().enumerate() {
            if index != me && peer.alive.is_some() {
                peer.alive = None;
                peer.since = Some(now);
            }
        }
    }

    /// The registry has something else under a name of ours, or no longer. What of it is news.
    pub(super) fn contradict(&self, contradiction: Option<String>) -> Option<String> {
        let mut inner = self.write();
        let news = contradiction.clone().filter(|_| inner.standing.contradiction != contradiction);
        inner.standing.contradiction = contradiction;
        news
    }
}

impl Peer {
    fn mark(&mut self, alive: bool, now: Timestamp) {
        if self.alive != Some(alive) {
            self.alive = Some(alive);
            self.since = Some(now);
        }
    }

    /// How its replica of a slot is, by the last that was heard.
    pub fn state(&self, slot: Slot) -> ReplicaState {
        match (self.alive, &self.record) {
            (Some(false), _) => ReplicaState::Unreachable,
            (None, _) => ReplicaState::Unknown,
            (Some(true), Some(record)) => record.health.state(slot),
            // It serves, and has not said that a slot is in trouble.
            (Some(true), None) if self.serving => ReplicaState::Healthy,
            (Some(true), None) => ReplicaState::Recovering,
        }
    }

    /// The number of its disk that a replica of its own is on.
    pub fn disk(&self, slot: Slot) -> Option<usize> {
        match &self.record {
            Some(record) => record.disk(slot),
            None => self.disks.map(|disks| slot.disk(disks)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Identity;
    use super::*;

    fn topology(me: &str) -> Arc<Topology> {
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        Arc::new(Topology::new("k", names, me, 3, 2).unwrap())
    }

    fn addresses(host: u8, port: u16) -> Addresses {
        let at = |port: u16| Some(([host, 0, 0, 1], port).into());
        Addresses { public: at(port), peer: at(port + 1), admin: None }
    }

    fn record(of: &Topology, at: Addresses) -> Record {
        Record::new(of, &Identity { run: "1".to_owned(), addresses: at, disks: vec!["x".to_owned()] })
    }

    #[test]
    fn the_config_stands_above_announcements_and_those_outlive_the_registry() {
        let topology = topology("a");
        let known = [Known::default(), Known { addresses: addresses(127, 10), disks: None }];
        let directory = Directory::new(Arc::clone(&topology), &known, addresses(127, 1), false);
        assert_eq!(directory.missing(), ["c"]);
        assert!(directory.lost("gone".to_owned()) && !directory.lost("gone".to_owned()));
        assert!(directory.troubles()[0].contains("the addresses of c are not known: gone"));
        for (name, port) in [("b", 20), ("c", 30)] {
            let id = topology.find(name).unwrap();
            directory.hear(id, record(&self::topology(name), addresses(127, port))).unwrap();
        }
        let (b, c) = (NodeId(1), NodeId(2));
        assert_eq!(directory.get(b).addresses, addresses(127, 10), "the config says where b is");
        assert_eq!(directory.get(c).addresses, addresses(127, 30));
        assert_eq!(directory.alive(c), Some(true));
        directory.lost("gone".to_owned());
        directory.doubt();
        assert_eq!((directory.alive(c), directory.alive(NodeId(0))), (None, Some(true)));
        assert_eq!(directory.peer(c), addresses(127, 30).peer, "the last known address");
        assert_eq!(directory.troubles(), Vec::<String>::new(), "nothing is missing");
        directory.note(c, None);
        assert_eq!(directory.get(c).state(Slot::of("x")), ReplicaState::Unreachable);
    }

    #[test]
    fn strangers_are_not_believed() {
        let directory = Directory::new(topology("a"), &[], addresses(127, 1), false);
        let b = NodeId(1);
        let other = Topology::new("k", vec!["a".to_owned(), "b".to_owned()], "b", 2, 2).unwrap();
        for (stranger, part) in [
            (record(&topology("c"), addresses(127, 1)), "it is of 'c'"),
            (record(&other, addresses(127, 1)), "other nodes or quorums"),
            (record(&topology("b"), addresses(10, 1)), "needs [cluster.tls]"),
        ] {
            assert!(directory.hear(b, stranger).unwrap_err().contains(part), "{part}");
        }
        assert_eq!(directory.peer(b), None);
    }
}

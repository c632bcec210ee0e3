//! What the admin pages say of nodes and slots, from what this node knows of itself and of the others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::health;
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::meta::slots::State;
use crate::metrics::Metrics;
use crate::registry::directory::{Directory, Peer};
use crate::registry::driver::Member;
use crate::registry::record::ReplicaState;
use crate::registry::settings::Backend;
use crate::shard::node::Node;

/// Nodes and slots.
pub(super) struct Overview {
    node: Arc<Node>,
    name: String,
    public: SocketAddr,
    /// The others, if there are any.
    cluster: Option<(Backend, Arc<Directory>)>,
}

impl Overview {
    pub(super) fn new(node: Arc<Node>, name: String, public: SocketAddr, member: Option<&Member>) -> Self {
        let cluster = member.map(|member| (member.backend(), Arc::clone(member.directory())));
        Self { node, name, public, cluster }
    }

    /// Why the node is not ready as a member of its cluster.
    pub(super) fn troubles(&self) -> Vec<String> {
        self.cluster.as_ref().map_or_else(Vec::new, |(_, directory)| directory.troubles())
    }

    /// Brings the metrics up to date.
    pub(super) fn count(&self, metrics: &Metrics) {
        let Some((_, directory)) = &self.cluster else { return };
        let alive = directory.topology().nodes().filter(|id| directory.alive(*id) == Some(true)).count();
        metrics.nodes_alive.set(alive.cast_signed() as i64);
        metrics.registry_failures.inner().store(directory.standing().failures, Ordering::Relaxed);
        let hollow = Slot::all().map(|slot| self.node.slots.hollow(slot)).filter(|hollow| *hollow > 0);
        let (slots, versions) =
            hollow.fold((0, 0), |(slots, versions), hollow| (slots + 1, versions + hollow));
        metrics.hollow_slots.set(slots);
        metrics.hollow_versions.set(versions.cast_signed());
        let differing = self.node.cluster.as_ref().map_or(0, |cluster| cluster.syncing.differing());
        metrics.sync_differing.set(differing.cast_signed() as i64);
    }

    /// `/nodes`.
    pub(super) fn nodes(&self) -> Value {
        let Some((backend, directory)) = &self.cluster else {
            return json!({ "nodes": [{ "name": self.name, "public": self.public.to_string() }] });
        };
        let (topology, standing) = (directory.topology(), directory.standing());
        json!({
            "cluster": topology.cluster(),
            "replicas": topology.replica_count(),
            "write_quorum": topology.write_quorum(),
            "registry": {
                "backend": backend.to_string(),
                "reachable": standing.reachable,
                "since": standing.since.map(|time| time.to_string()),
                "trouble": standing.contradiction.or(standing.trouble),
            },
            "nodes": topology.nodes().map(|id| self.describe(directory, id)).collect::<Vec<_>>(),
        })
    }

    fn describe(&self, directory: &Directory, id: NodeId) -> Value {
        let (topology, peer) = (directory.topology(), directory.get(id));
        let me = id == topology.me();
        // What was announced of this node may be some seconds old; it knows better.
        let health = if me {
            Some(health::of(&self.node, topology))
        } else {
            peer.record.as_ref().map(|r| r.health.clone())
        };
        let disks =
            peer.record.as_ref().map(|record| record.disks.iter().map(|disk| &disk.id).collect::<Vec<_>>());
        json!({
            "name": topology.name(id),
            "me": me,
            "public": peer.addresses.public,
            "peer": peer.addresses.peer,
            "admin": peer.addresses.admin,
            "alive": peer.alive,
            "since": peer.since.map(|time| time.to_string()),
            "heard": peer.heard.map(|time| time.to_string()),
            "serving": health.as_ref().map_or(peer.serving, |health| health.serving),
            "run": peer.record.as_ref().map(|record| &record.run),
            "release": peer.record.as_ref().map(|record| &record.release),
            "protocol": peer.record.as_ref().map(|record| record.protocol),
            "disks": disks,
            "health": health.map(|health| json!({
                "healthy": health.healthy,
                "recovering": health.recovering.len(),
                "recovering_slots": health.recovering,
                "failed": health.failed.len(),
                "failed_slots": health.failed,
            })),
        })
    }

    /// `/slots`: those that hold something; in a cluster all, since another node may hold what this one does not.
    pub(super) fn slots(&self) -> Value {
        let born = |slot: &Slot| self.cluster.is_some() || self.node.slots.state(*slot) != State::Unborn;
        let peers = self.peers();
        let slots: Vec<_> = Slot::all().filter(born).map(|slot| self.describe_slot(slot, &peers)).collect();
        json!({ "slots": slots })
    }

    /// `/slots/{id}`.
    pub(super) fn slot(&self, slot: Slot) -> Value {
        self.describe_slot(slot, &self.peers())
    }

    fn peers(&self) -> Vec<Peer> {
        let nodes = |(_, directory): &(Backend, Arc<Directory>)| {
            directory.topology().nodes().map(|id| directory.get(id)).collect()
        };
        self.cluster.as_ref().map_or_else(Vec::new, nodes)
    }

    fn describe_slot(&self, slot: Slot, peers: &[Peer]) -> Value {
        let mut described = json!({ "slot": slot.index() });
        let topology = self.cluster.as_ref().map(|(_, directory)| directory.topology());
        if topology.is_none_or(|topology| topology.is_mine(slot)) {
            let (slots, state) = (&self.node.slots, self.node.slots.state(slot));
            described["disk"] = json!(self.node.disk(slot).root());
            let replica = health::state(&self.node, slot);
            let empty = state == State::Unborn && replica == ReplicaState::Healthy;
            described["state"] = json!(if empty { "empty" } else { replica.name() });
            described["hollow"] = json!(slots.hollow(slot));
            described["reason"] = json!((state == State::Failed).then(|| slots.reason(slot)));
        }
        if let Some(topology) = topology {
            let replica = |id: &NodeId| {
                let me = *id == topology.me();
                let peer = &peers[id.index()];
                let disk = if me { Some(self.node.slots.disk(slot)) } else { peer.disk(slot) };
                let state = if me { health::state(&self.node, slot) } else { peer.state(slot) };
                let mut described =
                    json!({ "node": topology.name(*id), "disk": disk, "state": state.name() });
                if let Some(cluster) = self.node.cluster.as_ref().filter(|_| !me && topology.is_mine(slot)) {
                    let (equal, differs) = cluster.syncing.seen(*id, slot);
                    described["last_equal"] = json!(equal.map(|time| time.to_string()));
                    described["differs"] = json!(differs);
                }
                described
            };
            described["replicas"] = topology.replicas(slot).iter().map(replica).collect();
        }
        described
    }
}

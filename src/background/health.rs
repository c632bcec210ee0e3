//! How this node's replicas are, for the registry and the admin pages: the one place that says what a slot's state means
//! to others.

use crate::base::slot::Slot;
use crate::base::topology::Topology;
use crate::meta::slots::State;
use crate::registry::record::{Health, ReplicaState};
use crate::shard::node::Node;

/// Of this node's replica of a slot.
pub(super) fn state(node: &Node, slot: Slot) -> ReplicaState {
    match node.slots.state(slot) {
        State::Failed => ReplicaState::Failed,
        State::Unchecked => ReplicaState::Recovering,
        State::Ready | State::Unborn if node.slots.is_recovering(slot) => ReplicaState::Recovering,
        State::Ready | State::Unborn => ReplicaState::Healthy,
    }
}

/// Of the node and all replicas that are its own.
pub(super) fn of(node: &Node, topology: &Topology) -> Health {
    let mine = Slot::all().filter(|slot| topology.is_mine(*slot));
    Health::of(node.can_serve(), mine.map(|slot| (slot, state(node, slot))))
}

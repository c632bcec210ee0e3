//! Who belongs to the cluster: forming it, and replacing a disk.

use std::rc::Rc;
use std::sync::Arc;

use super::cluster::Cluster;
use crate::base::error::Error;
use crate::base::topology::NodeId;
use crate::shard::core::Core;
use crate::shard::node::Node;
use crate::wire::peer::Member;
use crate::wire::peer::cluster::{Answer, Question};

/// Takes over what another node knows of replaced disks, on disk before anything rests on it.
pub(super) async fn learn(_cluster: &Arc<Cluster>, _node: &Node, _members: &[Member]) -> Result<(), Error> {
    Ok(())
}

/// Answers another node's question about the cluster.
pub(super) async fn answer(
    _core: &Rc<Core>,
    _cluster: &Arc<Cluster>,
    _from: NodeId,
    _question: Question,
) -> Answer {
    Answer::No("not yet".to_owned())
}

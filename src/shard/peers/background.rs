//! What a core does for the cluster unasked.

use std::rc::Rc;
use std::sync::Arc;

use super::cluster::Cluster;
use crate::shard::core::Core;

/// Runs for as long as the core does.
pub(in crate::shard) async fn run(_core: Rc<Core>, _cluster: Arc<Cluster>) {}

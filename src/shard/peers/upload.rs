//! A blob's bytes on their way to its replicas: sent while they arrive, verified by each replica before it votes.

use std::rc::Rc;
use std::sync::Arc;

use super::cluster::Cluster;
use crate::base::error::Code;
use crate::shard::body::Body;
use crate::shard::connection::Connection;
use crate::shard::core::Core;
use crate::shard::reply::{Handled, refuse};

/// Where uploads go: `/peer/upload/<slot>/<blob_id>`.
pub(super) const TARGET: &str = "/peer/upload/";

/// Receives a blob from its coordinator.
pub(super) async fn receive(
    _core: &Rc<Core>,
    _cluster: &Arc<Cluster>,
    _connection: &mut Connection,
    _body: &mut Body,
    _path: &str,
) -> Handled {
    refuse(Code::NotImplemented, "not yet")
}

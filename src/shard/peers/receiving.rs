//! A blob's bytes as they come from the node that coordinates it.

use std::rc::Rc;
use std::sync::Arc;

use super::cluster::Cluster;
use super::serve::binary;
use super::upload::{Stored, Streams, TARGET};
use crate::base::error::{Code, Error};
use crate::base::ids::BlobId;
use crate::base::slot::Slot;
use crate::chunk::incoming::Received;
use crate::meta::replica::Uploaded;
use crate::shard::body::Body;
use crate::shard::connection::Connection;
use crate::shard::core::Core;
use crate::shard::reply::{Failure, Handled, refuse};
use crate::shard::upload::Upload;

/// Receives a blob from its coordinator.
pub(super) async fn receive(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    connection: &mut Connection,
    body: &mut Body,
    path: &str,
) -> Handled {
    let Some((slot, blob, size)) = named(path) else {
        return refuse(Code::BadRequest, "an upload names its slot, its blob and, if it is known, its size");
    };
    if size.is_some_and(|size| !body.expect_seals(size)) {
        return refuse(Code::BadRequest, "an upload has other than its bytes and a seal behind each chunk");
    }
    if !cluster.topology().is_mine(slot) {
        return refuse(Code::BadRequest, format!("this node is no replica of slot {slot}"));
    }
    core.node.writers.birth(slot).await?;
    let here = || refuse(Code::VersionConflict, format!("blob {blob} is here already"));
    if !core.node.live.insert(blob) {
        return here();
    }
    match core.node.readers.is_known(slot, blob).await {
        Ok(false) => {}
        known => {
            core.node.live.remove(blob);
            return known.map_err(Failure::from).and_then(|_| here());
        }
    }
    let mut upload = Upload::new(core, slot, blob, Streams::default()).of_coordinator();
    let kept = match upload.run(connection, body, false).await {
        Ok(received) => keep(cluster, slot, blob, received),
        Err(failure) => Err(failure),
    };
    match kept {
        Ok(data) => {
            fill(core, cluster, slot, &data).await;
            binary(&Stored { size: data.size, content: data.content() })
        }
        Err(failure) => {
            upload.discard().await;
            core.node.live.remove(blob);
            Err(failure)
        }
    }
}

/// The slot and the blob of an upload, and its size if it is sealed.
fn named(path: &str) -> Option<(Slot, BlobId, Option<u64>)> {
    let mut parts = path.strip_prefix(TARGET)?.split('/');
    let slot = Slot::new(parts.next()?.parse().ok()?)?;
    let blob = parts.next()?.parse().ok()?;
    let size = parts.next().map(str::parse).transpose().ok()?;
    parts.next().is_none().then_some((slot, blob, size))
}

/// The others may have decided without this replica while it was still receiving: then the row is here already.
async fn fill(core: &Core, cluster: &Cluster, slot: Slot, data: &Arc<Uploaded>) {
    let known = core.node.readers.is_known(slot, data.blob_id).await.unwrap_or(false);
    if known && core.node.writers.fill(slot, Arc::clone(data)).await.unwrap_or(false) {
        cluster.uploads.remove(data.blob_id);
        core.node.live.remove(data.blob_id);
    }
}

/// Keeps what was received for the votes about it.
pub(in crate::shard) fn keep(
    cluster: &Cluster,
    slot: Slot,
    blob_id: BlobId,
    received: Received,
) -> Result<Arc<Uploaded>, Failure> {
    let Received { size, chunks, parts, .. } = received;
    let data = Arc::new(Uploaded { blob_id, size, chunks, parts });
    if cluster.uploads.insert(slot, Arc::clone(&data)) {
        Ok(data)
    } else {
        Err(Error::new(Code::SlotUnavailable, "too many uploads wait for their votes: try again").into())
    }
}

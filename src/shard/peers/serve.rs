//! The peer listener: every request says which protocol it speaks, of which cluster it is, who sent it and who is meant; one that
//! does not fit is refused and logged, and changes nothing.

use std::rc::Rc;
use std::sync::Arc;

use super::ask::{ARCHIVE, CLUSTER, LIST, REQUEST, SYNC};
use super::cluster::Cluster;
use super::link::{CLUSTER_FIELD, NODE_FIELD, PROTOCOL_FIELD, TO_FIELD};
use super::participate::try_participate;
use super::{membership, receiving, sync, upload};
use crate::base::error::{Code, Error};
use crate::base::topology::NodeId;
use crate::io::buffer::Buffer;
use crate::limits::{BUFFER_MIN, PEER_MESSAGE_MAX, PROTOCOL};
use crate::shard::body::Body;
use crate::shard::connection::{Connection, Plane};
use crate::shard::core::Core;
use crate::shard::reply::{Failure, Handled, Reply, ReplyBody, refuse};
use crate::shard::{archive, list, route};
use crate::wire::head::{Head, Headers, Method, Target};
use crate::wire::peer::{self, decode, encode};
use crate::wire::response::ResponseHead;

/// Answers a request of another node.
pub(in crate::shard) async fn handle(
    core: &Rc<Core>,
    connection: &mut Connection,
    head: &Head,
    body: &mut Body,
) -> Handled {
    let Some(cluster) = core.node.cluster.as_ref().map(Arc::clone) else {
        return refuse(Code::BadRequest, "this node runs alone");
    };
    let verified = match connection.plane() {
        Plane::Peer(verified) => verified,
        Plane::Public => None,
    };
    let from = match check(&cluster, &head.headers, verified) {
        Ok(from) => from,
        Err(error) => {
            tracing::warn!(%error, "a request on the peer listener was refused");
            return Err(error.into());
        }
    };
    let Target::Origin { path, .. } = &head.target else {
        return refuse(Code::BadRequest, "name a resource");
    };
    match (head.method, path.as_str()) {
        (Method::Post, REQUEST) => {
            let request: peer::Request = message(connection, body).await?;
            let reply = match try_participate(core, &cluster, request).await {
                Ok(reply) => reply,
                Err(error) => {
                    peer::Response { members: Vec::new(), reply: peer::Reply::Unavailable(error.to_string()) }
                }
            };
            binary(&reply)
        }
        (Method::Post, CLUSTER) => {
            let question = message(connection, body).await?;
            binary(&membership::answer(core, &cluster, from, question).await)
        }
        (Method::Post, SYNC) => {
            let question = message(connection, body).await?;
            binary(&sync::answer(core, &cluster, from, question).await)
        }
        (Method::Post, ARCHIVE) => {
            let order = message(connection, body).await?;
            binary(&archive::obey(core, order).await)
        }
        (Method::Post, LIST) => {
            let ask = message(connection, body).await?;
            list::answer(core, &cluster, ask).await
        }
        (Method::Put, path) if path.starts_with(upload::TARGET) => {
            receiving::receive(core, &cluster, connection, body, path).await
        }
        _ => Box::pin(route::handle_public(core, connection, head, body)).await,
    }
}

/// Who sent a request, if it is one for this node, of this cluster, in this protocol.
fn check(cluster: &Cluster, headers: &Headers, verified: Option<NodeId>) -> Result<NodeId, Error> {
    let refused = |message: String| Err(Error::new(Code::BadRequest, message));
    let field = |name| headers.get_str(name).unwrap_or_default();
    if field(PROTOCOL_FIELD) != PROTOCOL.to_string() {
        return refused(format!(
            "this node speaks protocol {PROTOCOL} with its peers, not '{}': run the same release on all nodes",
            field(PROTOCOL_FIELD)
        ));
    }
    if field(CLUSTER_FIELD) != cluster.topology().cluster() {
        return refused(format!(
            "this node belongs to cluster '{}', not to '{}'",
            cluster.topology().cluster(),
            field(CLUSTER_FIELD)
        ));
    }
    if field(TO_FIELD) != cluster.name() {
        return refused(format!("this is node '{}', not '{}'", cluster.name(), field(TO_FIELD)));
    }
    match cluster.topology().find(field(NODE_FIELD)) {
        Some(from) if verified.is_some_and(|verified| verified != from) => {
            refused(format!("the certificate is not that of '{}'", cluster.topology().name(from)))
        }
        Some(from) if from != cluster.topology().me() => Ok(from),
        _ => refused(format!("'{}' is no other node of this cluster", field(NODE_FIELD))),
    }
}

/// The message in a request's body.
async fn message<T: for<'a> serde::Deserialize<'a>>(
    connection: &mut Connection,
    body: &mut Body,
) -> Result<T, Failure> {
    let len = body.remaining().and_then(|len| usize::try_from(len).ok());
    let Some(len) = len.filter(|len| *len <= PEER_MESSAGE_MAX) else {
        return refuse(Code::TooLarge, "a peer's message is too long, or does not say how long it is");
    };
    let mut bytes = Vec::with_capacity(len.min(BUFFER_MIN));
    let mut buffer = Buffer::new(BUFFER_MIN);
    while bytes.len() < len {
        buffer.set_len(0);
        match body.read(connection, &mut buffer, BUFFER_MIN, None).await? {
            Some(0) | None => return Err(Failure::Gone),
            Some(_) => bytes.extend_from_slice(&buffer),
        }
    }
    Ok(decode(&bytes)?)
}

/// A message as a response.
pub(super) fn binary(message: &impl serde::Serialize) -> Handled {
    let body = encode(message)?;
    let head = ResponseHead::new(200)
        .header("Content-Type", "application/octet-stream")
        .header("Content-Length", body.len());
    Ok(Reply { status: 200, head, body: ReplyBody::Bytes(body) })
}

//! Another node's answer on its way to the client: received into a buffer and sent from it.
//!
//! The head is out, so an answer that breaks off cuts the client's connection off. A client that does not read holds one buffer,
//! and then, through the other node's socket, that node.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use monoio::time::timeout;

use super::space::Space;
use crate::base::topology::NodeId;
use crate::io::buffer::Buffer;
use crate::io::receive::{self, LowWater};
use crate::limits::{FORWARD_TIME, SEND_PATIENCE};
use crate::shard::connection::Connection;
use crate::shard::core::Core;
use crate::shard::peers::cluster::Cluster;
use crate::shard::peers::link::Link;
use crate::shard::reply::Failure;

/// The body of an answer, of which no byte was taken yet.
pub(in crate::shard) struct Relay {
    cluster: Arc<Cluster>,
    node: NodeId,
    link: Link,
    /// Bytes to come.
    left: u64,
    /// Whether the connection can be used again.
    keep: bool,
    low_water: LowWater,
    space: Space,
}

impl Relay {
    /// What is `left` of an answer on a connection, of which it may `keep` the connection.
    pub(super) fn new(
        cluster: Arc<Cluster>,
        (node, link): (NodeId, Link),
        (left, keep): (u64, bool),
        space: Space,
    ) -> Self {
        Self { cluster, node, link, left, keep, low_water: LowWater::default(), space }
    }

    /// Sends a head and the body.
    ///
    /// # Errors
    /// `Gone` whatever fails.
    pub(in crate::shard) async fn send(
        mut self,
        core: &Core,
        connection: &mut Connection,
        mut head: Vec<u8>,
    ) -> Result<(), Failure> {
        let mut back = None;
        while self.left > 0 {
            let mut buffer = self.space.buffer(back.take());
            if let Err(error) = self.fill(&mut buffer).await {
                tracing::warn!(
                    node = self.cluster.topology().name(self.node),
                    %error,
                    "an answer broke off, and so does the client's connection"
                );
                self.cluster.set_reachable(self.node, false);
                return Err(Failure::Gone);
            }
            let (is_full, len) = (buffer.len() == buffer.capacity(), buffer.len());
            let parts = Rc::new((std::mem::take(&mut head), buffer));
            let total = parts.0.len() + len;
            let (mut sent, mut stalled) = (0, false);
            while sent < total {
                let moved = connection.send_parts(&parts, sent, SEND_PATIENCE).await?;
                sent += moved.bytes;
                if moved.out_of_patience {
                    stalled = true;
                    connection.wait_writable().await?;
                }
            }
            core.node.metrics.sent.inc_by(len as u64);
            back = Rc::into_inner(parts).map(|(_, buffer)| buffer);
            if stalled {
                self.space.shrink();
            } else if is_full {
                self.space.grow(core);
            }
        }
        self.low_water.lower(self.link.connection.stream());
        if self.keep {
            self.link.keep(core);
        }
        Ok(())
    }

    /// Receives what is there, at least one byte.
    async fn fill(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.capacity());
        let link = &mut self.link.connection;
        let waiting = link.inbox().len().min(room);
        buffer.extend(&link.inbox()[..waiting]);
        link.consume(waiting);
        while buffer.len() < room {
            match receive::receive(link.stream(), buffer, room - buffer.len()) {
                Ok(0) if buffer.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if !buffer.is_empty() => break,
                Err(_) => {
                    self.low_water.raise(link.stream(), room, self.left);
                    let readable = timeout(FORWARD_TIME, receive::wait_readable(link.stream())).await;
                    readable.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                }
            }
        }
        self.left -= buffer.len() as u64;
        Ok(())
    }
}

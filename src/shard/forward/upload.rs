//! A request's body on its way to another node: received into a buffer and sent from it, trailers and all.
//!
//! While it is sent, the other node may answer already: then no more is sent. A client that fails ends the connection to the other
//! node, which so stores nothing.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use super::space::Space;
use crate::io::buffer::Buffer;
use crate::io::bulk::memory::Gather;
use crate::io::receive;
use crate::limits::{FAST_FILL, SEND_PATIENCE};
use crate::shard::body::Body;
use crate::shard::connection::Connection;
use crate::shard::core::Core;
use crate::shard::peers::link::Link;
use crate::shard::reply::Failure;

/// How much of a body has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All of it.
    Whole,
    /// Not the end of it, for sure: the other node has answered already, or is gone.
    Part,
    /// The connection failed with the last bytes.
    Perhaps,
}

/// Passes on what is left of `body`.
///
/// # Errors
/// Those of the client.
pub(super) async fn send(
    core: &Core,
    mut space: Space,
    connection: &mut Connection,
    body: &mut Body,
    link: &mut Link,
) -> Result<Sent, Failure> {
    let is_chunked = body.remaining().is_none();
    let mut back = None;
    loop {
        let mut buffer = space.buffer(back.take());
        let begun = Instant::now();
        let silent = fill(&space, connection, body, &mut buffer).await?;
        core.node.metrics.received.inc_by(buffer.len() as u64);
        let fast = !silent && begun.elapsed() < FAST_FILL && buffer.len() == buffer.capacity();
        let is_last = body.is_done();
        if receive::is_ready(link.connection.stream()) {
            return Ok(Sent::Part);
        }
        let (before, after) = frame(body, buffer.len(), is_chunked);
        let parts = Rc::new(((before, buffer), after));
        if let Err(error) = send_all(link, &parts).await {
            tracing::debug!(%error, "a body could not be passed on");
            return Ok(if is_last { Sent::Perhaps } else { Sent::Part });
        }
        if is_last {
            return Ok(Sent::Whole);
        }
        back = Rc::into_inner(parts).map(|((_, buffer), _)| buffer);
        if fast {
            space.grow(core);
        } else if silent {
            space.shrink();
        }
    }
}

/// Fills a small buffer with what is there, and a large one as far as the client is fast; whether it was silent.
async fn fill(
    space: &Space,
    connection: &mut Connection,
    body: &mut Body,
    buffer: &mut Buffer,
) -> Result<bool, Failure> {
    let patience = space.is_large().then_some(FAST_FILL);
    loop {
        let room = buffer.capacity() - buffer.len();
        match body.read(connection, buffer, room, patience).await? {
            None => return Ok(true),
            Some(0) => return Ok(false),
            Some(_) if body.is_done() || patience.is_none() || buffer.len() == buffer.capacity() => {
                return Ok(false);
            }
            Some(_) => {}
        }
    }
}

/// What stands around a piece of the body.
fn frame(body: &Body, len: usize, is_chunked: bool) -> (Vec<u8>, Vec<u8>) {
    if !is_chunked {
        return (Vec::new(), Vec::new());
    }
    let (mut before, mut after) = (Vec::new(), Vec::new());
    if len > 0 {
        before = format!("{len:x}\r\n").into_bytes();
        after.extend_from_slice(b"\r\n");
    }
    if body.is_done() {
        after.extend_from_slice(b"0\r\n");
        for (name, value) in body.trailers() {
            after.extend_from_slice(name.as_bytes());
            after.extend_from_slice(b": ");
            after.extend_from_slice(value);
            after.extend_from_slice(b"\r\n");
        }
        after.extend_from_slice(b"\r\n");
    }
    (before, after)
}

/// Sends all of it, for as long as the other node takes some.
async fn send_all<G: Gather>(link: &mut Link, parts: &Rc<G>) -> io::Result<()> {
    let (total, mut sent) = (parts.total(), 0);
    while sent < total {
        let moved = link.connection.send_parts(parts, sent, SEND_PATIENCE).await?;
        sent += moved.bytes;
        if moved.out_of_patience {
            link.connection.wait_writable().await?;
        }
    }
    Ok(())
}

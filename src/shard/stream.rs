//! A blob's bytes on their way out: read ahead through the block cache, sent from its blocks, several pieces in one
//! send, the response's head with the first.
//!
//! A block is held only while a send moves, and until the kernel has let go of what it sends without a copy. When the
//! client stops reading, the send is taken back, the blocks let go, and the connection waits with nothing in hand; so slow
//! clients cost no memory and delay nobody.

use std::rc::Rc;

use super::blob::Piece;
use super::connection::Connection;
use super::core::Core;
use super::read_ahead::ReadAhead;
use super::reply::Failure;
use crate::io::bulk::memory::{Gather, Region};
use crate::limits::{SEND_MAX, SEND_NOW_MAX, SEND_PATIENCE, SMALL_BLOCK};

/// Pieces that leave in one send, behind what is left of a head.
struct Parts {
    head: Vec<u8>,
    body: Vec<Piece>,
    /// Bytes of the body.
    len: usize,
}

#[expect(unsafe_code, reason = "memory shared with the kernel")]
// SAFETY: a vector's bytes, and shares of memory, which neither move nor change while they are held.
unsafe impl Gather for Parts {
    fn regions(&self, name: &mut dyn FnMut(Region)) {
        self.head.regions(name);
        self.body.iter().for_each(|piece| piece.regions(name));
    }
}

/// Sends a head and all that `reading` reads.
///
/// # Errors
/// `Gone` whatever fails: the head is out, so a response that cannot be finished is cut off.
pub(super) async fn send(
    core: &Core,
    connection: &mut Connection,
    mut head: Vec<u8>,
    mut reading: ReadAhead,
) -> Result<(), Failure> {
    // What is taken at a time: a client that does not keep up gets small pieces, and larger ones when it does again.
    let mut stride = SEND_MAX;
    while !head.is_empty() || !reading.is_done() {
        let parts = Rc::new(gather(std::mem::take(&mut head), &mut reading, stride).await?);
        stride = (stride * 2).min(SEND_MAX);
        let total = parts.head.len() + parts.len;
        let mut sent = 0;
        while sent < total {
            let moved = connection.send_parts(&parts, sent, SEND_PATIENCE).await?;
            sent += moved.bytes;
            if moved.out_of_patience {
                break;
            }
        }
        let body = sent.saturating_sub(parts.head.len());
        core.node.metrics.sent.inc_by(body as u64);
        if sent < total {
            // Let go of everything, and read it again when the client does.
            head = parts.head.get(sent..).unwrap_or_default().to_vec();
            reading.go_back((parts.len - body) as u64);
            drop(parts);
            stride = SMALL_BLOCK as usize;
            connection.wait_writable().await?;
        }
    }
    Ok(())
}

/// What goes out next: what is at hand, while the disk reads on, unless the rest is small.
async fn gather(head: Vec<u8>, reading: &mut ReadAhead, stride: usize) -> Result<Parts, Failure> {
    let mut parts = Parts { head, body: Vec::new(), len: 0 };
    while !reading.is_done() && parts.len < stride {
        if parts.len > 0 && !reading.is_ready(stride as u64) && reading.rest() > SEND_NOW_MAX as u64 {
            break;
        }
        match reading.take(stride as u64, parts.len > 0).await.map_err(|_| Failure::Gone)? {
            Some(piece) => {
                parts.len += piece.bytes().len();
                parts.body.push(piece);
            }
            None => break,
        }
    }
    Ok(parts)
}

//! A blob's bytes on their way out: read ahead through the block cache, sent from its blocks, several pieces in one
//! send, the response's head with the first.
//!
//! A block is held only while a send moves. When the client stops reading, the send is taken back, the blocks let go,
//! and the connection waits with nothing in hand; so slow clients cost no memory and delay nobody.

use std::time::Instant;

use bytes::Bytes;
use monoio::buf::IoBuf;

use super::blob::Piece;
use super::connection::Connection;
use super::core::Core;
use super::read_ahead::ReadAhead;
use super::reply::Failure;
use crate::io::gather::Gather;
use crate::limits::{DIRECT_SEND_MAX, SEND_MAX, SEND_PATIENCE, SMALL_BLOCK};

/// What leaves in one send.
enum Part {
    /// A head, which cannot be read again.
    Head(Bytes),
    Body(Piece),
}

#[expect(unsafe_code, reason = "memory shared with the kernel")]
// SAFETY: both kinds are shares of memory that neither moves nor changes while they are held.
unsafe impl IoBuf for Part {
    fn read_ptr(&self) -> *const u8 {
        match self {
            Self::Head(bytes) => bytes.as_ptr(),
            Self::Body(piece) => piece.bytes().as_ptr(),
        }
    }
    fn bytes_init(&self) -> usize {
        match self {
            Self::Head(bytes) => bytes.len(),
            Self::Body(piece) => piece.bytes().len(),
        }
    }
}

/// Sends a head and all that `reading` reads.
///
/// # Errors
/// `Gone` whatever fails: the head is out, so a response that cannot be finished is cut off.
pub(super) async fn send(
    core: &Core,
    connection: &mut Connection,
    head: Vec<u8>,
    mut reading: ReadAhead,
) -> Result<(), Failure> {
    let mut gather = Gather::default();
    gather.push(Part::Head(head.into()));
    // What is taken at a time: a client that does not keep up gets small pieces, and larger ones when it does again.
    let mut stride = SEND_MAX;
    while !gather.is_empty() || !reading.is_done() {
        while !reading.is_done() && gather.len() < stride {
            // What is at hand goes out while the disk reads, unless the rest is small.
            if body_len(&gather) > 0 && !reading.is_ready() && reading.rest() > DIRECT_SEND_MAX as u64 {
                break;
            }
            match reading.take(stride as u64, body_len(&gather) > 0).await.map_err(|_| Failure::Gone)? {
                Some(piece) => gather.push(Part::Body(piece)),
                None => break,
            }
        }
        let begun = Instant::now();
        stride = (stride * 2).min(SEND_MAX);
        let body = body_len(&gather);
        gather = connection.send_gather(gather, SEND_PATIENCE).await?;
        core.node.metrics.sent.inc_by((body - body_len(&gather)) as u64);
        if !gather.is_empty() && begun.elapsed() >= SEND_PATIENCE {
            // Let go of everything, and read it again when the client does.
            reading.go_back(body_len(&gather) as u64);
            gather.retain(|part| matches!(part, Part::Head(_)));
            stride = SMALL_BLOCK as usize;
            connection.wait_writable().await?;
        }
    }
    Ok(())
}

fn body_len(gather: &Gather<Part>) -> usize {
    gather.sum(|part| matches!(part, Part::Body(_)))
}

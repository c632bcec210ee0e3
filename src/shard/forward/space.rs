//! What a request that is passed on may hold in memory: one small buffer at first, and a larger one for as long as both ends are
//! fast, from the same budgets as uploads.

use monoio::time::timeout;

use crate::base::error::Code;
use crate::io::budget::Share;
use crate::io::buffer::Buffer;
use crate::limits::{BUFFER_MAX, BUFFER_MIN, BUFFER_WAIT};
use crate::shard::core::Core;
use crate::shard::reply::{Failure, refuse};

pub(super) struct Space {
    size: usize,
    _first: Share,
    more: Option<Share>,
}

impl Space {
    /// Waits for room.
    ///
    /// # Errors
    /// `SlotUnavailable` when none comes.
    pub(super) async fn take(core: &Core) -> Result<Self, Failure> {
        match timeout(BUFFER_WAIT, core.first_buffers.take(BUFFER_MIN)).await {
            Ok(first) => Ok(Self { size: BUFFER_MIN, _first: first, more: None }),
            Err(_) => refuse(Code::SlotUnavailable, "too many bodies are under way on this core: try again"),
        }
    }

    /// Whether the buffer is a large one.
    pub(super) fn is_large(&self) -> bool {
        self.size > BUFFER_MIN
    }

    /// An empty buffer: one that came back if it has the right size.
    pub(super) fn buffer(&self, back: Option<Buffer>) -> Buffer {
        match back {
            Some(mut buffer) if buffer.capacity() == self.size => {
                buffer.set_len(0);
                buffer
            }
            _ => Buffer::new(self.size),
        }
    }

    /// Makes the next buffer larger where the budget allows.
    pub(super) fn grow(&mut self, core: &Core) {
        let size = (self.size * 4).min(BUFFER_MAX);
        if size > self.size {
            // What it had is given back first: the larger share may be made of it.
            let had = self.more.take();
            drop(had);
            self.more = core.more_buffers.try_take(size);
            self.size = if self.more.is_some() { size } else { BUFFER_MIN };
        }
    }

    /// Makes the next buffer a small one.
    pub(super) fn shrink(&mut self) {
        self.more = None;
        self.size = BUFFER_MIN;
    }
}

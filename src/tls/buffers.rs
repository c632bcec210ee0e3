//! Buffers of the connections of one thread, taken while bytes are on their way and given back when none are, so that
//! an idle connection holds none.

use std::cell::RefCell;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::limits::{TLS_BUFFER, TLS_IDLE_BUFFERS};

/// The idle buffers of a thread.
#[derive(Clone, Default)]
pub(super) struct Buffers(Rc<RefCell<Vec<Box<[u8]>>>>);

/// [`TLS_BUFFER`] bytes of which `start..end` are in use; it goes back when it is dropped.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    home: Buffers,
}

impl Buffers {
    pub(super) fn take(&self) -> Buffer {
        let idle = self.0.borrow_mut().pop();
        let bytes = idle.unwrap_or_else(|| vec![0; TLS_BUFFER].into_boxed_slice());
        Buffer { bytes, start: 0, end: 0, home: self.clone() }
    }
}

impl Buffer {
    /// The room behind what is in use.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// Takes the first bytes of the room into use.
    pub(super) fn fill(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes.len() - self.end, "more than there was room for");
        self.end += bytes;
    }

    /// Drops the first bytes in use.
    pub(super) fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.len(), "more than was in use");
        self.start += bytes;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Moves what is in use to the front, so that all room is behind it.
    pub(super) fn make_room(&mut self) {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }

    /// Appends bytes.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.room()[..bytes.len()].copy_from_slice(bytes);
        self.fill(bytes.len());
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.home.0.borrow_mut();
        if idle.len() < TLS_IDLE_BUFFERS {
            idle.push(mem::take(&mut self.bytes));
        }
    }
}

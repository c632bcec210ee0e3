//! What operations of the ring read from and write to: lists of regions, kept alive by their owner.
//!
//! An operation holds the owner until its last completion, so a region must stay what it was for as long as its owner
//! exists, wherever the owner is moved. The implementations are the only place that promises this.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::io::buffer::Buffer;

/// Some bytes of memory, and the registered buffer they lie in, if any.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub(super) start: *mut u8,
    pub(super) len: usize,
    pub(super) index: Option<u16>,
}

impl Region {
    /// Bytes to be read by the kernel.
    pub fn of(bytes: &[u8]) -> Self {
        Self { start: bytes.as_ptr().cast_mut(), len: bytes.len(), index: None }
    }

    /// Bytes to be written by the kernel.
    pub fn of_mut(bytes: &mut [u8]) -> Self {
        Self { start: bytes.as_mut_ptr(), len: bytes.len(), index: None }
    }

    /// The same bytes, which lie in the registered buffer `index` (see [`super::registry::Registry::add`]). A wrong
    /// index makes the kernel refuse the operation.
    #[must_use]
    pub fn registered(self, index: Option<u16>) -> Self {
        Self { index, ..self }
    }

    /// Without its first `n` bytes.
    fn skip(self, n: usize) -> Self {
        // In bounds: `n` is at most `len`.
        Self { start: self.start.wrapping_add(n), len: self.len - n, index: self.index }
    }

    pub(super) fn iovec(self) -> libc::iovec {
        libc::iovec { iov_base: self.start.cast(), iov_len: self.len }
    }
}

/// Bytes that an operation sends or writes, in order.
///
/// # Safety
/// The regions neither move, change nor go away while the implementor exists, also when it is moved.
pub unsafe trait Gather: 'static {
    /// Names each region.
    fn regions(&self, name: &mut dyn FnMut(Region));

    /// Bytes of all regions.
    fn total(&self) -> usize {
        let mut total = 0;
        self.regions(&mut |region| total += region.len);
        total
    }
}

/// Memory that an operation fills, in order.
///
/// # Safety
/// The regions neither move nor go away while the implementor exists, also when it is moved; any bytes are valid in
/// them; nothing else looks at them while the implementor is owned by an operation.
pub unsafe trait Scatter: 'static {
    /// Names each region.
    fn regions(&mut self, name: &mut dyn FnMut(Region));
}

/// The bytes `range` of a list, at most `most` regions of it.
pub(super) fn cut(
    list: impl FnOnce(&mut dyn FnMut(Region)),
    range: Range<usize>,
    most: usize,
) -> Vec<Region> {
    let mut out = Vec::new();
    let mut at = 0;
    list(&mut |region| {
        let begin = at;
        at += region.len;
        let (start, end) = (begin.max(range.start), at.min(range.end));
        if start < end && out.len() < most {
            let mut part = region.skip(start - begin);
            part.len = end - start;
            out.push(part);
        }
    });
    out
}

macro_rules! gather_one {
    ($($type:ty),*) => {$(
        // SAFETY: it owns (a share of) heap memory or a mapping, which does not move with it and which a shared
        // reference cannot change.
        unsafe impl Gather for $type {
            fn regions(&self, name: &mut dyn FnMut(Region)) {
                name(Region::of(self));
            }
        }
    )*};
}
gather_one!(Vec<u8>, Box<[u8]>, Arc<[u8]>, Rc<[u8]>, Bytes, Buffer, &'static [u8]);

macro_rules! gather_list {
    ($($type:ty),*) => {$(
        // SAFETY: the list of owners may move, what they own does not; a shared list cannot lose one.
        unsafe impl<G: Gather> Gather for $type {
            fn regions(&self, name: &mut dyn FnMut(Region)) {
                for one in self {
                    one.regions(name);
                }
            }
        }
    )*};
}
gather_list!(Vec<G>, VecDeque<G>);

// SAFETY: as for a list: a head and its body.
unsafe impl<A: Gather, B: Gather> Gather for (A, B) {
    fn regions(&self, name: &mut dyn FnMut(Region)) {
        self.0.regions(name);
        self.1.regions(name);
    }
}

// SAFETY: the mapping stays while the buffer is owned, and all of its capacity is initialised.
unsafe impl Scatter for Buffer {
    fn regions(&mut self, name: &mut dyn FnMut(Region)) {
        let len = self.len();
        self.set_len(self.capacity());
        name(Region::of_mut(self));
        self.set_len(len);
    }
}

// SAFETY: the bytes are on the heap and all initialised.
unsafe impl Scatter for Box<[u8]> {
    fn regions(&mut self, name: &mut dyn FnMut(Region)) {
        name(Region::of_mut(self));
    }
}

// SAFETY: as above; only what is initialised is named.
unsafe impl Scatter for Vec<u8> {
    fn regions(&mut self, name: &mut dyn FnMut(Region)) {
        name(Region::of_mut(self));
    }
}

// SAFETY: the list of owners may move, what they own does not.
unsafe impl<S: Scatter> Scatter for Vec<S> {
    fn regions(&mut self, name: &mut dyn FnMut(Region)) {
        for one in self {
            one.regions(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_of(pieces: &[&'static [u8]], from: usize, to: usize) -> Vec<Vec<u8>> {
        let list: Vec<&'static [u8]> = pieces.to_vec();
        let out = cut(|name| list.regions(name), from..to, 8);
        // SAFETY: the regions lie in statics.
        out.iter().map(|r| unsafe { std::slice::from_raw_parts(r.start, r.len) }.to_vec()).collect()
    }

    #[test]
    fn a_list_is_cut_at_both_ends() {
        let pieces: [&'static [u8]; 4] = [b"head", b"", b"abc", b"def"];
        assert_eq!(cut_of(&pieces, 0, 100), [&b"head"[..], b"abc", b"def"]);
        assert_eq!(cut_of(&pieces, 3, 100), [&b"d"[..], b"abc", b"def"]);
        assert_eq!(cut_of(&pieces, 4, 8), [&b"abc"[..], b"d"]);
        assert_eq!(cut_of(&pieces, 6, 7), [&b"c"[..]]);
        assert!(cut_of(&pieces, 10, 100).is_empty());
    }
}

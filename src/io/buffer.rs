//! Aligned buffers for direct IO, recycled through bounded free lists.
//!
//! A buffer is owned by whoever holds it; an operation of a ring takes it and gives it back with its result. The
//! memory comes from the kernel zeroed and is never unmapped while a buffer exists, so every byte is always
//! initialised (though perhaps stale). 2 MiB buffers are aligned to 2 MiB and offered to huge pages.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use monoio::buf::{IoBuf, IoBufMut};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::limits::{BUFFER_MIN, IDLE_BUFFERS};

/// The sizes there are, in bytes.
const CLASSES: [usize; 4] = [BUFFER_MIN, 256 << 10, 1 << 20, 2 << 20];
const HUGE_PAGE: usize = 2 << 20;

struct Memory(NonNull<u8>);

// SAFETY: a mapping belongs to the process; exactly one `Memory` names it.
unsafe impl Send for Memory {}

static IDLE: [Mutex<Vec<Memory>>; CLASSES.len()] = [const { Mutex::new(Vec::new()) }; CLASSES.len()];

/// A buffer whose address and capacity are multiples of 4 KiB.
pub struct Buffer {
    memory: NonNull<u8>,
    class: usize,
    len: usize,
}

// SAFETY: a buffer is plain memory with one owner; shared access only reads.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of at least `size` bytes, empty.
    ///
    /// # Panics
    /// When `size` is larger than the largest class, or the system has no memory left.
    pub fn new(size: usize) -> Self {
        let class = CLASSES.iter().position(|class| *class >= size);
        #[expect(clippy::expect_used, reason = "a programmer's error: sizes come from limits.rs")]
        let class = class.expect("no buffer is that large");
        let idle = IDLE[class].lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = idle.map_or_else(|| map(CLASSES[class]), |memory| memory.0);
        Self { memory, class, len: 0 }
    }

    /// Bytes it can hold.
    pub fn capacity(&self) -> usize {
        CLASSES[self.class]
    }

    /// Sets how many bytes it holds.
    ///
    /// # Panics
    /// When that is more than it can hold.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a buffer cannot hold {len} bytes");
        self.len = len;
    }

    /// Appends bytes that fit.
    pub fn extend(&mut self, bytes: &[u8]) {
        let start = self.len;
        self.set_len(start + bytes.len());
        self[start..].copy_from_slice(bytes);
    }

    /// Lengthens it with zeros to a multiple of `alignment`.
    pub fn pad(&mut self, alignment: usize) {
        let start = self.len;
        self.set_len(start.next_multiple_of(alignment));
        self[start..].fill(0);
    }
}

fn map(size: usize) -> NonNull<u8> {
    let huge = size >= HUGE_PAGE;
    let whole = if huge { size + HUGE_PAGE } else { size };
    // SAFETY: a fresh anonymous mapping touches no memory of ours.
    let mapped = unsafe {
        mmap_anonymous(ptr::null_mut(), whole, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    #[expect(clippy::expect_used, reason = "like any allocation")]
    let start = mapped.expect("the system has no memory left").cast::<u8>();
    let lead = if huge { start.align_offset(HUGE_PAGE) } else { 0 };
    // SAFETY: lead + size <= whole, all inside the mapping just made; the ends cut off are page-aligned and unused.
    unsafe {
        let memory = start.add(lead);
        if huge {
            if lead > 0 {
                let _ = munmap(start.cast(), lead);
            }
            if whole > lead + size {
                let _ = munmap(memory.add(size).cast(), whole - lead - size);
            }
            // Where the system has no huge pages, ordinary ones do.
            let _ = madvise(memory.cast(), size, Advice::LinuxHugepage);
        }
        NonNull::new_unchecked(memory)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let size = self.capacity();
        let mut idle = IDLE[self.class].lock().unwrap_or_else(PoisonError::into_inner);
        if (idle.len() + 1) * size <= IDLE_BUFFERS {
            idle.push(Memory(self.memory));
        } else {
            drop(idle);
            // SAFETY: the buffer was the only owner of this mapping of `size` bytes.
            let _ = unsafe { munmap(self.memory.as_ptr().cast(), size) };
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes of the mapping, initialised since they came from the kernel.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {})", self.len, self.capacity())
    }
}

// SAFETY: the mapping does not move while the buffer is owned.
unsafe impl IoBuf for Buffer {
    fn read_ptr(&self) -> *const u8 {
        self.memory.as_ptr()
    }
    fn bytes_init(&self) -> usize {
        self.len
    }
}

// SAFETY: as above; all of the capacity is initialised memory.
unsafe impl IoBufMut for Buffer {
    fn write_ptr(&mut self) -> *mut u8 {
        self.memory.as_ptr()
    }
    fn bytes_total(&mut self) -> usize {
        self.capacity()
    }
    unsafe fn set_init(&mut self, pos: usize) {
        self.len = self.len.max(pos);
    }
}

/// A buffer that is full: it may be written and hashed at once, and can be filled again when both are done.
#[derive(Clone, Debug)]
pub struct Shared(Rc<Buffer>);

impl Shared {
    /// Shares a buffer.
    pub fn new(buffer: Buffer) -> Self {
        Self(Rc::new(buffer))
    }

    /// The buffer, if nobody else holds it.
    pub fn into_inner(self) -> Option<Buffer> {
        Rc::into_inner(self.0)
    }
}

impl Deref for Shared {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

// SAFETY: the mapping neither moves nor changes while the buffer is shared.
unsafe impl IoBuf for Shared {
    fn read_ptr(&self) -> *const u8 {
        self.0.read_ptr()
    }
    fn bytes_init(&self) -> usize {
        self.0.bytes_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        for size in [1, BUFFER_MIN, BUFFER_MIN + 1, 1 << 20, 2 << 20] {
            let mut buffer = Buffer::new(size);
            assert!(buffer.capacity() >= size && buffer.is_empty());
            assert_eq!(buffer.as_ptr().align_offset(if size > 1 << 20 { HUGE_PAGE } else { 4096 }), 0);
            buffer.extend(b"abc");
            buffer.pad(4096);
            assert_eq!((buffer.len(), &buffer[..4]), (4096, &b"abc\0"[..]));
        }
    }
}

//! The memory of the block cache: aligned slots in two sizes, on huge pages where the system gives them.
//!
//! Memory comes from the kernel in extents of 64 MiB, which are cut into slots of 2 MiB and these, on demand, into
//! slots of 64 KiB. It is never given back, so that an extent can be registered with a ring once and for all; what bounds it is
//! the bound of those who take slots: the cache's weight, and what the cores' responses may hold. A slot that was
//! cut up stays so. Slots come zeroed at first and then with whatever they held: who reads one knows what is good.
//!
//! Where memory is registered, a thread of its own does that, since it takes milliseconds an extent; until then, and where it
//! fails, slots are used unregistered.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use super::bulk::registry::Registry;
use crate::limits::{EXTENT_SIZE, PART_SIZE, SMALL_BLOCK};

const HUGE_PAGE: usize = 2 << 20;

/// How large a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// 2 MiB: a part of a blob.
    Part,
    /// 64 KiB, for scattered small ranges.
    Small,
}

impl Size {
    /// Bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Part => PART_SIZE as usize,
            Self::Small => SMALL_BLOCK as usize,
        }
    }
}

/// An extent: never unmapped.
struct Extent {
    start: NonNull<u8>,
    /// Its index in the registry, or [`UNREGISTERED`].
    index: AtomicU32,
}

const UNREGISTERED: u32 = u32::MAX;

// SAFETY: an address and an atomic; what is there belongs to the owners of its slots.
unsafe impl Send for Extent {}
// SAFETY: as above.
unsafe impl Sync for Extent {}

/// A slot that nobody owns.
#[derive(Clone, Copy)]
struct Memory {
    start: NonNull<u8>,
    extent: &'static Extent,
}

// SAFETY: an address; whoever holds it as the only one may use what is there.
unsafe impl Send for Memory {}

#[derive(Default)]
struct Free {
    parts: Vec<Memory>,
    small: Vec<Memory>,
    extents: usize,
    /// To the thread that registers, where there is one.
    register: Option<mpsc::Sender<&'static Extent>>,
}

/// All slots.
pub struct Arena {
    free: Mutex<Free>,
}

impl Arena {
    /// An arena whose memory is registered with `registry`.
    ///
    /// # Errors
    /// When the thread that registers cannot be started.
    pub fn new(registry: &Arc<Registry>) -> std::io::Result<Arc<Self>> {
        let mut free = Free::default();
        if !registry.is_none() {
            let (sender, extents) = mpsc::channel();
            let registry = Arc::clone(registry);
            let run = move || register(&registry, &extents);
            std::thread::Builder::new().name("register".to_owned()).spawn(run)?;
            free.register = Some(sender);
        }
        Ok(Arc::new(Self { free: Mutex::new(free) }))
    }

    /// Takes a slot.
    ///
    /// # Panics
    /// When the system has no address space left.
    pub fn take(self: &Arc<Self>, size: Size) -> Slot {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = match size {
            Size::Part => free.part(),
            Size::Small => free.small(),
        };
        Slot { memory, size, arena: Arc::clone(self) }
    }

    /// Bytes of address space that were mapped so far.
    pub fn mapped(&self) -> usize {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).extents * EXTENT_SIZE
    }
}

/// Registers extents until the arena is gone.
fn register(registry: &Registry, extents: &mpsc::Receiver<&'static Extent>) {
    for extent in extents {
        // SAFETY: an extent is never unmapped.
        if let Some(index) = unsafe { registry.add(extent.start.as_ptr(), EXTENT_SIZE) } {
            extent.index.store(u32::from(index), Ordering::Release);
        }
    }
}

impl Free {
    fn part(&mut self) -> Memory {
        loop {
            if let Some(memory) = self.parts.pop() {
                return memory;
            }
            let extent = map();
            self.extents += 1;
            if let Some(register) = &self.register {
                // The thread lives as long as this sender.
                let _ = register.send(extent);
            }
            self.parts.extend(cut(Memory { start: extent.start, extent }, EXTENT_SIZE, Size::Part));
        }
    }

    fn small(&mut self) -> Memory {
        loop {
            if let Some(memory) = self.small.pop() {
                return memory;
            }
            let part = self.part();
            self.small.extend(cut(part, Size::Part.bytes(), Size::Small));
        }
    }
}

/// Cuts memory into slots; the first one comes last, so that it is taken first.
fn cut(memory: Memory, len: usize, size: Size) -> impl Iterator<Item = Memory> {
    (0..len / size.bytes()).rev().map(move |i| {
        // SAFETY: every offset is inside of the `len` bytes.
        let start = unsafe { memory.start.add(i * size.bytes()) };
        Memory { start, extent: memory.extent }
    })
}

fn map() -> &'static Extent {
    // SAFETY: a fresh anonymous mapping touches no memory of ours.
    let mapped = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            EXTENT_SIZE + HUGE_PAGE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    };
    #[expect(clippy::expect_used, reason = "like any allocation")]
    let start = mapped.expect("the system has no memory left").cast::<u8>();
    // SAFETY: the aligned extent lies inside of the mapping; what is cut off its ends is never touched and costs nothing.
    unsafe {
        let extent = start.add(start.align_offset(HUGE_PAGE));
        // Where the system has no huge pages, ordinary ones do.
        let _ = madvise(extent.cast(), EXTENT_SIZE, Advice::LinuxHugepage);
        let start = NonNull::new_unchecked(extent);
        Box::leak(Box::new(Extent { start, index: AtomicU32::new(UNREGISTERED) }))
    }
}

/// Some memory of an arena, with one owner; it goes back when it is dropped.
pub struct Slot {
    memory: Memory,
    size: Size,
    arena: Arc<Arena>,
}

// SAFETY: plain memory that only the owner of the slot hands out.
unsafe impl Send for Slot {}
// SAFETY: as above; a shared slot gives its address only.
unsafe impl Sync for Slot {}

impl Slot {
    /// Its size.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Its first byte, aligned to its size.
    pub fn start(&self) -> NonNull<u8> {
        self.memory.start
    }

    /// The registered buffer it lies in, if any.
    pub fn registered(&self) -> Option<u16> {
        u16::try_from(self.memory.extent.index.load(Ordering::Acquire)).ok()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut free = self.arena.free.lock().unwrap_or_else(PoisonError::into_inner);
        match self.size {
            Size::Part => free.parts.push(self.memory),
            Size::Small => free.small.push(self.memory),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_aligned_and_come_back() {
        let arena = Arena::new(&Arc::new(Registry::none())).unwrap();
        let address = |slot: &Slot| slot.start().as_ptr() as usize;
        let slots: Vec<Slot> =
            (0..40).map(|i| arena.take(if i % 2 == 0 { Size::Part } else { Size::Small })).collect();
        for slot in &slots {
            assert_eq!(address(slot) % slot.size().bytes(), 0);
        }
        let mut spans: Vec<_> = slots.iter().map(|s| (address(s), address(s) + s.size().bytes())).collect();
        spans.sort_unstable();
        assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "no two overlap");
        assert_eq!(arena.mapped(), EXTENT_SIZE);
        drop(slots);
        let again: Vec<Slot> = (0..31).map(|_| arena.take(Size::Part)).collect();
        assert_eq!(
            (again.len(), arena.mapped()),
            (31, EXTENT_SIZE),
            "one part is cut up, the others came back"
        );
    }
}

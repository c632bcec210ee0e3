//! The memory of the block cache: aligned slots in two sizes, on huge pages where the system gives them.
//!
//! Memory comes from the kernel in extents of 32 MiB, which are cut into slots of 2 MiB and these, on demand, into
//! slots of 64 KiB. It is never given back, so that an extent can be registered with a ring once and for all; what bounds it is
//! the bound of those who take slots: the cache's weight, and what the cores' responses may hold. A slot that was
//! cut up stays so. Slots come zeroed at first and then with whatever they held: who reads one knows what is good.
//!
//! A thread of the arena's own stays an extent ahead of what is taken: it has the kernel fill in the pages, which means to
//! zero them, and registers them where that is wanted. Both take milliseconds an extent, on which no core shall wait. Should
//! slots run out meanwhile, more are mapped at once, and used as they are.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use super::bulk::registry::Registry;
use crate::limits::{EXTENT_SIZE, PART_SIZE, PARTS_AHEAD, SMALL_BLOCK};

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
    /// An extent was asked of the thread and has not come yet.
    asked: bool,
}

/// All slots.
pub struct Arena {
    free: Mutex<Free>,
    /// Asks the thread for an extent.
    ask: mpsc::SyncSender<()>,
}

impl Arena {
    /// An arena whose memory is registered with `registry`.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn new(registry: &Arc<Registry>) -> std::io::Result<Arc<Self>> {
        let (ask, asked) = mpsc::sync_channel(1);
        let arena = Arc::new(Self { free: Mutex::default(), ask });
        let (registry, weak) = (Arc::clone(registry), Arc::downgrade(&arena));
        let run = move || prepare(&weak, &registry, &asked);
        std::thread::Builder::new().name("arena".to_owned()).spawn(run)?;
        Ok(arena)
    }

    /// Takes a slot.
    ///
    /// # Panics
    /// When the system has no address space left.
    pub fn take(self: &Arc<Self>, size: Size) -> Slot {
        let mut free = self.lock();
        let memory = match size {
            Size::Part => free.part(),
            Size::Small => free.small(),
        };
        if free.parts.len() < PARTS_AHEAD && !free.asked {
            // Full or closed only when the thread has been asked, or could not go on.
            free.asked = self.ask.try_send(()).is_ok();
        }
        drop(free);
        Slot { memory, size, arena: Arc::clone(self) }
    }

    /// Bytes of address space that were mapped so far.
    pub fn mapped(&self) -> usize {
        self.lock().extents * EXTENT_SIZE
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prepares an extent for each time it is asked, until the arena is gone.
fn prepare(arena: &Weak<Arena>, registry: &Registry, asked: &mpsc::Receiver<()>) {
    while asked.recv().is_ok() {
        let extent = map();
        // SAFETY: all of the extent is ours, and nobody uses it yet. Where this fails, the pages come with their first use.
        let _ = unsafe { madvise(extent.start.as_ptr().cast(), EXTENT_SIZE, Advice::LinuxPopulateWrite) };
        // SAFETY: an extent is never unmapped.
        if let Some(index) = unsafe { registry.add(extent.start.as_ptr(), EXTENT_SIZE) } {
            extent.index.store(u32::from(index), Ordering::Release);
        }
        let Some(arena) = arena.upgrade() else { return };
        let mut free = arena.lock();
        free.add(extent);
        free.asked = false;
    }
}

impl Free {
    fn add(&mut self, extent: &'static Extent) {
        self.extents += 1;
        self.parts.extend(cut(Memory { start: extent.start, extent }, EXTENT_SIZE, Size::Part));
    }

    fn part(&mut self) -> Memory {
        loop {
            if let Some(memory) = self.parts.pop() {
                return memory;
            }
            self.add(map());
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
        let mut free = self.arena.lock();
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
    fn slots_are_aligned_apart_and_come_back() {
        let arena = Arena::new(&Arc::new(Registry::none())).unwrap();
        let address = |slot: &Slot| slot.start().as_ptr() as usize;
        let take = |count: usize| -> Vec<Slot> {
            let size = |i| if i % 2 == 0 { Size::Part } else { Size::Small };
            (0..count).map(|i| arena.take(size(i))).collect()
        };
        let slots = take(40);
        for slot in &slots {
            assert_eq!(address(slot) % slot.size().bytes(), 0);
        }
        let spans = |slots: &[Slot]| -> Vec<(usize, usize)> {
            let mut spans: Vec<_> =
                slots.iter().map(|slot| (address(slot), address(slot) + slot.size().bytes())).collect();
            spans.sort_unstable();
            spans
        };
        assert!(spans(&slots).windows(2).all(|pair| pair[0].1 <= pair[1].0), "no two overlap");
        drop(slots);
        // Whatever the thread adds meanwhile: what came back is used again, so the arena stays small.
        for _ in 0..100 {
            let again = take(40);
            assert!(spans(&again).windows(2).all(|pair| pair[0].1 <= pair[1].0));
        }
        assert!(arena.mapped() <= 5 * EXTENT_SIZE, "{} bytes", arena.mapped());
    }
}

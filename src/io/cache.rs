//! The block cache: verified stretches of unchanging byte sequences in memory, shared by all cores.
//!
//! A block is a slot of the [arena](super::arena) of which some granules (16 KiB) are good; the others are read when
//! somebody wants them. Bounded by weight, each size of block by itself so that neither can drive the other out, and scan-resistant (the
//! policy is quick_cache's S3-FIFO-like CLOCK). Concurrent misses of a granule coalesce: one task reads, the others wait
//! for it; if it fails or goes away, the next one takes over. A good granule is never changed; the memory of a block that
//! was evicted goes back when the last response that sends from it lets go.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_channel::oneshot;
use monoio::buf::{IoBuf, IoBufMut};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::arena::{Arena, Size, Slot};
use super::bulk::memory::{Gather, Region, Scatter};
use super::bulk::registry::Registry;
use crate::limits::GRANULE_SIZE;

const GRANULE: usize = GRANULE_SIZE as usize;

/// Names a stretch of an unchanging sequence of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Which sequence.
    pub owner: u128,
    /// Where the stretch begins.
    pub start: u64,
}

/// A set of granules of one block: bit i stands for granule i.
type Granules = u128;

/// The granules that bytes `range` of a block lie in.
fn granules(range: &Range<usize>) -> Granules {
    let (first, end) = (range.start / GRANULE, range.end.div_ceil(GRANULE));
    let below = |n: usize| if n >= 128 { Granules::MAX } else { (1 << n) - 1 };
    below(end) & !below(first)
}

#[derive(Default)]
struct Fill {
    good: Granules,
    loading: Granules,
    waiting: Vec<oneshot::Sender<()>>,
}

/// A stretch, as far as it was read.
pub struct Block {
    slot: Slot,
    fill: Mutex<Fill>,
}

/// What is to be done for some bytes of a block.
enum Claim {
    Ready(BlockSlice),
    Load(Loading),
    Wait(oneshot::Receiver<()>),
}

impl Block {
    fn fill(&self) -> std::sync::MutexGuard<'_, Fill> {
        self.fill.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes `range`, if all of them are good.
    fn slice(self: &Arc<Self>, range: &Range<usize>) -> Option<BlockSlice> {
        let wanted = granules(range);
        (self.fill().good & wanted == wanted).then(|| self.good_slice(range))
    }

    fn good_slice(self: &Arc<Self>, range: &Range<usize>) -> BlockSlice {
        BlockSlice { block: Arc::clone(self), start: range.start, end: range.end }
    }

    fn claim(self: &Arc<Self>, range: &Range<usize>) -> Claim {
        let mut fill = self.fill();
        let missing = granules(range) & !fill.good;
        if missing == 0 {
            drop(fill);
            return Claim::Ready(self.good_slice(range));
        }
        let free = missing & !fill.loading;
        if free == 0 {
            let (sender, turn) = oneshot::channel();
            fill.waiting.push(sender);
            return Claim::Wait(turn);
        }
        let first = free.trailing_zeros();
        let run = (free >> first).trailing_ones();
        let (first, end) = (first as usize, (first + run) as usize);
        let granules = granules(&(first * GRANULE..end * GRANULE));
        fill.loading |= granules;
        Claim::Load(Loading { block: Arc::clone(self), first, end, granules })
    }
}

/// Granules of a block that this owner alone reads. If it goes away before they are good, somebody else may.
pub struct Loading {
    block: Arc<Block>,
    first: usize,
    end: usize,
    granules: Granules,
}

impl Loading {
    /// The bytes of the block that are to be read: whole granules.
    pub fn range(&self) -> Range<usize> {
        self.first * GRANULE..self.end * GRANULE
    }

    /// The first `len` bytes, as they are now.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn bytes(&self, len: usize) -> &[u8] {
        assert!(len <= self.range().len(), "{len} bytes of {:?}", self.range());
        // SAFETY: inside of the slot, initialised since it came from the kernel, and nobody else's: the granules are not good
        // yet and marked as being loaded.
        unsafe { std::slice::from_raw_parts(self.start(), len) }
    }

    /// Puts other bytes in place of those from byte `at` on.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        assert!(end <= self.range().len(), "{at}..{end} of {:?}", self.range());
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start().add(at), bytes.len()) }.copy_from_slice(bytes);
    }

    /// Ends with good bytes.
    pub fn commit(self) {
        self.block.fill().good |= self.granules;
        // The rest is what every end does.
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: the granules lie inside of the slot.
        unsafe { self.block.slot.start().add(self.first * GRANULE).as_ptr() }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        let waiting = {
            let mut fill = self.block.fill();
            fill.loading &= !self.granules;
            std::mem::take(&mut fill.waiting)
        };
        for turn in waiting {
            // Who no longer waits is not missed.
            let _ = turn.send(());
        }
    }
}

// SAFETY: the slot does not move while the block is held, all of it is initialised memory, and only this owner
// touches these bytes.
unsafe impl Scatter for Loading {
    fn regions(&mut self, name: &mut dyn FnMut(Region)) {
        let bytes = self.range().len();
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start(), bytes) };
        name(Region::of_mut(bytes).registered(self.block.slot.registered()));
    }
}

// SAFETY: the slot does not move while the block is held, and only this owner touches these bytes.
unsafe impl IoBuf for Loading {
    fn read_ptr(&self) -> *const u8 {
        self.start()
    }
    fn bytes_init(&self) -> usize {
        self.range().len()
    }
}

// SAFETY: as above; all of it is initialised memory.
unsafe impl IoBufMut for Loading {
    fn write_ptr(&mut self) -> *mut u8 {
        self.start()
    }
    fn bytes_total(&mut self) -> usize {
        self.range().len()
    }
    unsafe fn set_init(&mut self, _pos: usize) {}
}

#[derive(Clone)]
struct BySlot;

impl Weighter<Key, Arc<Block>> for BySlot {
    fn weight(&self, _key: &Key, block: &Arc<Block>) -> u64 {
        block.slot.size().bytes() as u64
    }
}

type Blocks = Cache<Key, Arc<Block>, BySlot>;

/// The cache.
pub struct BlockCache {
    arena: Arc<Arena>,
    parts: Blocks,
    small: Blocks,
    loaded: AtomicU64,
}

impl BlockCache {
    /// A cache of at most `bytes`, a quarter of them for small blocks, in memory that is registered with `registry`.
    ///
    /// # Errors
    /// Those of [`Arena::new`].
    pub fn new(bytes: u64, registry: &Arc<Registry>) -> std::io::Result<Self> {
        let blocks = |bytes: u64, size: Size| {
            let items = usize::try_from(bytes / size.bytes() as u64).unwrap_or(usize::MAX).max(16);
            Cache::with_weighter(items, bytes, BySlot)
        };
        let small = bytes / 4;
        Ok(Self {
            arena: Arena::new(registry)?,
            parts: blocks(bytes - small, Size::Part),
            small: blocks(small, Size::Small),
            loaded: AtomicU64::new(0),
        })
    }

    /// Bytes that its blocks occupy.
    pub fn weight(&self) -> u64 {
        self.parts.weight() + self.small.weight()
    }

    /// Bytes that were read into them so far.
    pub fn loaded(&self) -> u64 {
        self.loaded.load(Ordering::Relaxed)
    }

    fn blocks(&self, size: Size) -> &Blocks {
        match size {
            Size::Part => &self.parts,
            Size::Small => &self.small,
        }
    }

    /// Whether it has a block, however little of that is good.
    pub fn has(&self, size: Size, key: &Key) -> bool {
        self.blocks(size).get(key).is_some()
    }

    /// The bytes `range` of a block, if they are there.
    pub fn peek(&self, size: Size, key: &Key, range: &Range<usize>) -> Option<BlockSlice> {
        self.blocks(size).get(key)?.slice(range)
    }

    /// The bytes `range` of a block, those that are missing read and verified by `load`.
    ///
    /// # Errors
    /// Those of `load`; the next one who asks loads again.
    pub async fn get<E>(
        &self,
        size: Size,
        key: Key,
        range: Range<usize>,
        load: impl AsyncFn(Loading) -> Result<(), E>,
    ) -> Result<BlockSlice, E> {
        let new = || Arc::new(Block { slot: self.arena.take(size), fill: Mutex::default() });
        let block = match self.blocks(size).get_or_insert_with(&key, || Ok::<_, ()>(new())) {
            Ok(block) => block,
            Err(()) => new(),
        };
        loop {
            match block.claim(&range) {
                Claim::Ready(slice) => return Ok(slice),
                Claim::Load(loading) => {
                    self.loaded.fetch_add(loading.range().len() as u64, Ordering::Relaxed);
                    load(loading).await?;
                }
                // Whatever came of it: look again.
                Claim::Wait(turn) => drop(turn.await),
            }
        }
    }
}

/// Some good bytes of a block, as an operation of a ring holds them.
#[derive(Clone)]
pub struct BlockSlice {
    block: Arc<Block>,
    start: usize,
    end: usize,
}

impl BlockSlice {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: inside of the slot, and good: nobody changes them.
        unsafe {
            let start = self.block.slot.start().add(self.start);
            std::slice::from_raw_parts(start.as_ptr(), self.end - self.start)
        }
    }
}

// SAFETY: a block does not move or change while it is shared, and the slice holds a share.
unsafe impl Gather for BlockSlice {
    fn regions(&self, name: &mut dyn FnMut(Region)) {
        name(Region::of(self.bytes()).registered(self.block.slot.registered()));
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const KEY: Key = Key { owner: 1, start: 0 };

    fn new_cache(bytes: u64) -> BlockCache {
        BlockCache::new(bytes, &Arc::new(Registry::none())).unwrap()
    }

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn ready<T>(future: impl Future<Output = T>) -> T {
        match poll(pin!(future)) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it should not wait"),
        }
    }

    /// Loads by filling with a byte.
    fn filled(byte: u8) -> impl AsyncFn(Loading) -> Result<(), ()> {
        async move |mut loading: Loading| {
            // SAFETY: the bytes are this owner's.
            unsafe { loading.write_ptr().write_bytes(byte, loading.bytes_total()) };
            loading.commit();
            Ok(())
        }
    }

    #[test]
    fn only_what_is_missing_is_loaded() {
        let cache = new_cache(64 << 20);
        let loads = std::cell::RefCell::new(Vec::new());
        let get = |range: Range<usize>, byte| {
            let loads = &loads;
            let load = filled(byte);
            ready(cache.get(Size::Part, KEY, range, async |loading: Loading| {
                loads.borrow_mut().push(loading.range());
                load(loading).await
            }))
        };
        assert_eq!(get(GRANULE + 1..2 * GRANULE, 7).unwrap().bytes(), [7; GRANULE - 1]);
        assert_eq!(get(0..3 * GRANULE + 1, 8).unwrap().bytes()[GRANULE..2 * GRANULE], [7; GRANULE]);
        assert_eq!(*loads.borrow(), [GRANULE..2 * GRANULE, 0..GRANULE, 2 * GRANULE..4 * GRANULE]);
        assert!(cache.peek(Size::Part, &KEY, &(0..4 * GRANULE)).is_some());
        assert!(cache.peek(Size::Part, &KEY, &(0..4 * GRANULE + 1)).is_none());
        assert!(cache.peek(Size::Small, &KEY, &(0..1)).is_none(), "the sizes are apart");
    }

    #[test]
    fn misses_of_one_granule_coalesce_and_the_next_takes_over_from_a_reader_that_goes_away() {
        let cache = new_cache(64 << 20);
        let never = async |loading: Loading| {
            std::future::pending::<()>().await;
            drop(loading);
            Ok::<(), ()>(())
        };
        let mut first = Box::pin(cache.get(Size::Small, KEY, 0..10, never));
        assert!(poll(first.as_mut()).is_pending());
        let mut second = Box::pin(cache.get(Size::Small, KEY, 5..20, filled(3)));
        assert!(poll(second.as_mut()).is_pending(), "the granule is being read");
        drop(first);
        let Poll::Ready(slice) = poll(second.as_mut()) else { panic!("the second reads now") };
        assert_eq!(slice.unwrap().bytes(), [3; 15]);
    }

    #[test]
    fn a_failed_load_fails_its_reader_and_leaves_nothing_good() {
        let cache = new_cache(64 << 20);
        let failing = async |_: Loading| Err("damaged");
        assert_eq!(ready(cache.get(Size::Part, KEY, 0..1, failing)).err(), Some("damaged"));
        assert!(cache.peek(Size::Part, &KEY, &(0..1)).is_none());
        assert_eq!(ready(cache.get(Size::Part, KEY, 0..1, filled(9))).unwrap().bytes(), [9]);
    }

    #[test]
    fn an_evicted_block_keeps_its_bytes_while_somebody_sends_them() {
        let cache = new_cache(16 << 20);
        let held = ready(cache.get(Size::Part, KEY, 0..GRANULE, filled(1))).unwrap();
        for start in 1..64 {
            let key = Key { owner: 2, start };
            ready(cache.get(Size::Part, key, 0..GRANULE, filled(2))).unwrap();
        }
        assert!(cache.weight() <= 16 << 20);
        assert_eq!(held.bytes(), [1; GRANULE]);
    }

    /// The byte that a sequence has at an offset.
    fn byte(owner: u128, at: usize) -> u8 {
        (owner as usize * 31 + at / 512) as u8
    }

    #[test]
    fn many_threads_and_evictions_never_show_other_bytes() {
        let cache = new_cache(8 << 20);
        let run = |seed: u64| {
            let mut state = seed;
            let mut random = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            let mut held = std::collections::VecDeque::new();
            for _ in 0..3000 {
                let size = if random(2) == 0 { Size::Part } else { Size::Small };
                let key = Key { owner: random(40) as u128, start: 0 };
                let start = random(size.bytes() - 1);
                let end = (start + 1 + random(100_000)).min(size.bytes());
                let load = async |mut loading: Loading| {
                    let range = loading.range();
                    if end % 7 == 0 {
                        return Err(());
                    }
                    for (i, at) in range.step_by(512).enumerate() {
                        // SAFETY: the bytes are this owner's, and 512 divides a granule.
                        unsafe { loading.write_ptr().add(i * 512).write_bytes(byte(key.owner, at), 512) };
                    }
                    loading.commit();
                    Ok(())
                };
                // Who waits for another thread's load spins here: it is short.
                let mut get = Box::pin(cache.get(size, key, start..end, load));
                let got = loop {
                    if let Poll::Ready(got) = poll(get.as_mut()) {
                        break got;
                    }
                    std::thread::yield_now();
                };
                let Ok(slice) = got else { continue };
                held.push_back((key.owner, start, slice));
                if held.len() > 4 {
                    let (owner, start, slice) = held.pop_front().unwrap();
                    let good = slice.bytes().iter().enumerate().all(|(i, b)| *b == byte(owner, start + i));
                    assert!(good, "owner {owner} at {start}");
                }
            }
        };
        std::thread::scope(|scope| {
            let run = &run;
            (1..=4).for_each(|seed| drop(scope.spawn(move || run(seed))));
        });
        assert!(cache.weight() <= 8 << 20);
    }
}

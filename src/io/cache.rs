//! The block cache: verified stretches of files in memory, shared by all cores.
//!
//! Bounded by weight and scan-resistant (the policy is quick_cache's S3-FIFO-like CLOCK). Concurrent misses of one
//! block coalesce: one task reads, the others wait for it; if it goes away, the next one takes over. A block is never
//! changed once it is in; its memory goes back when the last response that sends from it lets go.

use std::sync::Arc;

use monoio::buf::IoBuf;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::buffer::Buffer;

/// Names a stretch of an unchanging sequence of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Which sequence.
    pub owner: u128,
    /// Where the stretch begins.
    pub start: u64,
    /// Its size class: stretches of different classes may overlap.
    pub class: u32,
}

/// A verified stretch.
#[derive(Debug)]
pub struct Block(Buffer);

impl Block {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Clone)]
struct ByCapacity;

impl Weighter<Key, Arc<Block>> for ByCapacity {
    fn weight(&self, _key: &Key, block: &Arc<Block>) -> u64 {
        block.0.capacity() as u64
    }
}

/// The cache.
pub struct BlockCache {
    blocks: Cache<Key, Arc<Block>, ByCapacity>,
}

impl BlockCache {
    /// A cache of at most `bytes`, for blocks of about `block` bytes.
    pub fn new(bytes: u64, block: u64) -> Self {
        let items = usize::try_from(bytes / block).unwrap_or(usize::MAX).max(16);
        Self { blocks: Cache::with_weighter(items, bytes, ByCapacity) }
    }

    /// Bytes that its blocks occupy.
    pub fn weight(&self) -> u64 {
        self.blocks.weight()
    }

    /// A block that is there.
    pub fn peek(&self, key: &Key) -> Option<Arc<Block>> {
        self.blocks.get(key)
    }

    /// The block of `key`, read and verified by `load` where it is not there.
    ///
    /// # Errors
    /// Those of `load`; the next one who asks loads again.
    pub async fn get<E>(
        &self,
        key: Key,
        load: impl AsyncFnOnce() -> Result<Buffer, E>,
    ) -> Result<Arc<Block>, E> {
        match self.blocks.get_value_or_guard_async(&key).await {
            Ok(block) => Ok(block),
            Err(guard) => {
                let block = Arc::new(Block(load().await?));
                // A block that was removed meanwhile is still good for who asked.
                let _ = guard.insert(Arc::clone(&block));
                Ok(block)
            }
        }
    }
}

/// Some bytes of a block, as an operation of a ring holds them.
#[derive(Clone, Debug)]
pub struct BlockSlice {
    block: Arc<Block>,
    start: usize,
    end: usize,
}

impl BlockSlice {
    /// The bytes `start..end` of a block.
    ///
    /// # Panics
    /// When the block has no such bytes.
    pub fn new(block: Arc<Block>, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= block.bytes().len(), "{start}..{end} of {}", block.bytes().len());
        Self { block, start, end }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.block.bytes()[self.start..self.end]
    }

    /// Without its first `n` bytes.
    pub fn advance(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
    }
}

#[expect(unsafe_code, reason = "memory shared with the kernel")]
// SAFETY: a block does not move or change while it is shared, and the slice holds a share.
unsafe impl IoBuf for BlockSlice {
    fn read_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }
    fn bytes_init(&self) -> usize {
        self.end - self.start
    }
}

//! Hashing on a core beside everything else it does: in slices, several uploads at a time.
//!
//! A buffer of 2 MiB takes a millisecond to hash, in which nobody else would be served. So buffers wait in a queue; one task takes a
//! slice of each of the first few, all at once (see [`sha256`](crate::base::sha256)), gives way to what else is ready, and
//! goes on. The queue is as long as there are uploads with a full buffer, which their budget bounds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use futures_channel::oneshot;

use super::buffer::Shared;
use super::turn::Turn;
use crate::base::hashes::{Hashes, update_together};
use crate::base::sha256::LANES;
use crate::limits::{BUFFER_MIN, GRANULE_SIZE, HASH_SLICE};

/// A buffer that waits to be hashed, or is being hashed.
struct Job {
    hashes: Hashes,
    buffer: Shared,
    /// What is hashed, and what will have been: whole granules.
    at: usize,
    end: usize,
    done: oneshot::Sender<Hashes>,
}

const _: () = assert!(HASH_SLICE / LANES >= GRANULE_SIZE as usize, "every buffer of a slice gets on");

struct State {
    queue: RefCell<VecDeque<Job>>,
    turn: Turn,
}

/// The hashing of one core.
#[derive(Clone)]
pub struct Hashing(Rc<State>);

impl Hashing {
    /// # Errors
    /// Those of opening `/dev/null`.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Rc::new(State { queue: RefCell::default(), turn: Turn::new()? })))
    }

    /// Takes the first `end` bytes of `buffer`, whole granules, into `hashes`.
    fn start(&self, hashes: Hashes, buffer: Shared, end: usize) -> oneshot::Receiver<Hashes> {
        let (done, pending) = oneshot::channel();
        let mut queue = self.0.queue.borrow_mut();
        queue.push_back(Job { hashes, buffer, at: 0, end, done });
        if queue.len() == 1 {
            monoio::spawn(self.clone().work());
        }
        pending
    }

    /// Hashes until the queue is empty.
    async fn work(self) {
        while slice(&mut self.0.queue.borrow_mut()) {
            self.0.turn.pass().await;
        }
    }
}

/// The hashes of one upload.
pub struct Hasher {
    hashing: Hashing,
    progress: Progress,
}

/// Where the hashes are.
enum Progress {
    Here(Hashes),
    /// In the queue, with a buffer.
    Away(oneshot::Receiver<Hashes>),
}

impl Hasher {
    /// Begins with `hashes`.
    pub fn new(hashing: Hashing, hashes: Hashes) -> Self {
        Self { hashing, progress: Progress::Here(hashes) }
    }

    /// The hashes once everything is in them.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn settle(&mut self) -> io::Result<&mut Hashes> {
        if let Progress::Away(pending) = &mut self.progress {
            self.progress = Progress::Here(pending.await.map_err(|_| stopped())?);
        }
        match &mut self.progress {
            Progress::Here(hashes) => Ok(hashes),
            Progress::Away(_) => Err(stopped()),
        }
    }

    /// Takes the first `end` bytes of `buffer`, whole granules: a small buffer at once, a large one in the queue, for which
    /// [`Hasher::settle`] waits. At most one buffer is in the queue, so this waits for the one before.
    ///
    /// # Errors
    /// When the core has stopped.
    pub async fn update(&mut self, buffer: Shared, end: usize) -> io::Result<()> {
        let hashes = self.settle().await?;
        if end <= BUFFER_MIN {
            hashes.update(&buffer[..end]);
            return Ok(());
        }
        let hashes = std::mem::take(hashes);
        self.progress = Progress::Away(self.hashing.start(hashes, buffer, end));
        Ok(())
    }
}

fn stopped() -> io::Error {
    io::Error::other("the core has stopped")
}

/// Hashes a slice of the first buffers of the queue, as many as there are lanes for; whether there is more to do.
fn slice(queue: &mut VecDeque<Job>) -> bool {
    let mut lanes = 0;
    let mut jobs = Vec::with_capacity(LANES);
    for job in queue.iter_mut() {
        if lanes + job.hashes.lanes() > LANES {
            break;
        }
        lanes += job.hashes.lanes();
        jobs.push(job);
    }
    // A lone stream is hashed at half the speed of several.
    let share = HASH_SLICE / lanes.max(2);
    let share = share - share % GRANULE_SIZE as usize;
    let mut next = Vec::with_capacity(LANES);
    for job in &mut jobs {
        let from = job.at;
        job.at = job.end.min(from + share);
        next.push((&mut job.hashes, &job.buffer[from..job.at]));
    }
    update_together(&mut next);
    while let Some(done) = queue.iter().position(|job| job.at == job.end)
        && let Some(Job { hashes, buffer, done, .. }) = queue.remove(done)
    {
        // First the buffer, so that it is free when its upload goes on; an upload that has failed does not listen.
        drop(buffer);
        let _ = done.send(hashes);
    }
    !queue.is_empty()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use monoio::{IoUringDriver, RuntimeBuilder};

    use super::*;
    use crate::base::checksum::first_mismatch;
    use crate::base::sha256::Sha256;
    use crate::io::buffer::Buffer;
    use crate::limits::BUFFER_MAX;

    /// Runs a test on a core, with its hashing.
    fn on_a_core<F: Future<Output = ()>>(test: impl FnOnce(Hashing) -> F) {
        let mut runtime = RuntimeBuilder::<IoUringDriver>::new().enable_timer().build().unwrap();
        runtime.block_on(async { test(Hashing::new().unwrap()).await });
    }

    fn full(len: usize, seed: usize) -> Shared {
        let mut buffer = Buffer::new(BUFFER_MAX);
        buffer.extend(&(0..len).map(|i| (i * 7 + i / 251 + seed) as u8).collect::<Vec<_>>());
        Shared::new(buffer)
    }

    #[test]
    fn a_long_hash_lets_others_go_first_time_and_again() {
        on_a_core(|hashing| async move {
            let turn = Turn::new().unwrap();
            let (turns, over) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
            let (counted, ended) = (Rc::clone(&turns), Rc::clone(&over));
            let other = monoio::spawn(async move {
                while !ended.get() {
                    turn.pass().await;
                    counted.set(counted.get() + 1);
                }
            });
            let mut hasher = Hasher::new(hashing, Hashes::new(false));
            hasher.update(full(BUFFER_MAX, 1), BUFFER_MAX).await.unwrap();
            hasher.settle().await.unwrap();
            over.set(true);
            other.await;
            let slices = BUFFER_MAX / (HASH_SLICE / 2);
            assert!(turns.get() >= slices - 1, "{} turns of another task in {slices} slices", turns.get());
        });
    }

    #[test]
    fn uploads_hashed_at_the_same_time_get_their_own_hashes() {
        on_a_core(|hashing| async move {
            let granule = GRANULE_SIZE as usize;
            let mut uploads = Vec::new();
            for number in 0..7 {
                let len = BUFFER_MAX - number * 3 * granule - number * 100;
                let end = len - len % granule;
                let buffer = full(len, number);
                let mut hasher = Hasher::new(hashing.clone(), Hashes::new(number % 2 == 0));
                // Some are in their second chunk, with two streams.
                if number > 3 {
                    hasher.settle().await.unwrap().end_chunk(&[]);
                }
                hasher.update(buffer.clone(), end).await.unwrap();
                uploads.push((hasher, buffer, end));
            }
            for (mut hasher, buffer, end) in uploads {
                let hashes = hasher.settle().await.unwrap().end_chunk(&buffer[end..]);
                assert_eq!(hashes.id, Sha256::digest(&buffer));
                assert_eq!(first_mismatch(&buffer, &hashes.sums), None);
                drop(hasher);
                assert!(buffer.into_inner().is_some(), "the queue keeps no buffer");
            }
        });
    }
}

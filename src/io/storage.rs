//! A core's storage threads: they run the blocking file steps of all its disks.
//!
//! A disk that does not answer would take one thread after the other from the disks that do. So a thread that is busy with one
//! step for long does not count any more, and another one is started when steps wait; up to a bound, which holds until such a disk
//! is found to have failed and gets no more to do.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use async_channel::{Receiver, Sender};
use monoio::blocking::{BlockingTask, ThreadPool};

use crate::limits::{STORAGE_STUCK, STORAGE_THREADS, STORAGE_THREADS_MAX};

/// The threads of one core.
pub struct StorageThreads {
    name: String,
    tasks: Sender<BlockingTask>,
    waiting: Receiver<BlockingTask>,
    /// Since when each thread is busy with one step.
    busy: Arc<Mutex<Vec<Option<Instant>>>>,
}

/// What a runtime hands its steps to.
pub struct Pool(Arc<StorageThreads>);

impl ThreadPool for Pool {
    fn schedule_task(&self, task: BlockingTask) {
        // The queue is open for as long as this is there.
        let _ = self.0.tasks.try_send(task);
    }
}

impl StorageThreads {
    /// Starts those of core `number`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(number: usize) -> io::Result<Arc<Self>> {
        // Bounded by what requests have under way, one step each.
        let (tasks, waiting) = async_channel::unbounded();
        let threads = Self { name: format!("storage-{number}"), tasks, waiting, busy: Arc::default() };
        for _ in 0..STORAGE_THREADS {
            threads.add()?;
        }
        Ok(Arc::new(threads))
    }

    /// What to attach to the core's runtime.
    pub fn pool(self: &Arc<Self>) -> Pool {
        Pool(Arc::clone(self))
    }

    fn add(&self) -> io::Result<()> {
        let (waiting, busy) = (self.waiting.clone(), Arc::clone(&self.busy));
        let mark = move |number: usize, since: Option<Instant>| {
            if let Some(busy) = busy.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
                *busy = since;
            }
        };
        let number = self.busy.lock().unwrap_or_else(PoisonError::into_inner).len();
        let run = move || {
            while let Ok(task) = waiting.recv_blocking() {
                mark(number, Some(Instant::now()));
                task.run();
                mark(number, None);
            }
        };
        thread::Builder::new().name(self.name.clone()).spawn(run)?;
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).push(None);
        Ok(())
    }

    /// Takes no more steps; the threads end with what they have.
    pub fn close(&self) {
        self.tasks.close();
    }

    /// Starts another thread where steps wait for those that wait for a disk. To be called again and again.
    pub fn relieve(&self) {
        if self.waiting.is_empty() {
            return;
        }
        let (all, free) = {
            let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
            let is_stuck = |since: &&Option<Instant>| since.is_some_and(|it| it.elapsed() > STORAGE_STUCK);
            (busy.len(), busy.len() - busy.iter().filter(is_stuck).count())
        };
        for _ in free..STORAGE_THREADS.min(free + STORAGE_THREADS_MAX.saturating_sub(all)) {
            if let Err(error) = self.add() {
                return tracing::warn!(%error, "cannot start another storage thread");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn steps_that_never_end_leave_room_for_others() {
        let threads = StorageThreads::start(0).unwrap();
        let pool = Box::new(threads.pool());
        let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .enable_timer()
            .attach_thread_pool(pool)
            .build()
            .unwrap();
        let (hold, waits) = mpsc::channel::<()>();
        let waits = Arc::new(Mutex::new(waits));
        let done = runtime.block_on(async move {
            for _ in 0..STORAGE_THREADS {
                let waits = Arc::clone(&waits);
                drop(monoio::spawn_blocking(move || {
                    let waits = waits.lock().unwrap_or_else(PoisonError::into_inner);
                    waits.recv().is_err()
                }));
            }
            let other = monoio::spawn_blocking(|| 7);
            let relief = monoio::spawn(async move {
                loop {
                    threads.relieve();
                    monoio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            let done = monoio::time::timeout(STORAGE_STUCK * 3, other).await;
            drop(relief);
            done
        });
        drop(hold);
        assert!(matches!(done, Ok(Ok(7))), "the step of another disk was done");
    }
}

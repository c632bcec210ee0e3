//! Requests that wait for their answer because a fault says so.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::blocks::Request;
use super::faults::LONGEST_WAIT;

struct Waiting {
    inode: u64,
    request: Request,
    until: Instant,
    /// Whether it is done then, or was not to be answered at all.
    done: bool,
}

#[derive(Default)]
pub struct Parked {
    waiting: Mutex<Vec<Waiting>>,
    changed: Condvar,
}

impl Parked {
    /// Keeps a request, to be done after a while; or for [`LONGEST_WAIT`], where nothing is said.
    pub fn wait(&self, inode: u64, request: Request, while_: Option<Duration>) {
        let until = Instant::now() + while_.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(Waiting { inode, request, until, done: while_.is_some() });
        self.changed.notify_one();
    }

    /// All that wait for this device.
    pub fn take(&self, inode: u64) -> Vec<Request> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extract_if(.., |one| one.inode == inode).map(|one| one.request).collect()
    }

    /// Does, for ever, what is due; `overdue` are those that nobody wanted to be answered in time.
    pub fn serve(&self, perform: impl Fn(u64, Request), overdue: impl Fn(u64, Request)) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            let due: Vec<Waiting> = waiting.extract_if(.., |one| one.until <= now).collect();
            if !due.is_empty() {
                drop(waiting);
                for one in due {
                    if one.done { perform(one.inode, one.request) } else { overdue(one.inode, one.request) }
                }
                waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let next = waiting.iter().map(|one| one.until).min().unwrap_or(now + LONGEST_WAIT);
            let rest = next.saturating_duration_since(now);
            let woken = self.changed.wait_timeout(waiting, rest);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

//! The raw ring: entries in, completions out.
//!
//! Entries wait in a queue of ours until [`Ring::submit`] hands all of them over in one system call (several, if they
//! are more than the submission queue holds). Linked entries are handed over together, since a link ends where a
//! submission ends. While entries are handed over and completions fetched, the eventfd is kept quiet.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};

use super::registry::can_zero_copy;
use crate::limits::{BULK_COMPLETIONS, BULK_ENTRIES};

/// `user_data` of completions that tell nobody anything.
pub(super) const NOBODY: u64 = u64::MAX;

/// What the ring says of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

/// A ring and the entries that wait to be handed to it.
pub(super) struct Ring {
    uring: IoUring,
    /// Each with whether the next one is linked to it.
    queue: VecDeque<(Entry, bool)>,
    /// Whether SEND_ZC is known to this kernel.
    pub(super) zero_copy: bool,
}

impl Ring {
    /// A ring for the calling thread, which signals `eventfd`.
    pub(super) fn new(eventfd: RawFd) -> io::Result<Self> {
        let uring = build()?;
        uring.submitter().register_eventfd(eventfd)?;
        let zero_copy = can_zero_copy(&uring);
        Ok(Self { uring, queue: VecDeque::new(), zero_copy })
    }

    pub(super) fn uring(&self) -> &IoUring {
        &self.uring
    }

    /// Queues entries that are linked to one another, each starting when the one before it has done all it should.
    ///
    /// # Safety
    /// Until its last completion, all that an entry names stays as [`super::memory`] and [`super::socket`] say.
    pub(super) unsafe fn push(&mut self, entries: impl IntoIterator<Item = Entry>) {
        let mut entries = entries.into_iter().peekable();
        while let Some(entry) = entries.next() {
            let linked = entries.peek().is_some();
            let flags = if linked { Flags::IO_LINK } else { Flags::empty() };
            self.queue.push_back((entry.flags(flags), linked));
        }
    }

    /// Queues the cancelling of the entry `user_data`; what comes of it is told to `answer`.
    pub(super) fn push_cancel(&mut self, user_data: u64, answer: u64) {
        self.queue.push_back((opcode::AsyncCancel::new(user_data).build().user_data(answer), false));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Hands over what is queued. False: the kernel takes no more until completions have been fetched.
    pub(super) fn submit(&mut self) -> io::Result<bool> {
        loop {
            self.fill();
            let overflowed = self.has_overflowed();
            if self.uring.submission().is_empty() && !overflowed {
                return Ok(true);
            }
            match self.uring.submit() {
                // What overflowed has been moved to the completion queue, as far as there is room.
                Ok(0) => return Ok(overflowed),
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY) => return Ok(false),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Moves whole chains into the submission queue, as far as there is room.
    fn fill(&mut self) {
        let mut submission = self.uring.submission();
        while let Some(chain) = self.queue.iter().position(|(_, linked)| !linked).map(|last| last + 1) {
            debug_assert!(chain <= submission.capacity(), "a chain fits an empty queue");
            if submission.capacity() - submission.len() < chain {
                return;
            }
            for (entry, _) in self.queue.drain(..chain) {
                // SAFETY: whoever pushed the entry keeps what it names; there is room.
                let _ = unsafe { submission.push(&entry) };
            }
        }
    }

    /// Fetches what has completed.
    pub(super) fn fetch(&mut self, out: &mut Vec<Completion>) {
        let completions = self.uring.completion().map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        });
        out.extend(completions);
    }

    /// Keeps the eventfd quiet while completions are fetched anyway.
    pub(super) fn quiet(&mut self) {
        self.uring.completion().disable_eventfd();
    }

    /// Lets the eventfd speak again. False: something has completed that it did not tell of.
    pub(super) fn speak(&mut self) -> bool {
        self.uring.completion().enable_eventfd();
        self.uring.completion().is_empty()
    }

    /// Whether completions found the queue full: the kernel keeps them until the ring is entered.
    pub(super) fn has_overflowed(&mut self) -> bool {
        self.uring.submission().cq_overflow()
    }

    /// Queues the cancelling of everything under way.
    pub(super) fn push_cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(NOBODY);
        self.queue.push_back((entry, false));
    }

    /// Cancels everything and waits up to `patience` for two completions, this one's and another.
    pub(super) fn cancel_all(&mut self, patience: Duration) {
        self.push_cancel_all();
        let _ = self.submit();
        let time = Timespec::from(patience);
        // What came in time is seen when it is fetched.
        let _ = self.uring.submitter().submit_with_args(2, &SubmitArgs::new().timespec(&time));
    }
}

/// A ring with what this kernel has of the settings that suit one thread which also waits elsewhere.
fn build() -> io::Result<IoUring> {
    let settings = |level: u8| {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_cqsize(BULK_COMPLETIONS);
        if level >= 1 {
            // One faulty entry does not hold up those behind it.
            builder.setup_submit_all();
        }
        if level >= 2 {
            // No interrupt for work that can wait until this thread next enters the kernel.
            builder.setup_coop_taskrun();
        }
        if level >= 3 {
            builder.setup_single_issuer();
        }
        builder.build(BULK_ENTRIES)
    };
    // Linux 6.0, 5.19, 5.18, and older.
    settings(3).or_else(|_| settings(2)).or_else(|_| settings(1)).or_else(|_| settings(0))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::os::fd::AsRawFd as _;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn completions_that_found_the_queue_full_are_fetched_all_the_same() {
        const ALL: u64 = 3 * BULK_COMPLETIONS as u64;
        let signal = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut ring = Ring::new(signal.as_raw_fd()).unwrap();
        for i in 0..ALL {
            // SAFETY: it names no memory.
            unsafe { ring.push([opcode::Nop::new().build().user_data(i)]) };
        }
        let (mut found, mut fetched, mut overflowed) = (HashSet::new(), Vec::new(), false);
        for _ in 0..ALL {
            ring.submit().unwrap();
            overflowed |= ring.has_overflowed();
            ring.fetch(&mut fetched);
            found.extend(fetched.drain(..).map(|completion| completion.user_data));
            if found.len() as u64 == ALL {
                break;
            }
        }
        assert!(overflowed && ring.is_idle());
        assert_eq!(found, (0..ALL).collect());
    }
}

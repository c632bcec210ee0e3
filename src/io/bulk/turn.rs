//! The shared heart of a ring: queues entries, hands them over once in a turn of the runtime, tells who waits.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rustix::event::{EventfdFlags, eventfd};

use super::entries::Entries;
use super::memory::Region;
use super::operations::{Holds, Key, Operations, Outcome, Released};
use super::registry::{Registry, View};
use super::ring::{Completion, Ring};
use crate::limits::{BULK_LAST_WAIT, BULK_RETRY};

/// Times that completions which call for more are followed up in one turn.
const ROUNDS: usize = 8;

/// What all rings of a node count.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Operations under way.
    pub depth: Gauge,
    /// Operations begun.
    pub operations: Counter,
    /// Times that completions found their queue full.
    pub overflows: Counter,
    /// Zero-copy sends begun.
    pub zero_copy: Counter,
    /// Notifications that said the kernel copied after all.
    pub copied: Counter,
}

struct State {
    ring: Ring,
    operations: Operations,
    view: View,
    fetched: Vec<Completion>,
}

pub(super) struct Inner {
    state: RefCell<State>,
    counts: Counts,
    /// Wakes the flush task.
    flush: Cell<Option<Waker>>,
    /// Whether it has been woken since its last turn.
    flushing: Cell<bool>,
    /// Another handle of the eventfd that the ring signals.
    eventfd: File,
}

impl Inner {
    pub(super) fn start(registry: &Arc<Registry>, counts: Counts) -> io::Result<Rc<Self>> {
        let eventfd = File::from(eventfd(0, EventfdFlags::CLOEXEC)?);
        let ring = Ring::new(eventfd.as_raw_fd())?;
        let listened = monoio::fs::File::from_std(eventfd.try_clone()?)?;
        let state =
            State { ring, operations: Operations::default(), view: View::new(registry), fetched: Vec::new() };
        let inner = Rc::new(Self {
            state: RefCell::new(state),
            counts,
            flush: Cell::new(None),
            flushing: Cell::new(false),
            eventfd,
        });
        monoio::spawn(flush(Rc::downgrade(&inner)));
        monoio::spawn(listen(listened, Rc::downgrade(&inner)));
        Ok(inner)
    }

    pub(super) fn held(&self) -> usize {
        self.state.borrow().operations.held
    }

    pub(super) fn depth(&self) -> usize {
        self.state.borrow().operations.len()
    }

    pub(super) fn late(&self) -> usize {
        self.state.borrow().operations.late
    }

    pub(super) fn registered(&self) -> usize {
        self.state.borrow().view.known()
    }

    pub(super) fn can_zero_copy(&self) -> bool {
        self.state.borrow().ring.zero_copy
    }

    /// Leaves each region its index only if this ring knows it.
    pub(super) fn known(&self, regions: &mut [Region]) {
        let state = &mut *self.state.borrow_mut();
        for region in regions {
            region.index = region.index.filter(|index| state.view.has(state.ring.uring(), *index));
        }
    }

    /// Begins an operation of linked entries.
    #[expect(unsafe_code, reason = "entries name memory")]
    pub(super) fn begin(&self, mut entries: Entries, holds: Holds) -> Key {
        self.counts.depth.inc();
        self.counts.operations.inc();
        if entries.zero_copy > 0 {
            self.counts.zero_copy.inc();
        }
        let state = &mut *self.state.borrow_mut();
        let key = state.operations.insert(&mut entries, holds);
        let chain = entries.chain.into_iter().map(|entry| entry.user_data(key.user_data()));
        // SAFETY: the operation holds the memory and the descriptor (`Holds`) until its last completion.
        unsafe { state.ring.push(chain) };
        self.wake_flush();
        key
    }

    /// Has an operation cancelled.
    pub(super) fn cancel(&self, key: Key) {
        let state = &mut *self.state.borrow_mut();
        if state.operations.cancel(key) {
            state.ring.push_cancel(key.user_data(), key.cancel_data());
            self.wake_flush();
        }
    }

    /// Has everything cancelled.
    pub(super) fn cancel_all(&self) {
        self.state.borrow_mut().ring.push_cancel_all();
        self.wake_flush();
    }

    fn wake_flush(&self) {
        if !self.flushing.replace(true)
            && let Some(waker) = self.flush.take()
        {
            waker.wake();
        }
    }

    /// Hands over and fetches until nothing is left to do. False: there is, but not now.
    fn turn(&self) -> bool {
        let mut released = Vec::new();
        let done = self.turn_within(&mut self.state.borrow_mut(), &mut released);
        // The drops of what operations held may begin new ones.
        drop(released);
        done
    }

    fn turn_within(&self, state: &mut State, released: &mut Vec<Released>) -> bool {
        let mut done = false;
        for _ in 0..ROUNDS {
            state.ring.quiet();
            let taken = state.ring.submit().unwrap_or_else(|error| {
                tracing::error!(%error, "the bulk ring cannot be entered");
                false
            });
            self.settle(state, released);
            let nothing_new = state.ring.speak();
            let overflowed = state.ring.has_overflowed();
            self.counts.overflows.inc_by(u64::from(overflowed));
            done = taken && nothing_new && !overflowed && state.ring.is_idle();
            if done || !taken {
                break;
            }
        }
        done
    }

    /// Fetches completions and takes them into account.
    fn settle(&self, state: &mut State, released: &mut Vec<Released>) {
        let mut fetched = std::mem::take(&mut state.fetched);
        state.ring.fetch(&mut fetched);
        for completion in fetched.drain(..) {
            let effect = state.operations.complete(completion);
            if let Some(waker) = effect.wake {
                waker.wake();
            }
            if effect.ended {
                self.counts.depth.dec();
            }
            if effect.notice == Some(true) {
                self.counts.copied.inc();
            }
            if let Some(key) = effect.cancel_again {
                state.ring.push_cancel(key.user_data(), key.cancel_data());
            }
            released.push(effect.released);
        }
        state.fetched = fetched;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let begun = Instant::now();
        let mut released = Vec::new();
        let (mut under_way, leaked);
        {
            let mut state = self.state.borrow_mut();
            loop {
                self.settle(&mut state, &mut released);
                under_way = state.operations.len() - state.operations.late;
                if under_way == 0 || begun.elapsed() >= BULK_LAST_WAIT {
                    break;
                }
                state.ring.cancel_all(BULK_RETRY);
            }
            leaked = state.operations.leak();
            self.counts.depth.dec_by(i64::try_from(leaked).unwrap_or(0));
        }
        drop(released);
        if leaked > 0 {
            tracing::debug!(leaked, under_way, "memory that the kernel still held when a ring was closed");
        }
        // Both tasks find that it is gone.
        self.wake_flush();
        let _ = self.eventfd.write(&1u64.to_ne_bytes());
    }
}

/// Waits for the results of an operation; the operation is cancelled when this is dropped before.
pub(super) struct Pending {
    inner: Rc<Inner>,
    key: Option<Key>,
}

impl Pending {
    pub(super) fn new(inner: &Rc<Inner>, key: Key) -> Self {
        Self { inner: Rc::clone(inner), key: Some(key) }
    }
}

impl Pending {
    /// Has the operation cancelled; what moved is still to be waited for.
    pub(super) fn cancel(&self) {
        if let Some(key) = self.key {
            self.inner.cancel(key);
        }
    }
}

impl Future for Pending {
    type Output = Outcome;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let Some(key) = self.key else { return Poll::Ready(Outcome::default()) };
        let outcome = self.inner.state.borrow_mut().operations.poll(key, context);
        if outcome.is_ready() {
            self.key = None;
        }
        outcome
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let under_way = self.inner.state.borrow_mut().operations.detach(key);
            if under_way {
                self.inner.cancel(key);
            }
        }
    }
}

/// Hands over what is queued, once in a turn of the runtime.
async fn flush(inner: Weak<Inner>) {
    loop {
        let woken = poll_fn(|context| {
            let Some(inner) = inner.upgrade() else { return Poll::Ready(false) };
            if inner.flushing.replace(false) {
                return Poll::Ready(true);
            }
            inner.flush.set(Some(context.waker().clone()));
            Poll::Pending
        });
        if !woken.await {
            return;
        }
        let done = inner.upgrade().is_none_or(|inner| inner.turn());
        if !done {
            monoio::time::sleep(BULK_RETRY).await;
            if let Some(inner) = inner.upgrade() {
                inner.flushing.set(true);
            }
        }
    }
}

/// Fetches what completes later.
async fn listen(eventfd: monoio::fs::File, inner: Weak<Inner>) {
    let mut number = Box::new([0u8; 8]);
    loop {
        let (read, back) = eventfd.read_at(number, 0).await;
        number = back;
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = read {
            tracing::error!(%error, "the eventfd of the bulk ring cannot be read");
            return;
        }
        if !inner.turn() {
            inner.wake_flush();
        }
    }
}

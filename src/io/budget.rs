//! A budget of bytes for one core: who takes a buffer waits until there is room, in the order of asking.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use futures_channel::oneshot;

#[derive(Debug)]
struct State {
    free: usize,
    waiting: VecDeque<(usize, oneshot::Sender<Share>)>,
}

/// A budget shared by the tasks of one core.
#[derive(Clone, Debug)]
pub struct Budget(Rc<RefCell<State>>);

/// Bytes taken from a budget; they go back when it is dropped.
#[derive(Debug)]
pub struct Share {
    bytes: usize,
    budget: Budget,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self(Rc::new(RefCell::new(State { free: bytes, waiting: VecDeque::new() })))
    }

    /// Takes `bytes`, waiting behind those who asked before.
    pub async fn take(&self, bytes: usize) -> Share {
        if let Some(share) = self.try_take(bytes) {
            return share;
        }
        let (sender, turn) = oneshot::channel();
        self.0.borrow_mut().waiting.push_back((bytes, sender));
        // A sender is dropped only with the budget, which this future keeps alive.
        turn.await.unwrap_or(Share { bytes: 0, budget: self.clone() })
    }

    /// Takes `bytes` if there is room and nobody waits.
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        let mut state = self.0.borrow_mut();
        if !state.waiting.is_empty() || state.free < bytes {
            return None;
        }
        state.free -= bytes;
        Some(Share { bytes, budget: self.clone() })
    }

    fn give(&self, bytes: usize) {
        let mut state = self.0.borrow_mut();
        state.free += bytes;
        while let Some((wanted, _)) = state.waiting.front()
            && *wanted <= state.free
        {
            let Some((wanted, sender)) = state.waiting.pop_front() else { return };
            if sender.is_canceled() {
                continue;
            }
            state.free -= wanted;
            let share = Share { bytes: wanted, budget: self.clone() };
            drop(state);
            // Refused only by an asker that has gone this instant; the share then goes back by its drop.
            drop(sender.send(share));
            state = self.0.borrow_mut();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.clone().give(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn waiters_are_served_in_order_and_those_who_left_are_skipped() {
        let budget = Budget::new(10);
        let Poll::Ready(first) = poll(pin!(budget.take(8))) else { panic!("there was room") };
        let mut large = Box::pin(budget.take(9));
        let mut small = Box::pin(budget.take(1));
        assert!(poll(large.as_mut()).is_pending());
        assert!(poll(small.as_mut()).is_pending(), "a small one does not overtake");
        drop(large);
        drop(first);
        let Poll::Ready(share) = poll(small.as_mut()) else { panic!("its turn came") };
        drop((share, small));
        assert!(poll(pin!(budget.take(10))).is_ready(), "everything came back");
    }
}

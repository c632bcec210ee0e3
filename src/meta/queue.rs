//! Waiting for a queue from a thread that also has something to do when nothing comes.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use async_channel::{Receiver, RecvError};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The next item; none if `time` passes without one.
///
/// # Errors
/// When the queue is closed and empty.
pub(super) fn recv_within<T>(queue: &Receiver<T>, time: Duration) -> Result<Option<T>, RecvError> {
    let deadline = Instant::now() + time;
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut receiving = pin!(queue.recv());
    loop {
        if let Poll::Ready(result) = receiving.as_mut().poll(&mut context) {
            return result.map(Some);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_through_and_silence_ends() {
        let (sender, queue) = async_channel::bounded(1);
        assert_eq!(recv_within::<u8>(&queue, Duration::ZERO), Ok(None));
        let sending = thread::spawn(move || sender.send_blocking(7));
        assert_eq!(recv_within(&queue, Duration::from_mins(1)), Ok(Some(7)));
        sending.join().unwrap().unwrap();
        assert_eq!(recv_within(&queue, Duration::from_mins(1)), Err(RecvError), "the sender is gone");
    }
}

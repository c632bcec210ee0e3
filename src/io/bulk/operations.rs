//! The operations under way: what each holds, and what its completions mean.
//!
//! An operation has one or more entries. Each entry gives one result; a zero-copy entry whose result says so gives a
//! notification later. The file or socket is let go with the last result, the memory with the last completion of
//! all. Until then an operation stays here, whether anyone waits for it or not.

use std::any::Any;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::cqueue;

use super::Reports;
use super::entries::{Entries, Message};
use super::ring::Completion;
use super::socket::Descriptor;
use crate::io::budget::Share;

/// Set in a notification that says the kernel copied.
const COPIED: i32 = i32::MIN;
/// Set in the number of a completion that is the outcome of a cancel.
const CANCEL: u64 = 1 << 31;

/// Names an operation for as long as it is under way; a later one in the same place has another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    place: u32,
    round: u32,
}

impl Key {
    pub(super) fn user_data(self) -> u64 {
        u64::from(self.round) << 32 | u64::from(self.place)
    }

    pub(super) fn cancel_data(self) -> u64 {
        self.user_data() | CANCEL
    }

    /// The key in `user_data`, and whether it stands for a cancel.
    fn parse(user_data: u64) -> (Self, bool) {
        let place = (user_data & 0xffff_ffff & !CANCEL) as u32;
        (Self { place, round: (user_data >> 32) as u32 }, user_data & CANCEL != 0)
    }
}

/// What came of an operation, summed over its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Bytes that moved.
    pub(super) bytes: usize,
    /// The first error, as errno.
    pub(super) errno: Option<i32>,
}

impl Outcome {
    /// What moved; an error counts only if nothing did, and else comes again.
    pub(super) fn into_result(self) -> io::Result<usize> {
        match self.errno {
            Some(errno) if self.bytes == 0 => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(self.bytes),
        }
    }
}

/// What an operation keeps alive, and who is told.
pub(super) struct Holds {
    pub(super) descriptor: Descriptor,
    pub(super) memory: Rc<dyn Any>,
    pub(super) room: Share,
    /// Told what notifications say.
    pub(super) reports: Option<Reports>,
}

/// Things to be dropped once nobody looks at the table: their drops may do anything.
#[derive(Default)]
pub(super) struct Released {
    descriptor: Option<Descriptor>,
    memory: Option<Rc<dyn Any>>,
    room: Option<Share>,
}

struct Operation {
    /// Results to come.
    results: u32,
    /// Notifications to come; for a moment negative, should one overtake its result.
    notices: i32,
    outcome: Outcome,
    /// Nobody waits any more.
    detached: bool,
    /// Its outcome has been taken.
    taken: bool,
    cancelled: bool,
    waker: Option<Waker>,
    descriptor: Option<Descriptor>,
    memory: Option<Rc<dyn Any>>,
    #[expect(dead_code, reason = "the kernel reads it until the entry is submitted")]
    message: Option<Box<Message>>,
    room: Option<Share>,
    reports: Option<Reports>,
    zero_copy: usize,
}

#[derive(Default)]
struct Place {
    round: u32,
    operation: Option<Operation>,
}

/// The operations of one ring.
#[derive(Default)]
pub(super) struct Operations {
    places: Vec<Place>,
    free: Vec<u32>,
    /// Bytes whose notification has not come.
    pub(super) held: usize,
    /// Operations that wait for notifications only.
    pub(super) late: usize,
}

/// What a completion brought about.
#[derive(Default)]
pub(super) struct Effect {
    pub(super) wake: Option<Waker>,
    pub(super) released: Released,
    /// The cancel found nothing, though the operation is under way: it is between two of its entries.
    pub(super) cancel_again: Option<Key>,
    /// A notification came, and says whether the kernel copied.
    pub(super) notice: Option<bool>,
    /// It was the operation's last completion.
    pub(super) ended: bool,
}

impl Operations {
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Enters an operation of these entries.
    pub(super) fn insert(&mut self, entries: &mut Entries, holds: Holds) -> Key {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        let slot = &mut self.places[place as usize];
        slot.round = slot.round.wrapping_add(1);
        self.held += entries.zero_copy;
        slot.operation = Some(Operation {
            results: entries.chain.len() as u32,
            notices: 0,
            outcome: Outcome::default(),
            detached: false,
            taken: false,
            cancelled: false,
            waker: None,
            descriptor: Some(holds.descriptor),
            memory: Some(holds.memory),
            message: entries.message.take(),
            room: Some(holds.room),
            reports: holds.reports,
            zero_copy: entries.zero_copy,
        });
        Key { place, round: slot.round }
    }

    fn get(&mut self, key: Key) -> Option<&mut Operation> {
        let place = self.places.get_mut(key.place as usize)?;
        if place.round == key.round { place.operation.as_mut() } else { None }
    }

    /// Takes a completion into account.
    pub(super) fn complete(&mut self, completion: Completion) -> Effect {
        let mut effect = Effect::default();
        let (key, is_cancel) = Key::parse(completion.user_data);
        let Some(operation) = self.get(key) else { return effect };
        if is_cancel {
            if completion.result < 0 && operation.results > 0 {
                effect.cancel_again = Some(key);
            }
            return effect;
        }
        if cqueue::notif(completion.flags) {
            operation.notices -= 1;
            let copied = completion.result & COPIED != 0;
            effect.notice = Some(copied);
            if let Some(reports) = &operation.reports {
                reports.borrow_mut().reported(copied);
            }
        } else {
            operation.results -= 1;
            operation.notices += i32::from(cqueue::more(completion.flags));
            match usize::try_from(completion.result) {
                Ok(bytes) => operation.outcome.bytes += bytes,
                Err(_) => operation.outcome.errno = operation.outcome.errno.or(Some(-completion.result)),
            }
            if operation.results == 0 {
                effect.wake = operation.waker.take();
                effect.released.descriptor = operation.descriptor.take();
                effect.released.room = operation.room.take();
                if operation.notices > 0 {
                    self.late += 1;
                    return effect;
                }
            }
        }
        self.settle(key, &mut effect, cqueue::notif(completion.flags));
        effect
    }

    /// Lets go of the memory after the last completion, and of the place when nobody waits for the outcome.
    fn settle(&mut self, key: Key, effect: &mut Effect, was_notice: bool) {
        let Some(operation) = self.get(key) else { return };
        if operation.results > 0 || operation.notices != 0 {
            return;
        }
        effect.released.memory = operation.memory.take();
        effect.ended = true;
        let bytes = std::mem::take(&mut operation.zero_copy);
        let ended = operation.detached || operation.taken;
        self.held -= bytes;
        self.late -= usize::from(was_notice);
        if ended {
            self.vacate(key);
        }
    }

    fn vacate(&mut self, key: Key) {
        self.places[key.place as usize].operation = None;
        self.free.push(key.place);
    }

    /// The outcome, once all results are there.
    pub(super) fn poll(&mut self, key: Key, context: &mut Context<'_>) -> Poll<Outcome> {
        let Some(operation) = self.get(key) else { return Poll::Ready(Outcome::default()) };
        if operation.results > 0 {
            operation.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        operation.taken = true;
        let outcome = operation.outcome;
        if operation.memory.is_none() {
            self.vacate(key);
        }
        Poll::Ready(outcome)
    }

    /// Nobody waits any more. True: results are still to come, and should be hastened.
    pub(super) fn detach(&mut self, key: Key) -> bool {
        let Some(operation) = self.get(key) else { return false };
        operation.detached = true;
        operation.waker = None;
        let under_way = operation.results > 0;
        if !under_way && operation.memory.is_none() {
            self.vacate(key);
        }
        under_way
    }

    /// Notes that an operation is to be cancelled; false if it has its results, or was cancelled before.
    pub(super) fn cancel(&mut self, key: Key) -> bool {
        self.get(key).is_some_and(|operation| {
            operation.results > 0 && !std::mem::replace(&mut operation.cancelled, true)
        })
    }

    /// Gives up the memory of all that has not ended: the kernel may still use it, so it is never freed.
    pub(super) fn leak(&mut self) -> usize {
        let mut leaked = 0;
        for operation in self.places.iter_mut().filter_map(|place| place.operation.as_mut()) {
            if let Some(memory) = operation.memory.take() {
                let _ = Rc::into_raw(memory);
                leaked += 1;
            }
        }
        leaked
    }
}

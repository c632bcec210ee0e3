//! Keys of objects that an upload may still be storing: nobody deletes them meanwhile.
//!
//! A try that failed may be one that the store goes on with after it was given up, so its key is left alone for a while longer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::slot::Slot;
use crate::limits::LEFTOVERS_PAUSE;
use crate::shard::archive::desk::Desk;

/// The keys; until when each is left alone, none while its upload is under way.
#[derive(Default)]
pub(super) struct Keys(RefCell<HashMap<String, Option<Instant>>>);

/// A key that an upload holds. Unless a row names it at the end it is a leftover.
pub(super) struct Held {
    keys: Rc<Keys>,
    desk: Arc<Desk>,
    slot: Slot,
    name: String,
}

impl Keys {
    /// Holds a key of a slot.
    pub(super) fn hold(self: &Rc<Self>, desk: &Arc<Desk>, slot: Slot, name: String) -> Held {
        let now = Instant::now();
        let mut held = self.0.borrow_mut();
        // Of those whose time is over nobody may have asked.
        held.retain(|_, until| until.is_none_or(|until| until > now));
        held.insert(name.clone(), None);
        drop(held);
        Held { keys: Rc::clone(self), desk: Arc::clone(desk), slot, name }
    }

    /// How long a key is left alone at least; none: nobody holds it.
    pub(super) fn wait(&self, name: &str, now: Instant) -> Option<Duration> {
        let mut held = self.0.borrow_mut();
        match held.get(name).copied()? {
            None => Some(LEFTOVERS_PAUSE),
            Some(until) if until > now => Some(until.saturating_duration_since(now)),
            Some(_) => {
                held.remove(name);
                None
            }
        }
    }

    /// An upload has let go of a key at `now`.
    fn let_go(&self, name: &str, now: Instant) {
        if let Some(until) = self.0.borrow_mut().get_mut(name) {
            *until = Some(now + LEFTOVERS_PAUSE);
        }
    }
}

impl Held {
    /// A row names it now.
    pub(super) fn named(self) {
        self.keys.0.borrow_mut().remove(&self.name);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.keys.0.borrow().contains_key(&self.name) {
            self.keys.let_go(&self.name, Instant::now());
            self.desk.note_leftovers(self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::settings::Rules;

    #[test]
    fn a_key_is_left_alone_while_its_upload_runs_and_for_a_while_after() {
        let (desk, keys, now) =
            (Arc::new(Desk::new(1, Rules::default())), Rc::new(Keys::default()), Instant::now());
        let slot = Slot::of("a");
        let held = keys.hold(&desk, slot, "k".to_owned());
        assert_eq!(keys.wait("other", now), None);
        assert_eq!(keys.wait("k", now + Duration::from_hours(1)), Some(LEFTOVERS_PAUSE), "it is under way");
        drop(held);
        assert_eq!(desk.take_slots_with_leftovers(), [slot]);
        assert!(keys.wait("k", now).is_some_and(|wait| wait >= LEFTOVERS_PAUSE));
        assert_eq!(keys.wait("k", Instant::now() + LEFTOVERS_PAUSE), None);
        assert!(keys.0.borrow().is_empty(), "what nobody holds is forgotten");
    }

    #[test]
    fn a_key_that_a_row_names_is_no_leftover() {
        let (desk, keys) = (Arc::new(Desk::new(1, Rules::default())), Rc::new(Keys::default()));
        keys.hold(&desk, Slot::of("a"), "k".to_owned()).named();
        assert_eq!(keys.wait("k", Instant::now()), None);
        assert_eq!(desk.take_slots_with_leftovers(), []);
    }
}

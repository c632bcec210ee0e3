//! Objects that no row names: all replicas condemn them, they are deleted in the store, then forgotten here.
//!
//! At the start every slot is looked at, later those that somebody noted. What cannot be deleted now is tried again after a while.

use std::cell::RefCell;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::time::sleep;

use super::Archiver;
use super::picking::is_first;
use crate::archive::location::Location;
use crate::base::error::Result;
use crate::base::slot::Slot;
use crate::limits::{
    ARCHIVE_PAUSE_MIN, CHECK_RETRY, CONDEMN_PAUSE, LEFTOVERS_ELSEWHERE, LEFTOVERS_FAILURES, LEFTOVERS_PAGE,
    LEFTOVERS_PAUSE, REWRITE_PAUSE, REWRITE_REMEMBERED, REWRITE_TURN, VERIFY_PAUSE,
};
use crate::meta::archives::Leftover;
use crate::meta::slots::State;

/// Packs that were looked at, when, and how many bytes of each were needed.
pub(super) struct Looked(RefCell<LruCache<String, (Instant, u64)>>);

impl Looked {
    pub(super) fn new() -> Self {
        let room = NonZeroUsize::new(REWRITE_REMEMBERED).unwrap_or(NonZeroUsize::MIN);
        Self(RefCell::new(LruCache::new(room)))
    }

    /// Whether one is to be looked at now: `needed` has changed, or it was not for a while. Then it is noted.
    pub(super) fn is_due(&self, target: &str, needed: u64, now: Instant) -> bool {
        let mut looked = self.0.borrow_mut();
        let rests =
            |(at, before): &(Instant, u64)| *before == needed && now.duration_since(*at) < REWRITE_PAUSE;
        let is_due = !looked.peek(target).is_some_and(rests);
        if is_due {
            looked.put(target.to_owned(), (now, needed));
        }
        is_due
    }
}

/// Deletes for as long as the node runs.
pub(super) async fn run(archiver: Rc<Archiver>) {
    let begun = Instant::now();
    while !archiver.node.slots_checked() && begun.elapsed() < LEFTOVERS_PAUSE {
        sleep(CHECK_RETRY).await;
    }
    let now = Instant::now();
    let mut due: HashMap<Slot, Instant> = Slot::all().map(|slot| (slot, now)).collect();
    let returns = || archiver.node.cluster.as_ref().map_or(0, |cluster| cluster.returns());
    let mut returned = returns();
    loop {
        if std::mem::replace(&mut returned, returns()) != returned {
            // Who did not agree because it was away may agree now.
            let now = Instant::now();
            for at in due.values_mut() {
                *at = now.min(*at);
            }
        }
        for slot in archiver.desk.take_slots_with_leftovers() {
            due.insert(slot, Instant::now());
        }
        for slot in take_due(&mut due, Instant::now()) {
            let again = match archiver.node.slots.state(slot) {
                State::Unborn => None,
                // It may be in service by then.
                State::Unchecked | State::Failed => Some(LEFTOVERS_PAUSE),
                State::Ready => archiver.clean(slot).await.unwrap_or_else(|error| {
                    tracing::debug!(%slot, %error, "objects that no row names stay for now");
                    Some(LEFTOVERS_PAUSE)
                }),
            };
            if let Some(pause) = again {
                due.entry(slot).or_insert_with(|| Instant::now() + pause);
            }
            sleep(VERIFY_PAUSE).await;
        }
        sleep(ARCHIVE_PAUSE_MIN).await;
    }
}

/// The slots whose time has come, in order.
fn take_due(due: &mut HashMap<Slot, Instant>, now: Instant) -> Vec<Slot> {
    let mut slots: Vec<Slot> = due.iter().filter(|(_, at)| **at <= now).map(|(slot, _)| *slot).collect();
    slots.sort_unstable();
    for slot in &slots {
        due.remove(slot);
    }
    slots
}

impl Archiver {
    /// Deletes what no row of a slot names; when to come again, if something is left.
    async fn clean(&self, slot: Slot) -> Result<Option<Duration>> {
        // A row that is on its way counts.
        self.node.writers.barrier(slot).await?;
        let (mut after, mut again, mut failures) = (String::new(), None::<Duration>, 0_u32);
        loop {
            let page = self.node.readers.leftovers(slot, after.clone(), LEFTOVERS_PAGE).await?;
            let whole = page.len() >= LEFTOVERS_PAGE;
            for left in page {
                let wait = match self.keys.wait(&left.target, Instant::now()) {
                    Some(wait) => Some(wait),
                    // Asked again: a row may name it by now, and nobody who does not hold its key can have a row name it later.
                    None if self.is_left(slot, &after, &left).await? => self.delete(slot, &left).await?,
                    None => None,
                };
                failures += u32::from(wait.is_some_and(|wait| wait >= LEFTOVERS_PAUSE));
                again = again.into_iter().chain(wait).min();
                if failures >= LEFTOVERS_FAILURES {
                    return Ok(again);
                }
                after = left.target;
            }
            if !whole {
                break;
            }
        }
        let rewritten = self.rewrite_sparse(slot).await?;
        Ok(again.into_iter().chain(rewritten).min())
    }

    /// Has what is needed of packs stored anew of which most is not, if this node is the one to do it; when to look again, if one may
    /// be such a pack.
    async fn rewrite_sparse(&self, slot: Slot) -> Result<Option<Duration>> {
        let is_first = is_first(self.node.cluster.as_deref(), slot, REWRITE_TURN);
        let (mut after, mut again) = (String::new(), None);
        loop {
            let page = self.node.readers.sparse(slot, after, LEFTOVERS_PAGE).await?;
            let whole = page.len() >= LEFTOVERS_PAGE;
            after = page.last().cloned().unwrap_or_default();
            for target in page {
                if !is_first {
                    return Ok(Some(REWRITE_TURN / 4));
                }
                if self.desk.health.failing().is_some() {
                    return Ok(Some(LEFTOVERS_PAUSE));
                }
                match self.rewrite(slot, &target).await {
                    Ok(true) => {}
                    Ok(false) => again = Some(REWRITE_PAUSE),
                    Err(why) => {
                        tracing::warn!(%slot, object = %target, %why, "a pack cannot be stored anew yet");
                        again = Some(REWRITE_PAUSE);
                    }
                }
            }
            if !whole {
                return Ok(again);
            }
        }
    }

    /// Whether an object, the next leftover behind `before` a moment ago, is one still.
    async fn is_left(&self, slot: Slot, before: &str, left: &Leftover) -> Result<bool> {
        let next = self.node.readers.leftovers(slot, before.to_owned(), 1).await?;
        Ok(next.first().is_some_and(|next| next.target == left.target))
    }

    /// Whether nobody can name an object from now on.
    async fn is_condemned(&self, slot: Slot, left: &Leftover) -> Result<bool> {
        let Some(cluster) = &self.node.cluster else { return Ok(true) };
        // It takes all of them.
        if cluster.topology().replicas(slot).iter().any(|node| !cluster.is_reachable(*node)) {
            return Ok(false);
        }
        let Some(path) = &left.path else { return Ok(false) };
        let condemned = self.desk.condemn(slot, path, vec![left.target.clone()]).await?;
        Ok(condemned == [true])
    }

    /// Deletes one; when to try again, if it cannot be.
    async fn delete(&self, slot: Slot, left: &Leftover) -> Result<Option<Duration>> {
        let name = &left.target;
        let Ok(at) = name.parse::<Location>() else {
            tracing::warn!(%slot, object = %name, "what should be an object's place is none: it is forgotten");
            self.node.writers.forget_object(slot, name.to_owned()).await?;
            return Ok(None);
        };
        if !self.is_condemned(slot, left).await? {
            tracing::debug!(%slot, object = %name, "not all replicas let go of an object yet");
            return Ok(Some(CONDEMN_PAUSE));
        }
        while self.desk.health.pause(Instant::now()).is_some() {
            sleep(ARCHIVE_PAUSE_MIN).await;
        }
        self.store.pace().await;
        let deleted = self.store.ask("delete", &at.bucket, 1, async |target| target.delete(&at).await);
        if let Err(failure) = deleted.await {
            tracing::warn!(%slot, %failure, "an object that no row names cannot be deleted yet");
            // One of an earlier config may never be.
            let is_ours = at.bucket == self.settings.bucket;
            return Ok(Some(if is_ours { LEFTOVERS_PAUSE } else { LEFTOVERS_ELSEWHERE }));
        }
        self.node.metrics.archive.leftovers_deleted.inc();
        self.desk.lost.found(name);
        self.node.writers.forget_object(slot, name.to_owned()).await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_is_looked_at_again_when_less_of_it_is_needed_or_after_a_while() {
        let (looked, now) = (Looked::new(), Instant::now());
        assert!(looked.is_due("a", 100, now) && !looked.is_due("a", 100, now));
        assert!(looked.is_due("b", 100, now), "another one");
        assert!(looked.is_due("a", 90, now) && !looked.is_due("a", 90, now));
        assert!(looked.is_due("a", 90, now + REWRITE_PAUSE));
    }

    #[test]
    fn slots_are_taken_when_their_time_has_come() {
        let (now, slots) = (Instant::now(), Slot::all().take(3).collect::<Vec<_>>());
        let mut due = HashMap::from([(slots[2], now), (slots[0], now), (slots[1], now + LEFTOVERS_PAUSE)]);
        assert_eq!(take_due(&mut due, now), [slots[0], slots[2]]);
        assert_eq!(take_due(&mut due, now), []);
        assert_eq!(take_due(&mut due, now + LEFTOVERS_PAUSE), [slots[1]]);
    }
}

//! What a core does for the cluster unasked: it settles tries in doubt, fetches chunks that its versions lack, drops those of
//! deleted versions, and gives up uploads that nobody votes about. Each for the slots of this core; core 0 also takes stock of
//! the cluster. Nothing here is needed for an answer, and all of it is tried again.

mod filling;
mod settling;
mod sweeping;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use monoio::time::sleep;

use super::cluster::Cluster;
use super::{membership, sync};
use crate::limits::{CHORE_PAUSE, CHORE_PAUSES, LINK_IDLE_TIME};
use crate::shard::core::Core;

/// Runs for as long as the core does.
pub(in crate::shard) async fn run(core: Rc<Core>, cluster: Arc<Cluster>) {
    let both = || (Rc::clone(&core), Arc::clone(&cluster));
    let chores = [both(), both(), both(), both(), both()];
    let [recovery, settlement, filler, sweep, stock] = chores;
    monoio::spawn(membership::recover(recovery.0, recovery.1));
    monoio::spawn(settling::run(settlement.0, settlement.1));
    monoio::spawn(filling::run(filler.0, filler.1));
    monoio::spawn(sweeping::run(sweep.0, sweep.1));
    sync::start(&core, &cluster);
    if core.number == 0 {
        monoio::spawn(membership::keep_stock(stock.0, stock.1));
    }
    loop {
        sleep(LINK_IDLE_TIME / 4).await;
        core.idle.close_old();
    }
}

/// Does `work` on all `items`, on at most `most` of them at once.
pub(super) async fn each<T: 'static, F: Future<Output = ()> + 'static>(
    items: Vec<T>,
    most: usize,
    work: impl Fn(T) -> F + 'static,
) {
    let (workers, work) = (most.min(items.len()), Rc::new(work));
    let items = Rc::new(RefCell::new(items.into_iter()));
    let start = |_| {
        let (items, work) = (Rc::clone(&items), Rc::clone(&work));
        monoio::spawn(async move {
            loop {
                let next = items.borrow_mut().next();
                let Some(item) = next else { return };
                work(item).await;
            }
        })
    };
    let workers: Vec<_> = (0..workers).map(start).collect();
    for worker in workers {
        worker.await;
    }
}

/// Pauses after failures, which double with every further one.
struct Pauses<K> {
    most: Duration,
    pauses: HashMap<K, (Instant, Duration)>,
}

impl<K: Eq + Hash> Pauses<K> {
    /// None longer than `most`.
    fn new(most: Duration) -> Self {
        Self { most, pauses: HashMap::new() }
    }

    /// Whether something may be tried.
    fn is_over(&self, key: &K) -> bool {
        self.pauses.get(key).is_none_or(|(until, _)| *until <= Instant::now())
    }

    /// It failed; several failures of one pass count once.
    fn lengthen(&mut self, key: K) {
        if !self.is_over(&key) {
            return;
        }
        let pause = self.pauses.get(&key).map_or(CHORE_PAUSE, |(_, pause)| (*pause * 2).min(self.most));
        let now = Instant::now();
        if self.pauses.len() >= CHORE_PAUSES {
            self.pauses.retain(|_, (until, _)| *until > now);
        }
        self.pauses.insert(key, (now + pause, pause));
    }

    /// It did not.
    fn end(&mut self, key: &K) {
        self.pauses.remove(key);
    }

    /// What failed before may not fail now.
    fn end_all(&mut self) {
        self.pauses.clear();
    }
}

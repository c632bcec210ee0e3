//! Driving a coordinator: its requests are sent, to this node's own replica without a socket, and their answers, and the time, are
//! told to it, until it has an outcome; and after that as long as answers are out, since late votes still get their commit.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use monoio::time::timeout;

use super::ask::ask;
use super::cluster::Cluster;
use super::membership::learn;
use super::participate::participate;
use crate::base::slot::Slot;
use crate::limits::COMMIT_TIME;
use crate::replication::machine::{Event, Machine, NodeSet, Send};
use crate::shard::core::Core;
use crate::wire::peer::{Reply, Request, Response};

/// Runs a coordinator to its outcome; nodes that do not answer are asked only if they are `worth` it.
pub(in crate::shard) async fn drive<M: Machine + 'static>(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    worth: NodeSet,
    machine: M,
) -> M::Outcome
where
    M::Outcome: 'static,
{
    let mut driver = Driver::new(core, cluster, worth, machine);
    loop {
        if let Some(outcome) = driver.turn().await {
            if driver.out > 0 {
                monoio::spawn(driver.run_out());
            }
            return outcome;
        }
    }
}

struct Driver<M: Machine> {
    core: Rc<Core>,
    cluster: Arc<Cluster>,
    worth: NodeSet,
    machine: M,
    begun: bool,
    /// Requests without an answer yet.
    out: usize,
    sender: async_channel::Sender<Event>,
    events: async_channel::Receiver<Event>,
}

impl<M: Machine + 'static> Driver<M> {
    fn new(core: &Rc<Core>, cluster: &Arc<Cluster>, worth: NodeSet, machine: M) -> Self {
        // Bounded by what the machine has under way.
        let (sender, events) = async_channel::unbounded();
        let (core, cluster) = (Rc::clone(core), Arc::clone(cluster));
        Self { core, cluster, worth, machine, begun: false, out: 0, sender, events }
    }

    /// Waits for the next event and passes it on.
    async fn turn(&mut self) -> Option<M::Outcome> {
        let event = if std::mem::replace(&mut self.begun, true) { self.next().await } else { Event::Time };
        if matches!(event, Event::Reply { .. }) {
            self.out -= 1;
        }
        let step = self.machine.step(self.cluster.now(), event);
        for send in step.sends {
            self.send(send);
        }
        step.outcome
    }

    async fn next(&mut self) -> Event {
        let now = self.cluster.now();
        let wait =
            self.machine.wake().map_or(COMMIT_TIME, |wake| Duration::from_millis(wake.saturating_sub(now)));
        match timeout(wait, self.events.recv()).await {
            Ok(Ok(event)) => event,
            // The sender is here: the channel is open.
            Ok(Err(_)) | Err(_) => Event::Time,
        }
    }

    fn send(&mut self, Send { to, round, request }: Send) {
        self.out += 1;
        let (core, cluster, sender) = (Rc::clone(&self.core), Arc::clone(&self.cluster), self.sender.clone());
        let worth = self.worth.contains(to) || cluster.is_reachable(to);
        let spreads = to != self.cluster.topology().me()
            && matches!(request, Request::Commit { .. } | Request::Finish { .. });
        let slot = Slot::of(request.path());
        monoio::spawn(async move {
            let reply = if to == cluster.topology().me() {
                participate(&core, &cluster, request).await
            } else if worth {
                let response = ask(&core, to, &request, COMMIT_TIME).await;
                if let Some(Response { members, .. }) = &response {
                    // What cannot be recorded now is said again with the next answer.
                    let _ = learn(&cluster, slot, members).await;
                }
                response
            } else {
                None
            };
            if spreads && !matches!(reply, Some(Response { reply: Reply::Done { .. }, .. })) {
                cluster.syncing.missed(to, slot);
            }
            // Who does not want to know any more is gone.
            let _ = sender.try_send(Event::Reply { from: to, round, reply });
        });
    }

    /// After the outcome: until all answers are in.
    async fn run_out(mut self) {
        while self.out > 0 {
            let Ok(Ok(event)) = timeout(COMMIT_TIME * 2, self.events.recv()).await else { return };
            self.out -= 1;
            let step = self.machine.step(self.cluster.now(), event);
            for send in step.sends {
                self.send(send);
            }
        }
    }
}

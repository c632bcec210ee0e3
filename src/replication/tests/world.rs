//! The whole system in one value: nodes, machines, messages on their way, and what clients were told. Whoever drives it
//! chooses what happens next; every step here is one that can happen on its own.

use super::history::{Asked, History, Told};
use super::node::{Body, Envelope, Node};
use super::properties::{Broken, check_rows, check_told};
use super::run::{Any, Run, machine};
use super::shared::Shared;
use super::store::Store;
use crate::base::ids::BlobId;
use crate::base::topology::NodeId;
use crate::replication::machine::{Event, Group, NodeSet, Time};
use crate::replication::mistake::{Mistake, is_planted};
use crate::replication::settle::Settle;
use crate::wire::peer::{Attempt, InDoubt, Member, Request};

/// What a client will ask.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) node: NodeId,
    pub(super) path: usize,
    pub(super) asked: Asked,
    /// The replicas that get the data of a PUT.
    pub(super) with_data: NodeSet,
}

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) nodes: Vec<Shared<Node>>,
    pub(super) runs: Vec<Shared<Run>>,
    /// Sent and not yet delivered; may be lost, or come late, or twice.
    pub(super) net: Vec<Shared<Envelope>>,
    pub(super) histories: Vec<Shared<History>>,
    pub(super) broken: Option<Broken>,
    /// Whether writing and syncing are two steps.
    pub(super) late_sync: bool,
    /// Whether every step is checked; else whoever drives the world checks it.
    pub(super) checks: bool,
    /// Disks replaced.
    pub(super) wipes: u32,
}

/// Rows on their way to a replaced disk.
#[derive(Clone, Debug)]
pub(super) struct HandedOver {
    from: Member,
    to: Member,
    rows: Store,
}

pub(super) fn path_name(path: usize) -> String {
    format!("p{path}")
}

/// Identity of the disk a node begins with.
fn first_identity(node: usize) -> u128 {
    node as u128 + 1
}

impl World {
    pub(super) fn new(write_quorum: usize, stores: Vec<Store>, histories: Vec<History>) -> Self {
        let member =
            |node| Member { node: NodeId(node as u8), generation: 0, identity: first_identity(node) };
        let members: Vec<Member> = (0..stores.len()).map(member).collect();
        let node = |(number, store)| {
            Shared::new(Node::new(NodeId(number as u8), members.clone(), write_quorum, store))
        };
        Self {
            nodes: stores.into_iter().enumerate().map(node).collect(),
            runs: Vec::new(),
            net: Vec::new(),
            histories: histories.into_iter().map(Shared::new).collect(),
            broken: None,
            late_sync: false,
            checks: true,
            wipes: 0,
        }
    }

    pub(super) fn write_quorum(&self) -> usize {
        self.nodes[0].context.write_quorum
    }

    fn group(&self, node: NodeId) -> Group {
        let context = &self.nodes[node.index()].context;
        Group { me: node, members: context.members.clone(), write_quorum: context.write_quorum }
    }

    /// A client's request arrives at a node; its machine's number.
    pub(super) fn begin(&mut self, number: usize, planned: &Planned, now: Time) -> usize {
        let path = path_name(planned.path);
        let node = &self.nodes[planned.node.index()];
        let on_path = |held: &&crate::wire::peer::Held| held.row.path == path;
        let highest = node.durable().held.values().filter(on_path).map(|held| held.row.version).max();
        let group = self.group(planned.node);
        let machine = machine(planned.asked, &path, group, planned.with_data, highest.unwrap_or(0));
        if let Asked::Put { blob, .. } = planned.asked {
            for node in planned.with_data.iter() {
                self.nodes[node.index()].change(|node| node.upload(blob));
            }
        }
        self.histories[planned.path].change(|history| history.begin(number, planned.asked));
        self.run(planned.node, Some((number, planned.path)), machine, now)
    }

    /// A replica settles a try that it voted for.
    pub(super) fn settle(&mut self, node: NodeId, attempt: Attempt, now: Time) -> Option<usize> {
        let proposal = self.nodes[node.index()].store.prepared.get(&attempt.blob_id)?;
        let in_doubt = InDoubt {
            attempt,
            version: proposal.row.version,
            coordinator: proposal.coordinator,
            basis: proposal.basis,
        };
        let settle = Settle::new(self.group(node), &proposal.row.path, &in_doubt, 0);
        Some(self.run(node, None, Any::Settle(Box::new(settle)), now))
    }

    fn run(&mut self, node: NodeId, client: Option<(usize, usize)>, machine: Any, now: Time) -> usize {
        let run = Run { node, client, machine, clock: now, is_over: false, is_dead: false };
        self.runs.push(Shared::new(run));
        let number = self.runs.len() - 1;
        self.event(number, now, Event::Time);
        number
    }

    /// Tells a machine something.
    pub(super) fn event(&mut self, number: usize, now: Time, event: Event) {
        if let Event::Reply { reply: Some(response), .. } = &event {
            // A coordinator's node records what others know of replaced disks.
            let node = self.runs[number].node;
            if self.nodes[node.index()].knows_less(&response.members) {
                self.nodes[node.index()]
                    .change(|node| super::node::adopt(&mut node.context.members, &response.members));
            }
        }
        let (sends, told) = self.runs[number].change(|run| {
            run.clock = now;
            let (sends, told) = run.machine.step(now, event);
            for send in &sends {
                if let (Any::Put(_, current), Request::Prepare { proposal, .. }) =
                    (&mut run.machine, &send.request)
                {
                    *current = proposal.row.attempt;
                }
            }
            run.is_over |= told.is_some();
            (sends, told)
        });
        for send in sends {
            let body = Body::Request(send.request);
            self.send(Envelope { run: number, replica: send.to, round: send.round, body });
        }
        if let Some(told) = told {
            self.tell(number, told);
        }
    }

    fn tell(&mut self, number: usize, told: Told) {
        let Some((operation, path)) = self.runs[number].client else { return };
        self.histories[path].change(|history| history.end(operation, told));
        if self.checks {
            self.broken = self.broken.or_else(|| check_told(self, path, operation));
        }
    }

    pub(super) fn send(&mut self, envelope: Envelope) {
        self.net.push(Shared::new(envelope));
    }

    /// A message arrives.
    pub(super) fn deliver(&mut self, envelope: &Envelope, now: Time) {
        match &envelope.body {
            Body::Request(request) => self.receive(envelope, request),
            Body::Reply(reply) => {
                if !self.runs[envelope.run].is_dead {
                    let reply = Some(reply.clone());
                    self.event(
                        envelope.run,
                        now,
                        Event::Reply { from: envelope.replica, round: envelope.round, reply },
                    );
                }
            }
        }
    }

    fn receive(&mut self, envelope: &Envelope, request: &Request) {
        let is_live = match request {
            Request::Ask { attempt, .. } => {
                self.runs.iter().any(|run| run.works_on(envelope.replica, *attempt))
            }
            _ => false,
        };
        let late_sync = self.late_sync;
        let (reply, wrote) = self.nodes[envelope.replica.index()]
            .change(|node| node.receive(envelope, request, is_live, late_sync));
        if let Some(reply) = reply {
            self.send(Envelope { body: Body::Reply(reply), ..envelope.clone() });
        }
        if wrote && self.checks {
            self.check();
        }
    }

    pub(super) fn check(&mut self) {
        self.broken = self.broken.or_else(|| check_rows(self));
    }

    pub(super) fn sync(&mut self, node: NodeId) {
        let answers = self.nodes[node.index()].change(Node::sync);
        answers.into_iter().for_each(|answer| self.send(answer));
    }

    /// A node's process ends; it is there again when the next message reaches it.
    pub(super) fn crash(&mut self, node: NodeId) {
        self.nodes[node.index()].change(Node::crash);
        self.end_runs(node);
        self.check();
    }

    fn end_runs(&mut self, node: NodeId) {
        for run in self.runs.iter_mut().filter(|run| run.node == node && !run.is_dead) {
            run.change(|run| run.is_dead = true);
        }
    }

    /// A node's disk is replaced.
    pub(super) fn wipe(&mut self, node: NodeId) {
        self.wipes += 1;
        let others: Vec<_> = self.nodes.iter().map(|node| node.context.members.clone()).collect();
        let identity = u128::from(self.wipes) * 100 + first_identity(node.index());
        self.nodes[node.index()].change(|node| node.wipe(&others, identity));
        self.end_runs(node);
    }

    /// A node admits another's new disk and hands over its rows.
    pub(super) fn hand_over(&mut self, from: NodeId, to: NodeId) {
        let handed = self.admit(from, to);
        self.take_over(to, &handed);
        self.check();
    }

    /// A node records another's new disk; its rows from then on, once everything is on disk that it did before.
    pub(super) fn admit(&mut self, from: NodeId, to: NodeId) -> HandedOver {
        if !is_planted(Mistake::HandOverWithoutBarrier) {
            self.sync(from);
        }
        let members = self.nodes[to.index()].context.members.clone();
        let rows = self.nodes[from.index()].change(|node| node.admit(&members));
        HandedOver { from: self.member(from), to: self.member(to), rows }
    }

    fn member(&self, node: NodeId) -> Member {
        let members = &self.nodes[node.index()].context.members;
        *members.iter().find(|member| member.node == node).expect("every node is a replica here")
    }

    /// Rows arrive, and are taken over if both disks still are what they were.
    pub(super) fn take_over(&mut self, to: NodeId, handed: &HandedOver) {
        let node = &self.nodes[to.index()].context;
        if node.recovering && node.members.contains(&handed.to) && node.members.contains(&handed.from) {
            self.nodes[to.index()].change(|node| node.take_over(handed.from.node, &handed.rows));
        }
    }

    pub(super) fn sweep(&mut self, node: NodeId, blob: BlobId) {
        self.nodes[node.index()].change(|node| node.sweep(blob));
        self.check();
    }
}

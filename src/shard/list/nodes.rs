//! A listing over all nodes: each is asked for a stretch of what it knows, until of every slot a write quorum has answered; so
//! whatever was acknowledged before is seen by one of them.
//!
//! A node whose slot has lost its memory, or is out of service, does not count for that slot. Where too few can be asked, the
//! listing is refused; what was listed before that ends early, with a cursor.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use monoio::time::timeout;

use super::merge::{Joined, Json, Sink as _, merge};
use crate::base::error::{Code, Error};
use crate::base::slot::Slot;
use crate::base::topology::{NodeId, Topology};
use crate::io::budget::Share;
use crate::limits::{ENTRY_SIZE, LIST_ROUNDS, PAGES_HELD, READ_TIME, SMALL_BLOCK};
use crate::meta::index::{Listing, Page, Seek};
use crate::meta::slots::State;
use crate::shard::core::Core;
use crate::shard::peers::ask_list;
use crate::shard::peers::cluster::Cluster;
use crate::shard::peers::link::left;
use crate::shard::reply::{Failure, Handled, Reply, ReplyBody, refuse, room_for_page};
use crate::wire::peer::encode;
use crate::wire::peer::list::{Ask, Listed};
use crate::wire::response::ResponseHead;

/// Lists the paths of all slots of the cluster.
pub(super) async fn list(
    core: &Rc<Core>,
    cluster: &Arc<Cluster>,
    listing: Listing,
) -> Result<(Vec<u8>, Share), Failure> {
    let nodes = cluster.topology().nodes().count();
    let (limit, include_tombstoned) = (listing.limit, listing.include_tombstoned);
    // Pages of all nodes are here at once.
    let page = limit.min(PAGES_HELD / 4 / ENTRY_SIZE / nodes);
    let share = room_for_page(core, page * nodes + limit).await?;
    let mut listing = Listing { limit: page, merged: true, bytes: bytes_of(page), ..listing };
    let mut json = Json::new(limit);
    let mut next = Some(listing.from.clone());
    let begun = Instant::now();
    for round in 0..LIST_ROUNDS {
        let Some(from) = next.clone().filter(|_| !json.is_full()) else { break };
        if round > 0 && begun.elapsed() >= READ_TIME {
            break;
        }
        listing.from = from;
        match gather(core, cluster, &listing).await {
            Ok(pages) => next = merge(&pages, include_tombstoned, &mut json),
            Err(failure) if round == 0 => return Err(failure),
            Err(_) => break,
        }
    }
    let cursor = next.as_ref().map(super::format_cursor);
    Ok((json.into_json(cursor.as_deref()), share))
}

/// What the lines of a page may take: what they are counted for.
fn bytes_of(lines: usize) -> usize {
    (lines * ENTRY_SIZE).max(SMALL_BLOCK as usize)
}

/// Asks all nodes; what enough of them have.
async fn gather(core: &Rc<Core>, cluster: &Arc<Cluster>, listing: &Listing) -> Result<Vec<Page>, Failure> {
    let topology = cluster.topology();
    let ask = Rc::new(Ask {
        prefix: listing.prefix.clone(),
        delimiter: listing.delimiter.clone(),
        from: listing.from.0.clone(),
        limit: listing.limit as u32,
        include_tombstoned: listing.include_tombstoned,
    });
    let deadline = Instant::now() + READ_TIME;
    let (sender, answers) = async_channel::bounded(topology.nodes().count());
    for node in worth_asking(cluster) {
        let (core, ask, sender) = (Rc::clone(core), Rc::clone(&ask), sender.clone());
        monoio::spawn(async move {
            let answer = ask_list(&core, node, &ask, READ_TIME).await;
            // Nobody waits any more when enough have answered.
            let _ = sender.try_send((node, answer));
        });
    }
    drop(sender);
    let mut coverage = Coverage::new(topology);
    let mut pages = Vec::new();
    let mut troubles = Vec::new();
    match own(core, cluster, listing).await {
        Ok((page, unsure)) => {
            coverage.add(topology.me(), &unsure);
            pages.push(page);
        }
        Err(error) => troubles.push(format!("this node: {}", error.message)),
    }
    while !coverage.is_enough() {
        let Ok(Ok((node, answer))) = timeout(left(deadline), answers.recv()).await else { break };
        match answer.map(into_page) {
            Ok(Ok((page, unsure))) => {
                coverage.add(node, &unsure);
                pages.push(page);
            }
            Ok(Err(error)) => troubles.push(format!("node '{}': {}", topology.name(node), error.message)),
            Err(error) => troubles.push(format!("node '{}' does not answer: {error}", topology.name(node))),
        }
    }
    if coverage.is_enough() {
        return Ok(pages);
    }
    let why = if troubles.is_empty() { "replicas are recovering".to_owned() } else { troubles.join("; ") };
    let message = format!(
        "a listing needs {} replicas of every slot: {why}; try again, or ask for what this node has with \
         consistency=local",
        topology.write_quorum()
    );
    refuse(Code::QuorumUnavailable, message)
}

/// The other nodes, without those that do not answer if the rest is enough.
fn worth_asking(cluster: &Cluster) -> Vec<NodeId> {
    let topology = cluster.topology();
    let mut coverage = Coverage::new(topology);
    let good: Vec<NodeId> = topology.others().filter(|node| cluster.is_reachable(*node)).collect();
    good.iter().chain([&topology.me()]).for_each(|node| coverage.add(*node, &[]));
    if coverage.is_enough() { good } else { topology.others().collect() }
}

fn into_page(answer: Listed) -> Result<(Page, Vec<u16>), Error> {
    match answer {
        Listed::Lines { lines, unsure } => Ok((Page::from_lines(lines)?, unsure)),
        Listed::No(why) => Err(Error::new(Code::SlotUnavailable, why)),
    }
}

/// Answers another node that lists.
pub(in crate::shard) async fn answer(core: &Rc<Core>, cluster: &Arc<Cluster>, ask: Ask) -> Handled {
    let limit = (ask.limit as usize).clamp(1, crate::limits::PAGE_MAX);
    let listing = Listing {
        prefix: ask.prefix,
        delimiter: ask.delimiter.filter(|delimiter| !delimiter.is_empty()),
        from: Seek(ask.from),
        limit,
        include_tombstoned: ask.include_tombstoned,
        merged: true,
        bytes: bytes_of(limit),
    };
    let Ok(share) = timeout(READ_TIME, core.peer_pages.take(limit * ENTRY_SIZE)).await else {
        return refuse(Code::SlotUnavailable, "too many listings are being sent on this core");
    };
    let listed = match own(core, cluster, &listing).await {
        Ok((page, unsure)) => Listed::Lines { lines: page.into_lines(), unsure },
        Err(error) => Listed::No(error.message.into_owned()),
    };
    let body = encode(&listed)?;
    let head = ResponseHead::new(200)
        .header("Content-Type", "application/octet-stream")
        .header("Content-Length", body.len());
    Ok(Reply { status: 200, head, body: ReplyBody::Page(body, share) })
}

/// What this node has, and the slots of which it may lack something.
async fn own(core: &Core, cluster: &Cluster, listing: &Listing) -> Result<(Page, Vec<u16>), Error> {
    if !cluster.roster.is_formed() {
        let why = format!("the cluster is not formed yet: {}", cluster.trouble());
        return Err(Error::new(Code::QuorumUnavailable, why));
    }
    let slots = &core.node.slots;
    // Before the rows are read: what is lost meanwhile is not in them.
    let is_unsure = |slot: &Slot| {
        cluster.topology().is_mine(*slot)
            && (slots.is_recovering(*slot) || matches!(slots.state(*slot), State::Failed | State::Unchecked))
    };
    let unsure = Slot::all().filter(is_unsure).map(|slot| slot.index() as u16).collect();
    // Slots of a disk that has failed are out of service, and so not counted.
    let is_good = |disk: usize| !core.node.disks[disk].health().has_failed();
    let mut pages = super::pages(core, listing, is_good).await?;
    if pages.len() == 1 {
        return Ok((pages.remove(0), unsure));
    }
    let mut joined = Joined { page: Page::default(), limit: listing.limit, bytes: listing.bytes };
    joined.page.next = merge(&pages, true, &mut joined);
    Ok((joined.page, unsure))
}

/// How many replicas of each slot have answered.
struct Coverage<'a> {
    topology: &'a Topology,
    answered: Vec<usize>,
}

impl<'a> Coverage<'a> {
    fn new(topology: &'a Topology) -> Self {
        Self { topology, answered: vec![0; Slot::all().count()] }
    }

    /// A node has answered, and is not sure of some slots.
    fn add(&mut self, node: NodeId, unsure: &[u16]) {
        for slot in Slot::all().filter(|slot| self.topology.replicas(*slot).contains(&node)) {
            self.answered[slot.index()] += usize::from(!unsure.contains(&(slot.index() as u16)));
        }
    }

    fn is_enough(&self) -> bool {
        self.answered.iter().all(|answered| *answered >= self.topology.write_quorum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(nodes: usize) -> Topology {
        let names = (0..nodes).map(|node| format!("n{node}")).collect();
        Topology::new("c", names, "n0", 3, 2).unwrap()
    }

    #[test]
    fn a_quorum_of_every_slot_must_have_answered() {
        for (nodes, answering, enough) in [(3, 1, false), (3, 2, true), (5, 3, false), (5, 4, true)] {
            let topology = topology(nodes);
            let mut coverage = Coverage::new(&topology);
            (0..answering).for_each(|node| coverage.add(NodeId(node), &[]));
            assert_eq!(coverage.is_enough(), enough, "{answering} of {nodes}");
        }
    }

    #[test]
    fn a_replica_that_is_not_sure_of_a_slot_does_not_count_for_it() {
        let topology = topology(3);
        let mut coverage = Coverage::new(&topology);
        coverage.add(NodeId(0), &[]);
        coverage.add(NodeId(1), &[17]);
        assert!(!coverage.is_enough());
        coverage.add(NodeId(2), &[18]);
        assert!(coverage.is_enough());
    }
}

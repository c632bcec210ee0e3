//! What the archive's thread has other nodes asked: whether they hold rows, that they condemn objects, and to do their part of an
//! order. Only cores talk to other nodes; each errand runs by itself, and there are no more than the thread has under way.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use futures_channel::oneshot::Sender;
use monoio::time::timeout;
use serde_json::Value;

use super::desk::Desk;
use crate::base::error::{Code, Error, Result};
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::{ARCHIVE_READ_TIME, CHORES};
use crate::replication::condemn::Condemn;
use crate::replication::spread::{Spread, Told};
use crate::shard::core::Core;
use crate::shard::peers::cluster::Cluster;
use crate::shard::peers::{ask_order, drive};
use crate::wire::peer::archive::{ArchiveRow, Order, Ordered};

/// What other nodes are asked.
#[derive(Debug)]
pub(super) enum Errand {
    /// To hold rows of versions of a path.
    Spread { slot: Slot, path: String, rows: Vec<ArchiveRow>, reply: Sender<Result<Vec<Told>>> },
    /// To condemn objects of a slot.
    Condemn { slot: Slot, path: String, targets: Vec<String>, reply: Sender<Result<Vec<bool>>> },
    /// To do its part of an order.
    Order { to: NodeId, order: Order, reply: Sender<Result<Value>> },
}

/// Runs errands for as long as the core does.
pub(in crate::shard) async fn run(core: Rc<Core>, cluster: Arc<Cluster>, desk: Arc<Desk>) {
    while let Some(errand) = desk.next_errand(core.number).await {
        let (core, cluster) = (Rc::clone(&core), Arc::clone(&cluster));
        monoio::spawn(async move { errand.run(&core, &cluster).await });
    }
}

impl Errand {
    /// Whoever waits for its outcome may have gone.
    async fn run(self, core: &Rc<Core>, cluster: &Arc<Cluster>) {
        match self {
            Self::Spread { slot, path, rows, reply } => {
                let told = match cluster.group(slot) {
                    Ok(group) => {
                        let worth = group.nodes().filter(|node| cluster.is_reachable(*node)).collect();
                        Ok(drive(core, cluster, worth, Spread::new(group, &path, rows)).await)
                    }
                    Err(error) => Err(error),
                };
                let _ = reply.send(told);
            }
            Self::Condemn { slot, path, targets, reply } => {
                let condemned = match cluster.group(slot) {
                    Ok(group) => {
                        let worth = group.nodes().filter(|node| cluster.is_reachable(*node)).collect();
                        Ok(drive(core, cluster, worth, Condemn::new(group, &path, targets)).await)
                    }
                    Err(error) => Err(error),
                };
                let _ = reply.send(condemned);
            }
            Self::Order { to, order, reply } => {
                let _ = reply.send(order_at(core, cluster, to, &order).await);
            }
        }
    }
}

async fn order_at(core: &Rc<Core>, cluster: &Cluster, to: NodeId, order: &Order) -> Result<Value> {
    let no_report = |why: String| Err(Error::new(Code::SlotUnavailable, why));
    if !cluster.is_reachable(to) {
        return no_report("it does not answer".to_owned());
    }
    let asking = {
        let (core, order) = (Rc::clone(core), order.clone());
        monoio::spawn(async move { ask_order(&core, to, &order).await })
    };
    let (mut asking, mut heard) = (pin!(asking), Instant::now());
    let asked = loop {
        match timeout(CHORES, asking.as_mut()).await {
            Ok(asked) => break asked,
            // One slow answer is no sign that it is gone.
            Err(_) if cluster.is_reachable(to) => heard = Instant::now(),
            Err(_) if heard.elapsed() >= ARCHIVE_READ_TIME => {
                return no_report("it does not answer any more: whether it goes on is not known".to_owned());
            }
            Err(_) => {}
        }
    };
    match asked {
        Ok(Ordered::Done(report)) => serde_json::from_str(&report)
            .or_else(|error| no_report(format!("its report is rubbish: {error}"))),
        Ok(Ordered::Missing(why)) => Err(Error::new(Code::BlobNotFound, why)),
        Ok(Ordered::Failed(why)) => no_report(why),
        Err(error) => no_report(format!("it does not answer: {error}")),
    }
}

/// Does this node's part of an order that came through another one.
pub(in crate::shard) async fn obey(core: &Core, order: Order) -> Ordered {
    let Some(desk) = &core.node.archive else {
        return Ordered::Failed("it has no [archive] in its config".to_owned());
    };
    match desk.obey(order).await {
        Ok(report) => Ordered::Done(report.to_string()),
        Err(error) if error.code == Code::BlobNotFound => Ordered::Missing(error.message.into_owned()),
        Err(error) => Ordered::Failed(error.message.into_owned()),
    }
}

//! What operators ask a node to do now: `POST /scrub`, `POST /sync`.
//!
//! One operation of a kind runs at a time; who asks for one that is running waits for that one. It goes on when those
//! who asked have gone, and ends with the node.

mod sync;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::scrub::{self, Ask};
use crate::base::error::{Code, Error, Result};
use crate::shard::node::Node;

/// One that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    /// Every chunk is read and compared with its hash.
    Scrub,
    /// All replicas are compared with those of the other nodes, and what is lacking is fetched.
    Sync,
}

/// What came of one; none yet while it runs.
type Outcome = Option<Result<Value>>;

/// Those that run.
pub(super) struct Operations {
    node: Arc<Node>,
    scrub: Ask,
    running: RefCell<HashMap<Operation, watch::Receiver<Outcome>>>,
}

impl Operation {
    /// By the path of its page.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path {
            "/scrub" => Some(Self::Scrub),
            "/sync" => Some(Self::Sync),
            _ => None,
        }
    }

    async fn run(self, node: Arc<Node>, scrub: Ask) -> Result<Value> {
        match self {
            Self::Scrub => scrub::now(&scrub).await,
            Self::Sync => sync::run(&node).await,
        }
    }
}

impl Operations {
    pub(super) fn new(node: Arc<Node>, scrub: Ask) -> Self {
        Self { node, scrub, running: RefCell::default() }
    }

    /// Does it, or waits for one that is being done.
    ///
    /// # Errors
    /// Those of the operation; `Internal` when the node stops first.
    pub(super) async fn run(&self, operation: Operation) -> Result<Value> {
        let mut outcome = self.outcome_of(operation);
        let ended = outcome.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|outcome| outcome.clone());
        ended.unwrap_or_else(|| {
            Err(Error::new(Code::Internal, "the operation was cut off by the node's stop: ask again"))
        })
    }

    fn outcome_of(&self, operation: Operation) -> watch::Receiver<Outcome> {
        let mut running = self.running.borrow_mut();
        let joined = running.get(&operation).filter(|it| it.borrow().is_none() && it.has_changed().is_ok());
        if let Some(joined) = joined {
            return joined.clone();
        }
        let (tell, outcome) = watch::channel(None);
        let (node, scrub) = (Arc::clone(&self.node), self.scrub.clone());
        tokio_uring::spawn(async move {
            let ended = operation.run(node, scrub).await;
            // Whoever asked may have gone.
            let _ = tell.send(Some(ended));
        });
        running.insert(operation, outcome.clone());
        outcome
    }
}

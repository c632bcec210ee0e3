//! No registry: the addresses are in the config, and whether a node is there is asked of the node itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::directory::Directory;
use super::{Registry, Sighting, Trouble, http};
use crate::limits::ANSWER_HEAD_MAX;

/// See above.
pub(super) struct Embedded {
    directory: Arc<Directory>,
    patience: Duration,
}

impl Embedded {
    pub(super) fn new(directory: Arc<Directory>, patience: Duration) -> Self {
        // The slowest of them must not keep the others' answers.
        Self { directory, patience: patience * 3 / 4 }
    }
}

impl Registry for Embedded {
    async fn form(&mut self, charter: &str) -> Result<String, Trouble> {
        Ok(charter.to_owned())
    }

    async fn claim(&mut self, _: &str) -> Result<Option<String>, Trouble> {
        Ok(None)
    }

    async fn announce(&mut self, _: &str) -> Result<Option<String>, Trouble> {
        Ok(None)
    }

    async fn look(&mut self) -> Result<Vec<Sighting>, Trouble> {
        let topology = self.directory.topology();
        let mut sightings = vec![Sighting::Nothing; topology.nodes().count()];
        let mut asked = JoinSet::new();
        for node in topology.others() {
            let (Some(public), patience) = (self.directory.public(node), self.patience) else { continue };
            asked.spawn(async move {
                let serving = timeout(patience, serves(public)).await;
                (node, serving.ok().and_then(Result::ok))
            });
        }
        while let Some(Ok((node, answer))) = asked.join_next().await {
            if let Some(serving) = answer {
                sightings[node.index()] = Sighting::Answered { serving };
            }
        }
        Ok(sightings)
    }

    async fn withdraw(&mut self) -> Result<(), Trouble> {
        Ok(())
    }
}

async fn serves(public: SocketAddr) -> Result<bool, Trouble> {
    let authority = public.to_string();
    let question = http::question(&authority, "/health", None, None)?;
    let (status, _) = http::ask(&authority, question, ANSWER_HEAD_MAX).await?;
    Ok(status == StatusCode::OK)
}

//! Runs the registry for a node: announces it, renews that, looks for the others, and keeps the directory.
//!
//! At the start, [`join`] finds what must not be: a cluster of this name with another charter, or another process that
//! lives under this node's name. A registry that cannot be asked refuses nothing. After that nothing that the registry says, or
//! does not say, ends the node: it is logged, shown, and tried again.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::directory::Directory;
use super::embedded::Embedded;
use super::etcd::Etcd;
use super::record::{Charter, Health, Identity, Record};
use super::redis::Redis;
use super::settings::{Backend, Settings};
use super::{Registry, Sighting, Trouble};
use crate::base::clock::Timestamp;
use crate::base::topology::NodeId;
use crate::limits::{REGISTRY_RETRY, REGISTRY_START, REGISTRY_TIME};

/// Asks the node how it is, for every announcement.
pub type AskHealth = Box<dyn Fn() -> Health + Send>;

/// A node's part in the registry.
pub struct Member {
    settings: Settings,
    directory: Arc<Directory>,
    charter: Charter,
    record: Record,
    /// Of others: what was said about their records, so that it is said once.
    complaints: Vec<Option<String>>,
    /// Another run whose announcement stood where ours belongs, and its beat.
    rival: Option<(String, u64)>,
    /// Since when the registry does not answer.
    lost_at: Option<Instant>,
}

/// Finds out, at the start, whether this node may take part, and announces it.
///
/// # Errors
/// One line: what the registry has against it.
pub fn join(settings: Settings, directory: Arc<Directory>, identity: &Identity) -> Result<Member, String> {
    let topology = Arc::clone(directory.topology());
    let mut member = Member {
        charter: Charter::of(&topology),
        record: Record::new(&topology, identity),
        complaints: vec![None; topology.nodes().count()],
        rival: None,
        lost_at: None,
        settings,
        directory,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot ask the registry: {error}"))?;
    runtime.block_on(async {
        match member.settings.backend {
            // Nobody is asked who could object.
            Backend::Embedded => Ok(()),
            Backend::Redis => member.enter(&mut member.redis()).await,
            Backend::Etcd => member.enter(&mut member.etcd()).await,
        }
    })?;
    if member.settings.backend == Backend::Embedded {
        member.directory.reached();
    }
    Ok(member)
}

impl Member {
    fn redis(&self) -> Redis {
        Redis::new(self.settings.clone(), self.directory.topology())
    }

    fn etcd(&self) -> Etcd {
        Etcd::new(self.settings.clone(), self.directory.topology())
    }

    /// Who this node knows, for all to read.
    pub fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// What kind of registry it is.
    pub fn backend(&self) -> Backend {
        self.settings.backend
    }

    /// Announces and looks until `leaving` is sent or dropped, then takes the announcement back.
    pub async fn run(self, health: AskHealth, leaving: oneshot::Receiver<()>) {
        match self.settings.backend {
            Backend::Embedded => {
                let embedded = Embedded::new(Arc::clone(&self.directory), self.settings.patience());
                self.keep(embedded, health, leaving).await;
            }
            Backend::Redis => {
                let redis = self.redis();
                self.keep(redis, health, leaving).await;
            }
            Backend::Etcd => {
                let etcd = self.etcd();
                self.keep(etcd, health, leaving).await;
            }
        }
    }

    /// One call, given up when it takes too long.
    async fn within<T>(&self, call: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        let patience = self.settings.patience();
        let backend = self.settings.backend;
        timeout(patience, call)
            .await
            .unwrap_or_else(|_| Err(Trouble::new(format!("{backend}: no answer within {patience:?}"))))
    }

    async fn enter(&mut self, registry: &mut impl Registry) -> Result<(), String> {
        let deadline = Instant::now() + REGISTRY_START;
        for _ in 0..self.settings.endpoints.len() {
            match timeout_at(deadline, self.within(registry.form(&self.charter.write()))).await {
                Ok(Ok(stands)) => {
                    if let Some(contradiction) = self.contradiction(&stands) {
                        return Err(contradiction);
                    }
                    return self.take_name(registry).await;
                }
                Ok(Err(trouble)) => self.lost(&trouble),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Announces this node; refuses when somebody else lives under its name. A process that was killed is no obstacle: its
    /// lease is waited for, unless it comes from the same disks, which are locked by whoever runs on them.
    async fn take_name(&mut self, registry: &mut impl Registry) -> Result<(), String> {
        let deadline = Instant::now() + self.settings.lease + 2 * REGISTRY_TIME;
        let mut first: Option<u64> = None;
        self.record.time = Timestamp::now().to_string();
        let outcome = loop {
            let mine = self.record.write();
            let stands = match self.within(registry.claim(&mine)).await {
                Ok(None) => break Ok(()),
                Ok(Some(stands)) => stands,
                Err(trouble) => break Err(trouble),
            };
            // What cannot be read is nobody's.
            let other = Record::read(&stands).ok().filter(|other| !other.same_disks(&self.record));
            let Some(other) = other else {
                break self.within(registry.announce(&mine)).await.map(|_| ());
            };
            let renewed = first.replace(other.beat).is_some_and(|beat| beat != other.beat);
            if renewed || Instant::now() >= deadline {
                return Err(Self::taken(&other));
            }
            tracing::warn!(node = %other.node, "another process was announced under this node's name: waiting for its lease");
            sleep(REGISTRY_RETRY.min(self.settings.lease / 3)).await;
        };
        let outcome = match outcome {
            Ok(()) => self.look(registry).await,
            Err(trouble) => Err(trouble),
        };
        match outcome {
            Ok(()) => self.reached(),
            Err(trouble) => self.lost(&trouble),
        }
        Ok(())
    }

    async fn keep(
        mut self,
        mut registry: impl Registry,
        health: AskHealth,
        mut leaving: oneshot::Receiver<()>,
    ) {
        loop {
            let begun = Instant::now();
            self.record.health = health();
            match self.beat(&mut registry).await {
                Ok(()) => self.reached(),
                Err(trouble) => self.lost(&trouble),
            }
            let usual = self.settings.lease / 3;
            let wait = if self.lost_at.is_none() && self.directory.all_alive() {
                usual
            } else {
                usual.min(REGISTRY_RETRY)
            };
            // Sent or dropped, it is time to go.
            if timeout_at(begun + wait, &mut leaving).await.is_ok() {
                break;
            }
        }
        if let Err(error) = self.within(registry.withdraw()).await {
            tracing::warn!(%error, "the announcement in the registry stays until its lease ends");
        }
    }

    async fn beat(&mut self, registry: &mut impl Registry) -> Result<(), Trouble> {
        self.record.beat += 1;
        self.record.time = Timestamp::now().to_string();
        let before = self.within(registry.announce(&self.record.write())).await?;
        self.directory.said(self.record.clone());
        let mut contradiction = before.and_then(|before| self.meet(&before));
        self.look(registry).await?;
        // Last, since it only matters to a registry that has forgotten everything.
        let stands = self.within(registry.form(&self.charter.write())).await?;
        contradiction = contradiction.or_else(|| self.contradiction(&stands));
        if let Some(news) = self.directory.contradict(contradiction) {
            tracing::error!("{news}");
        }
        Ok(())
    }

    /// What stood under this node's name. An earlier run of it may have left that there, or a registry that went back in
    /// time; somebody who goes on announcing is alive.
    fn meet(&mut self, before: &str) -> Option<String> {
        let other = Record::read(before).ok().filter(|other| other.run != self.record.run)?;
        let met = self.rival.replace((other.run.clone(), other.beat));
        let goes_on = met.is_some_and(|(run, beat)| run == other.run && beat != other.beat);
        (goes_on || !other.same_disks(&self.record)).then(|| Self::taken(&other))
    }

    async fn look(&mut self, registry: &mut impl Registry) -> Result<(), Trouble> {
        let sightings = self.within(registry.look()).await?;
        for (node, sighting) in self.directory.topology().nodes().zip(sightings) {
            if node != self.directory.topology().me() {
                self.take_in(node, sighting);
            }
        }
        Ok(())
    }

    fn take_in(&mut self, node: NodeId, sighting: Sighting) {
        let complaint = match sighting {
            Sighting::Announced(text) => {
                let heard = Record::read(&text).and_then(|record| self.directory.hear(node, record));
                if heard.is_err() {
                    self.directory.note(node, None);
                }
                heard.err()
            }
            Sighting::Answered { serving } => {
                self.directory.note(node, Some(serving));
                None
            }
            Sighting::Nothing => {
                self.directory.note(node, None);
                None
            }
        };
        let said = &mut self.complaints[node.index()];
        if let Some(complaint) = complaint.as_ref().filter(|complaint| said.as_ref() != Some(complaint)) {
            let name = self.directory.topology().name(node);
            tracing::error!(node = name, %complaint, "what the registry says of a node is not believed");
        }
        *said = complaint;
    }

    fn contradiction(&self, stands: &str) -> Option<String> {
        let cluster = self.directory.topology().cluster();
        let found = match Charter::read(stands) {
            Ok(recorded) => self.charter.difference(&recorded)?,
            Err(error) => format!("its record cannot be read: {error}"),
        };
        Some(format!(
            "the registry knows the cluster '{cluster}' otherwise: {found}: put the config right, or delete \
             amberblob/{cluster}/charter there if the registry is wrong"
        ))
    }

    fn taken(other: &Record) -> String {
        let at = |address: Option<std::net::SocketAddr>| address.map_or("-".to_owned(), |at| at.to_string());
        format!(
            "another process lives as '{}' in the cluster '{}' (public {}, peer {}, run {}): stop it, or give \
             this node a name of its own",
            other.node,
            other.cluster,
            at(other.addresses.public),
            at(other.addresses.peer),
            other.run
        )
    }

    fn reached(&mut self) {
        self.lost_at = None;
        if self.directory.reached() {
            tracing::info!(backend = %self.settings.backend, "the registry answers");
        }
    }

    fn lost(&mut self, trouble: &Trouble) {
        let lost_at = *self.lost_at.get_or_insert_with(Instant::now);
        let missing = self.directory.missing().join(", ");
        let news = self.directory.lost(trouble.to_string());
        if news && missing.is_empty() {
            tracing::warn!(error = %trouble, "the registry cannot be asked: going on with the addresses known");
        } else if news {
            tracing::warn!(error = %trouble, %missing, "the registry cannot be asked, and addresses are missing");
        }
        // No lease outlives this.
        if lost_at.elapsed() >= self.settings.lease {
            self.directory.doubt();
        }
    }
}

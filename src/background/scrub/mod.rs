//! The scrub: every chunk on this node's disks is read and compared with the SHA-256 that it is named by.
//!
//! A pass begins every `scrub.interval`, reads at most `scrub.rate`, and goes on where it was after a restart; another one runs
//! at once and at full rate when somebody asks for it, and the first one ends with that. What is damaged is entered
//! among the node's damages, and repaired by the cores from other replicas, if there are any.

mod file;
mod pass;
mod progress;
mod quarantine;

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::sleep;

use self::file::{Buffers, Rate};
use self::pass::{Pass, Position, Tally};
use self::progress::Progress;
use crate::base::clock::Timestamp;
use crate::base::error::{Code, Error, Result};
use crate::limits::{CHECK_RETRY, SCRUB_NICE, SCRUB_TICK};
use crate::metrics::DiskLabels;
use crate::shard::node::Node;

/// How the scrub is to work.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// From the begin of one pass to that of the next.
    pub interval: Duration,
    /// Bytes per second, unless somebody waits.
    pub rate: u64,
    /// How long damaged files are kept after their repair.
    pub quarantine: Duration,
}

/// Who asks for a pass now, and gets what it found.
pub(super) type Ask = async_channel::Sender<oneshot::Sender<Result<Value>>>;

/// Starts the thread that scrubs, until nobody can ask it any more. Where it shares a processor with a core that serves, that core
/// comes first.
///
/// # Errors
/// When the thread cannot be started.
pub(super) fn start(node: Arc<Node>, settings: Settings) -> io::Result<(Ask, JoinHandle<()>)> {
    let (ask, asked) = async_channel::bounded::<oneshot::Sender<Result<Value>>>(1);
    let run = move || {
        // Of this thread alone, and those that it starts.
        if let Err(error) = setpriority_process(None, SCRUB_NICE) {
            tracing::warn!(%error, "the scrub takes as much of a processor as those that serve");
        }
        tokio_uring::start(async move {
            let scrubber = Scrubber::start(node, settings);
            tokio_uring::spawn(Rc::clone(&scrubber).run());
            while let Ok(reply) = asked.recv().await {
                // Whoever asked may have gone.
                let _ = reply.send(scrubber.now().await);
            }
        });
    };
    Ok((ask, thread::Builder::new().name("scrub".to_owned()).spawn(run)?))
}

/// Asks for a pass now.
///
/// # Errors
/// `Internal` when the node stops.
pub(super) async fn now(ask: &Ask) -> Result<Value> {
    let stopped = || Error::new(Code::Internal, "the node stops: ask again when it is back");
    let (reply, report) = oneshot::channel();
    ask.send(reply).await.map_err(|_| stopped())?;
    report.await.unwrap_or_else(|_| Err(stopped()))
}

/// The scrub of a node.
struct Scrubber {
    node: Arc<Node>,
    settings: Settings,
    buffers: Buffers,
    /// Whether somebody waits for a pass.
    awaited: Cell<bool>,
}

impl Scrubber {
    /// To be made inside of the runtime.
    fn start(node: Arc<Node>, settings: Settings) -> Rc<Self> {
        let scrubber = Rc::new(Self { node, settings, buffers: Buffers::new(), awaited: Cell::new(false) });
        tokio_uring::spawn(quarantine::keep(Arc::clone(&scrubber.node), settings.quarantine));
        scrubber
    }

    /// Scrubs when it is due, for as long as the node runs.
    async fn run(self: Rc<Self>) {
        let tick = (self.settings.interval / 10).clamp(Duration::from_millis(100), SCRUB_TICK);
        loop {
            self.wait_checked().await;
            for disk in 0..self.node.disks.len() {
                self.scrub_if_due(disk).await;
            }
            sleep(tick).await;
        }
    }

    async fn wait_checked(&self) {
        while !self.node.slots_checked() {
            sleep(CHECK_RETRY).await;
        }
    }

    /// One pass over a disk, or the rest of one, if it is time.
    async fn scrub_if_due(&self, disk: usize) {
        let place = &self.node.disks[disk];
        if place.health().has_failed() {
            return;
        }
        let now = Timestamp::now();
        let Some(mut progress) = progress::load(place).await else {
            // A disk that is new has nothing to scrub; one of an earlier release is not scrubbed at its first start.
            return progress::save(place, &Progress { begun: now.0, ..Progress::default() }).await;
        };
        let due = Timestamp(progress.begun) <= now.minus(self.settings.interval);
        if progress.position.is_none() {
            if !due {
                return;
            }
            progress = Progress { begun: now.0, finished: progress.finished, ..Progress::default() };
        }
        let position = progress.position.unwrap_or_default();
        let start = Instant::now();
        // What an interrupted pass met before is known only if this is the same run.
        let whole = progress.position.is_none();
        let mut pass = Pass::new(self, disk, Rate::of(self.settings.rate));
        pass.note = Some(progress.clone());
        if pass.run(position).await {
            progress.position = None;
            progress.finished = Timestamp::now().0;
            progress::save(place, &progress).await;
            self.finished(disk, progress.finished);
            let (_, looked) = pass.settle().await;
            if whole {
                self.node.damages.forget_unmet(start, |slot| looked.contains(slot));
            }
        } else if !pass.overtaken
            && let Some(stopped) = &pass.note
        {
            progress::save(place, stopped).await;
        }
    }

    fn finished(&self, disk: usize, at: i64) {
        let finished = &self.node.metrics.scrub.finished;
        finished.get_or_create(&self.label(disk)).set(at / 1000);
    }

    fn label(&self, disk: usize) -> DiskLabels {
        DiskLabels { disk: self.node.disks[disk].root().display().to_string() }
    }

    /// One pass over all disks at once, and what it found.
    ///
    /// # Errors
    /// `Internal` when the node stops.
    async fn now(&self) -> Result<Value> {
        self.awaited.set(true);
        let report = self.all_disks().await;
        self.awaited.set(false);
        report
    }

    async fn all_disks(&self) -> Result<Value> {
        self.wait_checked().await;
        let start = Instant::now();
        let mut total = Tally::default();
        let mut disks = Vec::new();
        for disk in 0..self.node.disks.len() {
            let (begun, at) = (Timestamp::now().0, Instant::now());
            let mut pass = Pass::new(self, disk, Rate::none());
            if !pass.run(Position::default()).await {
                return Err(Error::new(Code::Internal, "the node stops: ask again when it is back"));
            }
            let (tally, looked) = pass.settle().await;
            self.node.damages.forget_unmet(at, |slot| looked.contains(slot));
            let finished = Timestamp::now().0;
            let place = &self.node.disks[disk];
            if !place.health().has_failed() {
                progress::save(place, &Progress { begun, finished, ..Progress::default() }).await;
                self.finished(disk, finished);
            }
            let mut described = tally.describe();
            described["disk"] = json!(place.root().display().to_string());
            disks.push(described);
            total.add(tally);
        }
        let mut report = total.describe();
        report["good"] = json!(total.is_good());
        report["seconds"] = json!(start.elapsed().as_secs_f64());
        report["disks"] = json!(disks);
        Ok(report)
    }
}

//! Looking after the disks: their free space, and whether they still do what they should.
//!
//! Each disk is watched by itself, so that one that does not answer holds up no other. It is probed now and then, and at once when
//! something went wrong on it. One that fails its probe, or does not answer it in time, has failed: its slots are out of service,
//! other replicas serve them, and the node stays. It is looked at again, so that people see whether it is back; only a start takes it
//! into service again, since what its databases believe is on disk may not be.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::limits::{INDEX_RETRY, PROBE_INTERVAL, PROBE_TICK, PROBE_TIME, SPACE_INTERVAL};
use crate::metrics::DiskLabels;
use crate::shard::node::Node;

/// Watches all disks for as long as the node runs.
pub(super) fn watch(node: &Arc<Node>) {
    for number in 0..node.disks.len() {
        tokio_uring::spawn(watch_space(Arc::clone(node), number));
        tokio_uring::spawn(watch_health(Arc::clone(node), number));
    }
    tokio_uring::spawn(retry_indexes(Arc::clone(node)));
}

/// Brings the metrics up to date.
pub(super) fn count(node: &Node) {
    for disk in &node.disks {
        let label = DiskLabels { disk: disk.root().display().to_string() };
        node.metrics.disk_state.get_or_create(&label).set(disk.health().state() as i64);
        node.metrics.disk_latency.get_or_create(&label).set(disk.health().latency().as_secs_f64());
    }
}

async fn watch_space(node: Arc<Node>, number: usize) {
    loop {
        let disk = Arc::clone(&node.disks[number]);
        if let Err(error) = spawn_blocking(move || disk.look()).await.unwrap_or_else(|gone| Err(gone.into()))
        {
            tracing::warn!(disk = %node.disks[number].root().display(), %error, "cannot look at the free space");
            node.disks[number].health().suspect();
            sleep(PROBE_INTERVAL).await;
        }
        sleep(SPACE_INTERVAL).await;
    }
}

async fn retry_indexes(node: Arc<Node>) {
    loop {
        if node.slots_checked() {
            node.indexes.retry();
        }
        sleep(INDEX_RETRY.min(SPACE_INTERVAL)).await;
    }
}

async fn watch_health(node: Arc<Node>, number: usize) {
    let disk = Arc::clone(&node.disks[number]);
    let (ask, asked) = async_channel::bounded::<oneshot::Sender<io::Result<()>>>(1);
    let probing = Arc::clone(&disk);
    let probe = move || {
        while let Ok(reply) = asked.recv_blocking() {
            // Who does not wait any more needs no answer.
            let _ = reply.send(probing.probe());
        }
    };
    if let Err(error) = thread::Builder::new().name(format!("probe-{number}")).spawn(probe) {
        return tracing::error!(%error, "a disk cannot be watched");
    }
    let mut due = Instant::now() + PROBE_INTERVAL;
    loop {
        sleep(PROBE_TICK).await;
        let suspected = disk.health().take_suspicion() | node.slots.take_suspicion(number);
        if !suspected && Instant::now() < due {
            continue;
        }
        let began = Instant::now();
        let (reply, mut answer) = oneshot::channel();
        if ask.send(reply).await.is_err() {
            return;
        }
        match timeout(PROBE_TIME, &mut answer).await {
            Ok(Ok(Ok(()))) => disk.health().answered(began.elapsed()),
            Ok(Ok(Err(error))) => fail(&node, number, &error.to_string()),
            Ok(Err(_)) => return,
            Err(_) => {
                fail(&node, number, &format!("it does not answer within {PROBE_TIME:?}"));
                let _ = answer.await;
            }
        }
        due = Instant::now() + PROBE_INTERVAL;
    }
}

fn fail(node: &Node, number: usize, why: &str) {
    let disk = &node.disks[number];
    if disk.health().fail(why) {
        tracing::error!(disk = %disk.root().display(), %why, "the disk has failed: its slots are out of service");
    }
    // Again with each probe: a slot may have come into service in between.
    node.slots.fail_all(
        number,
        &format!("its disk {} has failed: {}", disk.root().display(), disk.health().reason()),
    );
}

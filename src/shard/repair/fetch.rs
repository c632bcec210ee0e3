//! Bytes of a version from its other replicas or the archive, good by the checksums here.
//!
//! A replica that is asked answers from what it has, without asking others in turn, and breaks off where it is damaged itself. All
//! of them may be damaged, each at another place: so what one lacks is asked of the next, at last a granule at a time. What then is
//! still missing is asked of the archive, if that has the chunk.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use monoio::time::timeout;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::base::checksum;
use crate::base::slot::Slot;
use crate::base::topology::NodeId;
use crate::limits::{CHUNK_SIZE, GRANULE_SIZE, HOPS_FILES, REPAIR_ANSWER_TIME, REPAIR_FETCH_TIME};
use crate::meta::whole::Whole;
use crate::shard::archive::desk::Desk;
use crate::shard::archive::in_object;
use crate::shard::core::Core;
use crate::shard::peers::cluster::Cluster;
use crate::shard::peers::link::{HOPS_FIELD, Link};
use crate::wire::head::Framing;

const GRANULE: usize = GRANULE_SIZE as usize;
/// What stands in a path as it is.
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Who else may have a version: its other replicas, and the archive.
pub(super) struct Others<'a> {
    pub(super) core: &'a Rc<Core>,
    /// None: no replica is asked.
    cluster: Option<&'a Arc<Cluster>>,
    pub(super) slot: Slot,
    pub(super) whole: &'a Whole,
    /// Why the archive did not help when it was last asked.
    refused: RefCell<Option<String>>,
}

/// Bytes as they are gathered, granule by granule.
struct Gathered<'a> {
    bytes: Vec<u8>,
    missing: Vec<bool>,
    sums: &'a [u32],
}

impl Gathered<'_> {
    /// Takes those granules among the first bytes from granule `first` on that are good.
    fn take(&mut self, first: usize, came: &[u8]) {
        let start = first * GRANULE;
        let len = came.len().min(self.bytes.len() - start);
        for (at, granule) in came[..len].chunks(GRANULE).enumerate() {
            let (index, from) = (first + at, start + at * GRANULE);
            // One that is cut short is none.
            let whole = self.bytes.len().min(from + GRANULE) - from;
            let sum = self.sums.get(index..=index).unwrap_or_default();
            if granule.len() == whole && checksum::first_mismatch(granule, sum).is_none() {
                self.bytes[from..from + whole].copy_from_slice(granule);
                self.missing[index] = false;
            }
        }
    }

    fn is_whole(&self) -> bool {
        !self.missing.contains(&true)
    }
}

impl<'a> Others<'a> {
    pub(super) fn new(
        core: &'a Rc<Core>,
        cluster: Option<&'a Arc<Cluster>>,
        slot: Slot,
        whole: &'a Whole,
    ) -> Self {
        Self { core, cluster, slot, whole, refused: RefCell::default() }
    }

    /// Bytes `range`, which begins on a granule and lies in one chunk, of which `sums` are the checksums; none: nobody has them.
    pub(super) async fn fetch(&self, range: Range<u64>, sums: &[u32]) -> Option<Vec<u8>> {
        let len = (range.end - range.start) as usize;
        let missing = vec![true; len.div_ceil(GRANULE)];
        let mut gathered = Gathered { bytes: vec![0; len], missing, sums };
        if let Some(cluster) = self.cluster {
            self.ask_replicas(cluster, &range, &mut gathered).await;
        }
        if !gathered.is_whole()
            && let Some(desk) = &self.core.node.archive
        {
            let asked = self.ask_archive(desk, &range, &mut gathered).await;
            *self.refused.borrow_mut() = asked.err();
        }
        gathered.is_whole().then_some(gathered.bytes)
    }

    /// The same, from the first replica that answers and has all of them in files.
    pub(super) async fn fetch_from_one(
        &self,
        cluster: &Cluster,
        range: Range<u64>,
        sums: &[u32],
    ) -> Option<Vec<u8>> {
        let len = range.end - range.start;
        for node in cluster.others(self.slot).into_iter().filter(|node| cluster.is_reachable(*node)) {
            let (came, _) = self.ask(cluster, node, range.clone()).await;
            if came.len() as u64 == len && checksum::first_mismatch(&came, sums).is_none() {
                return Some(came);
            }
        }
        None
    }

    /// Whether replicas were asked, and why the archive did not help, if there is one.
    pub(super) fn lacking(&self) -> (bool, Option<String>) {
        (self.cluster.is_some(), self.refused.borrow().clone())
    }

    /// Gathers what the other replicas have of bytes `range`.
    async fn ask_replicas(&self, cluster: &Cluster, range: &Range<u64>, gathered: &mut Gathered<'_>) {
        // Those that do not answer too, at last: they may only be busy, and nobody else can help.
        let mut nodes: Vec<NodeId> = Vec::new();
        for node in cluster.others(self.slot) {
            let (came, answers) = self.ask(cluster, node, range.clone()).await;
            gathered.take(0, &came);
            if gathered.is_whole() {
                return;
            }
            if answers {
                nodes.push(node);
            }
        }
        if gathered.missing.len() == 1 {
            return;
        }
        for granule in 0..gathered.missing.len() {
            let start = range.start + granule as u64 * GRANULE_SIZE;
            for node in &nodes {
                if gathered.missing[granule] {
                    let end = range.end.min(start + GRANULE_SIZE);
                    let (came, _) = self.ask(cluster, *node, start..end).await;
                    gathered.take(granule, &came);
                }
            }
            if gathered.missing[granule] {
                return;
            }
        }
    }

    /// Gathers what the archive has of them.
    async fn ask_archive(
        &self,
        desk: &Desk,
        range: &Range<u64>,
        gathered: &mut Gathered<'_>,
    ) -> Result<(), String> {
        let (row, number) = (self.whole.row, range.start / CHUNK_SIZE);
        let archived = self.core.node.readers.archived_chunk(self.slot, row, number).await;
        let archived = archived.map_err(|error| error.message.into_owned())?;
        let object = archived.ok_or("the chunk was not archived")?;
        // Twice: the first bytes may have been changed on their way.
        for _ in 0..2 {
            let came = desk.fetch(self.slot, &object.target, in_object(&object, range)).await?;
            gathered.take(0, &came);
            if gathered.is_whole() {
                return Ok(());
            }
        }
        Err(format!("{} has other bytes than the checksums in the database tell", object.target))
    }

    /// What comes of bytes `range` from a replica, perhaps nothing; and whether it answers at all.
    async fn ask(&self, cluster: &Cluster, node: NodeId, range: Range<u64>) -> (Vec<u8>, bool) {
        let mut came = Vec::new();
        let asking = timeout(REPAIR_FETCH_TIME, self.try_ask(node, &range, &mut came)).await;
        let Err(error) = asking.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) else {
            return (came, true);
        };
        let (name, blob) = (cluster.topology().name(node), self.whole.blob);
        tracing::debug!(node = name, %blob, ?range, %error, "a replica does not have all of what is damaged here");
        let silent = [io::ErrorKind::TimedOut, io::ErrorKind::ConnectionRefused];
        (came, !silent.contains(&error.kind()))
    }

    async fn try_ask(&self, node: NodeId, range: &Range<u64>, came: &mut Vec<u8>) -> io::Result<()> {
        let whole = self.whole;
        let target = format!(
            "/objects/{}?version={}&start={}&end={}&consistency=local",
            utf8_percent_encode(&whole.path, &PLAIN),
            whole.version,
            range.start,
            range.end
        );
        // From files, or not at all: who asks has the archive asked last.
        let question = Link::head(self.core, node, "GET", &target).header(HOPS_FIELD, HOPS_FILES).write();
        let link = Link::open(self.core, node, false).await?;
        let (head, mut link) = match begin(link, question.clone()).await {
            // An old connection may turn out to be dead.
            Err((_, true)) => {
                let link = Link::open(self.core, node, true).await?;
                begin(link, question).await.map_err(|(error, _)| error)?
            }
            begun => begun.map_err(|(error, _)| error)?,
        };
        if head.status != 206 {
            return Err(io::Error::other(format!("it answers {}", head.status)));
        }
        if head.headers.get_str("etag") != Some(&format!("\"{}\"", whole.blob)) {
            return Err(io::Error::other("it has another blob of that version"));
        }
        if head.framing != Framing::Length(range.end - range.start) {
            return Err(io::Error::other("its blob has another size"));
        }
        link.receive_into(came, (range.end - range.start) as usize).await?;
        if head.keep_alive {
            link.keep(self.core);
        }
        Ok(())
    }
}

type Begun = (crate::wire::answer::AnswerHead, Link);

/// Sends a question and receives the head of the answer; an error also says whether the connection was an old one.
async fn begin(mut link: Link, question: Vec<u8>) -> Result<Begun, (io::Error, bool)> {
    let used = link.used;
    let talk = async {
        link.connection.send(question).await?;
        link.answer().await
    };
    match timeout(REPAIR_ANSWER_TIME, talk).await {
        Ok(Ok(head)) => Ok((head, link)),
        Ok(Err(error)) => Err((error, used)),
        Err(_) => Err((io::ErrorKind::TimedOut.into(), false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::checksum::GranuleSums;

    #[test]
    fn replicas_that_are_damaged_at_different_places_make_up_a_whole_together() {
        let good: Vec<u8> = (0..3 * GRANULE + 100).map(|i| (i * 7 % 251) as u8).collect();
        let mut sums = GranuleSums::default();
        sums.update(&good);
        let sums = sums.take();
        let mut gathered = Gathered { bytes: vec![0; good.len()], missing: vec![true; 4], sums: &sums };
        let mut first = good.clone();
        first[GRANULE + 3] ^= 1;
        first[3 * GRANULE + 3] ^= 1;
        gathered.take(0, &first);
        assert_eq!(gathered.missing, [false, true, false, true]);
        // Broken off in a granule.
        gathered.take(0, &good[..2 * GRANULE - 1]);
        gathered.take(3, &good[3 * GRANULE..]);
        assert_eq!(gathered.missing, [false, true, false, false]);
        gathered.take(1, &good[GRANULE..2 * GRANULE]);
        assert!(gathered.is_whole());
        assert_eq!(gathered.bytes, good);
    }
}

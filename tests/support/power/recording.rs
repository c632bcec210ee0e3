//! A run of nodes whose disks logged everything, and the states that a power cut in it would have left.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::clients::{self, Load};
use super::cuts::{Cut, Moments};
use super::device::{Disk, FileSystem, Rig};
use super::judge::judge;
use super::ledger::Entry;
use super::nodes::{Kind, Nodes};
use super::support::{Random, skipped, wait_until};

/// States that are looked at at the same time.
const WORKERS: usize = 2;
/// The devices of a recording and of its states are given up after this: a recording has at most some hundred states, each of
/// which takes less than a second.
const LIFETIME: Duration = Duration::from_secs(400);
/// States of one recording that no file system could be found in.
const UNSEEN: usize = 1;
/// Chunks of versions that were deleted go within this, where there is no grace to speak of.
const SWEPT: Duration = Duration::from_secs(30);

pub struct Recording {
    rig: Rig,
    kind: Kind,
    disks: Vec<Disk>,
    entries: Vec<Entry>,
    moments: Moments,
}

impl Recording {
    /// Runs nodes on new disks; or says why that file system is not possible here.
    pub fn make(kind: &Kind, files: FileSystem, load: Load, seed: u64) -> Result<Self, String> {
        let rig = Rig::new(LIFETIME)?;
        let disks = (0..kind.nodes * kind.disks).map(|number| rig.try_disk(&format!("node-{number}"), files));
        let mut disks: Vec<Disk> = disks.collect::<Result<_, _>>()?;
        let begun = rig.moment();
        let mut nodes = Nodes::start(kind, &disks, None);
        let ready = rig.moment();
        let mut entries = clients::run(&rig, &nodes.publics(), load, seed);
        if load.sweeps {
            wait_until(SWEPT, "deleted versions to lose their chunks", || nodes.dropped() > 0);
            entries.extend(clients::run(&rig, &nodes.publics(), load, !seed));
        }
        let ended = rig.moment();
        nodes.kill();
        drop(nodes);
        for disk in &mut disks {
            disk.unmount()?;
        }
        let moments = Moments::of([begun, ready, ended], &disks, &entries);
        Ok(Self { rig, kind: kind.honest(), disks, entries, moments })
    }

    pub fn describe(&self) -> String {
        let Moments { writes, flushes, answers, .. } = &self.moments;
        format!(
            "{} nodes, {:?}: {} answers, {} writes, {} flushes",
            self.kind.nodes,
            self.disks[0].kind(),
            answers.len(),
            writes.len(),
            flushes.len()
        )
    }

    /// Looks at so many states, and says what was wrong with which, at most `enough` of them. That a state could not be looked at
    /// is no such thing, but a failure, unless it is one of very many: ext4 sends its superblock to the disk while it changes it, and
    /// then, rarely, does not mount what is left.
    #[track_caller]
    pub fn check(&self, states: usize, enough: usize, seed: u64) -> Vec<String> {
        let mut random = Random::new(seed);
        let cuts: Vec<Cut> = (0..states).map(|_| self.choose(&self.moments, &mut random)).collect();
        let (next, wrong, unseen) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        let (Some(cut), true) = (cuts.get(number), wrong.lock().unwrap().len() < enough)
                        else {
                            break;
                        };
                        // A node that does not start is a panic.
                        let look = std::panic::AssertUnwindSafe(|| self.look(cut, number));
                        let outcome = std::panic::catch_unwind(look)
                            .unwrap_or_else(|panic| Err(Wrong::Shown(message(&*panic))));
                        let (what, list) = match outcome {
                            Ok(()) => continue,
                            Err(Wrong::Shown(what)) => (what, &wrong),
                            Err(Wrong::Unseen(what)) => (what, &unseen),
                        };
                        list.lock().unwrap().push(format!("state {number}, {cut:?}: {what}"));
                    }
                });
            }
        });
        let unseen = unseen.into_inner().unwrap();
        let unmounted = unseen.iter().filter(|what| what.contains("cannot mount")).count();
        assert!(
            unseen.len() == unmounted && unmounted <= UNSEEN,
            "states that could not be looked at:\n{}",
            unseen.join("\n")
        );
        unseen.iter().for_each(|what| skipped(&format!("a state that could not be looked at: {what}")));
        wrong.into_inner().unwrap()
    }

    fn choose(&self, moments: &Moments, random: &mut Random) -> Cut {
        Cut::choose(moments, self.kind.nodes, self.kind.disks, random)
    }

    fn look(&self, cut: &Cut, number: usize) -> Result<(), Wrong> {
        let (mut disks, entries, moments) =
            self.restart(&self.disks, &self.entries, cut, &format!("state-{number}"))?;
        if !cut.again {
            return Ok(());
        }
        for disk in &mut disks {
            disk.unmount().map_err(Wrong::Unseen)?;
        }
        // Once more, of what ran just now.
        let mut next = self.choose(&moments, &mut Random::new(cut.losses[0].1));
        // What was lost for good was not there.
        next.lost = cut.lost;
        let again = self.restart(&disks, &entries, &next, &format!("state-{number}-again"));
        again.map(drop).map_err(|wrong| match wrong {
            Wrong::Shown(what) => Wrong::Shown(format!("and again, {next:?}: {what}")),
            unseen @ Wrong::Unseen(_) => unseen,
        })
    }

    /// Starts nodes on what a power cut leaves of some disks, and judges what they show. What has happened by then.
    fn restart(
        &self,
        disks: &[Disk],
        entries: &[Entry],
        cut: &Cut,
        name: &str,
    ) -> Result<(Vec<Disk>, Vec<Entry>, Moments), Wrong> {
        let left = disks.iter().zip(&cut.losses).enumerate().map(|(number, (disk, (loss, seed)))| {
            disk.after_cut(cut.at, *loss, *seed, &format!("{name}-{number}"))
        });
        let left: Vec<Disk> = left.collect::<Result<_, _>>().map_err(Wrong::Unseen)?;
        let begun = self.rig.moment();
        let mut entries = clients::until(entries, cut.at);
        let mut nodes = Nodes::start(&self.kind, &left, cut.lost);
        let ready = self.rig.moment();
        let seen = judge(&self.rig, &nodes.publics(), &entries, cut.losses[0].1);
        nodes.kill();
        entries.extend(seen.map_err(Wrong::Shown)?);
        let moments = Moments::of([begun, ready, self.rig.moment()], &left, &entries);
        Ok((left, entries, moments))
    }
}

/// What came of a state.
enum Wrong {
    /// It shows what must not be.
    Shown(String),
    /// It could not be made, or mounted.
    Unseen(String),
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

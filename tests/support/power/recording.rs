//! A run of nodes whose disks logged everything, and the states that a power cut in it would have left.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::clients::{self, Load};
use super::cuts::{Cut, Moments};
use super::device::{Disk, FileSystem, Rig, What};
use super::judge::judge;
use super::ledger::Entry;
use super::nodes::{Kind, Nodes};
use super::support::Random;

/// States that are looked at at the same time.
const WORKERS: usize = 2;
/// The devices of a recording and of its states are given up after this: a recording has at most some hundred states, each of
/// which takes less than a second.
const LIFETIME: Duration = Duration::from_secs(400);

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
        let disks = (0..kind.nodes).map(|number| rig.try_disk(&format!("node-{number}"), files));
        let mut disks: Vec<Disk> = disks.collect::<Result<_, _>>()?;
        let begun = rig.moment();
        let mut nodes = Nodes::start(kind, &disks, None);
        let entries = clients::run(&rig, &nodes.publics(), load, seed);
        let ended = rig.moment();
        nodes.kill();
        drop(nodes);
        for disk in &mut disks {
            disk.unmount()?;
        }
        let mut moments = Moments { begun, ended, ..Moments::default() };
        moments.answers.extend(entries.iter().map(|entry| entry.answered).filter(|at| *at < ended));
        for event in disks.iter().flat_map(Disk::events).filter(|event| (begun..ended).contains(&event.at)) {
            match event.what {
                What::Flush => moments.flushes.push(event.at),
                What::Write { .. } => moments.writes.push(event.at),
            }
        }
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

    /// Looks at so many states, and says what was wrong with which, at most `enough` of them.
    pub fn check(&self, states: usize, enough: usize, seed: u64) -> Vec<String> {
        let mut random = Random::new(seed);
        let cuts: Vec<Cut> =
            (0..states).map(|_| Cut::choose(&self.moments, self.kind.nodes, &mut random)).collect();
        let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
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
                        let look =
                            std::panic::AssertUnwindSafe(|| self.look(cut, &format!("state-{number}")));
                        let outcome =
                            std::panic::catch_unwind(look).unwrap_or_else(|panic| Err(message(&*panic)));
                        if let Err(what) = outcome {
                            wrong.lock().unwrap().push(format!("state {number}, {cut:?}: {what}"));
                        }
                    }
                });
            }
        });
        wrong.into_inner().unwrap()
    }

    fn look(&self, cut: &Cut, name: &str) -> Result<(), String> {
        let disks = self.disks.iter().zip(&cut.losses).enumerate();
        let disks = disks.map(|(number, (disk, (loss, seed)))| {
            disk.after_cut(cut.at, *loss, *seed, &format!("{name}-{number}"))
        });
        let disks: Vec<Disk> = disks.collect::<Result<_, _>>()?;
        let entries = clients::until(&self.entries, cut.at);
        let mut nodes = Nodes::start(&self.kind, &disks, cut.lost);
        let judged = judge(&nodes.publics(), &entries, cut.losses[0].1);
        nodes.kill();
        judged
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

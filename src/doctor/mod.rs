//! Looks at a machine, a config and what the config names, and says what is well, what could be better, and what is wrong, each
//! with what was seen and the command that changes it. Nothing is changed, and nothing is left behind.
//!
//! There is a check for every knob of `tuning.md`, under the same name; a test holds the two to the same list.

mod block;
mod kernel;
mod machine;
mod memory;
mod network;
mod reach;
mod server;

use std::fmt;

use serde::Serialize;

pub use self::machine::Machine;
use crate::config::Config;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be, or a choice that was made.
    Ok,
    /// It would be better otherwise.
    Advice,
    /// The node will not run, or not keep what it promises.
    Problem,
}

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The knob of `tuning.md`, or what of the config it is about.
    pub name: String,
    /// How it is.
    pub level: Level,
    /// What was seen.
    pub saw: String,
    /// What would be better; empty if nothing is to be done.
    pub better: String,
    /// The command that does it.
    pub command: String,
}

/// What a check says: how it is, what it saw, what is better, the command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    level: Level,
    saw: String,
    better: String,
    command: String,
}

fn ok(saw: impl Into<String>) -> Said {
    Said { level: Level::Ok, saw: saw.into(), better: String::new(), command: String::new() }
}

fn advice(saw: impl Into<String>, better: impl Into<String>, command: impl Into<String>) -> Said {
    Said { level: Level::Advice, saw: saw.into(), better: better.into(), command: command.into() }
}

fn problem(saw: impl Into<String>, better: impl Into<String>, command: impl Into<String>) -> Said {
    Said { level: Level::Problem, ..advice(saw, better, command) }
}

type Check = fn(&Machine, &Config) -> Said;

/// The knobs, in the order of `tuning.md`.
const KNOBS: [(&str, Check); 47] = [
    ("cores", server::cores),
    ("cache", server::cache),
    ("io-mode", server::io_mode),
    ("send-mode", server::send_mode),
    ("durability", server::durability),
    ("retention", server::retention),
    ("scrub", server::scrub),
    ("sync", server::sync),
    ("archive", server::archive),
    ("disks", block::disks),
    ("listen", network::listen),
    ("hugepages", memory::hugepages),
    ("hugepage-defrag", memory::hugepage_defrag),
    ("memlock", memory::memlock),
    ("memory-limits", memory::memory_limits),
    ("dirty", memory::dirty),
    ("io-uring", kernel::io_uring),
    ("nofile", kernel::nofile),
    ("iowq-workers", kernel::iowq_workers),
    ("mitigations", kernel::mitigations),
    ("iommu", kernel::iommu),
    ("time-sync", kernel::time_sync),
    ("tcp-buffers", network::tcp_buffers),
    ("tcp-queueing", network::tcp_queueing),
    ("congestion-control", network::congestion_control),
    ("mtu", network::mtu),
    ("big-tcp", network::big_tcp),
    ("busy-poll", network::busy_poll),
    ("nic-queues", network::nic_queues),
    ("irq-affinity", network::irq_affinity),
    ("steering", network::steering),
    ("nic-rings", network::nic_rings),
    ("coalescing", network::coalescing),
    ("offloads", network::offloads),
    ("scheduler", block::scheduler),
    ("nvme-queues", block::nvme_queues),
    ("request-size", block::request_size),
    ("write-cache", block::write_cache),
    ("discard", block::discard),
    ("raid", block::raid),
    ("filesystem", block::filesystem),
    ("ext4-layout", block::ext4_layout),
    ("xfs-layout", block::xfs_layout),
    ("cpu-power", kernel::cpu_power),
    ("smt", kernel::smt),
    ("numa", kernel::numa),
    ("sqlite", server::sqlite),
];

/// Looks at everything; `reach`: also whether the registry, the other nodes and the store can be reached.
pub fn examine(machine: &Machine, config: &Config, reach: bool) -> Vec<Finding> {
    let finding = |name: &str, said: Said| {
        let Said { level, saw, better, command } = said;
        Finding { name: name.to_owned(), level, saw, better, command }
    };
    let mut found: Vec<Finding> =
        KNOBS.iter().map(|(name, check)| finding(name, check(machine, config))).collect();
    if reach {
        found.extend(reach::all(config).into_iter().map(|(name, said)| finding(&name, said)));
    }
    found
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Advice => "advice",
            Self::Problem => "problem",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:8} {:18} {}", self.level, self.name, self.saw)?;
        if !self.better.is_empty() {
            write!(f, "; better: {}", self.better)?;
        }
        if self.command.is_empty() { Ok(()) } else { write!(f, "\n{:28}$ {}", "", self.command) }
    }
}

/// A number of bytes for a person.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x2_8000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_knob_of_the_tuning_guide_is_looked_at_and_no_other() {
        let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tuning.md")).unwrap();
        let described: Vec<&str> = guide.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let checked: Vec<&str> = KNOBS.iter().map(|(name, _)| *name).collect();
        assert_eq!(checked, described);
    }

    /// A machine that is made of files.
    pub(super) fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let machine = Machine::at(root.path());
        (root, machine)
    }

    pub(super) fn config() -> Config {
        Config::load(None, std::iter::empty(), None).unwrap()
    }

    #[test]
    fn a_machine_that_tells_nothing_is_examined_all_the_same() {
        let (_root, machine) = machine(&[]);
        let found = examine(&machine, &config(), false);
        assert_eq!(found.len(), KNOBS.len());
        for finding in &found {
            assert!(!finding.saw.is_empty(), "{finding:?}");
            assert_eq!(finding.level == Level::Ok, finding.better.is_empty(), "{finding:?}");
        }
    }

    #[test]
    fn a_finding_is_a_line_and_its_command() {
        let said = advice("never", "madvise", "echo madvise > x");
        let finding = Finding {
            name: "k".to_owned(),
            level: said.level,
            saw: said.saw,
            better: said.better,
            command: said.command,
        };
        let text = finding.to_string();
        assert!(text.starts_with("advice   k ") && text.ends_with("$ echo madvise > x"), "{text}");
        assert_eq!(
            (size(100), size(5 << 20), size(32 << 30)),
            ("100 bytes".into(), "5 MiB".into(), "32 GiB".into())
        );
    }
}

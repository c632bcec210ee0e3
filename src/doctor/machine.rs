//! What a machine tells of itself: files below `/proc` and `/sys`, and a few programs.

use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A machine; in tests one that is made of files.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    is_real: bool,
}

/// A network card: what has a device behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Nic {
    pub(super) name: String,
    /// Mb/s, as far as it is known.
    pub(super) speed: Option<u64>,
}

/// A file system that a directory is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) kind: String,
    pub(super) options: String,
    /// `major:minor` of its device.
    pub(super) device: String,
    pub(super) point: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        Self { root: PathBuf::from("/"), is_real: true }
    }

    /// One whose files stand below a directory; no programs are run.
    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), is_real: false }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file, without the white space around it.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let bytes = std::fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A sysctl, like `vm.swappiness`.
    pub(super) fn sysctl(&self, name: &str) -> Option<String> {
        self.read(&format!("/proc/sys/{}", name.replace('.', "/")))
    }

    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// The names in a directory, in order.
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// What a program prints, if it is there and succeeds.
    pub(super) fn run(&self, program: &str, args: &[&str]) -> Option<String> {
        if !self.is_real {
            return None;
        }
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(program);
        command.args(args).env("PATH", path).env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The memory, in bytes.
    pub(super) fn memory(&self) -> u64 {
        let kib = self.read("/proc/meminfo").and_then(|text| field(&text, "MemTotal:")?.parse::<u64>().ok());
        kib.unwrap_or(0) << 10
    }

    /// What the kernel was booted with.
    pub(super) fn boot_has(&self, parameter: &str) -> bool {
        self.read("/proc/cmdline").is_some_and(|line| line.split_whitespace().any(|word| word == parameter))
    }

    pub(super) fn nics(&self) -> Vec<Nic> {
        let names = self.list("/sys/class/net").into_iter();
        let real = names.filter(|name| self.has(&format!("/sys/class/net/{name}/device")));
        real.map(|name| Nic { speed: self.number(&format!("/sys/class/net/{name}/speed")), name }).collect()
    }

    /// CPUs that are on.
    pub(super) fn cpus(&self) -> usize {
        self.read("/sys/devices/system/cpu/online").map_or(1, |list| count(&list))
    }

    /// The file system of a directory, or of what there is of its path.
    pub(super) fn mount(&self, dir: &Path) -> Option<Mount> {
        let there = existing(dir)?;
        let device = std::fs::metadata(&there).ok()?.st_dev();
        let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let mounts = self.read("/proc/self/mountinfo")?;
        mounts.lines().filter_map(parse_mount).rfind(|mount| mount.device == device)
    }

    /// Where a device's queue stands below `/sys`, that of the disk for a partition.
    pub(super) fn queue(&self, device: &str) -> Option<(String, String)> {
        let link = std::fs::canonicalize(self.path(&format!("/sys/dev/block/{device}"))).ok()?;
        let disk = if link.join("partition").exists() { link.parent()?.to_owned() } else { link };
        let name = disk.file_name()?.to_string_lossy().into_owned();
        let queue = disk.join("queue");
        let below = queue.strip_prefix(&self.root).unwrap_or(&queue).display().to_string();
        queue.is_dir().then_some((name, below))
    }
}

/// The nearest directory above that is there.
pub(super) fn existing(dir: &Path) -> Option<PathBuf> {
    let dir = std::path::absolute(dir).ok()?;
    dir.ancestors().find(|dir| dir.is_dir()).map(Path::to_owned)
}

/// The second word of the line that begins so.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
}

/// How many numbers a list like `0-3,8` names.
pub(super) fn count(numbers: &str) -> usize {
    let of = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (usize, usize) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        Some((to + 1).saturating_sub(from))
    };
    numbers.split(',').filter_map(of).sum()
}

/// The word in brackets of a list like `always [madvise] never`.
pub(super) fn chosen(text: &str) -> &str {
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or(text, |(chosen, _)| chosen)
}

/// A line of mountinfo, proc(5).
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let before: Vec<&str> = before.split(' ').collect();
    let mut after = after.split(' ');
    let kind = after.next()?.to_owned();
    let of_all = after.nth(1).unwrap_or_default();
    let (device, point) = (before.get(2)?, before.get(4)?);
    let options = format!("{},{of_all}", before.get(5)?);
    Some(Mount { kind, options, device: (*device).to_owned(), point: (*point).to_owned() })
}

impl Mount {
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|it| it == option)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_choices_and_mounts_are_read() {
        assert_eq!((count("0-3,8"), count("0"), count("")), (5, 1, 0));
        assert_eq!(chosen("always [madvise] never"), "madvise");
        let line = "36 35 98:0 / /srv/d0 rw,noatime master:1 - ext4 /dev/nvme0n1 rw,errors=continue";
        let mount = parse_mount(line).unwrap();
        assert_eq!(
            (mount.kind.as_str(), mount.device.as_str(), mount.point.as_str()),
            ("ext4", "98:0", "/srv/d0")
        );
        assert!(mount.has("noatime") && mount.has("errors=continue") && !mount.has("master:1"));
        assert_eq!(parse_mount("rubbish"), None);
    }
}

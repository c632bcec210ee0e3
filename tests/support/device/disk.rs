//! A file system on a device of a rig, mounted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::command::run;
use super::control::{Answer, Ask};
use super::faults::Fault;
use super::log::{Event, Loss};
use super::rig::Rig;

/// How long a file system may be in use after its user has ended.
const UNMOUNT_TIME: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    /// How large its devices are: a node leaves its journal alone where less than 2 GiB are free. What is never written takes
    /// no memory.
    pub fn bytes(self) -> u64 {
        3 << 30
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Whether this kernel can mount it.
    pub fn is_known(self) -> bool {
        let listed = || {
            let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
            known.lines().any(|line| line.split_ascii_whitespace().last() == Some(self.name()))
        };
        listed() || (run("modprobe", &[self.name()]).is_ok() && listed())
    }

    /// Makes an empty one in a file.
    pub fn make(self, file: &Path) -> Result<(), String> {
        let sized = std::fs::File::create(file).and_then(|file| file.set_len(self.bytes()));
        sized.map_err(|error| format!("{}: {error}", file.display()))?;
        let file = file.to_string_lossy();
        match self {
            // Nothing is left for later, so that an idle file system writes nothing.
            Self::Ext4 => {
                let now = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
                run("mkfs.ext4", &["-q", "-F", "-m", "0", "-N", "16384", "-J", "size=8", "-E", now, &file])
            }
            Self::Xfs => run("mkfs.xfs", &["-q", "-f", "-K", &file]),
            Self::Btrfs => run("mkfs.btrfs", &["-q", "-f", "-K", &file]),
        }?;
        Ok(())
    }

    fn options(self) -> &'static str {
        match self {
            // It reads and writes nothing by itself.
            Self::Ext4 => "errors=remount-ro,no_prefetch_block_bitmaps",
            // A device that was cut off another one has its name.
            Self::Xfs => "nouuid",
            Self::Btrfs => "nodiscard",
        }
    }
}

/// A disk; it is unmounted when it goes, so what is on it must have been closed by then.
pub struct Disk {
    rig: Rig,
    name: String,
    kind: FileSystem,
    device: String,
    mounted: bool,
}

impl Disk {
    /// Mounts a device of the rig.
    pub(super) fn mount(rig: Rig, name: String, kind: FileSystem) -> Result<Self, String> {
        let mut this = Self { rig, name, kind, device: String::new(), mounted: false };
        let made = std::fs::create_dir(this.path());
        made.map_err(|error| format!("{}: {error}", this.path().display()))?;
        this.mount_again()?;
        Ok(this)
    }

    /// Where its files are.
    pub fn path(&self) -> PathBuf {
        self.rig.home().join("disks").join(&self.name)
    }

    pub fn kind(&self) -> FileSystem {
        self.kind
    }

    /// Mounts it after [`Self::unmount`].
    pub fn mount_again(&mut self) -> Result<(), String> {
        let file = super::daemon::files(self.rig.home()).join(&self.name);
        let file = file.to_string_lossy();
        let attach = || run("losetup", &["--find", "--show", "--direct-io=on", &file]);
        let device = attach().or_else(|wrong| if make_node()? { attach() } else { Err(wrong) })?;
        self.device = device.trim().to_owned();
        let at = self.path();
        let mounting = run(
            "mount",
            &["-t", self.kind.name(), "-o", self.kind.options(), &self.device, &at.to_string_lossy()],
        );
        // A loop device goes by itself with its last user, which is the mount now.
        let detached = run("losetup", &["-d", &self.device]);
        mounting.and(detached)?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it in good order, and reports if that is not possible; then it is unmounted lazily.
    pub fn unmount(&mut self) -> Result<(), String> {
        if !std::mem::take(&mut self.mounted) {
            return Ok(());
        }
        let at = self.path();
        let at = at.to_string_lossy();
        // What a program that was killed had under way may hold its files for a moment longer.
        let began = Instant::now();
        loop {
            match run("umount", &[&at]) {
                Ok(_) => return Ok(()),
                Err(wrong) if began.elapsed() > UNMOUNT_TIME => {
                    let _ = run("umount", &["-l", &at]);
                    return Err(wrong);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// From now on its requests go wrong as these say; with none, everything is well again, and what waited is done.
    #[track_caller]
    pub fn set_faults(&self, faults: &[Fault]) {
        self.try_set_faults(faults).unwrap_or_else(|wrong| panic!("{wrong}"));
    }

    /// The same, of a disk that may be gone.
    pub fn try_set_faults(&self, faults: &[Fault]) -> Result<(), String> {
        let ask = Ask::SetFaults { name: self.name.clone(), faults: faults.to_vec() };
        self.rig.ask(&ask).map(drop)
    }

    /// Every write and flush so far.
    #[track_caller]
    pub fn events(&self) -> Vec<Event> {
        match self.rig.ask(&Ask::Events { name: self.name.clone() }) {
            Ok(Answer::Events(events)) => events,
            other => panic!("no log of {}: {other:?}", self.name),
        }
    }

    /// A new disk, mounted and logged in turn: what is left of this one if the power goes just before a moment.
    pub fn after_cut(&self, at: u64, loss: Loss, seed: u64, name: &str) -> Result<Self, String> {
        let (of, name) = (self.name.clone(), name.to_owned());
        self.rig.ask(&Ask::Cut { of, at, loss, seed, name: name.clone(), logged: true })?;
        Self::mount(self.rig.clone(), name, self.kind)
    }
}

/// Makes the node of the next loop device: where nobody else does, there are eight, whatever the kernel has. Whether it lacked.
fn make_node() -> Result<bool, String> {
    let said = run("losetup", &["--find"])?;
    let node = said.split_ascii_whitespace().next().unwrap_or_default();
    let Some(number) = node.strip_prefix("/dev/loop") else { return Ok(false) };
    if Path::new(node).exists() {
        return Ok(false);
    }
    run("mknod", &[node, "b", "7", number]).map(|_| true)
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Its rig may be gone, and then so is what it would unmount.
        let healed = self.rig.ask(&Ask::SetFaults { name: self.name.clone(), faults: Vec::new() });
        if let Err(wrong) = healed.and_then(|_| self.unmount()) {
            eprintln!("disk {}: {wrong}", self.name);
        }
        let _ = self.rig.ask(&Ask::Remove { name: self.name.clone() });
        let _ = std::fs::remove_dir(self.path());
    }
}

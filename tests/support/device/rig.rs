//! The process that serves devices, and what makes disks of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::command::run;
use super::control::{Answer, Ask, Control};
use super::disk::{Disk, FileSystem};
use super::support::{poll, skipped};
use super::{daemon, leftovers};

/// The process ends its devices and itself within this after its control stream has ended.
const ENDING: Duration = Duration::from_secs(20);

/// Devices in one order. It is shared by its disks, and goes with the last of them.
#[derive(Clone)]
pub struct Rig(Arc<Inner>);

pub struct Inner {
    home: PathBuf,
    child: Mutex<Child>,
    /// None when it ends.
    control: Mutex<Option<Control>>,
    /// Files with an empty file system each.
    templates: Mutex<HashMap<FileSystem, PathBuf>>,
}

impl Rig {
    /// All devices of a rig fail after this, whatever else happens.
    pub const LIFETIME: Duration = Duration::from_secs(10 * 60);

    /// A rig; or, where none is possible, nothing after a line that says what is not tested.
    pub fn or_skip(what: &str) -> Option<Self> {
        match Self::new(Self::LIFETIME) {
            Ok(rig) => Some(rig),
            Err(why) => {
                skipped(&format!("{what}: {why}"));
                None
            }
        }
    }

    /// A rig whose devices fail after `lifetime`; or why none is possible here.
    pub fn new(lifetime: Duration) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("block devices are mounted by root only".to_owned());
        }
        for node in ["/dev/fuse", "/dev/loop-control"] {
            std::fs::metadata(node).map_err(|error| format!("{node}: {error}"))?;
        }
        leftovers::remove_all();
        let wrong = |error: std::io::Error| format!("block devices: {error}");
        let home = leftovers::new_home().map_err(wrong)?;
        for dir in [daemon::files(&home), home.join("disks")] {
            std::fs::create_dir(dir).map_err(wrong)?;
        }
        let (child, stream) = daemon::start(&home, lifetime).map_err(wrong)?;
        watch(&home, lifetime);
        let mut control = Control::new(stream).map_err(wrong)?;
        let heard = control.hear();
        let (child, control) = (Mutex::new(child), Mutex::new(Some(control)));
        let this = Self(Arc::new(Inner { home, child, control, templates: Mutex::default() }));
        match heard? {
            Answer::Done => Ok(this),
            Answer::Wrong(wrong) => Err(wrong),
            other => Err(format!("{other:?}")),
        }
    }

    /// A new disk, mounted, whose writes are logged. Panics where the file system cannot be made.
    #[track_caller]
    pub fn disk(&self, name: &str, kind: FileSystem) -> Disk {
        self.try_disk(name, kind).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    /// As [`Self::disk`]; or why that file system is not possible here.
    pub fn try_disk(&self, name: &str, kind: FileSystem) -> Result<Disk, String> {
        let template = self.template(kind)?;
        let name = name.to_owned();
        self.ask(&Ask::Create { name: name.clone(), size: kind.bytes(), template, logged: true })?;
        Disk::mount(self.clone(), name, kind)
    }

    fn template(&self, kind: FileSystem) -> Result<PathBuf, String> {
        let mut templates = lock(&self.0.templates);
        if let Some(template) = templates.get(&kind) {
            return Ok(template.clone());
        }
        let template = self.0.home.join(format!("{kind:?}.template"));
        kind.make(&template)?;
        templates.insert(kind, template.clone());
        Ok(template)
    }

    /// A moment between everything that the devices did so far and everything that they will do. No two are the same.
    #[track_caller]
    pub fn moment(&self) -> u64 {
        match self.ask(&Ask::Moment) {
            Ok(Answer::Moment(moment)) => moment,
            other => panic!("the devices have no moment: {other:?}"),
        }
    }

    pub(super) fn ask(&self, ask: &Ask) -> Result<Answer, String> {
        lock(&self.0.control).as_mut().ok_or("the devices are gone")?.ask(ask)
    }

    pub(super) fn home(&self) -> &Path {
        &self.0.home
    }

    /// Ends the devices at once: every request that waits, and every later one, fails. For a test that is stuck.
    pub fn kill(&self) {
        let _ = lock(&self.0.child).kill();
        abort(&self.0.home);
    }
}

/// Aborts the FUSE connection from outside, whatever the process that serves it does: forcing it off does that first, and then
/// fails while loop devices use its files.
fn abort(home: &Path) {
    let _ = run("umount", &["-f", &daemon::files(home).to_string_lossy()]);
}

/// Aborts the connection when the process should have ended long ago, for a process that cannot end.
fn watch(home: &Path, lifetime: Duration) {
    let home = home.to_owned();
    std::thread::spawn(move || {
        std::thread::sleep(lifetime + ENDING);
        if home.exists() {
            abort(&home);
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Inner {
    fn drop(&mut self) {
        let notes = std::fs::read_to_string(self.home.join("notes")).unwrap_or_default();
        if !notes.is_empty() {
            eprintln!("---- of the devices ----\n{notes}----");
        }
        // The process cleans up when its stream ends; if it does not, it is ended, and this one does.
        *lock(&self.control) = None;
        let mut child = lock(&self.child);
        if poll(ENDING, || child.try_wait().ok().flatten()).is_none() {
            let _ = child.kill();
            abort(&self.home);
        }
        leftovers::remove(&self.home);
    }
}

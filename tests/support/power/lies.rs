//! Syncs that a node believes in and that never happened: the mistake of leaving one out, planted from outside.
//!
//! Every fsync and fdatasync of the node's process stops at a seccomp filter and is put before [`Liar`], a thread of the test. It
//! lets the call go on, or has it return 0 at once. The program itself is the one that is shipped.

use std::io::{PipeReader, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::nodes::Prepare;

/// Which files are said to be synced and are not.
#[derive(Debug, Clone, Copy)]
pub enum Lie {
    Chunks,
    Directories,
    /// The logs of the databases.
    Logs,
    Journal,
}

impl Lie {
    fn covers(self, path: &Path) -> bool {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match self {
            Self::Chunks => path.parent().is_some_and(|dir| dir.ends_with("chunks")) && !path.is_dir(),
            Self::Directories => path.is_dir(),
            Self::Logs => path.to_string_lossy().ends_with("-wal"),
            Self::Journal => extension == Some("journal"),
        }
    }
}

/// Where a node's process has the listener of its filter.
const LISTENER: i32 = 700;
/// How long it may take until the test is noticed to be over.
const LOOK: Duration = Duration::from_millis(100);

pub struct Liar {
    told: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    commands: Arc<Mutex<std::io::PipeWriter>>,
}

impl Liar {
    pub fn new(lie: Lie) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let (told, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, ends) = (Arc::clone(&told), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            if let Some(listener) = listener(reader, &ends) {
                serve(&listener, lie, &counted, &ends);
            }
        });
        Self { told, over, thread: Some(thread), commands: Arc::new(Mutex::new(writer)) }
    }

    /// What makes a command's process ask; for one process.
    pub fn prepare(&self) -> Prepare {
        let commands = Arc::clone(&self.commands);
        Arc::new(move |command| {
            let writer = commands.lock().unwrap().try_clone().expect("another end of the pipe");
            filter(command, writer);
        })
    }

    /// How often it lied.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::SeqCst)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[allow(unsafe_code, reason = "std knows no filters of system calls")]
fn filter(command: &mut Command, writer: std::io::PipeWriter) {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter, sock_fprog};
    let op = |code: u32, jt, jf, k| sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        // The number of the call is the first word of what the filter sees.
        op(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        op(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, libc::SYS_fsync as u32),
        op(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, libc::SYS_fdatasync as u32),
        op(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        op(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ];
    let install = move || {
        let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: system calls only, on memory of this closure; nothing is allocated and no lock is taken.
        unsafe {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
            let listener = libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program);
            // The copy outlives exec; the listener itself does not.
            if listener < 0 || libc::dup2(listener as i32, LISTENER) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            let pid = libc::getpid().to_le_bytes();
            match libc::write(writer.as_raw_fd(), pid.as_ptr().cast(), pid.len()) {
                4 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        }
    };
    // SAFETY: see above; it does nothing that a child of fork may not do.
    unsafe { command.pre_exec(install) };
}

/// Takes the listener out of the process that was started.
fn listener(mut pids: PipeReader, over: &AtomicBool) -> Option<OwnedFd> {
    while !is_ready(&pids, over)? {}
    let mut pid = [0; 4];
    pids.read_exact(&mut pid).ok()?;
    let pid = Pid::from_raw(i32::from_le_bytes(pid))?;
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    pidfd_getfd(process, LISTENER, PidfdGetfdFlags::empty()).ok()
}

/// Whether there is something to read; none when it is over.
fn is_ready(fd: &impl std::os::fd::AsFd, over: &AtomicBool) -> Option<bool> {
    if over.load(Ordering::SeqCst) {
        return None;
    }
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut fds, Some(&LOOK.try_into().ok()?)).ok()?;
    let found = fds[0].revents();
    if found.contains(PollFlags::IN) {
        return Some(true);
    }
    // The last process under the filter has ended.
    (!found.contains(PollFlags::HUP)).then_some(false)
}

#[allow(unsafe_code, reason = "there are no bindings of these ioctls that are safe")]
fn serve(listener: &OwnedFd, lie: Lie, told: &AtomicU64, over: &AtomicBool) {
    loop {
        match is_ready(listener, over) {
            None => return,
            Some(false) => continue,
            Some(true) => {}
        }
        // SAFETY: all zeroes is what the kernel wants to find in this plain struct.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel fills the struct of this ioctl.
        if unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &mut asked) } != 0 {
            // Who asked is gone.
            continue;
        }
        let file: PathBuf = format!("/proc/{}/fd/{}", asked.pid, asked.data.args[0]).into();
        let lies = std::fs::read_link(file).is_ok_and(|path| lie.covers(&path));
        told.fetch_add(u64::from(lies), Ordering::SeqCst);
        // SAFETY: all zeroes is a valid value of this plain struct.
        let mut answer: libc::seccomp_notif_resp = unsafe { std::mem::zeroed() };
        answer.id = asked.id;
        answer.flags = if lies { 0 } else { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32 };
        // SAFETY: the kernel reads the struct of this ioctl.
        let _ = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &mut answer) };
    }
}

//! What a running server does to its files, as `strace` sees it.
//!
//! Ordinary system calls only: what goes through io_uring (socket traffic, bulk reads and writes) is invisible. The order of
//! the lines is the order in which the calls entered and left the kernel, over all threads: `strace` is one process that
//! stops each thread at both ends of a call. So where one call is caused by the end of another, on whatever thread, the
//! trace shows that; and no call of the trace is over before `strace` has noted it.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure in it is a failed test"
)]

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::support::wait_until;

const CALLS: &str = "openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,fallocate,\
                     ftruncate,truncate,fsync,fdatasync,syncfs,write,pwrite64,pwritev,pwritev2";
/// `strace` must have attached, or let go, within this.
const DEADLINE: Duration = Duration::from_secs(20);

/// What was done to a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<D> {
    /// Opened so that it is made if it is not there.
    Create,
    MakeDir,
    Allocate,
    Truncate,
    Write,
    /// The event's path is the old name.
    Rename {
        to: PathBuf,
    },
    Unlink,
    /// fsync, or fdatasync: which is enough for data whose length was set before.
    Sync,
    /// syncfs: everything on the file system of the event's path.
    SyncAll,
    /// The client is about to send a request.
    Asked,
    /// The client has its answer.
    Answered(D),
}

/// A step that succeeded, and where its two ends lie in the order of all ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<D> {
    pub step: Step<D>,
    pub path: PathBuf,
    pub begun: usize,
    pub done: usize,
    /// Bytes that were written.
    pub bytes: u64,
}

/// A moment of the clock that stamps the trace, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub u64);

impl Stamp {
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        Self(u64::try_from(since.as_micros()).expect("a clock before the year 500000"))
    }

    /// `1795346399.396552`, or a duration like `0.000123`.
    fn parse(text: &str) -> Option<Self> {
        let (seconds, micros) = text.split_once('.')?;
        let micros: u64 = (micros.len() == 6).then(|| micros.parse().ok()).flatten()?;
        Some(Self(seconds.parse::<u64>().ok()? * 1_000_000 + micros))
    }
}

/// What the client knows: when it asked, when it had its answer, and what that answered.
#[derive(Debug, Clone)]
pub struct Exchange<D> {
    pub asked: Stamp,
    pub answered: Stamp,
    pub deed: D,
}

/// A `strace` that looks at a running process; killed when it goes out of scope.
pub struct Tracer {
    child: Child,
    lines: PathBuf,
}

impl Tracer {
    /// Attaches to all threads of `pid`, or says why that is not possible here.
    pub fn attach(pid: u32, home: &Path) -> Result<Self, String> {
        Self::attach_with(pid, home, &[&format!("trace={CALLS}")], None)
    }

    /// Makes every sync of one file fail from now on.
    pub fn fail_syncs(pid: u32, home: &Path, file: &Path) -> Result<Self, String> {
        Self::attach_with(
            pid,
            home,
            &["trace=fsync,fdatasync", "inject=fsync,fdatasync:error=EIO"],
            Some(file),
        )
    }

    fn attach_with(pid: u32, home: &Path, rules: &[&str], file: Option<&Path>) -> Result<Self, String> {
        let lines = home.join("strace.out");
        let notes = home.join("strace.err");
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-ttt", "-T", "-e", "signal=none"]);
        for rule in rules {
            command.args(["-e", rule]);
        }
        if let Some(file) = file {
            command.arg("-P").arg(file);
        }
        command.arg("-o").arg(&lines).arg("-p").arg(pid.to_string());
        let stderr = File::create(&notes).expect("a file for what strace says");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = super::support::process::spawn(command).map_err(|error| format!("strace: {error}"))?;
        let mut this = Self { child, lines };
        let mut refused = None;
        wait_until(DEADLINE, "strace to attach to every thread", || {
            let said = std::fs::read_to_string(&notes).unwrap_or_default();
            if let Some(status) = this.child.try_wait().expect("ask for the exit status") {
                refused = Some(format!("strace ended ({status}): {}", said.trim()));
            }
            refused.is_some() || threads(pid).iter().all(|thread| is_traced(pid, thread))
        });
        refused.map_or(Ok(this), Err)
    }

    /// Lets the process go and returns the lines.
    pub fn finish(mut self) -> String {
        super::support::process::signal(self.child.id(), libc::SIGINT);
        wait_until(DEADLINE, "strace to let go", || {
            self.child.try_wait().expect("ask for the exit status").is_some()
        });
        std::fs::read_to_string(&self.lines).expect("the lines of strace")
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn threads(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is running");
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn is_traced(pid: u32, thread: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
    // A thread that ended meanwhile needs no tracer.
    status.lines().find_map(|line| line.strip_prefix("TracerPid:")).is_none_or(|tracer| tracer.trim() != "0")
}

/// One call, its two halves put together.
struct Call {
    name: String,
    args: String,
    result: String,
    begun: (usize, Stamp),
    done: (usize, Stamp),
}

/// Reads the lines of `strace -f -y -ttt -T -o`; calls that failed or that change nothing are left out.
pub fn parse<D: Clone>(lines: &str, exchanges: &[Exchange<D>]) -> Vec<Event<D>> {
    let calls = calls(lines);
    let mut stamps: Vec<(usize, Stamp)> = calls.iter().flat_map(|call| [call.begun, call.done]).collect();
    stamps.sort_unstable();
    // An end belongs before a moment of the client if its stamp says so; a tie goes to the server.
    let place = |stamp: Stamp| stamps.iter().rev().find(|end| end.1 <= stamp).map_or(0, |end| end.0 + 1);
    let mut events: Vec<Event<D>> = calls.iter().flat_map(event).collect();
    for exchange in exchanges {
        let (asked, answered) = (place(exchange.asked), place(exchange.answered));
        events.push(Event { step: Step::Asked, path: PathBuf::new(), begun: asked, done: asked, bytes: 0 });
        let step = Step::Answered(exchange.deed.clone());
        events.push(Event { step, path: PathBuf::new(), begun: answered, done: answered, bytes: 0 });
    }
    events.sort_by_key(|event| event.done);
    events
}

/// Each end of a call has a number of its own; every third is left free for a moment of the client.
fn calls(lines: &str) -> Vec<Call> {
    let mut open: HashMap<&str, (String, usize, Stamp)> = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let order = 3 * number;
        let mut words = line.splitn(2, ' ');
        let (Some(pid), Some(rest)) = (words.next(), words.next()) else { continue };
        let Some((stamp, rest)) = rest.trim_start().split_once(' ') else { continue };
        let Some(stamp) = Stamp::parse(stamp) else { continue };
        if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(pid, (begin.to_owned(), order, stamp));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((begin, began, since)) = open.remove(pid) else { continue };
            let Some((_, tail)) = resumed.split_once(" resumed>") else { continue };
            calls.extend(call(&format!("{begin}{tail}"), (began, since), order));
        } else {
            calls.extend(call(rest, (order, stamp), order + 1));
        }
    }
    calls
}

/// `name(arguments) = result <seconds>`
fn call(text: &str, begun: (usize, Stamp), done: usize) -> Option<Call> {
    let (text, took) = text.strip_suffix('>')?.rsplit_once(" <")?;
    let (head, result) = text.rsplit_once(" = ")?;
    let (name, args) = head.trim_end().strip_suffix(')')?.split_once('(')?;
    let end = Stamp(begun.1.0 + Stamp::parse(took)?.0);
    let own = |text: &str| text.to_owned();
    Some(Call { name: own(name), args: own(args), result: own(result), begun, done: (done, end) })
}

fn event<D>(call: &Call) -> Option<Event<D>> {
    if call.result.starts_with('-') || call.result.starts_with('?') {
        return None;
    }
    let names = quoted(&call.args);
    let dirs = annotated(&call.args);
    let named = |index: usize| Some(dirs.get(index).cloned().unwrap_or_default().join(names.get(index)?));
    let (step, path) = match call.name.as_str() {
        "openat" | "open" if call.args.contains("O_CREAT") => (Step::Create, named(0)?),
        "creat" => (Step::Create, named(0)?),
        "mkdir" | "mkdirat" => (Step::MakeDir, named(0)?),
        "rename" | "renameat" | "renameat2" | "link" | "linkat" => {
            (Step::Rename { to: named(1)? }, named(0)?)
        }
        "unlink" | "unlinkat" => (Step::Unlink, named(0)?),
        "truncate" => (Step::Truncate, named(0)?),
        "fallocate" => (Step::Allocate, dirs.first()?.clone()),
        "ftruncate" => (Step::Truncate, dirs.first()?.clone()),
        "fsync" | "fdatasync" => (Step::Sync, dirs.first()?.clone()),
        "syncfs" => (Step::SyncAll, dirs.first()?.clone()),
        "write" | "pwrite64" | "pwritev" | "pwritev2" => (Step::Write, dirs.first()?.clone()),
        _ => return None,
    };
    let bytes = if matches!(step, Step::Write) { call.result.parse().unwrap_or(0) } else { 0 };
    Some(Event { step, path, begun: call.begun.0, done: call.done.0, bytes })
}

/// The arguments in double quotes, taken literally: the paths of these tests need no escapes.
fn quoted(args: &str) -> Vec<String> {
    args.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What descriptors stand for: `12</path>`, `AT_FDCWD</dir>`.
fn annotated(args: &str) -> Vec<PathBuf> {
    let outside = args.split('"').step_by(2).collect::<Vec<_>>().join("\"");
    let inside = outside.split('<').skip(1).filter_map(|rest| rest.split_once('>'));
    inside.map(|(path, _)| PathBuf::from(path)).collect()
}

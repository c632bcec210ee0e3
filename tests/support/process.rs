//! Signals and `/proc`: what a test does to a server process from outside.

use std::process::{Child, Command};
use std::sync::mpsc;
use std::sync::{LazyLock, Mutex};

/// Sends `signal` to a process of our own that has not been waited for yet.
#[allow(unsafe_code, reason = "std has no way to send SIGTERM")]
pub fn signal(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a process id fits in pid_t");
    assert!(pid > 1, "never signal a group or init");
    // SAFETY: kill(2) touches no memory of ours.
    let outcome = unsafe { libc::kill(pid, signal) };
    assert_eq!(outcome, 0, "kill({pid}, {signal}): {}", std::io::Error::last_os_error());
}

/// Bytes of memory that `pid` has resident.
pub fn rss_bytes(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:") * 1024
}

/// The most bytes that `pid` ever had resident.
pub fn peak_rss_bytes(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:") * 1024
}

fn status_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is running");
    let line =
        status.lines().find(|line| line.starts_with(field)).expect("a memory line in /proc/PID/status");
    line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}

/// How many descriptors `pid` has open.
pub fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is running").count()
}

type Job = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts `command` so that it dies with this test process, however that ends.
///
/// The kernel ties the death signal to the thread that forked, and the threads of the tests come and go: so one thread, which
/// lives as long as the process, starts all children.
pub fn spawn(command: Command) -> std::io::Result<Child> {
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                die_with_parent(&mut command);
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (answer, child) = mpsc::channel();
    SPAWNER.lock().expect("the spawner").send((command, answer)).expect("the spawner lives");
    child.recv().expect("the spawner answers")
}

#[allow(unsafe_code, reason = "std has no way to set the parent-death signal")]
fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: prctl(2) is async-signal-safe and touches no memory.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Has `done` called when this test process ends in good order.
#[allow(unsafe_code, reason = "std has no exit handlers")]
pub fn at_exit(done: extern "C" fn()) {
    // SAFETY: the function lives as long as the program and does not unwind into C: a panic in it aborts.
    let outcome = unsafe { libc::atexit(done) };
    assert_eq!(outcome, 0, "atexit refused the handler");
}

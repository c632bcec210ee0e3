//! One node of a cluster: its configuration, its disks, its process.
//!
//! The process dies with its handle. Ports, disks and configuration stay the same over all its starts.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::support::{Connection, Request, poll, process};

/// How long an answer of the admin listener may take; a stopped node gives none.
const ADMIN_PATIENCE: Duration = Duration::from_millis(500);
/// A node that was asked to stop is gone within this.
pub const STOP_DEADLINE: Duration = Duration::from_secs(60);

pub struct Node {
    pub name: String,
    pub public: SocketAddr,
    pub admin: SocketAddr,
    pub peer: SocketAddr,
    pub disks: Vec<PathBuf>,
    /// Where its configuration and its stderr are.
    pub home: PathBuf,
    pub config: String,
    /// The processor that all of its threads run on.
    pub cpu: usize,
    child: Option<Child>,
    paused: bool,
}

impl Node {
    pub fn new(name: String, home: PathBuf, disks: usize, addrs: [SocketAddr; 3], cpu: usize) -> Self {
        std::fs::create_dir_all(&home).expect("a directory for the node");
        let [public, admin, peer] = addrs;
        let disks = (0..disks).map(|number| home.join(format!("disk{number}"))).collect();
        Self {
            name,
            public,
            admin,
            peer,
            disks,
            home,
            config: String::new(),
            cpu,
            child: None,
            paused: false,
        }
    }

    /// Starts the process and does not wait for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} is running", self.name);
        let file = self.home.join("amberblob.toml");
        std::fs::write(&file, &self.config).expect("write the configuration");
        let log = |name: &str| {
            OpenOptions::new().create(true).append(true).open(self.home.join(name)).expect("a log file")
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_amberblob"));
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("AMBERBLOB_") && key != "AMBERBLOB_LOG" {
                command.env_remove(key);
            }
        }
        command.args(["serve", "--cores", "1", "--config"]).arg(file).current_dir(&self.home);
        command.stdin(Stdio::null()).stdout(log("stdout.log")).stderr(log("stderr.log"));
        stay_on(&mut command, self.cpu);
        self.child = Some(process::spawn(command).expect("start the amberblob binary"));
        self.paused = false;
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} is running", self.name)).id()
    }

    /// SIGKILL, and waits until it is gone; nothing if it is not running. Panics if it had ended by itself.
    pub fn kill(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended by itself ({status}); stderr:\n{}", self.name, self.stderr());
        }
        self.end();
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: its sockets stay open and nobody answers.
    pub fn pause(&mut self) {
        if self.is_running() && !self.paused {
            process::signal(self.pid(), libc::SIGSTOP);
            self.paused = true;
        }
    }

    pub fn resume(&mut self) {
        if self.is_running() && self.paused {
            process::signal(self.pid(), libc::SIGCONT);
            self.paused = false;
        }
    }

    /// Asks it to stop in good order, without waiting.
    pub fn ask_to_stop(&mut self) {
        self.resume();
        if self.is_running() {
            process::signal(self.pid(), libc::SIGTERM);
        }
    }

    /// Waits for the process to end by itself.
    pub fn wait_gone(&mut self, within: Duration) -> ExitStatus {
        let mut child = self.child.take().unwrap_or_else(|| panic!("{} is running", self.name));
        let ended = poll(within, || child.try_wait().expect("ask for the exit status"));
        ended.unwrap_or_else(|| {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{} did not end within {within:?}; stderr:\n{}", self.name, self.stderr())
        })
    }

    pub fn terminate(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.wait_gone(STOP_DEADLINE)
    }

    /// How the process ended, if it did so by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("ask for the exit status"))
    }

    /// Status and body of a page of the admin listener.
    pub fn admin_page(&self, target: &str) -> Result<(u16, String), String> {
        let mut link = Connection::try_open(self.admin).map_err(|error| error.to_string())?;
        link.set_read_timeout(ADMIN_PATIENCE);
        let answer = link.exchange(&Request::new("GET", target)).map_err(|error| error.to_string())?;
        Ok((answer.status, answer.text()))
    }

    /// Nothing if it is ready, else why not. Panics if the process has ended: nobody asked it to.
    pub fn unready(&mut self) -> Option<String> {
        if !self.is_running() {
            return Some("not running".to_owned());
        }
        if let Some(status) = self.ended() {
            panic!("{} ended by itself ({status}); stderr:\n{}", self.name, self.stderr());
        }
        match self.admin_page("/readyz") {
            Ok((200, _)) => None,
            Ok((status, text)) => Some(format!("{status} {}", text.trim())),
            Err(error) => Some(error),
        }
    }

    /// The end of what it wrote to stderr, over all its starts.
    pub fn stderr(&self) -> String {
        tail(&self.home.join("stderr.log"), 8 << 10)
    }

    /// Takes away everything on its disks; the process must not run.
    pub fn wipe(&self) {
        assert!(!self.is_running(), "{} is running", self.name);
        for disk in &self.disks {
            match std::fs::remove_dir_all(disk) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    panic!("wipe {}: {error}", disk.display())
                }
                _ => {}
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("---- stderr of {} in {} ----\n{}----", self.name, self.home.display(), self.stderr());
        }
    }
}

fn tail(file: &Path, most: usize) -> String {
    let all = std::fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&all[all.len().saturating_sub(most)..]).into_owned()
}

/// A node pins its only core to the first processor it may use: without this, all nodes would share one.
#[allow(unsafe_code, reason = "std has no way to run code in the child")]
fn stay_on(command: &mut Command, cpu: usize) {
    use std::os::unix::process::CommandExt as _;
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    // SAFETY: the call allocates nothing and takes no lock: it is one system call.
    unsafe {
        command.pre_exec(move || rustix::thread::sched_setaffinity(None, &set).map_err(Into::into));
    }
}

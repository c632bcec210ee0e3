//! The process that serves the devices: this test program once more, told by its environment to run nothing but [`serve`].
//!
//! It is a process of its own because whoever serves a device must never wait for one. It opens no file below the rig's
//! directory, and only it holds the FUSE connection.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::blocks::{Blocks, Files};
use super::control::{Answer, Ask, say};
use super::image::Image;
use super::leftovers;

/// Names the rig's directory; the process is a server of devices if it is set.
const HOME: &str = "TEST_BLOCK_DEVICES";
/// The whole process ends after so many seconds, and the kernel then fails whatever waits for its devices.
const LIFETIME: &str = "TEST_BLOCK_DEVICES_SECONDS";

/// The process that this one serves.
const TEST: &str = "TEST_BLOCK_DEVICES_OF";

/// prctl(2), since Linux 5.6.
const PR_SET_IO_FLUSHER: i32 = 57;

/// How often it is looked whether the test still runs.
const LOOK: Duration = Duration::from_millis(200);

/// Where the devices are files, below the rig's directory.
pub fn files(home: &Path) -> PathBuf {
    home.join("blocks")
}

/// Starts the process; the test's end of its control stream.
pub fn start(home: &Path, lifetime: Duration) -> std::io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    // The path of `block_device_process` as the test runner calls it: without the name of the crate.
    let name = format!("{}::block_device_process", module_path!());
    let name = name.split_once("::").map_or(name.as_str(), |(_, rest)| rest);
    // Never a pipe of the test's: whoever waits for its end would wait for this process as well.
    let notes = File::create(home.join("notes"))?;
    let child = Command::new(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(HOME, home)
        .env(LIFETIME, lifetime.as_secs().to_string())
        .env(TEST, std::process::id().to_string())
        .stdin(std::os::fd::OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(notes)
        // What interrupts the test does not interrupt this: it has to clean up.
        .process_group(0)
        .spawn()?;
    Ok((child, ours))
}

/// Nothing, unless this process was started to serve devices; then it ends here.
#[test]
fn block_device_process() {
    let Some(home) = std::env::var_os(HOME).map(PathBuf::from) else { return };
    let seconds = std::env::var(LIFETIME).ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(seconds));
        eprintln!("block devices: given up after {seconds} s");
        end(1)
    });
    if let Err(error) = serve(&home) {
        eprintln!("block devices: {error}");
        end(1)
    }
    end(0)
}

/// No handler of anything runs, and no destructor: nothing may keep this process from ending.
#[allow(unsafe_code, reason = "std ends a process in good order only")]
fn end(status: i32) -> ! {
    // SAFETY: _exit(2) touches no memory.
    unsafe { libc::_exit(status) }
}

/// Memory for this process and its threads is not got by writing back what would have to come to one of its devices. It takes a
/// capability that not every root has; without it, memory must not run out.
#[allow(unsafe_code, reason = "std has no prctl")]
fn never_wait_for_write_back() {
    // SAFETY: prctl(2) with these arguments touches no memory.
    let _ = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}

fn serve(home: &Path) -> std::io::Result<()> {
    never_wait_for_write_back();
    let mut stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let blocks = Blocks::new();
    let mut options = fuser::Config::default();
    options.mount_options = vec![fuser::MountOption::FSName("test-blocks".to_owned())];
    let mounted = fuser::spawn_mount(Files(Arc::clone(&blocks)), files(home), &options);
    let _mounted = match mounted {
        Ok(mounted) => mounted,
        Err(error) => {
            return say(&mut stream, &Answer::Wrong(format!("mounting a FUSE file system: {error}")));
        }
    };
    say(&mut stream, &Answer::Done)?;
    let test = std::env::var(TEST).unwrap_or_default();
    let (watched, of) = (Arc::clone(&blocks), home.to_owned());
    std::thread::spawn(move || {
        while is_alive(&test) {
            std::thread::sleep(LOOK);
        }
        clean_up(&watched, &of);
        end(1)
    });
    let asked = stream.try_clone()?;
    for line in BufReader::new(asked).lines() {
        // An error is a test that was killed.
        let Ok(line) = line else { break };
        let answer = match serde_json::from_str(&line) {
            Ok(ask) => answer(&blocks, ask).unwrap_or_else(Answer::Wrong),
            Err(error) => Answer::Wrong(error.to_string()),
        };
        if say(&mut stream, &answer).is_err() {
            break;
        }
    }
    clean_up(&blocks, home);
    Ok(())
}

/// Whoever still uses the devices gets errors, and then they can be taken away.
fn clean_up(blocks: &Blocks, home: &Path) {
    static ONCE: Mutex<()> = Mutex::new(());
    let _once = ONCE.lock();
    blocks.give_up();
    leftovers::remove(home);
}

/// Whether a process runs and was not killed. One whose thread waits for a device stays, with all that it has open, its end of
/// the control stream too, until it gets its answer: so the end of the stream alone says nothing.
fn is_alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim();
    let pending = |name: &str| u64::from_str_radix(field(name), 16).unwrap_or(0);
    let killed = (pending("SigPnd:") | pending("ShdPnd:")) & (1 << (libc::SIGKILL - 1)) != 0;
    !killed && !field("State:").is_empty() && !field("State:").starts_with(['Z', 'X'])
}

fn answer(blocks: &Blocks, ask: Ask) -> Result<Answer, String> {
    Ok(match ask {
        Ask::Moment => Answer::Moment(blocks.moment()?),
        Ask::Create { name, size, template, logged } => {
            let image = Image::load(&template).map_err(|error| format!("{}: {error}", template.display()))?;
            blocks.create(&name, size, image, logged)?;
            Answer::Done
        }
        Ask::Cut { of, at, loss, seed, name, logged } => {
            blocks.cut(&of, at, loss, seed, &name, logged)?;
            Answer::Done
        }
        Ask::SetFaults { name, faults } => {
            blocks.set_faults(&name, faults)?;
            Answer::Done
        }
        Ask::Events { name } => Answer::Events(blocks.events(&name)?),
        Ask::Remove { name } => {
            blocks.remove(&name)?;
            Answer::Done
        }
    })
}

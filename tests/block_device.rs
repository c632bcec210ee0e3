//! The disks that other tests cut the power of: they order, lose and fail as they are told, and nothing of them stays.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/device/mod.rs"]
mod device;
mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use device::{Fault, FileSystem, Loss, Op, Rig, What};
use support::{bytes, wait_until};

const SOON: Duration = Duration::from_secs(20);

/// Those that this kernel knows; it is said which it does not.
fn file_systems() -> Vec<FileSystem> {
    let mut all = vec![FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs];
    all.retain(|kind| {
        if !kind.is_known() {
            support::skipped(&format!("block devices with {kind:?}: the kernel does not know it"));
        }
        kind.is_known()
    });
    all
}

fn write(path: &Path, data: &[u8]) -> File {
    let mut file = File::create(path).unwrap();
    file.write_all(data).unwrap();
    file
}

/// The moment when a flush had covered `len` bytes that were written after `from`.
fn flushed(disk: &device::Disk, from: u64, len: u64) -> Option<u64> {
    let events = disk.events();
    let mut written = 0;
    for event in events.iter().filter(|event| event.at > from) {
        match event.what {
            What::Write { len, .. } => written += len,
            What::Flush if written >= len => return Some(event.at),
            What::Flush => {}
        }
    }
    None
}

#[test]
fn what_a_file_system_syncs_is_written_and_flushed_before_the_sync_ends() {
    let Some(rig) = Rig::or_skip("block devices") else { return };
    for kind in file_systems() {
        let disk = rig.disk(&format!("{kind:?}"), kind);
        let data = bytes(1, 1 << 20);
        // Through the page cache, and past it into blocks that are there already.
        for direct in [false, true] {
            let before = rig.moment();
            if direct {
                let aligned = Aligned(data.as_slice().try_into().unwrap());
                let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
                let mut file = OpenOptions::new()
                    .write(true)
                    .custom_flags(flags)
                    .open(disk.path().join("file"))
                    .unwrap();
                file.write_all(&aligned.0).unwrap();
                file.sync_data().unwrap();
            } else {
                write(&disk.path().join("file"), &data).sync_all().unwrap();
            }
            let after = rig.moment();
            let synced = flushed(&disk, before, data.len() as u64);
            assert!(
                synced.is_some_and(|at| at < after),
                "{kind:?}, direct {direct}: no flush after the writes"
            );
        }
    }
}

#[repr(align(4096))]
struct Aligned([u8; 1 << 20]);

#[test]
fn a_power_cut_keeps_what_was_synced_and_may_lose_the_rest() {
    let Some(rig) = Rig::or_skip("block devices") else { return };
    for kind in file_systems() {
        let mut disk = rig.disk(&format!("{kind:?}"), kind);
        let data = bytes(2, 300_000);
        let write_synced = |name: &str| {
            write(&disk.path().join(name), &data).sync_all().unwrap();
            File::open(disk.path()).unwrap().sync_all().unwrap();
        };
        write_synced("one");
        let one = rig.moment();
        write(&disk.path().join("lost"), &data);
        write_synced("two");
        let two = rig.moment();
        disk.unmount().unwrap();
        for (number, loss) in
            [Loss::All, Loss::None, Loss::Later, Loss::Torn { kept: 500, size: 512 }].into_iter().enumerate()
        {
            let at = one + (two - one) * number as u64 / 4;
            let left = disk.after_cut(at, loss, 5, &format!("{kind:?}-{number}")).unwrap();
            let read = |name: &str| std::fs::read(left.path().join(name));
            assert!(read("one").unwrap() == data, "{kind:?}, {loss:?}: a synced file is lost");
            if number == 0 {
                assert!(read("two").is_err(), "{kind:?}: there is what was written later");
            }
        }
        let left = disk.after_cut(two, Loss::All, 5, &format!("{kind:?}-last")).unwrap();
        assert!(std::fs::read(left.path().join("two")).unwrap() == data);
    }
}

#[test]
fn requests_fail_wait_or_are_never_answered_as_told() {
    let Some(rig) = Rig::or_skip("block devices") else { return };
    let disk = rig.disk("disk", FileSystem::Ext4);
    let file = write(&disk.path().join("file"), &bytes(3, 100_000));
    file.sync_all().unwrap();

    disk.set_faults(&[Fault::slow(&[Op::Flush], Duration::from_millis(300))]);
    let started = Instant::now();
    (&file).write_all(b"slow").unwrap();
    file.sync_all().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300));

    disk.set_faults(&[Fault::never(&[Op::Write, Op::Flush])]);
    let (done, answer) = mpsc::channel();
    let synced = file.try_clone().unwrap();
    std::thread::spawn(move || {
        let outcome = (&synced).write_all(b"never").and_then(|()| synced.sync_all());
        let _ = done.send(outcome.map_err(|error| error.to_string()));
    });
    assert!(answer.recv_timeout(Duration::from_millis(500)).is_err(), "a sync that is never answered ended");
    disk.set_faults(&[]);
    assert_eq!(answer.recv_timeout(SOON).unwrap(), Ok(()));

    disk.set_faults(&[Fault::fail(&[Op::Write]).permille(1000)]);
    (&file).write_all(b"fails").unwrap();
    file.sync_all().unwrap_err();
    disk.set_faults(&[]);
}

#[test]
fn a_test_that_is_killed_leaves_no_mount_and_no_device_although_nothing_answers() {
    if std::env::var_os(VICTIM).is_some() {
        return victim();
    }
    let Some(rig) = Rig::or_skip("block devices") else { return };
    drop(rig);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_test_that_is_killed_leaves_no_mount_and_no_device_although_nothing_answers"])
        .args(["--nocapture"])
        .env(VICTIM, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let (heard, line) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut text, mut byte) = (String::new(), [0]);
        while !text.contains("stuck at \n") && matches!(out.read(&mut byte), Ok(1)) {
            text.push(char::from(byte[0]));
            if let Some((_, rest)) = text.split_once("stuck at ")
                && let Some((path, _)) = rest.split_once('\n')
            {
                let _ = heard.send(path.to_owned());
                return;
            }
        }
    });
    let at = line.recv_timeout(SOON).expect("the test to be stuck");
    child.kill().unwrap();
    let gone = |table: &str| !std::fs::read_to_string(table).unwrap().contains(&at);
    wait_until(SOON, "the mount to be gone", || gone("/proc/self/mountinfo"));
    let home = Path::new(&at).parent().unwrap().parent().unwrap();
    wait_until(SOON, "its directory to be gone", || !home.exists());
    wait_until(SOON, "the killed test to be gone", || child.try_wait().unwrap().is_some());
    for entry in std::fs::read_dir("/sys/block").unwrap().flatten() {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        assert!(!Path::new(&backing).starts_with(home), "{:?} is left", entry.path());
    }
}

const VICTIM: &str = "TEST_BLOCK_DEVICES_VICTIM";

/// Waits for a device that does not answer, until it is killed.
fn victim() {
    let rig = Rig::new(Rig::LIFETIME).unwrap();
    let disk = rig.disk("disk", FileSystem::Ext4);
    disk.set_faults(&[Fault::never(&[Op::Read, Op::Write, Op::Flush])]);
    let path = disk.path();
    let stuck = std::thread::spawn(move || {
        let mut file = File::create(path.join("file")).unwrap();
        let _ = file.write_all(b"stuck").and_then(|()| file.sync_all());
    });
    println!("stuck at {}\n", disk.path().display());
    let _ = stuck.join();
}

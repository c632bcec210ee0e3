//! The disks of the config, their queues and file systems.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::machine::{Machine, Mount};
use super::{Said, advice, ok, problem, size};
use crate::config::Config;
use crate::io::steps;
use crate::limits::DOCTOR_FREE_MIN;

/// Of a disk of the config: its file system.
fn mounts(machine: &Machine, config: &Config) -> Vec<(PathBuf, Mount)> {
    let mount = |disk: &PathBuf| Some((disk.clone(), machine.mount(disk)?));
    config.storage.disks.iter().filter_map(mount).collect()
}

/// What is said of the first disk that a check finds wanting; else what it has seen of all.
fn each(
    machine: &Machine,
    config: &Config,
    check: impl Fn(&PathBuf, &Mount) -> Result<String, Said>,
) -> Said {
    let mounts = mounts(machine, config);
    if mounts.is_empty() {
        return ok("the file systems of the disks are not known here");
    }
    match mounts.iter().map(|(disk, mount)| check(disk, mount)).collect::<Result<Vec<String>, Said>>() {
        Ok(mut seen) => {
            seen.dedup();
            ok(seen.join("; "))
        }
        Err(said) => said,
    }
}

/// The same, of its block device's queue.
fn queues(machine: &Machine, config: &Config, check: impl Fn(&str, &str) -> Result<String, Said>) -> Said {
    each(machine, config, |disk, mount| match machine.queue(&mount.device) {
        Some((name, queue)) => check(&name, &queue),
        None => Ok(format!("{}: {} has no block device of its own", disk.display(), mount.kind)),
    })
}

pub(super) fn disks(machine: &Machine, config: &Config) -> Said {
    let mut devices: BTreeMap<String, usize> = BTreeMap::new();
    for (_, mount) in mounts(machine, config) {
        *devices.entry(mount.device).or_default() += 1;
    }
    for disk in &config.storage.disks {
        let Some(space) = super::machine::existing(disk).and_then(|there| steps::space(&there).ok()) else {
            continue;
        };
        let saw = format!("{}: {} of {} free", disk.display(), size(space.free), size(space.total));
        let df = format!("df -h {}", disk.display());
        if space.free < DOCTOR_FREE_MIN {
            return problem(saw, "more room: below its reserve a disk takes no writes", df);
        }
        if space.free < space.total / 10 {
            return advice(saw, "more room, or an archive with a high_watermark", df);
        }
    }
    if devices.values().any(|disks| *disks > 1) {
        return advice(
            "two of the disks are on one file system",
            "a file system for each drive",
            "findmnt -o TARGET,SOURCE",
        );
    }
    let names: Vec<String> = config.storage.disks.iter().map(|disk| disk.display().to_string()).collect();
    ok(names.join(", "))
}

pub(super) fn scheduler(machine: &Machine, config: &Config) -> Said {
    queues(machine, config, |name, queue| {
        let text = machine.read(&format!("{queue}/scheduler")).unwrap_or_default();
        let chosen = super::machine::chosen(&text).to_owned();
        let spins = machine.number(&format!("{queue}/rotational")) == Some(1);
        if !spins && chosen != "none" && !chosen.is_empty() {
            return Err(advice(
                format!("{name}: {chosen}"),
                "none: the drive orders by itself",
                format!("echo none > /sys/block/{name}/queue/scheduler"),
            ));
        }
        Ok(format!("{name}: {chosen}"))
    })
}

pub(super) fn nvme_queues(machine: &Machine, config: &Config) -> Said {
    let cpus = machine.cpus();
    queues(machine, config, |name, queue| {
        let pairs = machine.list(&format!("{}/mq", queue.trim_end_matches("/queue"))).len();
        if name.starts_with("nvme") && pairs < cpus {
            return Err(advice(
                format!("{name}: {pairs} queues for {cpus} CPUs"),
                "one for each, and none for polling",
                format!("cat /sys/module/nvme/parameters/poll_queues; ls /sys/block/{name}/mq"),
            ));
        }
        Ok(format!("{name}: {pairs} queues for {cpus} CPUs"))
    })
}

pub(super) fn request_size(machine: &Machine, config: &Config) -> Said {
    queues(machine, config, |name, queue| {
        let number = |file: &str| machine.number(&format!("{queue}/{file}")).unwrap_or(0);
        let (most, can) = (number("max_sectors_kb"), number("max_hw_sectors_kb"));
        let ahead = number("read_ahead_kb");
        if most < can.min(2048) {
            return Err(advice(
                format!("{name}: requests of {most} KiB, and it takes {can}"),
                "a part of 2 MiB at once",
                format!("echo {} > /sys/block/{name}/queue/max_sectors_kb", can.min(2048)),
            ));
        }
        if ahead > 1024 {
            return Err(advice(
                format!("{name}: {ahead} KiB are read ahead"),
                "128: only databases pass through the page cache",
                format!("echo 128 > /sys/block/{name}/queue/read_ahead_kb"),
            ));
        }
        Ok(format!("{name}: requests of {most} KiB, {ahead} KiB ahead"))
    })
}

pub(super) fn write_cache(machine: &Machine, config: &Config) -> Said {
    queues(machine, config, |name, queue| {
        let how = machine.read(&format!("{queue}/write_cache")).unwrap_or_default();
        Ok(format!("{name}: {how}{}", if how == "write back" { ", flushed by each sync" } else { "" }))
    })
}

pub(super) fn discard(machine: &Machine, config: &Config) -> Said {
    each(machine, config, |_, mount| {
        if mount.has("discard") {
            return Err(advice(
                format!("{} is mounted with discard", mount.point),
                "without it, and fstrim from time to time",
                format!("mount -o remount,nodiscard {} && systemctl enable --now fstrim.timer", mount.point),
            ));
        }
        Ok(format!("{}: not at each deletion", mount.point))
    })
}

pub(super) fn raid(machine: &Machine, config: &Config) -> Said {
    queues(machine, config, |name, _| match machine.read(&format!("/sys/block/{name}/md/level")).as_deref() {
        Some(level @ ("raid0" | "raid4" | "raid5" | "raid6")) => Err(advice(
            format!("{name}: {level}"),
            "drives of their own, or raid1 below a node that runs alone",
            "mdadm --detail --scan",
        )),
        Some(level) => Ok(format!("{name}: {level}")),
        None => Ok(format!("{name}: a drive of its own")),
    })
}

pub(super) fn filesystem(machine: &Machine, config: &Config) -> Said {
    each(machine, config, |disk, mount| {
        let saw = format!("{}: {} on {} ({})", disk.display(), mount.kind, mount.point, mount.options);
        if mount.has("nobarrier") || mount.has("barrier=0") {
            return Err(problem(
                saw,
                "barriers: without them a sync is none",
                format!("mount -o remount,barrier=1 {}", mount.point),
            ));
        }
        if !matches!(mount.kind.as_str(), "ext4" | "xfs") {
            return Err(advice(saw, "xfs or ext4: direct writes are direct there", "mkfs.xfs DEV"));
        }
        if !mount.has("noatime") && !mount.has("lazytime") {
            return Err(advice(
                saw,
                "noatime,lazytime",
                format!("mount -o remount,noatime,lazytime {}", mount.point),
            ));
        }
        Ok(saw)
    })
}

pub(super) fn ext4_layout(machine: &Machine, config: &Config) -> Said {
    each(machine, config, |_, mount| {
        if mount.kind != "ext4" {
            return Ok(format!("{}: no ext4", mount.point));
        }
        if mount.has("data=journal") || mount.has("data=writeback") {
            return Err(advice(
                format!("{} is mounted with {}", mount.point, mount.options),
                "data=ordered",
                format!(
                    "tune2fs -o ^journal_data,^journal_data_writeback $(findmnt -no SOURCE {})",
                    mount.point
                ),
            ));
        }
        Ok(format!("{}: data=ordered", mount.point))
    })
}

pub(super) fn xfs_layout(machine: &Machine, config: &Config) -> Said {
    each(machine, config, |_, mount| {
        if mount.kind != "xfs" {
            return Ok(format!("{}: no XFS", mount.point));
        }
        let Some(told) = machine.run("xfs_info", &[&mount.point]) else {
            return Ok(format!("{}: xfs_info tells nothing", mount.point));
        };
        let groups =
            told.split("agcount=").nth(1).and_then(|rest| rest.split(',').next()?.parse::<u64>().ok());
        match groups {
            Some(groups) if groups < 8 && machine.cpus() > 8 => Err(advice(
                format!("{}: {groups} allocation groups", mount.point),
                "32, when it is made anew",
                "mkfs.xfs -d agcount=32 -l size=1g -m rmapbt=0 DEV",
            )),
            groups => Ok(format!("{}: {} allocation groups", mount.point, groups.unwrap_or(0))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::config;
    use super::*;
    use rustix::fs::{major, minor};
    use std::os::linux::fs::MetadataExt as _;

    /// A machine with a data directory on a file system that is mounted so, on a drive with these files.
    fn with(kind: &str, options: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Machine, Config) {
        let root = tempfile::tempdir().unwrap();
        let device = std::fs::metadata(root.path()).unwrap().st_dev();
        let (major, minor) = (major(device), minor(device));
        let mut all = vec![(
            "/proc/self/mountinfo".to_owned(),
            format!("1 1 {major}:{minor} / /srv/d0 {options} - {kind} /dev/x rw"),
        )];
        let below = |(name, text): &(&str, &str)| {
            (format!("/sys/dev/block/{major}:{minor}/{name}"), (*text).to_owned())
        };
        all.extend(files.iter().map(below));
        for (path, text) in all {
            let path = root.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let mut config = config();
        config.storage.disks = vec![root.path().to_owned()];
        let machine = Machine::at(root.path());
        (root, machine, config)
    }

    #[test]
    fn a_drive_that_is_set_up_otherwise_is_noticed() {
        let (_root, machine, config) = with(
            "ext4",
            "rw,relatime,discard,data=journal",
            &[
                ("queue/scheduler", "[mq-deadline] none"),
                ("queue/rotational", "0"),
                ("queue/max_sectors_kb", "128"),
                ("queue/max_hw_sectors_kb", "4096"),
            ],
        );
        for check in [scheduler, request_size, discard, filesystem, ext4_layout] {
            let said = check(&machine, &config);
            assert_eq!(said.level, Level::Advice, "{said:?}");
        }
        assert!(request_size(&machine, &config).command.starts_with("echo 2048 > "));
        assert_eq!(write_cache(&machine, &config).level, Level::Ok);
    }

    #[test]
    fn one_that_is_as_it_should_be_is_ok() {
        let (_root, machine, config) = with(
            "xfs",
            "rw,noatime",
            &[
                ("queue/scheduler", "[none] mq-deadline"),
                ("queue/max_sectors_kb", "2048"),
                ("queue/max_hw_sectors_kb", "4096"),
                ("queue/read_ahead_kb", "128"),
            ],
        );
        for check in
            [scheduler, request_size, discard, filesystem, ext4_layout, xfs_layout, raid, nvme_queues]
        {
            let said = check(&machine, &config);
            assert_eq!(said.level, Level::Ok, "{said:?}");
        }
    }

    #[test]
    fn a_file_system_that_does_not_sync_is_a_problem_and_a_strange_one_is_not_advised() {
        let (_root, machine, config) = with("ext4", "rw,nobarrier", &[]);
        assert_eq!(filesystem(&machine, &config).level, Level::Problem);
        let (_root, machine, config) = with("btrfs", "rw,noatime", &[]);
        assert_eq!(filesystem(&machine, &config).level, Level::Advice);
    }
}

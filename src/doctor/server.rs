//! What the config says of the node itself.

use super::machine::{Machine, existing};
use super::{Said, advice, ok, problem, size};
use crate::config::{Config, Io};
use crate::io::steps;
use crate::meta::schema::Durability;

pub(super) fn cores(machine: &Machine, _: &Config) -> Said {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    ok(format!("{allowed} of {} CPUs may be used: leave 1 in 5 to metadata and interrupts", machine.cpus()))
}

pub(super) fn cache(machine: &Machine, config: &Config) -> Said {
    let memory = machine.memory();
    let cache = config.storage.cache.bytes(memory);
    if memory > 0 && cache > memory / 4 * 3 {
        return problem(
            format!("a cache of {} in {} of memory", size(cache), size(memory)),
            "what connections, TCP and databases leave: half of it",
            format!("AMBERBLOB_STORAGE__CACHE={}GiB", (memory / 2) >> 30),
        );
    }
    ok(format!("a cache of {} in {} of memory", size(cache), size(memory)))
}

pub(super) fn io_mode(_: &Machine, config: &Config) -> Said {
    if config.storage.io == Io::Buffered {
        return advice("buffered", "direct: bytes are not held twice", "AMBERBLOB_STORAGE__IO=direct");
    }
    for disk in &config.storage.disks {
        // A file without a name, that goes when it is closed.
        if let Some(dir) = existing(disk)
            && steps::open_unnamed(&dir, true).is_err()
            && steps::open_unnamed(&dir, false).is_ok()
        {
            return advice(
                format!("{}: the file system takes no direct writes", disk.display()),
                "xfs or ext4: the node falls back to the page cache",
                "mkfs.xfs DEV",
            );
        }
    }
    ok("direct")
}

pub(super) fn send_mode(_: &Machine, config: &Config) -> Said {
    ok(format!("send = {:?}", config.network.send).to_lowercase())
}

pub(super) fn durability(_: &Machine, config: &Config) -> Said {
    match config.storage.durability {
        Durability::Full => ok("full: what is acknowledged is on disk"),
        Durability::Relaxed => advice(
            "relaxed: a power cut loses the last seconds, acknowledged or not",
            "full, for what cannot be made again",
            "AMBERBLOB_STORAGE__DURABILITY=full",
        ),
    }
}

pub(super) fn retention(_: &Machine, config: &Config) -> Said {
    let storage = &config.storage;
    ok(format!("tombstone_grace {:?}, keep_versions {}", storage.tombstone_grace, storage.keep_versions))
}

pub(super) fn scrub(_: &Machine, config: &Config) -> Said {
    let scrub = &config.scrub;
    let used: u64 = config
        .storage
        .disks
        .iter()
        .filter_map(|disk| steps::space(&existing(disk)?).ok())
        .map(|space| space.total - space.free.min(space.total))
        .sum();
    let needed = used / scrub.interval.as_secs().max(1) * 2;
    let saw = format!("{} a second, a pass each {:?}", size(scrub.rate), scrub.interval);
    if scrub.rate > 0 && scrub.rate < needed {
        return advice(
            format!("{saw}, over {}", size(used)),
            "twice as fast as a pass needs",
            format!("AMBERBLOB_SCRUB__RATE={}MiB", needed >> 20),
        );
    }
    ok(saw)
}

pub(super) fn sync(_: &Machine, config: &Config) -> Said {
    let rate = match config.sync.rate {
        0 => "as fast as it goes".to_owned(),
        rate => format!("{} a second", size(rate)),
    };
    ok(format!("compared each {:?}, {rate}", config.sync.interval))
}

pub(super) fn archive(_: &Machine, config: &Config) -> Said {
    let Some(archive) = &config.archive else { return ok("none") };
    let rules = &archive.rules;
    if rules.after.is_none() && rules.high_watermark.is_none() {
        return ok(format!("s3://{}/{}: what it is asked to", archive.bucket, archive.prefix));
    }
    ok(format!(
        "s3://{}/{}: after {:?}, above {:?} percent of a disk",
        archive.bucket, archive.prefix, rules.after, rules.high_watermark
    ))
}

pub(super) fn sqlite(_: &Machine, _: &Config) -> Said {
    ok("built in: nothing to set")
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::{config, machine};
    use super::*;

    #[test]
    fn a_cache_that_leaves_nothing_is_a_problem() {
        let (_root, machine) = machine(&[("/proc/meminfo", "MemTotal: 4194304 kB")]);
        let mut config = config();
        assert_eq!(cache(&machine, &config).level, Level::Ok);
        config.storage.cache = crate::config::CacheSize::Bytes(4 << 30);
        assert_eq!(cache(&machine, &config).level, Level::Problem);
    }

    #[test]
    fn a_promise_that_is_less_is_told() {
        let (_root, machine) = machine(&[]);
        let mut config = config();
        config.storage.durability = Durability::Relaxed;
        config.storage.io = Io::Buffered;
        assert_eq!(durability(&machine, &config).level, Level::Advice);
        assert_eq!(io_mode(&machine, &config).level, Level::Advice);
    }
}

//! Memory: huge pages, what may be locked, what limits it.

use rustix::process::{Resource, getrlimit};

use super::machine::{Machine, chosen};
use super::{Said, advice, ok, problem, size};
use crate::config::Config;

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

pub(super) fn hugepages(machine: &Machine, _: &Config) -> Said {
    let Some(text) = machine.read(&format!("{THP}/enabled")) else {
        return ok("this kernel has no transparent huge pages");
    };
    match chosen(&text) {
        "never" => advice(
            "transparent huge pages: never",
            "madvise: cache and uploads in pages of 2 MiB",
            format!("echo madvise > {THP}/enabled"),
        ),
        other => ok(format!("transparent huge pages: {other}")),
    }
}

pub(super) fn hugepage_defrag(machine: &Machine, _: &Config) -> Said {
    let Some(text) = machine.read(&format!("{THP}/defrag")) else {
        return ok("this kernel has no transparent huge pages");
    };
    match chosen(&text) {
        "never" => advice(
            "defragmentation for huge pages: never",
            "madvise: a machine that has run for weeks still finds some",
            format!("echo madvise > {THP}/defrag"),
        ),
        other => ok(format!("defragmentation for huge pages: {other}")),
    }
}

pub(super) fn memlock(machine: &Machine, config: &Config) -> Said {
    let cache = config.storage.cache.bytes(machine.memory());
    match getrlimit(Resource::Memlock).maximum {
        None => ok("no limit to locked memory"),
        Some(limit) if limit >= cache + cache / 4 => ok(format!("{} may be locked", size(limit))),
        Some(limit) => advice(
            format!("{} may be locked, and the cache is {}", size(limit), size(cache)),
            "no limit: else nothing is registered, and sends are copied",
            "systemctl edit amberblob  # [Service] LimitMEMLOCK=infinity",
        ),
    }
}

/// What the process's group may use, in bytes.
fn group_limit(machine: &Machine) -> Option<u64> {
    let groups = machine.read("/proc/self/cgroup")?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    machine.number(&format!("/sys/fs/cgroup{}/memory.max", group.trim_end_matches('/')))
}

pub(super) fn memory_limits(machine: &Machine, config: &Config) -> Said {
    let cache = config.storage.cache.bytes(machine.memory());
    if let Some(limit) = group_limit(machine)
        && limit < cache + cache / 5
    {
        return problem(
            format!("this group of processes may use {}, and the cache is {}", size(limit), size(cache)),
            "no limit, or a smaller cache: else the kernel ends the node",
            format!("AMBERBLOB_STORAGE__CACHE={}MiB", (limit / 2) >> 20),
        );
    }
    if machine.sysctl("vm.overcommit_memory").as_deref() == Some("2") {
        return advice("vm.overcommit_memory is 2", "0", "sysctl -w vm.overcommit_memory=0");
    }
    let swaps = machine.read("/proc/swaps").is_some_and(|text| text.lines().count() > 1);
    let swappiness = machine.sysctl("vm.swappiness").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if swaps && swappiness > 10 {
        return advice(
            format!("there is swap, and vm.swappiness is {swappiness}"),
            "1: the cache is not to be swapped out",
            "sysctl -w vm.swappiness=1",
        );
    }
    ok(format!("{} of memory, no limit in the way", size(machine.memory())))
}

pub(super) fn dirty(machine: &Machine, _: &Config) -> Said {
    match machine.sysctl("vm.dirty_bytes").and_then(|text| text.parse::<u64>().ok()) {
        None => ok("not known here"),
        Some(0) => advice(
            "unwritten page cache is bounded by a part of the memory",
            "by bytes: syncs of databases and logs then wait for less",
            "sysctl -w vm.dirty_background_bytes=268435456 vm.dirty_bytes=1073741824",
        ),
        Some(bytes) => ok(format!("at most {} of unwritten page cache", size(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::{config, machine};
    use super::*;

    #[test]
    fn huge_pages_that_are_off_are_noticed() {
        let (_root, off) = machine(&[
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]"),
            ("/sys/kernel/mm/transparent_hugepage/defrag", "always [madvise] never"),
        ]);
        assert_eq!(hugepages(&off, &config()).level, Level::Advice);
        assert_eq!(hugepage_defrag(&off, &config()).level, Level::Ok);
    }

    #[test]
    fn a_group_that_is_too_small_for_the_cache_is_a_problem() {
        let of = |limit: &str| {
            machine(&[
                ("/proc/meminfo", "MemTotal: 16777216 kB"),
                ("/proc/self/cgroup", "0::/a.slice"),
                ("/sys/fs/cgroup/a.slice/memory.max", limit),
            ])
        };
        for (limit, level) in [("4000000000", Level::Problem), ("8000000000", Level::Ok), ("max", Level::Ok)]
        {
            let (_root, machine) = of(limit);
            assert_eq!(memory_limits(&machine, &config()).level, level, "{limit}");
        }
    }

    #[test]
    fn swap_and_overcommit_are_looked_at() {
        let (_root, swaps) =
            machine(&[("/proc/swaps", "Filename\n/dev/sda2"), ("/proc/sys/vm/swappiness", "60")]);
        assert_eq!(memory_limits(&swaps, &config()).command, "sysctl -w vm.swappiness=1");
        let (_root, strict) = machine(&[("/proc/sys/vm/overcommit_memory", "2")]);
        assert_eq!(memory_limits(&strict, &config()).level, Level::Advice);
        let (_root, ratio) = machine(&[("/proc/sys/vm/dirty_bytes", "0")]);
        assert_eq!(dirty(&ratio, &config()).level, Level::Advice);
    }
}

//! The kernel, its rings and clock, and the processors.

use rustix::process::{Resource, getrlimit};

use super::machine::{Machine, count};
use super::{Said, advice, ok, problem};
use crate::config::Config;

/// The kernel's release as numbers.
fn release(machine: &Machine) -> Option<(u32, u32)> {
    let text = machine.read("/proc/sys/kernel/osrelease")?;
    let mut numbers = text.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

pub(super) fn io_uring(machine: &Machine, _: &Config) -> Said {
    let disabled = machine.sysctl("kernel.io_uring_disabled");
    if disabled.as_deref() == Some("2") {
        return problem("nobody may make rings", "0", "sysctl -w kernel.io_uring_disabled=0");
    }
    let Some((major, minor)) = release(machine) else { return ok("the kernel's release is not known here") };
    let saw =
        format!("Linux {major}.{minor}, io_uring_disabled {}", disabled.as_deref().unwrap_or("not there"));
    if (major, minor) < (5, 15) {
        return problem(saw, "5.15 at least, better 6.6 or later", "apt install linux-image-amd64");
    }
    if disabled.as_deref() == Some("1") {
        let group = machine.sysctl("kernel.io_uring_group").unwrap_or_default();
        return advice(
            format!("{saw}: only group {group} and the privileged may make rings"),
            "the node's user in that group",
            "sysctl -w kernel.io_uring_group=$(id -g amberblob)",
        );
    }
    if (major, minor) < (6, 0) {
        return advice(saw, "6.6 or later: zero-copy sends", "apt install linux-image-amd64");
    }
    ok(saw)
}

pub(super) fn nofile(_: &Machine, _: &Config) -> Said {
    let set = "systemctl edit amberblob  # [Service] LimitNOFILE=262144";
    match getrlimit(Resource::Nofile).maximum {
        None => ok("no limit to open files"),
        Some(limit @ 0..1024) => problem(format!("{limit} open files"), "262144", set),
        Some(limit @ 1024..65536) => {
            advice(format!("{limit} open files"), "262144: connections and open databases", set)
        }
        Some(limit) => ok(format!("{limit} open files")),
    }
}

pub(super) fn iowq_workers(_: &Machine, _: &Config) -> Said {
    ok(
        "nothing to set; under load 'perf stat -e io_uring:io_uring_queue_async_work' counts what goes to workers",
    )
}

pub(super) fn mitigations(machine: &Machine, _: &Config) -> Said {
    const DIR: &str = "/sys/devices/system/cpu/vulnerabilities";
    if machine.boot_has("init_on_alloc=1") {
        return advice(
            "the kernel zeroes each page that it hands out",
            "init_on_alloc=0, unless others share the machine",
            "grubby --update-kernel=ALL --args=init_on_alloc=0",
        );
    }
    let of = |name: &String| {
        machine.read(&format!("{DIR}/{name}")).is_some_and(|text| text.starts_with("Vulnerable"))
    };
    let open: Vec<String> = machine.list(DIR).into_iter().filter(of).collect();
    if open.is_empty() {
        ok("nothing is said to be vulnerable")
    } else {
        advice(
            format!("vulnerable: {}", open.join(", ")),
            "the newest microcode",
            "apt install amd64-microcode intel-microcode",
        )
    }
}

pub(super) fn iommu(machine: &Machine, _: &Config) -> Said {
    if machine.list("/sys/class/iommu").is_empty() {
        ok("no IOMMU is in use")
    } else if machine.boot_has("iommu=pt") || machine.boot_has("iommu.passthrough=1") {
        ok("the IOMMU passes through")
    } else {
        advice(
            "the IOMMU may translate every buffer",
            "iommu=pt, unless untrusted devices or guests are there",
            "grubby --update-kernel=ALL --args=iommu=pt",
        )
    }
}

pub(super) fn time_sync(machine: &Machine, config: &Config) -> Said {
    let told = machine.run("timedatectl", &["show", "-p", "NTPSynchronized", "--value"]);
    let tracked = machine.run("chronyc", &["-n", "tracking"]);
    let is_synced = told.as_deref().map(str::trim) == Some("yes")
        || tracked.as_deref().is_some_and(|text| text.contains("Leap status     : Normal"));
    if is_synced {
        return ok("the clock is kept by others");
    }
    let (saw, better) =
        ("nothing says that the clock is kept", "chrony: versions and graces go by the clock");
    let command = "apt install chrony && systemctl enable --now chrony";
    if told.is_some() && config.cluster.is_some() {
        problem("the clock is not kept, and there are other nodes", better, command)
    } else {
        advice(saw, better, command)
    }
}

pub(super) fn cpu_power(machine: &Machine, _: &Config) -> Said {
    let info = machine.read("/proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| info.split_whitespace().any(|word| word == flag);
    let hashes = if has("sha_ni") || has("sha2") { "SHA instructions" } else { "no SHA instructions" };
    if hashes.starts_with("no") && !info.is_empty() {
        return advice(
            "the processor has no SHA instructions",
            "one that has: uploads are hashed at a quarter of the speed",
            "grep -m1 -o sha_ni /proc/cpuinfo",
        );
    }
    match machine.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") {
        None => ok(format!("{hashes}; no control of the clock here")),
        Some(governor) if governor == "performance" => ok(format!("{hashes}; governor performance")),
        Some(governor) => advice(
            format!("governor {governor}"),
            "performance: hashing runs at the clock",
            "cpupower frequency-set -g performance",
        ),
    }
}

pub(super) fn smt(machine: &Machine, _: &Config) -> Said {
    if machine.number("/sys/devices/system/cpu/smt/active") == Some(1) {
        ok("two threads share a core: pin serving ones to one of each ('lscpu -e=CPU,CORE,NODE')")
    } else {
        ok("one thread on each core")
    }
}

pub(super) fn numa(machine: &Machine, _: &Config) -> Said {
    let nodes = machine.read("/sys/devices/system/node/online").map_or(1, |list| count(&list).max(1));
    if nodes == 1 {
        return ok("one NUMA node");
    }
    advice(
        format!("{nodes} NUMA nodes"),
        "the node of the network card for all of it, and no balancing",
        "sysctl -w kernel.numa_balancing=0; numactl -N 0 -m 0 amberblob serve",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::{config, machine};
    use super::*;

    #[test]
    fn a_kernel_without_rings_is_a_problem() {
        for (release, disabled, level) in [
            ("5.10.0-1-amd64", "0", Level::Problem),
            ("5.15.0", "0", Level::Advice),
            ("6.18.44-fc", "0", Level::Ok),
            ("6.18.44", "1", Level::Advice),
            ("6.18.44", "2", Level::Problem),
        ] {
            let (_root, machine) = machine(&[
                ("/proc/sys/kernel/osrelease", release),
                ("/proc/sys/kernel/io_uring_disabled", disabled),
            ]);
            assert_eq!(io_uring(&machine, &config()).level, level, "{release} {disabled}");
        }
    }

    #[test]
    fn what_slows_processors_is_noticed() {
        let (_root, slow) = machine(&[
            ("/proc/cmdline", "quiet init_on_alloc=1"),
            ("/proc/cpuinfo", "flags : fpu sha_ni"),
            ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave"),
            ("/sys/class/iommu/dmar0/x", ""),
            ("/sys/devices/system/node/online", "0-1"),
        ]);
        for check in [mitigations, cpu_power, iommu, numa] {
            assert_eq!(check(&slow, &config()).level, Level::Advice);
        }
        let (_root, old) = machine(&[("/proc/cpuinfo", "flags : fpu")]);
        assert_eq!(cpu_power(&old, &config()).level, Level::Advice);
        let (_root, open) = machine(&[("/sys/devices/system/cpu/vulnerabilities/spectre", "Vulnerable: x")]);
        assert!(mitigations(&open, &config()).saw.contains("spectre"));
    }
}

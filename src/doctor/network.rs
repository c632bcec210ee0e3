//! TCP, and the network cards.

use super::machine::{Machine, Nic};
use super::{Said, advice, ok, size};
use crate::config::Config;

fn number(machine: &Machine, sysctl: &str) -> Option<u64> {
    machine.sysctl(sysctl)?.parse().ok()
}

pub(super) fn listen(machine: &Machine, _: &Config) -> Said {
    let Some(most) = number(machine, "net.core.somaxconn") else { return ok("not known here") };
    let half = number(machine, "net.ipv4.tcp_max_syn_backlog").unwrap_or(0);
    let saw = format!("somaxconn {most}, tcp_max_syn_backlog {half}");
    if most < 4096 {
        return advice(
            saw,
            "4096 and 8192: bursts of connections",
            "sysctl -w net.core.somaxconn=4096 net.ipv4.tcp_max_syn_backlog=8192",
        );
    }
    ok(saw)
}

pub(super) fn tcp_buffers(machine: &Machine, _: &Config) -> Said {
    let most = |name: &str| machine.sysctl(name)?.split_whitespace().nth(2)?.parse::<u64>().ok();
    let (Some(send), Some(receive)) = (most("net.ipv4.tcp_wmem"), most("net.ipv4.tcp_rmem")) else {
        return ok("not known here");
    };
    let saw = format!("a socket may hold {} to send and {} received", size(send), size(receive));
    if send.min(receive) < 64 << 20 {
        return advice(
            saw,
            "64 MiB for clients that are far; for a local network it will do",
            "sysctl -w net.ipv4.tcp_wmem='4096 65536 67108864' net.ipv4.tcp_rmem='4096 131072 67108864'",
        );
    }
    ok(saw)
}

pub(super) fn tcp_queueing(machine: &Machine, _: &Config) -> Said {
    let Some(unsent) = number(machine, "net.ipv4.tcp_notsent_lowat") else { return ok("not known here") };
    if unsent == u64::from(u32::MAX) {
        return advice(
            "a socket queues all that it is given",
            "two parts: a tenth of the memory for far clients",
            "sysctl -w net.ipv4.tcp_notsent_lowat=4194304",
        );
    }
    if unsent < 1 << 20 {
        return advice(
            format!("a socket queues {}", size(unsent)),
            "4 MiB: a send of 2 MiB needs many wake-ups",
            "sysctl -w net.ipv4.tcp_notsent_lowat=4194304",
        );
    }
    ok(format!("a socket queues {}", size(unsent)))
}

pub(super) fn congestion_control(machine: &Machine, _: &Config) -> Said {
    let Some(control) = machine.sysctl("net.ipv4.tcp_congestion_control") else {
        return ok("not known here");
    };
    let queueing = machine.sysctl("net.core.default_qdisc").unwrap_or_default();
    if control == "bbr" && queueing != "fq" {
        return advice(
            format!("bbr with {queueing}"),
            "fq, which paces for it",
            "sysctl -w net.core.default_qdisc=fq",
        );
    }
    if number(machine, "net.ipv4.tcp_slow_start_after_idle") == Some(1) {
        return advice(
            format!("{control}; kept connections start slowly after each pause"),
            "no slow start after a pause",
            "sysctl -w net.ipv4.tcp_slow_start_after_idle=0",
        );
    }
    ok(format!("{control}, {queueing}"))
}

pub(super) fn busy_poll(machine: &Machine, _: &Config) -> Said {
    let polls = ["net.core.busy_poll", "net.core.busy_read"].map(|name| number(machine, name).unwrap_or(0));
    if polls == [0, 0] {
        return ok("nobody polls the network cards");
    }
    advice(
        format!("busy_poll {}, busy_read {}", polls[0], polls[1]),
        "0: polling takes the cores that copy",
        "sysctl -w net.core.busy_poll=0 net.core.busy_read=0",
    )
}

/// What is said of the first card that a check finds wanting; else what it has seen of all.
fn each(machine: &Machine, check: impl Fn(&Nic) -> Result<String, Said>) -> Said {
    let nics = machine.nics();
    if nics.is_empty() {
        return ok("no network card");
    }
    match nics.iter().map(check).collect::<Result<Vec<String>, Said>>() {
        Ok(seen) => ok(seen.join("; ")),
        Err(said) => said,
    }
}

pub(super) fn mtu(machine: &Machine, _: &Config) -> Said {
    each(machine, |nic| {
        let name = &nic.name;
        match machine.number(&format!("/sys/class/net/{name}/mtu")) {
            Some(mtu) if mtu < 9000 => Err(advice(
                format!("{name}: frames of {mtu} bytes"),
                "9000, if every host and switch on the way takes them",
                format!("ip link set {name} mtu 9000"),
            )),
            mtu => Ok(format!("{name}: frames of {} bytes", mtu.unwrap_or(0))),
        }
    })
}

pub(super) fn big_tcp(machine: &Machine, _: &Config) -> Said {
    each(machine, |nic| {
        let name = &nic.name;
        let most = machine.number(&format!("/sys/class/net/{name}/gso_max_size")).unwrap_or(65536);
        if nic.speed.is_some_and(|speed| speed >= 100_000) && most <= 65536 {
            return Err(advice(
                format!("{name}: packets of {most} bytes inside the kernel"),
                "185000, at 100 Gb/s and more",
                format!("ip link set {name} gso_max_size 185000 gro_max_size 185000"),
            ));
        }
        Ok(format!("{name}: {most} bytes"))
    })
}

pub(super) fn nic_queues(machine: &Machine, _: &Config) -> Said {
    let cpus = machine.cpus();
    each(machine, |nic| {
        let name = &nic.name;
        let names = machine.list(&format!("/sys/class/net/{name}/queues"));
        let queues = names.iter().filter(|name| name.starts_with("rx-")).count();
        if queues < cpus && nic.speed.is_some_and(|speed| speed >= 10_000) {
            return Err(advice(
                format!("{name}: {queues} queues for {cpus} CPUs"),
                "one for each core that serves",
                format!("ethtool -L {name} combined {cpus}"),
            ));
        }
        Ok(format!("{name}: {queues} queues for {cpus} CPUs"))
    })
}

pub(super) fn irq_affinity(machine: &Machine, _: &Config) -> Said {
    let is_balancer =
        |pid: &String| machine.read(&format!("/proc/{pid}/comm")).as_deref() == Some("irqbalance");
    if machine.list("/proc").iter().any(is_balancer) {
        return advice(
            "irqbalance moves interrupts around",
            "one queue for each core, where it stays",
            "systemctl disable --now irqbalance",
        );
    }
    ok("no irqbalance; /proc/interrupts shows who gets what")
}

pub(super) fn steering(machine: &Machine, _: &Config) -> Said {
    let entries = number(machine, "net.core.rps_sock_flow_entries").unwrap_or(0);
    let is_fast = machine.nics().iter().any(|nic| nic.speed.is_some_and(|speed| speed >= 10_000));
    if is_fast && entries == 0 {
        return advice(
            "packets go to the core that a hash says",
            "to the one that serves the connection",
            "sysctl -w net.core.rps_sock_flow_entries=32768",
        );
    }
    ok(format!("rps_sock_flow_entries {entries}"))
}

/// A card of 10 Gb/s and more, asked by ethtool.
fn ethtool(machine: &Machine, flag: &str, check: impl Fn(&Nic, &str) -> Result<String, Said>) -> Said {
    each(machine, |nic| {
        if nic.speed.is_none_or(|speed| speed < 10_000) {
            return Ok(format!("{}: below 10 Gb/s, or not known", nic.name));
        }
        match machine.run("ethtool", &[flag, &nic.name]) {
            Some(text) => check(nic, &text),
            None => Ok(format!("{}: ethtool is not there, or tells nothing", nic.name)),
        }
    })
}

pub(super) fn nic_rings(machine: &Machine, _: &Config) -> Said {
    ethtool(machine, "-g", |nic, text| {
        let name = &nic.name;
        let current = text.split_once("Current hardware settings").map_or(text, |(_, rest)| rest);
        let ring = |what: &str| super::machine::field(current, what).and_then(|it| it.parse::<u64>().ok());
        match (ring("RX:"), ring("TX:")) {
            (Some(rx), Some(tx)) if rx.min(tx) < 1024 => Err(advice(
                format!("{name}: rings of {rx} and {tx}"),
                "2048: bursts are dropped",
                format!("ethtool -G {name} rx 2048 tx 2048"),
            )),
            (rx, tx) => Ok(format!("{name}: rings of {} and {}", rx.unwrap_or(0), tx.unwrap_or(0))),
        }
    })
}

pub(super) fn coalescing(machine: &Machine, _: &Config) -> Said {
    ethtool(machine, "-c", |nic, text| {
        let name = &nic.name;
        let adaptive = text.lines().any(|line| line.starts_with("Adaptive RX: on"));
        let wait =
            super::machine::field(text, "rx-usecs:").and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
        if !adaptive && wait < 10 {
            return Err(advice(
                format!("{name}: an interrupt after {wait} microseconds"),
                "adaptive, or 100",
                format!("ethtool -C {name} adaptive-rx on"),
            ));
        }
        Ok(format!("{name}: adaptive {adaptive}, {wait} microseconds"))
    })
}

pub(super) fn offloads(machine: &Machine, _: &Config) -> Said {
    const WANTED: [&str; 4] = [
        "scatter-gather:",
        "tcp-segmentation-offload:",
        "generic-segmentation-offload:",
        "generic-receive-offload:",
    ];
    ethtool(machine, "-k", |nic, text| {
        let name = &nic.name;
        let is_off = |wanted: &&&str| super::machine::field(text, wanted) == Some("off");
        let off: Vec<&str> =
            WANTED.iter().filter(is_off).map(|wanted| wanted.trim_end_matches(':')).collect();
        if off.is_empty() {
            return Ok(format!("{name}: segmentation and checksums in the card"));
        }
        Err(advice(
            format!("{name}: off: {}", off.join(", ")),
            "on: zero-copy sends need them",
            format!("ethtool -K {name} sg on tx on rx on tso on gso on gro on"),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::{config, machine};
    use super::*;

    #[test]
    fn sysctls_of_tcp_are_compared() {
        let (_root, poor) = machine(&[
            ("/proc/sys/net/core/somaxconn", "128"),
            ("/proc/sys/net/ipv4/tcp_wmem", "4096\t16384\t4194304"),
            ("/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t67108864"),
            ("/proc/sys/net/ipv4/tcp_notsent_lowat", "4294967295"),
            ("/proc/sys/net/ipv4/tcp_congestion_control", "bbr"),
            ("/proc/sys/net/core/default_qdisc", "pfifo_fast"),
            ("/proc/sys/net/core/busy_read", "50"),
        ]);
        for check in [listen, tcp_buffers, tcp_queueing, congestion_control, busy_poll] {
            assert_eq!(check(&poor, &config()).level, Level::Advice);
        }
        let (_root, good) = machine(&[
            ("/proc/sys/net/core/somaxconn", "4096"),
            ("/proc/sys/net/ipv4/tcp_wmem", "4096 65536 67108864"),
            ("/proc/sys/net/ipv4/tcp_rmem", "4096 131072 67108864"),
            ("/proc/sys/net/ipv4/tcp_notsent_lowat", "4194304"),
            ("/proc/sys/net/ipv4/tcp_congestion_control", "cubic"),
            ("/proc/sys/net/ipv4/tcp_slow_start_after_idle", "0"),
        ]);
        for check in [listen, tcp_buffers, tcp_queueing, congestion_control, busy_poll] {
            assert_eq!(check(&good, &config()).level, Level::Ok);
        }
    }

    #[test]
    fn cards_are_those_with_a_device() {
        let (_root, machine) = machine(&[
            ("/sys/class/net/lo/mtu", "65536"),
            ("/sys/class/net/eth0/device/vendor", "x"),
            ("/sys/class/net/eth0/mtu", "1500"),
            ("/sys/class/net/eth0/speed", "100000"),
            ("/sys/class/net/eth0/queues/rx-0/x", ""),
            ("/sys/class/net/eth0/queues/tx-0/x", ""),
            ("/sys/devices/system/cpu/online", "0-15"),
            ("/proc/77/comm", "irqbalance"),
        ]);
        assert!(mtu(&machine, &config()).saw.starts_with("eth0"));
        assert_eq!(nic_queues(&machine, &config()).command, "ethtool -L eth0 combined 16");
        for check in [big_tcp, steering, irq_affinity] {
            assert_eq!(check(&machine, &config()).level, Level::Advice);
        }
        assert_eq!(offloads(&machine, &config()).level, Level::Ok, "nothing is known of them");
    }
}

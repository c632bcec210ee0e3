//! What the operating system is asked about processes: CPU time, pinning, open files.

use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;
use std::num::NonZeroU64;
use std::time::Duration;

/// Descriptors besides the connections: standard streams, epoll instances, the report.
const SPARE_FILES: u64 = 64;

/// The CPU time a process has used, all its threads together, those that have ended included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuTime {
    ticks: u64,
}

impl CpuTime {
    pub(crate) fn of(pid: u32) -> Result<Self, String> {
        Self::read(&format!("/proc/{pid}/stat"))
            .map_err(|why| format!("cannot read the CPU time of process {pid}: {why}"))
    }

    /// Of all these processes together; none if there are none.
    pub(crate) fn of_all(pids: &[u32]) -> Result<Option<Self>, String> {
        let mut ticks = 0;
        for &pid in pids {
            ticks += Self::of(pid)?.ticks;
        }
        Ok((!pids.is_empty()).then_some(Self { ticks }))
    }

    pub(crate) fn of_self() -> Result<Self, String> {
        Self::read("/proc/self/stat")
            .map_err(|why| format!("cannot read the CPU time of this process: {why}"))
    }

    /// The time used after `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        let ticks = self.ticks.saturating_sub(earlier.ticks);
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    fn read(path: &str) -> Result<Self, String> {
        let stat = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        Self::parse(&stat).ok_or_else(|| format!("{path} is not in the form of proc(5)"))
    }

    /// Fields 14 and 15, user and system; the name in field 2 may hold spaces and parentheses, so they are counted from its end.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace().skip(11);
        let user: u64 = fields.next()?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        Some(Self { ticks: user + system })
    }
}

/// Lets the kernel wake the calling thread when it asked to be, not up to 50 microseconds later to save power.
pub(crate) fn wake_on_time() {
    // Where it is refused, requests are sent a little late, and their latency says so.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Keeps the calling thread on one CPU.
pub(crate) fn pin_thread(cpu: usize) -> Result<(), String> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(format!("cannot pin to CPU {cpu}: the system knows at most {}", CpuSet::MAX_CPU));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|error| {
        format!("cannot pin to CPU {cpu}: {error}; is it among the CPUs this process may use?")
    })
}

/// Makes room for `connections` sockets, up to the hard limit.
pub(crate) fn raise_open_files(connections: usize) -> Result<(), String> {
    let wanted = connections as u64 + SPARE_FILES;
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        return Err(format!(
            "{connections} connections need {wanted} open files and the hard limit is lower: raise it with ulimit -Hn {wanted}"
        ));
    }
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
        .map_err(|error| format!("cannot raise the limit of open files to {wanted}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "17 (a) (b c) S 1 17 17 0 -1 4194560 100 0 0 0 250 31 5 6 20 0 9 0 1 2 3";
        assert_eq!(CpuTime::parse(stat), Some(CpuTime { ticks: 281 }));
        assert_eq!(CpuTime::parse("17 (x) S 1"), None);
        assert_eq!(CpuTime::parse(""), None);
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        assert!(CpuTime::of_self().is_ok());
        assert!(CpuTime::of(u32::MAX).unwrap_err().contains("4294967295"));
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        assert!(pin_thread(usize::MAX).is_err());
        assert!(pin_thread(CpuSet::MAX_CPU - 1).is_err());
    }
}

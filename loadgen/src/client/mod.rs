//! A run: threads that each drive their share of the connections, and one that watches the clock.
//!
//! First all connections are made, then the warm-up begins, then the window opens: no handshake is measured unless the server closes.
//! In a closed loop every connection sends the next request when the answer is complete. In an open loop requests are due at their
//! times, whatever the server does; when the window closes, what was due in it is still waited for, for a bounded time.

mod account;
mod slot;
mod worker;

use crate::arrivals::Spacing;
use crate::clock::Window;
use crate::generations::Generations;
use crate::live;
use crate::meter::{Meter, Reading};
use crate::plan::Plan;
use crate::process::{self, CpuTime};
use crate::stability::Stability;
use crate::tally::Tally;
use crate::url::Url;
use clap::ValueEnum;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant, SystemTime};

const SECOND: Duration = Duration::from_secs(1);
/// A stop that was decided takes effect this much later, when every thread has heard of it.
const STOP_NOTICE: Duration = Duration::from_millis(100);
const NEVER: u64 = u64::MAX;

/// How bodies that are not verified are thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Discard {
    /// Inside the kernel: their bytes are never touched
    #[default]
    Truncate,
    /// After they were copied into memory, as any client that wants them has to
    Copy,
}

/// What a run needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) url: Url,
    pub(crate) address: SocketAddr,
    pub(crate) plan: Plan,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    /// The CPUs of the threads, dealt out in turn; empty to let them float.
    pub(crate) pin: Vec<usize>,
    pub(crate) warmup: Duration,
    /// None: until the requests are used up.
    pub(crate) duration: Option<Duration>,
    pub(crate) requests: Option<u64>,
    /// None: a closed loop.
    pub(crate) open_loop: Option<OpenLoop>,
    pub(crate) auto_stop: Option<AutoStop>,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) seed: u64,
    pub(crate) data_seed: u64,
    pub(crate) verify: bool,
    pub(crate) discard: Discard,
    /// Bytes of a body that must have arrived before a connection is woken.
    pub(crate) low_water: u64,
    pub(crate) server_pids: Vec<u32>,
}

/// Requests at a rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OpenLoop {
    /// Requests a second, of all threads together.
    pub(crate) rate: f64,
    pub(crate) spacing: Spacing,
    /// How many requests may wait for a connection, on all threads together.
    pub(crate) queue: usize,
}

/// When to stop early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AutoStop {
    /// Once the relative half-width of the confidence interval is no larger than this.
    pub(crate) within: f64,
    /// But not before this much was measured.
    pub(crate) at_least: Duration,
}

/// How stable the figure was over the seconds of the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stable {
    /// None: too few seconds to say.
    pub(crate) half_width: Option<f64>,
    /// Whether the run stopped for it.
    pub(crate) stopped: bool,
}

/// What a run found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// When the window opened.
    pub(crate) opened_at: SystemTime,
    pub(crate) window: Duration,
    pub(crate) stable: Stable,
    pub(crate) client_cpu: Option<Duration>,
    pub(crate) server_cpu: Option<Duration>,
    /// Objects that PUTs made under new names.
    pub(crate) new_names: u64,
}

/// What the threads of a run share.
struct Shared {
    /// Requests begun, in a closed loop that is bounded by their number.
    issued: AtomicU64,
    new_names: AtomicU64,
    generations: Generations,
    meters: Vec<Meter>,
    window: OnceLock<Window>,
    /// Whether a thread could not begin.
    failed: AtomicBool,
    /// When an automatic stop takes effect, in nanoseconds after the window opened.
    stop_at: AtomicU64,
}

impl Shared {
    fn stop_at(&self, window: &Window) -> Option<Instant> {
        let at = self.stop_at.load(Ordering::Relaxed);
        (at != NEVER).then(|| window.opens() + Duration::from_nanos(at))
    }
}

/// Runs the load to its end.
pub(crate) fn run(settings: &Settings) -> Result<Outcome, String> {
    process::raise_open_files(settings.connections)?;
    // A process that is not there is found out now, not when the window opens.
    CpuTime::of_all(&settings.server_pids)?;
    let tracked =
        if settings.verify && !settings.url.names_connections() { settings.plan.rewritten() } else { 0 };
    let shared = Shared {
        issued: AtomicU64::new(0),
        new_names: AtomicU64::new(0),
        generations: Generations::new(SystemTime::now(), usize::try_from(tracked).unwrap_or(0)),
        meters: (0..settings.threads).map(|_| Meter::default()).collect(),
        window: OnceLock::new(),
        failed: AtomicBool::new(false),
        stop_at: AtomicU64::new(NEVER),
    };
    let connected = Barrier::new(settings.threads + 1);
    let (working, all_done) = channel::<()>();
    std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(settings.threads);
        for thread in 0..settings.threads {
            let (shared, connected, working) = (&shared, &connected, working.clone());
            let body = move || {
                let worker = worker::connected(settings, shared, thread);
                shared.failed.fetch_or(worker.is_err(), Ordering::SeqCst);
                connected.wait();
                // Where one thread cannot work, none does: its error is the outcome.
                let worker = worker?;
                let tally =
                    if shared.failed.load(Ordering::SeqCst) { Ok(worker.nothing()) } else { worker.run() };
                drop(working);
                tally
            };
            let name = format!("loadgen-{thread}");
            let spawned = std::thread::Builder::new().name(name).spawn_scoped(scope, body);
            // Without this thread the others would wait at the barrier for ever.
            threads
                .push(spawned.map_err(|error| give_up(&format!("cannot start thread {thread}: {error}")))?);
        }
        drop(working);
        connected.wait();
        let now = Instant::now();
        let window = *shared.window.get_or_init(|| Window::new(now, settings.warmup, settings.duration));
        let opened_at = SystemTime::now() + settings.warmup;
        let watched = watch(settings, &shared, window, &all_done);

        let mut tally = Tally::new(settings.plan.operations().len())?;
        for thread in threads {
            tally.merge(&thread.join().map_err(|_| "a client thread panicked".to_owned())??)?;
        }
        let watched = watched?;
        Ok(Outcome {
            tally,
            opened_at,
            window: watched.window,
            stable: watched.stable,
            client_cpu: watched.client_cpu,
            server_cpu: watched.server_cpu,
            new_names: shared.new_names.load(Ordering::Relaxed),
        })
    })
}

/// What the watching thread saw.
struct Watched {
    window: Duration,
    stable: Stable,
    client_cpu: Option<Duration>,
    server_cpu: Option<Duration>,
}

/// Watches the window: takes the CPU times at its edges and a reading each second, and stops the run when it is stable.
fn watch(
    settings: &Settings,
    shared: &Shared,
    mut window: Window,
    done: &Receiver<()>,
) -> Result<Watched, String> {
    let mut line = live::Line::new(&settings.url, settings.duration);
    wait_until(window.opens(), done);
    let client_before = CpuTime::of_self();
    let server_before = CpuTime::of_all(&settings.server_pids)?;

    let mut samples = Stability::default();
    let mut stopped = false;
    let mut before = Reading::of(&shared.meters);
    let mut before_at = Instant::now();
    loop {
        let next = window.closes().map_or(before_at + SECOND, |closes| closes.min(before_at + SECOND));
        let finished = wait_until(next, done);
        let now = Instant::now();
        if finished || window.is_over(now) {
            break;
        }
        let reading = Reading::of(&shared.meters);
        let (since, seconds) = (reading.since(before), (now - before_at).as_secs_f64());
        line.show(since, seconds, window.since_opening(now), reading.errors);
        samples.add(figure(settings, since, seconds));
        (before, before_at) = (reading, now);
        if let Some(auto) = settings.auto_stop
            && !stopped
            && window.since_opening(now) >= auto.at_least
            && samples.half_width().is_some_and(|width| width <= auto.within)
        {
            stopped = true;
            let end = window.since_opening(now) + STOP_NOTICE;
            shared.stop_at.store(u64::try_from(end.as_nanos()).unwrap_or(NEVER), Ordering::Relaxed);
            window.close_at(window.opens() + end);
        }
    }
    let window = window.length(Instant::now());
    let client_cpu = client_before.and_then(|before| Ok(CpuTime::of_self()?.since(before))).ok();
    let server_cpu = match server_before {
        Some(before) => CpuTime::of_all(&settings.server_pids)?.map(|after| after.since(before)),
        None => None,
    };
    line.clear();
    Ok(Watched {
        window,
        stable: Stable { half_width: samples.half_width(), stopped },
        client_cpu,
        server_cpu,
    })
}

/// What must be stable: throughput in a closed loop; in an open one that is given, so the mean latency.
fn figure(settings: &Settings, since: Reading, seconds: f64) -> f64 {
    match settings.open_loop {
        Some(_) => since.latency_mean_us(),
        None if since.bytes > 0 => since.bytes as f64 / seconds,
        None => since.requests as f64 / seconds,
    }
}

/// Sleeps until `at`, or until all threads are done: whether they are.
fn wait_until(at: Instant, done: &Receiver<()>) -> bool {
    done.recv_timeout(at.saturating_duration_since(Instant::now())) == Err(RecvTimeoutError::Disconnected)
}

/// The run cannot go on, and threads wait for it: end the process as a failed run does.
fn give_up(why: &str) -> String {
    eprintln!("loadgen: {why}");
    std::process::exit(1)
}

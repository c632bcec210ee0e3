//! Registered memory: extents that the kernel keeps pinned, so that operations need not pin their pages each time.
//!
//! The extents are registered once, in a ring that does nothing else, and cloned into each core's ring when that core
//! first names them: so they are charged once against RLIMIT_MEMLOCK. Where the kernel cannot clone (before Linux
//! 6.13) each ring registers them itself, and the charge is multiplied. Registering faults the pages in and pins them;
//! [`Registry::add`] belongs on a storage thread.
//!
//! On failure memory is simply not registered: operations then name it like any other.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::fmt;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use io_uring::types::CloneBuffersFlags;
use io_uring::{IoUring, Probe, opcode};
use rustix::process::{Resource, getrlimit};

use crate::io::send_mode::Mode;
use crate::limits::EXTENTS_MAX;

/// The registered extents of a process.
pub struct Registry(Mutex<State>);

struct State {
    /// None: nothing can be registered.
    source: Option<IoUring>,
    /// No more can be registered.
    is_full: bool,
    extents: Vec<Extent>,
}

#[derive(Clone, Copy)]
struct Extent {
    start: usize,
    len: usize,
}

impl Extent {
    fn iovec(self) -> libc::iovec {
        libc::iovec { iov_base: self.start as *mut libc::c_void, iov_len: self.len }
    }
}

/// Why memory cannot be registered.
#[derive(Debug)]
pub enum Refused {
    /// The limit of locked memory.
    Limit {
        /// RLIMIT_MEMLOCK in bytes.
        limit: u64,
        /// Bytes needed.
        need: u64,
    },
    /// The kernel, for another reason.
    Kernel(io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { limit, need } => write!(
                f,
                "memory cannot be registered with the kernel: {} MiB may be locked and {} MiB are needed: set \
                 LimitMEMLOCK=infinity in the service's unit, or 'ulimit -l unlimited', or make storage.cache smaller",
                limit >> 20,
                need.div_ceil(1 << 20)
            ),
            Self::Kernel(error) => write!(f, "memory cannot be registered with the kernel: {error}"),
        }
    }
}

impl Registry {
    /// A registry in which nothing is ever registered.
    pub fn none() -> Self {
        Self(Mutex::new(State { source: None, is_full: false, extents: Vec::new() }))
    }

    /// The registry of a node that sends by `mode` from extents of `need` bytes in all. Where so much cannot be
    /// registered, a line in the log says why, and nothing is; nor where it would serve nobody: when sends are copied
    /// anyway, to local peers (`local`) for one.
    ///
    /// # Errors
    /// One line, when zero-copy is demanded and cannot be had.
    pub fn for_sending(mode: Mode, local: bool, need: u64) -> Result<Self, String> {
        if mode == Mode::Copy || (mode == Mode::Auto && local) {
            return Ok(Self::none());
        }
        let registry = Self::new(need);
        if mode != Mode::ZeroCopy {
            return Ok(registry.unwrap_or_else(|refused| {
                tracing::warn!("{refused}; until then reads pin their pages and sends are copied");
                Self::none()
            }));
        }
        let demanded = |why: &dyn fmt::Display| format!("network.send = \"zerocopy\" cannot be had: {why}");
        let registry = registry.map_err(|refused| demanded(&refused))?;
        if !registry.can_zero_copy() {
            return Err(demanded(
                &"this kernel has no SEND_ZC: run Linux 6.0 or later, or leave the key out",
            ));
        }
        Ok(registry)
    }

    /// Whether nothing is ever registered.
    pub fn is_none(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).source.is_none()
    }

    fn can_zero_copy(&self) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.source.as_ref().is_some_and(can_zero_copy)
    }

    /// A registry for extents of `need` bytes in all.
    ///
    /// # Errors
    /// When so much cannot be registered; nothing should be then, or some requests would be fast at random.
    pub fn new(need: u64) -> Result<Self, Refused> {
        let limit = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
        if limit < need && !may_lock_without_limit() {
            return Err(Refused::Limit { limit, need });
        }
        let source = IoUring::new(1).map_err(Refused::Kernel)?;
        source.submitter().register_buffers_sparse(u32::from(EXTENTS_MAX)).map_err(Refused::Kernel)?;
        Ok(Self(Mutex::new(State { source: Some(source), is_full: false, extents: Vec::new() })))
    }

    /// Registers `len` bytes at `start`, and says by which index operations name them. None: they are not registered;
    /// the first time, a line in the log says why. Takes milliseconds.
    ///
    /// # Safety
    /// The memory stays mapped for as long as this registry exists.
    pub unsafe fn add(&self, start: *mut u8, len: usize) -> Option<u16> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_full {
            return None;
        }
        let index = u16::try_from(state.extents.len()).ok().filter(|index| *index < EXTENTS_MAX)?;
        let extent = Extent { start: start as usize, len };
        // SAFETY: the caller keeps it mapped.
        let added = unsafe {
            state.source.as_ref()?.submitter().register_buffers_update(
                u32::from(index),
                &[extent.iovec()],
                None,
            )
        };
        match added {
            Ok(()) => {
                state.extents.push(extent);
                Some(index)
            }
            Err(error) => {
                let need = state.extents.iter().map(|extent| extent.len as u64).sum::<u64>() + len as u64;
                let limit = getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX);
                let why = match error.raw_os_error() {
                    Some(libc::ENOMEM) => Refused::Limit { limit, need },
                    _ => Refused::Kernel(error),
                };
                tracing::warn!("{why}; what is not registered yet is used as it is");
                state.is_full = true;
                None
            }
        }
    }
}

/// Whether the kernel behind a ring knows SEND_ZC.
pub(super) fn can_zero_copy(ring: &IoUring) -> bool {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).is_ok() && probe.is_supported(opcode::SendZc::CODE)
}

/// Whether the limit does not apply: CAP_IPC_LOCK in the first user namespace.
fn may_lock_without_limit() -> bool {
    let capable = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::IPC_LOCK));
    let first = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    capable && first
}

/// What one ring has of the registry.
pub(super) struct View {
    registry: Arc<Registry>,
    /// Extents below this index are named in the ring.
    known: usize,
    clones: bool,
    /// Nothing (more) can be taken over.
    closed: bool,
}

impl View {
    pub(super) fn new(registry: &Arc<Registry>) -> Self {
        Self { registry: Arc::clone(registry), known: 0, clones: true, closed: false }
    }

    pub(super) fn known(&self) -> usize {
        self.known
    }

    /// Whether operations of `ring` may name extent `index`; takes over what it has not yet.
    pub(super) fn has(&mut self, ring: &IoUring, index: u16) -> bool {
        if usize::from(index) >= self.known && !self.closed {
            self.catch_up(ring);
        }
        usize::from(index) < self.known
    }

    fn catch_up(&mut self, ring: &IoUring) {
        let registry = Arc::clone(&self.registry);
        let state = match registry.0.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            // An extent is just being registered: not now, or this core would wait for it.
            Err(TryLockError::WouldBlock) => return,
        };
        let Some(source) = &state.source else { return };
        let (first, count) = (self.known as u32, (state.extents.len() - self.known) as u32);
        if count == 0 {
            return;
        }
        if self.clones {
            let cloned = ring.submitter().register_buffers_clone_offset(
                source.as_raw_fd(),
                first,
                first,
                count,
                CloneBuffersFlags::DST_REPLACE,
            );
            match cloned {
                Ok(()) => {
                    self.known = state.extents.len();
                    return;
                }
                Err(_) if self.known == 0 => {
                    // A kernel that cannot clone.
                    self.clones = false;
                    self.closed = ring.submitter().register_buffers_sparse(u32::from(EXTENTS_MAX)).is_err();
                }
                Err(_) => self.closed = true,
            }
        }
        while !self.closed && self.known < state.extents.len() {
            let extent = state.extents[self.known].iovec();
            // SAFETY: extents of the registry stay mapped.
            let added =
                unsafe { ring.submitter().register_buffers_update(self.known as u32, &[extent], None) };
            match added {
                Ok(()) => self.known += 1,
                Err(error) => {
                    tracing::warn!(%error, "a core cannot register memory: it uses it as it is; raise 'ulimit -l'");
                    self.closed = true;
                }
            }
        }
    }
}

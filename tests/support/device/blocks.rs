//! The devices of a rig as files of a FUSE file system: one directory, a file for each device.
//!
//! One thread takes the requests and answers each before it looks at the next, so the order of the log is the order in which
//! they were done. Only a request with a fault waits elsewhere ([`Parked`]), and is done when its wait is over.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, WriteFlags,
};

use super::faults::{Deed, Fault, Op};
use super::image::{Image, Piece, pieces, zeroes};
use super::log::{Event, Log, Loss};
use super::parked::Parked;
use super::support::Random;

/// The memory that all logs of a rig may take; a device whose writes find no room fails them, and with it the test.
const LOGGED_BYTES: u64 = 2 << 30;
/// Names and sizes do not change while a device is there.
const TTL: Duration = Duration::from_secs(3600);
/// The kernel cuts larger requests.
const MAX_REQUEST: u32 = 1 << 20;

struct Device {
    name: String,
    size: u64,
    image: Image,
    log: Option<Log>,
    /// Bytes of memory that the log takes.
    logged: u64,
    faults: Vec<Fault>,
    /// It kept somebody waiting for too long: its faults are never changed again.
    ended: bool,
}

#[derive(Default)]
struct State {
    /// By inode; a number is never used twice.
    devices: BTreeMap<u64, Device>,
    made: u64,
    logged: u64,
}

/// The devices, as the control stream sees them.
pub struct Blocks {
    /// The next moment.
    clock: AtomicU64,
    state: Mutex<State>,
    random: Mutex<Random>,
    parked: Parked,
}

/// A request that is under way.
pub enum Request {
    Read { offset: u64, len: usize, reply: ReplyData },
    Write { offset: u64, pieces: Vec<Piece>, len: u32, reply: ReplyWrite },
    Zero { pieces: Vec<Piece>, reply: ReplyEmpty },
    Flush { reply: ReplyEmpty },
}

impl Request {
    fn place(&self) -> (Op, u64, u64) {
        match self {
            Self::Read { offset, len, .. } => (Op::Read, *offset, *len as u64),
            Self::Write { offset, len, .. } => (Op::Write, *offset, u64::from(*len)),
            Self::Zero { pieces, .. } => {
                let from = pieces.first().map_or(0, |piece| piece.offset);
                let to = pieces.last().map_or(0, |piece| piece.offset + piece.bytes().len() as u64);
                (Op::Write, from, to - from)
            }
            Self::Flush { .. } => (Op::Flush, 0, 0),
        }
    }

    pub fn fail(self) {
        match self {
            Self::Read { reply, .. } => reply.error(Errno::EIO),
            Self::Write { reply, .. } => reply.error(Errno::EIO),
            Self::Zero { reply, .. } | Self::Flush { reply } => reply.error(Errno::EIO),
        }
    }
}

impl Blocks {
    pub fn new() -> Arc<Self> {
        let this = Arc::new(Self {
            clock: AtomicU64::new(1),
            state: Mutex::default(),
            random: Mutex::new(Random::new(0xb10c)),
            parked: Parked::default(),
        });
        let shared = Arc::clone(&this);
        std::thread::spawn(move || {
            let perform = |inode, request| shared.perform(inode, request);
            shared.parked.serve(perform, |inode, request| shared.end(inode, request));
        });
        this
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A moment for a client: after everything that was logged so far, and before everything that will be.
    pub fn moment(&self) -> Result<u64, String> {
        if self.state().logged > LOGGED_BYTES {
            return Err(format!("the devices were written more than {LOGGED_BYTES} bytes"));
        }
        Ok(self.clock.fetch_add(1, Ordering::SeqCst))
    }

    pub fn create(&self, name: &str, size: u64, image: Image, logged: bool) -> Result<(), String> {
        let mut state = self.state();
        if state.devices.values().any(|device| device.name == name) {
            return Err(format!("there is a device {name}"));
        }
        state.made += 1;
        let inode = u64::from(INodeNo::ROOT) + state.made;
        let log = logged.then(|| Log::from(image.clone()));
        let device =
            Device { name: name.to_owned(), size, image, log, logged: 0, faults: Vec::new(), ended: false };
        state.devices.insert(inode, device);
        Ok(())
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(u64, &mut Device) -> T) -> Result<T, String> {
        let mut state = self.state();
        let found = state.devices.iter_mut().find(|(_, device)| device.name == name);
        found.map(|(inode, device)| act(*inode, device)).ok_or_else(|| format!("there is no device {name}"))
    }

    pub fn set_faults(&self, name: &str, faults: Vec<Fault>) -> Result<(), String> {
        let inode = self.with(name, |inode, device| {
            if !device.ended {
                device.faults = faults;
            }
            inode
        })?;
        // What waits for an answer gets it by the new rules.
        for request in self.parked.take(inode) {
            self.submit(inode, request);
        }
        Ok(())
    }

    pub fn events(&self, name: &str) -> Result<Vec<Event>, String> {
        self.with(name, |_, device| device.log.as_ref().map(Log::events))?
            .ok_or_else(|| format!("device {name} has no log"))
    }

    /// A new device: what is left of another one after a power cut.
    pub fn cut(
        &self,
        of: &str,
        at: u64,
        loss: Loss,
        seed: u64,
        name: &str,
        logged: bool,
    ) -> Result<(), String> {
        let left =
            self.with(of, |_, device| Some((device.size, device.log.as_ref()?.after_cut(at, loss, seed))))?;
        let (size, image) = left.ok_or_else(|| format!("device {of} has no log"))?;
        self.create(name, size, image, logged)
    }

    pub fn remove(&self, name: &str) -> Result<(), String> {
        let inode = self.with(name, |inode, _| inode)?;
        let mut state = self.state();
        let removed = state.devices.remove(&inode);
        state.logged -= removed.map_or(0, |device| device.logged);
        drop(state);
        for request in self.parked.take(inode) {
            request.fail();
        }
        Ok(())
    }

    /// Every request of every device fails from now on, those that wait included.
    pub fn give_up(&self) {
        let names: Vec<String> = self.state().devices.values().map(|device| device.name.clone()).collect();
        for name in names {
            let _ = self.set_faults(&name, vec![Fault::gone()]);
        }
    }

    /// A request has waited for too long: its device is gone.
    fn end(&self, inode: u64, request: Request) {
        request.fail();
        if let Some(device) = self.state().devices.get_mut(&inode) {
            eprintln!("device {}: a request was not answered for too long", device.name);
            device.faults = vec![Fault::gone()];
            device.ended = true;
        }
        for request in self.parked.take(inode) {
            request.fail();
        }
    }

    /// Does a request, or what a fault makes of it.
    fn submit(&self, inode: u64, request: Request) {
        let (op, offset, len) = request.place();
        let deed = {
            let state = self.state();
            let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
            state.devices.get(&inode).and_then(|device| {
                device.faults.iter().find_map(|fault| fault.deed(op, offset, len, &mut random))
            })
        };
        match deed {
            None => self.perform(inode, request),
            Some(Deed::Fail) => request.fail(),
            Some(Deed::Wait(millis)) => self.parked.wait(inode, request, Some(Duration::from_millis(millis))),
            Some(Deed::Never) => self.parked.wait(inode, request, None),
        }
    }

    fn perform(&self, inode: u64, request: Request) {
        let mut state = self.state();
        let State { devices, logged, .. } = &mut *state;
        let Some(device) = devices.get_mut(&inode) else { return request.fail() };
        let mut put = |pieces: &[Piece]| {
            if let Some(log) = &mut device.log {
                let weight = pieces.iter().map(Piece::weight).sum::<u64>();
                device.logged += weight;
                *logged += weight;
                if *logged > LOGGED_BYTES {
                    return false;
                }
                log.write(self.clock.fetch_add(1, Ordering::SeqCst), pieces);
            }
            pieces.iter().for_each(|piece| device.image.put(piece));
            true
        };
        match request {
            Request::Read { offset, len, reply } => {
                let left = device.size.saturating_sub(offset).min(len as u64) as usize;
                reply.data(&device.image.read(offset, left));
            }
            Request::Write { pieces, len, reply, .. } => {
                if put(&pieces) {
                    reply.written(len)
                } else {
                    reply.error(Errno::EIO)
                }
            }
            Request::Zero { pieces, reply } => {
                if put(&pieces) {
                    reply.ok()
                } else {
                    reply.error(Errno::EIO)
                }
            }
            Request::Flush { reply } => {
                if let Some(log) = &mut device.log {
                    log.flush(self.clock.fetch_add(1, Ordering::SeqCst));
                }
                reply.ok();
            }
        }
    }

    fn attr(&self, inode: u64) -> Option<FileAttr> {
        let root = inode == u64::from(INodeNo::ROOT);
        let size = if root { 0 } else { self.state().devices.get(&inode)?.size };
        Some(FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if root { FileType::Directory } else { FileType::RegularFile },
            perm: if root { 0o700 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

/// What the kernel sees.
pub struct Files(pub Arc<Blocks>);

impl Filesystem for Files {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.set_max_write(MAX_REQUEST);
        Ok(())
    }

    fn lookup(&self, _: &fuser::Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.0.with(&name.to_string_lossy(), |inode, _| inode).ok();
        match found.and_then(|inode| self.0.attr(inode)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &fuser::Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attr(inode.into()) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &fuser::Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing stays in a page cache, whoever opens it.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &fuser::Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.submit(inode.into(), Request::Read { offset, len: size as usize, reply });
    }

    fn write(
        &self,
        _: &fuser::Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (pieces, len) = (pieces(offset, data), data.len() as u32);
        self.0.submit(inode.into(), Request::Write { offset, pieces, len, reply });
    }

    fn fsync(&self, _: &fuser::Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.submit(inode.into(), Request::Flush { reply });
    }

    /// A close is no flush.
    fn flush(&self, _: &fuser::Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    /// A loop device asks this way for discards and for zeroes.
    fn fallocate(
        &self,
        _: &fuser::Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zeroing = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        let size = self.0.attr(inode.into()).map_or(0, |attr| attr.size);
        if mode & zeroing == 0 || offset >= size {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let pieces = zeroes(offset, length.min(size - offset));
        self.0.submit(inode.into(), Request::Zero { pieces, reply });
    }
}

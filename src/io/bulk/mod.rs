//! The bulk ring: an io_uring of a core's own beside monoio's, for what monoio cannot do.
//!
//! ```text
//! let bulk = Bulk::start(&registry, counts)?;                    // once per core, inside its runtime
//! let socket = Socket::new(stream);                              // used like the TcpStream in it
//! let parts = Rc::new((head, vec![block, block]));               // any `Gather`: lists and pairs nest
//! let moved = bulk.send(&socket, &parts, skip, Way::Copy, None, patience).await?;
//! let (moved, buffer) = bulk.recv(&socket, buffer, 0..len, patience).await;
//! let (read, buffer) = bulk.read(&Descriptor::of(&file), buffer, 0..len, offset).await;
//! let (written, parts) = bulk.write(&Descriptor::of(&file), parts, 0..len, offset).await;
//! bulk.close().await;                                            // when the core stops
//! ```
//!
//! What always holds:
//! - An operation owns its socket or file until its last result, and its memory until its last completion, also when the
//!   future that waits for it is dropped (it is then cancelled, and ends by itself).
//! - A send's memory is shared (`Rc`) between caller and operation. After a zero-copy send the caller may let go at
//!   once; the memory itself goes back when the kernel has given notice. Memory that an operation fills is moved in and
//!   comes back with the result.
//! - A send or receive whose patience ends is cancelled and waited for: [`Moved::bytes`] is exact.
//! - All that is queued in one turn of the runtime is handed over in one system call, by one flush task. Completions
//!   that come later are announced by an eventfd that monoio reads.
//! - What is under way is bounded (`limits.rs`): who finds no room waits its turn, a send or receive within its
//!   patience. A send cut short by a bound returns what moved, like any short send.
//!
//! On failure: an error of the kernel is the operation's. Should the ring itself refuse to be entered, what is queued
//! waits and is tried again. When a ring is dropped with operations under way, they are cancelled and waited for
//! briefly; what the kernel still holds then is never freed.

mod entries;
pub mod memory;
mod now;
mod operations;
pub mod registry;
mod ring;
pub mod socket;
mod turn;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use monoio::time::timeout;

use self::entries::Entries;
use self::memory::{Gather, Region, Scatter, cut};
pub use self::now::send_now;
use self::operations::Holds;
use self::registry::Registry;
use self::socket::{Descriptor, Socket};
pub use self::turn::Counts;
use self::turn::{Inner, Pending};
use super::budget::{Budget, Share};
use super::send_mode::{Chooser, Way};
use crate::limits::{
    BULK_CHAIN, BULK_FILE_OPERATIONS, BULK_NOTICES, BULK_RECEIVES, BULK_REGIONS, BULK_SEND_MAX, BULK_SENDS,
};

/// What a send or receive moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Bytes that moved.
    pub bytes: usize,
    /// The patience ended before all of it had. If it did not, and bytes are missing, the peer has ended or the
    /// connection has failed, and the next operation says so.
    pub out_of_patience: bool,
}

/// Who is told what the notifications of a connection's zero-copy sends say.
pub type Reports = Rc<RefCell<Chooser>>;

/// One core's bulk ring. Clones are the same ring.
#[derive(Clone)]
pub struct Bulk {
    inner: Rc<Inner>,
    sends: Budget,
    receives: Budget,
    files: Budget,
}

impl Bulk {
    /// Sets a ring up for this thread, whose monoio runtime must be running.
    ///
    /// # Errors
    /// When the kernel refuses a ring or an eventfd.
    pub fn start(registry: &Arc<Registry>, counts: Counts) -> io::Result<Self> {
        Ok(Self {
            inner: Inner::start(registry, counts)?,
            sends: Budget::new(BULK_SENDS),
            receives: Budget::new(BULK_RECEIVES),
            files: Budget::new(BULK_FILE_OPERATIONS),
        })
    }

    /// Bytes of zero-copy sends that the kernel has not given notice of.
    pub fn held(&self) -> usize {
        self.inner.held()
    }

    /// Operations under way, notifications to come included.
    pub fn depth(&self) -> usize {
        self.inner.depth()
    }

    /// Extents of registered memory that this ring has taken over so far.
    pub fn registered(&self) -> usize {
        self.inner.registered()
    }

    /// Sends what `parts` holds from byte `skip` on, within `patience`.
    ///
    /// By [`Way::ZeroCopy`], regions of registered memory are sent from there, and others copied; `reports` is told of
    /// the notifications.
    ///
    /// # Errors
    /// Those of sendmsg(2), when nothing was sent.
    pub async fn send<G: Gather>(
        &self,
        socket: &Socket,
        parts: &Rc<G>,
        skip: usize,
        way: Way,
        reports: Option<&Reports>,
        patience: Duration,
    ) -> io::Result<Moved> {
        let descriptor = socket.descriptor();
        let zero_copy =
            way == Way::ZeroCopy && self.inner.can_zero_copy() && self.inner.late() < BULK_NOTICES;
        let most = if zero_copy { BULK_CHAIN } else { BULK_REGIONS };
        let mut regions = cut(|name| parts.regions(name), skip..skip.saturating_add(BULK_SEND_MAX), most);
        let wanted = total(&regions);
        let entries = if zero_copy {
            self.inner.known(&mut regions);
            entries::send_zero_copy(descriptor.fd(), &regions)
        } else {
            entries::send(descriptor.fd(), &regions)
        };
        let memory = Rc::<G>::clone(parts);
        self.transfer(&self.sends, entries, wanted, descriptor, memory, reports.cloned(), patience).await
    }

    /// Fills `range` of `into`'s bytes from the socket, all of it, within `patience`. Less, with patience left: the
    /// peer has ended.
    ///
    /// # Errors
    /// Those of recvmsg(2), when nothing was received.
    pub async fn recv<S: Scatter>(
        &self,
        socket: &Socket,
        into: S,
        range: Range<usize>,
        patience: Duration,
    ) -> (io::Result<Moved>, S) {
        let descriptor = socket.descriptor();
        let (lent, regions) = Lent::new(into, range);
        let entries = entries::recv(descriptor.fd(), &regions);
        let wanted = total(&regions);
        let memory = lent.share();
        let result = self.transfer(&self.receives, entries, wanted, descriptor, memory, None, patience).await;
        (result, lent.back())
    }

    /// Reads into `range` of `into`'s bytes, from `offset` of the file on. Under direct IO the file system's rules of
    /// alignment hold for each region. At the end of the file less is read, and perhaps elsewhere.
    ///
    /// # Errors
    /// Those of preadv(2).
    pub async fn read<S: Scatter>(
        &self,
        file: &Descriptor,
        into: S,
        range: Range<usize>,
        offset: u64,
    ) -> (io::Result<usize>, S) {
        let room = self.files.take(1).await;
        let (lent, mut regions) = Lent::new(into, range);
        self.inner.known(&mut regions);
        let entries = entries::read(file.fd(), &regions, offset);
        let result = self.begin(entries, file.clone(), lent.share(), room, None).await;
        (result.into_result(), lent.back())
    }

    /// Writes `range` of `from`'s bytes at `offset` of the file, or the first of them; with the rules of
    /// [`Bulk::read`].
    ///
    /// # Errors
    /// Those of pwritev(2).
    pub async fn write<G: Gather>(
        &self,
        file: &Descriptor,
        from: &Rc<G>,
        range: Range<usize>,
        offset: u64,
    ) -> io::Result<usize> {
        let room = self.files.take(1).await;
        let mut regions = cut(|name| from.regions(name), range, BULK_REGIONS);
        self.inner.known(&mut regions);
        let entries = entries::write(file.fd(), &regions, offset);
        self.begin(entries, file.clone(), Rc::<G>::clone(from), room, None).await.into_result()
    }

    /// Cancels what is under way, and waits up to `patience` for its end, late notifications not included.
    pub async fn close(&self, patience: Duration) {
        self.inner.cancel_all();
        let ended = async {
            while self.inner.depth() > self.inner.late() {
                monoio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // What has not ended by then is left to the drop.
        let _ = timeout(patience, ended).await;
    }

    /// Sends or receives: cancelled when `patience` ends, and then waited for.
    #[expect(clippy::too_many_arguments, reason = "what an operation is made of, from two callers")]
    async fn transfer(
        &self,
        rooms: &Budget,
        entries: Entries,
        wanted: usize,
        descriptor: Descriptor,
        memory: Rc<dyn Any>,
        reports: Option<Reports>,
        patience: Duration,
    ) -> io::Result<Moved> {
        if wanted == 0 {
            return Ok(Moved { bytes: 0, out_of_patience: false });
        }
        let room = match rooms.try_take(1) {
            Some(room) => room,
            None => match timeout(patience, rooms.take(1)).await {
                Ok(room) => room,
                Err(_) => return Ok(Moved { bytes: 0, out_of_patience: true }),
            },
        };
        let mut pending = self.begin(entries, descriptor, memory, room, reports);
        let in_time = timeout(patience, &mut pending).await;
        let cancelled = in_time.is_err();
        let outcome = if let Ok(outcome) = in_time {
            outcome
        } else {
            pending.cancel();
            pending.await
        };
        match outcome.errno {
            Some(libc::ECANCELED) if cancelled && outcome.bytes == 0 => {
                Ok(Moved { bytes: 0, out_of_patience: true })
            }
            _ => outcome
                .into_result()
                .map(|bytes| Moved { bytes, out_of_patience: cancelled && bytes < wanted }),
        }
    }

    fn begin(
        &self,
        entries: Entries,
        descriptor: Descriptor,
        memory: Rc<dyn Any>,
        room: Share,
        reports: Option<Reports>,
    ) -> Pending {
        let key = self.inner.begin(entries, Holds { descriptor, memory, room, reports });
        Pending::new(&self.inner, key)
    }
}

fn total(regions: &[Region]) -> usize {
    regions.iter().map(|region| region.len).sum()
}

/// Memory that is moved into an operation and comes back with its result. The operation keeps a share; nobody looks
/// inside before it has ended.
struct Lent<S>(Rc<Cell<Option<S>>>);

impl<S: Scatter> Lent<S> {
    fn new(mut into: S, range: Range<usize>) -> (Self, Vec<Region>) {
        let regions = cut(|name| into.regions(name), range, BULK_REGIONS);
        (Self(Rc::new(Cell::new(Some(into)))), regions)
    }

    fn share(&self) -> Rc<dyn Any> {
        Rc::<Cell<Option<S>>>::clone(&self.0)
    }

    #[expect(clippy::expect_used, reason = "it is taken here only")]
    fn back(self) -> S {
        self.0.take().expect("what was lent is there")
    }
}

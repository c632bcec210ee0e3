//! Which core a new connection goes to: the one with the least to do, before its first byte is read. From then on it
//! stays there.
//!
//! The kernel spreads connections over the cores' listeners by a hash of addresses, and a few bulk connections hash
//! badly: of eight on eight cores, a third of the cores get none. So the core that accepts one hands it on, if another one
//! has less to do: a connection counts one, and one with a request under way counts two.

use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_channel::{Receiver, Sender};

use super::connection::Plane;
use crate::limits::HANDED_OVER;

/// One core's work, and the way to it.
#[derive(Debug)]
struct Desk {
    /// Requests under way.
    busy: AtomicUsize,
    connections: AtomicUsize,
    sender: Sender<(TcpStream, Plane, Placed)>,
    receiver: Receiver<(TcpStream, Plane, Placed)>,
}

/// All cores.
#[derive(Debug)]
pub struct Placement {
    desks: Vec<Desk>,
    most: usize,
    /// Held while a place is chosen, so that two cores that accept at once do not choose the same.
    choosing: Mutex<()>,
}

/// A connection's place, for as long as it lives.
#[derive(Debug)]
pub(super) struct Placed {
    placement: Arc<Placement>,
    core: usize,
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Busy {
    placement: Arc<Placement>,
    core: usize,
}

impl Placement {
    /// For so many cores and at most so many connections.
    pub fn new(cores: usize, most: usize) -> Arc<Self> {
        let desk = || {
            let (sender, receiver) = async_channel::bounded(HANDED_OVER);
            Desk { busy: AtomicUsize::new(0), connections: AtomicUsize::new(0), sender, receiver }
        };
        Arc::new(Self { desks: (0..cores).map(|_| desk()).collect(), most, choosing: Mutex::default() })
    }

    /// Connections of a core.
    pub fn connections(&self, core: usize) -> usize {
        self.desks[core].connections.load(Ordering::Relaxed)
    }

    /// Requests of a core that are under way.
    pub fn busy(&self, core: usize) -> usize {
        self.desks[core].busy.load(Ordering::Relaxed)
    }

    /// Number of cores.
    pub fn cores(&self) -> usize {
        self.desks.len()
    }

    /// A place for a connection that core `here` accepted; none when there are too many.
    pub(super) fn place(self: &Arc<Self>, here: usize) -> Option<Placed> {
        let _choosing = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        if (0..self.cores()).map(|core| self.connections(core)).sum::<usize>() >= self.most {
            return None;
        }
        let load = |core: usize| (self.connections(core) + self.busy(core), core != here);
        let core = (0..self.cores()).min_by_key(|core| load(*core)).unwrap_or(here);
        self.desks[core].connections.fetch_add(1, Ordering::Relaxed);
        Some(Placed { placement: Arc::clone(self), core })
    }

    /// Hands a connection over to its core; it is closed when that one has too many waiting.
    pub(super) fn hand_over(&self, stream: TcpStream, plane: Plane, placed: Placed) {
        if let Err(error) = self.desks[placed.core].sender.try_send((stream, plane, placed)) {
            tracing::warn!(%error, "connection closed: too many wait for its core");
        }
    }

    /// The next connection that was handed over to `core`.
    pub(super) async fn next(&self, core: usize) -> Option<(TcpStream, Plane, Placed)> {
        self.desks[core].receiver.recv().await.ok()
    }
}

impl Placed {
    pub(super) fn core(&self) -> usize {
        self.core
    }

    /// A request begins.
    pub(super) fn request(&self) -> Busy {
        self.placement.desks[self.core].busy.fetch_add(1, Ordering::Relaxed);
        Busy { placement: Arc::clone(&self.placement), core: self.core }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.placement.desks[self.core].connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.placement.desks[self.core].busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(placement: &Arc<Placement>, here: usize) -> Placed {
        placement.place(here).unwrap()
    }

    #[test]
    fn a_burst_on_one_listener_is_spread_evenly() {
        let placement = Placement::new(4, 100);
        let mut placed: Vec<Placed> = (0..8).map(|_| place(&placement, 2)).collect();
        assert_eq!(placed[0].core(), 2, "among equals the one that accepted it");
        for core in 0..4 {
            assert_eq!(placement.connections(core), 2);
        }
        // Those of core 3 end: the next two go there.
        placed.retain(|placed| placed.core() != 3);
        let next: Vec<Placed> = (0..2).map(|_| place(&placement, 0)).collect();
        assert!(next.iter().all(|placed| placed.core() == 3));
    }

    #[test]
    fn a_request_under_way_counts_like_a_connection() {
        let placement = Placement::new(2, 100);
        let placed: Vec<Placed> = (0..10).map(|_| place(&placement, 0)).collect();
        let requests: Vec<Busy> =
            placed.iter().filter(|placed| placed.core() == 1).map(Placed::request).collect();
        assert_eq!(placement.busy(1), 5);
        let more: Vec<Placed> = (0..5).map(|_| place(&placement, 1)).collect();
        assert!(more.iter().all(|placed| placed.core() == 0));
        drop(requests);
        assert_eq!(place(&placement, 0).core(), 1, "five against ten");
    }

    #[test]
    fn there_is_a_most() {
        let placement = Placement::new(2, 3);
        let placed: Vec<_> = (0..4).map(|_| placement.place(1)).collect();
        assert_eq!(placed.iter().flatten().count(), 3);
        drop(placed);
        assert!(placement.place(1).is_some());
    }
}

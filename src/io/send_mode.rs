//! Whether a connection's sends are copied by the kernel or sent from our memory: decided here, without IO.
//!
//! Zero-copy spares the kernel a copy and costs a notification: the memory is not ours until the peer has acknowledged
//! it. So it is for large sends, to peers that keep up, over devices that really read the memory; the kernel reports
//! when it had to copy after all.

use std::net::SocketAddr;

use crate::limits::{ZERO_COPY_HELD, ZERO_COPY_MIN, ZERO_COPY_STRIKES};

/// What the configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Zero-copy where it spares a copy.
    Auto,
    /// Never zero-copy.
    Copy,
    /// Zero-copy, also where the kernel says that it copied.
    ZeroCopy,
}

/// How one send goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The kernel copies, and the memory is ours again at the result.
    Copy,
    /// The kernel reads our memory until it gives notice.
    ZeroCopy,
}

/// Whether a connection stays on this machine: a peer of our own address comes over the loopback device too.
pub fn is_local((ours, theirs): (SocketAddr, SocketAddr)) -> bool {
    theirs.ip().to_canonical().is_loopback() || theirs.ip() == ours.ip()
}

/// The decision of one connection.
#[derive(Debug)]
pub struct Chooser {
    mode: Mode,
    /// Once false, it stays false.
    tries: bool,
    /// Reports in a row that the kernel copied.
    strikes: u32,
}

impl Chooser {
    /// The chooser of a connection between two addresses; without them, it is taken for a local one.
    pub fn new(mode: Mode, ends: Option<(SocketAddr, SocketAddr)>) -> Self {
        // There a copy is made at delivery.
        let remote = ends.is_some_and(|ends| !is_local(ends));
        let tries = match mode {
            Mode::Copy => false,
            Mode::Auto => remote,
            // Sockets without addresses cannot do it.
            Mode::ZeroCopy => ends.is_some(),
        };
        Self { mode, tries, strikes: 0 }
    }

    /// The way of a send of `len` bytes, while the core has `held` bytes that the kernel has not given notice of.
    pub fn next(&self, len: usize, held: usize) -> Way {
        if self.tries && len >= ZERO_COPY_MIN && held + len <= ZERO_COPY_HELD {
            Way::ZeroCopy
        } else {
            Way::Copy
        }
    }

    /// The kernel has given notice of a send, and said whether it copied.
    pub fn reported(&mut self, copied: bool) {
        self.strikes = if copied { self.strikes + 1 } else { 0 };
        if self.mode == Mode::Auto && self.strikes >= ZERO_COPY_STRIKES {
            self.tries = false;
        }
    }

    /// The peer did not keep up: whatever the mode, its sends no longer hold memory until it reads.
    pub fn stalled(&mut self) {
        self.tries = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 2 << 20;

    fn chooser(mode: Mode, ours: &str, theirs: &str) -> Chooser {
        Chooser::new(mode, Some((ours.parse().unwrap(), theirs.parse().unwrap())))
    }

    fn remote(mode: Mode) -> Chooser {
        chooser(mode, "10.0.0.1:8080", "10.0.0.2:4000")
    }

    #[test]
    fn auto_starts_with_zero_copy_for_peers_that_are_elsewhere() {
        for (ours, theirs, way) in [
            ("10.0.0.1:8080", "10.0.0.2:4000", Way::ZeroCopy),
            ("[2001:db8::1]:8080", "[2001:db8::2]:4000", Way::ZeroCopy),
            ("127.0.0.1:8080", "127.0.0.1:4000", Way::Copy),
            ("127.0.0.1:8080", "127.1.2.3:4000", Way::Copy),
            ("[::1]:8080", "[::1]:4000", Way::Copy),
            ("[::ffff:127.0.0.1]:8080", "[::ffff:127.0.0.1]:4000", Way::Copy),
            ("10.0.0.1:8080", "10.0.0.1:4000", Way::Copy),
        ] {
            assert_eq!(chooser(Mode::Auto, ours, theirs).next(LARGE, 0), way, "{ours} {theirs}");
        }
        assert_eq!(Chooser::new(Mode::Auto, None).next(LARGE, 0), Way::Copy);
        assert_eq!(Chooser::new(Mode::ZeroCopy, None).next(LARGE, 0), Way::Copy);
    }

    #[test]
    fn auto_goes_back_to_copying_when_the_kernel_copies_and_only_then() {
        let mut chooser = remote(Mode::Auto);
        for _ in 0..100 {
            chooser.reported(true);
            chooser.reported(false);
        }
        assert_eq!(chooser.next(LARGE, 0), Way::ZeroCopy, "a copy now and then is no rule");
        for _ in 0..ZERO_COPY_STRIKES {
            chooser.reported(true);
        }
        assert_eq!(chooser.next(LARGE, 0), Way::Copy);
        chooser.reported(false);
        assert_eq!(chooser.next(LARGE, 0), Way::Copy, "late reports change nothing");
    }

    #[test]
    fn demanded_zero_copy_stays_and_copy_never_starts() {
        let mut demanded = chooser(Mode::ZeroCopy, "127.0.0.1:8080", "127.0.0.1:4000");
        (0..10).for_each(|_| demanded.reported(true));
        assert_eq!(demanded.next(LARGE, 0), Way::ZeroCopy);
        assert_eq!(remote(Mode::Copy).next(LARGE, 0), Way::Copy);
    }

    #[test]
    fn small_sends_slow_peers_and_a_core_that_holds_enough_copy() {
        for mode in [Mode::Auto, Mode::ZeroCopy] {
            let mut chooser = remote(mode);
            assert_eq!(chooser.next(ZERO_COPY_MIN - 1, 0), Way::Copy);
            assert_eq!(chooser.next(ZERO_COPY_MIN, 0), Way::ZeroCopy);
            assert_eq!(chooser.next(LARGE, ZERO_COPY_HELD - LARGE), Way::ZeroCopy);
            assert_eq!(chooser.next(LARGE, ZERO_COPY_HELD - LARGE + 1), Way::Copy);
            chooser.stalled();
            assert_eq!(chooser.next(LARGE, 0), Way::Copy);
        }
    }
}

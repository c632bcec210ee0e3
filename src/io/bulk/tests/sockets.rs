//! Sends and receives: whole, short, cut off.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::rc::Rc;

use rustix::net::sockopt::set_socket_linger;

use super::support::{LONG, SHORT, connected, pattern, read_all, with_ring};
use crate::io::bulk::Moved;
use crate::io::send_mode::Way;

const MIB: usize = 1 << 20;

#[test]
fn a_head_and_its_pieces_leave_whole_and_in_order() {
    with_ring(async |bulk| {
        let (ours, peer) = connected();
        let received = read_all(peer);
        let body = pattern(8 * MIB);
        let parts = Rc::new((b"head".to_vec(), body.chunks(MIB).map(<[u8]>::to_vec).collect::<Vec<_>>()));
        let moved = bulk.send(&ours, &parts, 0, Way::Copy, None, LONG).await.unwrap();
        assert_eq!(moved, Moved { bytes: 4 + body.len(), out_of_patience: false });
        let moved = bulk.send(&ours, &parts, 4 + body.len() - 7, Way::Copy, None, LONG).await.unwrap();
        assert_eq!(moved.bytes, 7, "the rest alone");
        let moved = bulk.send(&ours, &parts, 4 + body.len(), Way::Copy, None, LONG).await.unwrap();
        assert_eq!(moved, Moved { bytes: 0, out_of_patience: false });
        drop(ours);
        monoio::time::sleep(SHORT).await;
        let received = received.join().unwrap();
        assert_eq!(received.len(), 4 + body.len() + 7);
        assert!(received[4..].starts_with(&body) && received.ends_with(&body[body.len() - 7..]));
    });
}

#[test]
fn what_a_cancelled_send_reports_is_what_the_peer_gets() {
    with_ring(async |bulk| {
        for way in [Way::Copy, Way::ZeroCopy] {
            let (ours, mut peer) = connected();
            let bytes = pattern(32 * MIB);
            let parts = Rc::new(bytes.chunks(4 * MIB).map(<[u8]>::to_vec).collect::<Vec<_>>());
            let mut sent = 0;
            let mut received = vec![0; 32 * MIB];
            let mut got = 0;
            while sent < bytes.len() {
                // The peer does not read, so the send cannot end; then it takes all that has left, and no more is there.
                let moved = bulk.send(&ours, &parts, sent, way, None, SHORT).await.unwrap();
                sent += moved.bytes;
                assert_eq!(moved.out_of_patience, sent < bytes.len());
                peer.read_exact(&mut received[got..sent]).unwrap();
                got = sent;
                peer.set_nonblocking(true).unwrap();
                assert!(peer.read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock));
                peer.set_nonblocking(false).unwrap();
            }
            assert!(received == bytes, "in order, nothing lost or sent twice");
        }
    });
}

#[test]
fn a_peer_that_resets_in_mid_send_is_an_error_and_no_signal() {
    with_ring(async |bulk| {
        for way in [Way::Copy, Way::ZeroCopy] {
            let (ours, mut peer) = connected();
            let parts = Rc::new(vec![pattern(16 * MIB), pattern(16 * MIB)]);
            let reset = std::thread::spawn(move || {
                peer.read_exact(&mut vec![0; MIB]).unwrap();
                set_socket_linger(&peer, Some(std::time::Duration::ZERO)).unwrap();
            });
            let first = bulk.send(&ours, &parts, 0, way, None, LONG).await;
            assert!(first.as_ref().is_ok_and(|m| m.bytes < 32 * MIB && !m.out_of_patience), "{first:?}");
            reset.join().unwrap();
            let second = bulk.send(&ours, &parts, 0, way, None, LONG).await;
            let second = second.unwrap_err().raw_os_error();
            assert!(matches!(second, Some(libc::ECONNRESET | libc::EPIPE)), "{second:?}");
        }
    });
}

#[test]
fn a_receive_waits_for_all_of_it_and_counts_what_came_before_the_end() {
    with_ring(async |bulk| {
        let (ours, mut peer) = connected();
        let bytes = pattern(3 * MIB);
        let expected = bytes.clone();
        let sender = std::thread::spawn(move || {
            bytes.chunks(10_007).for_each(|chunk| peer.write_all(chunk).unwrap());
            peer
        });
        let (moved, buffer) = bulk.recv(&ours, vec![0; 3 * MIB], 5..2 * MIB, LONG).await;
        assert_eq!(moved.unwrap(), Moved { bytes: 2 * MIB - 5, out_of_patience: false });
        assert!(buffer[5..2 * MIB] == expected[..2 * MIB - 5] && buffer[..5] == [0; 5]);
        let rest = MIB + 5;
        let into = vec![vec![0u8; MIB / 2].into_boxed_slice(), vec![0; 2 * MIB].into_boxed_slice()];
        let (moved, into) = bulk.recv(&ours, into, 0..2 * MIB, SHORT).await;
        assert_eq!(moved.unwrap(), Moved { bytes: rest, out_of_patience: true }, "cancelled with a part");
        let got = [&into[0][..], &into[1][..rest - MIB / 2]].concat();
        assert!(got == expected[2 * MIB - 5..]);
        let (moved, _) = bulk.recv(&ours, vec![0; 10], 0..10, SHORT).await;
        assert_eq!(moved.unwrap(), Moved { bytes: 0, out_of_patience: true }, "nothing came");
        let mut peer = sender.join().unwrap();
        peer.write_all(b"end").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let (moved, _) = bulk.recv(&ours, vec![0; 10], 0..10, LONG).await;
        assert_eq!(moved.unwrap(), Moved { bytes: 3, out_of_patience: false });
        let (moved, _) = bulk.recv(&ours, vec![0; 10], 0..10, LONG).await;
        assert_eq!(moved.unwrap(), Moved { bytes: 0, out_of_patience: false }, "the peer has ended");
    });
}

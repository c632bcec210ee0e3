//! What happens to operations that nobody waits for, to those that find no room, and to a ring's end.

use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use super::support::{
    LONG, SHORT, Tracked, connected, is_back, pattern, read_all, runtime, until, with_ring,
};
use crate::io::bulk::registry::Registry;
use crate::io::bulk::socket::Descriptor;
use crate::io::bulk::{Bulk, Counts};
use crate::io::send_mode::Way;
use crate::limits::{BULK_FILE_OPERATIONS, BULK_RECEIVES};

const MIB: usize = 1 << 20;

#[test]
fn a_dropped_send_keeps_its_socket_and_memory_until_it_has_ended() {
    with_ring(async |bulk| {
        let (ours, peer) = connected();
        let bytes = pattern(2 * MIB);
        let pieces: Vec<(Tracked, _)> = (0..16).map(|_| Tracked::new(&bytes, None)).collect();
        let (pieces, backs): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
        let parts = Rc::new(pieces);
        {
            let send = bulk.send(&ours, &parts, 0, Way::Copy, None, LONG);
            assert!(monoio::time::timeout(SHORT, send).await.is_err(), "the peer does not read");
        }
        drop((ours, parts));
        assert!(backs.iter().all(|back| !is_back(back)), "the kernel still has the gather list");
        until("the end of the send", || backs.iter().all(|back| is_back(back))).await;
        let received = read_all(peer);
        until("the peer", || received.is_finished()).await;
        let received = received.join().unwrap();
        assert!(!received.is_empty() && received.chunks(2 * MIB).all(|chunk| bytes.starts_with(chunk)));
    });
}

#[test]
fn a_dropped_receive_writes_into_its_memory_only() {
    with_ring(async |bulk| {
        let (ours, mut peer) = connected();
        let (memory, back) = Tracked::new(&vec![1; MIB], None);
        {
            let receive = bulk.recv(&ours, memory, 0..MIB, LONG);
            assert!(monoio::time::timeout(SHORT, receive).await.is_err());
        }
        assert!(!is_back(&back), "the kernel may still write there");
        until("the end of the receive", || is_back(&back)).await;
        // The socket is as good as before.
        peer.write_all(b"more").unwrap();
        let (moved, buffer) = bulk.recv(&ours, vec![0; 4], 0..4, LONG).await;
        assert_eq!((moved.unwrap().bytes, &buffer[..]), (4, &b"more"[..]));
    });
}

#[test]
fn more_operations_than_there_is_room_for_wait_their_turn() {
    with_ring(async |bulk| {
        // Reads of an empty pipe stay under way.
        let (out, mut end) = std::io::pipe().unwrap();
        let out = Rc::new(out);
        let reads: Vec<_> = (0..3 * BULK_FILE_OPERATIONS)
            .map(|_| {
                let (bulk, out) = (bulk.clone(), Descriptor::of(&out));
                monoio::spawn(async move { bulk.read(&out, vec![0; 1], 0..1, 0).await })
            })
            .collect();
        until("a full ring", || bulk.depth() >= BULK_FILE_OPERATIONS).await;
        monoio::time::sleep(SHORT).await;
        assert_eq!(bulk.depth(), BULK_FILE_OPERATIONS);
        end.write_all(&vec![7; 3 * BULK_FILE_OPERATIONS]).unwrap();
        for read in reads {
            let (read, byte) = read.await;
            assert_eq!((read.unwrap(), byte), (1, vec![7]));
        }
        assert_eq!(bulk.depth(), 0);
    });
}

#[test]
fn who_finds_no_room_for_a_receive_waits_within_its_patience() {
    with_ring(async |bulk| {
        let (ours, mut peer) = connected();
        let ours = Rc::new(ours);
        let receives: Vec<_> = (0..BULK_RECEIVES)
            .map(|_| {
                let (bulk, ours) = (bulk.clone(), Rc::clone(&ours));
                monoio::spawn(async move { bulk.recv(&ours, vec![0; 1], 0..1, LONG).await.0.unwrap().bytes })
            })
            .collect();
        until("all of them", || bulk.depth() == BULK_RECEIVES).await;
        let (moved, _) = bulk.recv(&ours, vec![0; 1], 0..1, SHORT).await;
        assert!(moved.unwrap().out_of_patience);
        peer.write_all(&vec![7; BULK_RECEIVES]).unwrap();
        for receive in receives {
            assert_eq!(receive.await, 1);
        }
    });
}

#[test]
fn a_ring_that_ends_gives_back_what_the_kernel_no_longer_uses() {
    runtime(async || {
        let bulk = Bulk::start(&Arc::new(Registry::none()), Counts::default()).unwrap();
        let (ours, peer) = connected();
        let (into, into_back) = Tracked::new(&vec![1; MIB], None);
        let (from, sent_back) = Tracked::new(&vec![2; 2 * MIB], None);
        let parts = Rc::new(vec![from]);
        let fill = Rc::new(pattern(32 * MIB));
        bulk.send(&ours, &fill, 0, Way::Copy, None, SHORT).await.unwrap();
        {
            let both = async {
                both_of(
                    bulk.send(&ours, &parts, 0, Way::Copy, None, LONG),
                    bulk.recv(&ours, into, 0..MIB, LONG),
                )
                .await;
            };
            assert!(monoio::time::timeout(SHORT, both).await.is_err());
        }
        drop((parts, ours));
        assert!(!is_back(&into_back) && !is_back(&sent_back));
        // The core stops: nothing runs any more, not even the flush task.
        drop(bulk);
        assert!(is_back(&into_back) && is_back(&sent_back));
        let received = read_all(peer);
        until("the end of the stream", || received.is_finished()).await;
        let received = received.join().unwrap();
        assert!(!received.ends_with(&vec![2; 2 * MIB]), "the send was cut off");
    });
}

async fn both_of<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    let (mut a_done, mut b_done) = (false, false);
    std::future::poll_fn(|context| {
        a_done = a_done || a.as_mut().poll(context).is_ready();
        b_done = b_done || b.as_mut().poll(context).is_ready();
        if a_done && b_done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn closing_waits_for_what_was_cancelled() {
    with_ring(async |bulk| {
        let (ours, _peer) = connected();
        let receive = monoio::spawn({
            let bulk = bulk.clone();
            async move { bulk.recv(&ours, vec![0; 10], 0..10, LONG).await.0 }
        });
        until("the receive", || bulk.depth() == 1).await;
        bulk.close(LONG).await;
        assert_eq!(bulk.depth(), 0);
        assert_eq!(receive.await.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
    });
}

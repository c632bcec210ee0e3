//! Late notifications: the result of a zero-copy send has come, and the kernel still reads the memory.

use std::io::Read as _;
use std::rc::Rc;
use std::sync::Arc;

use super::support::{LONG, POISON, SHORT, Tracked, connected, is_back, pattern, runtime, until};
use crate::io::buffer::Buffer;
use crate::io::bulk::registry::Registry;
use crate::io::bulk::{Bulk, Counts};
use crate::io::send_mode::Way;

const MIB: usize = 1 << 20;

/// Registers a buffer of 2 MiB that is never unmapped.
#[expect(unsafe_code, reason = "registered memory")]
pub(super) fn registered(registry: &Registry, bytes: &[u8]) -> (Buffer, Option<u16>) {
    let mut buffer = Buffer::new(2 * MIB);
    buffer.extend(bytes);
    // SAFETY: a buffer's mapping is kept for reuse, or unmapped when it was pinned: nobody names it then.
    let index = unsafe { registry.add(buffer.as_mut_ptr(), buffer.capacity()) };
    assert!(index.is_some(), "nothing can be registered here");
    (buffer, index)
}

#[test]
fn memory_comes_back_at_the_notification_and_not_at_the_result() {
    runtime(async || {
        let registry = Arc::new(Registry::new(8 << 20).unwrap());
        let counts = Counts::default();
        let bulk = Bulk::start(&registry, counts.clone()).unwrap();
        let (ours, mut peer) = connected();
        // The peer's window is closed, so what is sent now waits in our own queue, as references to our memory.
        let fill = Rc::new(pattern(32 * MIB));
        let filled = bulk.send(&ours, &fill, 0, Way::Copy, None, SHORT).await.unwrap().bytes;
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, 8 * MIB).unwrap();

        let bytes = pattern(MIB);
        let (buffer, index) = registered(&registry, &bytes);
        let (memory, back) = Tracked::over(buffer, index);
        let memory = Rc::new(memory);
        let moved = bulk.send(&ours, &memory, 0, Way::ZeroCopy, None, SHORT).await.unwrap();
        assert!(moved.bytes > 64 << 10, "{moved:?}");
        assert_eq!((counts.zero_copy.get(), bulk.held(), bulk.depth()), (1, MIB, 1));
        drop(memory);
        monoio::time::sleep(SHORT).await;
        assert!(!is_back(&back), "the memory went back while the kernel still reads it");

        // Now the peer reads. Were the memory released at the result, it would read poison.
        let mut received = vec![0; filled + moved.bytes];
        let received = std::thread::spawn(move || {
            peer.read_exact(&mut received).unwrap();
            (peer, received)
        });
        until("the notification", || is_back(&back)).await;
        let (_peer, received) = received.join().unwrap();
        assert!(received[filled..] == bytes[..moved.bytes]);
        assert!(!received[filled..].iter().all(|byte| *byte == POISON));
        assert_eq!((bulk.held(), bulk.depth()), (0, 0));
    });
}

#[test]
fn a_socket_closes_though_notifications_are_late_and_nothing_is_lost() {
    runtime(async || {
        let registry = Arc::new(Registry::new(8 << 20).unwrap());
        let bulk = Bulk::start(&registry, Counts::default()).unwrap();
        let (ours, mut peer) = connected();
        let fill = Rc::new(pattern(32 * MIB));
        let filled = bulk.send(&ours, &fill, 0, Way::Copy, None, SHORT).await.unwrap().bytes;
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, 8 * MIB).unwrap();
        let (buffer, index) = registered(&registry, &pattern(MIB));
        let (memory, back) = Tracked::over(buffer, index);
        let moved = bulk.send(&ours, &Rc::new(memory), 0, Way::ZeroCopy, None, SHORT).await.unwrap();
        drop(ours);
        assert!(!is_back(&back) && bulk.depth() == 1);
        let received = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all).unwrap()
        });
        until("the end of the stream, and the notification", || received.is_finished() && is_back(&back))
            .await;
        let received = received.join().unwrap();
        assert_eq!(received.len(), filled + moved.bytes);
        assert!(received[filled..] == pattern(MIB)[..moved.bytes]);
    });
}

#[test]
fn a_chain_of_registered_and_other_memory_arrives_in_order() {
    runtime(async || {
        let registry = Arc::new(Registry::new(16 << 20).unwrap());
        let counts = Counts::default();
        let bulk = Bulk::start(&registry, counts.clone()).unwrap();
        let (ours, peer) = connected();
        let received = super::support::read_all(peer);
        let bytes = pattern(7 * MIB);
        let mut backs = Vec::new();
        let blocks: Vec<Tracked> = bytes[4..]
            .chunks(2 * MIB)
            .enumerate()
            .map(|(i, chunk)| {
                let (buffer, index) = registered(&registry, chunk);
                // One of them is not registered.
                let (memory, back) = Tracked::over(buffer, index.filter(|_| i != 2));
                backs.push(back);
                memory
            })
            .collect();
        let parts = Rc::new((bytes[..4].to_vec(), blocks));
        let mut sent = 0;
        for _ in 0..3 {
            let moved = bulk.send(&ours, &parts, sent, Way::ZeroCopy, None, LONG).await.unwrap();
            sent += moved.bytes;
        }
        assert_eq!(sent, bytes.len());
        drop((ours, parts));
        until("all memory", || backs.iter().all(|back| is_back(back))).await;
        until("the peer", || received.is_finished()).await;
        assert!(received.join().unwrap() == bytes);
        assert!(counts.copied.get() > 0, "the loopback device copies, and the kernel says so");
    });
}

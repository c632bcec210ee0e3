//! Ten thousand operations of all kinds in a seeded random order: every byte accounted for, nothing left behind.

use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use super::support::{LONG, SHORT, connected, pattern, read_all, runtime, until};
use crate::io::bulk::registry::Registry;
use crate::io::bulk::socket::Descriptor;
use crate::io::bulk::{Bulk, Counts};
use crate::io::send_mode::Way;

const OPERATIONS: usize = 10_000;
const TASKS: usize = 20;

/// SplitMix64.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// One connection and one file: sends, receives, reads and writes, some dropped, some cut short.
async fn one_task(bulk: Bulk, seed: u64) {
    let mut random = Seeded(seed);
    let bytes = pattern(1 << 20);
    let (ours, mut peer) = connected();
    let echo = read_all(peer.try_clone().unwrap());
    let file = Rc::new(tempfile::tempfile().unwrap());
    (&*file).write_all(&bytes).unwrap();
    let file = Descriptor::of(&file);
    let all = Rc::new(bytes.chunks(100_003).map(<[u8]>::to_vec).collect::<Vec<_>>());
    let mut sent = Vec::new();
    for _ in 0..OPERATIONS / TASKS {
        let start = random.below(bytes.len() - 1);
        let end = start + 1 + random.below((bytes.len() - start).min(300_000));
        match random.below(6) {
            0 | 1 => {
                let way = if random.below(2) == 0 { Way::Copy } else { Way::ZeroCopy };
                let patience = if random.below(4) == 0 { SHORT / 30 } else { LONG };
                let parts = Rc::new((bytes[start..end].to_vec(), Vec::<Vec<u8>>::new()));
                let moved = bulk.send(&ours, &parts, 0, way, None, patience).await.unwrap();
                assert!(moved.out_of_patience || moved.bytes == end - start);
                sent.extend_from_slice(&bytes[start..start + moved.bytes]);
            }
            2 => {
                let len = (end - start).min(20_000);
                peer.write_all(&bytes[start..start + len]).unwrap();
                let (moved, into) = bulk.recv(&ours, vec![0; len], 0..len, LONG).await;
                assert_eq!(moved.unwrap().bytes, len);
                assert!(into == bytes[start..start + len]);
            }
            3 => {
                let into = vec![vec![0u8; 1 + random.below(1000)], vec![0; end - start]];
                let (read, into) = bulk.read(&file, into, 0..end - start, start as u64).await;
                let n = read.unwrap();
                assert!(n > 0 && into.concat()[..n] == bytes[start..start + n]);
            }
            4 => {
                // What was there is written again, so that reads see it whatever comes first.
                let written = bulk.write(&file, &all, start..end, start as u64).await.unwrap();
                assert!(written > 0 && written <= end - start);
            }
            _ => {
                let mut read = Box::pin(bulk.read(&file, vec![0; 4096], 0..4096, start as u64));
                let polled = std::future::poll_fn(|context| {
                    std::task::Poll::Ready(read.as_mut().poll(context).is_ready())
                });
                polled.await;
                drop(read);
            }
        }
    }
    drop((ours, file));
    until("the peer", || echo.is_finished()).await;
    assert!(echo.join().unwrap() == sent);
}

#[test]
fn ten_thousand_operations_lose_nothing_and_leave_nothing_behind() {
    runtime(async || {
        let counts = Counts::default();
        let bulk = Bulk::start(&Arc::new(Registry::none()), counts.clone()).unwrap();
        let tasks: Vec<_> =
            (0..TASKS).map(|i| monoio::spawn(one_task(bulk.clone(), 0xa3b1 + i as u64))).collect();
        for task in tasks {
            task.await;
        }
        until("the last completions", || bulk.depth() == 0).await;
        assert!(counts.operations.get() > OPERATIONS as u64 * 9 / 10);
        assert_eq!((bulk.held(), counts.depth.get(), counts.overflows.get()), (0, 0, 0));
    });
}

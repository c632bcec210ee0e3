//! Disks above their watermark: uploads wait there for files to go to the archive, for as long as some do.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use monoio::time::sleep;

use crate::base::slot::Slot;
use crate::limits::{PRESSURE_PATIENCE, PRESSURE_TICK_HIGH, PRESSURE_WAIT};
use crate::shard::node::Node;

/// When files last went from disks, by number of the disk.
#[derive(Default)]
pub struct Pressure(Mutex<HashMap<usize, Instant>>);

impl Pressure {
    /// A file has gone, or it was begun to make some go.
    pub fn note(&self, disk: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(disk, Instant::now());
    }

    /// Whether files go, so that it helps to wait.
    fn eases(&self, disk: usize, now: Instant) -> bool {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&disk).copied();
        noted.is_some_and(|noted| now.duration_since(noted) < PRESSURE_PATIENCE)
    }
}

/// Waits until the disk of a slot is below its watermark, or it does not help to wait, or for a while.
pub(in crate::shard) async fn ease(node: &Node, slot: Slot) {
    let Some(desk) = &node.archive else { return };
    let Some(high) = desk.rules.high_watermark else { return };
    let (begun, number) = (Instant::now(), node.slots.disk(slot));
    while node.disk(slot).is_above(high)
        && desk.pressure.eases(number, Instant::now())
        && desk.health.failing().is_none()
        && begun.elapsed() < PRESSURE_WAIT
        && !node.is_stopping()
    {
        sleep(PRESSURE_TICK_HIGH).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_disk_from_which_nothing_goes() {
        let (pressure, now) = (Pressure::default(), Instant::now());
        assert!(!pressure.eases(0, now));
        pressure.note(0);
        assert!(pressure.eases(0, Instant::now()) && !pressure.eases(1, Instant::now()));
        assert!(!pressure.eases(0, Instant::now() + PRESSURE_PATIENCE));
    }
}

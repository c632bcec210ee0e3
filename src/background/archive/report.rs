//! What an order has done so far, as its report and the status tell it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::Order;
use super::inventory::Inventory;
use crate::limits::ARCHIVE_FAILED_SHOWN;

/// What was done.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// Versions that were looked at.
    pub(super) versions: u64,
    /// The number of the last one.
    pub(super) version: Option<u64>,
    /// Chunks that were moved.
    pub(super) chunks: u64,
    /// Bytes of them.
    pub(super) bytes: u64,
    /// Chunks that live in the database, and stay.
    pub(super) kept: u64,
    /// Chunks that were where they should be before.
    pub(super) already: u64,
    failed: Vec<Failed>,
    /// Of those that failed, how many are not shown.
    more: u64,
    why: Option<String>,
    inventory: Option<Value>,
}

/// A version, or a chunk of one, with which it did not work.
#[derive(Clone, Debug)]
struct Failed {
    path: String,
    version: u64,
    chunk: Option<u64>,
    why: String,
}

impl Failed {
    fn describe(&self) -> Value {
        json!({
            "path": self.path,
            "version": self.version,
            "chunk": self.chunk,
            "why": self.why,
        })
    }
}

impl Report {
    /// Something did not work; the order goes on.
    pub(super) fn fail(&mut self, path: &str, version: u64, chunk: Option<u64>, why: String) {
        self.why.get_or_insert_with(|| why.clone());
        if self.failed.len() < ARCHIVE_FAILED_SHOWN {
            self.failed.push(Failed { path: path.to_owned(), version, chunk, why });
        } else {
            self.more += 1;
        }
    }

    /// The order ends.
    pub(super) fn end(&mut self, why: String) {
        self.why.get_or_insert(why);
    }

    /// Whether everything worked so far.
    pub(super) fn is_good(&self) -> bool {
        self.why.is_none()
    }

    /// What an inventory has found.
    pub(super) fn inventory(&mut self, inventory: &Inventory) {
        if !inventory.is_good() {
            self.end("rows and objects differ, or could not be compared: see inventory".to_owned());
        }
        self.inventory = Some(inventory.describe());
    }

    fn describe(&self, seconds: f64) -> Value {
        let mut report = json!({
            "good": self.why.is_none(),
            "versions": self.versions,
            "version": self.version,
            "chunks": self.chunks,
            "bytes": self.bytes,
            "kept": self.kept,
            "already": self.already,
            "failed": self.failed.iter().map(Failed::describe).collect::<Vec<_>>(),
            "seconds": seconds,
        });
        if self.more > 0 {
            report["more_failed"] = json!(self.more);
        }
        if let Some(why) = &self.why {
            report["why"] = json!(why);
        }
        if let Some(inventory) = &self.inventory {
            report["inventory"] = inventory.clone();
        }
        report
    }
}

/// An order under way.
pub(super) struct Running {
    order: Order,
    begun: Instant,
    report: Mutex<Report>,
}

impl Running {
    /// Notes what was done.
    pub(super) fn note<T>(&self, note: impl FnOnce(&mut Report) -> T) -> T {
        note(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The report so far.
    pub(super) fn describe(&self) -> Value {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.note(|report| report.describe(seconds))
    }

    /// The order, and how far it is.
    fn status(&self) -> Value {
        let mut status = self.order.describe();
        let seconds = self.begun.elapsed().as_secs_f64();
        self.note(|report| {
            status["versions"] = json!(report.versions);
            status["chunks"] = json!(report.chunks);
            status["bytes"] = json!(report.bytes);
            status["already"] = json!(report.already);
            status["failed"] = json!(report.failed.len() as u64 + report.more);
        });
        status["seconds"] = json!(seconds);
        status
    }
}

/// The orders under way.
#[derive(Default)]
pub(super) struct Board(Mutex<Vec<Arc<Running>>>);

/// An order that is on the board until this is dropped.
pub(super) struct Shown {
    board: Arc<Board>,
    pub(super) running: Arc<Running>,
}

impl Board {
    fn orders(&self) -> MutexGuard<'_, Vec<Arc<Running>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an order up that begins now.
    pub(super) fn show(self: &Arc<Self>, order: Order) -> Shown {
        let running = Arc::new(Running { order, begun: Instant::now(), report: Mutex::default() });
        self.orders().push(Arc::clone(&running));
        Shown { board: Arc::clone(self), running }
    }

    /// All of them, and how far they are.
    pub(super) fn status(&self) -> Vec<Value> {
        self.orders().iter().map(|running| running.status()).collect()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.board.orders().retain(|running| !Arc::ptr_eq(running, &self.running));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order::Archive { path: "a".to_owned(), version: Some(3) }
    }

    #[test]
    fn a_report_is_good_until_something_does_not_work() {
        let board = Arc::new(Board::default());
        let shown = board.show(order());
        shown.running.note(|report| {
            (report.versions, report.chunks, report.bytes, report.kept, report.already) = (1, 2, 30, 4, 5);
        });
        let report = shown.running.describe();
        assert_eq!(report["good"], true);
        assert_eq!(
            (&report["chunks"], &report["bytes"], &report["kept"]),
            (&json!(2), &json!(30), &json!(4))
        );
        assert!(report.get("why").is_none() && report["seconds"].is_f64());
        assert_eq!(report["failed"], json!([]));
        shown.running.note(|report| report.fail("a", 3, Some(7), "no".to_owned()));
        shown.running.note(|report| report.end("later".to_owned()));
        let report = shown.running.describe();
        assert_eq!(
            (&report["good"], &report["why"]),
            (&json!(false), &json!("no")),
            "the first reason is told"
        );
        assert_eq!(report["failed"], json!([{ "path": "a", "version": 3, "chunk": 7, "why": "no" }]));
    }

    #[test]
    fn what_failed_is_counted_and_some_of_it_shown() {
        let mut report = Report::default();
        for number in 0..ARCHIVE_FAILED_SHOWN as u64 + 3 {
            report.fail("a", number, None, "no".to_owned());
        }
        let report = report.describe(0.0);
        assert_eq!(report["failed"].as_array().unwrap().len(), ARCHIVE_FAILED_SHOWN);
        assert_eq!(report["more_failed"], 3);
        assert!(report["failed"][0]["chunk"].is_null());
    }

    #[test]
    fn an_order_is_on_the_board_while_it_runs() {
        let board = Arc::new(Board::default());
        let shown = board.show(order());
        let other = board.show(Order::RestorePrefix { prefix: "b/".to_owned() });
        let status = board.status();
        assert_eq!((&status[0]["operation"], &status[0]["path"]), (&json!("archive"), &json!("a")));
        assert_eq!((&status[1]["operation"], &status[1]["prefix"]), (&json!("restore"), &json!("b/")));
        drop(shown);
        assert_eq!(board.status().len(), 1);
        drop(other);
        assert!(board.status().is_empty());
    }
}

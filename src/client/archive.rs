//! What a node reports of its archive, in a line each.

use std::fmt::Write as _;

use serde_json::Value;

fn number(report: &Value, name: &str) -> u64 {
    report.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn seconds(report: &Value) -> f64 {
    report.get("seconds").and_then(Value::as_f64).unwrap_or(0.0)
}

fn text<'a>(report: &'a Value, name: &str) -> Option<&'a str> {
    report.get(name).and_then(Value::as_str)
}

/// Of chunks that went to the archive.
pub(super) fn archived(report: &Value) -> String {
    let mut line = format!(
        "{} chunks, {} bytes archived in {:.1} s",
        number(report, "chunks"),
        number(report, "bytes"),
        seconds(report)
    );
    if number(report, "already") > 0 {
        // Writing to a String cannot fail.
        let _ = write!(line, "; {} were archived before", number(report, "already"));
    }
    if number(report, "kept") > 0 {
        let _ = write!(line, "; {} small ones stay in the database", number(report, "kept"));
    }
    line + &nodes(report) + &failed(report)
}

/// Of chunks that came back.
pub(super) fn restored(report: &Value) -> String {
    let mut line = format!(
        "{} chunks, {} bytes of {} versions brought back in {:.1} s",
        number(report, "chunks"),
        number(report, "bytes"),
        number(report, "versions"),
        seconds(report)
    );
    if number(report, "already") > 0 {
        let _ = write!(line, "; {} were here before", number(report, "already"));
    }
    line + &nodes(report) + &failed(report)
}

/// On how many nodes it was done, in a cluster, and on which not.
fn nodes(report: &Value) -> String {
    let Some(nodes) = report.get("nodes").and_then(Value::as_array) else { return String::new() };
    let is_good = |node: &&Value| node.get("good").and_then(Value::as_bool) == Some(true);
    let mut line = format!("; all done on {} of {} nodes", nodes.iter().filter(is_good).count(), nodes.len());
    for node in nodes.iter().filter(|node| !is_good(node)) {
        let name = text(node, "node").unwrap_or_default();
        let _ = write!(line, ", not on '{name}': {}", text(node, "why").unwrap_or("see its log"));
    }
    line
}

/// Of an inventory.
pub(super) fn checked(report: &Value) -> String {
    let found = report.get("inventory").unwrap_or(&Value::Null);
    let mut line = format!(
        "{} objects, {} bytes of {} slots compared in {:.1} s; {} are named, {} are to be deleted",
        number(found, "objects"),
        number(found, "bytes"),
        number(found, "slots"),
        seconds(report),
        number(found, "named"),
        number(found, "leftovers")
    );
    for (name, what) in [
        ("unnamed", "objects that no row names"),
        ("missing", "objects are missing"),
        ("short", "objects are too short"),
        ("unchecked", "slots could not be compared"),
    ] {
        let some = found.get(name).unwrap_or(&Value::Null);
        if number(some, "count") > 0 {
            let first = some.pointer("/first/0");
            let first = first.and_then(|first| text(first, "object").or_else(|| text(first, "why")));
            let _ = write!(line, "; {} {what}, such as {}", number(some, "count"), first.unwrap_or_default());
        }
    }
    line
}

/// What did not work, and the first reason.
fn failed(report: &Value) -> String {
    let Some(why) = text(report, "why") else { return String::new() };
    let shown = report.get("failed").and_then(Value::as_array);
    let count = shown.map_or(0, |shown| shown.len() as u64) + number(report, "more_failed");
    let Some(first) = shown.and_then(|shown| shown.first()) else {
        // In a cluster the nodes stand there with their reasons.
        return if report.get("nodes").is_some() { String::new() } else { format!("; it ended: {why}") };
    };
    // What ended the order is not what this one met.
    let why = text(first, "why").unwrap_or(why);
    let node = text(first, "node").map_or_else(String::new, |node| format!(" on '{node}'"));
    let chunk = first.get("chunk").and_then(Value::as_u64);
    let chunk = chunk.map_or_else(String::new, |chunk| format!(", chunk {chunk}"));
    let path = text(first, "path").unwrap_or_default();
    format!("; {count} failed: '{path}' version {}{chunk}{node}: {why}", number(first, "version"))
}

/// How the archive is, and what is being moved.
pub(super) fn status(report: &Value) -> String {
    let bucket = text(report, "bucket").unwrap_or_default();
    let prefix = text(report, "prefix").unwrap_or_default();
    let mut line = format!("s3://{bucket}/{prefix} ");
    match text(report, "failing") {
        Some(failing) => {
            let _ = write!(line, "fails {failing}");
        }
        None => line.push_str("is good"),
    }
    let counts = report.get("counts").unwrap_or(&Value::Null);
    let _ = write!(
        line,
        "; since the start {} chunks archived, {} brought back, {} bytes up, {} bytes down",
        number(counts, "chunks_dropped"),
        number(counts, "chunks_restored"),
        number(counts, "uploaded_bytes"),
        number(counts, "fetched_bytes")
    );
    for order in report.get("orders").and_then(Value::as_array).into_iter().flatten() {
        let operation = text(order, "operation").unwrap_or_default();
        let what = match (text(order, "path"), text(order, "prefix")) {
            (Some(path), _) => format!("'{path}'"),
            (None, prefix) => format!("'{}' and all below", prefix.unwrap_or_default()),
        };
        let _ = write!(
            line,
            "; {operation} of {what}: {} chunks, {} bytes so far, for {:.1} s",
            number(order, "chunks"),
            number(order, "bytes"),
            seconds(order)
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_told_in_one_line() {
        let good = json!({
            "good": true, "versions": 1, "chunks": 2, "bytes": 128, "kept": 1, "already": 3, "failed": [], "seconds": 1.5,
        });
        assert_eq!(
            archived(&good),
            "2 chunks, 128 bytes archived in 1.5 s; 3 were archived before; 1 small ones stay in the database"
        );
        assert_eq!(
            restored(&good),
            "2 chunks, 128 bytes of 1 versions brought back in 1.5 s; 3 were here before"
        );
    }

    #[test]
    fn a_cluster_tells_on_how_many_nodes_it_was_done_and_on_which_not() {
        let mut report = json!({ "why": "node 'b': it does not answer", "failed": [], "nodes": [
            { "node": "a", "good": true },
            { "node": "b", "good": false, "why": "it does not answer" },
        ]});
        let line = restored(&report);
        assert!(line.ends_with("; all done on 1 of 2 nodes, not on 'b': it does not answer"), "{line}");
        report["failed"] = json!([{ "node": "a", "path": "p", "version": 3, "chunk": 0, "why": "no disk" }]);
        let line = restored(&report);
        assert!(
            line.ends_with("; 1 failed: 'p' version 3, chunk 0 on 'a': no disk"),
            "each has its own reason: {line}"
        );
    }

    #[test]
    fn an_inventory_is_told_with_what_differs() {
        let report = json!({ "seconds": 1.0, "inventory": {
            "objects": 3, "bytes": 30, "slots": 2048, "named": 1, "leftovers": 1,
            "unnamed": { "count": 1, "first": [{ "object": "s3://b/k" }] },
            "missing": { "count": 0, "first": [] },
        }});
        assert_eq!(
            checked(&report),
            "3 objects, 30 bytes of 2048 slots compared in 1.0 s; 1 are named, 1 are to be deleted; \
             1 objects that no row names, such as s3://b/k"
        );
    }

    #[test]
    fn what_failed_is_told_with_the_first_reason() {
        let mut report = json!({
            "chunks": 0, "bytes": 0, "seconds": 0.0, "why": "no", "more_failed": 4,
            "failed": [{ "path": "a/b", "version": 3, "chunk": 7, "why": "no" }],
        });
        assert_eq!(
            archived(&report),
            "0 chunks, 0 bytes archived in 0.0 s; 5 failed: 'a/b' version 3, chunk 7: no"
        );
        report["failed"] = json!([]);
        assert!(restored(&report).ends_with("; it ended: no"));
    }

    #[test]
    fn the_status_tells_the_store_and_what_is_under_way() {
        let mut report = json!({
            "good": true, "bucket": "b", "prefix": "p/", "failing": null,
            "orders": [{ "operation": "archive", "path": "a", "chunks": 1, "bytes": 64, "seconds": 2.0 },
                       { "operation": "restore", "prefix": "x/", "chunks": 0, "bytes": 0, "seconds": 0.0 }],
            "counts": { "chunks_dropped": 5, "chunks_restored": 6, "uploaded_bytes": 7, "fetched_bytes": 8 },
        });
        assert_eq!(
            status(&report),
            "s3://b/p/ is good; since the start 5 chunks archived, 6 brought back, 7 bytes up, 8 bytes down; \
             archive of 'a': 1 chunks, 64 bytes so far, for 2.0 s; \
             restore of 'x/' and all below: 0 chunks, 0 bytes so far, for 0.0 s"
        );
        report["failing"] = json!("since 3 s: no");
        assert!(status(&report).starts_with("s3://b/p/ fails since 3 s: no; "));
    }
}

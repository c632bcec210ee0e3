//! Listing over all nodes: what any of them names is what was acknowledged, wherever it was written, whichever nodes are away.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

#[path = "support/cluster/mod.rs"]
mod cluster;
mod support;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::links::Mode;
use cluster::{Cluster, Shape};
use serde_json::Value;
use support::{Random, Request, Response, assert_error, encode_path, object};

const PATIENCE: Duration = Duration::from_secs(60);

/// A machine of two processors carries one cluster at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What there should be: the newest version of each path, and whether it is deleted.
type Model = BTreeMap<String, (u64, bool)>;

fn list(cluster: &Cluster, node: usize, query: &str) -> Response {
    cluster.send(node, &Request::new("GET", &format!("/objects?{query}")))
}

/// All pages, each from the next node in turn, since a cursor is good at every node.
#[track_caller]
fn all_pages(cluster: &Cluster, nodes: &[usize], query: &str) -> (Vec<Value>, Vec<String>) {
    let (mut objects, mut prefixes, mut cursor) = (Vec::new(), Vec::new(), String::new());
    for page in 0..5000 {
        let node = nodes[page % nodes.len()];
        let json = list(cluster, node, &format!("{query}{cursor}")).expect_status(200).json();
        objects.extend(json["objects"].as_array().unwrap().iter().cloned());
        prefixes.extend(json["prefixes"].as_array().unwrap().iter().map(|p| p.as_str().unwrap().to_owned()));
        match json["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encode_path(next)),
            None => return (objects, prefixes),
        }
    }
    panic!("pages without an end: {query}");
}

fn model_of(rows: &[Value]) -> Model {
    let row = |row: &Value| {
        let deleted = !row["tombstoned_at"].is_null();
        (row["path"].as_str().unwrap().to_owned(), (row["version"].as_u64().unwrap(), deleted))
    };
    let model: Model = rows.iter().map(row).collect();
    assert_eq!(model.len(), rows.len(), "a path is listed twice");
    assert!(rows.is_sorted_by_key(|row| row["path"].as_str().unwrap().to_owned()), "out of order");
    model
}

fn live(model: &Model) -> Model {
    model.iter().filter(|(_, (_, deleted))| !deleted).map(|(path, row)| (path.clone(), *row)).collect()
}

/// Some writes and deletes through any of `nodes`.
fn change(cluster: &Cluster, nodes: &[usize], random: &mut Random, count: usize, model: &mut Model) {
    for _ in 0..count {
        let path = format!("{}/{}/{:02}", random.below(5), random.below(3), random.below(20));
        let node = nodes[random.below(nodes.len() as u64) as usize];
        let known = model.get(&path).copied();
        if random.below(3) == 0 && known.is_some_and(|(_, deleted)| !deleted) {
            cluster.send(node, &Request::new("DELETE", &object(&path))).expect_status(200);
            model.insert(path, (known.unwrap().0, true));
        } else {
            let answer =
                cluster.send(node, &Request::new("PUT", &object(&path)).body("x")).expect_status(201);
            let version = answer.json_u64("version");
            assert!(version > known.map_or(0, |(version, _)| version));
            model.insert(path, (version, false));
        }
    }
}

#[track_caller]
fn assert_listed(cluster: &Cluster, nodes: &[usize], model: &Model) {
    for limit in [3, 17, 1000] {
        let (rows, prefixes) = all_pages(cluster, nodes, &format!("limit={limit}"));
        assert!(prefixes.is_empty());
        assert_eq!(model_of(&rows), live(model), "pages of {limit}");
        let (rows, _) = all_pages(cluster, nodes, &format!("limit={limit}&include_tombstoned=true"));
        assert_eq!(model_of(&rows), *model, "with tombstones, pages of {limit}");
    }
    let (rows, _) = all_pages(cluster, nodes, "limit=7&prefix=2/");
    let below = live(model).into_iter().filter(|(path, _)| path.starts_with("2/")).collect::<Model>();
    assert_eq!(model_of(&rows), below);
    for (limit, prefix) in [(2, ""), (1000, ""), (1, "3/"), (1000, "3/")] {
        let (rows, prefixes) =
            all_pages(cluster, nodes, &format!("delimiter=/&limit={limit}&prefix={prefix}"));
        assert!(rows.is_empty(), "every path is rolled up");
        let mut expected: Vec<String> = live(model)
            .keys()
            .filter_map(|path| {
                let rest = path.strip_prefix(prefix)?;
                Some(format!("{prefix}{}/", rest.split_once('/')?.0))
            })
            .collect();
        expected.dedup();
        assert_eq!(prefixes, expected, "below '{prefix}' in pages of {limit}");
    }
}

#[test]
fn every_node_lists_what_was_written_through_any() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    let (mut random, mut model) = (Random::new(11), Model::new());
    change(&cluster, &[0, 1, 2], &mut random, 250, &mut model);
    assert!(model.values().any(|(_, deleted)| *deleted), "some are deleted");
    assert_listed(&cluster, &[0, 1, 2], &model);
    // One is away while others write: first nobody misses it, then it lists what it has missed.
    for killed in [false, true] {
        if killed {
            cluster.nodes[1].kill()
        } else {
            cluster.nodes[1].pause()
        }
        change(&cluster, &[0, 2], &mut random, 60, &mut model);
        assert_listed(&cluster, &[0, 2], &model);
        cluster.heal();
        if killed {
            // It says that it is ready when it can answer; it may not have caught up by then.
            cluster.wait_ready(PATIENCE);
        }
        assert_listed(&cluster, &[1], &model);
        cluster.wait_ready(PATIENCE);
        assert_listed(&cluster, &[0, 1, 2], &model);
    }
}

#[test]
fn a_listing_needs_a_quorum_and_says_so_in_time() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(3));
    let (mut random, mut model) = (Random::new(12), Model::new());
    change(&cluster, &[0, 1, 2], &mut random, 50, &mut model);
    cluster.links().split(&[0], Mode::BlackHole);
    for _ in 0..3 {
        let began = Instant::now();
        let answer = list(&cluster, 0, "");
        assert_error(&answer, 503, "QuorumUnavailable");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
        list(&cluster, 0, "consistency=local").expect_status(200);
    }
    assert_listed(&cluster, &[1, 2], &model);
    cluster.links().heal();
    cluster.wait_ready(PATIENCE);
    assert_listed(&cluster, &[0], &model);
}

#[test]
fn five_nodes_list_what_none_of_them_has_alone() {
    let _alone = alone();
    let mut cluster = Cluster::start(Shape::of(5));
    let (mut random, mut model) = (Random::new(13), Model::new());
    change(&cluster, &[0, 1, 2, 3, 4], &mut random, 200, &mut model);
    assert_listed(&cluster, &[0, 1, 2, 3, 4], &model);
    for node in 0..5 {
        let own = list(&cluster, node, "consistency=local&include_tombstoned=true").expect_status(200).json();
        let own = own["objects"].as_array().unwrap().len();
        assert!(own * 5 < model.len() * 4, "node {node} has three fifths, not {own} of {}", model.len());
    }
    // Long paths: a page of them is asked for in several rounds.
    let long: Vec<String> = (0..300).map(|at| format!("z{at:03}{}", "l".repeat(1000))).collect();
    for (at, path) in long.iter().enumerate() {
        cluster.send(at % 5, &Request::new("PUT", &object(path)).body("x")).expect_status(201);
    }
    let json = list(&cluster, 3, "prefix=z").expect_status(200).json();
    let paths: Vec<&str> =
        json["objects"].as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(paths, long);
    assert!(json["next_cursor"].is_null());
    cluster.nodes[4].kill();
    assert_eq!(
        live(&model),
        model_of(
            &all_pages(&cluster, &[0, 1], "limit=50&prefix=")
                .0
                .into_iter()
                .filter(|row| !row["path"].as_str().unwrap().starts_with('z'))
                .collect::<Vec<_>>()
        )
    );
    cluster.nodes[2].kill();
    assert_error(&list(&cluster, 0, ""), 503, "QuorumUnavailable");
}

//! Listings as pages for people: what browsers and tools that walk links find there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use support::{Server, assert_error};

const HTML: &[(&str, &str)] = &[("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")];

fn page(server: &Server, target: &str) -> String {
    let answer = server.request("GET", target, HTML, b"").expect_status(200);
    assert_eq!(answer.headers.get("content-type"), Some("text/html; charset=utf-8"), "{target}");
    assert_eq!(answer.headers.get("vary"), Some("Accept"), "{target}");
    String::from_utf8(answer.body).unwrap()
}

/// Where the links of a page lead.
fn links(page: &str) -> Vec<String> {
    page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn pages_lead_to_all_blobs_below_them() {
    let server = Server::start();
    for path in ["a", "d/b c", "d/e/f", "d/é<", "z"] {
        server.put(path, path.as_bytes()).expect_status(201);
    }
    server.put("gone", b"x").expect_status(201);
    server.request("DELETE", "/objects/gone", &[], b"").expect_status(200);
    assert_eq!(links(&page(&server, "/objects/")), ["a", "d/", "z"]);
    assert_eq!(links(&page(&server, "/objects/d/")), ["../", "b%20c", "e/", "%C3%A9%3C"]);
    assert_eq!(links(&page(&server, "/objects/d/e/")), ["../", "f"]);
    // The links of a page that names a prefix begin at /objects/, too.
    assert_eq!(links(&page(&server, "/objects/?prefix=d/")), ["d/b%20c", "d/e/", "d/%C3%A9%3C"]);
    for link in ["d/b%20c", "d/%C3%A9%3C", "d/e/f"] {
        server.request("GET", &format!("/objects/{link}"), HTML, b"").expect_status(200);
    }
    let text = page(&server, "/objects/d/");
    assert!(text.contains("Index of /d/") && text.contains("é&lt;") && !text.contains("é<"), "{text}");
    assert_eq!(links(&page(&server, "/objects/nothing/")), ["../"]);
}

#[test]
fn a_page_that_is_full_leads_to_the_next() {
    let server = Server::start();
    for number in 0..5 {
        server.put(&format!("p/{number}"), b"x").expect_status(201);
    }
    let mut target = "/objects/p/?limit=2".to_owned();
    let mut found = Vec::new();
    for _ in 0..4 {
        let links = links(&page(&server, &target));
        found.extend(links.iter().filter(|link| link.len() == 1).cloned());
        let Some(next) = links.iter().find(|link| link.starts_with('?')) else { break };
        target = format!("/objects/p/{}&limit=2", next.replace("&amp;", "&"));
    }
    assert_eq!(found, ["0", "1", "2", "3", "4"]);
}

#[test]
fn json_is_for_all_others() {
    let server = Server::start();
    server.put("a", b"x").expect_status(201);
    for accept in ["*/*", "application/json", "text/html;q=0", "text/htmlx"] {
        for target in ["/objects", "/objects?prefix=", "/objects/?prefix="] {
            let answer = server.request("GET", target, &[("Accept", accept)], b"").expect_status(200);
            assert_eq!(answer.json()["objects"][0]["path"], "a", "{target} {accept}");
        }
    }
    let moved = server.request("GET", "/objects?prefix=a&limit=7", HTML, b"").expect_status(308);
    assert_eq!(moved.headers.get("location"), Some("objects/?prefix=a&limit=7"));
    // What is no path of a blob stays none.
    for target in ["/objects/", "/objects/a/", "/objects/a//b"] {
        assert_error(&server.request("GET", target, &[], b""), 400, "InvalidPath");
    }
    for (method, target) in [("PUT", "/objects/a/"), ("DELETE", "/objects/a/"), ("PUT", "/objects/")] {
        assert_error(&server.request(method, target, HTML, b""), 400, "InvalidPath");
    }
    assert_error(&server.request("GET", "/objects//", HTML, b""), 400, "InvalidPath");
    assert_error(&server.request("GET", "/objects/a//b/", HTML, b""), 400, "InvalidPath");
    let head = server.request("HEAD", "/objects/", HTML, b"").expect_status(200);
    assert!(head.body.is_empty() && head.headers.get("content-length").is_some());
}

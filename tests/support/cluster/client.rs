//! One client: asks one thing after the other through any node, and keeps what it was told.
//!
//! An answer that the contract does not have is a finding, whatever the faults: an unknown status, an error without its JSON, a
//! body that is no blob, a 503 without the time to retry.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::history::{Ask, Condition, Moment, NEVER, Op, Told, Which};
use super::ledger::Blob;
use super::support::{Connection, Request, Response, object};

pub struct Client {
    pub number: usize,
    nodes: Vec<SocketAddr>,
    links: Vec<Option<Connection>>,
    began: Instant,
    patience: Duration,
    pub journal: Vec<Op>,
    pub findings: Vec<String>,
}

/// What came of one exchange.
enum Came {
    Answer(Response),
    /// Nothing was sent.
    Unsent,
    Lost(io::Error),
}

impl Client {
    /// Moments count from `began`; an answer that takes longer than `patience` is none.
    pub fn new(number: usize, nodes: &[SocketAddr], began: Instant, patience: Duration) -> Self {
        Self {
            number,
            nodes: nodes.to_vec(),
            links: nodes.iter().map(|_| None).collect(),
            began,
            patience,
            journal: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn now(&self) -> Moment {
        self.began.elapsed().as_nanos() as Moment
    }

    /// Asks through `node` and writes it down, unless the request never left. Nothing if the node did not answer, or
    /// cannot say.
    pub fn perform(&mut self, node: usize, path: &str, ask: Ask) -> Option<Told> {
        let asked = self.now();
        let told = match self.exchange(node, path, &ask) {
            Came::Unsent => return None,
            Came::Lost(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.findings.push(format!("{ask:?} of {path} through node {}: {error}", node + 1));
                Told::Unknown
            }
            Came::Lost(_) => Told::Unknown,
            Came::Answer(answer) => understand(&ask, path, &answer).unwrap_or_else(|wrong| {
                let shown = format!("{ask:?} of {path} through node {}: {wrong}: {answer:?}", node + 1);
                self.findings.push(shown);
                Told::Unknown
            }),
        };
        let answered = if told == Told::Unknown { NEVER } else { self.now() };
        let known = (told != Told::Unknown).then(|| told.clone());
        let client = self.number;
        self.journal.push(Op { path: path.to_owned(), client, node, ask, asked, told, answered });
        known
    }

    fn exchange(&mut self, node: usize, path: &str, ask: &Ask) -> Came {
        let (request, body) = request(path, ask);
        let method = request.method().to_owned();
        let mut link = match self.links[node].take() {
            Some(link) => link,
            None => match Connection::try_open(self.nodes[node]) {
                Ok(link) => link,
                Err(_) => return Came::Unsent,
            },
        };
        link.set_read_timeout(self.patience);
        let _ = link.stream().set_write_timeout(Some(self.patience));
        // An early refusal is read although sending failed.
        let sent = link.send_raw(&request.encode_head()).and_then(|()| link.send_raw(&body));
        let started = Instant::now();
        match link.read_response(&method) {
            Ok(answer) => {
                if sent.is_ok() && !answer.says_close() && started.elapsed() < self.patience {
                    self.links[node] = Some(link);
                }
                Came::Answer(answer)
            }
            Err(error) => Came::Lost(error),
        }
    }
}

fn request(path: &str, ask: &Ask) -> (Request, Vec<u8>) {
    let at = |version: u64| format!("{}?version={version}", object(path));
    let (method, target) = match ask {
        Ask::Put { version, .. } => ("PUT", version.map_or_else(|| object(path), at)),
        Ask::Get { version, head } => {
            (if *head { "HEAD" } else { "GET" }, version.map_or_else(|| object(path), at))
        }
        Ask::Delete { which: Which::Newest, .. } => ("DELETE", object(path)),
        Ask::Delete { which: Which::Version(version), .. } => ("DELETE", at(*version)),
        Ask::Delete { which: Which::All, .. } => ("DELETE", format!("{}?versions", object(path))),
    };
    let mut request = Request::new(method, &target);
    if let Ask::Put { condition, .. } | Ask::Delete { condition, .. } = ask {
        request = match condition {
            Condition::Always => request,
            Condition::Absent => request.header("If-None-Match", "*"),
            Condition::Match(tag) => request.header("If-Match", format!("\"{tag}\"")),
        };
    }
    match ask {
        Ask::Put { blob, .. } => (request.header("Content-Length", blob.len.to_string()), blob.content()),
        _ => (request, Vec::new()),
    }
}

/// What an answer says; or what is wrong with it by itself.
pub fn understand(ask: &Ask, path: &str, answer: &Response) -> Result<Told, String> {
    let told = match (ask, answer.status) {
        (Ask::Put { version, blob, .. }, 200 | 201) => {
            let json = json(answer)?;
            let stored = (json["version"].as_u64(), json["blob_id"].as_str());
            let (Some(number), Some(blob_id)) = stored else {
                return Err("no version or blob_id".to_owned());
            };
            if json["path"] != path
                || json["size"] != blob.len
                || version.is_some_and(|asked| asked != number)
            {
                return Err("another path, size or version than asked for".to_owned());
            }
            if answer.header("etag") != Some(&format!("\"{blob_id}\"")) {
                return Err("an ETag that is not the blob_id".to_owned());
            }
            let created = answer.status == 201;
            if !created && version.is_none() {
                return Err("200 to a PUT without a version".to_owned());
            }
            Told::Stored { version: number, blob_id: blob_id.to_owned(), created }
        }
        (Ask::Delete { which, .. }, 200) => {
            let json = json(answer)?;
            let version = json["version"].as_u64().ok_or("no version")?;
            if matches!(which, Which::Version(asked) if *asked != version) || json["path"] != path {
                return Err("another path or version than asked for".to_owned());
            }
            Told::Deleted { version }
        }
        (Ask::Get { version: asked, head }, 200) => {
            let number = |name: &str| answer.header(name).and_then(|text| text.parse::<u64>().ok());
            let version = number("x-amber-version").ok_or("no x-amber-version")?;
            if asked.is_some_and(|asked| asked != version) {
                return Err("another version than asked for".to_owned());
            }
            let blob_id = answer.header("etag").ok_or("no ETag")?.trim_matches('"').to_owned();
            let size = number("content-length").ok_or("no Content-Length")?;
            let seed = if *head { None } else { Some(Blob::of(&answer.body)?.seed) };
            Told::Read { version, blob_id, size, seed }
        }
        (_, 503) => {
            let code = code(answer)?;
            let known = ["QuorumUnavailable", "SlotUnavailable", "OutcomeUnknown"].contains(&code.as_str());
            if !known {
                return Err("503 with another code".to_owned());
            }
            let seconds = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
            if code != "OutcomeUnknown" && seconds.is_none() {
                return Err("503 without Retry-After".to_owned());
            }
            Told::Unknown
        }
        (Ask::Put { .. }, 409 | 412 | 507)
        | (Ask::Delete { .. }, 404 | 412)
        | (Ask::Get { head: false, .. }, 404) => {
            code(answer)?;
            Told::Refused(answer.status)
        }
        // Without a body there is no code.
        (Ask::Get { head: true, .. }, 404) => Told::Refused(404),
        (_, status) => return Err(format!("status {status}")),
    };
    Ok(told)
}

fn json(answer: &Response) -> Result<serde_json::Value, String> {
    serde_json::from_slice(&answer.body).map_err(|error| format!("{error} in {:.300}", answer.text()))
}

fn code(answer: &Response) -> Result<String, String> {
    // The answer to a HEAD has no body.
    if answer.body.is_empty() && answer.status == 503 {
        return Ok("OutcomeUnknown".to_owned());
    }
    let json = json(answer)?;
    let code = json["error"]["code"].as_str().ok_or("an error without its code")?;
    Ok(code.to_owned())
}

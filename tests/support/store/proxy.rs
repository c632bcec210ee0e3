//! What stands between a node and its store: it counts what passes, and misbehaves as it is told.
//!
//! One request on a connection: both sides are told so, and what else the heads say passes as it is, since it is signed.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Longer than any client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
const PIECE: usize = 256 << 10;
/// For as many requests as come.
pub const ALWAYS: u64 = u64::MAX;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered so, and the store does not hear of it.
    Status(u16),
    /// Nobody answers, until the client goes.
    Silence,
    /// The answer ends half-way through its body.
    Cut,
    /// A bit in the middle of the answer's body is another one.
    Flip,
    /// A bit in the middle of the request's body is another one.
    FlipUp,
    /// It is answered as if it had been done, and the store does not hear of it.
    Swallow,
}

struct Planned {
    method: String,
    fault: Fault,
    left: u64,
}

#[derive(Default)]
struct Shared {
    down: AtomicBool,
    /// Bytes that went to the node.
    sent: AtomicU64,
    planned: Mutex<Vec<Planned>>,
    asked: Mutex<BTreeMap<String, u64>>,
    open: Mutex<HashMap<u64, TcpStream>>,
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Passes everything on to `target`, at first.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        thread::spawn(move || {
            for (number, client) in (0..).zip(listener.incoming().map_while(Result::ok)) {
                let state = Arc::clone(&state);
                thread::spawn(move || {
                    if state.enter(number, &client) {
                        // Whatever ends a connection early is for the client to bear.
                        let _ = state.serve(&client, target);
                        state.open.lock().unwrap().remove(&number);
                    }
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, shared }
    }

    /// What a node is told as the store's address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has something go wrong with the next `times` requests of a method, beside what is planned already.
    pub fn plan(&self, method: &str, fault: Fault, times: u64) {
        let planned = Planned { method: method.to_owned(), fault, left: times };
        self.shared.planned.lock().unwrap().push(planned);
    }

    /// Has something go wrong with every request of any method that objects are handled by.
    pub fn plan_all(&self, fault: Fault) {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            self.plan(method, fault, ALWAYS);
        }
    }

    /// Whether all that was planned has happened.
    pub fn is_through(&self) -> bool {
        self.shared.planned.lock().unwrap().is_empty()
    }

    /// Breaks all connections, and lets none through until all is well again.
    pub fn down(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        for stream in self.shared.open.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// All is well again: nothing that was planned happens any more.
    pub fn heal(&self) {
        self.shared.planned.lock().unwrap().clear();
        self.shared.down.store(false, Ordering::SeqCst);
    }

    /// How many bytes the store has sent to the node, heads and all.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// How many requests of a method there were, whatever came of them.
    pub fn asked(&self, method: &str) -> u64 {
        self.shared.asked.lock().unwrap().get(method).copied().unwrap_or(0)
    }
}

/// A request or an answer up to its body, and what came of that together with it.
struct Head {
    first: String,
    fields: Vec<String>,
    rest: Vec<u8>,
}

impl Head {
    fn read(mut stream: &TcpStream, mut got: Vec<u8>) -> io::Result<Self> {
        let mut piece = [0; 16 << 10];
        loop {
            if let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = got.split_off(end + 4);
                let text = String::from_utf8_lossy(&got[..end]).into_owned();
                let mut lines = text.split("\r\n").map(str::to_owned);
                let first = lines.next().unwrap_or_default();
                return Ok(Self { first, fields: lines.collect(), rest });
            }
            match stream.read(&mut piece)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                length => got.extend_from_slice(&piece[..length]),
            }
        }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The method of a request.
    fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or_default()
    }

    /// The status of an answer.
    fn status(&self) -> io::Result<u16> {
        let status = self.first.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| ErrorKind::InvalidData.into())
    }

    fn length(&self) -> u64 {
        self.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
    }

    fn encode(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        self.fields.iter().for_each(|line| text.push_str(&format!("{line}\r\n")));
        text.push_str("\r\n");
        text.into_bytes()
    }

    /// Says that the connection ends after it.
    fn last(mut self) -> Self {
        let about_connection = |line: &String| {
            line.split(':').next().is_some_and(|name| {
                name.eq_ignore_ascii_case("connection") || name.eq_ignore_ascii_case("keep-alive")
            })
        };
        self.fields.retain(|line| !about_connection(line));
        self.fields.push("Connection: close".to_owned());
        self
    }
}

impl Shared {
    /// Lets a connection in, unless the store is down.
    fn enter(&self, number: u64, client: &TcpStream) -> bool {
        let mut open = self.open.lock().unwrap();
        let Ok(copy) = client.try_clone() else { return false };
        if self.down.load(Ordering::SeqCst) {
            return false;
        }
        open.insert(number, copy);
        true
    }

    /// Counts a request, and says what is to go wrong with it.
    fn note(&self, method: &str) -> Option<Fault> {
        *self.asked.lock().unwrap().entry(method.to_owned()).or_default() += 1;
        let mut planned = self.planned.lock().unwrap();
        let at = planned.iter().position(|planned| planned.method == method)?;
        let fault = planned[at].fault;
        if planned[at].left != ALWAYS {
            planned[at].left -= 1;
        }
        if planned[at].left == 0 {
            planned.remove(at);
        }
        Some(fault)
    }

    fn send(&self, mut client: &TcpStream, bytes: &[u8]) -> io::Result<()> {
        client.write_all(bytes)?;
        self.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Ok(())
    }

    fn serve(&self, client: &TcpStream, target: SocketAddr) -> io::Result<()> {
        client.set_nodelay(true)?;
        client.set_read_timeout(Some(PATIENCE))?;
        let request = Head::read(client, Vec::new())?;
        let fault = self.note(request.method());
        match fault {
            Some(Fault::Status(status)) => {
                self.send(client, &refusal(status, request.method()))?;
                return leave(client);
            }
            Some(Fault::Silence) => {
                drain(client);
                return Ok(());
            }
            Some(Fault::Swallow) => return self.swallow(client, &request),
            Some(Fault::Cut | Fault::Flip | Fault::FlipUp) | None => {}
        }
        let mut store = TcpStream::connect(target)?;
        store.set_nodelay(true)?;
        store.set_read_timeout(Some(PATIENCE))?;
        let is_head = request.method() == "HEAD";
        let rest = request.rest.clone();
        store.write_all(&request.last().encode())?;
        store.write_all(&rest)?;
        let (from, to) = (client.try_clone()?, store.try_clone()?);
        thread::spawn(move || pass_up(&from, &to, fault == Some(Fault::FlipUp)));
        let passed = self.pass_down(&store, client, fault, is_head);
        let left = passed.and_then(|whole| if whole { leave(client) } else { Ok(()) });
        let _ = store.shutdown(Shutdown::Both);
        left
    }

    /// Passes an answer on; says whether it is whole.
    fn pass_down(
        &self,
        mut store: &TcpStream,
        client: &TcpStream,
        fault: Option<Fault>,
        is_head: bool,
    ) -> io::Result<bool> {
        let mut answer = Head::read(store, Vec::new())?;
        while answer.status()? < 200 {
            self.send(client, &answer.encode())?;
            answer = Head::read(store, answer.rest)?;
        }
        let half = answer.length() / 2;
        let mut piece = std::mem::take(&mut answer.rest);
        self.send(client, &answer.last().encode())?;
        if is_head {
            return Ok(true);
        }
        let mut passed = 0;
        loop {
            let here = usize::try_from(half.saturating_sub(passed)).unwrap_or(usize::MAX);
            if passed <= half && here < piece.len() {
                match fault {
                    Some(Fault::Cut) => {
                        self.send(client, &piece[..here])?;
                        return Ok(false);
                    }
                    Some(Fault::Flip) => piece[here] ^= 0x10,
                    _ => {}
                }
            }
            self.send(client, &piece)?;
            passed += piece.len() as u64;
            piece.resize(PIECE, 0);
            let length = store.read(&mut piece)?;
            piece.truncate(length);
            if length == 0 {
                return Ok(true);
            }
        }
    }

    /// Takes a body that nobody gets, and says that all is well.
    fn swallow(&self, mut client: &TcpStream, request: &Head) -> io::Result<()> {
        if request.field("expect").is_some() {
            self.send(client, b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut left = request.length().saturating_sub(request.rest.len() as u64);
        let mut piece = vec![0; PIECE];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            match client.read(&mut piece[..most])? {
                0 => return Ok(()),
                length => left -= length as u64,
            }
        }
        let mut text = "HTTP/1.1 200 OK\r\nETag: \"9b2cf535f27731c974343645a3985328\"\r\n".to_owned();
        for name in ["x-amz-checksum-sha256", "x-amz-checksum-crc32"] {
            if let Some(value) = request.field(name) {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        text.push_str("Content-Length: 0\r\nConnection: close\r\n\r\n");
        self.send(client, text.as_bytes())?;
        leave(client)
    }
}

/// What a store says when it does not do something.
fn refusal(status: u16, method: &str) -> Vec<u8> {
    let code = match status {
        403 => "AccessDenied",
        404 => "NoSuchKey",
        503 => "SlowDown",
        _ => "InternalError",
    };
    let text =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the test</Message></Error>");
    let mut answer = format!("HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\n");
    answer.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n\r\n", text.len()));
    if method != "HEAD" {
        answer.push_str(&text);
    }
    answer.into_bytes()
}

/// Ends a connection after its answer, which a reset would lose: so what the client still sends is taken first.
fn leave(client: &TcpStream) -> io::Result<()> {
    client.shutdown(Shutdown::Write)?;
    drain(client);
    Ok(())
}

/// Reads until the client has gone.
fn drain(mut client: &TcpStream) {
    let mut piece = vec![0; PIECE];
    while matches!(client.read(&mut piece), Ok(1..)) {}
}

/// Passes a request's body on, and takes what the store does not want any more.
fn pass_up(mut client: &TcpStream, mut store: &TcpStream, mut flips: bool) {
    let mut piece = vec![0; PIECE];
    let mut wanted = true;
    while let Ok(length @ 1..) = client.read(&mut piece) {
        if std::mem::take(&mut flips) {
            piece[length / 2] ^= 0x10;
        }
        wanted = wanted && store.write_all(&piece[..length]).is_ok();
    }
    let _ = store.shutdown(Shutdown::Both);
}

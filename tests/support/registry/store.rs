//! A registry's server on a port and in a directory of its own. It dies with its handle.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{Connection, Request, process, wait_until};

const START_DEADLINE: Duration = Duration::from_secs(30);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Redis,
    Etcd,
}

/// What every test is run with.
pub const BOTH: [Kind; 2] = [Kind::Redis, Kind::Etcd];

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Etcd => "etcd",
        }
    }

    pub fn url(self, address: SocketAddr) -> String {
        match self {
            Self::Redis => format!("redis://{address}"),
            Self::Etcd => format!("http://{address}"),
        }
    }
}

/// A port of 127.0.0.1 that stays ours while its server is down: below those that the kernel gives to outgoing connections.
pub fn free_port() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..20_000 {
        let at = std::process::id().wrapping_mul(137).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from(([127, 0, 0, 1], (12_000 + at % 20_000) as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port");
}

pub struct Store {
    pub kind: Kind,
    pub address: SocketAddr,
    peer: SocketAddr,
    password: Option<&'static str>,
    home: TempDir,
    child: Option<Child>,
}

impl Store {
    pub fn start(kind: Kind) -> Self {
        Self::prepare(kind, None)
    }

    /// One that asks for a password; etcd for the user `root` besides.
    pub fn start_with_password(kind: Kind, password: &'static str) -> Self {
        Self::prepare(kind, Some(password))
    }

    fn prepare(kind: Kind, password: Option<&'static str>) -> Self {
        let home = tempfile::Builder::new().prefix("amberblob-registry-").tempdir().unwrap();
        let mut store = Self { kind, address: free_port(), peer: free_port(), password, home, child: None };
        store.start_empty();
        store
    }

    /// What stands for it in `registry.endpoints`.
    pub fn url(&self) -> String {
        self.kind.url(self.address)
    }

    /// Starts it on its port, knowing nothing.
    pub fn start_empty(&mut self) {
        assert!(self.child.is_none());
        let data = tempfile::tempdir_in(self.home.path()).unwrap().keep();
        let mut command = match self.kind {
            Kind::Redis => {
                let mut command = Command::new("redis-server");
                command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
                command.args(["--port", &self.address.port().to_string()]);
                command.arg("--dir").arg(&data);
                command.args(self.password.iter().flat_map(|password| ["--requirepass", password]));
                command
            }
            Kind::Etcd => {
                let (client, peer) = (format!("http://{}", self.address), format!("http://{}", self.peer));
                let mut command = Command::new("etcd");
                command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command.arg(format!("--initial-cluster=default={peer}")).arg("--data-dir").arg(&data);
                // It wants to be asked for on other processors than amd64.
                command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(process::spawn(command).expect("start the registry's server: is it installed?"));
        wait_until(START_DEADLINE, "the registry's server to answer", || self.answers());
        if let (Kind::Etcd, Some(password)) = (self.kind, self.password) {
            for (path, body) in [
                ("/v3/auth/user/add", json!({ "name": "root", "password": password })),
                ("/v3/auth/role/add", json!({ "name": "root" })),
                ("/v3/auth/user/grant", json!({ "user": "root", "role": "root" })),
                ("/v3/auth/enable", json!({})),
            ] {
                self.post(path, &body);
            }
        }
    }

    fn answers(&self) -> bool {
        match self.kind {
            Kind::Redis => self.say("PING").is_ok_and(|answer| !answer.is_empty()),
            Kind::Etcd => Connection::try_open(self.address)
                .and_then(|mut link| link.exchange(&Request::new("GET", "/health")))
                .is_ok_and(|answer| answer.text().contains("\"health\":\"true\"")),
        }
    }

    /// One line to a Redis, and what it answers at first.
    fn say(&self, line: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        let mut answer = [0; 64 << 10];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let request = Request::new("POST", path)
            .headers(&[("Content-Type", "application/json")])
            .body(body.to_string().as_bytes());
        let answer = Connection::try_open(self.address).and_then(|mut link| link.exchange(&request)).unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// The value of a key as it stands there.
    pub fn get(&self, key: &str) -> Option<String> {
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD;
        match self.kind {
            Kind::Redis => {
                let answer = self.say(&format!("GET {key}")).unwrap();
                let (length, rest) = answer.split_once("\r\n").unwrap();
                (length != "$-1").then(|| rest.trim_end().to_owned())
            }
            Kind::Etcd => {
                let answer = self.post("/v3/kv/range", &json!({ "key": base64.encode(key) }));
                let value = answer.pointer("/kvs/0/value")?.as_str().unwrap();
                Some(String::from_utf8(base64.decode(value).unwrap()).unwrap())
            }
        }
    }

    /// It stands still: its sockets stay open and nobody answers.
    pub fn freeze(&self) {
        if let Some(child) = &self.child {
            process::signal(child.id(), libc::SIGSTOP);
        }
    }

    /// It goes on if it stood still, and starts, knowing nothing, if it was dead.
    pub fn heal(&mut self) {
        if self.child.is_some() { self.thaw() } else { self.start_empty() }
    }

    pub fn thaw(&self) {
        if let Some(child) = &self.child {
            process::signal(child.id(), libc::SIGCONT);
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
    }
}

//! One `amberblob serve` process over a directory of its own.
//!
//! A server dies with its handle, and with the test process however that ends. Its stderr is kept beside its data and shown
//! when a test panics. Stopping, killing and starting again keep data, configuration and arguments, not the ports.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::http::{Connection, Request, Response, object};
use super::process;
use super::wait::poll;

/// A server must say where it listens, and be ready, within this.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// A server that was asked to stop must be gone within this.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// How a server is to be started.
#[derive(Debug, Clone)]
pub struct Builder {
    disks: usize,
    cores: Option<usize>,
    config: Option<String>,
    envs: Vec<(String, String)>,
    args: Vec<String>,
    data: Vec<PathBuf>,
    /// Whether listeners and disks are what the configuration says, not this test's own.
    as_configured: bool,
    wait_ready: bool,
    prepare: Option<Prepare>,
}

/// What is done to the command before it is started.
#[derive(Clone)]
struct Prepare(Arc<dyn Fn(&mut Command) + Send + Sync>);

impl std::fmt::Debug for Prepare {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Prepare")
    }
}

impl Builder {
    /// The number of disks, each a directory of its own; 1 unless told.
    pub fn disks(mut self, disks: usize) -> Self {
        self.disks = disks;
        self
    }

    /// `--cores`; not given unless told.
    pub fn cores(mut self, cores: usize) -> Self {
        self.cores = Some(cores);
        self
    }

    /// The text of the configuration file.
    pub fn config(mut self, toml: &str) -> Self {
        self.config = Some(toml.to_owned());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.envs.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// An existing or future data directory instead of a fresh one; several calls are several disks.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data.push(path.into());
        self
    }

    /// Listeners and disks are what the configuration says.
    pub fn by_config(mut self) -> Self {
        self.as_configured = true;
        self
    }

    /// Whether starting waits until `/readyz` says 200 (it does unless told otherwise), or only until it answers at all.
    pub fn wait_ready(mut self, wait: bool) -> Self {
        self.wait_ready = wait;
        self
    }

    /// Changes the command itself.
    pub fn prepared(mut self, prepare: impl Fn(&mut Command) + Send + Sync + 'static) -> Self {
        self.prepare = Some(Prepare(Arc::new(prepare)));
        self
    }

    /// Starts the server; panics with its stderr if it refuses.
    #[track_caller]
    pub fn start(self) -> Server {
        match self.try_start() {
            Ok(server) => server,
            Err(refused) => panic!("the server did not start: {refused:?}"),
        }
    }

    /// Starts the server, or returns how it refused.
    #[track_caller]
    pub fn try_start(mut self) -> Result<Server, Refused> {
        let home = Arc::new(
            tempfile::Builder::new().prefix("amberblob-test-").tempdir().expect("a temporary directory"),
        );
        if self.data.is_empty() && !self.as_configured {
            self.data = match self.disks {
                1 => vec![home.path().join("data")],
                many => (1..=many).map(|disk| home.path().join(format!("disk{disk}"))).collect(),
            };
        }
        let run = Run::start(&self, &home)?;
        Ok(Server { builder: self, home, run: Some(run) })
    }
}

/// A server that ended before it served.
#[derive(Debug)]
pub struct Refused {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A running process and what it said about itself.
struct Run {
    child: Child,
    public: SocketAddr,
    admin: SocketAddr,
    line: String,
}

impl Run {
    fn start(builder: &Builder, home: &Arc<TempDir>) -> Result<Self, Refused> {
        let stderr_path = stderr_path(home);
        let stderr =
            OpenOptions::new().create(true).append(true).open(&stderr_path).expect("a file for stderr");
        let stderr_before = stderr.metadata().expect("the size of stderr").len();
        let mut child = process::spawn(command(builder, home, stderr)).expect("start the amberblob binary");
        let stdout = child.stdout.take().expect("a piped stdout");
        let (lines, queue) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let deadline = Instant::now() + START_DEADLINE;
        let mut said = String::new();
        let line = loop {
            match queue.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with("amberblob: serving ") => break line,
                Ok(line) => said.push_str(&(line + "\n")),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    kill(&mut child);
                    panic!(
                        "no `amberblob: serving` line within {START_DEADLINE:?}; stderr:\n{}",
                        read_from(&stderr_path, 0)
                    );
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = wait_exit(&mut child, START_DEADLINE);
                    return Err(Refused {
                        status,
                        stdout: said,
                        stderr: read_from(&stderr_path, stderr_before),
                    });
                }
            }
        };
        let mut run =
            Self { child, public: field_addr(&line, "public"), admin: field_addr(&line, "admin"), line };
        let mut last = String::new();
        let ready = poll(START_DEADLINE, || {
            if let Some(status) = run.child.try_wait().expect("ask for the exit status") {
                let stderr = read_from(&stderr_path, stderr_before);
                panic!("the server ended ({status}) before it was ready; stderr:\n{stderr}");
            }
            let answer = Connection::try_open(run.admin)
                .and_then(|mut link| link.exchange(&Request::new("GET", "/readyz")));
            last = match answer {
                Ok(answer) if answer.status == 200 || !builder.wait_ready => return Some(()),
                Ok(answer) => format!("{} {}", answer.status, answer.text()),
                Err(error) => error.to_string(),
            };
            None
        });
        if ready.is_none() {
            kill(&mut run.child);
            let stderr = read_from(&stderr_path, stderr_before);
            panic!("not ready within {START_DEADLINE:?}, /readyz: {last}; stderr:\n{stderr}");
        }
        Ok(run)
    }
}

fn command(builder: &Builder, home: &TempDir, stderr: File) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amberblob"));
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("AMBERBLOB_") {
            command.env_remove(key);
        }
    }
    command.arg("serve");
    if !builder.as_configured {
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    }
    for disk in &builder.data {
        command.arg("--data").arg(disk);
    }
    if let Some(cores) = builder.cores {
        command.args(["--cores", &cores.to_string()]);
    }
    if let Some(toml) = &builder.config {
        let path = home.path().join("amberblob.toml");
        std::fs::write(&path, toml).expect("write the configuration");
        command.arg("--config").arg(path);
    }
    command.args(&builder.args);
    command.envs(builder.envs.iter().map(|(key, value)| (key, value)));
    command.current_dir(home.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    if let Some(prepare) = &builder.prepare {
        (prepare.0)(&mut command);
    }
    command
}

fn stderr_path(home: &TempDir) -> PathBuf {
    home.path().join("stderr.log")
}

fn read_from(path: &Path, offset: u64) -> String {
    let all = std::fs::read(path).unwrap_or_default();
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
    String::from_utf8_lossy(&all[from..]).into_owned()
}

/// The word `key=value` of the line that says where the server listens.
fn field<'a>(line: &'a str, key: &str) -> &'a str {
    let word = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    word.unwrap_or_else(|| panic!("no {key}= in {line:?}"))
}

fn field_addr(line: &str, key: &str) -> SocketAddr {
    let url = field(line, key);
    let addr = url.strip_prefix("http://").unwrap_or_else(|| panic!("{key} is no http URL: {line:?}"));
    let addr: SocketAddr = addr.parse().unwrap_or_else(|error| panic!("{key}: {error}: {line:?}"));
    assert_ne!(addr.port(), 0, "the port that was chosen must be told: {line:?}");
    addr
}

fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn wait_exit(child: &mut Child, within: Duration) -> ExitStatus {
    poll(within, || child.try_wait().expect("ask for the exit status")).unwrap_or_else(|| {
        kill(child);
        panic!("the server did not end within {within:?}")
    })
}

pub struct Server {
    builder: Builder,
    home: Arc<TempDir>,
    run: Option<Run>,
}

impl Server {
    /// A server with one fresh disk and no configuration.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    pub fn builder() -> Builder {
        Builder {
            disks: 1,
            cores: None,
            config: None,
            envs: Vec::new(),
            args: Vec::new(),
            data: Vec::new(),
            as_configured: false,
            wait_ready: true,
            prepare: None,
        }
    }

    /// A server that all tests of one crate share, each with paths of its own; it ends with the test process.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    fn run(&self) -> &Run {
        self.run.as_ref().expect("the server is running")
    }

    pub fn is_running(&self) -> bool {
        self.run.is_some()
    }

    /// Where the public listener is.
    pub fn public(&self) -> SocketAddr {
        self.run().public
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> SocketAddr {
        self.run().admin
    }

    /// The line that said where the server listens.
    pub fn serving_line(&self) -> &str {
        &self.run().line
    }

    pub fn pid(&self) -> u32 {
        self.run().child.id()
    }

    /// Bytes of memory the server has resident.
    pub fn rss_bytes(&self) -> u64 {
        process::rss_bytes(self.pid())
    }

    /// The most bytes of memory the server had resident so far.
    pub fn peak_rss_bytes(&self) -> u64 {
        process::peak_rss_bytes(self.pid())
    }

    /// The first (often the only) data directory.
    pub fn data(&self) -> &Path {
        &self.builder.data[0]
    }

    /// All data directories.
    pub fn disks(&self) -> &[PathBuf] {
        &self.builder.data
    }

    /// Where a test may put files of its own beside the data.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// All that the server wrote to stderr so far, over all its starts.
    pub fn stderr(&self) -> String {
        read_from(&stderr_path(&self.home), 0)
    }

    /// Changes how the server is started the next time.
    pub fn reconfigure(&mut self, change: impl FnOnce(Builder) -> Builder) {
        self.builder = change(self.builder.clone());
    }

    /// Kills the server as a crash would, and waits until it is gone.
    pub fn kill9(&mut self) {
        let mut run = self.run.take().expect("the server is running");
        kill(&mut run.child);
    }

    /// Asks the server to stop (SIGTERM) and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut run = self.run.take().expect("the server is running");
        process::signal(run.child.id(), libc::SIGTERM);
        wait_exit(&mut run.child, STOP_DEADLINE)
    }

    /// Waits for the server to end by itself, as after a failpoint that aborts it.
    pub fn wait_gone(&mut self, within: Duration) -> ExitStatus {
        let mut run = self.run.take().expect("the server is running");
        wait_exit(&mut run.child, within)
    }

    /// Whether the process ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.run.as_mut().is_none_or(|run| run.child.try_wait().expect("ask for the exit status").is_some())
    }

    /// Starts a server that was stopped or killed, on the same data.
    #[track_caller]
    pub fn start_again(&mut self) {
        if let Err(refused) = self.try_start_again() {
            panic!("the server did not start again: {refused:?}");
        }
    }

    /// As [`Self::start_again`], or how it refused.
    pub fn try_start_again(&mut self) -> Result<(), Refused> {
        assert!(self.run.is_none(), "the server is running");
        self.run = Some(Run::start(&self.builder, &self.home)?);
        Ok(())
    }

    /// Stops the server in good order, if it runs, and starts it again on the same data.
    #[track_caller]
    pub fn restart(&mut self) {
        if self.run.is_some() {
            let status = self.terminate();
            assert!(status.success(), "the server stopped with {status}");
        }
        self.start_again();
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.public())
    }

    /// One request on a connection of its own; panics unless an answer comes.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Response {
        self.try_send(request)
            .unwrap_or_else(|error| panic!("no answer to {:?}: {error}", first_line(request)))
    }

    pub fn try_send(&self, request: &Request) -> std::io::Result<Response> {
        Connection::try_open(self.public())?.exchange(request)
    }

    /// One request with a body unless it is empty and the method is not PUT.
    #[track_caller]
    pub fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let request = Request::new(method, target).headers(headers);
        self.send(&if method == "PUT" || !body.is_empty() { request.body(body) } else { request })
    }

    #[track_caller]
    pub fn put(&self, path: &str, body: &[u8]) -> Response {
        self.put_with(path, &[], body)
    }

    #[track_caller]
    pub fn put_with(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.request("PUT", &object(path), headers, body)
    }

    #[track_caller]
    pub fn put_at(&self, path: &str, version: u64, body: &[u8]) -> Response {
        self.request("PUT", &format!("{}?version={version}", object(path)), &[], body)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.get_with(path, &[])
    }

    #[track_caller]
    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.request("GET", &object(path), headers, b"")
    }

    /// `range` is the whole value of the header, such as `bytes=0-9`.
    #[track_caller]
    pub fn get_range(&self, path: &str, range: &str) -> Response {
        self.get_with(path, &[("Range", range)])
    }

    #[track_caller]
    pub fn get_at(&self, path: &str, version: u64) -> Response {
        self.get_query(path, &format!("version={version}"))
    }

    /// GET with a query, which must be encoded already.
    #[track_caller]
    pub fn get_query(&self, path: &str, query: &str) -> Response {
        self.request("GET", &format!("{}?{query}", object(path)), &[], b"")
    }

    #[track_caller]
    pub fn head(&self, path: &str) -> Response {
        self.head_with(path, &[])
    }

    #[track_caller]
    pub fn head_with(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.request("HEAD", &object(path), headers, b"")
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Response {
        self.request("DELETE", &object(path), &[], b"")
    }

    #[track_caller]
    pub fn delete_at(&self, path: &str, version: u64) -> Response {
        self.request("DELETE", &format!("{}?version={version}", object(path)), &[], b"")
    }

    /// `GET /objects?query`, the query encoded already; an empty one is left out.
    #[track_caller]
    pub fn list(&self, query: &str) -> Response {
        let target = if query.is_empty() { "/objects".to_owned() } else { format!("/objects?{query}") };
        self.request("GET", &target, &[], b"")
    }

    /// GET on the admin listener.
    #[track_caller]
    pub fn admin_get(&self, target: &str) -> Response {
        let answer = Connection::try_open(self.admin())
            .and_then(|mut link| link.exchange(&Request::new("GET", target)));
        answer.unwrap_or_else(|error| panic!("no answer to GET {target} on the admin listener: {error}"))
    }

    /// Panics unless the server still answers `/health`: what was done to it before has not hurt it.
    #[track_caller]
    pub fn assert_alive(&self) {
        let health = self.request("GET", "/health", &[], b"").expect_status(200);
        assert_eq!(health.json()["status"], "ok");
    }
}

fn first_line(request: &Request) -> String {
    let head = request.encode_head();
    String::from_utf8_lossy(head.split(|&byte| byte == b'\r').next().unwrap_or_default()).into_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut run) = self.run.take() {
            kill(&mut run.child);
        }
        if std::thread::panicking() {
            show_stderr(&self.home);
        }
    }
}

/// Prints the end of what a server wrote to stderr.
fn show_stderr(home: &TempDir) {
    let stderr = read_from(&stderr_path(home), 0);
    let mut from = stderr.len().saturating_sub(8 << 10);
    while !stderr.is_char_boundary(from) {
        from += 1;
    }
    eprintln!("---- stderr of the server in {} ----\n{}----", home.path().display(), &stderr[from..]);
}

/// Statics are never dropped: a panic shows this server's stderr by a hook, and its directory goes when the process ends.
static SHARED: LazyLock<Server> = LazyLock::new(|| {
    let server = Server::start();
    let home = Arc::clone(&server.home);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        show_stderr(&home);
    }));
    process::at_exit(remove_shared);
    server
});

extern "C" fn remove_shared() {
    process::signal(SHARED.pid(), libc::SIGKILL);
    let _ = std::fs::remove_dir_all(SHARED.home.path());
}

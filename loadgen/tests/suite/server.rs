//! A blob server of a few lines, honest or dishonest on demand. It reads requests with its own eyes, not with the generator's.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How reads are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Honest,
    FlipOneBit,
    Refuse,
    RefuseEverySecond,
    CutShort,
    CloseAnnounced,
    CloseSilently,
    Rubbish,
    Hang,
    /// The connection is reset in place of an answer.
    Reset,
    /// The 50th read, and whoever comes while it is being answered, waits for [`STALL`].
    StallOnce,
    /// Writes are acknowledged and change nothing that is there already.
    KeepOld,
    /// Each read is answered a little later than it could be.
    Slow,
    /// Writes are refused from the head alone; the body is drained before the connection is closed.
    RefuseUploads,
}

/// Long enough that only a client with a deadline of its own gets away.
const HANG: Duration = Duration::from_mins(1);

/// How long a stalled server stands still.
pub(crate) const STALL: Duration = Duration::from_millis(200);
/// How long a slow one takes for an answer.
const SLOW: Duration = Duration::from_millis(5);

struct State {
    /// Held by whoever makes all others wait.
    stalled: Mutex<()>,
    objects: Mutex<HashMap<String, Arc<Vec<u8>>>>,
    behaviour: Mutex<Behaviour>,
    reads: AtomicU64,
}

/// A server on a port of its own; its threads end with the test process.
pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

impl Server {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            stalled: Mutex::new(()),
            objects: Mutex::default(),
            behaviour: Mutex::new(behaviour),
            reads: AtomicU64::new(0),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A connection that breaks is the client's business.
                std::thread::spawn(move || drop(serve(&stream, &state)));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().unwrap() = behaviour;
    }
}

struct Request {
    method: String,
    path: String,
    range: Option<(usize, usize)>,
    length: usize,
}

fn serve(stream: &TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        if request.method == "PUT" && *state.behaviour.lock().unwrap() == Behaviour::RefuseUploads {
            (&*stream).write_all(
                b"HTTP/1.1 507 Insufficient Storage\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            )?;
            stream.shutdown(std::net::Shutdown::Write)?;
            std::io::copy(&mut reader, &mut std::io::sink())?;
            break;
        } else if request.method == "PUT" {
            let mut body = vec![0; request.length];
            reader.read_exact(&mut body)?;
            let keep_old = *state.behaviour.lock().unwrap() == Behaviour::KeepOld;
            let mut objects = state.objects.lock().unwrap();
            if !(keep_old && objects.contains_key(&request.path)) {
                objects.insert(request.path, Arc::new(body));
            }
            drop(objects);
            (&*stream).write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")?;
        } else if !answer_read(stream, state, &request)? {
            break;
        }
    }
    Ok(())
}

/// Answers a GET; whether the connection lives on.
fn answer_read(mut stream: &TcpStream, state: &State, request: &Request) -> std::io::Result<bool> {
    let behaviour = *state.behaviour.lock().unwrap();
    let number = state.reads.fetch_add(1, Ordering::Relaxed) + 1;
    let every_second = number.is_multiple_of(2);
    match behaviour {
        Behaviour::Hang => {
            std::thread::sleep(HANG);
            return Ok(false);
        }
        Behaviour::Rubbish => {
            stream.write_all(b"220 mail.example ESMTP\r\n")?;
            return Ok(true);
        }
        Behaviour::Reset => {
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
            return Ok(false);
        }
        Behaviour::StallOnce => {
            let _waiting = state.stalled.lock().unwrap();
            if number == 50 {
                std::thread::sleep(STALL);
            }
        }
        Behaviour::Slow => std::thread::sleep(SLOW),
        Behaviour::Refuse => return refuse(stream),
        Behaviour::RefuseEverySecond if every_second => return refuse(stream),
        _ => {}
    }
    let object = state.objects.lock().unwrap().get(&request.path).cloned();
    let Some(object) = object else {
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(true);
    };
    let (first, end) = request.range.map_or((0, object.len()), |(first, last)| (first, last + 1));
    let mut body = object[first..end].to_vec();
    let mut head = match request.range {
        Some(_) => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{}\r\n",
            end - 1,
            object.len()
        ),
        None => "HTTP/1.1 200 OK\r\n".to_owned(),
    };
    head = format!("{head}Content-Length: {}\r\n", body.len());
    match behaviour {
        Behaviour::FlipOneBit => *body.last_mut().unwrap() ^= 0x40,
        Behaviour::CutShort => body.truncate(end - first - 1),
        Behaviour::CloseAnnounced => head.push_str("Connection: close\r\n"),
        _ => {}
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(&body)?;
    Ok(!matches!(behaviour, Behaviour::CutShort | Behaviour::CloseAnnounced | Behaviour::CloseSilently))
}

fn refuse(mut stream: &TcpStream) -> std::io::Result<bool> {
    stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")?;
    Ok(true)
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    assert_eq!(words.next().unwrap(), "HTTP/1.1");
    let mut request = Request { method, path, range: None, length: 0 };
    loop {
        let mut field = String::new();
        reader.read_line(&mut field)?;
        match field.trim_end().split_once(": ") {
            Some(("Range", value)) => {
                let (first, last) = value.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                request.range = Some((first.parse().unwrap(), last.parse().unwrap()));
            }
            Some(("Content-Length", value)) => request.length = value.parse().unwrap(),
            Some(_) => {}
            None => return Ok(Some(request)),
        }
    }
}

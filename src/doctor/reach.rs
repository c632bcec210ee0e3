//! Whether what the config names can be reached from here: the registry, the other nodes and their clocks, the store.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};

use super::{Said, advice, ok, problem};
use crate::archive::target;
use crate::base::clock::{Timestamp, parse_http_date};
use crate::config::Config;
use crate::limits::{DOCTOR_CLOCK_MAX, DOCTOR_TIME};
use crate::registry::settings::Backend;

/// What is found of all that is named.
pub(super) fn all(config: &Config) -> Vec<(String, Said)> {
    let mut found = Vec::new();
    for endpoint in &config.registry.endpoints {
        found.push(("registry".to_owned(), registry(config, &endpoint.host, endpoint.port)));
    }
    if let Some(cluster) = &config.cluster {
        for node in cluster.topology.others() {
            let (name, known) = (cluster.topology.name(node), &cluster.known[node.index()]);
            if let Some(peer) = known.addresses.peer {
                let better = "listen.peer of that node, and no firewall between";
                found.push((format!("peer {name}"), listens(peer, better)));
            }
            if let Some(public) = known.addresses.public {
                found.push((format!("clock {name}"), clock(public)));
            }
        }
    }
    if let Some(settings) = &config.archive {
        let at = settings.endpoint.as_deref().unwrap_or("its provider");
        found.push((
            "archive store".to_owned(),
            match target::probe_now(settings) {
                Ok(()) => ok(format!("s3://{} at {at} lets us in", settings.bucket)),
                Err(why) => problem(
                    why,
                    "a bucket that is there, and credentials that are good for it",
                    "amberblob archive --status",
                ),
            },
        ));
    }
    found
}

fn connect(addresses: impl IntoIterator<Item = SocketAddr>) -> Result<TcpStream, String> {
    let mut why = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, DOCTOR_TIME) {
            Ok(stream) => {
                let timed = stream.set_read_timeout(Some(DOCTOR_TIME));
                return timed.map(|()| stream).map_err(|error| error.to_string());
            }
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// What is answered to a few bytes, the first of it.
fn ask(mut stream: &TcpStream, question: &str) -> Result<String, String> {
    let mut answer = [0; 4096];
    let read = stream.write_all(question.as_bytes()).and_then(|()| stream.read(&mut answer));
    let read = read.map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
}

fn registry(config: &Config, host: &str, port: u16) -> Said {
    let backend = config.registry.backend;
    let name = format!("{backend:?}").to_lowercase();
    let resolved = (host, port).to_socket_addrs().map_err(|error| error.to_string());
    let asked = resolved.and_then(connect).and_then(|stream| match backend {
        Backend::Redis => ask(&stream, "PING\r\n"),
        _ => ask(&stream, &format!("GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")),
    });
    let is_it = |answer: &str| match backend {
        Backend::Redis => answer.starts_with("+PONG") || answer.starts_with("-NOAUTH"),
        _ => answer.contains("etcdserver"),
    };
    match asked {
        Ok(answer) if is_it(&answer) => ok(format!("{name} at {host}:{port} answers")),
        Ok(_) => problem(
            format!("what answers at {host}:{port} is no {name}"),
            "registry.backend and registry.endpoints that fit",
            format!("nc -v {host} {port}"),
        ),
        // Nodes that know each other go on without it.
        Err(why) => advice(
            format!("{host}:{port} does not answer: {why}"),
            "a registry that is there: without it nodes may not find each other after a start",
            format!("nc -v {host} {port}"),
        ),
    }
}

fn listens(address: SocketAddr, better: &str) -> Said {
    match connect([address]) {
        Ok(_) => ok(format!("{address} listens")),
        Err(why) => advice(
            format!("{address} does not answer: {why}"),
            better,
            format!("nc -v {} {}", address.ip(), address.port()),
        ),
    }
}

fn clock(public: SocketAddr) -> Said {
    let question = format!("GET /health HTTP/1.1\r\nHost: {public}\r\nConnection: close\r\n\r\n");
    let Ok(answer) = connect([public]).and_then(|stream| ask(&stream, &question)) else {
        return ok(format!("{public} does not answer: not compared"));
    };
    let date = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("date").then(|| parse_http_date(value.trim())).flatten()
    });
    let Some(date) = date else { return ok(format!("{public} tells no time")) };
    let apart = Timestamp::now().seconds() - date;
    if apart.unsigned_abs() > DOCTOR_CLOCK_MAX.as_secs() {
        return problem(
            format!("{public} is {apart} s behind"),
            "clocks that agree: versions and graces go by them",
            "chronyc tracking",
        );
    }
    ok(format!("{public} agrees to about a second"))
}

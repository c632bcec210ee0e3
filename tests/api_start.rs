//! Starting: which directories are refused and why, and what a damaged database takes out of service.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use support::{
    Refused, Request, Server, bytes, chunk_files, error_code, plain_files, poll_until, process, slot_dir,
    slot_of, wait_until,
};

/// Panics unless the start was refused with exit status 1 and one line that contains `named`.
#[track_caller]
fn assert_refused(outcome: Result<Server, Refused>, named: &str) {
    let Err(refused) = outcome else { panic!("it started, which it must not ({named})") };
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(refused.stderr.trim_end().lines().count(), 1, "one line: {}", refused.stderr);
    assert!(refused.stderr.contains(named), "{named} is not named: {}", refused.stderr);
    assert_eq!(refused.stdout, "");
}

#[test]
fn the_line_on_stdout_says_what_runs() {
    let server = Server::builder().disks(2).cores(1).start();
    let [first, second] = server.disks() else { panic!("two disks") };
    let expected = format!(
        "amberblob: serving public=http://{} admin=http://{} cores=1 disks=2 data={},{}",
        server.public(),
        server.admin(),
        first.display(),
        second.display()
    );
    assert_eq!(server.serving_line(), expected);
    assert_ne!(server.public(), server.admin());
    server.assert_alive();
}

#[test]
fn a_directory_that_belongs_to_something_else_is_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let foreign: [(&str, &[(&str, &str)]); 4] = [
        ("postgres", &[("PG_VERSION", "16\n"), ("base/1/112", "data")]),
        ("home", &[("notes.txt", "mine"), (".profile", "")]),
        ("slots-of-another", &[("slots", "a file, not a directory")]),
        ("old", &[("amberblob/slot_0/meta/metadata.db", "not ours to open")]),
    ];
    for (name, files) in foreign {
        let dir = home.path().join(name);
        for (file, text) in files {
            std::fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
            std::fs::write(dir.join(file), text).unwrap();
        }
        let before = plain_files(&dir);
        assert_refused(Server::builder().data_dir(&dir).try_start(), &dir.to_string_lossy());
        assert_eq!(plain_files(&dir), before, "{name} was changed");
        for (file, text) in files {
            assert_eq!(std::fs::read_to_string(dir.join(file)).unwrap(), *text);
        }
    }
    let file = home.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    assert_refused(Server::builder().data_dir(&file).try_start(), &file.to_string_lossy());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "not a directory");
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    Server::builder().data_dir(&empty).start().put("a", b"x").expect_status(201);
}

#[test]
fn a_directory_in_use_is_refused_and_its_user_undisturbed() {
    let mut first = Server::start();
    first.put("used", b"mine").expect_status(201);
    let data = first.data().to_owned();
    assert_refused(Server::builder().data_dir(&data).try_start(), &data.to_string_lossy());
    let fresh = first.home().join("fresh");
    assert_refused(Server::builder().data_dir(&fresh).data_dir(&data).try_start(), &data.to_string_lossy());
    assert_eq!(first.get("used").expect_status(200).body, b"mine");
    first.put("used", b"still mine").expect_status(201);
    // A crash leaves nothing behind that would lock the directory out for ever.
    first.kill9();
    let second = Server::builder().data_dir(&data).start();
    assert_eq!(second.get("used").expect_status(200).body, b"still mine");
    let Err(refused) = first.try_start_again() else { panic!("two servers on one directory") };
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}

#[test]
fn the_same_directory_given_twice_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("disk");
    let Err(refused) = Server::builder().data_dir(&dir).data_dir(&dir).try_start() else {
        panic!("it started")
    };
    assert!(matches!(refused.status.code(), Some(1 | 2)), "{refused:?}");
    assert_eq!(refused.stderr.trim_end().lines().count(), 1, "{refused:?}");
}

/// Runs `serve` on `data` in a mount namespace where `data` is read-only; none if this machine does not allow that.
fn serve_read_only(data: &Path) -> Option<std::process::Output> {
    let script =
        "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" || exit 77; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(data).arg(env!("CARGO_BIN_EXE_amberblob"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]).arg(data);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = process::spawn(command).ok()?;
    let pid = child.id();
    let ended = std::thread::scope(|scope| {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            if wait.recv_timeout(Duration::from_secs(20)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                process::signal(pid, libc::SIGKILL);
            }
        });
        let mut stdout = String::new();
        let mut stderr = String::new();
        std::io::Read::read_to_string(&mut child.stdout.take()?, &mut stdout).ok()?;
        std::io::Read::read_to_string(&mut child.stderr.take()?, &mut stderr).ok()?;
        drop(done);
        let status = child.wait().ok()?;
        Some(std::process::Output { status, stdout: stdout.into_bytes(), stderr: stderr.into_bytes() })
    })?;
    (ended.status.code() != Some(77) && !ended.stderr.starts_with(b"unshare")).then_some(ended)
}

#[test]
fn a_read_only_directory_is_refused() {
    let mut server = Server::start();
    server.put("kept", b"x").expect_status(201);
    assert!(server.terminate().success());
    let data = server.data().to_owned();
    match serve_read_only(&data) {
        Some(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
            assert!(stderr.contains(&*data.to_string_lossy()), "{stderr}");
        }
        None => eprintln!("no mount namespaces here: a read-only directory was not tried"),
    }
    server.start_again();
    assert_eq!(server.get("kept").expect_status(200).body, b"x");
    let nowhere = Path::new("/proc/amberblob-data");
    assert_refused(Server::builder().data_dir(nowhere).try_start(), &nowhere.to_string_lossy());
}

#[test]
fn a_wrong_command_line_or_configuration_is_refused_with_the_way_out() {
    for args in [&["--no-such-flag"][..], &["--cores", "many"]] {
        let builder = args.iter().fold(Server::builder(), |builder, arg| builder.arg(arg));
        let Err(refused) = builder.try_start() else { panic!("it started with {args:?}") };
        assert_eq!(refused.status.code(), Some(2), "wrong usage: {refused:?}");
    }
    let Err(refused) = Server::builder().config("[storage]\ndurabilty = \"full\"\n").try_start() else {
        panic!("it started with an unknown key")
    };
    assert!(matches!(refused.status.code(), Some(1 | 2)), "{refused:?}");
    assert!(refused.stderr.contains("durabilty") && refused.stderr.contains("durability"), "{refused:?}");
    for toml in ["[storage]\ndurability = \"some\"\n", "[storage\n", "[storage]\nkeep_versions = -1\n"] {
        let Err(refused) = Server::builder().config(toml).try_start() else {
            panic!("it started with {toml:?}")
        };
        assert!(matches!(refused.status.code(), Some(1 | 2)), "{refused:?}");
        assert!(!refused.stderr.trim().is_empty());
    }
}

#[test]
fn a_damaged_database_takes_out_its_slot_and_no_other() {
    let mut server = Server::start();
    let paths: Vec<String> = (0..6).map(|number| format!("damage/{number}")).collect();
    let data = bytes(81, 100_000);
    for path in &paths {
        server.put(path, &data).expect_status(201);
    }
    assert!(server.terminate().success());
    let hurt = &paths[0];
    let slot = slot_dir(server.data(), hurt);
    assert!(
        paths[1..].iter().all(|path| slot_of(path) != slot_of(hurt)),
        "the paths of this test have slots of their own"
    );
    let before = chunk_files(server.data());
    let file = slot.join("meta.sqlite3");
    {
        // Everything into the file itself, so that the damage is the file's alone.
        let connection = Connection::open(&file).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    let good = std::fs::read(&file).unwrap();
    let half = &good[..good.len() / 2];
    let put_in_place = |content: &[u8]| {
        for log in ["meta.sqlite3-wal", "meta.sqlite3-shm"] {
            let _ = std::fs::remove_file(slot.join(log));
        }
        std::fs::write(&file, content).unwrap();
    };
    for (what, content) in [("rubbish", bytes(82, good.len())), ("half of it", half.to_vec())] {
        put_in_place(&content);
        server.reconfigure(|builder| builder.wait_ready(false));
        server.start_again();
        wait_until(Duration::from_secs(10), "the other slots to be served", || {
            paths[1..].iter().all(|path| server.head(path).status == 200)
        });
        for method in ["GET", "PUT", "DELETE"] {
            let answer = server.request(method, &support::object(hurt), &[], b"");
            let got = (answer.status, error_code(&answer));
            assert_eq!((got.0, got.1.as_str()), (503, "SlotUnavailable"), "{method}, {what}");
            let retry = answer.header("retry-after").unwrap_or_else(|| panic!("no Retry-After: {answer:?}"));
            assert!(retry.parse::<u64>().is_ok(), "{retry}");
        }
        assert_eq!(server.head(hurt).status, 503, "{what}");
        for path in &paths[1..] {
            assert!(server.get(path).expect_status(200).body == data, "{path}, {what}");
            server.put(path, b"newer").expect_status(201);
            server.put(path, &data).expect_status(201);
        }
        let ready = server.admin_get("/readyz");
        let number = slot_of(hurt).to_string();
        let text = ready.text();
        let named = text.split(|letter: char| !letter.is_ascii_digit()).any(|word| word == number);
        assert!(named, "slot {number} is not named by /readyz: {} {text}", ready.status);
        let old: Vec<PathBuf> =
            before.iter().map(|(_, file)| file.clone()).filter(|file| file.starts_with(&slot)).collect();
        assert!(old.iter().all(|file| file.exists()), "the chunks of a slot that cannot be read were swept");
        server.kill9();
    }
    put_in_place(&good);
    server.reconfigure(|builder| builder.wait_ready(true));
    server.start_again();
    assert!(server.get(hurt).expect_status(200).body == data, "a database put back serves again");
}

/// A server whose stderr is `stderr`; whoever gets it kills it.
fn serve_with_stderr(data: &Path, stderr: impl Into<Stdio>) -> (Child, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_amberblob"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]).arg(data);
    command.env("AMBERBLOB_LOG", "amberblob=debug");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let mut child = process::spawn(command).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let public = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("public=http://"));
    let public = public.unwrap_or_else(|| panic!("it does not say where it serves: {line:?}"));
    (child, public.parse().unwrap())
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let home = tempfile::tempdir().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let kinds = [("a full disk", Stdio::from(full)), ("a closed pipe", Stdio::from(closed))];
    for (number, (what, stderr)) in kinds.into_iter().enumerate() {
        let (mut child, public) = serve_with_stderr(&home.path().join(number.to_string()), stderr);
        let data = bytes(55, 100_000);
        // Refused, malformed and good requests: each is logged.
        for _ in 0..3 {
            let link = || support::Connection::open(public);
            assert_eq!(link().answer_to(b"rubbish\r\n\r\n").status, 400, "{what}");
            let put = Request::new("PUT", "/objects/log").body(&data);
            wait_until(Duration::from_secs(10), "a PUT to succeed", || {
                link().exchange(&put).unwrap().status == 201
            });
            let got = link().exchange(&Request::new("GET", "/objects/log")).unwrap().expect_status(200);
            assert!(got.body == data, "{what}");
            assert_eq!(link().exchange(&Request::new("GET", "/objects/none")).unwrap().status, 404, "{what}");
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended with {what} as stderr");
        process::signal(child.id(), libc::SIGTERM);
        let status = poll_until(Duration::from_secs(30), "the end", || child.try_wait().unwrap());
        assert!(status.success(), "{what}: {status}");
    }
}

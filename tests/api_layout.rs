//! What lies on disk, for whoever looks there with `sqlite3` and `sha256sum`; and which directories are refused, and why.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::pedantic,
    reason = "a failure here is a failed test"
)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::{Connection, OpenFlags};
use support::{
    CHUNK, Refused, SMALL_CHUNK, Server, assert_error, bytes, chunk_files, error_code, plain_files,
    sha256_hex, slot_of,
};

fn slot_dir(disk: &Path, path: &str) -> PathBuf {
    disk.join("slots").join(slot_of(path).to_string())
}

fn open(slot: &Path) -> Connection {
    let file = slot.join("meta.sqlite3");
    Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The columns of `table` as (name, (type, not null, primary key)).
fn columns(connection: &Connection, table: &str) -> BTreeMap<String, (String, bool, bool)> {
    let mut statement = connection.prepare(&format!("PRAGMA table_info({table})")).unwrap();
    let rows = statement.query_map([], |row| {
        let not_null: i64 = row.get("notnull")?;
        let key: i64 = row.get("pk")?;
        Ok((row.get("name")?, (row.get("type")?, not_null != 0, key != 0)))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// The column lists of the UNIQUE constraints and indexes of `table`.
fn unique_columns(connection: &Connection, table: &str) -> Vec<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA index_list({table})")).unwrap();
    let names: Vec<String> = statement
        .query_map([], |row| Ok((row.get::<_, String>("name")?, row.get::<_, i64>("unique")?)))
        .unwrap()
        .map(Result::unwrap)
        .filter_map(|(name, unique)| (unique != 0).then_some(name))
        .collect();
    let columns = |name: &String| {
        let mut statement = connection.prepare(&format!("PRAGMA index_info('{name}')")).unwrap();
        statement.query_map([], |row| row.get("name")).unwrap().map(Result::unwrap).collect()
    };
    names.iter().map(columns).collect()
}

/// A row of `blobs`.
#[derive(Debug)]
struct Row {
    version: i64,
    blob_id: String,
    size: i64,
    chunks: String,
    created_at: String,
    tombstoned_at: Option<String>,
}

fn rows(slot: &Path, path: &str) -> Vec<Row> {
    let connection = open(slot);
    let sql = "SELECT version, blob_id, size, chunks, created_at, tombstoned_at FROM blobs WHERE path = ?1 ORDER BY version";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([path], |row| {
        Ok(Row {
            version: row.get(0)?,
            blob_id: row.get(1)?,
            size: row.get(2)?,
            chunks: row.get(3)?,
            created_at: row.get(4)?,
            tombstoned_at: row.get(5)?,
        })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_tables_have_the_columns_that_were_promised() {
    let server = Server::start();
    server.put("schema", b"x").expect_status(201);
    let connection = open(&slot_dir(server.data(), "schema"));
    let integer = |not_null| ("INTEGER".to_owned(), not_null, false);
    let text = |not_null| ("TEXT".to_owned(), not_null, false);
    let promised = [
        (
            "blobs",
            vec![
                ("path", text(true)),
                ("version", integer(true)),
                ("blob_id", text(true)),
                ("size", integer(true)),
                ("chunks", text(true)),
                ("created_at", text(true)),
                ("tombstoned_at", text(false)),
            ],
            ["path", "version"],
        ),
        (
            "blob_chunk_archives",
            vec![
                ("blob_id", text(true)),
                ("chunk_id", text(true)),
                ("length", integer(true)),
                ("archived_at", text(true)),
                ("target_path", text(true)),
                ("target_version", integer(false)),
                ("target_range_start", integer(true)),
                ("target_range_end", integer(true)),
            ],
            ["blob_id", "chunk_id"],
        ),
    ];
    for (table, wanted, unique) in promised {
        let found = columns(&connection, table);
        for (name, column) in wanted {
            assert_eq!(found.get(name), Some(&column), "{table}.{name}");
        }
        let key = found.get("pk").unwrap_or_else(|| panic!("{table} has no pk"));
        assert_eq!((key.0.as_str(), key.2), ("INTEGER", true), "{table}.pk");
        assert!(
            unique_columns(&connection, table).contains(&unique.map(str::to_owned).into()),
            "UNIQUE of {table}"
        );
        let sql: String = connection
            .query_row("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1", [table], |row| {
                row.get(0)
            })
            .unwrap();
        assert!(sql.to_uppercase().contains("AUTOINCREMENT"), "{sql}");
    }
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn a_row_says_what_the_answer_said() {
    let server = Server::start();
    let path = "rows/ä b";
    let data = bytes(80, CHUNK + 5);
    let first = server.put(path, &data).expect_status(201);
    let second = server.put_at(path, 9, b"small").expect_status(201);
    server.delete(path).expect_status(200);
    let rows = rows(&slot_dir(server.data(), path), path);
    assert_eq!(rows.len(), 2);
    let chunks = |data: &[u8]| -> serde_json::Value {
        data.chunks(CHUNK)
            .map(|chunk| serde_json::json!({"id": sha256_hex(chunk), "len": chunk.len()}))
            .collect()
    };
    for (row, put, data, tombstoned) in
        [(&rows[0], &first, &data[..], false), (&rows[1], &second, b"small", true)]
    {
        assert_eq!(row.version, put.json_u64("version") as i64);
        assert_eq!(row.blob_id, put.json_str("blob_id"));
        assert!(ulid::Ulid::from_string(&row.blob_id).is_ok(), "{row:?}");
        assert_eq!(row.size, data.len() as i64);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&row.chunks).unwrap(), chunks(data));
        assert!(!row.created_at.is_empty());
        assert_eq!(row.tombstoned_at.is_some(), tombstoned, "{row:?}");
    }
    assert!(rows[0].blob_id < rows[1].blob_id, "ULIDs sort by time");
}

#[test]
fn every_chunk_file_is_named_by_its_bytes_and_lies_in_its_slot() {
    let server = Server::builder().disks(2).start();
    let mut sizes = vec![1, 4096, SMALL_CHUNK, SMALL_CHUNK + 1, 200_000, 1_000_001, CHUNK + 70_000];
    sizes.extend((0..12).map(|step| SMALL_CHUNK + 1 + step * 1013));
    let mut expected = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        let path = format!("files/{number}/größe");
        let data = bytes(number as u64, size);
        let blob_id = server.put(&path, &data).expect_status(201).json_str("blob_id");
        let disk = server.disks().iter().find(|disk| slot_dir(disk, &path).join("meta.sqlite3").exists());
        let slot = slot_dir(disk.unwrap_or_else(|| panic!("no slot {} for {path}", slot_of(&path))), &path);
        assert_eq!(rows(&slot, &path).len(), 1, "{path} is in slot {}", slot.display());
        let chunks = slot.join("blobs").join(&blob_id).join("chunks");
        for chunk in data.chunks(CHUNK).filter(|chunk| chunk.len() > SMALL_CHUNK) {
            let file = chunks.join(sha256_hex(chunk));
            let found = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(found == chunk, "{} holds something else than the chunk", file.display());
            expected.push(file);
        }
    }
    let mut found: Vec<(String, PathBuf)> =
        server.disks().iter().flat_map(|disk| chunk_files(disk)).collect();
    for (name, file) in &found {
        assert_eq!(name, &sha256_hex(&std::fs::read(file).unwrap()), "{}", file.display());
    }
    found.retain(|(_, file)| file.metadata().unwrap().len() > SMALL_CHUNK as u64);
    let mut found: Vec<PathBuf> = found.into_iter().map(|(_, file)| file).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_path_lies_in_the_slot_of_its_hash_and_in_no_other() {
    let server = Server::start();
    let paths: Vec<String> = (0..60).map(|number| format!("slot/{number}/日本")).collect();
    for path in &paths {
        server.put(path, b"x").expect_status(201);
    }
    let mut found = Vec::new();
    for slot in std::fs::read_dir(server.data().join("slots")).unwrap().map(Result::unwrap) {
        let number: u64 = slot.file_name().to_string_lossy().parse().expect("a slot is named by its number");
        assert!(number < support::SLOTS);
        if !slot.path().join("meta.sqlite3").exists() {
            continue;
        }
        let connection = open(&slot.path());
        let mut statement = connection.prepare("SELECT path FROM blobs").unwrap();
        for path in statement.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap) {
            assert_eq!(slot_of(&path), number, "{path}");
            found.push(path);
        }
    }
    found.sort();
    let mut paths = paths;
    paths.sort();
    assert_eq!(found, paths);
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    let mut server = Server::builder().disks(2).start();
    let data: Vec<Vec<u8>> =
        [0, 1, 5000, SMALL_CHUNK + 1, 3 << 20].iter().map(|&len| bytes(len as u64, len)).collect();
    let put = |server: &Server, number: usize| {
        server.put(&format!("kept/{number}"), &data[number]).expect_status(201)
    };
    let tags: Vec<String> =
        (0..data.len()).map(|number| put(&server, number).header("etag").unwrap().to_owned()).collect();
    server.put("kept/gone", b"x").expect_status(201);
    server.delete("kept/gone").expect_status(200);
    server.kill9();
    server.start_again();
    for (number, data) in data.iter().enumerate() {
        let got = server.get(&format!("kept/{number}")).expect_status(200);
        assert!(got.body == *data, "kept/{number}");
        assert_eq!(got.header("etag"), Some(tags[number].as_str()));
        assert_eq!(put(&server, number).json_u64("version"), 2);
    }
    assert_error(&server.get("kept/gone"), 404, "BlobNotFound");
    assert_eq!(server.put("kept/gone", b"y").expect_status(201).json_u64("version"), 2);
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
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = support::process::spawn(command).ok()?;
    let pid = child.id();
    let ended = std::thread::scope(|scope| {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            if wait.recv_timeout(std::time::Duration::from_secs(20))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                support::process::signal(pid, libc::SIGKILL);
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
    let log = slot.join("meta.sqlite3-wal");
    let good_log = std::fs::read(&log).ok();
    let remove_logs = || {
        let _ = std::fs::remove_file(&log);
        let _ = std::fs::remove_file(slot.join("meta.sqlite3-shm"));
    };
    let file = slot.join("meta.sqlite3");
    let good = std::fs::read(&file).unwrap();
    let half = &good[..good.len() / 2];
    for (what, content) in [("rubbish", bytes(82, good.len())), ("half of it", half.to_vec())] {
        remove_logs();
        std::fs::write(&file, &content).unwrap();
        server.reconfigure(|builder| builder.wait_ready(false));
        server.start_again();
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
    remove_logs();
    if let Some(good_log) = good_log {
        std::fs::write(&log, good_log).unwrap();
    }
    std::fs::write(&file, &good).unwrap();
    server.reconfigure(|builder| builder.wait_ready(true));
    server.start_again();
    assert!(server.get(hurt).expect_status(200).body == data, "a database put back serves again");
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

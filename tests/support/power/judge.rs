//! What nodes owe their clients after a power cut, asked of them over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::clients::request;
use super::device::Rig;
use super::ledger::{Ask, Blob, Entry, Known, Ledger, Row, Told};
use super::load::understand;
use super::support::{Connection, Random, Request, Response, encode_path, object};

/// What is in doubt is settled within this.
const SETTLED: Duration = Duration::from_secs(30);
/// How long to rest before asking again.
const PAUSE: Duration = Duration::from_millis(20);
/// Versions that are read back beside those that were answered last.
const SAMPLE: u64 = 6;
/// Paths that are written to in the end.
const WRITTEN: usize = 2;
/// Above every seed of a recording.
const SEEDS: u64 = 1 << 60;

/// Nothing acknowledged is lost or changed, nothing is half there, what was deleted stays deleted, and no number is given twice.
///
/// Gives back what it wrote itself, and what it was the first to be told of.
pub fn judge(rig: &Rig, publics: &[SocketAddr], entries: &[Entry], seed: u64) -> Result<Vec<Entry>, String> {
    let mut random = Random::new(seed);
    let mut asker = Asker { publics, link: None, random: Random::new(random.next_u64()) };
    let mut by_path: BTreeMap<&str, Vec<Entry>> = BTreeMap::new();
    for entry in entries {
        by_path.entry(&entry.path).or_default().push(entry.clone());
    }
    let mut ledger = Ledger::default();
    for (path, journal) in &by_path {
        asker.settle(path)?;
        let rows = asker.rows(path)?;
        ledger.settle(path, journal, &rows, &mut |path, version| asker.read(path, version))?;
    }
    let live: Vec<(&str, u64, &Known)> = ledger.live().collect();
    let last = entries.iter().filter(|entry| entry.answered < u64::MAX).max_by_key(|entry| entry.answered);
    let sampled: Vec<u64> = (0..SAMPLE).map(|_| random.below(live.len().max(1) as u64)).collect();
    for (number, (path, version, known)) in (0..).zip(&live) {
        let just = last.is_some_and(|entry| entry.path == *path);
        if just || sampled.contains(&number) {
            let shown = |wrong: String| format!("{wrong}; what was asked: {:#?}", by_path.get(path));
            asker.verify(path, *version, known).map_err(shown)?;
        }
    }
    if publics.len() == 1 {
        asker.verify_listing(&ledger)?;
    }
    let paths: Vec<&str> = by_path.keys().copied().collect();
    // What nobody had been told of, and was there all the same, stays as well: now it was read.
    let told: BTreeSet<(&str, u64)> = entries
        .iter()
        .filter_map(|entry| match entry.told {
            Told::Stored { version, .. } => Some((entry.path.as_str(), version)),
            _ => None,
        })
        .collect();
    let found = live.iter().filter(|(path, version, _)| !told.contains(&(*path, *version)));
    let mut seen: Vec<Entry> = found
        .map(|(path, version, Known { blob_id, blob, .. })| Entry {
            path: (*path).to_owned(),
            ask: Ask::Get(Some(*version)),
            asked: rig.moment(),
            told: Told::Read { version: *version, blob_id: blob_id.clone(), blob: *blob },
            answered: rig.moment(),
        })
        .collect();
    for _ in 0..WRITTEN.min(paths.len()) {
        let path = paths[random.below(paths.len() as u64) as usize];
        let blob = Blob { seed: SEEDS + random.below(SEEDS), len: [1000, 100_000][random.below(2) as usize] };
        seen.push(asker.write(rig, path, &ledger, blob)?);
    }
    Ok(seen)
}

struct Asker<'a> {
    publics: &'a [SocketAddr],
    link: Option<Connection>,
    random: Random,
}

impl Asker<'_> {
    /// An answer that is not 503; a cluster may need time for what is in doubt, a single node may not.
    fn ask(&mut self, request: &Request) -> Result<Response, String> {
        let started = Instant::now();
        loop {
            let public = self.publics[self.random.below(self.publics.len() as u64) as usize];
            let answer = match self.link.take() {
                Some(link) => Ok(link),
                None => Connection::try_open(public),
            }
            .and_then(|mut link| {
                let answer = link.exchange(request)?;
                if !answer.says_close() && self.publics.len() == 1 {
                    self.link = Some(link);
                }
                Ok(answer)
            });
            let answer = answer.map_err(|error| format!("{request:?}: {error}"))?;
            let settling = answer.status == 503 && self.publics.len() > 1;
            if !settling || started.elapsed() > SETTLED {
                return Ok(answer);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Asks every node of a cluster: each sees what is on its own disks, and a tombstone that was on one of them alone when the
    /// power went is a delete that takes place now.
    fn settle(&mut self, path: &str) -> Result<(), String> {
        if self.publics.len() > 1 {
            let all = self.publics;
            for number in 0..all.len() {
                self.publics = &all[number..=number];
                let started = Instant::now();
                while self.ask(&Request::new("GET", &format!("{}?versions", object(path))))?.status == 503
                    && started.elapsed() < SETTLED
                {
                    std::thread::sleep(PAUSE);
                }
                self.link = None;
            }
            self.publics = all;
        }
        Ok(())
    }

    /// All versions of a path.
    fn rows(&mut self, path: &str) -> Result<Vec<Row>, String> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let target = format!("{}?versions&limit=500{cursor}", object(path));
            let answer = self.ask(&Request::new("GET", &target))?;
            if answer.status == 404 && rows.is_empty() {
                return Ok(rows);
            }
            if answer.status != 200 {
                return Err(format!("GET {target}: {} {}", answer.status, answer.text()));
            }
            let page = answer.json();
            for row in page["versions"].as_array().expect("a list of versions") {
                rows.push(Row {
                    version: row["version"].as_u64().expect("a version"),
                    blob_id: row["blob_id"].as_str().expect("a blob_id").to_owned(),
                    size: row["size"].as_u64().expect("a size"),
                    tombstoned: row["tombstoned_at"].is_string(),
                });
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={}", encode_path(next)),
                None => return Ok(rows),
            }
        }
    }

    fn read(&mut self, path: &str, version: u64) -> Result<(String, Blob), String> {
        let ask = Ask::Get(Some(version));
        let answer = self.ask(&request(path, &ask))?;
        match understand(&ask, &answer).map_err(|wrong| format!("{path} version {version}: {wrong}"))? {
            Told::Read { version: told, blob_id, blob } if told == version => Ok((blob_id, blob)),
            told => Err(format!("{path} version {version}: {told:?}")),
        }
    }

    fn verify(&mut self, path: &str, version: u64, known: &Known) -> Result<(), String> {
        let (blob_id, blob) = self.read(path, version)?;
        match blob_id == known.blob_id && blob == known.blob {
            true => Ok(()),
            false => Err(format!("{path} version {version} was {known:?} and is {blob_id} with {blob:?}")),
        }
    }

    /// The listing shows the newest version of each path, whatever happened to its index.
    fn verify_listing(&mut self, ledger: &Ledger) -> Result<(), String> {
        let answer = self.ask(&Request::new("GET", "/objects?limit=10000&include_tombstoned=true"))?;
        let page = answer.json();
        let mut listed = BTreeMap::new();
        for row in page["objects"].as_array().ok_or("no list of objects")? {
            let text = |key: &str| row[key].as_str().expect(key).to_owned();
            let number = |key: &str| row[key].as_u64().expect(key);
            let found = Row {
                version: number("version"),
                blob_id: text("blob_id"),
                size: number("size"),
                tombstoned: row["tombstoned_at"].is_string(),
            };
            listed.insert(text("path"), found);
        }
        for path in ledger.paths().chain(listed.keys().map(String::as_str)) {
            let (told, known) = (listed.get(path), ledger.newest(path));
            if told != known.as_ref() {
                return Err(format!("the listing has {told:?} for {path} instead of {known:?}"));
            }
        }
        Ok(())
    }

    /// A new version has a number above all that there are, and can be read.
    fn write(&mut self, rig: &Rig, path: &str, ledger: &Ledger, blob: Blob) -> Result<Entry, String> {
        let ask = Ask::Put { version: None, tag: None, if_absent: false, blob };
        let asked = rig.moment();
        let answer = self.ask(&request(path, &ask))?;
        let answered = rig.moment();
        let told = understand(&ask, &answer);
        let told = told.map_err(|wrong| format!("PUT {path}: {wrong}: {}", answer.text()))?;
        let Told::Stored { version, blob_id, .. } = told.clone() else {
            return Err(format!("PUT {path}: {told:?}"));
        };
        let highest = ledger.newest(path).map_or(0, |row| row.version);
        if version <= highest {
            return Err(format!("{path}: version {version} was given after {highest}"));
        }
        self.verify(path, version, &Known { blob_id, blob, deleted: false })?;
        Ok(Entry { path: path.to_owned(), ask, asked, told, answered })
    }
}

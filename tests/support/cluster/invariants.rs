//! What holds of every history, whatever the order of its operations: found without a search, and named exactly.

use std::collections::BTreeMap;

use super::history::{Ask, Moment, Op, Told, Which};
use super::problem::Listed;

/// Everything that is wrong with the history of one path; `listed` are its versions at the end.
pub fn check(ops: &[Op], listed: &[Listed]) -> Vec<String> {
    let mut wrong = Vec::new();
    names(ops, listed, &mut wrong);
    contents(ops, &mut wrong);
    never_back(ops, &mut wrong);
    stays(ops, &mut wrong);
    kept(ops, listed, &mut wrong);
    wrong
}

/// A version has one blob_id for ever, a blob_id is of one version, and no number is given twice.
fn names(ops: &[Op], listed: &[Listed], wrong: &mut Vec<String>) {
    let mut by_version: BTreeMap<u64, (String, String)> = BTreeMap::new();
    let mut by_id: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let shown = ops.iter().filter_map(|op| {
        let (version, blob_id, _) = op.shows()?;
        Some((version, blob_id.to_owned(), op.to_string()))
    });
    let rows = listed.iter().map(|row| (row.version, row.blob_id.clone(), format!("{row:?}")));
    for (version, blob_id, how) in shown.chain(rows) {
        let (known, first) = by_version.entry(version).or_insert((blob_id.clone(), how.clone()));
        if *known != blob_id {
            wrong.push(format!("version {version} has two blob_ids:\n  {first}\n  {how}"));
        }
        let (known, first) = by_id.entry(blob_id.clone()).or_insert((version, how.clone()));
        if *known != version {
            wrong.push(format!("blob_id {blob_id} is two versions:\n  {first}\n  {how}"));
        }
    }
    let mut given: BTreeMap<u64, &Op> = BTreeMap::new();
    for op in ops {
        let (Ask::Put { version: None, .. }, Told::Stored { version, .. }) = (&op.ask, &op.told) else {
            continue;
        };
        if let Some(first) = given.insert(*version, op) {
            wrong.push(format!("version {version} was given twice:\n  {first}\n  {op}"));
        }
    }
}

/// Whatever is read is what one PUT wrote, under the number it was told, and one that was not refused.
fn contents(ops: &[Op], wrong: &mut Vec<String>) {
    for op in ops {
        let Told::Read { version, blob_id, size, seed } = &op.told else { continue };
        let wrote = |put: &&Op| match (&put.ask, &put.told) {
            (Ask::Put { version: asked, blob, .. }, told) => {
                blob.len as u64 == *size
                    && seed.is_none_or(|seed| seed == blob.seed)
                    && asked.is_none_or(|asked| asked == *version)
                    && match told {
                        Told::Stored { version: stored, blob_id: id, .. } => {
                            stored == version && id == blob_id
                        }
                        Told::Unknown => true,
                        _ => false,
                    }
            }
            _ => false,
        };
        if !ops.iter().any(|put| put.asked <= op.answered && wrote(&put)) {
            wrong.push(format!("nobody had written what was read:\n  {op}"));
        }
    }
}

/// What is newest never goes back: neither behind an acknowledged PUT nor behind an earlier read.
fn never_back(ops: &[Op], wrong: &mut Vec<String>) {
    let mut ended: Vec<(Moment, u64, &Op)> =
        ops.iter().filter_map(|op| Some((op.answered, op.shows()?.0, op))).collect();
    ended.sort_by_key(|(answered, ..)| *answered);
    let mut reads: Vec<&Op> =
        ops.iter().filter(|op| matches!(op.ask, Ask::Get { version: None, .. })).collect();
    reads.sort_by_key(|op| op.asked);
    let (mut next, mut highest): (usize, Option<(u64, &Op)>) = (0, None);
    for op in reads {
        while let Some((_, version, shown)) = ended.get(next).filter(|(answered, ..)| *answered < op.asked) {
            if highest.is_none_or(|(known, _)| known < *version) {
                highest = Some((*version, shown));
            }
            next += 1;
        }
        if let (Told::Read { version, .. }, Some((known, before))) = (&op.told, highest)
            && *version < known
        {
            wrong.push(format!("the newest went back to version {version}:\n  {before}\n  {op}"));
        }
    }
}

/// Deleted stays deleted; and what was there is only gone if somebody deleted it.
fn stays(ops: &[Op], wrong: &mut Vec<String>) {
    // By version: when it was first known to be there and to be dead, and who said so.
    let mut there: BTreeMap<u64, &Op> = BTreeMap::new();
    let mut dead: BTreeMap<u64, &Op> = BTreeMap::new();
    let mut ended: Vec<&Op> = ops.iter().filter(|op| op.told != Told::Unknown).collect();
    ended.sort_by_key(|op| op.answered);
    for op in &ended {
        if let Some((version, ..)) = op.shows() {
            there.entry(version).or_insert(op);
        }
        if let Told::Deleted { version } = op.told {
            dead.entry(version).or_insert(op);
        }
    }
    for op in &ended {
        let missed = match (&op.ask, &op.told) {
            (Ask::Get { version: Some(version), .. }, Told::Refused(404)) => *version,
            _ => continue,
        };
        let Some(known) = there.get(&missed).filter(|known| known.before(op)) else { continue };
        let first = dead.entry(missed).or_insert(op);
        if op.answered < first.answered {
            *first = op;
        }
        let deletes = |other: &&Op| match other.ask {
            Ask::Delete { which: Which::Version(version), .. } => version == missed,
            Ask::Delete { .. } => true,
            _ => false,
        } && other.asked <= op.answered
            && !matches!(other.told, Told::Refused(_));
        if !ops.iter().any(|other| deletes(&other)) {
            wrong.push(format!("version {missed} is gone, and nobody deleted it:\n  {known}\n  {op}"));
        }
    }
    for op in ended {
        if let Told::Read { version, .. } = op.told
            && let Some(first) = dead.get(&version)
            && first.before(op)
        {
            wrong.push(format!("version {version} came back:\n  {first}\n  {op}"));
        }
    }
}

/// Everything acknowledged is listed at the end.
fn kept(ops: &[Op], listed: &[Listed], wrong: &mut Vec<String>) {
    if listed.is_empty() {
        return;
    }
    let rows: BTreeMap<u64, &Listed> = listed.iter().map(|row| (row.version, row)).collect();
    for op in ops {
        match (op.shows(), &op.told) {
            (Some((version, ..)), _) if !rows.contains_key(&version) => {
                wrong.push(format!("version {version} is lost:\n  {op}"));
            }
            (_, Told::Deleted { version }) if rows.get(version).is_none_or(|row| !row.tombstoned) => {
                wrong.push(format!("version {version} is not tombstoned in the end:\n  {op}"));
            }
            _ => {}
        }
    }
}

//! What a replica answers about chunks in the archive (RFC 0005): which rows it holds, and which objects it will never name.
//!
//! There is no vote. Rows of a chunk are ordered, and a replica holds the greatest that it has heard of, unless it has condemned
//! its object; what it has condemned no row of a live version names, here or later.

use super::participant::{Context, Rows};
use crate::wire::peer::archive::{ArchiveRow, Heard, Reply, Request};

pub(super) fn answer<R: Rows>(rows: &mut R, context: &Context, request: &Request) -> Result<Reply, R::Error> {
    let counts = !context.recovering;
    match request {
        Request::Rows { path, rows: told } => {
            let heard = told.iter().map(|row| hear(rows, path, row)).collect::<Result<_, _>>()?;
            Ok(Reply::Rows { heard, counts })
        }
        Request::Condemn { targets, .. } => {
            let condemned = targets.iter().map(|target| condemn(rows, target)).collect::<Result<_, _>>()?;
            Ok(Reply::Condemned { condemned, counts })
        }
    }
}

/// Takes a row over if it succeeds what is held.
fn hear<R: Rows>(rows: &mut R, path: &str, row: &ArchiveRow) -> Result<Heard, R::Error> {
    match rows.committed(row.blob)? {
        Some(held) if held.row.path == path && held.row.version == row.version => {
            if held.tombstoned_at.is_some() {
                return Ok(Heard::Gone);
            }
        }
        _ => return Ok(Heard::Lacking),
    }
    let mine = rows.archived(row.blob, row.chunk)?;
    if let Some(mine) = mine.filter(|mine| !row.succeeds(mine)) {
        return Ok(Heard::Row(mine));
    }
    #[cfg(test)]
    let forgets = super::mistake::is_planted(super::mistake::Mistake::CondemnedKeyNamedAgain);
    #[cfg(not(test))]
    let forgets = false;
    if !forgets && rows.is_condemned(&row.target)? {
        return Ok(Heard::Condemned);
    }
    rows.archive(path, row)?;
    Ok(Heard::Row(row.clone()))
}

/// Condemns an object, unless a row of a live version names it.
fn condemn<R: Rows>(rows: &mut R, target: &str) -> Result<bool, R::Error> {
    let naming = rows.naming(target)?;
    for blob in &naming {
        if rows.committed(*blob)?.is_some_and(|held| held.tombstoned_at.is_none()) {
            return Ok(false);
        }
    }
    for blob in naming {
        rows.unname(blob, target)?;
    }
    rows.condemn(target)?;
    Ok(true)
}

//! The inventory: what rows say of the store, compared with what the store says that it has, both ways. It reports, and changes
//! nothing.
//!
//! Slot by slot, and in a cluster those that this node is a replica of: first its rows and leftovers, then the objects whose keys
//! are the slot's. What differs is asked about once more, since both go on meanwhile. Lengths are compared; whether an object has
//! the bytes that it should is what its reads and the scrub of chunks that came back say.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::Archiver;
use crate::archive::failure::{Failure, Kind};
use crate::archive::location::Location;
use crate::archive::target::Target;
use crate::base::error::{Code, Error, Result};
use crate::base::slot::Slot;
use crate::limits::{
    ARCHIVE_FAILED_SHOWN, ARCHIVE_TRIES, INVENTORY_PAGE, INVENTORY_ROWS, INVENTORY_YOUNG, LEFTOVERS_PAGE,
};
use crate::meta::archives::Named;
use crate::meta::slots::State;

/// Some of what was found, and how much there is of it.
#[derive(Default)]
struct Found {
    count: u64,
    first: Vec<Value>,
}

impl Found {
    fn note(&mut self, what: Value) {
        self.count += 1;
        if self.first.len() < ARCHIVE_FAILED_SHOWN {
            self.first.push(what);
        }
    }

    fn describe(&self) -> Value {
        json!({ "count": self.count, "first": self.first })
    }
}

/// What an inventory has found.
#[derive(Default)]
pub(super) struct Inventory {
    slots: u64,
    objects: u64,
    bytes: u64,
    named: u64,
    leftovers: u64,
    /// Stored a short while ago: a row may be about to name them.
    young: u64,
    /// That rows name in other buckets, or below other prefixes.
    elsewhere: u64,
    unnamed: Found,
    missing: Found,
    short: Found,
    unchecked: Found,
}

impl Inventory {
    /// Whether rows and objects agree, as far as that was found out.
    pub(super) fn is_good(&self) -> bool {
        let bad = [&self.unnamed, &self.missing, &self.short, &self.unchecked];
        bad.iter().all(|found| found.count == 0)
    }

    /// As an operator is told.
    pub(super) fn describe(&self) -> Value {
        json!({
            "slots": self.slots,
            "objects": self.objects,
            "bytes": self.bytes,
            "named": self.named,
            "leftovers": self.leftovers,
            "young": self.young,
            "elsewhere": self.elsewhere,
            "unnamed": self.unnamed.describe(),
            "missing": self.missing.describe(),
            "short": self.short.describe(),
            "unchecked": self.unchecked.describe(),
        })
    }
}

/// What a slot has to do with an object.
enum Claim {
    /// Rows name it.
    Named(Named),
    /// It is to be deleted.
    Left,
}

impl Archiver {
    /// Compares all slots of this node.
    ///
    /// # Errors
    /// When the node stops. What cannot be compared stands in the inventory.
    pub(super) async fn take_inventory(&self) -> Result<Inventory> {
        let mut inventory = Inventory::default();
        for slot in Slot::all() {
            if self.node.is_stopping() {
                return Err(Error::new(Code::Internal, "the node stops: ask again when it is back"));
            }
            if self.node.cluster.as_ref().is_some_and(|cluster| !cluster.topology().is_mine(slot)) {
                continue;
            }
            let taken = match self.node.slots.state(slot) {
                State::Unchecked | State::Failed => Err("the slot is not in service: see /readyz".to_owned()),
                State::Unborn | State::Ready => self.take_slot(slot, &mut inventory).await,
            };
            match taken {
                Ok(()) => inventory.slots += 1,
                Err(why) => {
                    inventory.unchecked.note(json!({ "slot": slot.index(), "why": why }));
                    // With a store that cannot be used it would be the same for all.
                    if self.desk.health.failing().is_some() {
                        return Ok(inventory);
                    }
                }
            }
        }
        Ok(inventory)
    }

    async fn take_slot(&self, slot: Slot, inventory: &mut Inventory) -> std::result::Result<(), String> {
        let mut claims = self.claims(slot).await?;
        let here = Location::keys_of(&self.settings.prefix, slot);
        let mut from: Option<String> = None;
        loop {
            let list = async |target: Target| target.list(&here, from.as_deref()).await;
            self.store.pace().await;
            let listed = self.store.ask("list", &self.settings.bucket, ARCHIVE_TRIES, list).await;
            let listing = listed.map_err(|failure| failure.message)?;
            for object in listing.objects {
                inventory.objects += 1;
                inventory.bytes += object.size;
                let at = Location { bucket: self.settings.bucket.clone(), key: object.key };
                let target = at.to_string();
                match claims.remove(&target) {
                    Some(Claim::Named(row)) => {
                        inventory.named += 1;
                        if object.size < row.end {
                            inventory.short.note(row.describe(&target));
                        }
                    }
                    Some(Claim::Left) => inventory.leftovers += 1,
                    None if is_young(object.stored, SystemTime::now()) => inventory.young += 1,
                    None if self.is_known(slot, &target).await? => inventory.named += 1,
                    None => inventory.unnamed.note(json!({ "object": target, "bytes": object.size })),
                }
            }
            from = listing.next;
            if from.is_none() {
                break;
            }
        }
        self.look_for_rest(slot, &here, claims, inventory).await
    }

    /// What the slot's database says of objects.
    async fn claims(&self, slot: Slot) -> std::result::Result<HashMap<String, Claim>, String> {
        let said = |error: Error| error.message.into_owned();
        let mut claims = HashMap::new();
        let mut after = String::new();
        loop {
            let page = self.node.readers.leftovers(slot, after, LEFTOVERS_PAGE).await.map_err(said)?;
            let whole = page.len() >= LEFTOVERS_PAGE;
            after = page.last().map(|left| left.target.clone()).unwrap_or_default();
            claims.extend(page.into_iter().map(|left| (left.target, Claim::Left)));
            if !whole {
                break;
            }
        }
        let mut next = Some(0);
        while let Some(after) = next {
            let (page, more) = self.node.readers.named(slot, after, INVENTORY_PAGE).await.map_err(said)?;
            for row in page {
                // Of a pack, the row that ends last.
                let ends = |claim: &Claim| matches!(claim, Claim::Named(known) if known.end >= row.end);
                if !claims.get(&row.target).is_some_and(ends) {
                    claims.insert(row.target.clone(), Claim::Named(row));
                }
            }
            if claims.len() > INVENTORY_ROWS {
                return Err(format!(
                    "it has more than {INVENTORY_ROWS} archived chunks: that is not made for"
                ));
            }
            next = more;
        }
        Ok(claims)
    }

    /// Whether a row names an object by now, or it is to be deleted.
    async fn is_known(&self, slot: Slot, target: &str) -> std::result::Result<bool, String> {
        let known = self.node.readers.knows_object(slot, target.to_owned()).await;
        known.map(|known| known.is_some()).map_err(|error| error.message.into_owned())
    }

    /// Rows whose objects were not listed: they are asked about one by one.
    async fn look_for_rest(
        &self,
        slot: Slot,
        here: &str,
        claims: HashMap<String, Claim>,
        inventory: &mut Inventory,
    ) -> std::result::Result<(), String> {
        let own = format!("s3://{}/{here}", self.settings.bucket);
        for (target, claim) in claims {
            let Claim::Named(row) = claim else { continue };
            inventory.elsewhere += u64::from(!target.starts_with(&own));
            let Ok(at) = target.parse::<Location>() else {
                inventory.missing.note(row.describe(&target));
                continue;
            };
            let stat = async |store: Target| store.stat(&at).await;
            self.store.pace().await;
            match self.store.ask("stat", &at.bucket, ARCHIVE_TRIES, stat).await {
                Ok(stat) if stat.size >= row.end => inventory.named += 1,
                Ok(_) => inventory.short.note(row.describe(&target)),
                Err(Failure { kind: Kind::Missing, .. }) => {
                    // Its version may be gone by now, or it may have another one.
                    let known = self.node.readers.knows_object(slot, target.clone()).await;
                    if known.map_err(|error| error.message.into_owned())? == Some(true) {
                        inventory.missing.note(row.describe(&target));
                    }
                }
                Err(failure) => return Err(failure.message),
            }
        }
        Ok(())
    }
}

impl Named {
    fn describe(&self, target: &str) -> Value {
        json!({
            "object": target,
            "path": self.path,
            "version": self.version,
            "chunk": self.chunk.to_string(),
            "dropped": self.dropped,
        })
    }
}

/// Whether an object was stored so short a while ago, by the store's clock, that nothing follows from nobody knowing it.
fn is_young(stored: i64, now: SystemTime) -> bool {
    let stored = SystemTime::UNIX_EPOCH + Duration::from_secs(stored.max(0).cast_unsigned());
    now.duration_since(stored).map_or(true, |age| age < INVENTORY_YOUNG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_just_now_or_by_a_clock_that_is_ahead_is_young() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ago = |age: u64| 1_000_000 - i64::try_from(age).unwrap();
        assert!(is_young(ago(0), now));
        assert!(is_young(ago(INVENTORY_YOUNG.as_secs() - 1), now));
        assert!(is_young(1_000_100, now));
        assert!(!is_young(ago(INVENTORY_YOUNG.as_secs()), now));
        assert!(!is_young(-5, now));
    }

    #[test]
    fn an_inventory_is_good_when_nothing_differs() {
        let mut inventory = Inventory { objects: 3, named: 2, young: 1, ..Inventory::default() };
        assert!(inventory.is_good());
        for number in 0..=ARCHIVE_FAILED_SHOWN {
            inventory.unnamed.note(json!({ "object": number }));
        }
        assert!(!inventory.is_good());
        let told = inventory.describe();
        assert_eq!(told["unnamed"]["count"], ARCHIVE_FAILED_SHOWN + 1);
        assert_eq!(told["unnamed"]["first"].as_array().unwrap().len(), ARCHIVE_FAILED_SHOWN);
    }
}

//! What a node makes of its own disks, on real ones.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::chunk::disk::{Usage, open_all};
use crate::meta::slots::State;

fn topology() -> Topology {
    Topology::new("c", vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], "a", 3, 2).unwrap()
}

struct Home {
    _dir: tempfile::TempDir,
    roots: Vec<PathBuf>,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let roots = (0..2).map(|number| dir.path().join(number.to_string())).collect();
        Self { _dir: dir, roots }
    }

    /// A start of the node.
    fn open(&self, topology: &Topology) -> Result<(Membership, Slots), String> {
        let disks = open_all(&self.roots, Usage { clustered: true, ..Usage::default() })?;
        let membership = Membership::open(topology, &disks)?;
        let slots = Slots::new(Slot::all().map(|slot| (slot.disk(2), PathBuf::new(), State::Unborn)));
        membership.mark(&slots);
        Ok((membership, slots))
    }

    fn form(&self) -> Membership {
        let (membership, slots) = self.open(&topology()).unwrap();
        let mine = membership.identities().iter().map(|identity| member(0, 0, *identity)).collect();
        membership.found(vec![mine, vec![member(1, 0, 8)], vec![member(2, 0, 9)]], &slots).unwrap();
        assert!(Slot::all().all(|slot| !slots.is_recovering(slot)), "it has promised nothing yet");
        membership
    }
}

fn member(node: u8, generation: u32, identity: u128) -> Member {
    Member { node: NodeId(node), generation, identity }
}

#[test]
fn a_node_that_starts_again_does_not_vote_before_another_one_has_confirmed_its_disks() {
    let home = Home::new();
    let list = home.form().roster.disks();
    let (membership, slots) = home.open(&topology()).unwrap();
    assert_eq!(membership.roster.disks(), list);
    assert!(Slot::all().all(|slot| slots.is_recovering(slot)));
    assert!(membership.disks(Standing::Lost).is_empty());
}

#[test]
fn a_replaced_disk_has_lost_its_slots_and_the_other_one_has_not() {
    let home = Home::new();
    drop(home.form());
    fs::remove_dir_all(&home.roots[0]).unwrap();
    let (membership, slots) = home.open(&topology()).unwrap();
    assert_eq!(membership.disks(Standing::Lost).len(), 1);
    let lost = membership.disks(Standing::Lost)[0];
    membership.confirmed.store(true, Ordering::Release);
    for slot in Slot::all() {
        assert_eq!(membership.may_vote(slot, &slots), slots.disk(slot) != lost);
    }
    assert!(home.roots[0].join(charter::FILE).exists(), "it has the record again");
}

#[test]
fn an_old_disk_beside_a_newer_record_gets_another_identity() {
    let home = Home::new();
    let old = home.form().identities();
    fs::create_dir_all(home.roots[1].join("slots/7")).unwrap();
    let aside = home.roots[1].with_extension("old");
    fs::rename(&home.roots[1], &aside).unwrap();
    let (membership, _) = home.open(&topology()).unwrap();
    let disk = membership.disks(Standing::Lost)[0];
    let new = membership.identities()[disk];
    assert_ne!(new, old[disk]);
    membership
        .change(|record| {
            record.members[0][disk] = member(0, 1, new);
            true
        })
        .unwrap();
    drop(membership);
    fs::remove_dir_all(&home.roots[1]).unwrap();
    fs::rename(&aside, &home.roots[1]).unwrap();
    let (membership, _) = home.open(&topology()).unwrap();
    assert_eq!(membership.disks(Standing::Lost), [disk]);
    let now = membership.identities()[disk];
    assert!(now != old[disk] && now != new, "what it signed before must not count again");
    drop(membership);
    assert_eq!(open_all(&home.roots, Usage::default()).unwrap()[disk].id(), ulid::Ulid::from(now));
}

#[test]
fn the_mark_of_a_disk_that_recovers_outlives_a_start() {
    let home = Home::new();
    let membership = home.form();
    membership
        .change(|record| {
            record.recovering[1] = true;
            true
        })
        .unwrap();
    drop(membership);
    let (membership, _) = home.open(&topology()).unwrap();
    assert_eq!(membership.disks(Standing::Lost), [1]);
}

#[test]
fn a_list_that_knows_another_disk_here_makes_it_recover() {
    let home = Home::new();
    let (membership, slots) = home.open(&topology()).unwrap();
    let mine = vec![member(0, 4, membership.identities()[0]), member(0, 2, 77)];
    membership.found(vec![mine, vec![member(1, 0, 8)], vec![member(2, 0, 9)]], &slots).unwrap();
    assert_eq!(membership.disks(Standing::Lost), [1]);
    for slot in Slot::all() {
        assert_eq!(slots.is_recovering(slot), slots.disk(slot) == 1);
    }
}

#[test]
fn what_a_cluster_was_formed_with_cannot_change() {
    let home = Home::new();
    drop(home.form());
    let names = |names: [&str; 3]| names.map(str::to_owned).to_vec();
    for (topology, part) in [
        (Topology::new("d", names(["a", "b", "c"]), "a", 3, 2), "cluster.name is 'd' in the config, but 'c'"),
        (Topology::new("c", names(["a", "b", "x"]), "a", 3, 2), "cluster.nodes is a, b, x"),
        (Topology::new("c", names(["a", "b", "c"]), "a", 2, 2), "cluster.replicas is 2"),
        (Topology::new("c", names(["a", "b", "c"]), "a", 3, 3), "cluster.write_quorum is 3"),
        (Topology::new("c", names(["a", "b", "c"]), "b", 3, 2), "belongs to node 'a'"),
    ] {
        let error = home.open(&topology.unwrap()).err().unwrap();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn data_of_a_node_that_ran_alone_is_refused() {
    let home = Home::new();
    drop(open_all(&home.roots, Usage::default()).unwrap());
    fs::create_dir_all(home.roots[0].join("slots/7")).unwrap();
    let error = home.open(&topology()).err().unwrap();
    assert!(error.contains("a node that ran alone"), "{error}");
}

#[test]
fn a_generation_never_goes_back() {
    let home = Home::new();
    let membership = home.form();
    let set = |generation, identity| {
        membership
            .change(move |record| {
                let known = &mut record.members[1][0];
                let news = known.generation < generation;
                if news {
                    *known = member(1, generation, identity);
                }
                news
            })
            .unwrap();
        membership.roster.disks()[1][0]
    };
    assert_eq!(set(2, 20), member(1, 2, 20));
    assert_eq!(set(1, 10), member(1, 2, 20));
    drop(membership);
    let (membership, _) = home.open(&topology()).unwrap();
    assert_eq!(membership.roster.disks()[1][0], member(1, 2, 20), "it is on disk");
}

#[test]
fn a_disk_that_lost_one_slot_remembers_the_others_for_as_long_as_it_is_that_disk() {
    let home = Home::new();
    drop(home.form());
    let start = || {
        let disks =
            open_all(&home.roots, Usage { clustered: true, ..Usage::default() }).expect("the disks open");
        let membership = Membership::open(&topology(), &disks).unwrap();
        let slots = Slots::new(Slot::all().map(|slot| (slot.disk(2), PathBuf::new(), State::Unborn)));
        membership.confirmed.store(true, Ordering::Release);
        membership.mark(&slots);
        (disks, membership, slots)
    };
    let on_first: Vec<Slot> = Slot::all().filter(|slot| slot.disk(2) == 0).collect();
    let (lost, kept) = (on_first[0], on_first[1]);
    for root in &home.roots {
        fs::create_dir_all(root.join("slots/7")).unwrap();
    }
    let (disks, membership, slots) = start();
    assert!(!slots.is_recovering(lost));
    let old = disks[0].id();
    membership.lose(0, &disks[0], &std::iter::once(lost).collect(), &slots).unwrap();
    let new = disks[0].id();
    assert_ne!(new, old, "what it signed does not count again");
    assert!(Slot::all().all(|slot| slots.is_recovering(slot) == (slot.disk(2) == 0)));
    assert!(!membership.remembers(kept, &slots), "not before all nodes know");
    let me = member(0, 0, u128::from(old));
    membership.count_again(kept, me, &slots);
    assert!(slots.is_recovering(kept), "who began before that does not end after it");
    drop((disks, membership));
    // The start after that knows what was lost, and does not lose more.
    let (disks, membership, slots) = start();
    assert_eq!((membership.standing(0), disks[0].id()), (Standing::Lost, new));
    membership.set_standing(0, Standing::Admitted);
    assert!(membership.remembers(kept, &slots) && !membership.remembers(lost, &slots));
    membership.lose(0, &disks[0], &std::iter::once(on_first[2]).collect(), &slots).unwrap();
    membership.set_standing(0, Standing::Admitted);
    assert!(membership.remembers(kept, &slots));
    assert!(!membership.remembers(lost, &slots) && !membership.remembers(on_first[2], &slots));
    // Whatever gives it another identity means that all of it is lost.
    disks[0].renew().unwrap();
    drop((disks, membership));
    let (_disks, membership, slots) = start();
    membership.set_standing(0, Standing::Admitted);
    assert!(on_first.iter().all(|slot| !membership.remembers(*slot, &slots)));
}

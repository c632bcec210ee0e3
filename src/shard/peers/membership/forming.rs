//! How a cluster is formed: when every node has said, with the same charter, that it belongs to none, each writes down the same
//! list of disks. Who comes later takes the list over from one that has it.
//!
//! A list is never made while any node is away: one that has been formed before, and may have promised something, would
//! be taken for a new one. Two nodes that make different lists, because a third one lost its disks in that very moment,
//! have promised nothing with it yet; it then finds itself in one of them with disks that it does not have, and recovers.

use crate::base::topology::{NodeId, Topology};
use crate::wire::peer::Member;
use crate::wire::peer::cluster::{Charter, Disks, Introduction};

/// What was last heard of a node.
#[derive(Clone, Debug, Default)]
pub(super) enum Heard {
    /// It does not answer.
    #[default]
    Nothing,
    /// It refuses to: why.
    Refused(String),
    /// It has introduced itself.
    Said(Introduction),
}

/// What a node that belongs to no cluster yet does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It waits: for what.
    Wait(String),
    /// It takes this list of disks down.
    Found(Vec<Disks>),
}

/// What keeps a node from being one of the same cluster.
pub(super) fn difference(charter: &Charter, theirs: &Charter, name: &str) -> Option<String> {
    charter.difference(theirs, "here", &format!("on node '{name}'"))
}

/// Decides; `heard` is by node, and `mine` what this node says of itself.
pub(super) fn next(topology: &Topology, mine: &Introduction, heard: &[Heard]) -> Next {
    let mut missing = Vec::new();
    let mut others: Vec<Option<&Introduction>> = Vec::with_capacity(heard.len());
    for node in topology.nodes() {
        let said = heard.get(node.index()).unwrap_or(&Heard::Nothing);
        others.push(None);
        if node == topology.me() {
            continue;
        }
        match said {
            Heard::Nothing => missing.push(format!("'{}', which does not answer", topology.name(node))),
            Heard::Refused(why) => missing.push(format!("'{}', which refuses: {why}", topology.name(node))),
            Heard::Said(said) => match difference(&mine.charter, &said.charter, topology.name(node)) {
                Some(difference) => missing.push(format!("'{}': {difference}", topology.name(node))),
                None => others[node.index()] = Some(said),
            },
        }
    }
    if let Some(known) = newest(topology, &others) {
        let of_me = known.get(topology.me().index()).map_or(0, Vec::len);
        if of_me != mine.disks.len() {
            return Next::Wait(format!(
                "the cluster knows {of_me} disks of this node, but it has {}: name as many in the config",
                mine.disks.len()
            ));
        }
        return Next::Found(known);
    }
    if !missing.is_empty() {
        return Next::Wait(format!("waiting for {}", missing.join("; ")));
    }
    let disks = |(node, other): (NodeId, Option<&Introduction>)| {
        let identities = other.map_or(&mine.disks, |other| &other.disks);
        identities.iter().map(|identity| Member { node, generation: 0, identity: *identity }).collect()
    };
    Next::Found(topology.nodes().zip(others.iter().copied()).map(disks).collect())
}

/// The list of those that have one, each disk as the one that knows it best.
fn newest(topology: &Topology, others: &[Option<&Introduction>]) -> Option<Vec<Disks>> {
    let is_of_all = |list: &&Vec<Disks>| {
        let is_of = |(node, disks): (NodeId, &Disks)| {
            !disks.is_empty() && disks.iter().all(|member| member.node == node)
        };
        list.len() == topology.nodes().count() && topology.nodes().zip(list.iter()).all(is_of)
    };
    let mut lists = others.iter().filter_map(|other| other.as_ref()?.members.as_ref()).filter(is_of_all);
    let mut list = lists.next()?.clone();
    for other in lists {
        for (known, theirs) in list.iter_mut().flatten().zip(other.iter().flatten()) {
            if theirs.generation > known.generation {
                *known = *theirs;
            }
        }
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        Topology::new("c", vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], "a", 3, 2).unwrap()
    }

    fn said(identity: u128) -> Introduction {
        let topology = topology();
        let charter = Charter {
            cluster: "c".to_owned(),
            nodes: topology.nodes().map(|node| topology.name(node).to_owned()).collect(),
            replicas: 3,
            write_quorum: 2,
            slots: 2048,
        };
        Introduction { charter, disks: vec![identity], members: None, not_voting: Box::default() }
    }

    fn member(node: u8, generation: u32, identity: u128) -> Member {
        Member { node: NodeId(node), generation, identity }
    }

    fn why(heard: &[Heard]) -> String {
        match next(&topology(), &said(1), heard) {
            Next::Wait(why) => why,
            Next::Found(list) => panic!("{list:?}"),
        }
    }

    #[test]
    fn a_list_is_made_when_all_are_there_and_agree_that_there_is_none() {
        let heard = [Heard::Nothing, Heard::Said(said(2)), Heard::Said(said(3))];
        let list = vec![vec![member(0, 0, 1)], vec![member(1, 0, 2)], vec![member(2, 0, 3)]];
        assert_eq!(next(&topology(), &said(1), &heard), Next::Found(list));
        assert_eq!(
            why(&[Heard::Nothing, Heard::Said(said(2)), Heard::Nothing]),
            "waiting for 'c', which does not answer"
        );
        let mut other = said(3);
        other.charter.replicas = 2;
        let heard = [Heard::Nothing, Heard::Refused("no".to_owned()), Heard::Said(other)];
        let why = why(&heard);
        assert!(why.contains("'b', which refuses: no"), "{why}");
        assert!(why.contains("'c': cluster.replicas is 3 here, but 2 on node 'c'"), "{why}");
    }

    #[test]
    fn who_comes_later_takes_over_the_newest_of_what_others_have() {
        let with = |list: Vec<Disks>| Heard::Said(Introduction { members: Some(list), ..said(9) });
        let old = vec![vec![member(0, 0, 7)], vec![member(1, 0, 2)], vec![member(2, 0, 3)]];
        let new = vec![vec![member(0, 0, 7)], vec![member(1, 1, 5)], vec![member(2, 0, 3)]];
        let heard = [Heard::Nothing, with(old.clone()), with(new.clone())];
        assert_eq!(next(&topology(), &said(1), &heard), Next::Found(new));
        let heard = [Heard::Nothing, with(old.clone()), Heard::Nothing];
        assert_eq!(next(&topology(), &said(1), &heard), Next::Found(old), "one is enough");
        let two_disks = vec![vec![member(0, 0, 7); 2], vec![member(1, 0, 2)], vec![member(2, 0, 3)]];
        assert!(
            why(&[Heard::Nothing, with(two_disks), Heard::Nothing]).contains("knows 2 disks of this node")
        );
        let rubbish = vec![vec![member(0, 0, 7)], vec![member(0, 0, 2)]];
        assert!(why(&[Heard::Nothing, with(rubbish), Heard::Nothing]).contains("waiting for 'c'"));
    }
}

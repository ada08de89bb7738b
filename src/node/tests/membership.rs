//! Changes of the membership as the core makes them.

use super::cluster::{Cluster, Disk, learner, voter};
use crate::config::Config;
use crate::id::LogId;
use crate::membership::{Change, Member, Membership, MembershipError, Role};
use crate::node::{ChangeOutcome, Outgoing};
use crate::status::RaftRole;
use crate::storage::{Entry, EntryKind, HardState, SnapshotMeta};
use crate::transport::{RaftKind, RaftMessage};

#[test]
fn a_blank_server_joins_by_snapshot_and_can_be_promoted() {
    let mut cluster = Cluster::of(&[voter(1)]);
    let leader = cluster.elect();
    cluster.propose(leader, "a");
    cluster.add_blank(2);
    cluster.change(1, Change::Add(voter(2)));
    assert!(cluster.node(1).membership().is_staging(2.into()));
    assert_eq!(cluster.node(1).membership().member(2.into()).unwrap().role, Role::Learner);
    cluster.tick(10);
    assert!(cluster.server(2).disk.snapshot.is_some(), "a new snapshot, which names it");
    cluster.propose(1, "b");
    assert_eq!(cluster.commands(2), [b"b"]);
    let of_leader = cluster.node(1).membership().clone();
    assert_eq!(*cluster.node(2).membership(), of_leader);
    cluster.change(1, Change::Promote(2.into()));
    cluster.tick(4);
    assert_eq!(cluster.node(2).membership().voters().count(), 2);
    assert!(!cluster.node(2).membership().is_staging(2.into()));
    assert!(matches!(
        cluster.server(1).changes[..],
        [ChangeOutcome::Done(_), ChangeOutcome::Done(_)]
    ));
}

#[test]
fn a_replacement_passes_through_a_joint_configuration_and_leaves_it_by_itself() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    let old = leader % 3 + 1;
    cluster.add_blank(4);
    cluster.change(leader, Change::Add(learner(4)));
    cluster.tick(10);
    let new = Member { role: Role::Voter, ..learner(4) };
    cluster.change(leader, Change::Replace { old: old.into(), new });
    cluster.tick(10);
    let membership = cluster.node(leader).membership().clone();
    assert!(!membership.is_joint());
    assert_eq!(membership.voters().count(), 3);
    assert!(membership.member(old.into()).is_none());
    let outcomes = &cluster.server(leader).changes;
    assert!(matches!(&outcomes[1], ChangeOutcome::Done(after) if !after.is_joint()));
}

#[test]
fn whoever_has_never_answered_is_made_no_voter() {
    let mut cluster = Cluster::of(&[voter(1)]);
    cluster.elect();
    let learns = Change::Add(learner(2));
    cluster.change(1, learns);
    cluster.tick(5);
    let promote = Change::Promote(2.into());
    let silent = MembershipError::NotReady { id: 2.into() };
    assert_eq!(cluster.node(1).handle_change(&promote, None), Err(silent.clone()));
    let new = Member { role: Role::Voter, ..learner(2) };
    let replace = Change::Replace { old: 1.into(), new };
    assert_eq!(cluster.node(1).handle_change(&replace, None), Err(silent));
    cluster.add_blank(2);
    cluster.tick(10);
    cluster.change(1, promote);
    cluster.tick(5);
    assert_eq!(cluster.node(1).membership().voters().count(), 2);
}

/// P36.
#[test]
fn whoever_has_heard_of_a_removal_may_take_the_server_away() {
    let mut cluster = Cluster::of(&[voter(1), voter(2)]);
    let leader = cluster.elect();
    let gone = leader % 2 + 1;
    cluster.server(leader).prompt = false;
    let change = Change::Remove(gone.into());
    cluster.node(leader).handle_change(&change, None).unwrap().unwrap();
    cluster.settle();
    // Its own copy of the entry is written last, and commits it.
    while cluster.node(leader).membership().member(gone.into()).is_some() {
        cluster.tick(1);
        let sent = cluster.server(leader).finish_write();
        cluster.wire.extend(sent.into_iter().map(|outgoing| (leader, outgoing)));
        cluster.settle();
    }
    assert!(cluster.server(leader).changes.is_empty(), "told before a restart would know it");
    cluster.server(leader).prompt = true;
    cluster.settle();
    assert!(matches!(cluster.server(leader).changes[..], [ChangeOutcome::Done(_)]));
    cluster.servers.remove(&gone);
    cluster.crash(leader);
    assert_eq!(cluster.elect(), leader);
}

/// P29.
#[test]
fn one_change_at_a_time_and_only_on_the_membership_it_was_planned_on() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    let node = cluster.node(leader);
    let add = |n| Change::Add(learner(n));
    assert_eq!(
        node.handle_change(&add(4), Some(77)),
        Err(MembershipError::Superseded { now: node.membership().index() })
    );
    assert!(node.handle_change(&add(4), None).unwrap().is_some());
    assert_eq!(node.handle_change(&add(5), None), Err(MembershipError::InProgress));
    cluster.settle();
    assert!(cluster.node(leader).handle_change(&add(5), None).unwrap().is_some());
}

/// P35.
/// Without it the removed leader would lead for ever: it hears nobody, and nobody campaigns while
/// it is heard.
#[test]
fn a_leader_that_is_removed_steps_down_and_the_others_elect() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    cluster.change(leader, Change::Remove(leader.into()));
    assert_ne!(cluster.node(leader).role(), RaftRole::Leader);
    assert_eq!(cluster.node(leader).fatal(), None);
    cluster.cut.insert(leader);
    let heir = cluster.elect();
    cluster.propose(heir, "a");
    assert_eq!(cluster.node(heir).membership().members().count(), 2);
}

#[test]
fn a_restart_finds_the_membership_again() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    cluster.change(leader, Change::Add(learner(4)));
    cluster.propose(leader, "a");
    cluster.tick(4);
    for id in 1..=3 {
        cluster.crash(id);
    }
    let leader = cluster.elect();
    cluster.tick(10);
    let index = cluster.node(leader).membership().index();
    for id in 1..=3 {
        let membership = cluster.node(id).membership();
        assert!(membership.member(4.into()).is_some(), "server {id}");
        assert_eq!(membership.index(), index);
    }
}

#[test]
fn a_committed_change_that_does_not_follow_is_skipped_now_and_after_a_restart() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    let before = cluster.node(follower).membership().clone();
    // It says that server 9 comes in, and leaves it out of the members.
    let mut record = before.plan(&Change::Add(learner(9))).unwrap().unwrap();
    record.members.remove(&9.into());
    let node = cluster.node(follower);
    let (term, last) = (node.term(), node.last());
    let log_id = LogId { term, index: last.index + 1 };
    let message = RaftMessage {
        kind: RaftKind::Append,
        term,
        log_id: last,
        commit: log_id.index,
        entries: vec![Entry { log_id, kind: EntryKind::Change, data: record.encode() }],
        ..RaftMessage::default()
    };
    node.handle_message(leader, message);
    cluster.work();
    let node = cluster.node(follower);
    assert_eq!((node.fatal(), node.applied()), (None, log_id));
    assert_eq!(node.membership(), &before);
    cluster.crash(follower);
    cluster.work();
    assert_eq!(cluster.node(follower).membership(), &before);
}

/// The engine appends the entry that leaves the joint configuration, but tells nobody before the
/// next heartbeat is answered.
#[test]
fn a_joint_configuration_is_left_without_waiting_for_a_heartbeat() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    let old = leader % 3 + 1;
    cluster.add_blank(4);
    cluster.change(leader, Change::Add(learner(4)));
    cluster.tick(10);
    let new = Member { role: Role::Voter, ..learner(4) };
    // It is applied when all acknowledgements have come, so that none of them helps.
    cluster.server(leader).applies = false;
    cluster.change(leader, Change::Replace { old: old.into(), new });
    assert!(cluster.node(leader).membership().is_joint());
    cluster.server(leader).applies = true;
    cluster.settle();
    assert!(!cluster.node(leader).membership().is_joint());
}

#[test]
fn a_restart_has_the_membership_of_what_is_applied_and_no_other() {
    let membership = Membership::first([voter(1), voter(2), voter(3)]);
    let mut disk = Disk::bootstrapped(&membership);
    let change = membership.plan(&Change::Remove(3.into())).unwrap().unwrap();
    let entry = |index| Entry::application(LogId { term: 2, index }, b"x");
    let change = Entry { kind: EntryKind::Change, data: change.encode(), ..entry(3) };
    disk.entries = vec![entry(2), change, entry(4)];
    disk.hard_state = HardState { term: 2, vote: 0, commit: 2 };
    for (applied, voters) in [(2, 3), (3, 2), (4, 2)] {
        let at = LogId { term: 2, index: applied };
        let node = disk.start_at(1, &Config::default(), at).unwrap();
        assert_eq!(node.membership().voters().count(), voters, "applied up to {applied}");
        assert_eq!(node.raw.raft.prs().conf().to_conf_state().voters.len(), voters);
    }
    // One that is committed but not applied is in force as soon as it is handed out.
    disk.hard_state.commit = 3;
    let node = disk.start_at(1, &Config::default(), LogId { term: 2, index: 2 }).unwrap();
    assert_eq!(node.membership().voters().count(), 2);
}

#[test]
fn a_change_whose_place_a_snapshot_took_is_in_doubt() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let old = cluster.elect();
    cluster.cut.insert(old);
    cluster.node(old).handle_change(&Change::Add(learner(4)), None).unwrap();
    let heir = cluster.elect();
    for _ in 0..20 {
        cluster.propose(heir, "x");
    }
    let applied = cluster.node(heir).applied();
    let system = cluster.node(heir).membership_at(applied.index).encode();
    let meta = SnapshotMeta { log_id: applied, system, size_bytes: 0 };
    cluster.node(heir).handle_snapshot_taken(meta, 0);
    cluster.settle();
    cluster.cut.clear();
    cluster.tick(20);
    assert!(matches!(cluster.server(old).changes[..], [ChangeOutcome::Lost]));
}

#[test]
fn a_change_asked_for_while_another_is_not_applied_is_refused() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    let others = [leader % 3 + 1, (leader + 1) % 3 + 1];
    cluster.cut.extend(others);
    cluster.node(leader).handle_change(&Change::Add(learner(4)), None).unwrap();
    // The engine would put an empty entry into its place, and say that all is well.
    cluster.node(leader).pending_change = None;
    let second = cluster.node(leader).handle_change(&Change::Add(learner(5)), None);
    assert_eq!(second, Err(MembershipError::InProgress));
    assert_eq!(cluster.node(leader).membership().members().count(), 3);
}

/// The other of two voters needs the vote of the leader that demoted itself, whose log is longer,
/// until it knows that it is the only one; and a refusal of an older term is all that can tell it.
#[test]
fn the_last_voter_learns_that_it_is_from_who_refuses_it() {
    let mut cluster = Cluster::of(&[voter(1), voter(2)]);
    let leader = cluster.elect();
    let other = leader % 2 + 1;
    cluster.tick(4);
    cluster.node(leader).handle_change(&Change::Demote(leader.into()), None).unwrap();
    cluster.work();
    let (_, append) = cluster.wire.pop_front().unwrap();
    cluster.node(other).handle_message(leader, append.message);
    assert!(cluster.node(leader).handle_proposal(vec!["x".into()]).is_some());
    cluster.work();
    // The acknowledgement arrives, and nothing of what the leader says then.
    let is_ack = |outgoing: &Outgoing| outgoing.message.kind == RaftKind::AppendResponse;
    let (_, ack) = cluster.wire.drain(..).find(|(_, outgoing)| is_ack(outgoing)).unwrap();
    cluster.node(leader).handle_message(other, ack.message);
    cluster.work();
    assert!(!cluster.node(leader).is_leader());
    // But that it should take over, which it tries in vain.
    let take_over =
        cluster.wire.drain(..).find(|(_, outgoing)| outgoing.message.kind == RaftKind::TimeoutNow);
    cluster.node(other).handle_message(leader, take_over.unwrap().1.message);
    cluster.work();
    cluster.wire.clear();
    assert!(cluster.node(other).term() > cluster.node(leader).term());
    assert!(cluster.node(other).last() < cluster.node(leader).last());
    assert_eq!(cluster.elect(), other);
    cluster.propose(other, "y");
    assert_eq!(cluster.commands(leader), [b"y"]);
}

//! The inbound checks, line by line: each of these messages would make the engine panic or lie.

use super::cluster::{Cluster, learner, voter};
use crate::id::{LogId, NodeId};
use crate::membership::{Member, Membership};
use crate::node::inspect::Verdict;
use crate::storage::{Entry, SnapshotMeta};
use crate::transport::{RaftKind, RaftMessage};

fn settled() -> (Cluster, u64) {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    cluster.propose(leader, "a");
    cluster.tick(4);
    (cluster, leader)
}

fn judge(mut message: RaftMessage) -> Verdict {
    let (mut cluster, leader) = settled();
    let node = cluster.node(leader % 3 + 1);
    node.staged_snapshot.clone_from(&message.snapshot);
    node.inspect(leader, &mut message)
}

fn append(entries: Vec<Entry>) -> RaftMessage {
    let log_id = LogId { term: 1, index: 1 };
    RaftMessage { kind: RaftKind::Append, term: 9, log_id, entries, ..RaftMessage::default() }
}

fn entry(term: u64, index: u64) -> Entry {
    Entry::application(LogId { term, index }, b"x")
}

#[test]
fn an_append_must_hold_together() {
    assert_eq!(judge(append(vec![entry(2, 2), entry(3, 3)])), Verdict::Fine);
    assert_eq!(judge(append(vec![entry(2, 3)])), Verdict::Malformed, "a gap");
    assert_eq!(judge(append(vec![entry(2, 2), entry(2, 2)])), Verdict::Malformed, "a repetition");
    assert_eq!(judge(append(vec![entry(3, 2), entry(2, 3)])), Verdict::Malformed, "terms fall");
    assert_eq!(judge(append(vec![entry(10, 2)])), Verdict::Malformed, "a term of the future");
    let mut message = append(vec![]);
    message.log_id = LogId { term: 0, index: 0 };
    assert_eq!(judge(message.clone()), Verdict::Malformed, "the log from the very first");
    message.log_id = LogId { term: 10, index: 4 };
    assert_eq!(judge(message.clone()), Verdict::Malformed, "a term of the future");
    message.term = 0;
    assert_eq!(judge(message), Verdict::Malformed, "no term");
    let mut change = entry(2, 2);
    change.kind = crate::storage::EntryKind::Change;
    assert_eq!(judge(append(vec![change])), Verdict::Malformed, "no change record");
}

#[test]
fn only_appends_carry_entries_and_only_snapshots_a_snapshot() {
    let mut message = append(vec![entry(2, 2)]);
    message.kind = RaftKind::Vote;
    assert_eq!(judge(message), Verdict::Malformed);
    let mut message = append(vec![]);
    message.snapshot = Some(SnapshotMeta::default());
    assert_eq!(judge(message), Verdict::Malformed);
    let message = RaftMessage { kind: RaftKind::Snapshot, term: 9, ..RaftMessage::default() };
    assert_eq!(judge(message), Verdict::Malformed);
}

#[test]
fn a_snapshot_must_name_a_place_and_voters() {
    let snapshot = |log_id, system: &[u8]| RaftMessage {
        kind: RaftKind::Snapshot,
        term: 9,
        snapshot: Some(SnapshotMeta { log_id, system: system.to_vec().into(), size_bytes: 0 }),
        ..RaftMessage::default()
    };
    let at = LogId { term: 2, index: 9 };
    let good = Membership::first([voter(1)]).encode();
    assert_eq!(judge(snapshot(at, &good)), Verdict::Fine);
    assert_eq!(judge(snapshot(LogId { index: 0, ..at }, &good)), Verdict::Malformed);
    assert_eq!(judge(snapshot(LogId { term: 0, ..at }, &good)), Verdict::Malformed);
    assert_eq!(judge(snapshot(LogId { term: 10, ..at }, &good)), Verdict::Malformed);
    assert_eq!(judge(snapshot(at, b"")), Verdict::Malformed, "no voters");
    assert_eq!(judge(snapshot(at, b"x")), Verdict::Malformed, "no membership");
    let twin = |n: u64| {
        let mut id = NodeId::from(n).to_bytes();
        id[15] = 1;
        Member { id: NodeId::from_bytes(id).unwrap(), ..voter(n) }
    };
    let twins = Membership::first([voter(1), voter(2), twin(2)]);
    assert_eq!(judge(snapshot(at, &twins.encode())), Verdict::Malformed, "twins to the engine");
    let mut joint = Membership::first([voter(1), learner(2)]);
    joint.outgoing.insert(twin(2).id, twin(2));
    assert_eq!(judge(snapshot(at, &joint.encode())), Verdict::Malformed, "a twin on its way out");
}

#[test]
fn a_snapshot_names_each_server_once() {
    let judge = |members: &[Member], outgoing: &[Member]| {
        let mut membership = Membership::first(members.iter().cloned());
        membership.outgoing = outgoing.iter().map(|m| (m.id, m.clone())).collect();
        judge(RaftMessage {
            kind: RaftKind::Snapshot,
            term: 9,
            snapshot: Some(SnapshotMeta {
                log_id: LogId { term: 2, index: 9 },
                system: membership.encode(),
                size_bytes: 0,
            }),
            ..RaftMessage::default()
        })
    };
    let mut twin = NodeId::from(1).to_bytes();
    twin[15] = 1;
    let twin = Member { id: NodeId::from_bytes(twin).unwrap(), ..learner(1) };
    assert_eq!(judge(&[voter(1), voter(2)], &[voter(1), voter(3)]), Verdict::Fine);
    assert_eq!(judge(&[voter(1), twin.clone()], &[]), Verdict::Malformed, "for the engine, twice");
    assert_eq!(judge(&[voter(1)], &[twin]), Verdict::Malformed);
}

#[test]
fn a_snapshot_comes_as_a_stream_only() {
    let (mut cluster, leader) = settled();
    let follower = leader % 3 + 1;
    let meta = SnapshotMeta {
        log_id: LogId { term: 2, index: 99 },
        system: cluster.node(leader).membership().encode(),
        size_bytes: 0,
    };
    let term = cluster.node(leader).term();
    let kind = RaftKind::Snapshot;
    let message = RaftMessage { kind, term, snapshot: Some(meta), ..RaftMessage::default() };
    let node = cluster.node(follower);
    node.handle_message(leader, message);
    assert_eq!(node.fatal(), None);
    assert!(!node.is_installing());
    assert_eq!(node.take_malformed(), 1);
}

#[test]
fn a_refusal_hints_at_nothing_behind_what_it_refuses() {
    let (mut cluster, leader) = settled();
    let node = cluster.node(leader);
    let index = node.last().index;
    let refusal = |reject_hint| RaftMessage {
        kind: RaftKind::AppendResponse,
        term: node.term(),
        log_id: LogId { term: 0, index: index + 1 },
        reject: true,
        reject_hint,
        ..RaftMessage::default()
    };
    let (mut good, bad) = (refusal(index + 1), refusal(u64::MAX));
    cluster.cut.extend([1, 2, 3]);
    cluster.propose(leader, "b");
    let node = cluster.node(leader);
    assert_eq!(node.inspect(leader % 3 + 1, &mut good), Verdict::Fine);
    assert_eq!(node.inspect(leader % 3 + 1, &mut bad.clone()), Verdict::Malformed);
    node.handle_message(leader % 3 + 1, bad);
    assert_eq!(node.fatal(), None);
}

#[test]
fn nobody_speaks_in_this_servers_name() {
    let (mut cluster, leader) = settled();
    let mut message = append(vec![]);
    assert_eq!(cluster.node(leader).inspect(leader, &mut message), Verdict::Malformed);
    assert_eq!(cluster.node(leader).inspect(0, &mut message), Verdict::Malformed);
}

#[test]
fn a_follower_cannot_acknowledge_what_the_leader_does_not_have() {
    let (mut cluster, leader) = settled();
    let follower = leader % 3 + 1;
    let node = cluster.node(leader);
    let ack = |index| RaftMessage {
        kind: RaftKind::AppendResponse,
        term: node.term(),
        log_id: LogId { term: 0, index },
        ..RaftMessage::default()
    };
    let last = node.last().index;
    assert_eq!(node.inspect(follower, &mut ack(last)), Verdict::Fine);
    assert_eq!(node.inspect(follower, &mut ack(last + 1)), Verdict::Malformed);
    assert_eq!(node.inspect(9, &mut ack(last)), Verdict::Useless, "no member");
}

#[test]
fn a_late_refusal_does_not_take_back_an_acknowledgement() {
    let (mut cluster, leader) = settled();
    let follower = leader % 3 + 1;
    cluster.propose(leader, "b");
    let node = cluster.node(leader);
    let (matched, _, _) = node.progress(follower).unwrap();
    let mut refusal = RaftMessage {
        kind: RaftKind::AppendResponse,
        term: node.term(),
        log_id: LogId { term: 1, index: matched },
        reject: true,
        reject_hint: 1,
        ..RaftMessage::default()
    };
    assert_eq!(node.inspect(follower, &mut refusal), Verdict::Useless);
    (1..=3).filter(|id| *id != leader).for_each(|id| {
        cluster.cut.insert(id);
    });
    cluster.propose(leader, "c");
    refusal.log_id.index = matched + 1;
    assert_eq!(cluster.node(leader).inspect(follower, &mut refusal), Verdict::Fine);
    assert_eq!((refusal.reject_hint, refusal.log_id.term), (matched, 0));
}

/// A snapshot that follows on what a settled cluster has, with the membership it has.
fn good_snapshot(cluster: &mut Cluster, id: u64) -> RaftMessage {
    let node = cluster.node(id);
    let log_id = LogId { term: node.term(), index: node.last().index + 9 };
    let system = node.membership().encode();
    RaftMessage {
        kind: RaftKind::Snapshot,
        term: node.term(),
        snapshot: Some(SnapshotMeta { log_id, system, size_bytes: 0 }),
        ..RaftMessage::default()
    }
}

#[test]
fn a_snapshot_that_is_not_stored_here_is_no_message() {
    let (mut cluster, leader) = settled();
    let follower = leader % 3 + 1;
    let message = good_snapshot(&mut cluster, follower);
    cluster.node(follower).handle_message(leader, message);
    assert_eq!(cluster.node(follower).fatal(), None);
    assert_eq!(cluster.node(follower).take_malformed(), 1);
}

#[test]
fn a_term_or_an_index_that_no_cluster_reaches_is_malformed() {
    let (mut cluster, leader) = settled();
    let follower = leader % 3 + 1;
    let heartbeat =
        RaftMessage { kind: RaftKind::Heartbeat, term: u64::MAX, ..RaftMessage::default() };
    let snapshot = |term: u64, at: LogId| RaftMessage {
        kind: RaftKind::Snapshot,
        term,
        snapshot: Some(SnapshotMeta {
            log_id: at,
            system: Membership::first([voter(1), voter(2)]).encode(),
            size_bytes: 0,
        }),
        ..RaftMessage::default()
    };
    let node = cluster.node(follower);
    node.handle_message(leader, heartbeat);
    node.handle_snapshot(leader, snapshot(9, LogId { term: 9, index: u64::MAX }));
    node.handle_snapshot(leader, snapshot(u64::MAX, LogId { term: 9, index: 9 }));
    assert_eq!(node.take_malformed(), 3);
    cluster.tick(100);
    assert_eq!(cluster.node(follower).fatal(), None);
}

#[test]
fn a_refusal_that_hints_past_the_end_of_the_log_is_malformed() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    cluster.cut.insert(3);
    let leader = cluster.elect();
    let node = cluster.node(leader);
    // It is not known yet what server 3 has.
    let refusal = |index, reject_hint| RaftMessage {
        kind: RaftKind::AppendResponse,
        term: 2,
        log_id: LogId { term: 0, index },
        reject: true,
        reject_hint,
        ..RaftMessage::default()
    };
    assert_eq!((node.term(), node.last().index), (2, 2));
    node.handle_message(3, refusal(1, u64::MAX));
    assert_eq!(node.take_malformed(), 1);
    assert_eq!(node.fatal(), None);
    node.handle_message(3, refusal(1, 1));
    assert_eq!(node.take_malformed(), 0);
    assert_eq!(node.fatal(), None);
}

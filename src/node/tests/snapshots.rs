//! Snapshots against what a server has and does.

use super::cluster::{Cluster, voter};
use crate::id::LogId;
use crate::membership::{Change, MembershipError};
use crate::node::engine;
use crate::storage::{Entry, SnapshotMeta};
use crate::transport::{RaftKind, RaftMessage};

/// Takes a snapshot of all that a server has applied, and keeps so many entries before it.
fn snapshot(cluster: &mut Cluster, id: u64, keep: u64) {
    let applied = cluster.node(id).applied();
    let system = cluster.node(id).membership_at(applied.index).encode();
    let meta = SnapshotMeta { log_id: applied, system, size_bytes: 0 };
    cluster.server(id).disk.snapshot = Some(meta.clone());
    cluster.node(id).handle_snapshot_taken(meta, keep);
    cluster.settle();
}

/// P3: what a snapshot replaces must not stay, or it is sent again for ever.
#[test]
fn a_tail_of_another_leader_ends_with_the_one_snapshot_that_replaces_it() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let old = cluster.elect();
    cluster.cut.insert(old);
    for _ in 0..30 {
        cluster.propose(old, "of nobody else");
    }
    let leader = cluster.elect();
    for _ in 0..5 {
        cluster.propose(leader, "x");
    }
    snapshot(&mut cluster, leader, 0);
    assert!(cluster.node(leader).applied().index < cluster.node(old).last().index);
    cluster.cut.clear();
    cluster.tick(60);
    let snapshots = cluster.sent.iter().filter(|(_, _, m)| m.kind == RaftKind::Snapshot).count();
    assert_eq!(snapshots, 1);
    let last = cluster.node(leader).last();
    assert_eq!(cluster.node(old).last(), last, "nothing of the tail is left");
    cluster.propose(leader, "after");
    cluster.tick(4);
    assert_eq!(cluster.commands(old), [b"after"]);
    let last = cluster.node(leader).last();
    assert_eq!(cluster.node(old).last(), last);
    cluster.crash(old);
    assert_eq!((cluster.node(old).last(), cluster.node(old).fatal()), (last, None));
}

/// P40.
#[test]
fn two_snapshots_come_in_either_order_and_while_one_is_installed() {
    for (first, second) in [(50, 60), (60, 50), (60, 60)] {
        for during in [false, true] {
            let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
            let system = cluster.node(1).membership().encode();
            let deliver = |cluster: &mut Cluster, index| {
                let log_id = LogId { term: 2, index };
                let meta = SnapshotMeta { log_id, system: system.clone(), size_bytes: 0 };
                let kind = RaftKind::Snapshot;
                let snapshot = Some(meta);
                let message = RaftMessage { kind, term: 2, snapshot, ..RaftMessage::default() };
                cluster.node(1).handle_snapshot(2, message);
                cluster.work();
            };
            cluster.server(1).prompt = !during;
            deliver(&mut cluster, first);
            assert_eq!(cluster.node(1).is_installing(), during);
            deliver(&mut cluster, second);
            cluster.server(1).finish_write();
            cluster.server(1).prompt = true;
            cluster.work();
            // What came during the other is lost, and sent again.
            deliver(&mut cluster, second);
            let last = LogId { term: 2, index: first.max(second) };
            let append = RaftMessage {
                kind: RaftKind::Append,
                term: 2,
                log_id: last,
                commit: last.index + 1,
                entries: vec![Entry::application(LogId { index: last.index + 1, ..last }, b"x")],
                ..RaftMessage::default()
            };
            cluster.node(1).handle_message(2, append);
            cluster.work();
            assert_eq!(cluster.node(1).fatal(), None, "{first}, {second}, {during}");
            assert_eq!(cluster.commands(1), [b"x"], "{first}, {second}, {during}");
        }
    }
}

/// P37.
#[test]
fn a_removed_server_stays_removed_behind_a_snapshot_and_a_restart() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    let gone = leader % 3 + 1;
    cluster.change(leader, Change::Remove(gone.into()));
    cluster.servers.remove(&gone);
    cluster.propose(leader, "a");
    cluster.tick(4);
    for id in [1, 2, 3].into_iter().filter(|id| *id != gone) {
        snapshot(&mut cluster, id, 0);
        assert_eq!(cluster.server(id).disk.entries, []);
        cluster.crash(id);
    }
    let leader = cluster.elect();
    let again = cluster.node(leader).handle_change(&Change::Add(voter(gone)), None);
    assert_eq!(again, Err(MembershipError::UsedId { id: gone.into() }));
}

/// What the members are told and what the engine counts by.
fn assert_one_membership(cluster: &mut Cluster, when: &str) {
    let ids: Vec<u64> = cluster.servers.keys().copied().collect();
    for id in ids {
        let node = cluster.node(id);
        let engine = node.raw.raft.prs().conf().to_conf_state();
        let same = engine::same_conf_state(node.membership(), &engine);
        assert!(same, "server {id}, {when}: {:?}, {engine:?}", node.membership());
    }
}

/// P39.
#[test]
fn the_engine_and_the_members_agree_after_changes_restarts_and_snapshots() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    cluster.add_blank(4);
    let address = "elsewhere".to_owned();
    let changes = [
        Change::Add(voter(4)),
        Change::Promote(4.into()),
        Change::Demote(1.into()),
        Change::Readdress { id: 2.into(), address },
        Change::Promote(1.into()),
        Change::Remove(4.into()),
    ];
    for change in changes {
        let leader = cluster.elect();
        cluster.tick(4);
        cluster.change(leader, change.clone());
        cluster.tick(4);
        assert_one_membership(&mut cluster, &format!("{change:?}"));
        for snapshots in [false, true] {
            let up: Vec<u64> = cluster.servers.keys().copied().collect();
            for id in up {
                if snapshots {
                    snapshot(&mut cluster, id, 2);
                }
                cluster.crash(id);
            }
            assert_one_membership(&mut cluster, &format!("{change:?}, restarted"));
            let leader = cluster.elect();
            cluster.propose(leader, "a");
            cluster.tick(4);
            let told = cluster.node(leader).membership().clone();
            let members = told.members().map(|member| member.id.raft_id()).collect::<Vec<_>>();
            for id in members {
                assert_eq!(*cluster.node(id).membership(), told, "{change:?}");
            }
        }
    }
    assert_eq!(cluster.node(1).membership().voters().count(), 3);
}

//! Followers that are behind, and reads that wait.

use super::cluster::{Cluster, Disk, Server, voter};
use crate::config::Config;
use crate::id::LogId;
use crate::membership::Membership;
use crate::node::log::FETCHES_MAX;
use crate::node::writes::THEN_SEND_MAX;
use crate::storage::Entry;
use crate::transport::{RaftKind, RaftMessage};

#[test]
fn a_follower_behind_the_leaders_memory_is_served_from_the_log() {
    let mut config = Config::default();
    config.log_cache_bytes_max = 1;
    let mut cluster = Cluster::with(&[voter(1), voter(2), voter(3)], &config);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    cluster.cut.insert(follower);
    for _ in 0..50 {
        cluster.propose(leader, "x");
    }
    cluster.cut.clear();
    cluster.tick(20);
    assert_eq!(cluster.commands(follower).len(), 50);
}

/// Every heartbeat that is answered asks again for what a slow disk has not given yet.
#[test]
fn no_more_reads_behind_memory_are_under_way_than_may() {
    let mut config = Config::default();
    config.log_cache_bytes_max = 1;
    let mut cluster = Cluster::with(&[voter(1), voter(2), voter(3)], &config);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    cluster.cut.insert(follower);
    for _ in 0..50 {
        cluster.propose(leader, "x");
    }
    cluster.cut.clear();
    cluster.server(leader).fetches = Some(Vec::new());
    cluster.tick(400);
    let held = cluster.server(leader).fetches.take().unwrap();
    assert_eq!(held.len(), FETCHES_MAX);
    for fetch in held {
        let range = fetch.range.clone();
        let entries = cluster.server(leader).disk.entries.clone();
        let entries = entries.into_iter().filter(|entry| range.contains(&entry.log_id.index));
        cluster.node(leader).handle_fetched(fetch, entries.collect());
    }
    cluster.tick(20);
    assert_eq!(cluster.commands(follower).len(), 50);
}

/// While a disk hangs, candidates go on asking.
#[test]
fn no_more_messages_wait_for_a_write_than_may() {
    let disk = Disk::bootstrapped(&Membership::first([voter(1), voter(2), voter(3)]));
    let mut server = Server::new(1, disk, &Config::default());
    let asked = |term| RaftMessage {
        kind: RaftKind::PreVote,
        term,
        log_id: LogId { term: 1, index: 1 },
        ..RaftMessage::default()
    };
    server.node.handle_message(3, RaftMessage { kind: RaftKind::Vote, ..asked(2) });
    let writing = server.node.take_write().unwrap();
    for term in 3..3 + 2 * THEN_SEND_MAX as u64 {
        server.node.handle_message(2, asked(term));
    }
    server.node.handle_persisted(writing.number);
    let waiting = server.node.take_write().unwrap().then_send;
    assert_eq!(waiting.len(), THEN_SEND_MAX);
    let newest = 2 + 2 * THEN_SEND_MAX as u64;
    assert_eq!(waiting.last().unwrap().message.term, newest, "the oldest are lost");
}

/// A state machine that hangs must not make this server keep the whole log in memory.
#[test]
fn what_is_durable_leaves_memory_even_if_nothing_is_applied() {
    let mut config = Config::default();
    config.log_cache_bytes_max = 300;
    let disk = Disk::bootstrapped(&Membership::first([voter(1), voter(2), voter(3)]));
    let mut server = Server::new(1, disk, &config);
    let entry = |index| Entry::application(LogId { term: 2, index }, b"x");
    let append = RaftMessage {
        kind: RaftKind::Append,
        term: 2,
        log_id: LogId { term: 1, index: 1 },
        commit: 9,
        entries: (2..=11).map(entry).collect(),
        ..RaftMessage::default()
    };
    server.node.handle_message(2, append);
    assert_eq!(server.node.cached_bytes(), 10 * 129);
    let job = server.node.take_write().unwrap();
    assert_eq!(server.node.cached_bytes(), 10 * 129, "the disk may not have it yet");
    server.node.handle_persisted(job.number);
    assert_eq!(server.node.cached_bytes(), 2 * 129, "what is not committed may be replaced");
    assert_eq!(server.node.take_apply(1 << 20).unwrap().missing, 2..10);
}

#[test]
fn a_follower_behind_the_log_gets_the_snapshot() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    cluster.cut.insert(follower);
    for _ in 0..20 {
        cluster.propose(leader, "x");
    }
    let applied = cluster.node(leader).applied();
    let system = cluster.node(leader).membership_at(applied.index).encode();
    let meta = crate::storage::SnapshotMeta { log_id: applied, system, size_bytes: 0 };
    cluster.node(leader).handle_snapshot_taken(meta.clone(), 5);
    cluster.settle();
    cluster.cut.clear();
    cluster.tick(20);
    assert_eq!(cluster.server(follower).disk.snapshot.as_ref(), Some(&meta));
    assert!(cluster.node(follower).applied() >= applied);
    cluster.propose(leader, "after");
    cluster.tick(4);
    assert_eq!(cluster.commands(follower).last().unwrap(), b"after");
    cluster.crash(follower);
    cluster.tick(10);
    assert_eq!(cluster.node(follower).fatal(), None);
}

#[test]
fn reads_are_confirmed_by_a_majority_only() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    cluster.propose(leader, "a");
    assert!(cluster.node(leader).handle_read(9, 1));
    cluster.settle();
    let commit = cluster.node(leader).commit();
    assert_eq!(cluster.server(leader).reads, [(1, commit)]);
    (1..=3).filter(|id| *id != leader).for_each(|id| {
        cluster.cut.insert(id);
    });
    assert!(cluster.node(leader).handle_read(9, 2));
    cluster.settle();
    assert_eq!(cluster.server(leader).reads.len(), 1, "nobody confirmed it");
    let follower = leader % 3 + 1;
    assert!(!cluster.node(follower).handle_read(9, 3));
}

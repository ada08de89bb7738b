//! Followers that are behind, and reads that wait.

use super::cluster::{Cluster, Disk, Server, voter};
use crate::config::Config;
use crate::id::LogId;
use crate::membership::Membership;
use crate::node::election::splitmix;
use crate::node::log::FETCHES_MAX;
use crate::node::writes::THEN_SEND_MAX;
use crate::storage::{Entry, SnapshotMeta};
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
    let meta = SnapshotMeta { log_id: applied, system, size_bytes: 0 };
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

/// P28: an answer to an earlier round that comes late says nothing about a later one.
#[test]
fn an_answer_to_an_earlier_round_confirms_no_later_one() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    assert!(cluster.node(leader).handle_read(9, 1));
    cluster.settle();
    assert_eq!(cluster.server(leader).reads.len(), 1);
    let answers: Vec<_> = cluster.sent.iter().filter(|(_, to, _)| *to == leader).cloned().collect();
    assert!(answers.iter().any(|(_, _, m)| !m.context.is_empty()));
    cluster.cut.extend((1..=3).filter(|id| *id != leader));
    // Of this start of the server, and with the number of the first round but of the next start.
    assert!(cluster.node(leader).handle_read(9, 2));
    assert!(cluster.node(leader).handle_read(10, 1));
    for (from, _, answer) in answers {
        cluster.node(leader).handle_message(from, answer);
    }
    cluster.settle();
    assert_eq!(cluster.server(leader).reads.len(), 1);
}

/// P27: what the leader before it has committed may not be known to it yet.
#[test]
fn a_leader_that_has_committed_nothing_in_its_term_confirms_no_read() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let now = RaftMessage { kind: RaftKind::TimeoutNow, term: 1, ..RaftMessage::default() };
    let vote = RaftMessage { kind: RaftKind::VoteResponse, term: 2, ..RaftMessage::default() };
    cluster.node(1).handle_message(2, now);
    cluster.work();
    cluster.node(1).handle_message(2, vote);
    cluster.work();
    assert!(cluster.node(1).is_leader());
    assert!(!cluster.node(1).handle_read(9, 1));
    cluster.settle();
    assert!(cluster.node(1).handle_read(9, 2));
}

/// P5: nobody but that server is held up, and it is served again without a new leader.
#[test]
fn a_follower_whose_disk_hung_for_long_catches_up() {
    let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
    let leader = cluster.elect();
    let term = cluster.node(leader).term();
    let follower = leader % 3 + 1;
    cluster.tick(4);
    cluster.server(follower).prompt = false;
    // Half a minute, with more messages than may be under way.
    for count in 1..=600 {
        cluster.propose(leader, "x");
        cluster.tick(1);
        assert_eq!(cluster.commands(leader).len(), count);
    }
    assert_eq!(cluster.commands(follower), [b""; 0]);
    cluster.server(follower).prompt = true;
    cluster.tick(10);
    assert_eq!(cluster.commands(follower).len(), 600);
    assert_eq!((cluster.node(leader).is_leader(), cluster.node(leader).term()), (true, term));
}

/// P32: a refusal that comes late or twice must not take a leader back behind what a follower has
/// acknowledged.
#[test]
fn messages_in_any_order_and_twice_take_no_leader_back() {
    let mut late_refusals = 0;
    for seed in 0..40 {
        let mut state = seed;
        let mut dice = |below: u64| {
            state = splitmix(state);
            state % below
        };
        let mut cluster = Cluster::of(&[voter(1), voter(2), voter(3)]);
        let leader = cluster.elect();
        for _ in 0..1_500 {
            let peer = 1 + dice(3);
            match dice(40) {
                0..=9 => drop(cluster.node(leader).handle_proposal(vec!["x".into()])),
                10..=12 if peer != leader => cluster.node(leader).handle_unreachable(peer),
                13..=15 => cluster.node(peer).handle_tick(),
                16 => take_snapshot(&mut cluster, leader, dice(4)),
                _ => {}
            }
            cluster.work();
            for _ in 0..dice(4).min(cluster.wire.len() as u64) {
                let at = usize::try_from(dice(cluster.wire.len() as u64)).unwrap();
                let (from, again) = &cluster.wire[at];
                let (from, to, message) = (*from, again.to, again.message.clone());
                if dice(3) > 0 {
                    cluster.wire.remove(at);
                }
                let (matched, ..) = cluster.node(to).progress(from).unwrap_or_default();
                let late = message.reject && message.log_id.index <= matched;
                late_refusals += u32::from(late && cluster.node(to).is_leader());
                cluster.node(to).handle_message(from, message);
                assert_eq!(cluster.node(to).fatal(), None, "seed {seed}");
            }
            if cluster.wire.len() > 200 {
                cluster.wire.drain(..100);
            }
            for (id, progress) in cluster.node(leader).raw.raft.prs().iter() {
                assert!(progress.next_idx > progress.matched, "seed {seed}, {id}: {progress:?}");
            }
        }
    }
    assert!(late_refusals > 1_000, "{late_refusals}");
}

fn take_snapshot(cluster: &mut Cluster, id: u64, keep: u64) {
    let log_id = cluster.node(id).applied();
    let system = cluster.node(id).membership_at(log_id.index).encode();
    let meta = SnapshotMeta { log_id, system, size_bytes: 0 };
    cluster.node(id).handle_snapshot_taken(meta, keep);
}

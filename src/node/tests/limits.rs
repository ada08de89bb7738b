//! What is sent and handed out at once, at its limit.

use bytes::Bytes;

use super::cluster::{Cluster, Disk, Server, voter};
use crate::config::Config;
use crate::id::LogId;
use crate::membership::Membership;
use crate::node::APPLY_ENTRIES_MAX;
use crate::storage::Entry;
use crate::transport::{RaftKind, RaftMessage};

#[test]
fn an_apply_job_holds_no_more_than_it_may() {
    let disk = Disk::bootstrapped(&Membership::first([voter(1), voter(2), voter(3)]));
    let mut server = Server::new(1, disk, &Config::default());
    let entry = |index| Entry::application(LogId { term: 2, index }, &[0; 100]);
    let append = RaftMessage {
        kind: RaftKind::Append,
        term: 2,
        log_id: LogId { term: 1, index: 1 },
        commit: APPLY_ENTRIES_MAX + 99,
        entries: (2..APPLY_ENTRIES_MAX + 100).map(entry).collect(),
        ..RaftMessage::default()
    };
    server.node.handle_message(2, append);
    let job = server.node.take_write().unwrap();
    server.node.handle_persisted(job.number);
    let sizes = [(1_000, 10), (50, 1), (u64::MAX, APPLY_ENTRIES_MAX)];
    for (bytes_max, count) in sizes {
        let job = server.node.take_apply(bytes_max).unwrap();
        assert_eq!(job.entries.len() as u64, count);
    }
}

/// The engine sends one message a proposal and then waits for a round trip.
#[test]
fn all_of_a_large_proposal_is_sent_at_once() {
    let mut config = Config::default();
    config.append_bytes_max = 1_000;
    let mut cluster = Cluster::with(&[voter(1), voter(2), voter(3)], &config);
    let leader = cluster.elect();
    cluster.tick(4);
    cluster.sent.clear();
    let commands = vec![Bytes::from(vec![0; 100]); 50];
    let first = cluster.node(leader).handle_proposal(commands).unwrap();
    cluster.work();
    let to = leader % 3 + 1;
    let sent = cluster.sent.iter().filter(|(_, peer, _)| *peer == to);
    let sent: usize = sent.map(|(_, _, message)| message.entries.len()).sum();
    assert_eq!(sent, 50, "from {first} on");
}

/// A transport refuses what is too long, and then a follower that is far behind would crawl.
#[test]
fn no_append_holds_more_bytes_than_it_may() {
    let mut config = Config::default();
    config.append_bytes_max = 1_000;
    let mut cluster = Cluster::with(&[voter(1), voter(2), voter(3)], &config);
    let leader = cluster.elect();
    let follower = leader % 3 + 1;
    cluster.cut.insert(follower);
    for _ in 0..10 {
        let commands = vec![Bytes::from(vec![0; 100]); 10];
        assert!(cluster.node(leader).handle_proposal(commands).is_some());
        cluster.settle();
    }
    cluster.cut.clear();
    cluster.tick(20);
    assert_eq!(cluster.commands(follower).len(), 100);
    let bytes = |message: &RaftMessage| -> usize {
        message.entries.iter().map(|entry| entry.payload().len()).sum()
    };
    let longest = cluster.sent.iter().map(|(_, _, message)| bytes(message)).max();
    assert!(longest <= Some(1_000), "{longest:?}");
}

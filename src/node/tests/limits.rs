//! What is sent and handed out at once, at its limit.

use bytes::Bytes;

use super::cluster::{Cluster, Disk, Server, voter};
use crate::config::Config;
use crate::id::{ClusterId, GroupId, LogId};
use crate::membership::{Change, Member, Membership};
use crate::node::{APPLY_ENTRIES_MAX, engine};
use crate::storage::{Entry, EntryKind, SnapshotMeta};
use crate::transport::{Message, MessageBody, RaftKind, RaftMessage};

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

/// How long the message is that holds this.
fn sent_bytes(raft: RaftMessage) -> u64 {
    let message = Message {
        cluster: ClusterId::from_random(1, 1),
        group: GroupId::default(),
        from: 1.into(),
        from_address: "x".repeat(1_024).into(),
        to: Some(2.into()),
        body: MessageBody::Raft(raft),
    };
    message.encode().len() as u64
}

/// P43. The transport was asked whether it carries messages of that length.
#[test]
fn no_append_is_longer_than_the_transport_was_told() {
    let command = |index| Entry::application(LogId { term: 1, index }, &[]);
    let empty = |index| Entry {
        log_id: LogId { term: index, index },
        kind: EntryKind::Empty,
        data: Bytes::new(),
    };
    let makers: [fn(u64) -> Entry; 2] = [command, empty];
    let mut config = Config::default();
    config.command_bytes_max = 1;
    for bytes_max in [1, 100, 1_000, 100_000, 2 << 20] {
        config.append_bytes_max = bytes_max;
        for maker in makers {
            // As many as the engine puts into one message.
            let mut entries: Vec<_> =
                (1..=bytes_max / 4 + 2).map(|at| engine::entry_to_engine(maker(at))).collect();
            raft::util::limit_size(&mut entries, Some(bytes_max));
            let entries = entries.iter().map(engine::entry_from_engine).collect();
            let sent = sent_bytes(RaftMessage { entries, ..RaftMessage::default() });
            let told = config.message_bytes();
            assert!(sent <= told, "{sent} bytes of an append of {bytes_max}, not {told}");
        }
    }
    (config.append_bytes_max, config.command_bytes_max) = (1, 3 << 20);
    let entries = vec![Entry::application(LogId { term: 1, index: 1 }, &vec![0; 3 << 20])];
    assert!(
        sent_bytes(RaftMessage { entries, ..RaftMessage::default() }) <= config.message_bytes()
    );
}

/// P43.
#[test]
fn no_membership_is_longer_than_the_transport_was_told() {
    let named = |n: u64| Member::voter(n.into(), "x".repeat(1_000), format!("{n}"));
    let mut count = 1;
    while Membership::first((1..count + 2).map(named)).fits_messages() {
        count += 1;
    }
    let full = Membership::first((1..=count).map(named));
    let replace = Change::Replace { old: 1.into(), new: Member { name: "".into(), ..named(99) } };
    let record = full.plan(&replace).unwrap().unwrap();
    let joint = full.after(Some(&record), 9).unwrap();
    let mut config = Config::default();
    (config.append_bytes_max, config.command_bytes_max) = (1, 1);
    let snapshot = SnapshotMeta { log_id: LogId::default(), system: joint.encode(), size_bytes: 9 };
    let head = RaftMessage { snapshot: Some(snapshot), ..RaftMessage::default() };
    let (sent, told) = (sent_bytes(head), config.message_bytes());
    assert!(sent > 120 << 10 && sent <= told, "{sent} bytes, not {told}");
    let kind = EntryKind::Change;
    let entries = vec![Entry { log_id: LogId::default(), kind, data: record.encode() }];
    let sent = sent_bytes(RaftMessage { entries, ..RaftMessage::default() });
    assert!(sent > 60 << 10 && sent <= told, "{sent} bytes, not {told}");
}

//! Messages that are for somebody else.

use futures::executor::block_on;

use super::stage::Stage;
use crate::id::{ClusterId, GroupId, LogId};
use crate::storage::SnapshotMeta;
use crate::transport::{
    Message, MessageBody, RaftKind, RaftMessage, Request, RequestId, StreamRefused, Verb,
};

/// A heartbeat of server 2, which would lead.
fn heartbeat(stage: &Stage) -> Message {
    let raft = RaftMessage { kind: RaftKind::Heartbeat, term: 9, ..RaftMessage::default() };
    stage.message(2, MessageBody::Raft(raft))
}

/// Messages that differ from a good one in one thing each.
fn misdirected(good: &Message) -> [Message; 5] {
    [
        Message { cluster: ClusterId::from_random(7, 7), ..good.clone() },
        Message { cluster: ClusterId::NIL, ..good.clone() },
        Message { group: GroupId(1), ..good.clone() },
        Message { from: 1.into(), ..good.clone() },
        Message { to: Some(3.into()), ..good.clone() },
    ]
}

#[test]
fn a_message_for_another_cluster_group_or_server_is_dropped_and_counted() {
    let stage = Stage::new(|_| {});
    let good = heartbeat(&stage);
    for (count, message) in (1..).zip(misdirected(&good)) {
        stage.inbox().deliver(message);
        stage.ticks(1);
        assert_eq!(stage.raft.status().term, 1);
        assert_eq!(stage.raft.status().counters.misdirected, count);
    }
    stage.inbox().deliver(good);
    stage.turn();
    assert_eq!(stage.raft.status().term, 9);
}

#[test]
fn a_leader_that_has_moved_is_answered_by_whoever_has_not_heard_of_it() {
    let stage = Stage::new(|_| {});
    let moved = Message { from_address: "elsewhere".into(), ..heartbeat(&stage) };
    let answered = || {
        stage.inbox().deliver(moved.clone());
        stage.turn();
        let (peer, _) = stage.sent().pop().expect("it is answered");
        assert_eq!(peer.id, Some(2.into()));
        peer.address
    };
    assert_eq!(answered(), "a2");
    stage.lose(2);
    assert_eq!(answered(), "elsewhere");
    // What was said once may be wrong by now.
    stage.lose(2);
    assert_eq!(answered(), "a2");
}

#[test]
fn a_blank_server_may_ask_and_hears_answers_only() {
    let stage = Stage::blank(|_| {});
    let raft = RaftMessage { kind: RaftKind::Heartbeat, term: 9, ..RaftMessage::default() };
    stage.inbox().deliver(Message {
        cluster: ClusterId::from_random(7, 7),
        ..stage.message(2, MessageBody::Raft(raft))
    });
    stage.ticks(1);
    assert_eq!((stage.raft.status().term, stage.raft.status().counters.misdirected), (0, 1));
}

#[test]
fn a_blank_server_is_heard_when_it_asks() {
    let stage = Stage::new(|_| {});
    stage.follow(&[]);
    let request = Request {
        id: RequestId { origin: 4.into(), incarnation: 1, number: 1 },
        hops: 2,
        term: 0,
        patience_ms: 1_000,
        verb: Verb::ReadIndex,
    };
    let ask = stage.message(4, MessageBody::Request(request));
    stage.inbox().deliver(Message { cluster: ClusterId::NIL, to: None, ..ask });
    stage.turn();
    assert_eq!(stage.requests().len(), 1, "passed on to the leader");
}

#[test]
fn a_stream_for_another_cluster_group_or_server_is_not_taken() {
    let stage = Stage::new(|_| {});
    let snapshot = SnapshotMeta {
        log_id: LogId { term: 9, index: 99 },
        system: stage.raft.status().membership.encode(),
        size_bytes: 0,
    };
    let raft = |kind, snapshot| RaftMessage { kind, term: 9, snapshot, ..RaftMessage::default() };
    let snapshot = Some(snapshot);
    let good = stage.message(2, MessageBody::Raft(raft(RaftKind::Snapshot, snapshot.clone())));
    let take = |head| {
        let empty = Box::pin(futures::io::Cursor::new(Vec::new()));
        block_on(stage.inbox().receive_stream(head, empty))
    };
    let mut heads = misdirected(&good).to_vec();
    for body in [raft(RaftKind::Append, snapshot), raft(RaftKind::Snapshot, None)] {
        heads.push(stage.message(2, MessageBody::Raft(body)));
    }
    for head in heads {
        assert_eq!(take(head), Err(StreamRefused::NotNeeded));
    }
    assert_eq!(take(good.clone()), Ok(()));
    stage.ticks(1);
    assert_eq!(stage.raft.status().applied, 99);
    assert_eq!(take(good), Err(StreamRefused::NotNeeded), "it is here already");
}

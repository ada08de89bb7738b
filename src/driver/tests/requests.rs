//! Requests between servers.

use std::sync::Arc;

use super::stage::Stage;
use crate::error::NoLeader;
use crate::id::{ClusterId, GroupId, LogId, NodeId};
use crate::raft::{Consistency, ProposeError, ReadError};
use crate::storage::MemorySnapshotStore;
use crate::transport::{
    Answer, Message, MessageBody, RaftKind, RaftMessage, Refusal, Reply, Request, RequestId, Verb,
};

/// A command of server `origin`, as it was first sent to the leader of `term`.
fn propose(term: u64, origin: u64, number: u64) -> Request {
    Request {
        id: RequestId { origin: origin.into(), incarnation: 7, number },
        hops: 2,
        term,
        patience_ms: 1_000,
        verb: Verb::Propose { commands: vec!["x".into()] },
    }
}

#[test]
fn a_request_that_arrives_twice_is_carried_out_once() {
    let stage = Stage::new(|_| {});
    stage.lead();
    let (last, term) = (stage.raft.status().last, stage.raft.status().term);
    stage.hear(2, MessageBody::Request(propose(term, 2, 1)));
    stage.turn();
    stage.hear(2, MessageBody::Request(propose(term, 2, 1)));
    stage.turn();
    let first = LogId { index: last.index + 1, ..last };
    assert_eq!(stage.raft.status().last, first);
    let answer = Answer { id: propose(term, 2, 1).id, result: Ok(Reply::Appended { first }) };
    assert_eq!(stage.answers(), [answer]);
    // Another request, and another server's of the same number, are not it.
    stage.hear(2, MessageBody::Request(propose(term, 2, 2)));
    stage.hear(3, MessageBody::Request(propose(term, 3, 1)));
    stage.turn();
    assert_eq!(stage.raft.status().last.index, first.index + 2);
}

fn refuse(stage: &Stage, request: &Request) {
    let answer = Answer { id: request.id, result: Err(Refusal::NotLeader) };
    stage.hear(2, MessageBody::Answer(answer));
    stage.turn();
}

/// A leader that hands over refuses everything for up to an election timeout.
#[test]
fn what_the_leader_refused_is_not_asked_again_before_the_next_tick() {
    let stage = Stage::new(|_| {});
    stage.follow(&[]);
    let mut command = stage.call(|raft| async move { raft.propose("x").await });
    let mut read = stage.call(|raft| async move { raft.read(Consistency::Linearizable).await });
    stage.turn();
    for _ in 0..3 {
        let asked = stage.requests();
        assert_eq!(asked.len(), 2, "{asked:?}");
        asked.iter().for_each(|request| refuse(&stage, request));
        assert_eq!(stage.requests(), []);
        stage.ticks(1);
    }
    // A new leader is asked at once.
    stage.requests().iter().for_each(|request| refuse(&stage, request));
    stage.follow(&[]);
    assert_eq!(stage.requests().len(), 2);
    assert!(command.look().is_none() && read.look().is_none());
}

#[test]
fn a_late_refusal_does_not_break_off_the_read_that_came_after_it() {
    let stage = Stage::new(|_| {});
    stage.follow(&[]);
    let mut read = stage.call(|raft| async move { raft.read(Consistency::Linearizable).await });
    stage.turn();
    let old = stage.requests();
    stage.follow(&[]);
    let new = stage.requests();
    refuse(&stage, &old[0]);
    let index = stage.raft.status().applied;
    let answer = Answer { id: new[0].id, result: Ok(Reply::ReadAt { index }) };
    stage.hear(2, MessageBody::Answer(answer));
    stage.turn();
    assert_eq!(read.look().unwrap().unwrap().index, index);
}

#[test]
fn a_copy_of_a_request_to_an_earlier_leader_changes_nothing() {
    let stage = Stage::new(|_| {});
    stage.lead();
    let (last, term) = (stage.raft.status().last, stage.raft.status().term);
    let old = propose(term - 1, 2, 1);
    stage.sent();
    stage.hear(2, MessageBody::Request(old.clone()));
    stage.turn();
    assert_eq!(stage.raft.status().last, last);
    assert_eq!(stage.answers(), [Answer { id: old.id, result: Err(Refusal::NotLeader) }]);
}

/// Found by the simulator: the answer to the first copy was lost, the leader restarted, and what it
/// said to the second copy made a command that was applied one that never would be.
#[test]
fn a_restarted_leader_does_not_say_that_what_it_was_asked_before_was_not_done() {
    let snapshots = Arc::new(MemorySnapshotStore::new());
    let stage = Stage::new(|parts| parts.snapshots = snapshots.clone());
    stage.lead();
    let request = propose(stage.raft.status().term, 2, 1);
    stage.hear(2, MessageBody::Request(request.clone()));
    stage.turn();
    assert!(matches!(stage.answers()[..], [Answer { result: Ok(Reply::Appended { .. }), .. }]));
    let log = Box::new(stage.log.crash(0));
    let stage = Stage::new(|parts| (parts.snapshots, parts.log) = (snapshots, log));
    let later = propose(request.term + 1, 2, 2);
    for request in [&request, &later] {
        stage.hear(2, MessageBody::Request(request.clone()));
    }
    stage.turn();
    let unknown = Answer { id: request.id, result: Err(Refusal::Unknown) };
    let refused = Answer { id: later.id, result: Err(Refusal::NotLeader) };
    assert_eq!(stage.answers(), [unknown, refused]);
}

/// Which requests were taken in is remembered of so many senders only.
#[test]
fn who_has_forgotten_what_it_was_asked_as_leader_does_not_say_that_it_was_not_done() {
    let stage = Stage::new(|_| {});
    stage.lead();
    let term = stage.raft.status().term;
    let request = propose(term, 2, 1);
    stage.hear(2, MessageBody::Request(request.clone()));
    stage.turn();
    assert!(matches!(stage.answers()[..], [Answer { result: Ok(Reply::Appended { .. }), .. }]));
    stage.play();
    // It leads no more.
    stage.follow(&[]);
    for incarnation in 1_000..2_024 {
        let id = RequestId { incarnation, ..request.id };
        let probe = Request { id, verb: Verb::ReadIndex, ..propose(term + 1, 2, 1) };
        stage.hear(2, MessageBody::Request(probe));
        stage.turn();
    }
    stage.sent();
    let id = RequestId { incarnation: 2_023, number: 2, ..request.id };
    let never_taken = Request { id, ..propose(term + 1, 2, 2) };
    for request in [&never_taken, &request] {
        stage.hear(2, MessageBody::Request(request.clone()));
    }
    stage.turn();
    let refused = Answer { id: never_taken.id, result: Err(Refusal::NotLeader) };
    let unknown = |id| Answer { id, result: Err(Refusal::Unknown) };
    assert_eq!(stage.answers(), [refused, unknown(request.id)]);
    // It leads again, in a later term.
    stage.lead();
    let last = stage.raft.status().last;
    let sibling = propose(term, 3, 1);
    stage.sent();
    stage.hear(3, MessageBody::Request(sibling.clone()));
    stage.turn();
    assert_eq!(stage.answers(), [unknown(sibling.id)]);
    assert_eq!(stage.raft.status().last, last);
    let now = propose(stage.raft.status().term, 3, 3);
    stage.hear(3, MessageBody::Request(now));
    stage.turn();
    assert!(matches!(stage.answers()[..], [Answer { result: Ok(Reply::Appended { .. }), .. }]));
}

#[test]
fn commands_that_come_back_out_of_order_end_at_their_own_deadlines() {
    let stage = Stage::new(|_| {});
    stage.follow(&[]);
    let mut old = stage.call(|raft| async move { raft.propose("old").await });
    stage.turn();
    stage.ticks(10);
    let mut new = stage.call(|raft| async move { raft.propose("new").await });
    stage.turn();
    let asked = stage.requests();
    assert_eq!(asked.len(), 2);
    asked.iter().for_each(|request| refuse(&stage, request));
    // They go out together again, for as long as the older one has.
    stage.ticks(1);
    let together = stage.requests();
    let patience: Vec<_> = together.iter().map(|request| request.patience_ms).collect();
    assert_eq!(patience, [2_890]);
    refuse(&stage, &together[0]);
    // Until there is no leader to ask any more; then each ends for itself.
    for _ in 0..80 {
        stage.ticks(1);
        stage.requests().iter().for_each(|request| refuse(&stage, request));
    }
    assert_eq!(stage.raft.status().leader, None);
    stage.ticks(208);
    assert_eq!(old.look(), None);
    stage.ticks(2);
    assert_eq!(old.look(), Some(Err(ProposeError::NoLeader(NoLeader))));
    assert_eq!(new.look(), None);
    stage.ticks(10);
    assert_eq!(new.look(), Some(Err(ProposeError::NoLeader(NoLeader))));
}

#[test]
fn a_request_is_passed_on_twice_at_most() {
    let stage = Stage::new(|_| {});
    stage.follow(&[]);
    let term = stage.raft.status().term;
    for (number, hops) in [(1, 2), (2, 1)] {
        stage.hear(3, MessageBody::Request(Request { hops, ..propose(term, 3, number) }));
        stage.turn();
        let passed = stage.requests();
        assert_eq!(passed, [Request { hops: hops - 1, ..propose(term, 3, number) }]);
    }
    stage.hear(3, MessageBody::Request(Request { hops: 0, ..propose(term, 3, 3) }));
    stage.turn();
    let refused = Answer { id: propose(term, 3, 3).id, result: Err(Refusal::NotLeader) };
    assert_eq!(stage.answers(), [refused]);
}

/// P28: whichever answer comes late, each ends its own attempt at most.
#[test]
fn an_answer_to_an_earlier_attempt_does_not_end_a_read() {
    let stage = Stage::new(|_| {});
    stage.follow(&[]);
    let mut read = stage.call(|raft| async move { raft.read(Consistency::Linearizable).await });
    stage.turn();
    let old = stage.requests();
    stage.follow(&[]);
    let new = stage.requests();
    let index = stage.raft.status().applied;
    let earlier_start = RequestId { incarnation: new[0].id.incarnation ^ 1, ..new[0].id };
    for id in [old[0].id, earlier_start, RequestId { origin: 2.into(), ..new[0].id }] {
        let answer = Answer { id, result: Ok(Reply::ReadAt { index }) };
        stage.hear(2, MessageBody::Answer(answer));
        stage.turn();
        assert_eq!(read.look(), None, "{id:?}");
    }
    let answer = Answer { id: new[0].id, result: Ok(Reply::ReadAt { index }) };
    stage.hear(2, MessageBody::Answer(answer));
    stage.turn();
    assert_eq!(read.look().unwrap().unwrap().index, index);
}

/// P30: the engine drops a read without a word in each of these.
#[test]
fn a_read_ends_at_its_deadline_whether_nobody_leads_or_the_leader_is_silent() {
    let nobody_leads = |_: &Stage| {};
    let heard_but_silent = |stage: &Stage| {
        let term = stage.raft.status().term.max(2);
        let kind = RaftKind::Heartbeat;
        stage.hear(2, MessageBody::Raft(RaftMessage { kind, term, ..RaftMessage::default() }));
    };
    let leads_and_commits_nothing = |stage: &Stage| {
        for (peer, message) in stage.sent() {
            let MessageBody::Raft(raft) = message.body else { continue };
            let kind = match raft.kind {
                RaftKind::PreVote => RaftKind::PreVoteResponse,
                RaftKind::Vote => RaftKind::VoteResponse,
                RaftKind::Heartbeat => RaftKind::HeartbeatResponse,
                _ => continue,
            };
            let from = if peer.address == "a2" { 2 } else { 3 };
            let context = raft.context;
            let answer = RaftMessage { kind, term: raft.term, context, ..RaftMessage::default() };
            stage.hear(from, MessageBody::Raft(answer));
        }
    };
    let drops: [&dyn Fn(&Stage); 3] =
        [&nobody_leads, &heard_but_silent, &leads_and_commits_nothing];
    for (at, drop) in drops.into_iter().enumerate() {
        let stage = Stage::new(|_| {});
        for _ in 0..100 {
            drop(&stage);
            stage.ticks(1);
        }
        assert_eq!(stage.raft.status().leader.is_some(), at > 0, "{at}");
        let mut read = stage.call(|raft| async move { raft.read(Consistency::Linearizable).await });
        for _ in 0..298 {
            drop(&stage);
            stage.ticks(1);
        }
        assert_eq!(read.look(), None, "{at}");
        drop(&stage);
        stage.ticks(4);
        assert_eq!(read.look(), Some(Err(ReadError::NoLeader(NoLeader))), "{at}");
    }
}

/// P12, P38: an address may have been given to another server.
#[test]
fn what_is_for_another_server_or_of_another_cluster_changes_nothing_and_is_counted() {
    let stage = Stage::new(|_| {});
    stage.follow(&[]);
    let before = stage.raft.status();
    let heartbeat = RaftMessage { kind: RaftKind::Heartbeat, term: 9, ..RaftMessage::default() };
    let good = stage.message(2, MessageBody::Raft(heartbeat));
    let mut twin = NodeId::from(2).to_bytes();
    twin[15] = 1;
    let bad = [
        Message { to: Some(3.into()), ..good.clone() },
        Message { cluster: ClusterId::from_random(9, 9), ..good.clone() },
        Message { group: GroupId(9), ..good.clone() },
        Message { from: 1.into(), ..good.clone() },
        Message { from: NodeId::from_bytes(twin).unwrap(), ..good.clone() },
    ];
    for (count, message) in (1..).zip(bad) {
        stage.hear_message(message);
        stage.ticks(1);
        assert_eq!(stage.raft.status().counters.misdirected, count);
    }
    assert_eq!(stage.raft.status().term, before.term);
    stage.hear_message(good);
    stage.turn();
    assert_eq!(stage.raft.status().term, 9);
}

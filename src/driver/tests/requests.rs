//! Requests between servers.

use super::stage::Stage;
use crate::error::NoLeader;
use crate::id::LogId;
use crate::raft::{Consistency, ProposeError};
use crate::transport::{Answer, MessageBody, Refusal, Reply, Request, RequestId, Verb};

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

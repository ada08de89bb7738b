//! What the driver owes the engine.

use super::stage::Stage;
use crate::error::Fatal;
use crate::transport::{MessageBody, RaftKind, RaftMessage};

/// W6: what is on the disk after a failed write is unknown. Nothing is reported, and whatever comes
/// in with the failure is not answered any more.
#[test]
fn w6_after_a_failed_write_nothing_is_sent_and_nothing_written() {
    let stage = Stage::new(|_| {});
    stage.follow(&[b"a"]);
    stage.sent();
    stage.disk.shut();
    stage.log.fail_next_write();
    let term = stage.raft.status().term;
    stage.append(term, &[b"b"]);
    let heartbeat = RaftMessage { kind: RaftKind::Heartbeat, term, ..RaftMessage::default() };
    stage.hear(2, MessageBody::Raft(heartbeat));
    stage.disk.open();
    stage.turn();
    assert_eq!(stage.sent(), []);
    assert!(matches!(stage.raft.status().stopped, Some(Fatal::Storage(_))));
    assert_eq!(stage.raft.status().counters.log_writes, 2);
}

/// W4: what a write releases is not sent before it, and its answer finds the write reported.
#[test]
fn w4_a_vote_is_asked_for_when_the_own_one_is_durable_and_reported() {
    let stage = Stage::new(|_| {});
    stage.disk.shut();
    while stage.raft.status().term < 2 {
        stage.ticks(1);
        // The pre-votes are granted; the vote that follows is being written.
        stage.answer();
        stage.turn();
    }
    let asks_for_votes = |stage: &Stage| {
        let sent = stage.sent().into_iter().map(|(_, message)| message.body);
        sent.filter_map(|body| match body {
            MessageBody::Raft(raft) if raft.kind == RaftKind::Vote => Some(raft.term),
            _ => None,
        })
        .max()
    };
    let term = stage.raft.status().term;
    assert_eq!(asks_for_votes(&stage), None);
    stage.disk.open();
    stage.turn();
    assert_eq!(asks_for_votes(&stage), Some(term));
    let grant = RaftMessage { kind: RaftKind::VoteResponse, term, ..RaftMessage::default() };
    stage.hear(2, MessageBody::Raft(grant));
    stage.play();
    assert!(stage.raft.status().established);
}

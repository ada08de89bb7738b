//! Requests between servers.

use super::stage::Stage;
use crate::id::LogId;
use crate::transport::{Answer, MessageBody, Reply, Request, RequestId, Verb};

/// A command of server `origin`, as it was first sent.
fn propose(origin: u64, number: u64) -> Request {
    Request {
        id: RequestId { origin: origin.into(), incarnation: 7, number },
        hops: 2,
        patience_ms: 1_000,
        verb: Verb::Propose { commands: vec!["x".into()] },
    }
}

fn answers(stage: &Stage) -> Vec<Answer> {
    let answer = |body| match body {
        MessageBody::Answer(answer) => Some(answer),
        _ => None,
    };
    stage.sent().into_iter().filter_map(|(_, message)| answer(message.body)).collect()
}

#[test]
fn a_request_that_arrives_twice_is_carried_out_once() {
    let stage = Stage::new(|_| {});
    stage.lead();
    let last = stage.raft.status().last;
    stage.hear(2, MessageBody::Request(propose(2, 1)));
    stage.turn();
    stage.hear(2, MessageBody::Request(propose(2, 1)));
    stage.turn();
    let first = LogId { index: last.index + 1, ..last };
    assert_eq!(stage.raft.status().last, first);
    let answer = Answer { id: propose(2, 1).id, result: Ok(Reply::Appended { first }) };
    assert_eq!(answers(&stage), [answer]);
    // Another request, and another server's of the same number, are not it.
    stage.hear(2, MessageBody::Request(propose(2, 2)));
    stage.hear(3, MessageBody::Request(propose(3, 1)));
    stage.turn();
    assert_eq!(stage.raft.status().last.index, first.index + 2);
}

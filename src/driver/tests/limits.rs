//! What may wait, at its limit.

use std::future::Future as _;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use super::stage::Stage;
use crate::config::COMMAND_OVERHEAD_BYTES;
use crate::error::NoLeader;
use crate::raft::{Consistency, ProposeError, ReadError};
use crate::transport::{Answer, MessageBody, Refusal, Reply, Request, RequestId, Verb};

#[test]
fn commands_without_a_byte_are_limited_too() {
    let stage = Stage::new(|parts| {
        parts.config.command_bytes_max = 1;
        parts.config.waiting_bytes_max = 10 * COMMAND_OVERHEAD_BYTES;
    });
    let propose = || stage.call(|raft| async move { raft.propose("").await });
    let mut waiting: Vec<_> = (0..10).map(|_| propose()).collect();
    stage.ticks(5);
    let refused = stage.now(|raft| async move { raft.propose("").await });
    let limit = 10 * COMMAND_OVERHEAD_BYTES;
    assert_eq!(refused, Err(ProposeError::Overloaded { limit }));
    stage.ticks(305);
    for call in &mut waiting {
        assert_eq!(call.look(), Some(Err(ProposeError::NoLeader(NoLeader))));
    }
    assert!(propose().look().is_none(), "there is room again");
}

/// A leader whose disk hangs, but whose followers' do not, could otherwise fill its memory.
#[test]
fn a_leader_takes_no_more_commands_than_it_can_make_durable() {
    let stage = Stage::new(|parts| {
        parts.config.waiting_bytes_max = 4_000;
        parts.config.command_bytes_max = 1_000;
        parts.config.log_cache_bytes_max = 0;
    });
    stage.lead();
    stage.disk.shut();
    let term = stage.raft.status().term;
    let request = |number| Request {
        id: RequestId { origin: 2.into(), incarnation: 7, number },
        hops: 2,
        term,
        patience_ms: 1_000,
        verb: Verb::Propose { commands: vec![vec![0; 1_000].into()] },
    };
    for number in 1..=5 {
        stage.hear(2, MessageBody::Request(request(number)));
        stage.turn();
    }
    let answers = stage.answers();
    let appended = |answer: &&Answer| matches!(answer.result, Ok(Reply::Appended { .. }));
    assert_eq!(answers.iter().filter(appended).count(), 4);
    assert_eq!(answers[4].result, Err(Refusal::Overloaded));
    // Its own wait, and end with the reason; what needs no room goes on.
    let mut command = stage.call(|raft| async move { raft.propose("x").await });
    let mut read = stage.call(|raft| async move { raft.read(Consistency::Linearizable).await });
    assert!(stage.until(&mut read).is_ok());
    let overloaded = Err(ProposeError::Overloaded { limit: 4_000 });
    assert_eq!(stage.until(&mut command), overloaded);
    let mut last = stage.call(|raft| async move { raft.propose("x").await });
    stage.disk.open();
    assert!(stage.until(&mut last).is_ok());
}

#[test]
fn no_more_reads_wait_than_requests_may() {
    let stage = Stage::new(|parts| parts.config.waiting_requests_max = 3);
    let read = || stage.call(|raft| async move { raft.read(Consistency::Linearizable).await });
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(read());
        stage.turn();
    }
    let mut refused = read();
    stage.turn();
    assert_eq!(refused.look(), Some(Err(ReadError::Overloaded { limit: 3 })));
    stage.lead();
    assert!(waiting.iter_mut().all(|read| stage.until(read).is_ok()));
    // Others are held to it too.
    let ask = |number| Request {
        id: RequestId { origin: 2.into(), incarnation: 7, number },
        hops: 2,
        term: 0,
        patience_ms: 1_000,
        verb: Verb::ReadIndex,
    };
    (1..=4).for_each(|number| stage.hear(2, MessageBody::Request(ask(number))));
    stage.turn();
    assert_eq!(stage.answers(), [Answer { id: ask(4).id, result: Err(Refusal::Overloaded) }]);
}

#[test]
fn no_more_requests_are_under_way_than_may_wait() {
    let stage = Stage::new(|parts| parts.config.waiting_requests_max = 2);
    stage.follow(&[]);
    let transfer = || stage.call(|raft| async move { raft.transfer_leadership(3.into()).await });
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(transfer());
        stage.turn();
    }
    let asked = stage.requests();
    assert_eq!(asked.len(), 2);
    let answer = Answer { id: asked[0].id, result: Ok(Reply::Transferred) };
    stage.hear(2, MessageBody::Answer(answer));
    stage.ticks(5);
    assert_eq!(calls[0].look(), Some(Ok(())));
    // The third tries again until there is room or its time is over.
    assert_eq!(calls[2].look(), None);
    stage.ticks(5);
    assert_eq!(calls[2].look(), None);
    stage.turn();
    assert_eq!(stage.requests().len(), 1);
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

/// While nothing changes, every request that waits for a leader makes a watch, and lets go of it.
#[test]
fn a_watch_that_was_let_go_is_forgotten() {
    let stage = Stage::new(|_| {});
    let nobody = Arc::new(Nobody);
    let waker = Waker::from(Arc::clone(&nobody));
    let mut watch = stage.raft.watch();
    let mut changed = Box::pin(watch.changed());
    assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert_eq!(Arc::strong_count(&nobody), 3, "its waker is kept, once");
    drop(changed);
    drop(watch);
    assert_eq!(Arc::strong_count(&nobody), 2);
}

//! What may wait, at its limit.

use std::future::Future as _;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use super::stage::{Stage, Wire};
use crate::config::COMMAND_OVERHEAD_BYTES;
use crate::driver::propose::BUNDLE_COMMANDS_MAX;
use crate::driver::{INBOUND_PER_TURN, UNAPPLIED_ENTRIES_MAX};
use crate::error::NoLeader;
use crate::id::LogId;
use crate::raft::{Consistency, ProposeError, ReadError};
use crate::status::RaftRole;
use crate::transport::{Answer, MessageBody, RaftKind, Refusal, Reply, Request, RequestId, Verb};

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

/// What a leader answers to five commands of another server, of which four fit its limit.
fn five_commands(stage: &Stage) -> Vec<Answer> {
    let term = stage.raft.status().term;
    for number in 1..=5 {
        stage.hear(2, MessageBody::Request(request(term, number, vec![vec![0; 1_000].into()])));
        stage.turn();
    }
    stage.answers()
}

/// P15.
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
    let answers = five_commands(&stage);
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

/// P33: what nobody acknowledges cannot leave memory.
#[test]
fn a_leader_takes_no_more_commands_than_a_quorum_takes_from_it() {
    let stage = Stage::new(|parts| {
        parts.config.waiting_bytes_max = 4_000;
        parts.config.command_bytes_max = 1_000;
        parts.config.log_cache_bytes_max = 0;
    });
    stage.lead();
    let answers = five_commands(&stage);
    assert!(answers[..4].iter().all(|answer| answer.result.is_ok()), "{answers:?}");
    assert_eq!(answers[4].result, Err(Refusal::Overloaded));
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

/// P34: by default, commands do not travel one by one.
#[test]
fn commands_that_wait_together_travel_in_one_append() {
    let stage = Stage::new(|_| {});
    stage.lead();
    stage.sent();
    let calls: Vec<_> =
        (0..64).map(|_| stage.call(|raft| async move { raft.propose("x").await })).collect();
    stage.turn();
    let appends = stage.sent().into_iter().filter_map(|(_, message)| match message.body {
        MessageBody::Raft(raft) if raft.kind == RaftKind::Append => Some(raft.entries.len()),
        _ => None,
    });
    assert_eq!(appends.collect::<Vec<_>>(), [64, 64]);
    assert_eq!(calls.len(), 64);
}

/// P20: it has no queue that could fill.
#[test]
fn whoever_watches_seldom_sees_the_latest_and_holds_nobody_up() {
    let stage = Stage::new(|_| {});
    let mut watch = stage.raft.watch();
    for _ in 0..20 {
        stage.lead();
        stage.follow(&[]);
    }
    stage.lead();
    let latest = stage.raft.status();
    let mut watching = stage.now(|_| async move {
        assert_eq!(watch.changed().await, latest);
        watch
    });
    let mut next = stage.call(|_| async move { watching.changed().await.role });
    stage.ticks(10);
    assert_eq!(next.look(), None, "there is nothing new");
    stage.follow(&[]);
    assert_eq!(next.look(), Some(RaftRole::Follower));
}

/// P43: or a command could get into the log that no follower is ever sent.
#[test]
fn a_node_does_not_start_on_a_transport_that_does_not_carry_its_longest_command() {
    let refused = |command_bytes_max| {
        let started = Stage::try_blank(|parts| {
            parts.config.command_bytes_max = command_bytes_max;
            parts.transport = Arc::new(Wire::narrow(8 << 20));
        });
        started.err().map(|error| error.to_string())
    };
    assert_eq!(refused(4 << 20), None);
    let text = "the transport: a message of 8523776 bytes is over the limit of 8388608";
    assert_eq!(refused(5 << 20).as_deref(), Some(text));
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

#[test]
fn a_request_holds_no_more_commands_and_bytes_than_it_may() {
    let stage = Stage::new(|parts| parts.config.append_bytes_max = 1_000);
    let propose =
        |len: usize| stage.call(move |raft| async move { raft.propose(vec![0; len]).await });
    let mut waiting: Vec<_> = [600, 400, 1, 5_000, 5_000].into_iter().map(propose).collect();
    waiting.extend((0..=BUNDLE_COMMANDS_MAX).map(|_| propose(0)));
    stage.follow(&[]);
    let bundles: Vec<(usize, usize)> = stage
        .requests()
        .into_iter()
        .map(|request| {
            let Verb::Propose { commands } = request.verb else { panic!("{request:?}") };
            (commands.len(), commands.iter().map(bytes::Bytes::len).sum())
        })
        .collect();
    assert_eq!(
        bundles,
        [(2, 1_000), (1, 1), (1, 5_000), (1, 5_000), (BUNDLE_COMMANDS_MAX, 0), (1, 0)]
    );
}

/// Otherwise a flood of messages would keep this server from its own clock and its own callers.
#[test]
fn a_turn_takes_no_more_messages_than_it_may() {
    for (flood, place) in [(INBOUND_PER_TURN - 1, 1), (INBOUND_PER_TURN, 2)] {
        let stage = Stage::new(|_| {});
        stage.lead();
        let last = stage.raft.status().last;
        (0..flood).for_each(|_| stage.hear(3, MessageBody::Probe(bytes::Bytes::new())));
        stage.hear(2, MessageBody::Request(request(last.term, 1, vec!["x".into()])));
        let mut call = stage.call(|raft| async move { raft.propose("x").await });
        stage.turn();
        let first = LogId { index: last.index + place, ..last };
        assert_eq!(stage.answers()[0].result, Ok(Reply::Appended { first }));
        assert!(call.look().is_none());
    }
}

#[test]
fn no_more_entries_wait_to_be_applied_than_may() {
    let stage = Stage::new(|_| {});
    stage.lead();
    stage.machine.shut();
    let term = stage.raft.status().term;
    let eighth = usize::try_from(UNAPPLIED_ENTRIES_MAX / 8).unwrap();
    let mut taken = 0;
    for number in 1..=10 {
        let commands = vec![bytes::Bytes::new(); eighth];
        stage.hear(2, MessageBody::Request(request(term, number, commands)));
        stage.turn();
        taken += stage
            .sent()
            .iter()
            .filter(|(_, message)| match &message.body {
                MessageBody::Answer(answer) => answer.result.is_ok(),
                _ => false,
            })
            .count();
    }
    assert_eq!(taken, 9, "eight are as many as may wait");
    let mut command = stage.call(|raft| async move { raft.propose("x").await });
    let limit = 8 * eighth;
    assert_eq!(stage.until(&mut command), Err(ProposeError::Overloaded { limit }));
}

/// Commands of server 2, as they were first sent to the leader of `term`.
fn request(term: u64, number: u64, commands: Vec<bytes::Bytes>) -> Request {
    Request {
        id: RequestId { origin: 2.into(), incarnation: 7, number },
        hops: 2,
        term,
        patience_ms: 1_000,
        verb: Verb::Propose { commands },
    }
}

//! What may wait, at its limit.

use super::stage::Stage;
use crate::config::COMMAND_OVERHEAD_BYTES;
use crate::error::NoLeader;
use crate::raft::{Consistency, ProposeError};
use crate::transport::{MessageBody, Refusal, Reply, Request, RequestId, Verb};

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
    let request = |number| Request {
        id: RequestId { origin: 2.into(), incarnation: 7, number },
        hops: 2,
        patience_ms: 1_000,
        verb: Verb::Propose { commands: vec![vec![0; 1_000].into()] },
    };
    for number in 1..=5 {
        stage.hear(2, MessageBody::Request(request(number)));
        stage.turn();
    }
    let answers = stage.answers();
    let appended = |answer: &&crate::transport::Answer| {
        matches!(answer.result, Ok(Reply::Appended { .. }))
    };
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

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

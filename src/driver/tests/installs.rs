//! A snapshot of the leader against what this server is doing.

use super::stage::{Failing, Stage};
use crate::error::Fatal;
use crate::id::LogId;
use crate::transport::{MessageBody, RaftKind, RaftMessage};

/// P40.
/// What the state machine was about to read is gone from the log: the snapshot brings it.
#[test]
fn a_snapshot_that_overtakes_the_state_machine_takes_over() {
    let stage = Stage::new(|parts| parts.config.log_cache_bytes_max = 0);
    stage.reads.shut();
    stage.follow(&[b"a", b"b", b"c"]);
    stage.ticks(1);
    let status = stage.raft.status();
    assert_eq!((status.commit, status.applied), (4, 1), "it waits for the log");
    let at = LogId { term: status.term, index: 100 };
    stage.hear_snapshot(2, status.term, at);
    stage.ticks(1);
    assert_eq!(stage.raft.status().last, at);
    stage.reads.open();
    stage.ticks(1);
    assert_eq!(stage.raft.status().stopped, None);
    assert_eq!(stage.raft.status().applied, 100);
    stage.append(status.term, &[b"d"]);
    stage.ticks(1);
    assert_eq!(stage.raft.status().applied, 101);
}

/// The engine must not be touched between the log it has lost and the snapshot it does not have.
#[test]
fn while_a_snapshot_is_installed_this_server_does_not_campaign() {
    let stage = Stage::new(|_| {});
    stage.follow(&[b"a"]);
    stage.ticks(1);
    let term = stage.raft.status().term;
    stage.disk.shut();
    let at = LogId { term, index: 100 };
    stage.hear_snapshot(2, term, at);
    stage.turn();
    let now = RaftMessage { kind: RaftKind::TimeoutNow, term, ..RaftMessage::default() };
    stage.hear(2, MessageBody::Raft(now));
    // What it applies meanwhile is what it had.
    stage.ticks(200);
    assert_eq!(stage.raft.status().stopped, None);
    assert_eq!(stage.raft.status().term, term);
    stage.disk.open();
    stage.ticks(1);
    assert_eq!(stage.raft.status().applied, 100);
    assert_eq!(stage.raft.status().stopped, None);
}

#[test]
fn a_log_that_is_gone_without_a_snapshot_stops_the_node() {
    let stage = Stage::new(|parts| parts.config.log_cache_bytes_max = 0);
    stage.fail(Failing::Compacted);
    stage.follow(&[b"a"]);
    stage.ticks(1);
    let stopped = stage.raft.status().stopped;
    assert!(matches!(stopped, Some(Fatal::Storage(_))), "{stopped:?}");
}

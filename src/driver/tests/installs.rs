//! A snapshot of the leader against what this server is doing.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use super::gate::lock;
use super::stage::{Failing, Stage};
use crate::error::Fatal;
use crate::id::LogId;
use crate::raft::Raft;
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

/// Looks at the status whenever it is told that there is another.
struct Watcher(Raft, Mutex<Vec<LogId>>);

impl Wake for Watcher {
    fn wake(self: Arc<Self>) {
        lock(&self.1).push(self.0.status().snapshot);
    }
}

/// One that was captured before is written out afterwards.
#[test]
fn the_status_never_goes_back_behind_an_installed_snapshot() {
    let stage = Stage::new(|parts| parts.config.snapshot_after_entries = 2);
    stage.saving.shut();
    stage.follow(&[b"a", b"b", b"c"]);
    stage.ticks(1);
    let term = stage.raft.status().term;
    let at = LogId { term, index: 100 };
    stage.hear_snapshot(2, term, at);
    stage.ticks(1);
    assert_eq!((stage.raft.status().snapshot, stage.raft.status().applied), (at, 100));
    let watcher = Arc::new(Watcher(stage.raft.clone(), Mutex::default()));
    let waker = Waker::from(Arc::clone(&watcher));
    let mut watch = stage.raft.watch();
    let mut changed = pin!(watch.changed());
    assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    stage.saving.open();
    stage.ticks(1);
    assert_eq!(stage.raft.status().counters.snapshots_taken, 1);
    assert_eq!(*lock(&watcher.1), [at]);
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

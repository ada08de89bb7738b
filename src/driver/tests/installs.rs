//! A snapshot of the leader against what this server is doing.

use super::stage::Stage;
use crate::id::LogId;

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

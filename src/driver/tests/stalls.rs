//! Whatever is slow holds up nothing else.

use super::stage::{Failing, Stage};
use crate::error::Fatal;
use crate::id::LogId;
use crate::raft::{Consistency, Raft};
use crate::status::RaftRole;
use crate::transport::{MessageBody, RaftKind, RaftMessage};

/// What was sent as a leader since this was last asked.
fn sent_as_leader(stage: &Stage) -> usize {
    let kinds = stage.sent().into_iter().filter_map(|(_, message)| match message.body {
        MessageBody::Raft(raft) => Some(raft.kind),
        _ => None,
    });
    kinds.filter(|kind| matches!(kind, RaftKind::Append | RaftKind::Heartbeat)).count()
}

fn heartbeat(stage: &Stage) {
    let term = stage.raft.status().term;
    let raft = RaftMessage { kind: RaftKind::Heartbeat, term, ..RaftMessage::default() };
    stage.hear(2, MessageBody::Raft(raft));
}

/// P62: what the application hears of leadership needs no disk.
#[test]
fn whoever_is_not_heard_any_more_says_that_it_does_not_lead_although_its_disk_hangs() {
    let stage = Stage::new(|_| {});
    stage.lead();
    stage.disk.shut();
    let mut command = stage.call(|raft| async move { raft.propose("x").await });
    stage.play();
    let mut watch = stage.raft.watch();
    let mut changed = stage.call(|_| async move { watch.changed().await.role });
    // It asks once in an election timeout who was heard in the last one.
    stage.ticks(2 * 30);
    assert_eq!(changed.look(), Some(RaftRole::Follower));
    assert_eq!(command.look(), None, "its disk still hangs");
}

/// P61: a disk that wakes up does not bring back what leadership was meanwhile.
#[test]
fn a_leader_that_was_replaced_while_its_disk_hung_does_nothing_as_one_when_it_wakes() {
    let stage = Stage::new(|_| {});
    stage.lead();
    stage.disk.shut();
    let _command = stage.call(|raft| async move { raft.propose("x").await });
    let mut read = stage.call(|raft| async move { raft.read(Consistency::Linearizable).await });
    stage.turn();
    stage.follow(&[]);
    assert_eq!(stage.raft.status().role, RaftRole::Follower);
    assert_eq!(stage.requests().len(), 1, "the read is the new leader's");
    stage.disk.open();
    stage.ticks(20);
    assert_eq!(sent_as_leader(&stage), 0);
    assert_eq!(read.look(), None);
}

/// P58.
#[test]
fn a_restore_that_takes_long_keeps_a_follower_from_nothing() {
    let stage = Stage::new(|_| {});
    stage.follow(&[]);
    let term = stage.raft.status().term;
    let at = LogId { term, index: 100 };
    stage.machine.shut();
    stage.hear_snapshot(2, term, at);
    stage.ticks(1);
    assert_eq!((stage.raft.status().last, stage.raft.status().applied), (at, 1));
    // Half a minute.
    for _ in 0..1_000 {
        stage.sent();
        heartbeat(&stage);
        stage.ticks(3);
        let answers = stage.sent().into_iter().filter(|(_, message)| {
            let body = &message.body;
            matches!(body, MessageBody::Raft(raft) if raft.kind == RaftKind::HeartbeatResponse)
        });
        assert_eq!(answers.count(), 1);
    }
    stage.append(term, &[b"x"]);
    let status = stage.raft.status();
    assert_eq!((status.term, status.last.index, status.applied), (term, 101, 1));
    stage.machine.open();
    stage.ticks(1);
    assert_eq!(stage.raft.status().applied, 101);
}

/// P59: what a restore left behind is not applied to.
#[test]
fn a_restore_that_fails_ends_the_node_with_the_reason() {
    let stage = Stage::new(|_| {});
    stage.follow(&[b"a"]);
    stage.fail(Failing::Restore);
    let term = stage.raft.status().term;
    stage.hear_snapshot(2, term, LogId { term, index: 100 });
    stage.append(term, &[b"x"]);
    stage.ticks(1);
    let status = stage.raft.status();
    let Some(Fatal::StateMachine(reason)) = status.stopped else { panic!("it goes on") };
    assert!(reason.contains("planted"), "{reason}");
    assert_eq!(status.applied, 2);
}

/// P18.
#[test]
fn a_shutdown_waits_for_no_snapshot_that_is_being_written_or_restored() {
    let stage = Stage::new(|parts| parts.config.snapshot_after_entries = 2);
    stage.lead();
    stage.saving.shut();
    for _ in 0..4 {
        let mut command = stage.call(|raft| async move { raft.propose("x").await });
        assert!(stage.until(&mut command).is_ok());
    }
    let mut end = stage.call(Raft::shutdown);
    stage.ticks(301);
    assert_eq!(end.look(), Some(Ok(())));

    let stage = Stage::new(|_| {});
    stage.follow(&[]);
    stage.machine.shut();
    let term = stage.raft.status().term;
    stage.hear_snapshot(2, term, LogId { term, index: 100 });
    stage.ticks(1);
    let mut end = stage.call(Raft::shutdown);
    stage.ticks(301);
    assert_eq!(end.look(), Some(Ok(())));
}

/// P46.
#[test]
fn a_snapshot_that_does_not_get_through_holds_up_neither_others_nor_the_end() {
    let stage = Stage::new(|parts| {
        parts.config.snapshot_after_entries = 5;
        parts.config.trailing_entries = 0;
    });
    stage.lead();
    stage.wire.streams.shut();
    let command = || {
        let mut command = stage.call(|raft| async move { raft.propose("x").await });
        stage.turn();
        while stage.answer_as(&[2]) {
            stage.turn();
        }
        assert!(command.look().is_some_and(|result| result.is_ok()));
    };
    (0..20).for_each(|_| command());
    // Server 3 has missed all that, and is heard of again.
    stage.lose(3);
    let term = stage.raft.status().term;
    let raft = RaftMessage { kind: RaftKind::HeartbeatResponse, term, ..RaftMessage::default() };
    stage.hear(3, MessageBody::Raft(raft));
    stage.ticks(1);
    let sent_to = |stage: &Stage| {
        let progress = stage.raft.status().progress;
        progress.into_iter().filter(|peer| peer.snapshot).map(|peer| peer.id).collect::<Vec<_>>()
    };
    assert_eq!(sent_to(&stage), [3.into()]);
    let taken = stage.raft.status().counters.snapshots_taken;
    (0..20).for_each(|_| command());
    assert_eq!(stage.raft.status().counters.snapshots_taken, taken + 4);
    assert_eq!(sent_to(&stage), [3.into()]);
    let mut end = stage.call(Raft::shutdown);
    stage.ticks(1);
    assert_eq!(end.look(), Some(Ok(())));
}

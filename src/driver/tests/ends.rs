//! Every verb ends, whatever hangs, panics or goes away.

use super::stage::{Failing, Stage};
use crate::error::Fatal;
use crate::membership::{Change, MembershipError};
use crate::raft::{
    BootstrapError, Consistency, JoinError, ProposeError, Raft, ReadError, TransferError,
};
use crate::transport::{Answer, MessageBody, Reply};

#[test]
fn a_command_ends_at_its_deadline_although_the_state_machine_hangs() {
    let stage = Stage::new(|_| {});
    stage.lead();
    stage.machine.shut();
    let mut command = stage.call(|raft| async move { raft.propose("x").await });
    stage.play();
    stage.ticks(298);
    assert_eq!(command.look(), None);
    stage.ticks(4);
    assert_eq!(command.look(), Some(Err(ProposeError::Unknown)));
    // What it applied in the end is answered to nobody, and the next caller gets its own answer.
    stage.machine.open();
    let mut command = stage.call(|raft| async move { raft.propose("four").await });
    assert_eq!(stage.until(&mut command).unwrap().answer[..], [4]);
}

/// P18.
#[test]
fn a_shutdown_ends_although_the_state_machine_hangs() {
    let stage = Stage::new(|_| {});
    stage.lead();
    stage.machine.shut();
    let mut command = stage.call(|raft| async move { raft.propose("x").await });
    stage.play();
    let mut end = stage.call(Raft::shutdown);
    stage.ticks(290);
    assert_eq!(end.look(), None, "it is waited for");
    stage.ticks(11);
    assert_eq!(end.look(), Some(Ok(())));
    assert_eq!(command.look(), Some(Err(ProposeError::Unknown)));
    assert_eq!(stage.raft.status().stopped, Some(Fatal::Shutdown));
}

/// P18.
#[test]
fn a_shutdown_ends_although_the_disk_hangs() {
    let stage = Stage::new(|_| {});
    stage.lead();
    stage.disk.shut();
    let mut command = stage.call(|raft| async move { raft.propose("x").await });
    stage.play();
    let mut end = stage.call(Raft::shutdown);
    stage.ticks(301);
    assert_eq!(command.look(), Some(Err(ProposeError::Unknown)));
    assert_eq!(end.look(), Some(Ok(())));
}

/// P18.
#[test]
fn a_shutdown_ends_although_the_transport_hangs() {
    let stage = Stage::new(|_| {});
    stage.lead();
    stage.wire.leaving.shut();
    let mut end = stage.call(Raft::shutdown);
    stage.ticks(299);
    assert_eq!(end.look(), None);
    stage.ticks(2);
    assert_eq!(end.look(), Some(Ok(())));
}

/// P19.
/// A runtime that ends drops the tasks where they are.
#[test]
fn when_the_runtime_drops_the_node_everyone_is_told() {
    let stage = Stage::new(|_| {});
    stage.lead();
    let mut taken = stage.call(|raft| async move { raft.propose("x").await });
    stage.turn();
    let mut waiting = stage.call(|raft| async move { raft.propose("y").await });
    let mut read = stage.call(|raft| async move { raft.read(Consistency::Linearizable).await });
    let mut watch = stage.raft.watch();
    let mut changed = stage.call(|_| async move { watch.changed().await.stopped });
    stage.sim.kill(1);
    let stopped = Fatal::Shutdown;
    assert_eq!(taken.look(), Some(Err(ProposeError::Unknown)));
    assert_eq!(waiting.look(), Some(Err(ProposeError::Stopped(stopped.clone()))));
    assert_eq!(read.look(), Some(Err(ReadError::Stopped(stopped.clone()))));
    assert_eq!(changed.look(), Some(Some(stopped.clone())));
    let after = stage.now(|raft| async move { raft.propose("z").await });
    assert_eq!(after, Err(ProposeError::Stopped(stopped)));
}

#[test]
fn a_panic_of_the_store_ends_the_node_with_the_reason() {
    let stage = Stage::new(|_| {});
    stage.lead();
    stage.fail(Failing::Write);
    let mut command = stage.call(|raft| async move { raft.propose("x").await });
    stage.turn();
    assert_eq!(command.look(), Some(Err(ProposeError::Unknown)));
    let Some(Fatal::Engine(reason)) = stage.raft.status().stopped else { panic!("it goes on") };
    assert!(reason.contains("planted"), "{reason}");
    let after = stage.now(|raft| async move { raft.propose("y").await });
    assert!(matches!(after, Err(ProposeError::Stopped(Fatal::Engine(_)))));
    assert!(stage.is_detached());
}

#[test]
fn while_a_node_ends_the_reason_is_told_already() {
    let stage = Stage::new(|_| {});
    stage.lead();
    stage.wire.leaving.shut();
    stage.log.fail_next_write();
    let mut command = stage.call(|raft| async move { raft.propose("x").await });
    stage.turn();
    assert_eq!(command.look(), Some(Err(ProposeError::Unknown)));
    assert_eq!(stage.raft.status().stopped, None, "it has not ended yet");
    let refused = stage.now(|raft| async move { raft.propose("y").await });
    assert!(matches!(refused, Err(ProposeError::Stopped(Fatal::Storage(_)))), "{refused:?}");
}

#[test]
fn a_panic_of_the_state_machine_ends_the_node_with_the_reason() {
    for failing in [Failing::Apply, Failing::Snapshot, Failing::WriteSnapshot] {
        let stage = Stage::new(|parts| parts.config.snapshot_after_entries = 2);
        stage.lead();
        stage.fail(failing);
        let mut commands = Vec::new();
        for _ in 0..4 {
            if stage.raft.status().stopped.is_none() {
                commands.push(stage.call(|raft| async move { raft.propose("x").await }));
                stage.play();
            }
        }
        stage.ticks(1);
        let Some(Fatal::StateMachine(reason)) = stage.raft.status().stopped else {
            panic!("it goes on: {failing:?}")
        };
        assert!(reason.contains("planted"), "{reason}");
        assert!(commands.iter_mut().all(|command| command.look().is_some()));
    }
}

#[test]
fn a_state_machine_that_gives_too_few_answers_ends_the_node() {
    let stage = Stage::new(|_| {});
    stage.lead();
    stage.fail(Failing::Answers);
    let mut command = stage.call(|raft| async move { raft.propose("x").await });
    stage.play();
    assert_eq!(command.look(), Some(Err(ProposeError::Unknown)));
    let reason = stage.raft.status().stopped.unwrap().to_string();
    assert_eq!(reason, "the state machine failed: 1 commands, but 0 answers");
}

/// Both ask again until somebody leads; the last attempt has no more time than the call.
#[test]
fn a_verb_that_is_tried_again_ends_at_its_own_deadline() {
    let stage = Stage::new(|_| {});
    let change = Change::Remove(3.into());
    let mut change = stage.call(|raft| async move { raft.change_membership(change).await });
    let mut transfer = stage.call(|raft| async move { raft.transfer_leadership(3.into()).await });
    for _ in 0..58 {
        stage.ticks(5);
        assert!(change.look().is_none() && transfer.look().is_none());
    }
    stage.follow(&[]);
    stage.ticks(5);
    assert!(change.look().is_none() && transfer.look().is_none());
    stage.turn();
    assert_eq!(stage.requests().len(), 2);
    stage.ticks(8);
    assert_eq!(change.look(), Some(Err(MembershipError::Unknown)));
    assert_eq!(transfer.look(), Some(Err(TransferError::Unknown)));
}

#[test]
fn a_full_mailbox_is_no_end_and_no_doubt() {
    let stage = Stage::new(|parts| parts.config.waiting_requests_max = 1);
    stage.follow(&[]);
    let mut first = stage.call(|raft| async move { raft.transfer_leadership(3.into()).await });
    // Nothing has been taken up yet, so there is room for nobody.
    let change = Change::Remove(3.into());
    let mut change = stage.call(|raft| async move { raft.change_membership(change).await });
    let mut transfer = stage.call(|raft| async move { raft.transfer_leadership(3.into()).await });
    let overloaded = BootstrapError::Overloaded { limit: 1 };
    assert_eq!(stage.now(|raft| async move { raft.bootstrap(vec![]).await }), Err(overloaded));
    let overloaded = JoinError::Overloaded { limit: 1 };
    assert_eq!(stage.now(|raft| async move { raft.join(&[]).await }), Err(overloaded));
    stage.turn();
    let id = stage.requests()[0].id;
    stage.hear(2, MessageBody::Answer(Answer { id, result: Ok(Reply::Transferred) }));
    stage.ticks(5);
    assert_eq!(first.look(), Some(Ok(())));
    assert!(change.look().is_none() && transfer.look().is_none());
}

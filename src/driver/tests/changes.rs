//! How a change of the membership is judged.

use super::stage::{Stage, TICK};
use crate::driver::forward::change_refused;
use crate::error::{Fatal, NoLeader};
use crate::id::{ClusterId, LogId, NodeId};
use crate::membership::{Change, Member, MembershipError};
use crate::raft::{Consistency, TransferError};
use crate::status::RaftRole;
use crate::storage::{Entry, EntryKind};
use crate::transport::{
    Message, MessageBody, RaftKind, RaftMessage, Reply, Request, RequestId, Verb,
};

fn learner(n: u64) -> Change {
    Change::Add(Member::learner(n.into(), "", format!("a{n}")))
}

#[test]
fn a_change_is_not_taken_for_an_earlier_one_that_ended_late() {
    let stage = Stage::new(|parts| parts.config.verb_timeout = 12 * TICK);
    stage.lead();
    let mut first = stage.call(|raft| async move { raft.change_membership(learner(4)).await });
    stage.ticks(15);
    assert_eq!(first.look(), Some(Err(MembershipError::Unknown)));
    // Its entry is committed in the very turn in which the next change is asked for.
    let mut second = stage.call(|raft| async move { raft.change_membership(learner(5)).await });
    assert!(stage.answer());
    stage.turn();
    assert_eq!(second.look(), None);
    let after = stage.until(&mut second).unwrap();
    assert!(after.member(4.into()).is_some() && after.member(5.into()).is_some());
}

/// Server 2, as leader of term 2, appends the removal of server 3 and does not commit it.
fn hear_of_removal(stage: &Stage) -> LogId {
    let (last, term) = (stage.raft.status().last, 2);
    let log_id = LogId { term, index: last.index + 1 };
    let plan = stage.raft.status().membership.plan(&Change::Remove(3.into()));
    let data = plan.unwrap().unwrap().encode();
    let append = RaftMessage {
        kind: RaftKind::Append,
        term,
        log_id: last,
        commit: last.index,
        entries: vec![Entry { log_id, kind: EntryKind::Change, data }],
        ..RaftMessage::default()
    };
    stage.hear(2, MessageBody::Raft(append));
    stage.turn();
    assert_eq!((stage.raft.status().last, stage.raft.status().commit), (log_id, last.index));
    log_id
}

/// Blank server `n` asks server 1 to take it in.
fn ask_to_join(stage: &Stage, n: u64, number: u64) {
    let member = Member::voter(n.into(), "", format!("a{n}"));
    let request = Request {
        id: RequestId { origin: n.into(), incarnation: 7, number },
        hops: 2,
        term: 0,
        patience_ms: 1_000,
        verb: Verb::Join { member },
    };
    stage.sent();
    let ask = stage.message(n, MessageBody::Request(request));
    stage.hear_message(Message { cluster: ClusterId::NIL, to: None, ..ask });
    stage.turn();
}

/// Server 2 confirms that server 1 leads.
fn confirm(stage: &Stage) {
    assert!(stage.answer_as(&[2]));
    stage.turn();
}

fn joined(stage: &Stage) -> Vec<Result<Reply, MembershipError>> {
    let answers = stage.answers().into_iter();
    answers.map(|answer| answer.result.map_err(|refusal| change_refused(&refusal))).collect()
}

/// P26: whom it has not heard since it leads may have acknowledged something to another leader.
#[test]
fn a_voter_that_lost_everything_is_refused_by_a_new_leader_too() {
    let stage = Stage::new(|_| {});
    // Server 3 answers nothing, in this leadership.
    while !stage.raft.status().established {
        stage.ticks(1);
        while stage.answer_as(&[2]) {
            stage.turn();
        }
    }
    stage.ticks(1);
    let progress = stage.raft.status().progress;
    assert!(progress.iter().any(|peer| peer.id == 3.into() && peer.matched == 0));
    ask_to_join(&stage, 3, 1);
    confirm(&stage);
    assert_eq!(joined(&stage), [Err(MembershipError::UsedId { id: 3.into() })]);
}

/// P26: one that is to be a learner may ask again and again, since the answer may be lost.
#[test]
fn a_server_that_has_nothing_may_ask_again_but_does_not_become_a_voter() {
    let stage = Stage::new(|_| {});
    stage.lead();
    ask_to_join(&stage, 4, 1);
    while stage.answer_as(&[2, 3]) {
        stage.turn();
    }
    assert!(stage.raft.status().membership.is_staging(4.into()));
    let cluster = stage.raft.status().cluster;
    ask_to_join(&stage, 4, 2);
    confirm(&stage);
    assert_eq!(joined(&stage), [Ok(Reply::Joined { cluster })]);
    let voter = Member::voter(4.into(), "", "a4");
    let replace = Change::Replace { old: 3.into(), new: voter };
    for change in [Change::Promote(4.into()), replace] {
        let mut early = stage.call(|raft| async move { raft.change_membership(change).await });
        assert_eq!(stage.until(&mut early), Err(MembershipError::NotReady { id: 4.into() }));
    }
    assert_eq!(stage.raft.status().membership.voters().count(), 3);
}

/// P36: whoever hears of a removal may take the server away.
#[test]
fn a_follower_shows_a_removal_only_when_a_restart_would_know_it() {
    let stage = Stage::new(|_| {});
    let at = hear_of_removal(&stage);
    stage.disk.shut();
    let kind = RaftKind::Heartbeat;
    let commit = RaftMessage { kind, term: 2, commit: at.index, ..RaftMessage::default() };
    stage.hear(2, MessageBody::Raft(commit));
    stage.ticks(1);
    let status = stage.raft.status();
    assert_eq!((status.commit, status.membership.members().count()), (at.index, 3));
    let mut watch = stage.raft.watch();
    let mut changed = stage.call(|_| async move { watch.changed().await });
    stage.disk.open();
    stage.ticks(1);
    let told = changed.look().expect("whoever watches is told").membership;
    assert_eq!((told.index(), told.members().count()), (at.index, 2));
}

/// P36. It finds the removal that its predecessor began.
#[test]
fn a_new_leader_tells_of_a_removal_only_when_a_restart_would_know_it() {
    let stage = Stage::new(|_| {});
    hear_of_removal(&stage);
    while stage.raft.status().role != RaftRole::Leader {
        if !stage.answer() {
            stage.ticks(1);
        }
        stage.turn();
    }
    stage.disk.shut();
    stage.play();
    assert!(stage.raft.status().established);
    let remove = Change::Remove(3.into());
    let mut again = stage.call(|raft| async move { raft.change_membership(remove).await });
    let mut transfer = stage.call(|raft| async move { raft.transfer_leadership(3.into()).await });
    stage.ticks(10);
    assert_eq!(stage.raft.status().membership.members().count(), 3);
    assert_eq!((again.look(), transfer.look()), (None, None));
    stage.disk.open();
    assert_eq!(stage.until(&mut again), Err(MembershipError::NotFound { id: 3.into() }));
    assert_eq!(stage.until(&mut transfer), Err(TransferError::NotFound { id: 3.into() }));
    assert_eq!(stage.raft.status().membership.members().count(), 2);
}

/// What a leader answers from its membership alone.
fn decided() -> [(Change, Result<(), MembershipError>); 3] {
    let member = Member::voter(3.into(), "", "a3");
    let used = Member::learner(9.into(), "", "a3");
    let taken = MembershipError::AddressTaken { address: "a3".into(), id: 3.into() };
    [
        (Change::Add(member), Ok(())),
        (Change::Add(used), Err(taken)),
        (Change::Remove(9.into()), Err(MembershipError::NotFound { id: 9.into() })),
    ]
}

/// Its successor may have told otherwise.
#[test]
fn a_leader_that_was_replaced_denies_nothing_and_grants_nothing() {
    for (change, expected) in decided() {
        let stage = Stage::new(|_| {});
        stage.lead();
        let asked = change.clone();
        let mut call = stage.call(|raft| async move { raft.change_membership(asked).await });
        stage.ticks(3);
        assert_eq!(call.look(), None, "nobody has confirmed that it leads");
        // It goes to whoever leads now.
        stage.follow(&[]);
        for _ in 0..2 {
            assert_eq!(call.look(), None);
            stage.ticks(5);
        }
        let forwarded = stage.requests().pop().expect("the new leader is asked");
        assert_eq!(forwarded.verb, Verb::Change { change: change.clone(), planned_on: None });
        // Whoever leads still answers.
        let stage = Stage::new(|_| {});
        stage.lead();
        let mut call = stage.call(|raft| async move { raft.change_membership(change).await });
        assert_eq!(stage.until(&mut call).map(drop), expected);
    }
}

#[test]
fn a_transfer_is_judged_only_by_who_is_known_to_lead() {
    let cases = [(1, Ok(())), (9, Err(TransferError::NotFound { id: 9.into() }))];
    for (to, expected) in cases {
        let stage = Stage::new(|_| {});
        stage.lead();
        let to = NodeId::from(to);
        let mut call = stage.call(|raft| async move { raft.transfer_leadership(to).await });
        stage.ticks(3);
        assert_eq!(call.look(), None, "nobody has confirmed that it leads");
        assert_eq!(stage.until(&mut call), expected);
    }
}

#[test]
fn a_decision_that_nobody_confirms_in_time_is_not_told() {
    let stage = Stage::new(|parts| parts.config.verb_timeout = 12 * TICK);
    stage.lead();
    let remove = Change::Remove(9.into());
    let mut call = stage.call(|raft| async move { raft.change_membership(remove).await });
    stage.ticks(15);
    assert_eq!(stage.raft.status().role, RaftRole::Leader);
    assert_eq!(call.look(), Some(Err(NoLeader.into())));
}

#[test]
fn no_more_decisions_wait_than_requests_may() {
    let stage = Stage::new(|parts| parts.config.waiting_requests_max = 1);
    stage.lead();
    let mut read = stage.call(|raft| async move { raft.read(Consistency::Linearizable).await });
    stage.turn();
    // A voter that has lost everything.
    ask_to_join(&stage, 3, 1);
    assert_eq!(joined(&stage), [Err(NoLeader.into())], "there is no room");
    stage.ticks(3);
    assert_eq!(stage.until(&mut read).map(drop), Ok(()));
    ask_to_join(&stage, 3, 2);
    assert_eq!(joined(&stage), [], "nobody has confirmed that it leads");
    stage.ticks(3);
    confirm(&stage);
    assert_eq!(joined(&stage), [Err(MembershipError::UsedId { id: 3.into() })]);
}

#[test]
fn who_waits_for_a_decision_is_told_of_the_end() {
    let stage = Stage::new(|_| {});
    stage.lead();
    let remove = Change::Remove(9.into());
    let mut change = stage.call(|raft| async move { raft.change_membership(remove).await });
    let mut transfer = stage.call(|raft| async move { raft.transfer_leadership(9.into()).await });
    stage.turn();
    let mut shutdown = stage.call(|raft| async move { raft.shutdown().await });
    stage.turn();
    assert_eq!(shutdown.look(), Some(Ok(())));
    assert_eq!(change.look(), Some(Err(Fatal::Shutdown.into())));
    assert_eq!(transfer.look(), Some(Err(Fatal::Shutdown.into())));
}

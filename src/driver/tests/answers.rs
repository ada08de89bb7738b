//! What a caller is told of a command that went to another server: never that it was applied if it
//! was not, never that it was not if it may be.

use super::stage::{Call, Stage};
use crate::driver::propose::RECENT_ANSWERS_MAX;
use crate::id::LogId;
use crate::raft::{Applied, ProposeError};
use crate::transport::{Answer, MessageBody, Refusal, Reply, RequestId};

type Outcome = Result<Applied, ProposeError>;

/// Server 1 has passed a command on to server 2, which leads.
fn passed_on() -> (Stage, Call<Outcome>, RequestId) {
    let stage = Stage::new(|_| {});
    stage.follow(&[]);
    let call = stage.call(|raft| async move { raft.propose("four").await });
    stage.turn();
    let id = stage.requests()[0].id;
    (stage, call, id)
}

fn answer(stage: &Stage, id: RequestId, result: Result<Reply, Refusal>) {
    stage.hear(2, MessageBody::Answer(Answer { id, result }));
    stage.turn();
}

fn appended(stage: &Stage, id: RequestId, first: LogId) {
    answer(stage, id, Ok(Reply::Appended { first }));
}

#[test]
fn the_answer_is_that_of_the_entry_at_the_place_the_leader_named() {
    let (stage, mut call, id) = passed_on();
    let term = stage.raft.status().term;
    let place = LogId { term, index: 3 };
    appended(&stage, id, place);
    stage.append(term, &[b"other"]);
    assert_eq!(call.look(), None);
    stage.append(term, &[b"four"]);
    stage.ticks(1);
    let applied = call.look().unwrap().unwrap();
    assert_eq!((applied.log_id, &applied.answer[..]), (place, &[4][..]));
}

#[test]
fn an_entry_of_another_term_at_that_place_is_not_it() {
    let (stage, mut call, id) = passed_on();
    let old = stage.raft.status().term;
    appended(&stage, id, LogId { term: old, index: 2 });
    stage.append(old + 1, &[b"other"]);
    stage.ticks(1);
    assert_eq!(call.look(), Some(Err(ProposeError::Superseded)));
}

#[test]
fn an_answer_that_comes_after_the_entry_was_applied_is_matched_too() {
    for (behind, expected) in [(0, Err(ProposeError::Superseded)), (1, Ok(vec![4]))] {
        let (stage, mut call, id) = passed_on();
        let term = stage.raft.status().term;
        stage.append(term + 1, &[b"four"]);
        stage.ticks(1);
        appended(&stage, id, LogId { term: term + behind, index: 2 });
        let outcome = call.look().unwrap().map(|applied| applied.answer.to_vec());
        assert_eq!(outcome, expected);
    }
}

#[test]
fn a_place_that_was_applied_before_anybody_asked_is_in_doubt() {
    let stage = Stage::new(|_| {});
    stage.follow(&[b"long ago"]);
    stage.ticks(1);
    let mut call = stage.call(|raft| async move { raft.propose("four").await });
    stage.turn();
    let id = stage.requests()[0].id;
    appended(&stage, id, LogId { term: stage.raft.status().term, index: 2 });
    assert_eq!(call.look(), Some(Err(ProposeError::Unknown)));
}

#[test]
fn a_leader_that_does_not_know_leaves_the_command_in_doubt() {
    let (stage, mut call, id) = passed_on();
    answer(&stage, id, Err(Refusal::Unknown));
    assert_eq!(call.look(), Some(Err(ProposeError::Unknown)));
    stage.ticks(2);
    assert_eq!(stage.requests(), [], "it is not sent again");
}

#[test]
fn a_command_whose_answer_is_lost_is_in_doubt_and_not_sent_again() {
    let (stage, mut call, _) = passed_on();
    // The leader is lost, and soon another one is there.
    stage.follow(&[]);
    stage.ticks(29);
    assert_eq!(call.look(), None);
    stage.ticks(2);
    assert_eq!(call.look(), Some(Err(ProposeError::Unknown)));
    assert_eq!(stage.requests(), []);
}

#[test]
fn an_answer_to_an_earlier_start_of_this_server_is_not_ours() {
    let (stage, mut call, id) = passed_on();
    let old = RequestId { incarnation: !id.incarnation, ..id };
    answer(&stage, old, Err(Refusal::Unknown));
    answer(&stage, RequestId { origin: 3.into(), ..id }, Err(Refusal::Unknown));
    assert_eq!(call.look(), None);
}

#[test]
fn what_a_snapshot_took_the_place_of_is_in_doubt() {
    let stage = Stage::new(|_| {});
    stage.lead();
    let mut call = stage.call(|raft| async move { raft.propose("four").await });
    stage.turn();
    let at = LogId { term: stage.raft.status().term + 1, index: 100 };
    stage.hear_snapshot(2, at.term, at);
    stage.ticks(1);
    assert_eq!(stage.raft.status().applied, 100);
    assert_eq!(call.look(), Some(Err(ProposeError::Unknown)));
}

/// Only so many answers are kept for callers whose place is not known yet.
#[test]
fn an_answer_that_comes_after_very_many_entries_leaves_the_command_in_doubt() {
    let (stage, mut call, id) = passed_on();
    let term = stage.raft.status().term;
    stage.append(term, &[b"four"]);
    let many = vec![&b""[..]; RECENT_ANSWERS_MAX];
    stage.append(term, &many);
    stage.ticks(1);
    assert_eq!(stage.raft.status().applied, 2 + RECENT_ANSWERS_MAX as u64);
    appended(&stage, id, LogId { term, index: 2 });
    assert_eq!(call.look(), Some(Err(ProposeError::Unknown)));
    let (stage, mut call, id) = passed_on();
    stage.append(term, &[b"four"]);
    stage.append(term, &many[1..]);
    stage.ticks(1);
    appended(&stage, id, LogId { term, index: 2 });
    assert_eq!(call.look().unwrap().unwrap().answer[..], [4]);
}

//! How a change of the membership is judged.

use super::stage::{Stage, TICK};
use crate::membership::{Change, Member, MembershipError};

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

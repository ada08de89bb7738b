//! Who is in the cluster: changing it.

use futures::channel::oneshot;

use super::Raft;
use crate::driver::{Ask, Rejected};
use crate::error::NoLeader;
use crate::membership::{Change, Membership, MembershipError};

impl Raft {
    /// Changes the membership; returns the new one when it is in force.
    ///
    /// Any node takes it. One change is made at a time: while another is under way this one waits
    /// for its turn. A leader that is to be removed hands leadership over first.
    ///
    /// # Errors
    ///
    /// All but [`MembershipError::Unknown`] promise that nothing was changed. What the cluster
    /// refuses, it refuses by a membership no older than the call, as a linearizable read would
    /// find it. It ends within [`Config::verb_timeout`](crate::Config::verb_timeout), give or take
    /// a tick.
    pub async fn change_membership(&self, change: Change) -> Result<Membership, MembershipError> {
        self.change(change, None).await
    }

    /// Like [`change_membership`](Self::change_membership), but only if the membership still is
    /// that of the entry at `planned_on` ([`Membership::index`]), so that two operators cannot
    /// overtake each other.
    ///
    /// # Errors
    ///
    /// [`MembershipError::Superseded`] if it is not.
    pub async fn change_membership_from(
        &self,
        planned_on: u64,
        change: Change,
    ) -> Result<Membership, MembershipError> {
        self.change(change, Some(planned_on)).await
    }

    async fn change(
        &self,
        change: Change,
        planned_on: Option<u64>,
    ) -> Result<Membership, MembershipError> {
        let deadline = self.deadline();
        loop {
            let (answer, answered) = oneshot::channel();
            let ask = Ask::Change(change.clone(), planned_on, answer, deadline);
            let result = match self.shared().asks.push(ask) {
                Ok(()) => answered.await.unwrap_or(Err(MembershipError::Unknown)),
                Err(Rejected::Closed(_)) => Err(self.fatal().into()),
                Err(Rejected::Full(_)) => Err(NoLeader.into()),
            };
            let again =
                matches!(result, Err(MembershipError::NoLeader(_) | MembershipError::InProgress));
            if !again || !self.wait_for_change(deadline).await {
                return result;
            }
        }
    }
}

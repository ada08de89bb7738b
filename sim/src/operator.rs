//! What operators do: change the membership, hand leadership over, readmit a server that lost
//! everything; some of it over HTTP.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use kontiki::runtime::{Net as _, Runtime as _};
use kontiki::{
    Change, JoinError, Member, Membership, MembershipError, NodeId, Raft, RaftRole, TransferError,
};

use crate::cluster::{Cluster, State, http_address};
use crate::judge::Invariant;
use crate::options::{Stream, stream};

impl Cluster {
    /// Lets an operator work beside everything else.
    pub(crate) fn operate(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        self.operators.fetch_add(1, Ordering::Relaxed);
        let cluster = Arc::clone(self);
        self.sim.process(0).spawn(Box::pin(async move {
            work.await;
            cluster.operators.fetch_sub(1, Ordering::Relaxed);
        }));
    }

    /// Asks some server to change the membership, once.
    pub(crate) async fn change(&self, change: Change) -> Result<(), MembershipError> {
        let Some(raft) = self.anybody() else { return Err(MembershipError::Unknown) };
        let since = self.judge.membership().index();
        let result = raft.change_membership(change.clone()).await;
        self.judge_decision(since, &result).await;
        match &result {
            Ok(after) => {
                self.judge.sometimes("a membership was changed");
                self.judge.change_told(after);
                self.ask_in_vain().await;
            }
            Err(MembershipError::Unknown) => {
                self.judge.sometimes("the outcome of a membership change stayed unknown");
            }
            Err(_) => self.judge.sometimes("a membership change was refused"),
        }
        if let (Ok(after), Change::Remove(gone)) = (&result, &change)
            && after.member(*gone).is_none()
        {
            self.add_again(&raft, *gone).await;
        }
        result.map(drop)
    }

    /// What is answered from a membership must be true of one no older than the newest that was
    /// told of when the question was put.
    async fn judge_decision(&self, since: u64, result: &Result<Membership, MembershipError>) {
        let holds = |membership: &Membership| match result {
            Ok(after) => after.index() >= since,
            Err(MembershipError::AddressTaken { address, id }) => {
                membership.member(*id).is_some_and(|member| member.address == *address)
            }
            Err(MembershipError::NotFound { id }) => membership.member(*id).is_none(),
            Err(MembershipError::RoleTaken { id, role }) => {
                membership.member(*id).is_some_and(|member| member.role == *role)
            }
            Err(MembershipError::Superseded { now }) => membership.index() == *now,
            Err(_) => true,
        };
        if self.judge.is_true_since(since, holds) {
            return;
        }
        // The judge hears of it a little later than the others.
        self.rest().await;
        if !self.judge.is_true_since(since, holds) {
            let what = format!("of a membership older than the one of {since}: {result:?}");
            self.judge.violated(Invariant::MembershipSafety, what);
        }
    }

    /// Asks somebody for what cannot be, planned on the newest membership: the answer tells which
    /// one it takes for that.
    async fn ask_in_vain(&self) {
        let Some(raft) = self.anybody() else { return };
        let since = self.judge.membership().index();
        let nobody = Change::Promote(NodeId::from(u64::from(u16::MAX)));
        let result = raft.change_membership_from(since, nobody).await;
        self.judge_decision(since, &result).await;
    }

    /// Tries what no operator should: a server that was taken out is to come back as it was.
    async fn add_again(&self, raft: &Raft, gone: NodeId) {
        let again = Member::learner(gone, "again", "server-again:1");
        match raft.change_membership(Change::Add(again)).await {
            Err(MembershipError::UsedId { .. }) => {
                self.judge.sometimes("a removed server was refused under its old id");
            }
            Err(_) => {}
            Ok(after) => {
                let what = format!("{gone} was removed, and is taken in again: {after:?}");
                self.judge.violated(Invariant::MembershipSafety, what);
            }
        }
    }

    pub(crate) async fn transfer(&self, via: u64, to: NodeId) {
        let Some(raft) = self.raft(via) else { return };
        self.judge.sometimes(match raft.transfer_leadership(to).await {
            Ok(()) => "leadership was transferred",
            Err(TransferError::TimedOut) => "a transfer timed out",
            Err(_) => "a transfer was refused",
        });
    }

    /// Takes a server in under its present identity, after it has started; keeps trying.
    pub(crate) async fn admit(&self, n: u64) -> bool {
        let addresses: Vec<String> =
            self.options.servers().filter(|&other| other != n).map(|n| self.address(n)).collect();
        let id = self.id(n);
        while self.id(n) == id {
            if let Some(raft) = self.raft(n) {
                let since = self.judge.membership().index();
                let joined = raft.join(&addresses).await;
                if let Err(JoinError::Refused { source, .. }) = &joined {
                    self.judge_decision(since, &Err(source.clone())).await;
                }
                match joined {
                    Ok(()) => {
                        self.judge.sometimes("a server joined");
                        return true;
                    }
                    Err(JoinError::NotBlank) => return true,
                    Err(JoinError::Refused { source: MembershipError::UsedId { .. }, .. }) => {
                        self.was_taken_out(id).await;
                        return false;
                    }
                    Err(JoinError::Refused {
                        source: MembershipError::AddressTaken { id: earlier, .. },
                        ..
                    }) if !self.is_present(earlier) => {
                        // It asked to join, lost everything, and was taken in then.
                        let _ = self.change(Change::Remove(earlier)).await;
                    }
                    Err(_) => {}
                }
            }
            self.rest().await;
        }
        false
    }

    /// Whoever is refused under its id must have been taken out while it was coming in.
    async fn was_taken_out(&self, id: NodeId) {
        // The judge hears of it a little later than the others.
        self.rest().await;
        if !self.judge.was_member(id) || self.judge.membership().member(id).is_some() {
            let what = format!("{id} was never taken out, and is refused under its id");
            self.judge.violated(Invariant::Progress, what);
        }
    }

    /// Puts a server in the place of a member, in one step; it is taken in before, if it is none.
    pub(crate) async fn put_in_place(&self, n: u64, old: NodeId) {
        if !self.admit(n).await {
            return;
        }
        // A voter already, it would only add to the others.
        self.change_with_care(Change::Demote(self.id(n))).await;
        self.change_with_care(Change::Replace { old, new: self.member(n) }).await;
    }

    /// Makes a change that may cost a voter, if the others can do without it; asks again until it
    /// is known what came of it, as whoever hears "unknown" should.
    pub(crate) async fn change_with_care(&self, change: Change) {
        if !self.can_spare_a_voter() {
            return;
        }
        self.with_care.fetch_add(1, Ordering::Relaxed);
        while self.change(change.clone()).await == Err(MembershipError::Unknown) {
            self.rest().await;
        }
        self.with_care.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether those voters that have what they acknowledged are a quorum also of one voter fewer.
    fn can_spare_a_voter(&self) -> bool {
        let membership = self.judge.membership();
        let lost = |id| !self.is_present(id) || self.judge.is_damaged(id);
        let lost = membership.voters().filter(|voter| lost(voter.id)).count();
        let rest = membership.voters().count().saturating_sub(1);
        let alone = self.with_care.load(Ordering::Relaxed) == 0;
        lost == 0 || alone && rest.saturating_sub(lost) > rest / 2
    }

    /// Tells the others where a server is that has moved.
    pub(crate) async fn readdress(&self, n: u64) {
        let (id, address) = (self.id(n), self.address(n));
        loop {
            match self.change(Change::Readdress { id, address: address.clone() }).await {
                Ok(()) | Err(MembershipError::NotFound { .. }) => break,
                Err(_) => self.rest().await,
            }
        }
        self.judge.sometimes("a server went to another address");
    }

    /// Puts a server that lost everything in the place of the one it was: the old identity leaves,
    /// the new one joins.
    pub(crate) async fn readmit(self: Arc<Self>, n: u64, old: NodeId) {
        loop {
            match self.change(Change::Remove(old)).await {
                Ok(()) | Err(MembershipError::NotFound { .. }) => break,
                Err(_) => self.rest().await,
            }
        }
        self.start(n);
        if self.admit(n).await {
            self.judge.sometimes("a server that lost everything came back as another");
        }
    }

    /// Looks, asks and errs at the operator API of some server, over and over.
    pub(crate) async fn operate_over_http(self: Arc<Self>) {
        let mut dice = stream(self.options.seed ^ OPERATOR, Stream::Workload);
        let process = self.sim.process(OPERATOR);
        loop {
            process.timer(process.now() + Duration::from_millis(dice.u64(500..4_000))).await;
            let n = dice.u64(self.options.servers());
            let id = self.id(dice.u64(self.options.servers()));
            let line = match dice.u8(..7) {
                0 => "GET /v1/operator/raft/configuration".to_owned(),
                1 => "GET /v1/operator/raft/configuration?stale".to_owned(),
                2 => "GET /v1/status/leader".to_owned(),
                3 => "PUT /v1/operator/raft/transfer-leadership?id=nonsense".to_owned(),
                4 => "GET /v1/nothing".to_owned(),
                5 => "DELETE /v1/operator/raft/peer".to_owned(),
                _ => format!("PUT /v1/operator/raft/transfer-leadership?id={id}"),
            };
            let Ok(answer) = request(&process, &http_address(n), &line).await else { continue };
            self.judge.sometimes(match answer.split(' ').nth(1) {
                Some("200") => "the operator API answered 200",
                Some("400") => "the operator API answered 400",
                Some("500") => "the operator API answered 500",
                _ => "the operator API answered something else",
            });
        }
    }

    /// Whether some server has this id now.
    fn is_present(&self, id: NodeId) -> bool {
        self.options.servers().any(|n| self.id(n) == id)
    }

    /// Somebody who is up; half of the time one who says that it leads, rightly or not.
    fn anybody(&self) -> Option<Raft> {
        let up = self.numbers(|state| state == State::Up);
        let mut rafts: Vec<Raft> = up.into_iter().filter_map(|n| self.raft(n)).collect();
        let pick = usize::try_from(self.sim.process(0).random() >> 1).unwrap_or(0);
        if pick.is_multiple_of(2) && rafts.iter().any(says_it_leads) {
            rafts.retain(says_it_leads);
        }
        rafts.get((pick / 2).checked_rem(rafts.len())?).cloned()
    }

    async fn rest(&self) {
        let process = self.sim.process(0);
        process.timer(process.now() + self.options.election_timeout()).await;
    }
}

fn says_it_leads(raft: &Raft) -> bool {
    raft.status().role == RaftRole::Leader
}

async fn request(
    process: &kontiki::runtime::sim::SimProcess,
    at: &str,
    line: &str,
) -> std::io::Result<String> {
    let mut stream = process.dial(at).await?;
    let head = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The number of the operator's process.
pub(crate) const OPERATOR: u64 = 90;

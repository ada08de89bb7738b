//! What operators do: change the membership, hand leadership over, readmit a server that lost
//! everything; some of it over HTTP.

use std::sync::Arc;
use std::time::Duration;

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use kontiki::runtime::{Net as _, Runtime as _};
use kontiki::{Change, JoinError, MembershipError, NodeId, Raft, TransferError};

use crate::cluster::{Cluster, State, http_address};
use crate::options::{Stream, stream};
use crate::wire::address;

impl Cluster {
    /// Asks some server to change the membership, once.
    pub(crate) async fn change(&self, change: Change) -> Result<(), MembershipError> {
        let Some(raft) = self.anybody() else { return Err(MembershipError::Unknown) };
        let result = raft.change_membership(change).await;
        match &result {
            Ok(_) => self.judge.sometimes("a membership was changed"),
            Err(MembershipError::Unknown) => {
                self.judge.sometimes("the outcome of a membership change stayed unknown");
            }
            Err(_) => self.judge.sometimes("a membership change was refused"),
        }
        result.map(drop)
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
    pub(crate) async fn admit(&self, n: u64) {
        let addresses: Vec<String> =
            self.options.servers().filter(|&other| other != n).map(address).collect();
        let id = self.id(n);
        while self.id(n) == id {
            if let Some(raft) = self.raft(n) {
                match raft.join(&addresses).await {
                    Ok(()) => return self.judge.sometimes("a server joined"),
                    Err(JoinError::NotBlank) => return,
                    Err(_) => {}
                }
            }
            self.rest().await;
        }
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
        self.admit(n).await;
        self.judge.sometimes("a server that lost everything came back as another");
    }

    /// Looks, asks and errs at the operator API of some server, over and over.
    pub(crate) async fn operate_over_http(self: Arc<Self>) {
        let mut dice = stream(self.options.seed ^ OPERATOR, Stream::Workload);
        let process = self.sim.process(OPERATOR);
        loop {
            process.timer(process.now() + Duration::from_millis(dice.u64(500..4_000))).await;
            let n = dice.u64(self.options.servers());
            let id = self.id(dice.u64(self.options.servers()));
            let line = match dice.u8(..6) {
                0 => "GET /v1/operator/raft/configuration".to_owned(),
                1 => "GET /v1/operator/raft/configuration?stale".to_owned(),
                2 => "GET /v1/status/leader".to_owned(),
                3 => "PUT /v1/operator/raft/transfer-leadership?id=nonsense".to_owned(),
                4 => "DELETE /v1/operator/raft/peer".to_owned(),
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

    fn anybody(&self) -> Option<Raft> {
        let up = self.numbers(|state| state == State::Up);
        let rafts: Vec<Raft> = up.into_iter().filter_map(|n| self.raft(n)).collect();
        let pick = usize::try_from(self.sim.process(0).random()).unwrap_or(0);
        rafts.get(pick.checked_rem(rafts.len())?).cloned()
    }

    async fn rest(&self) {
        let process = self.sim.process(0);
        process.timer(process.now() + self.options.election_timeout()).await;
    }
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

//! After the faults: everything is healed, or all but a minority, and the cluster must serve,
//! agree, be quiet, and end.

use std::future::Future as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use kontiki::runtime::sim::Link;
use kontiki::{Consistency, Membership};

use super::faults::spawn;
use super::{Action, Run};
use crate::client::Client;
use crate::cluster::State;
use crate::judge::Invariant;
use crate::linearizable::{Budget, Verdict, check, witness};
use crate::options::{Kind, Stream, stream};

impl Run {
    pub(super) fn finish(&mut self) {
        self.heal();
        let timeout = self.cluster.options.election_timeout();
        if !self.until(40 * timeout, |run| run.cluster.leader().is_some()) {
            return self.violated(Invariant::Progress, "nobody leads after everything is healed");
        }
        self.stop.store(true, Ordering::Relaxed);
        if !self.serves() {
            return self.violated(Invariant::Progress, "the healed cluster does not serve");
        }
        if !self.until(100 * timeout, Self::agrees) {
            return self.violated(Invariant::Progress, "the healed cluster does not come to agree");
        }
        self.be_quiet();
        self.throng();
        self.shut_down();
        if !self.is_over() {
            self.judge_history();
        }
    }

    fn heal(&mut self) {
        let cluster = Arc::clone(&self.cluster);
        cluster.sim.kill(crate::operator::OPERATOR);
        cluster.sim.heal();
        cluster.sim.disarm();
        cluster.links.heal();
        cluster.set_faulty(false);
        let all: Vec<u64> = cluster.options.servers().collect();
        for &n in &all {
            all.iter().for_each(|&other| cluster.sim.set_link(n, other, Link::default()));
            cluster.sim.resume(n);
            cluster.sim.set_drift(n, 0);
            cluster.set_slowness(n, 1);
            cluster.set_full(n, false);
            cluster.set_stuck(n, false);
        }
        let agenda = std::mem::take(&mut self.agenda);
        let starts = agenda.into_values().filter(|action| matches!(action, Action::Start(_)));
        starts.for_each(|action| self.act(action));
        self.outages = all.iter().map(|&n| (n, 10)).collect();
        self.leave_some_down();
    }

    /// Where servers crash, half of the time a minority stays down for good.
    fn leave_some_down(&mut self) {
        let options = &self.cluster.options;
        let mut dice = stream(options.seed, Stream::Loop);
        let settled =
            ![Kind::Membership, Kind::Wipe, Kind::BitFlip].iter().any(|k| options.has(*k));
        if !settled || !options.has(Kind::Crash) || dice.bool() {
            return;
        }
        let minority = usize::try_from((options.voters - 1) / 2).unwrap_or(0);
        let mut voters: Vec<u64> = (1..=options.voters).collect();
        dice.shuffle(&mut voters);
        for n in voters.into_iter().take(minority) {
            self.cluster.kill(n);
            self.cluster.judge.sometimes("a minority stayed down");
        }
    }

    /// Ten writes and ten reads, at whoever is up and a member.
    fn serves(&mut self) -> bool {
        let cluster = Arc::clone(&self.cluster);
        let done = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&done);
        let process = cluster.sim.process(CLIENT_AT_THE_END);
        let mut client = Client::new(&cluster, CLIENT_AT_THE_END - crate::client::CLIENTS);
        spawn(&process, async move {
            let mut turn = 0;
            while counted.load(Ordering::Relaxed) < 20 {
                turn += 1;
                let members = cluster.judge.membership();
                let up = cluster.numbers(|state| state == State::Up);
                let up: Vec<u64> =
                    up.into_iter().filter(|&n| members.member(cluster.id(n)).is_some()).collect();
                let Some(&n) = up.get(turn % up.len().max(1)) else {
                    client.pause(10).await;
                    continue;
                };
                let Some(raft) = cluster.raft(n) else {
                    client.pause(10).await;
                    continue;
                };
                let registers = cluster.registers(n);
                let worked = match counted.load(Ordering::Relaxed) % 2 {
                    0 => client.write(&raft).await,
                    _ => client.read(&raft, &registers).await,
                };
                counted.fetch_add(u64::from(worked), Ordering::Relaxed);
                client.pause(5).await;
            }
        });
        let within = 80 * self.cluster.options.election_timeout();
        self.until(within, |_| done.load(Ordering::Relaxed) >= 20)
    }

    /// Whether every member that is up has applied the same, and no change is under way.
    fn agrees(&self) -> bool {
        let cluster = &self.cluster;
        let Some(leader) = cluster.leader().and_then(|n| cluster.raft(n)) else { return false };
        let leader = leader.status();
        let membership: &Membership = &leader.membership;
        let staging = membership.members().any(|member| membership.is_staging(member.id));
        let busy = cluster.operators.load(Ordering::Relaxed) > 0;
        if busy || membership.is_joint() || staging || leader.applied < leader.commit {
            return false;
        }
        let up = cluster.numbers(|state| state == State::Up);
        let members = up.into_iter().filter(|&n| membership.member(cluster.id(n)).is_some());
        members.into_iter().all(|n| {
            let status = cluster.raft(n).map(|raft| raft.status());
            status.is_some_and(|status| {
                let same = status.applied == leader.applied && status.membership == *membership;
                same && status.leader == Some(leader.id) && status.stopped.is_none()
            })
        })
    }

    /// Without load and faults nothing moves any more.
    fn be_quiet(&mut self) {
        // Whoever still waits for an answer is done by then, and what was held on the way is there.
        let timeout = self.cluster.options.election_timeout();
        self.until(LATE_MAX.max(10 * timeout), |_| false);
        let before = self.leads();
        self.until(20 * timeout, |_| false);
        let after = self.leads();
        if (before.is_none() || before != after) && !self.is_over() {
            let what = format!("leader, term and commit moved from {before:?} to {after:?}");
            return self.violated(Invariant::Quiet, &what);
        }
        for n in self.cluster.numbers(|state| state == State::Up) {
            let tasks = self.cluster.sim.tasks(n);
            if tasks > TASKS_MAX {
                let what = format!("server {n} has {tasks} tasks and nothing to do");
                self.violated(Invariant::Bounded, &what);
            }
        }
    }

    /// More ask at one moment than may wait: the rest must be refused at once.
    fn throng(&self) {
        let waiting_max = self.cluster.options.waiting_requests;
        if waiting_max > THRONG_MAX {
            return;
        }
        let up = self.cluster.numbers(|state| state == State::Up);
        let Some(raft) = up.first().and_then(|&n| self.cluster.raft(n)) else { return };
        let mut asked: Vec<_> =
            (0..waiting_max + 9).map(|_| Box::pin(raft.read(Consistency::Linearizable))).collect();
        let mut cx = Context::from_waker(Waker::noop());
        let waiting = asked
            .iter_mut()
            .filter_map(|read| read.as_mut().poll(&mut cx).is_pending().then_some(()))
            .count();
        if waiting > waiting_max {
            let what = format!("{waiting} reads wait, and no more than {waiting_max} may");
            self.violated(Invariant::Bounded, &what);
        }
        self.cluster.judge.sometimes("more asked at once than may wait");
    }

    fn leads(&self) -> Option<(u64, u64, u64)> {
        let n = self.cluster.leader()?;
        let status = self.cluster.raft(n)?.status();
        Some((n, status.term, status.commit))
    }

    fn shut_down(&mut self) {
        let cluster = Arc::clone(&self.cluster);
        let up = cluster.numbers(|state| state == State::Up);
        for raft in up.iter().filter_map(|&n| cluster.raft(n)) {
            spawn(&cluster.sim.process(0), async move {
                // Why it had stopped before, its status has said.
                let _ = raft.shutdown().await;
            });
        }
        let end = self.now_ms() + 15_000;
        while self.now_ms() < end && up.iter().any(|&n| cluster.sim.tasks(n) > 0) {
            cluster.sim.run_for(Duration::from_millis(100));
        }
        if let Some(n) = up.into_iter().find(|&n| cluster.sim.tasks(n) > 0) {
            self.violated(Invariant::Bounded, &format!("server {n} was shut down, and has tasks"));
        }
    }

    fn judge_history(&self) {
        let history =
            self.cluster.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let witnessed = witness(&history);
        let verdict = check(&history, Budget::default());
        let judge = &self.cluster.judge;
        match (witnessed, verdict) {
            (_, Verdict::NotLinearizable(found)) => {
                judge.violated(Invariant::Linearizable, found.to_string());
            }
            // A witness is a proof, whatever the search could not decide.
            (Ok(()), Verdict::Linearizable | Verdict::Unknown(_)) => {}
            (Err(found), _) => judge.violated(Invariant::Linearizable, found.to_string()),
        }
    }
}

/// The number of the process of the client that is there at the end.
const CLIENT_AT_THE_END: u64 = crate::client::CLIENTS + 50;
/// More tasks than this no idle server has.
const TASKS_MAX: usize = 80;
/// More than so many are not asked at once.
const THRONG_MAX: usize = 1_000;
/// No message is under way for longer.
const LATE_MAX: Duration = Duration::from_secs(11);

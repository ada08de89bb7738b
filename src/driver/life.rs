//! How a node lives: formed, joined, looked after at each tick, ended.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use super::apply::{ApplyTask, JobDone};
use super::forward::{self, Waiter};
use super::request::Answered;
use super::worker::Worker;
use super::{Ask, Driver};
use crate::error::{Fatal, NoLeader};
use crate::id::{ClusterId, LogId};
use crate::membership::{Member, Membership, MembershipError};
use crate::node::{Node, Start};
use crate::raft::{BootstrapError, JoinError, ProposeError, ReadError, TransferError};
use crate::runtime::Timer;
use crate::status::Progress;
use crate::storage::{
    Base, HardState, Identity, LogStore, Recovered, SnapshotMeta, StorageError, WriteBatch,
};
use crate::transport::{Inbox, Peer, Refusal, Reply, Verb};

/// A blank server that asks to be taken in.
#[derive(Debug)]
pub(super) struct Joining {
    addresses: Vec<String>,
    /// Whom it asks next.
    next: usize,
    again_at: Instant,
    deadline: Instant,
    answer: Answered<(), JoinError>,
    last_refusal: Option<MembershipError>,
}

/// What a blank server does alone, before it takes part in anything.
#[derive(Debug)]
pub(super) enum Rite {
    /// Keep the id of the cluster that has taken it in.
    Adopt(ClusterId, Answered<(), JoinError>),
    /// Form a cluster of this membership.
    Form(Membership, Answered<ClusterId, BootstrapError>),
}

/// How long the end waits for what may hang.
type Patience = Pin<Box<dyn Timer>>;

impl Driver {
    pub(super) fn bootstrap(
        &mut self,
        members: Vec<Member>,
        answer: Answered<ClusterId, BootstrapError>,
    ) {
        let checked = check_first(&members, self.shared.id());
        let busy = !self.is_blank() || self.joining.is_some() || self.rite.is_some();
        match checked {
            // Whoever asked may have gone.
            _ if busy => drop(answer.send(Err(BootstrapError::NotBlank))),
            Err(reason) => drop(answer.send(Err(BootstrapError::Membership(reason)))),
            Ok(()) => self.rite = Some(Rite::Form(Membership::first(members), answer)),
        }
    }

    pub(super) fn join(
        &mut self,
        addresses: Vec<String>,
        answer: Answered<(), JoinError>,
        deadline: Instant,
    ) {
        if !self.is_blank() || self.joining.is_some() || self.rite.is_some() {
            // Whoever asked may have gone.
            drop(answer.send(Err(JoinError::NotBlank)));
            return;
        }
        let again_at = self.now;
        self.joining =
            Some(Joining { addresses, next: 0, again_at, deadline, answer, last_refusal: None });
        self.ask_to_join();
    }

    fn is_blank(&self) -> bool {
        self.shared.local().cluster.is_nil()
    }

    /// Asks the next address, now and then, until somebody takes this server in.
    fn ask_to_join(&mut self) {
        let Some(joining) = &mut self.joining else { return };
        if joining.deadline <= self.now || joining.addresses.is_empty() {
            return self.give_up_joining();
        }
        if self.now < joining.again_at {
            return;
        }
        let address = joining.addresses[joining.next % joining.addresses.len()].clone();
        joining.next += 1;
        joining.again_at = self.now + self.config.election_timeout;
        let deadline = joining.deadline;
        let id = self.shared.id();
        let member = Member::voter(id, self.config.name.clone(), self.config.address.clone());
        let peer = Peer { id: None, address };
        // If it did not leave, the next address is asked in a while.
        let _ = self.forward(&peer, Verb::Join { member }, Waiter::Join, deadline);
    }

    pub(super) fn join_answered(&mut self, result: Result<Reply, Refusal>) {
        match result {
            Ok(Reply::Joined { cluster }) => {
                if let Some(joining) = self.joining.take() {
                    self.rite = Some(Rite::Adopt(cluster, joining.answer));
                }
            }
            Ok(_) | Err(Refusal::Unknown) => {}
            Err(refusal) => {
                let error = forward::change_refused(&refusal);
                let Some(joining) = &mut self.joining else { return };
                let final_one =
                    !matches!(error, MembershipError::NoLeader(_) | MembershipError::InProgress);
                joining.last_refusal = Some(error);
                if final_one {
                    self.give_up_joining();
                }
            }
        }
    }

    fn give_up_joining(&mut self) {
        let Some(joining) = self.joining.take() else { return };
        let error = match joining.last_refusal {
            Some(MembershipError::NoLeader(_)) => JoinError::NoLeader(NoLeader),
            Some(source) => JoinError::Refused { id: self.shared.id(), source },
            None => JoinError::NoAnswer { addresses: joining.addresses },
        };
        // Whoever asked may have gone.
        let _ = joining.answer.send(Err(error));
    }

    pub(super) async fn perform(&mut self, rite: Rite) {
        let Worker::Idle(mut store) = std::mem::replace(&mut self.log, Worker::Taken) else {
            unreachable!("a blank server writes nothing else");
        };
        let done = match rite {
            Rite::Adopt(cluster, answer) => {
                let written = self.adopt(&mut *store, cluster).await;
                let result = written.clone().map_err(|error| JoinError::Stopped(error.into()));
                // Whoever asked may have gone.
                let _ = answer.send(result);
                written.map_err(Fatal::from)
            }
            Rite::Form(membership, answer) => {
                let formed = self.form(&mut *store, membership).await;
                let _ = answer.send(formed.clone().map_err(BootstrapError::Stopped));
                formed.map(|_| ())
            }
        };
        self.log = Worker::Idle(store);
        if let Err(fatal) = done {
            self.stop = Some(fatal);
        }
    }

    async fn adopt(
        &mut self,
        store: &mut dyn LogStore,
        cluster: ClusterId,
    ) -> Result<(), StorageError> {
        let identity = Identity { cluster, node: self.shared.id(), group: self.group };
        let batch = WriteBatch { identity: Some(identity), sync: true, ..WriteBatch::default() };
        store.write(batch).await?;
        self.shared.set_cluster(cluster);
        self.publish();
        Ok(())
    }

    /// Writes the snapshot of the empty state at index 1 (C11), then the log that begins there.
    async fn form(
        &mut self,
        store: &mut dyn LogStore,
        membership: Membership,
    ) -> Result<ClusterId, Fatal> {
        let log_id = LogId { term: 1, index: 1 };
        let system = membership.encode();
        let meta = SnapshotMeta { log_id, system: system.clone(), size_bytes: 0 };
        let meta = self.capture_now(meta).await?;
        let cluster = cluster_of(&membership);
        let identity = Identity { cluster, node: self.shared.id(), group: self.group };
        let base = Base { log_id, system };
        let hard_state = HardState::new(1, None, 1);
        let batch = WriteBatch {
            identity: Some(identity),
            reset_to: Some(base.clone()),
            hard_state: Some(hard_state),
            sync: true,
            ..WriteBatch::default()
        };
        store.write(batch).await?;
        let identity = Some(identity);
        let recovered =
            Recovered { identity, base, hard_state, last: log_id, ..Recovered::default() };
        self.node = Node::start(Start {
            id: self.shared.id(),
            config: &self.config,
            ticks: self.ticks,
            seed: self.seed,
            recovered,
            snapshot: Some(meta),
            applied: log_id,
        })
        .map_err(Fatal::Engine)?;
        self.skip_to(1);
        self.shared.set_cluster(cluster);
        self.publish();
        Ok(cluster)
    }

    async fn capture_now(&mut self, meta: SnapshotMeta) -> Result<SnapshotMeta, Fatal> {
        // The limit of the mailbox is far above the one task there is.
        let _ = self.tasks.push(ApplyTask::Capture(meta));
        let shared = Arc::clone(&self.shared);
        let mut jobs = Vec::new();
        loop {
            poll_fn(|cx| shared.jobs.poll_take(cx, &mut jobs)).await;
            let mut taken = None;
            for job in jobs.drain(..) {
                match job {
                    JobDone::SnapshotTaken(result) => taken = Some(result),
                    job => self.job_done(job),
                }
            }
            if let Some(result) = taken {
                return result;
            }
            if let Some(fatal) = &self.stop {
                return Err(fatal.clone());
            }
        }
    }

    /// What is looked after once a tick.
    pub(super) fn sweep(&mut self) {
        self.forwards_rest = false;
        self.sweep_proposals();
        self.sweep_reads();
        self.sweep_forwarded();
        self.sweep_changes();
        self.promote();
        if self.joining.is_some() {
            self.ask_to_join();
        }
        let progress = self.progress();
        self.shared.publish(|status| {
            status.progress = progress;
            false
        });
    }

    fn progress(&self) -> Vec<Progress> {
        if !self.node.is_leader() {
            return Vec::new();
        }
        let me = self.node.raft_id();
        let others = self.node.membership().everyone().filter(|one| one.id.raft_id() != me);
        let known = others.filter_map(|one| {
            let (matched, recent, snapshot) = self.node.progress(one.id.raft_id())?;
            Some(Progress { id: one.id, matched, recent, snapshot })
        });
        known.collect()
    }

    /// Looks whether leadership has moved since the last turn.
    pub(super) fn look_around(&mut self) {
        let now = (self.node.term(), self.node.leader());
        if now != self.seen {
            self.seen = now;
            self.forwards_rest = false;
            self.restart_reads();
            self.forwarded_to_old_leader();
        }
    }

    pub(super) fn publish(&mut self) {
        let node = &self.node;
        let leader = self.peers.find(node.membership(), node.leader()).and_then(|peer| peer.id);
        let malformed = self.node.take_malformed();
        let node = &self.node;
        let mut gone = Vec::new();
        self.shared.publish(|status| {
            let before = (status.role, status.term, status.leader, status.established);
            status.role = node.role();
            status.term = node.term();
            status.leader = leader;
            status.established = node.is_established();
            status.last = node.last();
            status.commit = node.commit();
            status.applied = node.applied().index;
            status.snapshot = node.snapshot().map_or(status.snapshot, |meta| meta.log_id);
            status.cluster = self.shared.local().cluster;
            status.counters.malformed += malformed;
            status.counters.misdirected = self.shared.misdirected.load(Ordering::Relaxed);
            status.counters.overflowed = self.shared.overflowed.load(Ordering::Relaxed);
            let after = (status.role, status.term, status.leader, status.established);
            let same = status.membership.index() == node.membership().index();
            if same || !node.is_membership_durable() {
                return before != after;
            }
            let old = std::mem::replace(&mut status.membership, node.membership().clone());
            let left =
                old.everyone().filter(|one| !status.membership.everyone().any(|m| m == *one));
            gone = left.map(|one| one.id).collect();
            true
        });
        for id in gone {
            if self.node.membership().member(id).is_none() {
                self.transport.disconnect(self.group, id);
            }
        }
    }

    /// Ends everything, in an order that leaves nobody waiting and nothing running.
    pub(super) async fn end(mut self) {
        let fatal = self.stop.take().unwrap_or(Fatal::Shutdown);
        let mut patience = self.runtime.timer(self.runtime.now() + self.config.verb_timeout);
        if fatal != Fatal::Shutdown {
            tracing::error!(node = %self.shared.id(), %fatal, "the node has stopped");
        }
        self.shared.set_ending(fatal.clone());
        for ask in self.shared.asks.close() {
            refuse(ask, &fatal);
        }
        self.fail_proposals(&fatal);
        self.fail_reads(&fatal);
        self.fail_transfer(&fatal);
        self.fail_changes(&fatal);
        self.fail_forwarded();
        if let Some(joining) = self.joining.take() {
            // Whoever asked may have gone.
            let _ = joining.answer.send(Err(JoinError::Stopped(fatal.clone())));
        }
        self.shared.inbound.close();
        self.detach(&mut patience).await;
        if fatal == Fatal::Shutdown {
            self.finish_writes(&mut patience).await;
        }
        self.end_machine(&fatal, &mut patience).await;
        self.shared.in_hand.give_up();
        self.shared.jobs.close();
        let waiting = std::mem::take(&mut self.on_shutdown);
        let shared = Arc::clone(&self.shared);
        // The store and its lock are let go before anybody hears that the node has ended.
        drop(self);
        shared.publish(|status| {
            status.stopped = Some(fatal.clone());
            status.leader = None;
            true
        });
        for answer in waiting {
            let result = if fatal == Fatal::Shutdown { Ok(()) } else { Err(fatal.clone()) };
            let _ = answer.send(result);
        }
    }

    /// Lets go of the transport; what it does not end in time is left behind as it is.
    async fn detach(&mut self, patience: &mut Patience) {
        let transport = Arc::clone(&self.transport);
        let mut detached = transport.detach(self.group);
        poll_fn(|cx| match detached.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => patience.as_mut().poll(cx),
        })
        .await;
    }

    async fn finish_writes(&mut self, patience: &mut Patience) {
        self.node.flush();
        loop {
            let written = poll_fn(|cx| match self.log.is_idle() {
                true => Poll::Ready(true),
                false if patience.as_mut().poll(cx).is_ready() => Poll::Ready(false),
                false => self.log.poll(cx).map(|done| done.is_ok()),
            });
            if !written.await {
                return;
            }
            self.write();
            if self.log.is_idle() {
                return;
            }
        }
    }

    async fn end_machine(&mut self, fatal: &Fatal, patience: &mut Patience) {
        let stopped = self.tasks.push_last(ApplyTask::Stop);
        if stopped.is_err() || *fatal != Fatal::Shutdown {
            return;
        }
        let mut jobs = Vec::new();
        loop {
            let over = poll_fn(|cx| match self.shared.jobs.poll_take(cx, &mut jobs) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => patience.as_mut().poll(cx).map(|()| true),
            });
            let over = over.await;
            if over || jobs.drain(..).any(|job| matches!(job, JobDone::Stopped | JobDone::Fatal(_)))
            {
                return;
            }
        }
    }
}

pub(crate) fn refuse(ask: Ask, fatal: &Fatal) {
    let fatal = fatal.clone();
    // Whoever asked may have gone.
    match ask {
        Ask::Bootstrap(_, answer) => drop(answer.send(Err(BootstrapError::Stopped(fatal)))),
        Ask::Change(_, _, answer, _) => drop(answer.send(Err(MembershipError::Stopped(fatal)))),
        Ask::Join(_, answer) => drop(answer.send(Err(JoinError::Stopped(fatal)))),
        Ask::Propose(_, caller) => caller.resolve(Err(ProposeError::Stopped(fatal))),
        Ask::Read(answer) => drop(answer.send(Err(ReadError::Stopped(fatal)))),
        Ask::Shutdown(answer) => {
            let result = if fatal == Fatal::Shutdown { Ok(()) } else { Err(fatal) };
            drop(answer.send(result));
        }
        Ask::Transfer(_, answer, _) => drop(answer.send(Err(TransferError::Stopped(fatal)))),
    }
}

fn check_first(members: &[Member], me: crate::NodeId) -> Result<(), &'static str> {
    let voter = |member: &Member| member.role == crate::Role::Voter;
    if !members.iter().any(|member| member.id == me && voter(member)) {
        return Err("this server must be one of the first voters");
    }
    let apart = |a: &Member, b: &Member| a.id.raft_id() != b.id.raft_id() && a.address != b.address;
    let distinct = members.iter().enumerate();
    if !distinct.into_iter().all(|(at, a)| members[..at].iter().all(|b| apart(a, b))) {
        return Err("two of the first members share an id or an address");
    }
    if members.iter().any(|member| member.address.is_empty()) {
        return Err("every member needs an address");
    }
    if !Membership::first(members.iter().cloned()).fits_messages() {
        return Err("the members take more than 64 KiB with their names and addresses");
    }
    Ok(())
}

/// The cluster's id is a function of its first membership, so that each of several first members
/// may be told to form the cluster and all of them form the same. The ids in it are random, hence
/// so is this.
pub(crate) fn cluster_of(membership: &Membership) -> ClusterId {
    let fold = |seed: u64| {
        membership.encode().iter().fold(seed, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5)
        })
    };
    ClusterId::from_random(fold(0xcbf2_9ce4_8422_2325), fold(0x9e37_79b9_7f4a_7c15))
}

//! The one task of a node: takes what comes, tells the core, does what it wants done.
//!
//! A turn goes through the sources in a written order: finished jobs, at most 256 messages of
//! peers, one tick, what handles ask. Work is finished before more is taken, and persistence is
//! reported before any message that it caused can be answered (W4). Then everything the core wants
//! is done, once for the whole turn: that is where commands become one proposal, writes one write,
//! reads one round.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

mod apply;
mod forward;
mod guard;
mod leadership;
mod life;
mod mailbox;
mod members;
mod peers;
mod propose;
mod read;
mod request;
mod seen;
mod shared;
mod snapshots;
mod start;
#[cfg(test)]
mod tests;
mod worker;

use self::apply::{ApplyTask, JobDone};
use self::forward::Forwarded;
use self::leadership::Transfer;
pub(crate) use self::life::cluster_of;
use self::life::{Joining, Rite};
use self::mailbox::Mailbox;
pub(crate) use self::mailbox::Rejected;
use self::members::{PendingChange, Promotions};
use self::peers::Peers;
use self::propose::Late;
use self::request::ReadCaller;
pub(crate) use self::request::{Ask, ProposeCaller};
use self::seen::Seen;
use self::shared::Inbound;
pub(crate) use self::shared::Shared;
pub use self::shared::StatusWatch;
pub(crate) use self::start::start;
use self::worker::Worker;
use crate::config::{Config, Ticks};
use crate::error::Fatal;
use crate::id::GroupId;
use crate::mutant::Mutant;
use crate::node::{Node, Proposals, Reads, WriteJob};
use crate::runtime::{Runtime, Timer};
use crate::storage::{LogReader, LogStore, SnapshotStore, StorageError, WriteBatch};
use crate::transport::{MessageBody, Transport};

type LogWorker = Worker<Box<dyn LogStore>, Result<(), StorageError>>;

struct Driver {
    shared: Arc<Shared>,
    config: Config,
    ticks: Ticks,
    group: GroupId,
    address: Arc<str>,
    seed: u64,
    /// Which start of this process: answers to requests of an earlier one are not ours.
    incarnation: u64,
    runtime: Arc<dyn Runtime>,
    transport: Arc<dyn Transport>,
    snapshots: Arc<dyn SnapshotStore>,
    reader: Arc<dyn LogReader>,
    node: Node,
    peers: Peers,
    log: LogWorker,
    writing: Option<WriteJob>,
    tasks: Arc<Mailbox<ApplyTask>>,
    /// Whether the state machine's task has something to do.
    applying: bool,
    restore_next: Option<crate::storage::SnapshotMeta>,
    capturing: bool,
    proposals: Proposals<ProposeCaller>,
    late: Late,
    /// Commands that nobody could be given yet.
    unproposed: VecDeque<(bytes::Bytes, ProposeCaller)>,
    reads: Reads<ReadCaller>,
    forwarded: BTreeMap<u64, Forwarded>,
    requests_sent: u64,
    requests_seen: Seen,
    /// The leader has just refused something, or could not be asked: what is to be forwarded waits
    /// for the next tick or another leader, since asking again at once would be a hot loop.
    forwards_rest: bool,
    change: Option<PendingChange>,
    /// The index of the membership at the end of the last turn.
    membership_seen: u64,
    promotions: Promotions,
    transfer: Option<Transfer>,
    joining: Option<Joining>,
    /// What a blank server has to do alone before it takes part.
    rite: Option<Rite>,
    timer: Pin<Box<dyn Timer>>,
    tick_at: Instant,
    now: Instant,
    /// Term and leader at the end of the last turn.
    seen: (u64, u64),
    inbound: VecDeque<Inbound>,
    scratch: Scratch,
    stop: Option<Fatal>,
    on_shutdown: Vec<futures::channel::oneshot::Sender<Result<(), Fatal>>>,
}

/// Buffers that are swapped with the mailboxes'.
#[derive(Default)]
struct Scratch {
    asks: Vec<Ask>,
    inbound: Vec<Inbound>,
    jobs: Vec<JobDone>,
}

impl Driver {
    async fn live(mut self) {
        while self.stop.is_none() {
            poll_fn(|cx| self.turn(cx)).await;
            if let Some(rite) = self.rite.take() {
                self.perform(rite).await;
            }
        }
        self.end().await;
    }

    /// One turn; pending if there was nothing to do.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.now = self.runtime.now();
        let mut busy = self.turn_log(cx);
        busy |= self.turn_jobs(cx);
        if self.stop.is_some() {
            return Poll::Ready(());
        }
        busy |= self.turn_inbound(cx);
        busy |= self.turn_tick(cx);
        busy |= self.turn_asks(cx);
        if !busy {
            return Poll::Pending;
        }
        self.stop_if_fatal();
        if self.stop.is_none() {
            self.settle();
        }
        Poll::Ready(())
    }

    fn turn_log(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready(done) = self.log.poll(cx) else { return false };
        if let Err(error) = done {
            // W6: what is on the disk is unknown now. Nothing is reported, sent, or tried again.
            self.stop = Some(error.into());
            return true;
        }
        let Some(job) = self.writing.take() else { return true };
        match job.installs {
            Some(_) => self.installed(job.number),
            None => self.node.handle_persisted(job.number),
        }
        job.then_send.into_iter().for_each(|outgoing| self.send(outgoing));
        true
    }

    fn turn_jobs(&mut self, cx: &mut Context<'_>) -> bool {
        let mut jobs = std::mem::take(&mut self.scratch.jobs);
        let busy = self.shared.jobs.poll_take(cx, &mut jobs).is_ready();
        jobs.drain(..).for_each(|job| self.job_done(job));
        self.scratch.jobs = jobs;
        busy
    }

    fn job_done(&mut self, job: JobDone) {
        match job {
            JobDone::Applied { first, last, answers } => self.applied(first, last, answers),
            JobDone::Captured => self.applying = false,
            JobDone::Fatal(fatal) | JobDone::SnapshotTaken(Err(fatal)) => self.stop = Some(fatal),
            JobDone::Fetched(fetch, Ok(entries)) => self.node.handle_fetched(fetch, entries),
            // What was compacted meanwhile goes out as a snapshot.
            JobDone::Fetched(fetch, Err(StorageError::Compacted { .. })) => {
                self.node.handle_fetched(fetch, Vec::new());
            }
            JobDone::Fetched(_, Err(error)) => self.stop = Some(error.into()),
            JobDone::Overtaken(error) => self.overtaken(error),
            JobDone::Restored(log_id) => self.restored(log_id),
            JobDone::SnapshotSent { peer, arrived } => {
                self.node.handle_snapshot_sent(peer, arrived)
            }
            JobDone::SnapshotTaken(Ok(meta)) => self.snapshot_taken(meta),
            JobDone::Stopped => {}
        }
    }

    fn turn_inbound(&mut self, cx: &mut Context<'_>) -> bool {
        if self.inbound.is_empty() {
            let mut inbound = std::mem::take(&mut self.scratch.inbound);
            let _ = self.shared.inbound.poll_take(cx, &mut inbound);
            self.inbound.extend(inbound.drain(..));
            self.scratch.inbound = inbound;
        }
        let count = self.inbound.len().min(INBOUND_PER_TURN);
        for _ in 0..count {
            let Some(inbound) = self.inbound.pop_front() else { break };
            self.take_in(inbound);
        }
        count > 0
    }

    fn take_in(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Unreachable(peer) => {
                self.peers.unreachable(peer.raft_id());
                self.node.handle_unreachable(peer.raft_id());
                self.forwarded_to_unreachable(peer);
            }
            Inbound::Snapshot(from, message) => self.snapshot_received(from, message),
            Inbound::Message(message) => {
                let from = message.from;
                if !self.peers.note_sender(self.node.membership(), from, &message.from_address) {
                    self.shared.misdirected.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                match message.body {
                    MessageBody::Raft(raft) => self.node.handle_message(from.raft_id(), raft),
                    MessageBody::Request(request) => self.requested(request),
                    MessageBody::Answer(answer) => self.answered(answer),
                    MessageBody::Probe(_) => {}
                }
            }
        }
    }

    fn turn_tick(&mut self, cx: &mut Context<'_>) -> bool {
        // The clock decides, not the timer: a timer may report late on a busy runtime.
        if self.now < self.tick_at && self.timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        // Missed ticks count as one: after a long pause the network is heard before anybody
        // campaigns.
        self.tick_at = (self.tick_at + self.config.tick).max(self.now);
        self.timer.as_mut().reset(self.tick_at);
        self.node.handle_tick();
        self.sweep();
        true
    }

    fn turn_asks(&mut self, cx: &mut Context<'_>) -> bool {
        let mut asks = std::mem::take(&mut self.scratch.asks);
        let busy = self.shared.asks.poll_take(cx, &mut asks).is_ready();
        asks.drain(..).for_each(|ask| self.asked(ask));
        self.scratch.asks = asks;
        busy
    }

    /// The limit, if so much waits to be durable or to be applied that this leader takes no more
    /// commands.
    fn log_backlog(&self) -> Option<usize> {
        if self.node.last().index - self.node.applied().index > UNAPPLIED_ENTRIES_MAX {
            return usize::try_from(UNAPPLIED_ENTRIES_MAX).ok();
        }
        let cache_bytes_max = usize::try_from(self.config.log_cache_bytes_max);
        let bytes_max = cache_bytes_max.unwrap_or(usize::MAX).max(self.config.waiting_bytes_max);
        (self.node.cached_bytes() > bytes_max as u64).then_some(bytes_max)
    }

    fn asked(&mut self, ask: Ask) {
        let deadline = self.now + self.config.verb_timeout;
        match ask {
            Ask::Propose(command, mut caller) => {
                caller.deadline = Some(deadline);
                self.unproposed.push_back((command, caller));
            }
            Ask::Read(answer) => self.read(answer, deadline),
            Ask::Change(change, on, answer, deadline) => {
                self.change_asked(change, on, answer, deadline);
            }
            Ask::Transfer(to, answer, deadline) => self.transfer_asked(to, answer, deadline),
            Ask::Bootstrap(members, answer) => self.bootstrap(members, answer),
            Ask::Join(addresses, answer) => self.join(addresses, answer, deadline),
            Ask::Shutdown(answer) => {
                self.on_shutdown.push(answer);
                self.stop.get_or_insert(Fatal::Shutdown);
            }
        }
    }

    /// Does what the core and the callers want done, until nothing more comes of it.
    fn settle(&mut self) {
        self.look_around();
        self.propose_waiting();
        self.begin_reads();
        self.stop_if_fatal();
        if self.stop.is_some() {
            return;
        }
        self.collect();
        for outgoing in self.node.take_sends() {
            self.send(outgoing);
        }
        self.send_snapshots();
        self.fetch();
        self.write();
        self.apply();
        self.stop_if_fatal();
        self.publish();
    }

    /// What the core prepared before it became fatal is not sent: nobody knows how far it got.
    fn stop_if_fatal(&mut self) {
        if let Some(fatal) = self.node.fatal() {
            self.stop.get_or_insert_with(|| fatal.clone());
        }
    }

    /// Takes out what the core has found out.
    fn collect(&mut self) {
        for (incarnation, round, index) in self.node.take_reads() {
            if incarnation == self.incarnation {
                self.reads.confirm(round, index);
            }
        }
        self.answer_reads();
        self.settle_changes();
        self.settle_transfer();
    }

    fn write(&mut self) {
        if !self.log.is_idle() {
            return;
        }
        let Some(mut job) = self.node.take_write() else { return };
        let mut batch = std::mem::take(&mut job.batch);
        self.writing = Some(job);
        self.log.start(|mut log| {
            Box::pin(async move {
                if Mutant::HardStateFirst.is_planted() {
                    let hard_state = batch.hard_state.take();
                    let first = WriteBatch { hard_state, sync: true, ..WriteBatch::default() };
                    if let Err(error) = log.write(first).await {
                        return (log, Err(error));
                    }
                }
                let done = log.write(batch).await;
                (log, done)
            })
        });
        self.shared.publish(|status| {
            status.counters.log_writes += 1;
            false
        });
    }

    fn fetch(&mut self) {
        for fetch in self.node.take_fetches() {
            let reader = Arc::clone(&self.reader);
            guard::spawn_job(&*self.runtime, &self.shared, async move {
                let entries = reader.read(fetch.range.clone(), fetch.bytes_max).await;
                JobDone::Fetched(fetch, entries)
            });
        }
    }
}

/// How many messages of peers one turn takes, so that ticks and handles get their turn too.
const INBOUND_PER_TURN: usize = 256;
/// How many entries may wait to be applied before commands have to wait.
const UNAPPLIED_ENTRIES_MAX: u64 = 1 << 17;

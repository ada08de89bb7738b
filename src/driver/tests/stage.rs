//! A driver of server 1 on the simulated runtime; the test plays servers 2 and 3, and decides what
//! arrives in one turn.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;

use super::gate::{Gate, lock};
use crate::config::Config;
use crate::id::{ClusterId, GroupId, LogId, NodeId};
use crate::membership::Member;
use crate::raft::{BootstrapError, Parts, Raft, StartError};
use crate::runtime::sim::Sim;
use crate::runtime::{ByteReader, Runtime as _};
use crate::state_machine::{BoxError, Command, Snapshot, StateMachine};
use crate::storage::{
    Entry, LogReader, LogStore, MemoryLogStore, MemorySnapshotStore, Recovered, SnapshotMeta,
    StorageError, WriteBatch,
};
use crate::transport::{
    Answer, Inbox, Message, MessageBody, Peer, RaftKind, RaftMessage, Request, Transport,
    TransportError,
};

pub(super) const TICK: Duration = Duration::from_millis(10);

pub(super) struct Stage {
    pub(super) sim: Sim,
    pub(super) raft: Raft,
    pub(super) wire: Arc<Wire>,
    pub(super) log: MemoryLogStore,
    /// Where writes wait while it is shut.
    pub(super) disk: Gate,
    /// Where the state machine waits before it applies or restores.
    pub(super) machine: Gate,
    /// Where a captured state waits before it is written out.
    pub(super) saving: Gate,
    /// Where reading the log waits.
    pub(super) reads: Gate,
    failing: Faults,
}

/// What panics from now on, or, for `Answers` and `Compacted`, is not given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Failing {
    Answers,
    Apply,
    Compacted,
    Restore,
    Snapshot,
    Write,
    WriteSnapshot,
}

#[derive(Clone, Default)]
struct Faults(Arc<Mutex<Option<Failing>>>);

impl Faults {
    fn meet(&self, here: Failing) {
        let failing = *lock(&self.0);
        assert!(failing != Some(here), "planted");
    }
}

/// A call that was made and is looked at by hand.
pub(super) struct Call<T>(Pin<Box<dyn Future<Output = T>>>);

/// Keeps what is sent, and knows where to deliver.
#[derive(Default)]
pub(super) struct Wire {
    inbox: Mutex<Option<Arc<dyn Inbox>>>,
    sent: Mutex<Vec<(Peer, Message)>>,
    /// Where detaching waits.
    pub(super) leaving: Gate,
    /// Where streams wait, which then fail.
    pub(super) streams: Gate,
    /// The longest message it says that it carries.
    bytes_max: Option<u64>,
}

impl Wire {
    /// One that says that it carries no longer messages.
    pub(super) fn narrow(bytes_max: u64) -> Self {
        Self { bytes_max: Some(bytes_max), ..Self::default() }
    }
}

/// A log in memory whose writes wait at a gate.
struct GatedLog {
    log: MemoryLogStore,
    writes: Gate,
    reads: Gate,
    failing: Faults,
}

struct GatedReader(Arc<dyn LogReader>, Gate, Faults);

#[async_trait]
impl LogReader for GatedReader {
    async fn read(&self, indexes: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>, StorageError> {
        self.1.pass().await;
        if *lock(&self.2.0) == Some(Failing::Compacted) {
            return Err(StorageError::Compacted { first: indexes.end });
        }
        self.0.read(indexes, bytes_max).await
    }
}

#[async_trait]
impl LogStore for GatedLog {
    async fn recover(&mut self) -> Result<Recovered, StorageError> {
        self.log.recover().await
    }

    async fn write(&mut self, batch: WriteBatch) -> Result<(), StorageError> {
        self.writes.pass().await;
        self.failing.meet(Failing::Write);
        self.log.write(batch).await
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(GatedReader(self.log.reader(), self.reads.clone(), self.failing.clone()))
    }
}

/// Answers each command by its length.
#[derive(Clone)]
struct Lengths {
    machine: Gate,
    saving: Gate,
    failing: Faults,
}

impl Stage {
    /// Server 1 of three, formed but without a leader, unless `prepare` gives it the stores of one
    /// that was.
    pub(super) fn new(prepare: impl FnOnce(&mut Parts)) -> Self {
        let stage = Self::blank(prepare);
        if stage.raft.status().cluster.is_nil() {
            let mut formed = stage.form();
            stage.turn();
            assert!(formed.look().unwrap().is_ok());
        }
        stage
    }

    /// Asks server 1 to form a cluster of three.
    pub(super) fn form(&self) -> Call<Result<ClusterId, BootstrapError>> {
        let voter = |n: u64| Member::voter(n.into(), "", format!("a{n}"));
        self.call(move |raft| async move { raft.bootstrap((1..=3).map(voter).collect()).await })
    }

    /// A server that is in no cluster.
    pub(super) fn blank(prepare: impl FnOnce(&mut Parts)) -> Self {
        Self::try_blank(prepare).unwrap()
    }

    pub(super) fn try_blank(prepare: impl FnOnce(&mut Parts)) -> Result<Self, StartError> {
        let sim = Sim::new(1);
        let (log, wire) = (MemoryLogStore::new(), Arc::new(Wire::default()));
        let (disk, reads, failing) = (Gate::default(), Gate::default(), Faults::default());
        let (machine, saving) = (Gate::default(), Gate::default());
        let lengths =
            Lengths { machine: machine.clone(), saving: saving.clone(), failing: failing.clone() };
        let gated = GatedLog {
            log: log.clone(),
            writes: disk.clone(),
            reads: reads.clone(),
            failing: failing.clone(),
        };
        let mut config = Config::default();
        config.id = Some(1.into());
        config.address = "a1".into();
        config.tick = TICK;
        config.heartbeat_interval = 3 * TICK;
        config.election_timeout = 30 * TICK;
        config.verb_timeout = 300 * TICK;
        let mut parts = Parts {
            config,
            group: GroupId::default(),
            runtime: sim.process(1),
            transport: Arc::clone(&wire) as _,
            log: Box::new(gated),
            snapshots: Arc::new(MemorySnapshotStore::new()),
            state_machine: Box::new(lengths),
        };
        prepare(&mut parts);
        let started = sim.run_until(Duration::from_secs(1), Raft::start(parts));
        let raft = started.unwrap()?;
        Ok(Self { sim, raft, wire, log, disk, machine, saving, reads, failing })
    }

    pub(super) fn fail(&self, failing: Failing) {
        *lock(&self.failing.0) = Some(failing);
    }

    pub(super) fn is_detached(&self) -> bool {
        lock(&self.wire.inbox).is_none()
    }

    /// Makes a call; it is in the mailbox when this returns, and nothing has run.
    pub(super) fn call<T, F>(&self, call: impl FnOnce(Raft) -> F) -> Call<T>
    where
        F: Future<Output = T> + 'static,
    {
        let mut call = Call(Box::pin(call(self.raft.clone())));
        assert!(call.look().is_none(), "it ended at once");
        call
    }

    /// Makes a call that ends at once.
    pub(super) fn now<T, F>(&self, call: impl FnOnce(Raft) -> F) -> T
    where
        F: Future<Output = T> + 'static,
    {
        Call(Box::pin(call(self.raft.clone()))).look().expect("it ends at once")
    }

    /// Lets the driver do what it can without time passing.
    pub(super) fn turn(&self) {
        self.sim.run_for(Duration::ZERO);
    }

    pub(super) fn ticks(&self, count: u32) {
        self.sim.run_for(count * TICK);
    }

    pub(super) fn sent(&self) -> Vec<(Peer, Message)> {
        std::mem::take(&mut lock(&self.wire.sent))
    }

    /// The requests among what was sent.
    pub(super) fn requests(&self) -> Vec<Request> {
        let request = |body| match body {
            MessageBody::Request(request) => Some(request),
            _ => None,
        };
        self.sent().into_iter().filter_map(|(_, message)| request(message.body)).collect()
    }

    /// The answers among what was sent.
    pub(super) fn answers(&self) -> Vec<Answer> {
        let answer = |body| match body {
            MessageBody::Answer(answer) => Some(answer),
            _ => None,
        };
        self.sent().into_iter().filter_map(|(_, message)| answer(message.body)).collect()
    }

    /// Puts a message into the inbox.
    pub(super) fn hear(&self, from: u64, body: MessageBody) {
        self.hear_message(self.message(from, body));
    }

    pub(super) fn hear_message(&self, message: Message) {
        // One that has stopped hears nothing.
        if !self.is_detached() {
            self.inbox().deliver(message);
        }
    }

    pub(super) fn inbox(&self) -> Arc<dyn Inbox> {
        lock(&self.wire.inbox).clone().unwrap()
    }

    /// The transport says that a server cannot be reached.
    pub(super) fn lose(&self, peer: u64) {
        self.inbox().unreachable(peer.into());
    }

    pub(super) fn message(&self, from: u64, body: MessageBody) -> Message {
        Message {
            cluster: self.raft.status().cluster,
            group: GroupId::default(),
            from: from.into(),
            from_address: format!("a{from}").into(),
            to: Some(1.into()),
            body,
        }
    }

    /// Streams a snapshot of server `from` in, as leader of `term`.
    pub(super) fn hear_snapshot(&self, from: u64, term: u64, log_id: LogId) {
        let inbox = self.inbox();
        let system = self.raft.status().membership.encode();
        let raft = RaftMessage {
            kind: RaftKind::Snapshot,
            term,
            snapshot: Some(SnapshotMeta { log_id, system, size_bytes: 0 }),
            ..RaftMessage::default()
        };
        let head = self.message(from, MessageBody::Raft(raft));
        self.sim.process(1).spawn(Box::pin(async move {
            let empty = Box::pin(futures::io::Cursor::new(Vec::new()));
            inbox.receive_stream(head, empty).await.unwrap();
        }));
    }

    /// Puts the answers that faithful followers give into the inbox; `false` if there are none.
    pub(super) fn answer(&self) -> bool {
        self.answer_as(&[2, 3])
    }

    pub(super) fn answer_as(&self, followers: &[u64]) -> bool {
        let mut answered = false;
        for (peer, message) in self.sent() {
            let Some(from) = peer.id.map(NodeId::raft_id) else { continue };
            let MessageBody::Raft(raft) = message.body else { continue };
            let Some(answer) = faithful(&raft) else { continue };
            let from = followers.iter().find(|&&n| NodeId::from(n).raft_id() == from);
            if let Some(&from) = from {
                self.hear(from, MessageBody::Raft(answer));
                answered = true;
            }
        }
        answered
    }

    /// Goes on until nothing moves any more.
    pub(super) fn play(&self) {
        self.turn();
        while self.answer() {
            self.turn();
        }
    }

    /// Until a call has ended, with faithful followers.
    pub(super) fn until<T>(&self, call: &mut Call<T>) -> T {
        for _ in 0..1_000 {
            if let Some(result) = call.look() {
                return result;
            }
            self.ticks(1);
            self.play();
        }
        panic!("it never ended");
    }

    /// Until server 1 leads and has committed an entry of its own.
    pub(super) fn lead(&self) {
        for _ in 0..200 {
            self.ticks(1);
            self.play();
            if self.raft.status().established {
                return;
            }
        }
        panic!("server 1 does not lead: {:?}", self.raft.status());
    }

    /// Makes server 2 the leader of a new term, with `commands` behind the log of server 1.
    pub(super) fn follow(&self, commands: &[&[u8]]) {
        self.append(self.raft.status().term + 1, commands);
    }

    /// Server 2, as leader of `term`, appends `commands` to the log of server 1 and commits them.
    pub(super) fn append(&self, term: u64, commands: &[&[u8]]) {
        let last = self.raft.status().last;
        let entries = (last.index + 1..).zip(commands);
        let entries: Vec<Entry> = entries
            .map(|(index, command)| Entry::application(LogId { term, index }, command))
            .collect();
        let append = RaftMessage {
            kind: RaftKind::Append,
            term,
            log_id: last,
            commit: last.index + entries.len() as u64,
            entries,
            ..RaftMessage::default()
        };
        self.hear(2, MessageBody::Raft(append));
        self.turn();
    }
}

impl<T> Call<T> {
    pub(super) fn look(&mut self) -> Option<T> {
        match self.0.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }
}

fn faithful(raft: &RaftMessage) -> Option<RaftMessage> {
    let answer = |kind| RaftMessage { kind, term: raft.term, ..RaftMessage::default() };
    Some(match raft.kind {
        RaftKind::Append => {
            let index = raft.log_id.index + raft.entries.len() as u64;
            let log_id = LogId { term: 0, index };
            RaftMessage { log_id, ..answer(RaftKind::AppendResponse) }
        }
        RaftKind::Heartbeat => {
            RaftMessage { context: raft.context.clone(), ..answer(RaftKind::HeartbeatResponse) }
        }
        RaftKind::PreVote => answer(RaftKind::PreVoteResponse),
        RaftKind::Vote => answer(RaftKind::VoteResponse),
        _ => return None,
    })
}

#[async_trait]
impl Transport for Wire {
    fn check(&self, _: &str, bytes: u64) -> Result<(), TransportError> {
        match self.bytes_max {
            Some(bytes_max) if bytes > bytes_max => {
                Err(TransportError::TooLarge { bytes, bytes_max })
            }
            _ => Ok(()),
        }
    }

    fn attach(&self, inbox: Arc<dyn Inbox>) {
        *lock(&self.inbox) = Some(inbox);
    }

    fn send(&self, peer: &Peer, message: Message) -> Result<(), TransportError> {
        lock(&self.sent).push((peer.clone(), message));
        Ok(())
    }

    async fn send_stream(&self, _: &Peer, _: Message, _: ByteReader) -> Result<(), TransportError> {
        self.streams.pass().await;
        Err(TransportError::Unreachable { reason: "no streams here".into() })
    }

    async fn detach(&self, _: GroupId) {
        self.leaving.pass().await;
        *lock(&self.inbox) = None;
    }
}

#[async_trait]
impl StateMachine for Lengths {
    async fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<bytes::Bytes>, BoxError> {
        self.machine.pass().await;
        self.failing.meet(Failing::Apply);
        if *lock(&self.failing.0) == Some(Failing::Answers) {
            return Ok(Vec::new());
        }
        Ok(commands.iter().map(|command| vec![command.data.len() as u8].into()).collect())
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, BoxError> {
        self.failing.meet(Failing::Snapshot);
        Ok(Box::new(self.clone()))
    }

    async fn restore(&mut self, _: &SnapshotMeta, _: ByteReader) -> Result<(), BoxError> {
        self.machine.pass().await;
        self.failing.meet(Failing::Restore);
        Ok(())
    }
}

#[async_trait]
impl Snapshot for Lengths {
    async fn write_to(
        self: Box<Self>,
        _: &mut (dyn futures::io::AsyncWrite + Send + Unpin),
    ) -> Result<(), BoxError> {
        self.saving.pass().await;
        self.failing.meet(Failing::WriteSnapshot);
        Ok(())
    }
}

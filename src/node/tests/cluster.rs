//! A few cores, the messages between them and their disks, all moved by hand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::config::Config;
use crate::id::LogId;
use crate::membership::{Change, Member, Membership};
use crate::node::{ChangeOutcome, Fetch, Node, Outgoing, Start, WriteJob};
use crate::storage::{Base, Entry, EntryKind, HardState, Recovered, SnapshotMeta, WriteBatch};
use crate::transport::{RaftKind, RaftMessage};

/// What one node has on its disk, and what it does.
pub(super) struct Server {
    pub(super) node: Node,
    pub(super) disk: Disk,
    /// Writes that were taken from the core but are not durable; the test decides when they are.
    pub(super) writing: VecDeque<WriteJob>,
    /// Whether writes become durable at once.
    pub(super) prompt: bool,
    pub(super) applied: Vec<(LogId, Bytes)>,
    pub(super) reads: Vec<(u64, u64)>,
    pub(super) changes: Vec<ChangeOutcome>,
    /// Reads behind memory, kept here if `Some` and not carried out.
    pub(super) fetches: Option<Vec<Fetch>>,
}

#[derive(Clone, Default)]
pub(super) struct Disk {
    pub(super) base: Base,
    pub(super) entries: Vec<Entry>,
    pub(super) hard_state: HardState,
    pub(super) snapshot: Option<SnapshotMeta>,
}

pub(super) struct Cluster {
    pub(super) servers: BTreeMap<u64, Server>,
    pub(super) wire: VecDeque<(u64, Outgoing)>,
    /// Everything that was ever put on the wire.
    pub(super) sent: Vec<(u64, u64, RaftMessage)>,
    pub(super) cut: BTreeSet<u64>,
}

pub(super) fn voter(n: u64) -> Member {
    Member::voter(n.into(), format!("n{n}"), format!("a{n}"))
}

pub(super) fn learner(n: u64) -> Member {
    Member::learner(n.into(), format!("n{n}"), format!("a{n}"))
}

impl Disk {
    /// What bootstrap leaves behind.
    pub(super) fn bootstrapped(membership: &Membership) -> Self {
        let log_id = LogId { term: 1, index: 1 };
        let system = membership.encode();
        Self {
            base: Base { log_id, system: system.clone() },
            hard_state: HardState { term: 1, vote: 0, commit: 1 },
            snapshot: Some(SnapshotMeta { log_id, system, size_bytes: 0 }),
            entries: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, batch: WriteBatch) {
        if let Some(base) = batch.reset_to {
            self.entries.clear();
            self.base = base;
        }
        if let Some(base) = batch.compact_to {
            self.entries.retain(|entry| entry.log_id.index > base.log_id.index);
            self.base = base;
        }
        if let Some(first) = batch.entries.first() {
            self.entries.retain(|entry| entry.log_id.index < first.log_id.index);
        }
        self.entries.extend(batch.entries);
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
    }

    pub(super) fn recovered(&self) -> Recovered {
        let mut terms: Vec<LogId> = Vec::new();
        for entry in &self.entries {
            if terms.last().is_none_or(|run| run.term != entry.log_id.term) {
                terms.push(entry.log_id);
            }
        }
        Recovered {
            base: self.base.clone(),
            hard_state: self.hard_state,
            last: self.entries.last().map_or(self.base.log_id, |entry| entry.log_id),
            terms,
            changes: self.entries.iter().filter(|entry| entry.is_change()).cloned().collect(),
            ..Recovered::default()
        }
    }

    pub(super) fn start(&self, id: u64, config: &Config) -> Result<Node, String> {
        self.start_at(id, config, self.base.log_id)
    }

    /// Starts a node whose state machine says that it has come so far.
    pub(super) fn start_at(&self, id: u64, config: &Config, at: LogId) -> Result<Node, String> {
        Node::start(Start {
            id: id.into(),
            config,
            ticks: config.ticks().unwrap(),
            seed: 7,
            recovered: self.recovered(),
            snapshot: self.snapshot.clone(),
            applied: at,
        })
    }
}

impl Server {
    pub(super) fn new(id: u64, disk: Disk, config: &Config) -> Self {
        Self {
            node: disk.start(id, config).unwrap(),
            disk,
            writing: VecDeque::new(),
            prompt: true,
            applied: Vec::new(),
            reads: Vec::new(),
            changes: Vec::new(),
            fetches: None,
        }
    }

    /// Makes the oldest write durable and tells the core; gives back what leaves now.
    pub(super) fn finish_write(&mut self) -> Vec<Outgoing> {
        let Some(mut job) = self.writing.pop_front() else { return Vec::new() };
        let batch = std::mem::take(&mut job.batch);
        self.disk.write(batch);
        match job.installs {
            Some(at) => {
                self.node.handle_installed(job.number);
                self.disk.snapshot = self.node.snapshot().cloned();
                self.node.handle_applied(at);
            }
            None => self.node.handle_persisted(job.number),
        }
        job.then_send
    }

    fn work(&mut self) -> Vec<Outgoing> {
        let mut out = Vec::new();
        loop {
            out.extend(self.node.take_sends());
            self.changes.extend(self.node.take_changes());
            let reads = self.node.take_reads();
            self.reads.extend(reads.iter().map(|&(_, round, index)| (round, index)));
            let mut fetches = self.node.take_fetches();
            if let Some(held) = &mut self.fetches {
                held.append(&mut fetches);
            }
            let fetched = !fetches.is_empty();
            for fetch in fetches {
                let in_range = |entry: &&Entry| fetch.range.contains(&entry.log_id.index);
                let entries = self.disk.entries.iter().filter(in_range).cloned().collect();
                self.node.handle_fetched(fetch, entries);
            }
            if self.writing.is_empty() {
                self.writing.extend(self.node.take_write());
            }
            let wrote = self.prompt && !self.writing.is_empty();
            if wrote {
                out.extend(self.finish_write());
            }
            if !fetched && !wrote && !self.apply() && !self.take_snapshot() {
                return out;
            }
        }
    }

    fn take_snapshot(&mut self) -> bool {
        let applied = self.node.applied();
        let newest = self.node.snapshot().map_or(0, |meta| meta.log_id.index);
        if applied.index <= newest || !self.node.take_wants_snapshot() {
            return false;
        }
        let system = self.node.membership_at(applied.index).encode();
        let meta = SnapshotMeta { log_id: applied, system, size_bytes: 0 };
        self.disk.snapshot = Some(meta.clone());
        self.node.handle_snapshot_taken(meta, 1_000);
        true
    }

    fn apply(&mut self) -> bool {
        let Some(job) = self.node.take_apply(1 << 20) else { return false };
        let missing = self.disk.entries.iter();
        let missing = missing.filter(|entry| job.missing.contains(&entry.log_id.index)).cloned();
        let all = missing.chain(job.entries);
        let ours = all.filter(|entry| entry.kind == EntryKind::Application);
        self.applied.extend(ours.map(|entry| (entry.log_id, entry.data)));
        self.node.handle_applied(job.last);
        true
    }
}

impl Cluster {
    pub(super) fn of(members: &[Member]) -> Self {
        Self::with(members, &Config::default())
    }

    pub(super) fn with(members: &[Member], config: &Config) -> Self {
        let disk = Disk::bootstrapped(&Membership::first(members.iter().cloned()));
        let ids = members.iter().map(|member| member.id.raft_id());
        let servers = ids.map(|id| (id, Server::new(id, disk.clone(), config))).collect();
        Self { servers, wire: VecDeque::new(), sent: Vec::new(), cut: BTreeSet::new() }
    }

    pub(super) fn server(&mut self, id: u64) -> &mut Server {
        self.servers.get_mut(&id).unwrap()
    }

    pub(super) fn node(&mut self, id: u64) -> &mut Node {
        &mut self.server(id).node
    }

    /// Lets every server do what it can, without delivering anything.
    pub(super) fn work(&mut self) {
        for (&id, server) in &mut self.servers {
            for outgoing in server.work() {
                self.sent.push((id, outgoing.to, outgoing.message.clone()));
                self.wire.push_back((id, outgoing));
            }
        }
        self.send_snapshots();
    }

    fn send_snapshots(&mut self) {
        let ids: Vec<u64> = self.servers.keys().copied().collect();
        for id in ids {
            let term = self.node(id).term();
            for (to, meta) in self.node(id).take_snapshot_sends() {
                let arrives = !self.cut.contains(&id) && !self.cut.contains(&to);
                if let Some(server) = self.servers.get_mut(&to).filter(|_| arrives) {
                    let message = RaftMessage {
                        kind: RaftKind::Snapshot,
                        term,
                        snapshot: Some(meta),
                        ..RaftMessage::default()
                    };
                    self.sent.push((id, to, message.clone()));
                    server.node.handle_snapshot(id, message);
                }
                self.node(id).handle_snapshot_sent(to, arrives);
            }
        }
    }

    /// Delivers until nothing moves any more.
    pub(super) fn settle(&mut self) {
        self.work();
        while let Some((from, outgoing)) = self.wire.pop_front() {
            let cut = self.cut.contains(&from) || self.cut.contains(&outgoing.to);
            if let Some(server) = self.servers.get_mut(&outgoing.to).filter(|_| !cut) {
                server.node.handle_message(from, outgoing.message);
            }
            self.work();
        }
    }

    pub(super) fn tick(&mut self, count: usize) {
        for _ in 0..count {
            self.servers.values_mut().for_each(|server| server.node.handle_tick());
            self.settle();
        }
    }

    /// Ticks until a server that is not cut off leads, and gives its id.
    pub(super) fn elect(&mut self) -> u64 {
        for _ in 0..500 {
            self.tick(1);
            let leader = self
                .servers
                .iter()
                .find(|(id, server)| !self.cut.contains(id) && server.node.is_established());
            if let Some((&id, _)) = leader {
                return id;
            }
        }
        panic!("nobody was elected");
    }

    pub(super) fn propose(&mut self, leader: u64, command: &'static str) -> LogId {
        let first = self.node(leader).handle_proposal(vec![Bytes::from(command)]).unwrap();
        self.settle();
        first
    }

    pub(super) fn change(&mut self, leader: u64, change: Change) {
        self.node(leader).handle_change(&change, None).unwrap().unwrap();
        self.settle();
    }

    /// Adds a server that is in no cluster yet.
    pub(super) fn add_blank(&mut self, id: u64) {
        let server = Server::new(id, Disk::default(), &Config::default());
        self.servers.insert(id, server);
    }

    /// Restarts a server on what is durable; whatever was under way is lost.
    pub(super) fn crash(&mut self, id: u64) {
        let disk = self.server(id).disk.clone();
        self.wire.retain(|(from, outgoing)| *from != id && outgoing.to != id);
        self.servers.insert(id, Server::new(id, disk, &Config::default()));
    }

    pub(super) fn commands(&self, id: u64) -> Vec<&[u8]> {
        self.servers[&id].applied.iter().map(|(_, command)| &command[..]).collect()
    }
}

//! What the fuzz targets reach and users must not: the core, and the bytes of memberships.
//!
//! Every function is a call of the inner one and no more, so that what is fuzzed is what runs.
//! There is no promise here: it may change with any commit.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::config::{Config, ConfigError};
use crate::error::Fatal;
use crate::id::{ClusterId, GroupId, LogId, NodeId};
use crate::membership::{Change, ChangeRecord, Member, Membership, MembershipError};
use crate::node::{self, Node, Outgoing, Start};
use crate::storage::{Entry, Recovered, SnapshotMeta, WriteBatch};
use crate::transport::{DecodeError, Message, MessageBody};

/// The consensus core, driven by hand.
pub struct Core {
    node: Node,
    id: NodeId,
}

/// A message on its way out: the engine's name of the receiver, and the message.
pub type Sent = (u64, Message);

/// One write, and what must wait for it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Write {
    /// To be reported when it is done.
    pub number: u64,
    /// What to write.
    pub batch: WriteBatch,
    /// What leaves when it is done, and after it was reported.
    pub then_send: Vec<Sent>,
    /// The snapshot that it installs.
    pub installs: Option<LogId>,
}

/// Entries to apply: the range that must be read first, those in memory, and the last of all.
pub type Apply = (Range<u64>, Vec<Entry>, LogId);

impl Core {
    /// Starts a core on what a store kept.
    ///
    /// # Errors
    ///
    /// A sentence about what does not fit together.
    pub fn start(
        id: NodeId,
        config: &Config,
        recovered: Recovered,
        snapshot: Option<SnapshotMeta>,
        applied: LogId,
    ) -> Result<Self, String> {
        let ticks = config.ticks().map_err(|error: ConfigError| error.to_string())?;
        let start = Start { id, config, ticks, seed: 7, recovered, snapshot, applied };
        Node::start(start).map(|node| Self { node, id })
    }

    /// Takes in a message, if it is one of the engine's.
    pub fn message(&mut self, message: Message) {
        if let MessageBody::Raft(raft) = message.body {
            self.node.handle_message(message.from.raft_id(), raft);
        }
    }

    /// Takes in the head of a snapshot that has been stored.
    pub fn snapshot(&mut self, message: Message) {
        if let MessageBody::Raft(raft) = message.body {
            self.node.handle_snapshot(message.from.raft_id(), raft);
        }
    }

    /// One tick.
    pub fn tick(&mut self) {
        self.node.handle_tick();
    }

    /// Proposes commands; `None` if this core cannot.
    pub fn propose(&mut self, commands: Vec<Bytes>) -> Option<LogId> {
        self.node.handle_proposal(commands)
    }

    /// Proposes a change of the membership; `Ok(None)` if there is nothing to do.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn change(&mut self, change: &Change) -> Result<Option<LogId>, MembershipError> {
        self.node.handle_change(change, None)
    }

    /// Begins a read-index round.
    pub fn read(&mut self, round: u64) -> bool {
        self.node.handle_read(1, round)
    }

    /// Begins to hand leadership over.
    pub fn transfer(&mut self, to: u64) {
        self.node.handle_transfer(to);
    }

    /// A peer may have missed what was sent last.
    pub fn unreachable(&mut self, peer: u64) {
        self.node.handle_unreachable(peer);
    }

    /// How sending a snapshot ended.
    pub fn snapshot_sent(&mut self, peer: u64, arrived: bool) {
        self.node.handle_snapshot_sent(peer, arrived);
    }

    /// A snapshot of this core's own is durable.
    pub fn snapshot_taken(&mut self, meta: SnapshotMeta, keep: u64) {
        self.node.handle_snapshot_taken(meta, keep);
    }

    /// A write is durable.
    pub fn persisted(&mut self, number: u64) {
        self.node.handle_persisted(number);
    }

    /// A write that installs a snapshot is durable.
    pub fn installed(&mut self, number: u64) {
        self.node.handle_installed(number);
    }

    /// Everything up to here is applied.
    pub fn applied(&mut self, log_id: LogId) {
        self.node.handle_applied(log_id);
    }

    /// Does the reads that the engine waits for.
    pub fn fetch(&mut self, read: impl Fn(Range<u64>, u64) -> Vec<Entry>) {
        for fetch in self.node.take_fetches() {
            let entries = read(fetch.range.clone(), fetch.bytes_max);
            self.node.handle_fetched(fetch, entries);
        }
    }

    /// Messages that may leave now.
    pub fn take_sends(&mut self) -> Vec<Sent> {
        let sends = self.node.take_sends();
        sends.into_iter().map(|outgoing| self.sent(outgoing)).collect()
    }

    /// Peers that are to be sent a snapshot.
    pub fn take_snapshot_sends(&mut self) -> Vec<(u64, SnapshotMeta)> {
        self.node.take_snapshot_sends()
    }

    /// The next write; the one before must be done.
    pub fn take_write(&mut self) -> Option<Write> {
        let job = self.node.take_write()?;
        let then_send = job.then_send.into_iter().map(|outgoing| self.sent(outgoing)).collect();
        Some(Write { number: job.number, batch: job.batch, then_send, installs: job.installs })
    }

    /// What may be applied next; what came before must be done.
    pub fn take_apply(&mut self, bytes_max: u64) -> Option<Apply> {
        let job = self.node.take_apply(bytes_max)?;
        Some((job.missing, job.entries, job.last))
    }

    /// Confirmed read rounds, settled changes, whether a snapshot is wanted: taken and dropped.
    pub fn take_rest(&mut self) {
        drop(self.node.take_reads());
        drop(self.node.take_changes());
        self.node.take_wants_snapshot();
    }

    /// Why it has stopped.
    #[must_use]
    pub fn fatal(&self) -> Option<&Fatal> {
        self.node.fatal()
    }

    /// Whether it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.node.is_leader()
    }

    /// Whether it leads and has committed in its term.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.node.is_established()
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.node.term()
    }

    /// How far it knows the log committed.
    #[must_use]
    pub fn commit(&self) -> u64 {
        self.node.commit()
    }

    /// How far the log is applied.
    #[must_use]
    pub fn applied_to(&self) -> LogId {
        self.node.applied()
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.node.last()
    }

    /// Whether a snapshot is being installed, which the log does not know yet.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        self.node.is_installing()
    }

    /// The membership in force.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.node.membership()
    }

    /// The membership at a place of the log.
    #[must_use]
    pub fn membership_at(&self, index: u64) -> &Membership {
        self.node.membership_at(index)
    }

    /// The newest snapshot.
    #[must_use]
    pub fn newest_snapshot(&self) -> Option<&SnapshotMeta> {
        self.node.snapshot()
    }

    fn sent(&self, outgoing: Outgoing) -> Sent {
        let message = Message {
            cluster: ClusterId::NIL,
            group: GroupId::default(),
            from: self.id,
            from_address: Arc::from(""),
            to: Some(outgoing.to.into()),
            body: MessageBody::Raft(outgoing.message),
        };
        (outgoing.to, message)
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Whether a message is the head of a snapshot that would be stored.
#[must_use]
pub fn is_sound_snapshot(message: &Message) -> bool {
    matches!(&message.body, MessageBody::Raft(raft) if node::is_sound_snapshot(raft))
}

/// The first membership of a cluster.
#[must_use]
pub fn first_membership(members: Vec<Member>) -> Membership {
    Membership::first(members)
}

/// The bytes of a membership.
#[must_use]
pub fn encode_membership(membership: &Membership) -> Bytes {
    membership.encode()
}

/// Reads a membership.
///
/// # Errors
///
/// What is wrong first.
pub fn decode_membership(bytes: Bytes) -> Result<Membership, DecodeError> {
    Membership::decode(bytes)
}

/// Plans a change; gives the bytes of the record that goes into the log.
///
/// # Errors
///
/// Why not.
pub fn plan(membership: &Membership, change: &Change) -> Result<Option<Bytes>, MembershipError> {
    Ok(membership.plan(change)?.map(|record| record.encode()))
}

/// Reads a record of a change and writes it again.
///
/// # Errors
///
/// What is wrong first.
pub fn rewrite_record(bytes: Bytes) -> Result<Bytes, DecodeError> {
    ChangeRecord::decode(bytes).map(|record| record.encode())
}

/// Reads a change and writes it again.
///
/// # Errors
///
/// What is wrong first.
pub fn rewrite_change(bytes: Bytes) -> Result<Bytes, DecodeError> {
    Change::decode(bytes).map(|change| change.encode())
}

//! What one look at a node shows.

use crate::error::Fatal;
use crate::id::{ClusterId, LogId, NodeId};
use crate::membership::Membership;

/// A node as it was at one moment.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// This server.
    pub id: NodeId,
    /// Its cluster; nil while it is blank.
    pub cluster: ClusterId,
    /// What it is in the current term.
    pub role: RaftRole,
    /// The current term.
    pub term: u64,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
    /// Whether it leads and has committed an entry of its own term, so that it can serve.
    pub established: bool,
    /// Who is in the cluster, as far as this node has applied it.
    pub membership: Membership,
    /// The last entry of its log.
    pub last: LogId,
    /// How far it knows the log committed.
    pub commit: u64,
    /// How far its state machine has applied it.
    pub applied: u64,
    /// The newest snapshot.
    pub snapshot: LogId,
    /// As leader: how far each other member has the log.
    pub progress: Vec<Progress>,
    /// Counters since the node started.
    pub counters: Counters,
    /// Why it stopped; `None` while it runs.
    pub stopped: Option<Fatal>,
}

/// What a server is in a term.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the field has no other role")]
pub enum RaftRole {
    /// Asking for votes, or asking whether it would get them.
    Candidate,
    /// Following a leader, or waiting for one.
    Follower,
    /// Leading.
    Leader,
}

/// How far a member has the leader's log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// The member.
    pub id: NodeId,
    /// The last entry it is known to have.
    pub matched: u64,
    /// Whether it was heard of within the last election timeout.
    pub recent: bool,
    /// Whether it is being sent a snapshot.
    pub snapshot: bool,
}

/// What was refused or dropped, and what was done, since the node started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages of another cluster, group or for another server.
    pub misdirected: u64,
    /// Messages that no correct peer sends, and answers of servers that are no members.
    pub malformed: u64,
    /// Messages dropped because too many waited.
    pub overflowed: u64,
    /// Messages that the transport could not send.
    pub unsent: u64,
    /// Snapshots taken.
    pub snapshots_taken: u64,
    /// Snapshots installed from a leader.
    pub snapshots_installed: u64,
    /// Writes to the log store; one holds everything that waited.
    pub log_writes: u64,
    /// Entries applied.
    pub entries_applied: u64,
}

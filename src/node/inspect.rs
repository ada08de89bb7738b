//! The checks on messages of peers, before the engine sees them: 27 kinds of message would make it
//! panic.

use raft::StateRole;

use super::Node;
use crate::id::LogId;
use crate::membership::{ChangeRecord, Membership};
use crate::mutant::Mutant;
use crate::storage::{Entry, EntryKind, INDEX_MAX};
use crate::transport::{RaftKind, RaftMessage};

/// What is to be done with a message.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It goes to the engine.
    Fine,
    /// No correct peer sends it; it is dropped and counted.
    Malformed,
    /// It is right but would harm or says nothing new; it is dropped.
    Useless,
    /// It is of an earlier term and dropped, but what it says of the commit holds.
    Committed(LogId),
    /// It proves that this node has lost what it acknowledged.
    DataLoss(String),
}

impl Node {
    /// Judges a message of `from`, and mends the two kinds that the engine handles wrongly.
    pub(super) fn inspect(&self, from: u64, message: &mut RaftMessage) -> Verdict {
        if !(1..=TERM_MAX).contains(&message.term) || from == 0 || from == self.raw.raft.id {
            return Verdict::Malformed;
        }
        if message.snapshot.is_some() != (message.kind == RaftKind::Snapshot) {
            return Verdict::Malformed;
        }
        if !message.entries.is_empty() && message.kind != RaftKind::Append {
            return Verdict::Malformed;
        }
        // Nobody asks the engine to ask for a snapshot.
        if message.request_snapshot != 0 {
            return Verdict::Malformed;
        }
        if Mutant::StaleTermTaken.is_planted() && message.kind == RaftKind::Append {
            message.term = message.term.max(self.raw.raft.term);
        }
        match message.kind {
            RaftKind::Append => inspect_append(message),
            RaftKind::AppendResponse => self.inspect_append_response(from, message),
            RaftKind::Heartbeat => self.inspect_heartbeat(message),
            RaftKind::Snapshot => inspect_snapshot(message),
            // W5: a server asks for votes when its log is durable; before, none is an answer.
            RaftKind::PreVoteResponse | RaftKind::VoteResponse if !self.is_log_durable() => {
                Verdict::Useless
            }
            RaftKind::PreVoteResponse | RaftKind::VoteResponse => self.inspect_refusal(message),
            RaftKind::TimeoutNow if self.must_not_campaign() => Verdict::Useless,
            _ => Verdict::Fine,
        }
    }

    fn inspect_heartbeat(&self, message: &RaftMessage) -> Verdict {
        let last = self.raw.raft.raft_log.last_index();
        if message.term < self.raw.raft.term || message.commit <= last {
            return Verdict::Fine;
        }
        Verdict::DataLoss(format!(
            "the leader of term {} knows that this node had entry {}, but its log ends at {last}",
            message.term, message.commit
        ))
    }

    /// The engine ignores what is of an older term. But a refusal tells how far the log is
    /// committed, which is true in every term; and where it tells a candidate of a membership
    /// change, there may be nobody else to learn it from: who refuses has left the voters, and is
    /// needed until the candidate knows. It says nothing against this campaign, which the same
    /// server may yet grant.
    fn inspect_refusal(&self, message: &RaftMessage) -> Verdict {
        if message.reject && message.term < self.raw.raft.term {
            let at = LogId { term: message.commit_term, index: message.commit };
            return Verdict::Committed(at);
        }
        Verdict::Fine
    }

    /// A candidate takes in how far the log is committed, as it does from refusals of its own term.
    pub(super) fn learn_commit(&mut self, at: LogId) {
        if self.is_campaigning() && at.term > 0 {
            self.raw.raft.raft_log.maybe_commit(at.index, at.term);
        }
    }

    pub(super) fn is_campaigning(&self) -> bool {
        matches!(self.raw.raft.state, StateRole::PreCandidate | StateRole::Candidate)
    }

    fn inspect_append_response(&self, from: u64, message: &mut RaftMessage) -> Verdict {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader || message.term != raft.term {
            return Verdict::Fine;
        }
        if message.log_id.index > raft.raft_log.last_index() {
            return Verdict::Malformed;
        }
        let Some(progress) = raft.prs().get(from) else { return Verdict::Useless };
        if !message.reject {
            return Verdict::Fine;
        }
        // A follower refuses what stands at an index, and hints at one before.
        if message.reject_hint > message.log_id.index {
            return Verdict::Malformed;
        }
        // A late refusal of what the follower has acknowledged since would make the engine go back
        // behind that.
        if message.log_id.index <= progress.matched {
            return Verdict::Useless;
        }
        if message.reject_hint < progress.matched {
            message.reject_hint = progress.matched;
            message.log_id.term = 0;
        }
        Verdict::Fine
    }
}

fn inspect_append(message: &RaftMessage) -> Verdict {
    let before = message.log_id;
    // Every log begins at a snapshot (C11): nobody is sent the entries from the very first.
    if before.index == 0 || before.term == 0 || before.term > message.term {
        return Verdict::Malformed;
    }
    let mut last = before;
    for entry in &message.entries {
        let next = entry.log_id;
        let follows = last.index.checked_add(1) == Some(next.index) && next.term >= last.term;
        if !follows || next.term > message.term || !well_formed(entry) {
            return Verdict::Malformed;
        }
        last = next;
    }
    Verdict::Fine
}

fn inspect_snapshot(message: &RaftMessage) -> Verdict {
    if is_sound_snapshot(message) { Verdict::Fine } else { Verdict::Malformed }
}

/// Whether a message is the head of a snapshot that can be.
pub(crate) fn is_sound_snapshot(message: &RaftMessage) -> bool {
    let Some(meta) = &message.snapshot else { return false };
    let at = meta.log_id;
    // Far below what a store takes, so that there is room behind it.
    (1..=INDEX_MAX / 2).contains(&at.index)
        && (1..=message.term).contains(&at.term)
        && Membership::decode(meta.system.clone()).is_ok_and(|system| system.holds_together())
}

fn well_formed(entry: &Entry) -> bool {
    match entry.kind {
        EntryKind::Change if !entry.data.is_empty() => ChangeRecord::decode(entry.data.clone())
            .is_ok_and(|record| {
                !record.steps.is_empty() && record.steps.iter().all(|step| step.id != 0)
            }),
        EntryKind::Change | EntryKind::Application | EntryKind::System => true,
        EntryKind::Empty => entry.data.is_empty(),
    }
}

/// The highest term that a peer is believed: nobody gets there by counting, and from here on the
/// engine can count without running over.
const TERM_MAX: u64 = u64::MAX >> 1;

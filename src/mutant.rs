//! Defects to be planted on purpose, to prove that the simulator finds them: each is one branch in
//! the production code. Without feature `mutants`, which no release build has, none can be planted
//! and all of them compile to nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A defect; its line says what goes wrong.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Mutant {
    /// Entries are acknowledged before they are durable.
    AckBeforeSync = 1,
    /// After a restart changes of the membership are in force that are not committed, and once
    /// more when they are.
    ChangesInForceEarly,
    /// A damaged record of the log is taken for a sound one.
    ChecksumIgnored,
    /// That a membership change is committed may be forgotten once it was told.
    CommittedChangeForgotten,
    /// A copy of a request is carried out again.
    CopyCarriedOut,
    /// A leader counts itself for an entry that it has not stored yet.
    CountedBeforeSync,
    /// A leader answers from its membership alone without asking whether it still leads.
    DecidedWithoutRound,
    /// Entries that the engine was promised to find are not there.
    EntriesNotReadable,
    /// What is found at a restart is taken for durable, whether it was synced or not.
    FoundNotRewritten,
    /// The hard state is written before the entries that it speaks of.
    HardStateFirst,
    /// The late answer to an earlier read confirms a later one.
    LateReadTaken,
    /// A server that has voted for itself in a write under way speaks as leader (rule W1).
    LeaderBeforeVote,
    /// A server that only receives counts for commit, votes and leads.
    LearnerCounts,
    /// Messages for others are taken in.
    MisdirectedTakenIn,
    /// A member that has moved is not answered where it says that it is.
    MovedNotAnswered,
    /// The name of a new segment is not made durable.
    NameNotSynced,
    /// A leader commits an entry of an earlier term by counting (thesis 3.6.2).
    OldTermCommitted,
    /// Queues have no limit.
    QueueUnbounded,
    /// A read is answered before its index is applied.
    ReadBeforeApplied,
    /// A leader answers reads before it has committed anything in its own term.
    ReadBeforeOwnCommit,
    /// A leader answers reads without asking whether it still leads.
    ReadWithoutRound,
    /// After a restart the changes since the beginning of the log are forgotten: who was removed
    /// counts again.
    RemovedCountsAgain,
    /// A server that was removed is taken in again under the same id.
    RemovedIdTakenBack,
    /// A leader that was removed leads on.
    RemovedLeaderStays,
    /// What never became durable is acknowledged after it was replaced.
    ReplacedAcknowledged,
    /// A second change of the membership begins while one is under way.
    SecondChangeTaken,
    /// A snapshot claims to reach further than it does.
    SnapshotLabelledAhead,
    /// A snapshot that did not arrive is reported to nobody.
    SnapshotLossUnreported,
    /// The log is compacted before the snapshot in its place is durable.
    SnapshotNotSynced,
    /// Entries of a leader that is none any more are taken in.
    StaleTermTaken,
    /// A write whose sync failed counts as done.
    SyncErrorIgnored,
    /// A sync that failed is tried again, and believed.
    SyncRetried,
    /// The log is written, but not synced.
    SyncSkipped,
    /// A server forgets its term when it restarts.
    TermForgotten,
    /// A server starts from a snapshot that was received, but is no part of its log.
    UninstalledSnapshotUsed,
    /// A command whose outcome is open is reported as not applied.
    UnknownIsRefused,
    /// A server forgets whom it voted for when it restarts.
    VoteForgotten,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 37] = [
        Self::AckBeforeSync,
        Self::ChangesInForceEarly,
        Self::ChecksumIgnored,
        Self::CommittedChangeForgotten,
        Self::CopyCarriedOut,
        Self::CountedBeforeSync,
        Self::DecidedWithoutRound,
        Self::EntriesNotReadable,
        Self::FoundNotRewritten,
        Self::HardStateFirst,
        Self::LateReadTaken,
        Self::LeaderBeforeVote,
        Self::LearnerCounts,
        Self::MisdirectedTakenIn,
        Self::MovedNotAnswered,
        Self::NameNotSynced,
        Self::OldTermCommitted,
        Self::QueueUnbounded,
        Self::ReadBeforeApplied,
        Self::ReadBeforeOwnCommit,
        Self::ReadWithoutRound,
        Self::RemovedCountsAgain,
        Self::RemovedIdTakenBack,
        Self::RemovedLeaderStays,
        Self::ReplacedAcknowledged,
        Self::SecondChangeTaken,
        Self::SnapshotLabelledAhead,
        Self::SnapshotLossUnreported,
        Self::SnapshotNotSynced,
        Self::StaleTermTaken,
        Self::SyncErrorIgnored,
        Self::SyncRetried,
        Self::SyncSkipped,
        Self::TermForgotten,
        Self::UninstalledSnapshotUsed,
        Self::UnknownIsRefused,
        Self::VoteForgotten,
    ];

    /// Plants this defect, and no other, in the whole process.
    pub fn plant(self) {
        PLANTED.store(self as usize, Ordering::Relaxed);
    }

    /// Takes the planted defect out again.
    pub fn pull_out() {
        PLANTED.store(0, Ordering::Relaxed);
    }

    /// Whether this defect is planted.
    pub(crate) fn is_planted(self) -> bool {
        cfg!(feature = "mutants") && PLANTED.load(Ordering::Relaxed) == self as usize
    }
}

static PLANTED: AtomicUsize = AtomicUsize::new(0);

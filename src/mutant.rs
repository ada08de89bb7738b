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
    /// A damaged record of the log is taken for a sound one.
    ChecksumIgnored,
    /// That a membership change is committed may be forgotten once it was told.
    CommittedChangeForgotten,
    /// A copy of a request is carried out again.
    CopyCarriedOut,
    /// What is found at a restart is taken for durable, whether it was synced or not.
    FoundNotRewritten,
    /// A server that has voted for itself in a write under way speaks as leader (rule W1).
    LeaderBeforeVote,
    /// Messages for others are taken in.
    MisdirectedTakenIn,
    /// A read is answered before its index is applied.
    ReadBeforeApplied,
    /// A leader answers reads without asking whether it still leads.
    ReadWithoutRound,
    /// What never became durable is acknowledged after it was replaced.
    ReplacedAcknowledged,
    /// A snapshot that did not arrive is reported to nobody.
    SnapshotLossUnreported,
    /// A write whose sync failed counts as done.
    SyncErrorIgnored,
    /// The log is written, but not synced.
    SyncSkipped,
    /// A command whose outcome is open is reported as not applied.
    UnknownIsRefused,
    /// A server forgets whom it voted for when it restarts.
    VoteForgotten,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::AckBeforeSync,
        Self::ChecksumIgnored,
        Self::CommittedChangeForgotten,
        Self::CopyCarriedOut,
        Self::FoundNotRewritten,
        Self::LeaderBeforeVote,
        Self::MisdirectedTakenIn,
        Self::ReadBeforeApplied,
        Self::ReadWithoutRound,
        Self::ReplacedAcknowledged,
        Self::SnapshotLossUnreported,
        Self::SyncErrorIgnored,
        Self::SyncSkipped,
        Self::UnknownIsRefused,
        Self::VoteForgotten,
    ];

    /// Plants this defect, and no other, in the whole process.
    pub fn plant(self) {
        PLANTED.store(self as usize, Ordering::Relaxed);
    }

    /// Whether this defect is planted.
    pub(crate) fn is_planted(self) -> bool {
        cfg!(feature = "mutants") && PLANTED.load(Ordering::Relaxed) == self as usize
    }
}

static PLANTED: AtomicUsize = AtomicUsize::new(0);

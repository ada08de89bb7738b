//! What finds each planted defect: in which world, by which invariants, within how many seeds.

use kontiki::Mutant;
use kontiki_sim::{DiskKind, Invariant, Kind};

/// What finds a defect, and where.
pub(crate) struct Hunt {
    pub(crate) mutant: Mutant,
    pub(crate) by: &'static [Invariant],
    pub(crate) on: DiskKind,
    pub(crate) kinds: &'static [Kind],
    pub(crate) seeds_max: u64,
}

use DiskKind::{Bytes, Objects};
use Invariant::{
    AtMostOnce, Bounded, CommitMonotone, CommittedOnQuorum, DamageFound, DurableBeforeAck,
    IndexesInOrder, LeaderCompleteness, Linearizable, LogMatching, MembershipSafety, NoPanic,
    NotAppliedIsNot, Progress, ReadIndexFresh, SnapshotIsPrefix, StateMachineSafety, VoteDurable,
};
use Kind::{
    AimedCrash, BitFlip, Crash, DiskFailure, Membership, Message, Partition, Pause, SlowDisk,
    Transfer, Wipe,
};

pub(crate) const HUNTS: [Hunt; Mutant::ALL.len()] = [
    hunt(Mutant::AckBeforeSync, &[DurableBeforeAck, VoteDurable], Objects, &[Crash], 10),
    hunt(
        Mutant::ChangesInForceEarly,
        &[MembershipSafety],
        Objects,
        &[Crash, Membership, Partition],
        200,
    ),
    hunt(Mutant::ChecksumIgnored, &[DamageFound, NoPanic], Bytes, &[BitFlip, Crash], 300),
    hunt(
        Mutant::CommittedChangeForgotten,
        &[DurableBeforeAck],
        Bytes,
        &[Crash, Membership, Partition, AimedCrash],
        200,
    ),
    hunt(Mutant::CopyCarriedOut, &[AtMostOnce], Objects, &[Message], 50),
    hunt(
        Mutant::CountedBeforeSync,
        &[CommittedOnQuorum, DurableBeforeAck, IndexesInOrder],
        Objects,
        &[Crash],
        50,
    ),
    hunt(
        Mutant::DecidedWithoutRound,
        &[MembershipSafety],
        Objects,
        &[Membership, Partition, Pause, Wipe],
        1_000,
    ),
    hunt(Mutant::EntriesNotReadable, &[NoPanic, Progress], Objects, &[Crash], 5),
    hunt(
        Mutant::FoundNotRewritten,
        &[DurableBeforeAck, VoteDurable, NoPanic],
        Bytes,
        &[DiskFailure, Crash],
        300,
    ),
    hunt(Mutant::HardStateFirst, &[IndexesInOrder], Objects, &[Crash], 50),
    hunt(
        Mutant::LateReadTaken,
        &[ReadIndexFresh, Linearizable],
        Objects,
        &[Message, Partition, Pause, Transfer],
        1_000,
    ),
    hunt(Mutant::LeaderBeforeVote, &[VoteDurable], Objects, &[Crash], 50),
    hunt(
        Mutant::LearnerCounts,
        &[MembershipSafety, CommittedOnQuorum, NoPanic],
        Objects,
        &[Crash, Membership, Partition],
        200,
    ),
    hunt(
        Mutant::MisdirectedTakenIn,
        &[NoPanic, DurableBeforeAck, VoteDurable],
        Objects,
        &[Message, Crash, Partition],
        300,
    ),
    hunt(Mutant::MovedNotAnswered, &[Progress], Objects, &[Crash, Membership], 1_000),
    hunt(Mutant::NameNotSynced, &[DurableBeforeAck, VoteDurable, NoPanic], Bytes, &[Crash], 50),
    hunt(
        Mutant::OldTermCommitted,
        &[CommittedOnQuorum, CommitMonotone, LeaderCompleteness],
        Objects,
        &[AimedCrash, Crash, Partition],
        2_000,
    ),
    hunt(Mutant::QueueUnbounded, &[Bounded], Objects, &[Crash], 50),
    hunt(Mutant::ReadBeforeApplied, &[Linearizable], Objects, &[Partition, Crash], 50),
    hunt(
        Mutant::ReadBeforeOwnCommit,
        &[ReadIndexFresh, Linearizable],
        Objects,
        &[AimedCrash, Crash, Partition],
        100,
    ),
    hunt(
        Mutant::ReadWithoutRound,
        &[ReadIndexFresh, Linearizable],
        Objects,
        &[Partition, Pause],
        300,
    ),
    hunt(
        Mutant::RemovedCountsAgain,
        &[MembershipSafety, Progress],
        Objects,
        &[Crash, Membership],
        200,
    ),
    hunt(Mutant::RemovedIdTakenBack, &[MembershipSafety], Objects, &[Membership], 50),
    hunt(Mutant::RemovedLeaderStays, &[MembershipSafety], Objects, &[Membership], 200),
    hunt(
        Mutant::ReplacedAcknowledged,
        &[DurableBeforeAck],
        Objects,
        &[AimedCrash, Crash, Message, Partition, Pause, SlowDisk, Transfer, Wipe],
        3_000,
    ),
    hunt(Mutant::SecondChangeTaken, &[MembershipSafety], Objects, &[Membership, SlowDisk], 200),
    hunt(
        Mutant::SnapshotLabelledAhead,
        &[SnapshotIsPrefix, StateMachineSafety],
        Objects,
        &[Crash, Partition],
        100,
    ),
    hunt(Mutant::SnapshotLossUnreported, &[Progress], Objects, &[Partition, Crash, Message], 1_000),
    hunt(Mutant::SnapshotNotSynced, &[NoPanic], Bytes, &[Crash], 100),
    hunt(
        Mutant::StaleTermTaken,
        &[DurableBeforeAck, LogMatching, CommitMonotone, StateMachineSafety, NoPanic],
        Objects,
        &[Message, Partition, Pause],
        200,
    ),
    hunt(Mutant::SyncErrorIgnored, &[DurableBeforeAck, NoPanic], Bytes, &[DiskFailure, Crash], 100),
    hunt(
        Mutant::SyncRetried,
        &[DurableBeforeAck, VoteDurable, NoPanic],
        Bytes,
        &[DiskFailure, Crash],
        100,
    ),
    hunt(Mutant::SyncSkipped, &[DurableBeforeAck, VoteDurable, NoPanic], Bytes, &[Crash], 20),
    hunt(Mutant::TermForgotten, &[VoteDurable], Objects, &[Crash], 10),
    hunt(
        Mutant::UninstalledSnapshotUsed,
        &[NoPanic, SnapshotIsPrefix],
        Objects,
        &[AimedCrash, Crash, Message, Partition],
        200,
    ),
    hunt(Mutant::UnknownIsRefused, &[NotAppliedIsNot], Objects, &[Partition, Crash], 100),
    hunt(Mutant::VoteForgotten, &[VoteDurable], Objects, &[AimedCrash, Crash], 1_000),
];

const fn hunt(
    mutant: Mutant,
    by: &'static [Invariant],
    on: DiskKind,
    kinds: &'static [Kind],
    seeds_max: u64,
) -> Hunt {
    Hunt { mutant, by, on, kinds, seeds_max }
}

//! The judges: told of everything that happens, at the moment it happens, they hold it against the
//! invariants. The first violation is kept, with the moment; what follows it is only consequence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kontiki::runtime::sim::Sim;
use kontiki::{LogId, Membership, NodeId};
use serde::Serialize;

use crate::sometimes::is_known;

mod commands;
mod disk;
mod members;
mod quorum;
mod wire;

pub(crate) use self::commands::Settled;
use self::commands::{AppliedCommand, Fate};
use self::disk::Disk;
use self::quorum::FirstApply;

/// What must always hold; the numbers are stable, and `docs/testing.md` says how each is checked.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[non_exhaustive]
pub enum Invariant {
    /// Broken on purpose by one seed in a hundred, where that is asked for.
    Canary = 0,
    /// At most one leader a term (thesis 3.4).
    ElectionSafety = 1,
    /// A term or vote that others heard of survives a crash.
    VoteDurable = 2,
    /// What is acknowledged is durable first.
    DurableBeforeAck = 3,
    /// The same index and term mean the same log up to there (thesis 3.5).
    LogMatching = 4,
    /// A leader has everything that was committed before its term (thesis 3.6).
    LeaderCompleteness = 5,
    /// What is applied is durable on a quorum.
    CommittedOnQuorum = 6,
    /// Commit and applied indexes never go back while a server lives.
    CommitMonotone = 7,
    /// Every server applies the same commands in the same order, with the same answers.
    StateMachineSafety = 8,
    /// Memberships follow each other so that their quorums meet (thesis 4).
    MembershipSafety = 9,
    /// A snapshot is the state at its place.
    SnapshotIsPrefix = 10,
    /// Snapshot, applied, commit and last index stand in order.
    IndexesInOrder = 11,
    /// The history of the clients is linearizable.
    Linearizable = 12,
    /// A linearizable read waits for everything that was committed before it began (thesis 6.4).
    ReadIndexFresh = 13,
    /// A command is applied at most once.
    AtMostOnce = 15,
    /// What was acknowledged to a client is there for good.
    NothingLost = 16,
    /// A command that was reported as not applied never is.
    NotAppliedIsNot = 17,
    /// A healed cluster makes progress.
    Progress = 18,
    /// A healed cluster without load stays as it is.
    Quiet = 19,
    /// Nothing piles up.
    Bounded = 20,
    /// Errors have types; nothing panics.
    NoPanic = 21,
    /// Damage is found, and never applied.
    DamageFound = 22,
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub what: String,
    /// When, in virtual time.
    pub at: Duration,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invariant, what, at } = self;
        write!(f, "invariant #{} {invariant:?} at {at:?}: {what}", *invariant as u8)
    }
}

/// Told of everything; clones are the same judge.
#[derive(Clone)]
pub(crate) struct Judge(Arc<Mutex<State>>);

pub(crate) struct State {
    sim: Sim,
    violation: Option<Violation>,
    sometimes: BTreeMap<&'static str, u64>,
    counts: Counts,
    /// Hash of the log up to an entry, by index and term.
    prefixes: BTreeMap<(u64, u64), u64>,
    disks: BTreeMap<NodeId, Disk>,
    leaders: BTreeMap<u64, NodeId>,
    /// The highest commit index that anybody has told or written.
    told: u64,
    votes: BTreeMap<(NodeId, u64), NodeId>,
    /// Terms in which a leader has spoken.
    heard: BTreeSet<u64>,
    /// Who campaigned first in a term.
    candidates: BTreeMap<u64, NodeId>,
    /// What long work of its state machine a server is at.
    busy: BTreeMap<NodeId, &'static str>,
    /// The last entry of each append that a leader sent, by the leader's term.
    appended: BTreeMap<(u64, u64), u64>,
    /// Indexes at which some log holds a change of the membership.
    changes: BTreeSet<u64>,
    memberships: BTreeMap<u64, Membership>,
    /// Entries whose membership nobody has told of yet.
    unjudged: Vec<FirstApply>,
    applied: BTreeMap<u64, AppliedCommand>,
    commands: BTreeMap<u64, Fate>,
    indexes: BTreeMap<NodeId, (u64, u64)>,
    /// Servers on whose disk something was damaged that had been synced.
    damaged: BTreeSet<NodeId>,
}

/// How much a run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Invariants looked at.
    pub checks: u64,
    /// Crashes of servers.
    pub crashes: u64,
    /// Faults of the network: cuts, splits, flaps.
    pub partitions: u64,
    /// Faults of disks.
    pub disk_faults: u64,
    /// Elections won.
    pub elections: u64,
    /// Changes of the membership in force.
    pub membership_changes: u64,
    /// Messages sent between servers.
    pub messages: u64,
    /// Commands applied, on any server.
    pub applied: u64,
    /// Operations of clients with a known outcome.
    pub operations: u64,
    /// Operations whose outcome stayed unknown.
    pub unknown: u64,
}

impl Counts {
    /// Adds what another run has done.
    pub fn add(&mut self, other: &Self) {
        self.checks += other.checks;
        self.crashes += other.crashes;
        self.partitions += other.partitions;
        self.disk_faults += other.disk_faults;
        self.elections += other.elections;
        self.membership_changes += other.membership_changes;
        self.messages += other.messages;
        self.applied += other.applied;
        self.operations += other.operations;
        self.unknown += other.unknown;
    }
}

impl Judge {
    pub(crate) fn new(sim: Sim) -> Self {
        Self(Arc::new(Mutex::new(State {
            sim,
            violation: None,
            sometimes: BTreeMap::new(),
            counts: Counts::default(),
            prefixes: BTreeMap::new(),
            disks: BTreeMap::new(),
            leaders: BTreeMap::new(),
            told: ORIGIN.index,
            votes: BTreeMap::new(),
            heard: BTreeSet::new(),
            candidates: BTreeMap::new(),
            busy: BTreeMap::new(),
            appended: BTreeMap::new(),
            changes: BTreeSet::new(),
            memberships: BTreeMap::new(),
            unjudged: Vec::new(),
            applied: BTreeMap::new(),
            commands: BTreeMap::new(),
            indexes: BTreeMap::new(),
            damaged: BTreeSet::new(),
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        self.lock().violation.clone()
    }

    pub(crate) fn violated(&self, invariant: Invariant, what: String) {
        self.lock().violated(invariant, what);
    }

    pub(crate) fn sometimes(&self, name: &'static str) {
        self.lock().sometimes(name);
    }

    pub(crate) fn all_sometimes(&self) -> BTreeMap<&'static str, u64> {
        self.lock().sometimes.clone()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().counts
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.lock().counts);
    }
}

impl State {
    pub(crate) fn violated(&mut self, invariant: Invariant, what: String) {
        let at = self.sim.elapsed();
        self.sim.record(&format!("violated {invariant:?}: {what}"));
        self.violation.get_or_insert(Violation { invariant, what, at });
    }

    /// Counts a check, and a violation if it does not hold.
    pub(crate) fn check(
        &mut self,
        invariant: Invariant,
        holds: bool,
        what: impl FnOnce() -> String,
    ) {
        self.counts.checks += 1;
        if !holds {
            self.violated(invariant, what());
        }
    }

    pub(crate) fn sometimes(&mut self, name: &'static str) {
        debug_assert!(is_known(name), "{name} is not in the table of remarkable things");
        *self.sometimes.entry(name).or_default() += 1;
    }
}

pub(crate) fn hash(state: u64, bytes: &[u8]) -> u64 {
    let mut hash = state ^ 0xcbf2_9ce4_8422_2325;
    for chunk in bytes.chunks(8) {
        let word = chunk.iter().rev().fold(0, |word, &byte| (word << 8) | u64::from(byte));
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 29;
    }
    hash ^ (bytes.len() as u64)
}

/// The place where a cluster's first log begins.
pub(crate) const ORIGIN: LogId = LogId { term: 1, index: 1 };

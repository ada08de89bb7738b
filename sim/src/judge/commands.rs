//! Commands from the client that proposes them to the state machines that apply them.

use kontiki::{LogId, NodeId};

use super::{Invariant, Judge};

/// A command as the first server applied it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AppliedCommand {
    pub(super) term: u64,
    command: u64,
    /// Hash of all commands up to here, and of their answers.
    chain: u64,
}

/// What is known of a command.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fate {
    applied: Option<LogId>,
    settled: Option<Settled>,
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Settled {
    Done(LogId),
    NotApplied,
    Unknown,
}

impl Judge {
    /// A state machine has applied a command.
    pub(crate) fn applied(&self, id: NodeId, log_id: LogId, command: u64, chain: u64) {
        let mut state = self.lock();
        state.counts.applied += 1;
        let one = AppliedCommand { term: log_id.term, command, chain };
        if let Some(known) = state.applied.get(&log_id.index).copied() {
            state.check(Invariant::StateMachineSafety, known == one, || {
                format!("server {id} applied {one:x?} at {log_id}, another {known:x?}")
            });
            return;
        }
        state.applied.insert(log_id.index, one);
        state.on_quorum(id, log_id);
        let fate = state.commands.entry(command).or_default();
        let (before, settled) = (fate.applied.replace(log_id), fate.settled);
        state.check(Invariant::AtMostOnce, before.is_none(), || {
            format!("command {command} is applied at {log_id}, and was at {before:?}")
        });
        state.check(Invariant::NotAppliedIsNot, settled != Some(Settled::NotApplied), || {
            format!("command {command} was reported as not applied, and is at {log_id}")
        });
        if settled == Some(Settled::Unknown) {
            state.sometimes("a command of unknown outcome was applied later");
        }
    }

    /// A client has been told what became of its command.
    pub(crate) fn settled(&self, command: u64, told: Settled) {
        let mut state = self.lock();
        match told {
            Settled::Unknown => state.counts.unknown += 1,
            _ => state.counts.operations += 1,
        }
        let fate = state.commands.entry(command).or_default();
        fate.settled = Some(told);
        let applied = fate.applied;
        match told {
            Settled::Done(at) => {
                state.check(Invariant::NothingLost, applied == Some(at), || {
                    format!(
                        "command {command} was acknowledged at {at}, but applied at {applied:?}"
                    )
                });
            }
            Settled::NotApplied => {
                state.check(Invariant::NotAppliedIsNot, applied.is_none(), || {
                    format!("command {command} was reported as not applied, and is at {applied:?}")
                });
                state.sometimes("a command was refused");
            }
            Settled::Unknown => state.sometimes("an outcome stayed unknown"),
        }
    }

    /// The highest index that is certainly committed.
    pub(crate) fn committed(&self) -> u64 {
        self.lock().applied.last_key_value().map_or(0, |(&index, _)| index)
    }

    /// A linearizable read that began when `committed` was committed has been given `index`.
    pub(crate) fn read(&self, id: NodeId, committed: u64, index: u64) {
        let mut state = self.lock();
        state.counts.operations += 1;
        state.check(Invariant::ReadIndexFresh, index >= committed, || {
            format!("server {id} reads at {index}, but {committed} was committed before")
        });
    }

    /// A state machine has been set to a snapshot whose last command is at `index`.
    pub(crate) fn restored(&self, id: NodeId, index: u64, chain: u64, meta: LogId) {
        let mut state = self.lock();
        let known = state.applied.get(&index).map(|one| one.chain);
        let fits = known == Some(chain) || index == 0 && chain == 0;
        state.check(Invariant::SnapshotIsPrefix, fits && index <= meta.index, || {
            format!(
                "server {id} restored a snapshot of {meta} with chain {chain:x} at {index}, where others have {known:x?}"
            )
        });
        // Commands between the snapshot's last and its place would be missing from it.
        let later = state.applied.range(index + 1..).next().map(|(&at, _)| at);
        let missing = later.filter(|&at| at <= meta.index);
        state.check(Invariant::SnapshotIsPrefix, missing.is_none(), || {
            format!("server {id} restored a snapshot of {meta} without the command at {missing:?}")
        });
        if index > 0 {
            state.sometimes("a state machine was restored from a snapshot");
        }
    }
}

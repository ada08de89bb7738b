//! The way of a command: proposed here or forwarded, registered at its place in the log, answered
//! when applied.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Driver;
use super::apply::ApplyTask;
use super::forward::{Forwarded, Waiter};
use super::request::ProposeCaller;
use crate::error::NoLeader;
use crate::id::LogId;
use crate::mutant::Mutant;
use crate::raft::{Applied, ProposeError};
use crate::transport::Verb;

/// Callers who learn the place of their command only after it was applied: the leader's answer came
/// late.
#[derive(Debug, Default)]
pub(super) struct Late {
    waiting: Vec<(LogId, ProposeCaller)>,
    /// Answers of everything applied since `complete_from`, kept while forwarded commands are under
    /// way.
    recent: VecDeque<(LogId, Bytes)>,
    complete_from: Option<u64>,
    /// Callers up to this index have been handed to the state machine's task.
    handed: u64,
}

impl Late {
    pub(super) fn new(applied: u64) -> Self {
        Self { handed: applied, ..Self::default() }
    }

    /// The answers so far have a hole.
    pub(super) fn forget(&mut self) {
        self.complete_from = None;
        self.recent.clear();
    }
}

impl Driver {
    /// Gives everything that waits to whoever can propose it: as one proposal, or as few requests.
    pub(super) fn propose_waiting(&mut self) {
        if self.unproposed.is_empty() {
            return;
        }
        if self.node.can_propose() {
            while self.log_backlog().is_none()
                && let Some((commands, callers)) = self.next_bundle()
            {
                self.propose_here(commands, callers);
            }
            return;
        }
        if self.node.is_leader() || self.node.is_installing() || self.forwards_rest {
            return;
        }
        let Some(leader) = self.leader_peer() else { return };
        while let Some((commands, callers)) = self.next_bundle() {
            let verb = Verb::Propose { commands: commands.clone() };
            let deadlines = callers.iter().filter_map(|caller| caller.deadline);
            let deadline = deadlines.min().unwrap_or(self.now);
            let waiter = Waiter::Propose { commands, callers };
            if let Err(Forwarded { waiter: Waiter::Propose { commands, callers }, .. }) =
                self.forward(&leader, verb, waiter, deadline)
            {
                // It did not leave, so it may go another way later.
                self.put_back(commands, callers);
                return;
            }
        }
    }

    fn next_bundle(&mut self) -> Option<(Vec<Bytes>, Vec<ProposeCaller>)> {
        let mut bytes = 0;
        let mut count = 0;
        for (command, _) in self.unproposed.iter().take(BUNDLE_COMMANDS_MAX) {
            bytes += command.len() as u64;
            if count > 0 && bytes > self.config.append_bytes_max {
                break;
            }
            count += 1;
        }
        let bundle: (Vec<_>, Vec<_>) = self.unproposed.drain(..count).unzip();
        (count > 0).then_some(bundle)
    }

    fn propose_here(&mut self, commands: Vec<Bytes>, callers: Vec<ProposeCaller>) {
        match self.node.handle_proposal(commands) {
            Some(first) => self.register(first, callers),
            None => callers.into_iter().for_each(|caller| {
                caller.resolve(Err(ProposeError::NoLeader(NoLeader)));
            }),
        }
    }

    pub(super) fn put_back(&mut self, commands: Vec<Bytes>, callers: Vec<ProposeCaller>) {
        for bundle in commands.into_iter().zip(callers).rev() {
            self.unproposed.push_front(bundle);
        }
    }

    /// The commands of `callers` stand in the log from `first` on.
    pub(super) fn register(&mut self, first: LogId, callers: Vec<ProposeCaller>) {
        for (offset, caller) in (0..).zip(callers) {
            let log_id = LogId { term: first.term, index: first.index.saturating_add(offset) };
            if log_id.index > self.late.handed {
                self.proposals.register(log_id, caller);
            } else {
                self.late.waiting.push((log_id, caller));
            }
        }
        self.settle_late();
    }

    /// Gives the state machine's task what is next for it.
    pub(super) fn apply(&mut self) {
        if self.applying {
            return;
        }
        if let Some(meta) = self.restore_next.take() {
            return self.give(ApplyTask::Restore(meta));
        }
        if let Some(meta) = self.snapshot_due() {
            return self.give(ApplyTask::Capture(meta));
        }
        let Some(job) = self.node.take_apply(APPLY_BYTES_MAX) else { return };
        let keep_answers = self.forwarded.values().any(Forwarded::is_proposal);
        self.late.handed = job.last.index;
        if keep_answers {
            self.late.complete_from.get_or_insert(job.missing.start);
        } else if self.late.waiting.is_empty() {
            self.late.recent.clear();
            self.late.complete_from = None;
        }
        self.shared.in_hand.put(self.proposals.take_up_to(job.last.index));
        self.give(ApplyTask::Apply { job, keep_answers });
    }

    fn give(&mut self, task: ApplyTask) {
        self.applying = self.tasks.push(task).is_ok();
    }

    pub(super) fn applied(
        &mut self,
        first: u64,
        last: LogId,
        answers: Option<Vec<(LogId, Bytes)>>,
    ) {
        self.applying = false;
        self.node.handle_applied(last);
        self.shared.publish(|status| {
            status.counters.entries_applied += last.index + 1 - first;
            false
        });
        match answers {
            Some(answers) => self.late.recent.extend(answers),
            None => self.late.complete_from = None,
        }
        while self.late.recent.len() > RECENT_ANSWERS_MAX {
            let gone = self.late.recent.pop_front();
            self.late.complete_from = gone.map(|(log_id, _)| log_id.index + 1);
        }
        self.settle_late();
        self.answer_reads();
    }

    /// After a snapshot took the place of the log: nobody can say what became of the commands in
    /// it.
    pub(super) fn skip_to(&mut self, index: u64) {
        self.late.handed = self.late.handed.max(index);
        self.late.forget();
        for (_, caller) in self.proposals.take_up_to(index) {
            caller.resolve(Err(open_outcome()));
        }
        self.settle_late();
    }

    fn settle_late(&mut self) {
        let applied = self.node.applied().index;
        let Late { waiting, recent, complete_from, .. } = &mut self.late;
        for (log_id, caller) in waiting.extract_if(.., |(log_id, _)| log_id.index <= applied) {
            let found = recent.binary_search_by_key(&log_id.index, |(place, _)| place.index);
            let known = complete_from.is_some_and(|from| from <= log_id.index);
            caller.resolve(match found.ok().map(|at| &recent[at]) {
                Some((place, answer)) if *place == log_id => {
                    Ok(Applied { log_id, answer: answer.clone() })
                }
                Some(_) => Err(ProposeError::Superseded),
                None if known => Err(ProposeError::Superseded),
                None => Err(ProposeError::Unknown),
            });
        }
    }

    /// Ends what has waited too long.
    pub(super) fn sweep_proposals(&mut self) {
        let now = self.now;
        for caller in self.proposals.take_over(|caller| caller.is_over(now)) {
            caller.resolve(Err(open_outcome()));
        }
        self.shared.in_hand.end_over(now);
        for (_, caller) in self.late.waiting.extract_if(.., |(_, caller)| caller.is_over(now)) {
            caller.resolve(Err(open_outcome()));
        }
        let backlog = self.log_backlog().filter(|_| self.node.is_leader());
        let reason = backlog.map(|limit| ProposeError::Overloaded { limit });
        let reason = reason.unwrap_or(ProposeError::NoLeader(NoLeader));
        // What came back may stand before what is older, so all are looked at.
        if self.unproposed.iter().any(|(_, caller)| caller.is_over(now)) {
            let all = std::mem::take(&mut self.unproposed).into_iter();
            let (over, rest): (Vec<_>, _) = all.partition(|(_, caller)| caller.is_over(now));
            self.unproposed = rest.into();
            over.into_iter().for_each(|(_, caller)| caller.resolve(Err(reason.clone())));
        }
    }

    /// Everyone who waits is told that this node has stopped.
    pub(super) fn fail_proposals(&mut self, fatal: &crate::error::Fatal) {
        for (_, caller) in self.unproposed.drain(..) {
            caller.resolve(Err(ProposeError::Stopped(fatal.clone())));
        }
        let late = self.late.waiting.drain(..).map(|(_, caller)| caller);
        for caller in self.proposals.take_all().chain(late) {
            caller.resolve(Err(open_outcome()));
        }
    }
}

fn open_outcome() -> ProposeError {
    if Mutant::UnknownIsRefused.is_planted() { NoLeader.into() } else { ProposeError::Unknown }
}

/// How many commands one proposal or request holds at most.
const BUNDLE_COMMANDS_MAX: usize = 4_096;
/// About how many bytes of commands the state machine is given at once.
const APPLY_BYTES_MAX: u64 = 4 << 20;
/// How many answers are kept for callers whose place is not known yet; beyond that they end as
/// unknown.
const RECENT_ANSWERS_MAX: usize = 16_384;

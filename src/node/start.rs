//! Bringing a node up from what its store kept.

use raft::RawNode;

use super::{History, LogCache, Node, Writes, engine};
use crate::config::{Config, Ticks};
use crate::id::{LogId, NodeId};
use crate::membership::{ChangeRecord, Membership};
use crate::mutant::Mutant;
use crate::storage::{Recovered, SnapshotMeta};

/// What a node starts from.
pub(crate) struct Start<'a> {
    pub(crate) id: NodeId,
    pub(crate) config: &'a Config,
    pub(crate) ticks: Ticks,
    pub(crate) seed: u64,
    pub(crate) recovered: Recovered,
    /// The newest snapshot; none on a server that is in no cluster yet.
    pub(crate) snapshot: Option<SnapshotMeta>,
    /// How far the state machine has come, from a snapshot or by itself.
    pub(crate) applied: LogId,
}

impl Node {
    /// Checks what is stored, all that the engine would panic on, and starts the engine on it.
    ///
    /// The error is a sentence about what does not fit together.
    pub(crate) fn start(start: Start<'_>) -> Result<Self, String> {
        let Start { id, config, ticks, seed, mut recovered, snapshot, applied } = start;
        let (base, last) = (recovered.base.log_id, recovered.last);
        if applied.index > last.index {
            return Err(format!("the state machine is at {applied}, but the log ends at {last}"));
        }
        if applied.index < base.index {
            return Err(format!("the state machine is at {applied}, but the log begins at {base}"));
        }
        if Mutant::VoteForgotten.is_planted() {
            recovered.hard_state.vote = 0;
        }
        if Mutant::TermForgotten.is_planted() {
            (recovered.hard_state.term, recovered.hard_state.vote) = (last.term, 0);
        }
        // W7, W2: nothing that was known to be committed may be missing.
        let commit = recovered.hard_state.commit;
        if commit > last.index {
            return Err(format!("entry {commit} is committed, but the log ends at {last}"));
        }
        if recovered.hard_state.term < last.term {
            return Err(format!(
                "the term is {}, but the log ends at {last}",
                recovered.hard_state.term
            ));
        }
        recovered.hard_state.commit = commit.max(applied.index).max(base.index);
        let mut history = History::new(base.index, decode(recovered.base.system.clone())?);
        let mut in_force = history.current().clone();
        let is_in_force = |index: u64| {
            (index <= applied.index || Mutant::ChangesInForceEarly.is_planted())
                && !Mutant::RemovedCountsAgain.is_planted()
        };
        for entry in recovered.changes.iter().filter(|entry| is_in_force(entry.log_id.index)) {
            let record = if entry.data.is_empty() {
                None
            } else {
                Some(ChangeRecord::decode(entry.data.clone()).map_err(|e| e.to_string())?)
            };
            if let Some(after) = in_force.after(record.as_ref(), entry.log_id.index) {
                in_force = after;
                history.push(entry.log_id.index, in_force.clone());
            }
        }
        let mut cache = LogCache::new(&recovered, &in_force, config.log_cache_bytes_max);
        if cache.term_of(applied.index) != Some(applied.term) {
            return Err(format!(
                "the state machine is at {applied}, but the log has another entry"
            ));
        }
        if let Some(meta) = snapshot {
            let membership = decode(meta.system.clone())?;
            cache.set_snapshot(meta, &membership);
        }
        let raft_id = id.raft_id();
        let engine_config = engine::config(raft_id, applied.index, config, ticks);
        let raw = RawNode::new(&engine_config, cache, &engine::logger(raft_id))
            .map_err(|error| error.to_string())?;
        let vote = (recovered.hard_state.term, recovered.hard_state.vote);
        let mut node = Self::assemble(raw, history, seed, ticks, applied, last.index);
        node.vote = vote;
        node.guarded(|_| {});
        Ok(node)
    }

    fn assemble(
        raw: RawNode<LogCache>,
        history: History,
        seed: u64,
        ticks: Ticks,
        applied: LogId,
        last: u64,
    ) -> Self {
        Self {
            raw,
            seed,
            election_ticks: ticks.election,
            attempt: 0,
            history,
            writes: Writes::new(last),
            durable: 0,
            vote: (0, 0),
            vote_barrier: 0,
            truncate_barrier: 0,
            change_barrier: 0,
            applying: applied.index,
            applied,
            appliable: applied.index,
            sends: Vec::new(),
            snapshot_sends: Vec::new(),
            snapshots_gone: Vec::new(),
            read_states: Vec::new(),
            pending_change: None,
            changes_done: Vec::new(),
            staged_snapshot: None,
            installing: None,
            malformed: 0,
            fatal: None,
        }
    }
}

fn decode(system: bytes::Bytes) -> Result<Membership, String> {
    let blank = system.is_empty();
    let membership = Membership::decode(system)
        .map_err(|error| format!("the stored membership is unreadable: {error}"))?;
    match blank || membership.holds_together() {
        true => Ok(membership),
        false => Err(format!("the stored membership cannot be: {membership:?}")),
    }
}

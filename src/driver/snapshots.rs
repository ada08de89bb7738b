//! Snapshots: when one is due, when one is there, sending them, installing them.

use std::sync::Arc;

use super::Driver;
use super::apply::JobDone;
use super::guard::spawn_job;
use crate::id::{LogId, NodeId};
use crate::mutant::Mutant;
use crate::storage::{SnapshotMeta, StorageError};
use crate::transport::{MessageBody, RaftKind, RaftMessage, StreamRefused, TransportError};

impl Driver {
    /// What to capture, if it is time.
    pub(super) fn snapshot_due(&mut self) -> Option<SnapshotMeta> {
        let applied = self.node.applied();
        let last = self.node.snapshot().map_or(0, |meta| meta.log_id.index);
        let behind = applied.index.saturating_sub(last);
        let every = self.config.snapshot_after_entries;
        let wanted = behind > 0 && self.node.take_wants_snapshot();
        if self.capturing || self.node.is_installing() || last == 0 {
            return None;
        }
        if !wanted && (every == 0 || behind < every) {
            return None;
        }
        self.capturing = true;
        let ahead = Mutant::SnapshotLabelledAhead.is_planted();
        let applied = if ahead { self.node.last() } else { applied };
        let system = self.node.membership_at(applied.index).encode();
        Some(SnapshotMeta { log_id: applied, system, size_bytes: 0 })
    }

    pub(super) fn snapshot_taken(&mut self, meta: SnapshotMeta) {
        self.capturing = false;
        self.node.handle_snapshot_taken(meta, self.config.trailing_entries);
        // It may not be this one: a leader's may have been installed meanwhile.
        let newest = self.node.snapshot().map(|meta| meta.log_id);
        self.shared.publish(|status| {
            status.counters.snapshots_taken += 1;
            status.snapshot = newest.unwrap_or(status.snapshot);
            true
        });
    }

    /// A leader's snapshot is stored here; the core says whether it is wanted.
    pub(super) fn snapshot_received(&mut self, from: NodeId, message: RaftMessage) {
        self.node.handle_snapshot(from.raft_id(), message);
        if !self.node.is_installing() {
            self.shared.received();
        }
    }

    /// The log begins at a leader's snapshot now; the state machine follows.
    pub(super) fn installed(&mut self, number: u64) {
        self.node.handle_installed(number);
        let Some(meta) = self.node.snapshot().cloned() else { return };
        self.skip_to(meta.log_id.index);
        self.shared.publish(|status| {
            status.counters.snapshots_installed += 1;
            status.snapshot = meta.log_id;
            true
        });
        self.restore_next = Some(meta);
    }

    /// The state machine could not read on: a snapshot that took the place of the log brings it
    /// what it misses.
    pub(super) fn overtaken(&mut self, error: StorageError) {
        self.applying = false;
        self.late.forget();
        if !self.node.is_installing() && self.restore_next.is_none() {
            self.stop = Some(error.into());
        }
    }

    pub(super) fn restored(&mut self, log_id: LogId) {
        self.applying = false;
        self.shared.received();
        self.node.handle_applied(log_id);
        self.answer_reads();
    }

    /// Starts to send the snapshots that the engine wants sent.
    pub(super) fn send_snapshots(&mut self) {
        for (to, meta) in self.node.take_snapshot_sends() {
            let Some(peer) = self.peers.find(self.node.membership(), to) else {
                self.node.handle_snapshot_sent(to, false);
                continue;
            };
            let raft = RaftMessage {
                kind: RaftKind::Snapshot,
                term: self.node.term(),
                snapshot: Some(meta.clone()),
                ..RaftMessage::default()
            };
            let head = self.envelope(peer.id, MessageBody::Raft(raft));
            let snapshots = Arc::clone(&self.snapshots);
            let transport = Arc::clone(&self.transport);
            spawn_job(&*self.runtime, &self.shared, async move {
                let arrived = match snapshots.open(&meta, 0).await {
                    Ok(body) => {
                        judge(&peer.address, transport.send_stream(&peer, head, body).await)
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a snapshot could not be read for sending");
                        false
                    }
                };
                JobDone::SnapshotSent { peer: to, arrived }
            });
        }
    }
}

fn judge(address: &str, sent: Result<(), TransportError>) -> bool {
    match sent {
        Ok(()) | Err(TransportError::Refused(StreamRefused::NotNeeded)) => true,
        Err(error) => {
            tracing::info!(peer = address, %error, "a snapshot was not taken");
            false
        }
    }
}

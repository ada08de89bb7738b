//! Bringing a node up: what the stores kept, the state machine on top of it, then the tasks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::apply::Applier;
use super::guard::caught;
use super::mailbox::Mailbox;
use super::members::Promotions;
use super::peers::Peers;
use super::propose::Late;
use super::seen::Seen;
use super::shared::Shared;
use super::worker::Worker;
use super::{Driver, Scratch};
use crate::Parts;
use crate::config::Ticks;
use crate::id::{ClusterId, LogId, NodeId};
use crate::mutant::Mutant;
use crate::node::{Node, Proposals, Reads, Start};
use crate::raft::StartError;
use crate::status::{Counters, RaftRole, Status};
use crate::storage::{Identity, Recovered, SnapshotMeta, SnapshotStore, WriteBatch};
use crate::transport::Local;

/// Starts the tasks of a node; gives back what its handles need.
pub(crate) async fn start(mut parts: Parts) -> Result<Arc<Shared>, StartError> {
    let ticks = parts.config.ticks()?;
    parts.transport.check(&parts.config.address, parts.config.message_bytes())?;
    let mut recovered = parts.log.recover().await?;
    let identity = identify(&mut parts, &recovered).await?;
    recovered.identity = Some(identity);
    if recovered.dropped_bytes > 0 {
        let bytes = recovered.dropped_bytes;
        tracing::info!(node = %identity.node, bytes, "a torn last write was dropped");
    }
    let snapshot = newest_usable(&*parts.snapshots, &recovered).await?;
    let applied = bring_up(&mut parts, snapshot.as_ref()).await?;
    let seed = parts.config.seed.unwrap_or_else(|| parts.runtime.random());
    let start = Start {
        id: identity.node,
        config: &parts.config,
        ticks,
        seed,
        recovered,
        snapshot,
        applied,
    };
    let node = Node::start(start).map_err(StartError::Inconsistent)?;
    let local = Local { cluster: identity.cluster, group: parts.group, node: identity.node };
    let status = first_status(&node, &local);
    let snapshots = Arc::clone(&parts.snapshots);
    let shared = Arc::new(Shared::new(&parts.config, local, status, snapshots));
    spawn(parts, ticks, seed, node, &shared);
    Ok(shared)
}

/// Who this server is: what the store says, or, on its first start, a new one that is kept from
/// then on (D6).
async fn identify(parts: &mut Parts, recovered: &Recovered) -> Result<Identity, StartError> {
    if let Some(identity) = recovered.identity {
        if identity.group != parts.group {
            let (found, wanted) = (identity.group, parts.group);
            return Err(StartError::WrongGroup { found, wanted });
        }
        if let Some(id) = parts.config.id.filter(|id| *id != identity.node) {
            let reason = format!("the store is of server {}, not {id}", identity.node);
            return Err(StartError::Inconsistent(reason));
        }
        return Ok(identity);
    }
    let random = || {
        let high = parts.runtime.random() | 1 << 63;
        NodeId::from_random(high, parts.runtime.random())
    };
    let node = parts.config.id.unwrap_or_else(random);
    let identity = Identity { cluster: ClusterId::NIL, node, group: parts.group };
    let batch = WriteBatch { identity: Some(identity), sync: true, ..WriteBatch::default() };
    parts.log.write(batch).await?;
    Ok(identity)
}

/// The newest snapshot that is a part of this log's history. One that was received but never
/// installed is not.
async fn newest_usable(
    store: &dyn SnapshotStore,
    recovered: &Recovered,
) -> Result<Option<SnapshotMeta>, StartError> {
    let base = recovered.base.log_id;
    let in_log = |at: LogId| {
        at == base
            || at.index > base.index && at.index <= recovered.last.index && {
                let run =
                    recovered.terms.partition_point(|run| run.index <= at.index).checked_sub(1);
                run.is_some_and(|run| recovered.terms[run].term == at.term)
            }
    };
    let all = store.list().await?;
    let usable = |at| in_log(at) || Mutant::UninstalledSnapshotUsed.is_planted();
    let newest = all.into_iter().filter(|meta| usable(meta.log_id)).max_by_key(|m| m.log_id);
    if newest.is_none() && base.index > 0 {
        let reason = format!("the log begins at {base}, but there is no snapshot from there on");
        return Err(StartError::Inconsistent(reason));
    }
    Ok(newest)
}

/// Brings the state machine at least to where the log begins.
async fn bring_up(parts: &mut Parts, snapshot: Option<&SnapshotMeta>) -> Result<LogId, StartError> {
    let panicked = |text: String| StartError::state_machine(format!("it panicked: {text}").into());
    let applied = caught(parts.state_machine.applied()).await.map_err(panicked)?;
    let applied = applied.map_err(StartError::state_machine)?;
    let Some(meta) = snapshot.filter(|meta| meta.log_id.index > applied.index) else {
        return Ok(applied);
    };
    let reader = parts.snapshots.open(meta, 0).await?;
    let restored = caught(parts.state_machine.restore(meta, reader)).await.map_err(panicked)?;
    restored.map_err(StartError::state_machine)?;
    Ok(meta.log_id)
}

fn first_status(node: &Node, local: &Local) -> Status {
    Status {
        id: local.node,
        cluster: local.cluster,
        role: RaftRole::Follower,
        term: node.term(),
        leader: None,
        established: false,
        membership: node.membership().clone(),
        last: node.last(),
        commit: node.commit(),
        applied: node.applied().index,
        snapshot: node.snapshot().map_or_else(LogId::default, |meta| meta.log_id),
        progress: Vec::new(),
        counters: Counters::default(),
        stopped: None,
    }
}

fn spawn(parts: Parts, ticks: Ticks, seed: u64, node: Node, shared: &Arc<Shared>) {
    let runtime = parts.runtime;
    let tasks = Arc::new(Mailbox::new(TASKS_MAX));
    let reader = parts.log.reader();
    let applier = Applier {
        machine: parts.state_machine,
        reader: Arc::clone(&reader),
        runtime: Arc::clone(&runtime),
        snapshots: Arc::clone(&parts.snapshots),
        shared: Arc::clone(shared),
        tasks: Arc::clone(&tasks),
    };
    let now = runtime.now();
    let tick_at = now + parts.config.tick;
    let late = Late::new(node.applied().index);
    let requests_seen = Seen::new(node.term());
    parts.transport.attach(Arc::clone(shared) as _);
    let driver = Driver {
        shared: Arc::clone(shared),
        address: parts.config.address.as_str().into(),
        config: parts.config,
        ticks,
        group: parts.group,
        seed,
        incarnation: runtime.random(),
        timer: runtime.timer(tick_at),
        runtime: Arc::clone(&runtime),
        transport: parts.transport,
        snapshots: parts.snapshots,
        reader,
        node,
        peers: Peers::default(),
        log: Worker::Idle(parts.log),
        writing: None,
        tasks,
        applying: false,
        restore_next: None,
        capturing: false,
        proposals: Proposals::new(),
        late,
        unproposed: VecDeque::new(),
        reads: Reads::new(),
        forwarded: BTreeMap::new(),
        requests_sent: 0,
        requests_seen,
        forwards_rest: false,
        change: None,
        membership_seen: 0,
        promotions: Promotions::default(),
        transfer: None,
        joining: None,
        rite: None,
        tick_at,
        now,
        seen: (0, 0),
        inbound: VecDeque::new(),
        scratch: Scratch::default(),
        stop: None,
        on_shutdown: Vec::new(),
    };
    runtime.spawn(Box::pin(applier.run()));
    runtime.spawn(Box::pin(driver.run()));
}

/// The driver gives one task at a time, and the end.
const TASKS_MAX: usize = 4;

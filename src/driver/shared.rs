//! What the driver shares with its handles, its jobs and the transport.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::apply::{InHand, JobDone};
use super::mailbox::Mailbox;
use super::request::{Ask, Budget};
use crate::config::Config;
use crate::error::Fatal;
use crate::id::{ClusterId, NodeId};
use crate::mutant::Mutant;
use crate::node;
use crate::runtime::ByteReader;
use crate::status::Status;
use crate::storage::{SnapshotMeta, SnapshotStore, StorageError};
use crate::transport::{Inbox, Local, Message, MessageBody, RaftKind, RaftMessage, StreamRefused};

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) asks: Mailbox<Ask>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) command_bytes_max: usize,
    pub(super) inbound: Mailbox<Inbound>,
    pub(super) jobs: Mailbox<JobDone>,
    pub(super) in_hand: InHand,
    pub(super) overflowed: AtomicU64,
    pub(super) misdirected: AtomicU64,
    local: Mutex<Local>,
    status: Mutex<Published>,
    snapshots: Arc<dyn SnapshotStore>,
    /// Whether a snapshot streams in or waits to be installed.
    receiving: AtomicBool,
    /// Why the node takes nothing more; known a while before it has ended.
    ending: OnceLock<Fatal>,
}

#[derive(Debug)]
pub(super) enum Inbound {
    Message(Message),
    /// A snapshot that has been stored; the message tells the engine.
    Snapshot(NodeId, RaftMessage),
    Unreachable(NodeId),
}

#[derive(Debug)]
struct Published {
    status: Status,
    version: u64,
    /// Those that wait now, by the number of their watch.
    watchers: BTreeMap<u64, Waker>,
    watches: u64,
}

impl Shared {
    pub(crate) fn new(
        config: &Config,
        local: Local,
        status: Status,
        snapshots: Arc<dyn SnapshotStore>,
    ) -> Self {
        Self {
            asks: Mailbox::new(config.waiting_requests_max),
            budget: Budget::new(config.waiting_bytes_max),
            command_bytes_max: config.command_bytes_max,
            inbound: Mailbox::new(config.inbound_messages_max),
            jobs: Mailbox::new(JOBS_MAX),
            in_hand: InHand::default(),
            overflowed: AtomicU64::new(0),
            misdirected: AtomicU64::new(0),
            local: Mutex::new(local),
            status: Mutex::new(Published {
                status,
                version: 0,
                watchers: BTreeMap::new(),
                watches: 0,
            }),
            snapshots,
            receiving: AtomicBool::new(false),
            ending: OnceLock::new(),
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.published().status.clone()
    }

    pub(crate) fn id(&self) -> NodeId {
        lock(&self.local).node
    }

    /// The first reason stays.
    pub(super) fn set_ending(&self, fatal: Fatal) {
        let _ = self.ending.set(fatal);
    }

    /// Why the node has stopped or is about to.
    pub(crate) fn ending(&self) -> Option<Fatal> {
        self.ending.get().cloned()
    }

    pub(super) fn set_cluster(&self, cluster: ClusterId) {
        lock(&self.local).cluster = cluster;
    }

    /// Changes the status; `true` from `change` tells whoever watches.
    pub(super) fn publish(&self, change: impl FnOnce(&mut Status) -> bool) {
        let mut published = self.published();
        if change(&mut published.status) {
            published.version += 1;
            let watchers = std::mem::take(&mut published.watchers);
            drop(published);
            watchers.into_values().for_each(Waker::wake);
        }
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        lock(&self.status)
    }

    /// A snapshot that was received is installed, or will never be: the next may come.
    pub(super) fn received(&self) {
        self.receiving.store(false, Ordering::Release);
    }

    async fn store(&self, meta: &SnapshotMeta, body: ByteReader) -> Result<(), StreamRefused> {
        let failed = |error: StorageError| StreamRefused::Failed(error.to_string());
        let sink = self.snapshots.create(meta.clone()).await.map_err(failed)?;
        let sink = copy(body, sink, meta.size_bytes).await?;
        sink.commit().await.map_err(failed)?;
        Ok(())
    }
}

struct Free<'a>(&'a Shared);

impl Drop for Free<'_> {
    fn drop(&mut self) {
        self.0.received();
    }
}

async fn copy<S: futures::io::AsyncWrite + Unpin>(
    mut body: ByteReader,
    mut sink: S,
    size_bytes: u64,
) -> Result<S, StreamRefused> {
    let failed = |error: std::io::Error| StreamRefused::Failed(error.to_string());
    let mut chunk = vec![0; STREAM_CHUNK_BYTES];
    let mut total = 0;
    loop {
        let read = body.read(&mut chunk).await.map_err(failed)?;
        if read == 0 {
            break;
        }
        total += read as u64;
        if total > size_bytes {
            break;
        }
        sink.write_all(&chunk[..read]).await.map_err(failed)?;
    }
    if total != size_bytes {
        let reason = format!("a snapshot of {size_bytes} bytes came with {total}");
        return Err(StreamRefused::Failed(reason));
    }
    Ok(sink)
}

#[async_trait]
impl Inbox for Shared {
    fn local(&self) -> Local {
        lock(&self.local).clone()
    }

    fn deliver(&self, message: Message) {
        if !self.is_for_us(&message) {
            self.misdirected.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.inbound.push(Inbound::Message(message)).is_err() {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn unreachable(&self, peer: NodeId) {
        // Lost in a full mailbox it is found out again at the next message that is not answered.
        let _ = self.inbound.push(Inbound::Unreachable(peer));
    }

    async fn receive_stream(&self, head: Message, body: ByteReader) -> Result<(), StreamRefused> {
        if !self.is_for_us(&head) {
            self.misdirected.fetch_add(1, Ordering::Relaxed);
            return Err(StreamRefused::NotNeeded);
        }
        let from = head.from;
        let MessageBody::Raft(RaftMessage { kind: RaftKind::Snapshot, .. }) = &head.body else {
            return Err(StreamRefused::NotNeeded);
        };
        let MessageBody::Raft(raft) = head.body else { return Err(StreamRefused::NotNeeded) };
        let Some(meta) = raft.snapshot.clone() else { return Err(StreamRefused::NotNeeded) };
        if meta.log_id.index <= self.published().status.commit {
            return Err(StreamRefused::NotNeeded);
        }
        // What is stored here may be started from, so it is looked at before.
        if !node::is_sound_snapshot(&raft) {
            return Err(StreamRefused::Failed("no such snapshot can be".to_owned()));
        }
        // One at a time, until it is installed: another of the same place would be written over the
        // one that is about to be restored from.
        if self.receiving.swap(true, Ordering::Acquire) {
            return Err(StreamRefused::Busy);
        }
        let free = Free(self);
        self.store(&meta, body).await?;
        let told = self.inbound.push(Inbound::Snapshot(from, raft));
        told.map_err(|_| StreamRefused::Busy)?;
        std::mem::forget(free);
        Ok(())
    }

    fn accepts(&self, cluster: ClusterId, node: NodeId) -> bool {
        let local = lock(&self.local);
        node != local.node
            && (cluster == local.cluster || cluster.is_nil() || local.cluster.is_nil())
    }
}

impl Shared {
    fn is_for_us(&self, message: &Message) -> bool {
        let local = lock(&self.local);
        let ours = message.group == local.group && message.from != local.node;
        let to_us =
            message.to.is_none_or(|to| to == local.node) || Mutant::MisdirectedTakenIn.is_planted();
        let answer = matches!(message.body, MessageBody::Answer(_));
        let join = message.cluster.is_nil() && matches!(message.body, MessageBody::Request(_));
        let blank = local.cluster.is_nil();
        ours && to_us
            && match blank {
                true => answer,
                false => message.cluster == local.cluster || join,
            }
    }
}

/// Waits for a status that differs from the one last seen in who leads, the term, the membership,
/// the newest snapshot, or whether the node runs. Progress of the log is not announced.
#[derive(Debug)]
pub struct StatusWatch {
    shared: Arc<Shared>,
    seen: u64,
    number: u64,
}

impl StatusWatch {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let mut published = shared.published();
        published.watches += 1;
        let (seen, number) = (published.version, published.watches);
        drop(published);
        Self { shared, seen, number }
    }

    /// The status once it has changed since this was last asked (or since the watch began). Changes
    /// in between may be missed, the latest state never.
    pub fn changed(&mut self) -> impl Future<Output = Status> + Send {
        Changed { watch: self }
    }
}

impl Drop for StatusWatch {
    fn drop(&mut self) {
        let waker = self.shared.published().watchers.remove(&self.number);
        // Dropped without the lock, since a waker is somebody else's code.
        drop(waker);
    }
}

struct Changed<'a> {
    watch: &'a mut StatusWatch,
}

impl Future for Changed<'_> {
    type Output = Status;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Status> {
        let shared = Arc::clone(&self.watch.shared);
        let mut published = shared.published();
        if published.version != self.watch.seen {
            self.watch.seen = published.version;
            return Poll::Ready(published.status.clone());
        }
        let old = published.watchers.insert(self.watch.number, cx.waker().clone());
        drop(published);
        drop(old);
        Poll::Pending
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of others runs under these locks, so a poisoned one still holds a whole value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Jobs report once each, and the driver bounds how many there are; this is only far above that.
const JOBS_MAX: usize = 1 << 16;
const STREAM_CHUNK_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;
    use crate::id::{GroupId, LogId};
    use crate::membership::{Member, Membership};
    use crate::status::{Counters, RaftRole};
    use crate::storage::MemorySnapshotStore;

    fn shared(snapshots: Arc<MemorySnapshotStore>) -> Shared {
        let (cluster, node) = (ClusterId::from_random(1, 2), NodeId::from(1));
        let local = Local { cluster, group: GroupId(0), node };
        let status = Status {
            id: node,
            cluster,
            role: RaftRole::Follower,
            term: 1,
            leader: None,
            established: false,
            membership: Membership::default(),
            last: LogId::default(),
            commit: 1,
            applied: 1,
            snapshot: LogId::default(),
            progress: Vec::new(),
            counters: Counters::default(),
            stopped: None,
        };
        Shared::new(&Config::default(), local, status, snapshots)
    }

    #[test]
    fn a_snapshot_that_cannot_be_is_not_even_stored() {
        let store = Arc::new(MemorySnapshotStore::new());
        let shared = shared(store.clone());
        let send = |system: Bytes| {
            let log_id = LogId { term: 1, index: 9 };
            let raft = RaftMessage {
                kind: RaftKind::Snapshot,
                term: 1,
                snapshot: Some(SnapshotMeta { log_id, system, size_bytes: 4 }),
                ..RaftMessage::default()
            };
            let head = Message {
                cluster: shared.local().cluster,
                group: GroupId(0),
                from: 2.into(),
                from_address: Arc::from("a2"),
                to: Some(1.into()),
                body: MessageBody::Raft(raft),
            };
            block_on(shared.receive_stream(head, Box::pin(Cursor::new(b"body"))))
        };
        assert!(matches!(send(Bytes::new()), Err(StreamRefused::Failed(_))), "of nobody");
        assert!(block_on(store.list()).unwrap().is_empty());
        let members = Membership::first([Member::voter(2.into(), "n2", "a2")]);
        assert_eq!(send(members.encode()), Ok(()));
        assert_eq!(block_on(store.list()).unwrap().len(), 1);
        // Another in its place would be restored from with this one's length.
        assert_eq!(send(members.encode()), Err(StreamRefused::Busy), "not looked at yet");
        shared.received();
        assert_eq!(send(members.encode()), Ok(()));
    }
}

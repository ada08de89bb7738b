//! What must survive a crash: the log with the hard state ([`LogStore`]) and snapshots
//! ([`SnapshotStore`]).

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::AsyncWrite;

use crate::id::{ClusterId, GroupId, LogId, NodeId};
use crate::runtime::ByteReader;

mod entry;
#[cfg(feature = "storage-file")]
mod file;
mod memory;

pub(crate) use self::entry::EntryKind;
pub use self::entry::{Entry, HardState, MalformedRecord};
#[cfg(feature = "storage-file")]
pub use self::file::{FileLogStore, FileSnapshotStore, FileStoreConfig};
pub use self::memory::{MemoryLogStore, MemorySnapshotStore};

/// The log of one group on one server, with its hard state and identity.
///
/// # To implement
///
/// One caller at a time: a running job owns the store. `write` is all or nothing, also across a
/// crash. The first failure is final: after it the node stops, and neither `write` nor a sync is
/// tried again. The returned futures never block the executor: a store on files owns a thread or
/// uses one.
#[async_trait]
pub trait LogStore: Send + 'static {
    /// Reads what survived. Called once, before anything else.
    async fn recover(&mut self) -> Result<Recovered, StorageError>;

    /// Writes a batch; when it returns, all of it can be read back, and, if `batch.sync`, all of it
    /// and everything before it survives a crash. Without `sync` a crash may lose the batch, but
    /// not a part of it. A batch that leaves a hole or brings back what was compacted is an error.
    async fn write(&mut self, batch: WriteBatch) -> Result<(), StorageError>;

    /// A handle for reading, which never queues behind writes.
    fn reader(&self) -> Arc<dyn LogReader>;
}

/// Reads entries beside the one writer.
#[async_trait]
pub trait LogReader: Send + Sync + 'static {
    /// The entries of `indexes` in order: at least one, then as many as fit `bytes_max` (of
    /// [`Entry::encoded_len`]).
    ///
    /// Reading what a concurrent write replaces or compacts gives the old or the new, or
    /// [`StorageError::Compacted`], never a mixture within one entry.
    async fn read(&self, indexes: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>, StorageError>;
}

/// Everything one durable write holds. The fields take effect in the order they stand in.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "stores take it apart, tests build it by literal")]
pub struct WriteBatch {
    /// Who this server is; set once, by the first write.
    pub identity: Option<Identity>,
    /// Forget the whole log: it now begins after this place, where a snapshot ends.
    pub reset_to: Option<Base>,
    /// Forget the entries up to and including this place; later ones stay.
    pub compact_to: Option<Base>,
    /// Entries to append, without a hole; they replace any at the same index and every one behind
    /// it.
    pub entries: Vec<Entry>,
    /// The new hard state.
    pub hard_state: Option<HardState>,
    /// Whether the write must be durable before it returns.
    pub sync: bool,
}

impl WriteBatch {
    /// Whether it can be written to a log that begins behind `base` and ends with `last`: no hole,
    /// and nothing that was compacted comes back.
    pub(crate) fn check(&self, base: u64, last: u64) -> Result<(), StorageError> {
        let refuse = |what: &str| {
            let wrong = io::Error::new(io::ErrorKind::InvalidInput, what);
            Err(StorageError::io("taking a batch")(wrong))
        };
        let (mut base, mut last) = (base, last);
        if let Some(to) = &self.reset_to {
            (base, last) = (to.log_id.index, to.log_id.index);
        }
        if let Some(to) = &self.compact_to {
            if to.log_id.index < base {
                return refuse("it brings back what was compacted");
            }
            base = to.log_id.index;
            last = last.max(base);
        }
        if last >= INDEX_MAX {
            return refuse("there is no place behind its base");
        }
        if let Some(first) = self.entries.first().map(|entry| entry.log_id.index)
            && !(base + 1..=last + 1).contains(&first)
        {
            return refuse("its entries do not follow on the log");
        }
        let follows =
            |pair: &[Entry]| pair[0].log_id.index.checked_add(1) == Some(pair[1].log_id.index);
        if !self.entries.windows(2).all(follows) {
            return refuse("there is a hole between its entries");
        }
        match self.entries.last() {
            Some(entry) if entry.log_id.index >= INDEX_MAX => refuse("its entries have no end"),
            _ => Ok(()),
        }
    }
}

/// No log gets here by counting; below it, whoever counts on does not run over.
pub(crate) const INDEX_MAX: u64 = u64::MAX / 2;

/// Where a log begins.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "stores take it apart, tests build it by literal")]
pub struct Base {
    /// The place of the last entry that is not in the log any more; zero for a log that never lost
    /// one.
    pub log_id: LogId,
    /// The library's own state at that place (membership and more), opaque to a store.
    pub system: Bytes,
}

/// Who a server is, kept with its log: losing one without the other would be the worst of both.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "stores take it apart, tests build it by literal")]
pub struct Identity {
    /// The cluster; [`ClusterId::NIL`] until it has joined one.
    pub cluster: ClusterId,
    /// The server.
    pub node: NodeId,
    /// The group.
    pub group: GroupId,
}

/// What a store found when it was opened.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "implementers build it by literal")]
pub struct Recovered {
    /// Who this server is; `None` in a store that was never written.
    pub identity: Option<Identity>,
    /// Where the log begins.
    pub base: Base,
    /// The last hard state written.
    pub hard_state: HardState,
    /// The last entry; equal to `base.log_id` when there is none behind it.
    pub last: LogId,
    /// The first entry of each run of equal terms behind the base, in order.
    pub terms: Vec<LogId>,
    /// The entries behind the base that change the membership ([`Entry::is_change`]), in order.
    pub changes: Vec<Entry>,
    /// How many bytes of a torn last write were dropped. They were never acknowledged.
    pub dropped_bytes: u64,
}

/// Snapshots of one group on one server. They are few, large, and never changed once they are
/// there.
///
/// # To implement
///
/// A snapshot is durable when `commit` returns and not there at all before. Several may be written
/// at once, also of the same place. Files left behind by a crash are removed when the store is
/// opened, and those of a sink that was dropped when the next one is begun, at the latest.
#[async_trait]
pub trait SnapshotStore: Debug + Send + Sync + 'static {
    /// Begins a snapshot; `meta.size_bytes` is a hint here. One of the same `log_id` is replaced on
    /// commit.
    async fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotSink>, StorageError>;

    /// All snapshots, the newest (highest `log_id`) first.
    async fn list(&self) -> Result<Vec<SnapshotMeta>, StorageError>;

    /// Reads a snapshot from byte `from` on. Damage shows as an error of the reader, never as wrong
    /// bytes. A reader goes on working when the snapshot is removed meanwhile.
    async fn open(&self, meta: &SnapshotMeta, from: u64) -> Result<ByteReader, StorageError>;

    /// Deletes a snapshot; one that is not there is fine.
    async fn remove(&self, meta: &SnapshotMeta) -> Result<(), StorageError>;
}

/// A snapshot being written. Dropped without commit, it is as if never begun.
#[async_trait]
pub trait SnapshotSink: AsyncWrite + Send + Unpin {
    /// Makes the snapshot durable and visible; the answer has its real size.
    async fn commit(self: Box<Self>) -> Result<SnapshotMeta, StorageError>;
}

/// What a snapshot is of.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "stores take it apart, tests build it by literal")]
pub struct SnapshotMeta {
    /// The last entry whose effect it holds.
    pub log_id: LogId,
    /// The library's own state at that place (membership and more), opaque to a store.
    pub system: Bytes,
    /// How long the application's part is, in bytes.
    pub size_bytes: u64,
}

/// Why a store could not do what it was asked. Final, except [`Compacted`](Self::Compacted).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The directory belongs to a running process.
    #[error("{place} is in use by another process")]
    Busy {
        /// Which directory.
        place: String,
    },
    /// The entries asked for are not in the log any more.
    #[error("entries before {first} are compacted")]
    Compacted {
        /// The first index that is still there.
        first: u64,
    },
    /// Stored data is not what was written.
    #[error("{place} is damaged at byte {offset}: {what}")]
    Corrupt {
        /// The file, or what stands for one.
        place: String,
        /// Where in it.
        offset: u64,
        /// What is wrong, and what can be done.
        what: String,
    },
    /// The environment failed.
    #[error("{action} failed: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The failure.
        source: Arc<io::Error>,
    },
    /// A store of another kind failed.
    #[error("the store failed: {0}")]
    Other(Arc<dyn std::error::Error + Send + Sync>),
    /// An earlier failure was final.
    #[error("the store has failed before and takes nothing more")]
    Poisoned,
}

impl StorageError {
    /// Names what was being done when the environment failed.
    pub fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source: Arc::new(source) }
    }
}

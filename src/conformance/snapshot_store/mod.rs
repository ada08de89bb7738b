//! The kit for [`SnapshotStore`].

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Broken, Disk, Fixture, Outcome, Promised as _, pattern};
use crate::id::LogId;
use crate::runtime::{BoxFuture, Files};
use crate::storage::{SnapshotMeta, SnapshotSink, SnapshotStore, StorageError};

mod faults;
mod plain;

/// Makes a snapshot store to be judged.
///
/// A fixture stands for one place where snapshots are kept, empty at first.
#[async_trait]
pub trait SnapshotStoreFixture: Fixture {
    /// Opens the store as it is; what was opened before has been dropped.
    async fn open(&self) -> Result<Arc<dyn SnapshotStore>, StorageError>;

    /// What a crash does to the place: of what was not synced it may lose what it likes. All stores
    /// that were opened have been dropped.
    async fn crash(&self);

    /// The disk, if the store is on [`Files`] and was given those of this disk. Then it is crashed
    /// at every step, its syncs fail, its bits flip. Default: none.
    fn disk(&self) -> Option<Disk> {
        None
    }
}

kit! {
    ($)
    /// Mounts one test for each promise of a [`SnapshotStore`](crate::storage::SnapshotStore);
    /// takes an expression that makes a
    /// [`SnapshotStoreFixture`](crate::conformance::SnapshotStoreFixture).
    snapshot_store_conformance, snapshot_store, SnapshotStoreFixture;

    plain {
        /// A store that was never written lists nothing.
        a_new_store_lists_nothing,
        /// A committed snapshot is there, with its place, its system state and its real size, also
        /// after the store was opened anew and after a crash.
        a_commit_makes_it_visible_and_durable,
        /// A snapshot comes back byte for byte, however long it is and in whatever pieces it was
        /// written.
        bytes_come_back_as_they_were_written,
        /// A snapshot is not there at all before it is committed.
        nothing_is_visible_before_the_commit,
        /// A snapshot that is dropped without commit is as if never begun.
        dropped_without_commit_is_as_if_never_begun,
        /// What a crash interrupted is not there, and can be begun again.
        what_a_crash_interrupted_is_not_there,
        /// Snapshots are listed newest first, by term and then by index.
        the_newest_is_listed_first,
        /// A snapshot of the same place is replaced on commit, and not before.
        the_same_place_is_replaced_on_commit,
        /// Two snapshots are written at once, also of the same place, and do not mix.
        two_at_once_do_not_mix,
        /// A snapshot is read from any byte on.
        reading_begins_at_any_byte,
        /// Several read the same snapshot at once.
        several_read_at_once,
        /// A reader goes on when the snapshot is removed meanwhile, or replaced.
        a_reader_outlives_its_snapshot,
        /// What is removed is gone for good, and removing what is not there is fine.
        what_is_removed_is_gone,
        /// Opening a snapshot that is not there is an error.
        opening_what_is_not_there_is_an_error,
    }
    faults {
        /// A crash at any step of the disk leaves what was committed, and a snapshot that was being
        /// committed whole or not at all.
        a_crash_at_any_step_leaves_whole_snapshots,
        /// When a step of the disk fails, what was committed stays, and the commit fails or holds.
        a_failing_disk_loses_nothing_that_was_committed,
        /// Damage shows as an error, never as wrong bytes.
        damage_is_an_error,
        /// What was never committed does not stay on the disk.
        what_was_never_committed_takes_no_room,
    }
}

async fn guarded(
    _: Arc<dyn SnapshotStoreFixture>,
    case: impl Future<Output = Outcome> + Send,
) -> Outcome {
    case.await
}

/// How a store on [`Files`] is opened.
type Open = dyn Fn(Arc<dyn Files>) -> BoxFuture<'static, Opened> + Send + Sync;

type Opened = Result<Arc<dyn SnapshotStore>, StorageError>;

/// A fixture for a store on [`Files`]: everything but how it is opened is here.
///
/// ```
/// use std::sync::Arc;
///
/// use kontiki::conformance::SnapshotsOnDisk;
/// use kontiki::storage::{FileSnapshotStore, SnapshotStore};
///
/// fn fixture() -> SnapshotsOnDisk {
///     SnapshotsOnDisk::new(|files| Box::pin(async move {
///         Ok(Arc::new(FileSnapshotStore::open(files).await?) as Arc<dyn SnapshotStore>)
///     }))
/// }
///
/// kontiki::snapshot_store_conformance!(fixture());
/// ```
pub struct SnapshotsOnDisk {
    disk: Disk,
    open: Box<Open>,
}

impl SnapshotsOnDisk {
    /// A store on a new disk, which `open` opens.
    pub fn new(
        open: impl Fn(
            Arc<dyn Files>,
        ) -> BoxFuture<'static, Result<Arc<dyn SnapshotStore>, StorageError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self { disk: Disk::new(), open: Box::new(open) }
    }
}

impl std::fmt::Debug for SnapshotsOnDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotsOnDisk").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl Fixture for SnapshotsOnDisk {}

#[async_trait]
impl SnapshotStoreFixture for SnapshotsOnDisk {
    async fn open(&self) -> Result<Arc<dyn SnapshotStore>, StorageError> {
        (self.open)(self.disk.files()).await
    }

    async fn crash(&self) {
        self.disk.crash();
    }

    fn disk(&self) -> Option<Disk> {
        Some(self.disk.clone())
    }
}

/// What a snapshot says that it is of; the size is a guess, and wrong.
fn meta(term: u64, index: u64) -> SnapshotMeta {
    let system = Bytes::from(format!("the members at {term}, {index}"));
    SnapshotMeta { log_id: LogId { term, index }, system, size_bytes: 17 }
}

async fn begin(
    store: &dyn SnapshotStore,
    meta: SnapshotMeta,
    bytes: &[u8],
) -> Result<Box<dyn SnapshotSink>, Broken> {
    let mut sink = store.create(meta).await.promised("beginning a snapshot")?;
    sink.write_all(bytes).await.promised("writing a snapshot")?;
    Ok(sink)
}

async fn commit(
    store: &dyn SnapshotStore,
    meta: SnapshotMeta,
    bytes: &[u8],
) -> Result<SnapshotMeta, Broken> {
    let sink = begin(store, meta.clone(), bytes).await?;
    let committed = sink.commit().await.promised("committing a snapshot")?;
    let wanted = SnapshotMeta { size_bytes: bytes.len() as u64, ..meta };
    ensure!(committed == wanted, "a commit of {} bytes gives {committed:?}", bytes.len());
    Ok(committed)
}

async fn list(store: &dyn SnapshotStore) -> Result<Vec<SnapshotMeta>, Broken> {
    store.list().await.promised("listing the snapshots")
}

async fn read(
    store: &dyn SnapshotStore,
    meta: &SnapshotMeta,
    from: u64,
) -> Result<Vec<u8>, Broken> {
    let mut reader = store.open(meta, from).await.promised("opening a snapshot")?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.promised("reading a snapshot")?;
    Ok(bytes)
}

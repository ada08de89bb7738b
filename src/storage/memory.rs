//! Stores that live in memory, with a crash model. For tests and benchmarks: nothing survives the
//! process.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncWrite, Cursor};

use super::{
    Base, Entry, HardState, Identity, LogReader, LogStore, Recovered, SnapshotMeta, SnapshotSink,
    SnapshotStore, StorageError, WriteBatch,
};
use crate::id::LogId;
use crate::runtime::ByteReader;

/// A log in memory. **Nothing survives the process**: for tests, benchmarks and trying things out.
///
/// A clone is the same memory: hand one to a node, keep one, and after [`crash`](Self::crash) hand
/// out another, as one would start a server again on the disk it had.
#[derive(Clone)]
pub struct MemoryLogStore {
    disk: Arc<Mutex<Disk>>,
    /// Which start of the server this handle belongs to; a handle of an earlier one is dead.
    generation: u64,
}

#[derive(Default)]
struct Disk {
    log: Log,
    generation: u64,
    /// The log as of the last sync, and what was written since; kept only while there is something
    /// to lose.
    unsynced: Option<(Log, Vec<WriteBatch>)>,
    fail_next: bool,
    failed: bool,
}

#[derive(Clone, Default)]
struct Log {
    identity: Option<Identity>,
    base: Base,
    entries: VecDeque<Entry>,
    hard_state: HardState,
}

impl MemoryLogStore {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self { disk: Arc::default(), generation: 0 }
    }

    /// Crashes the server that had this log: of the batches written since the last sync, the first
    /// `keep` survive, each whole. Handles from before can neither read nor write any more; the
    /// returned one can.
    #[must_use]
    pub fn crash(&self, keep: usize) -> Self {
        let mut disk = self.lock();
        if let Some((mut log, batches)) = disk.unsynced.take() {
            batches.into_iter().take(keep).for_each(|batch| log.write(batch));
            disk.log = log;
        }
        disk.generation += 1;
        disk.failed = false;
        disk.fail_next = false;
        let generation = disk.generation;
        Self { disk: Arc::clone(&self.disk), generation }
    }

    /// How many batches a crash could lose now.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced.as_ref().map_or(0, |(_, batches)| batches.len())
    }

    /// Makes the next write fail, and, as a failure is final, every one after it.
    pub fn fail_next_write(&self) {
        self.lock().fail_next = true;
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }

    fn alive(&self) -> Result<MutexGuard<'_, Disk>, StorageError> {
        let disk = self.lock();
        let alive = disk.generation == self.generation && !disk.failed;
        if alive { Ok(disk) } else { Err(StorageError::Poisoned) }
    }
}

impl Default for MemoryLogStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryLogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLogStore")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl LogStore for MemoryLogStore {
    async fn recover(&mut self) -> Result<Recovered, StorageError> {
        Ok(self.alive()?.log.recovered())
    }

    async fn write(&mut self, batch: WriteBatch) -> Result<(), StorageError> {
        let mut disk = self.alive()?;
        if std::mem::take(&mut disk.fail_next) {
            disk.failed = true;
            return Err(StorageError::io("writing to memory")(io::Error::other("planted")));
        }
        let last = disk.log.entries.back().map_or(disk.log.base.log_id, |entry| entry.log_id);
        if let Err(error) = batch.check(disk.log.base.log_id.index, last.index) {
            disk.failed = true;
            return Err(error);
        }
        if batch.sync {
            disk.unsynced = None;
        } else {
            let Disk { log, unsynced, .. } = &mut *disk;
            let (_, batches) = unsynced.get_or_insert_with(|| (log.clone(), Vec::new()));
            batches.push(batch.clone());
        }
        disk.log.write(batch);
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(self.clone())
    }
}

#[async_trait]
impl LogReader for MemoryLogStore {
    async fn read(&self, indexes: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>, StorageError> {
        self.alive()?.log.read(indexes, bytes_max)
    }
}

impl Log {
    fn write(&mut self, batch: WriteBatch) {
        self.identity = batch.identity.or(self.identity);
        if let Some(base) = batch.reset_to {
            self.entries.clear();
            self.base = base;
        }
        if let Some(base) = batch.compact_to {
            let count = base.log_id.index.saturating_sub(self.base.log_id.index);
            let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.entries.len());
            self.entries.drain(..count);
            self.base = base;
        }
        if let Some(first) = batch.entries.first() {
            self.entries.truncate(self.position(first.log_id.index));
        }
        self.entries.extend(batch.entries);
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
    }

    fn read(&self, indexes: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>, StorageError> {
        let first = self.base.log_id.index + 1;
        if indexes.start < first {
            return Err(StorageError::Compacted { first });
        }
        let mut bytes = 0;
        let mut read = Vec::new();
        let count =
            usize::try_from(indexes.end.saturating_sub(indexes.start)).unwrap_or(usize::MAX);
        for entry in self.entries.iter().skip(self.position(indexes.start)).take(count) {
            bytes += entry.encoded_len() as u64;
            if bytes > bytes_max && !read.is_empty() {
                break;
            }
            read.push(entry.clone());
        }
        Ok(read)
    }

    fn recovered(&self) -> Recovered {
        let mut terms: Vec<LogId> = Vec::new();
        for entry in &self.entries {
            if terms.last().is_none_or(|run| run.term != entry.log_id.term) {
                terms.push(entry.log_id);
            }
        }
        Recovered {
            identity: self.identity,
            base: self.base.clone(),
            hard_state: self.hard_state,
            last: self.entries.back().map_or(self.base.log_id, |entry| entry.log_id),
            terms,
            changes: self.entries.iter().filter(|entry| entry.is_change()).cloned().collect(),
            dropped_bytes: 0,
        }
    }

    fn position(&self, index: u64) -> usize {
        let offset = index.saturating_sub(self.base.log_id.index + 1);
        usize::try_from(offset).unwrap_or(usize::MAX).min(self.entries.len())
    }
}

/// Snapshots in memory. **Nothing survives the process.** A clone is the same memory.
#[derive(Clone, Debug, Default)]
pub struct MemorySnapshotStore {
    snapshots: Arc<Mutex<BTreeMap<LogId, (SnapshotMeta, Bytes)>>>,
}

impl MemorySnapshotStore {
    /// A store without snapshots.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl SnapshotStore for MemorySnapshotStore {
    async fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotSink>, StorageError> {
        Ok(Box::new(MemorySink { store: self.clone(), meta, bytes: Vec::new() }))
    }

    async fn list(&self) -> Result<Vec<SnapshotMeta>, StorageError> {
        Ok(lock(&self.snapshots).values().rev().map(|(meta, _)| meta.clone()).collect())
    }

    async fn open(&self, meta: &SnapshotMeta, from: u64) -> Result<ByteReader, StorageError> {
        let snapshots = lock(&self.snapshots);
        let Some((_, bytes)) = snapshots.get(&meta.log_id) else {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err(StorageError::io("opening a snapshot")(missing));
        };
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Box::pin(Cursor::new(bytes.slice(from..))))
    }

    async fn remove(&self, meta: &SnapshotMeta) -> Result<(), StorageError> {
        lock(&self.snapshots).remove(&meta.log_id);
        Ok(())
    }
}

struct MemorySink {
    store: MemorySnapshotStore,
    meta: SnapshotMeta,
    bytes: Vec<u8>,
}

#[async_trait]
impl SnapshotSink for MemorySink {
    async fn commit(self: Box<Self>) -> Result<SnapshotMeta, StorageError> {
        let meta = SnapshotMeta { size_bytes: self.bytes.len() as u64, ..self.meta };
        let snapshot = (meta.clone(), Bytes::from(self.bytes));
        lock(&self.store.snapshots).insert(meta.log_id, snapshot);
        Ok(meta)
    }
}

impl AsyncWrite for MemorySink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of others runs under these locks, so a poisoned one still holds a whole value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    fn batch(first: u64, count: u64, sync: bool) -> WriteBatch {
        let entries = (first..first + count)
            .map(|index| Entry::application(LogId { term: 1, index }, b"12345"))
            .collect();
        WriteBatch { entries, sync, ..WriteBatch::default() }
    }

    /// P55.
    #[test]
    fn a_crash_keeps_what_was_synced_and_whole_batches_of_the_rest() {
        let mut store = MemoryLogStore::new();
        block_on(store.write(batch(1, 3, true))).unwrap();
        block_on(store.write(batch(3, 4, false))).unwrap();
        block_on(store.write(batch(7, 1, false))).unwrap();
        assert_eq!(store.unsynced(), 2);
        let mut after = store.crash(1);
        assert!(matches!(block_on(store.write(batch(8, 1, true))), Err(StorageError::Poisoned)));
        assert_eq!(block_on(after.recover()).unwrap().last.index, 6);
        let mut after = after.crash(0);
        assert_eq!(block_on(after.recover()).unwrap().last.index, 6, "nothing more to lose");
    }

    #[test]
    fn a_failed_write_is_final() {
        let mut store = MemoryLogStore::new();
        store.fail_next_write();
        assert!(block_on(store.write(batch(1, 1, true))).is_err());
        assert!(matches!(block_on(store.write(batch(1, 1, true))), Err(StorageError::Poisoned)));
    }

    /// P55.
    #[test]
    fn a_snapshot_that_is_being_read_is_not_changed_by_one_in_its_place() {
        use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let store = MemorySnapshotStore::new();
        let log_id = LogId { term: 1, index: 9 };
        let write = |bytes: &'static [u8]| async {
            let meta = SnapshotMeta { log_id, system: Bytes::new(), size_bytes: 0 };
            let mut sink = store.create(meta).await.unwrap();
            sink.write_all(bytes).await.unwrap();
            sink.commit().await.unwrap()
        };
        let read = |mut reader: ByteReader| async move {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).await.unwrap();
            read
        };
        block_on(async {
            let old = write(b"old").await;
            let reader = store.open(&old, 0).await.unwrap();
            let new = write(b"newer").await;
            let newer = store.open(&new, 0).await.unwrap();
            store.remove(&new).await.unwrap();
            assert_eq!(
                (&read(reader).await[..], &read(newer).await[..]),
                (&b"old"[..], &b"newer"[..])
            );
        });
    }
}

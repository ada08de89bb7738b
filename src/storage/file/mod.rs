//! The durable log: segments of records on a [`Files`], written and synced once a batch.
//!
//! `docs/formats.md` describes it to the byte. A record is one batch, all or nothing by its
//! checksum. Segments are prewritten, so that a sync needs to write no metadata, and recycled: the
//! number of the segment goes into the checksum, so what an earlier life of the file left behind
//! never counts.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

mod record;
mod recovery;
mod segment;
mod snapshot;
#[cfg(test)]
mod tests;

use self::segment::Begins;
pub use self::snapshot::FileSnapshotStore;
use super::{
    Base, Entry, HardState, Identity, LogReader, LogStore, Recovered, StorageError, WriteBatch,
};
use crate::id::LogId;
use crate::mutant::Mutant;
use crate::runtime::{FileId, FileOp, Files};

/// How a [`FileLogStore`] keeps its files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct FileStoreConfig {
    /// How large a segment is, in bytes. Default 64 MiB; 4 KiB to 1 GiB. A batch that is longer
    /// gets a segment of its own.
    pub segment_bytes: u64,
}

impl Default for FileStoreConfig {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

/// A log in files.
///
/// Every write is synced, whether it must be or not: a disk may keep a later write and lose an
/// earlier one, and then a crash could not be told from damage.
pub struct FileLogStore {
    files: Arc<dyn Files>,
    config: FileStoreConfig,
    shared: Arc<Shared>,
    facts: Facts,
    recovered: Option<Recovered>,
    current: Current,
    spare: Option<Spare>,
    /// Segments before the current one, oldest first.
    older: VecDeque<Older>,
    /// The number of the next record.
    sequence: u64,
    watermark: FileId,
    failed: bool,
}

/// What every new segment begins with, so that the ones before can go.
#[derive(Clone, Debug, Default)]
struct Facts {
    identity: Option<Identity>,
    base: Base,
    hard_state: HardState,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    number: u64,
    file: FileId,
    offset: u64,
    len: u64,
    last_index: u64,
}

/// A segment that is not written any more.
#[derive(Clone, Copy, Debug)]
struct Older {
    number: u64,
    len: u64,
    /// No entry behind this one is in it.
    last_index: u64,
}

/// The next segment; usable once it is filled.
#[derive(Clone, Debug)]
struct Spare {
    name: String,
    file: FileId,
    filled: u64,
}

struct Shared {
    files: Arc<dyn Files>,
    index: Mutex<Index>,
}

/// Where each entry is.
#[derive(Debug)]
struct Index {
    /// The index of the first place.
    start: u64,
    places: VecDeque<Place>,
    /// Open segments by number.
    segments: BTreeMap<u64, FileId>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    term: u64,
    segment: u64,
    offset: u64,
    len: u32,
    change: bool,
}

impl FileLogStore {
    /// Opens the log in a directory, and takes the directory for this process alone.
    ///
    /// # Errors
    ///
    /// [`StorageError::Busy`] if another process has it, [`StorageError::Corrupt`] if something in
    /// the middle is damaged or the end is missing. A torn last write is repaired.
    pub async fn open(
        files: Arc<dyn Files>,
        config: FileStoreConfig,
    ) -> Result<Self, StorageError> {
        if !(4096..=1 << 30).contains(&config.segment_bytes) {
            let wrong = io::Error::new(io::ErrorKind::InvalidInput, "segments: 4 KiB to 1 GiB");
            return Err(StorageError::io("opening the log")(wrong));
        }
        files.lock().await.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StorageError::Busy { place: format!("{files:?}") },
            _ => StorageError::io("locking the log's directory")(error),
        })?;
        recovery::open(files, config).await
    }

    /// Writes one record; says how long it is.
    async fn append(&mut self, batch: &WriteBatch) -> Result<u64, StorageError> {
        let record = record::encode(batch);
        if !self.fits(record.len()) {
            self.rotate(record.len()).await?;
        }
        let (at, number) = (self.current.offset, self.current.number);
        let framed = record::frame(&record, number, self.sequence);
        let len = framed.iter().map(Bytes::len).sum::<usize>() as u64;
        let file = self.current.file;
        let mark = vec![record::watermark(self.sequence)];
        let mut ops = vec![
            FileOp::Write { file, at, parts: framed },
            FileOp::SyncData { file },
            // Written after the sync, itself not synced: it may be old, but is never ahead.
            FileOp::Write { file: self.watermark, at: 0, parts: mark },
        ];
        if Mutant::SyncSkipped.is_planted() {
            ops.retain(|op| !matches!(op, FileOp::SyncData { .. }));
        }
        let done = self.files.run(ops).await.map_err(StorageError::io("writing the log"));
        if !Mutant::SyncErrorIgnored.is_planted() {
            done?;
        }
        self.index(batch, at, number);
        self.current.offset = at + len;
        self.sequence += 1;
        Ok(len)
    }

    fn fits(&self, payload: usize) -> bool {
        self.current.offset + record::framed_len(payload) <= self.current.len
    }

    /// Takes a durable batch into the index.
    fn index(&mut self, batch: &WriteBatch, record_at: u64, segment: u64) {
        self.facts.take(batch);
        self.shared.lock().take(batch, record_at, segment);
        self.current.take(batch);
        if batch.reset_to.is_some() {
            self.older.iter_mut().for_each(Older::forget);
        }
    }

    /// Fills a part of the next segment, so that no single write pays for all of it.
    async fn prepare(&mut self, bytes_max: u64) -> Result<(), StorageError> {
        if self.spare.is_none() {
            self.spare = Some(segment::new_spare(&*self.files, self.current.number + 1).await?);
        }
        let Some(spare) = &mut self.spare else { return Ok(()) };
        segment::fill(&*self.files, spare, self.config.segment_bytes, bytes_max).await
    }

    async fn rotate(&mut self, payload: usize) -> Result<(), StorageError> {
        self.prepare(u64::MAX).await?;
        let Some(spare) = self.spare.take() else { return Ok(()) };
        let number = self.current.number + 1;
        self.older.push_back(self.current.into_older());
        let last_index = self.shared.lock().last();
        let begins = Begins { sequence: self.sequence, last_index };
        let facts = self.facts.batch();
        let current = segment::begin(&*self.files, spare, number, begins, &facts).await?;
        self.sequence += 1;
        self.current = current;
        self.shared.lock().segments.insert(number, current.file);
        let needed = current.offset + record::framed_len(payload);
        if needed > self.current.len {
            segment::extend(&*self.files, &mut self.current, needed).await?;
        }
        Ok(())
    }

    /// Lets go of the oldest segments whose entries are all compacted; one becomes the next spare.
    async fn release(&mut self) -> Result<(), StorageError> {
        let base = self.facts.base.log_id.index;
        let mut ops = Vec::new();
        while let Some(&Older { number, len, last_index }) = self.older.front()
            && last_index <= base
        {
            self.older.pop_front();
            let Some(file) = self.shared.lock().segments.remove(&number) else { continue };
            let name = segment::name(number);
            if self.spare.is_none() && len == self.config.segment_bytes {
                let spare = segment::spare_name(self.current.number + 1);
                ops.push(FileOp::Rename { from: name, to: spare.clone() });
                self.spare = Some(Spare { name: spare, file, filled: len });
            } else {
                ops.push(FileOp::Remove { name });
                self.files.close(file);
            }
            // One at a time: a crash that undid only the first would leave a hole between segments,
            // and that is damage to whoever opens the log.
            ops.push(FileOp::SyncDir);
        }
        if ops.is_empty() {
            return Ok(());
        }
        self.files.run(ops).await.map_err(StorageError::io("releasing segments"))
    }

    async fn write_batch(&mut self, batch: WriteBatch) -> Result<(), StorageError> {
        let (base, last) = {
            let index = self.shared.lock();
            (index.start - 1, index.last())
        };
        batch.check(base, last)?;
        let len = self.append(&batch).await?;
        if batch.compact_to.is_some() || batch.reset_to.is_some() {
            self.release().await?;
        }
        let half_full = self.current.offset > self.current.len / 2;
        let ready = |spare: &Spare| spare.filled >= self.config.segment_bytes;
        if half_full && !self.spare.as_ref().is_some_and(ready) {
            // Half a segment is written while a whole one is filled.
            self.prepare((2 * len).max(FILL_BYTES_PER_WRITE)).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl LogStore for FileLogStore {
    async fn recover(&mut self) -> Result<Recovered, StorageError> {
        self.recovered.take().ok_or(StorageError::Poisoned)
    }

    async fn write(&mut self, batch: WriteBatch) -> Result<(), StorageError> {
        if self.failed {
            return Err(StorageError::Poisoned);
        }
        // Stays set if this future is dropped in the middle: what is on the disk is unknown then.
        self.failed = true;
        self.write_batch(batch).await?;
        self.failed = false;
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::clone(&self.shared) as _
    }
}

impl fmt::Debug for FileLogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileLogStore").field("files", &self.files).finish_non_exhaustive()
    }
}

#[async_trait]
impl LogReader for Shared {
    async fn read(&self, indexes: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>, StorageError> {
        let places = self.lock().places(indexes, bytes_max)?;
        let mut entries = Vec::with_capacity(places.len());
        for run in places.chunk_by(|(_, _, a), (_, _, b)| {
            a.segment == b.segment && b.offset - a.end() <= READ_GAP_BYTES
        }) {
            let (Some((index, file, first)), Some((_, _, last))) = (run.first(), run.last()) else {
                continue;
            };
            let len = usize::try_from(last.end() - first.offset);
            let len = len.expect("a run of entries fits memory");
            let read = self.files.read(*file, first.offset, len).await;
            let bytes = read.map_err(|error| {
                self.gone(*index, first)
                    .unwrap_or_else(|| StorageError::io("reading the log")(error))
            })?;
            for (index, _, place) in run {
                let from = usize::try_from(place.offset - first.offset).unwrap_or(usize::MAX);
                entries.push(self.decode(*index, place, &bytes, from)?);
            }
        }
        Ok(entries)
    }
}

impl Shared {
    fn decode(
        &self,
        index: u64,
        place: &Place,
        bytes: &Bytes,
        from: usize,
    ) -> Result<Entry, StorageError> {
        let end = from.saturating_add(place.len as usize);
        let entry = (end <= bytes.len()).then(|| bytes.slice(from..end)).and_then(record::entry);
        let expected = LogId { term: place.term, index };
        let damaged = || StorageError::Corrupt {
            place: segment::name(place.segment),
            offset: place.offset,
            what: format!("entry {expected} fails its checksum"),
        };
        entry
            .filter(|entry| entry.log_id == expected)
            .ok_or_else(|| self.gone(index, place).unwrap_or_else(damaged))
    }

    /// Why a place cannot be read, if a write has compacted or replaced what was there: its
    /// segment may be gone, or have other bytes by now.
    fn gone(&self, index: u64, place: &Place) -> Option<StorageError> {
        let now = self.lock();
        let at = index.checked_sub(now.start).and_then(|at| usize::try_from(at).ok());
        let same = at.and_then(|at| now.places.get(at)) == Some(place);
        (!same).then_some(StorageError::Compacted { first: now.start })
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        // No code of others runs under the lock, so a poisoned one still holds a whole value.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    fn take(&mut self, batch: &WriteBatch) {
        self.identity = batch.identity.or(self.identity);
        for base in [&batch.reset_to, &batch.compact_to].into_iter().flatten() {
            self.base = base.clone();
        }
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
    }

    fn batch(&self) -> WriteBatch {
        WriteBatch {
            identity: self.identity,
            compact_to: Some(self.base.clone()),
            hard_state: Some(self.hard_state),
            sync: true,
            ..WriteBatch::default()
        }
    }
}

impl Current {
    fn take(&mut self, batch: &WriteBatch) {
        if batch.reset_to.is_some() {
            self.last_index = 0;
        }
        if let Some(last) = batch.entries.last() {
            self.last_index = self.last_index.max(last.log_id.index);
        }
    }

    fn into_older(self) -> Older {
        Older { number: self.number, len: self.len, last_index: self.last_index }
    }
}

impl Older {
    /// What was written before a reset counts no more.
    fn forget(&mut self) {
        self.last_index = 0;
    }
}

impl Place {
    fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

impl Default for Index {
    fn default() -> Self {
        Self { start: 1, places: VecDeque::new(), segments: BTreeMap::new() }
    }
}

impl Index {
    /// Takes in a batch that was checked to fit.
    fn take(&mut self, batch: &WriteBatch, record_at: u64, segment: u64) {
        if let Some(base) = &batch.reset_to {
            self.places.clear();
            self.start = base.log_id.index + 1;
        }
        if let Some(base) = &batch.compact_to {
            let gone = usize::try_from(base.log_id.index + 1 - self.start).unwrap_or(usize::MAX);
            self.places.drain(..gone.min(self.places.len()));
            self.start = base.log_id.index + 1;
        }
        let Some(first) = batch.entries.first() else { return };
        let kept = first.log_id.index - self.start;
        self.places.truncate(usize::try_from(kept).expect("at most the places there are"));
        for (offset, entry) in record::entry_offsets(batch, record_at) {
            let len = u32::try_from(record::entry_len(entry)).expect("entries are far below 4 GiB");
            let (term, change) = (entry.log_id.term, entry.is_change());
            self.places.push_back(Place { term, segment, offset, len, change });
        }
    }

    /// The index of the last place, or of what is before the first.
    fn last(&self) -> u64 {
        self.start - 1 + self.places.len() as u64
    }

    fn places(
        &self,
        indexes: Range<u64>,
        bytes_max: u64,
    ) -> Result<Vec<(u64, FileId, Place)>, StorageError> {
        if indexes.start < self.start {
            return Err(StorageError::Compacted { first: self.start });
        }
        let mut bytes = 0;
        let mut found = Vec::new();
        let skip = usize::try_from(indexes.start - self.start).unwrap_or(usize::MAX);
        for (index, place) in indexes.zip(self.places.iter().skip(skip)) {
            bytes += u64::from(place.len) - record::ENTRY_HEAD as u64;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            let file = self.segments.get(&place.segment).copied();
            found.push((index, file.expect("a place is in an open segment"), *place));
        }
        Ok(found)
    }
}

/// How much of the next segment one write fills at least, once the current one is half full.
const FILL_BYTES_PER_WRITE: u64 = 256 << 10;
/// How far apart entries may be to be read in one piece.
const READ_GAP_BYTES: u64 = 4 << 10;

//! Reading a log again: what is whole is taken, a torn end is dropped, everything else that is
//! wrong is refused.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::segment::Header;
use super::{
    Begins, Current, Facts, FileLogStore, FileStoreConfig, Index, Older, Place, Shared, record,
    segment,
};
use crate::id::LogId;
use crate::mutant::Mutant;
use crate::runtime::{FileId, FileOp, Files, OpenMode};
use crate::storage::{LogReader as _, Recovered, StorageError, WriteBatch};

/// What is found while the segments are read, oldest first. Nothing is changed on the disk before
/// all of it has been judged.
#[derive(Default)]
struct Found {
    facts: Facts,
    index: Index,
    older: VecDeque<Older>,
    current: Option<Current>,
    /// The number of the next record; `None` before the first.
    sequence: Option<u64>,
    /// The last record, where it is, and how much of a torn one stands behind it.
    last_record: (u64, Bytes),
    dropped_bytes: u64,
    /// A segment that a crash kept from being begun: nothing in it was ever acknowledged.
    unbegun: Option<u64>,
}

pub(super) async fn open(
    files: Arc<dyn Files>,
    config: FileStoreConfig,
) -> Result<FileLogStore, StorageError> {
    let listed = files.list().await.map_err(StorageError::io("listing the log"))?;
    let mut numbers: Vec<u64> =
        listed.iter().filter_map(|(name, _)| segment::parse_name(name)).collect();
    numbers.sort_unstable();
    let mut found = Found::default();
    for (at, &number) in numbers.iter().enumerate() {
        let last = at + 1 == numbers.len();
        found.read(&*files, number, last).await?;
    }
    let sequence = found.sequence.unwrap_or(1);
    if read_watermark(&*files).await?.is_some_and(|mark| mark >= sequence) {
        let (number, offset) = found.end();
        let what = "the end of the log is missing: it was synced further than this";
        return Err(corrupt(number, offset, what));
    }
    let recovered = found.finish()?;
    found.repair(&*files, &listed).await?;
    let watermark = open_or_create(&*files, WATERMARK_NAME).await;
    let watermark = watermark.map_err(StorageError::io("opening the watermark"))?;
    let Found { facts, index, older, current, .. } = found;
    let shared = Arc::new(Shared { files: Arc::clone(&files), index: Mutex::new(index) });
    let nothing = Current { number: 0, file: FileId(0), offset: 0, len: 0, last_index: 0 };
    let mut store = FileLogStore {
        files,
        config,
        shared,
        facts,
        recovered: None,
        current: current.unwrap_or(nothing),
        spare: None,
        older,
        sequence,
        watermark,
        failed: false,
    };
    if current.is_none() {
        store.begin_first().await?;
    }
    store.recovered = Some(store.with_changes(recovered).await?);
    Ok(store)
}

impl FileLogStore {
    async fn begin_first(&mut self) -> Result<(), StorageError> {
        self.prepare(u64::MAX).await?;
        let Some(spare) = self.spare.take() else { return Ok(()) };
        let begins = Begins { sequence: self.sequence, last_index: 0 };
        let facts = self.facts.batch();
        self.current = segment::begin(&*self.files, spare, 1, begins, &facts).await?;
        self.sequence += 1;
        self.shared.lock().segments.insert(1, self.current.file);
        Ok(())
    }

    async fn with_changes(&self, mut recovered: Recovered) -> Result<Recovered, StorageError> {
        let places: Vec<u64> = {
            let index = self.shared.lock();
            let places = (index.start..).zip(&index.places);
            places.filter(|(_, place)| place.change).map(|(index, _)| index).collect()
        };
        for index in places {
            recovered.changes.extend(self.shared.read(index..index + 1, 0).await?);
        }
        Ok(recovered)
    }
}

impl Found {
    async fn read(
        &mut self,
        files: &dyn Files,
        number: u64,
        last: bool,
    ) -> Result<(), StorageError> {
        let file = files.open(&segment::name(number), OpenMode::Write).await;
        let file = file.map_err(StorageError::io("opening a segment"))?;
        let bytes = read_all(files, file).await.map_err(StorageError::io("reading a segment"))?;
        let begins = match segment::read_header(&bytes, number) {
            Header::Begins(begins) => Some(begins),
            Header::Torn => None,
            Header::Version(version) => {
                let what = format!("version {version} of the format is not known");
                return Err(corrupt(number, 0, &what));
            }
        };
        // Header and first record are one write: without the record the facts are not restated, and
        // the segment may not go on.
        let begun = |begins: &Begins| {
            let first = record::read(&bytes, number, segment::HEADER_LEN);
            first.is_some_and(|(sequence, _)| sequence == begins.sequence)
        };
        let Some(begins) = begins.filter(begun) else {
            files.close(file);
            return self.take_unbegun(&bytes, number, last);
        };
        if self.sequence.is_some_and(|expected| expected != begins.sequence) {
            let (before, offset) = self.end();
            return Err(corrupt(before, offset, "records before the next segment are missing"));
        }
        // It was followed by another, so its end is no torn write.
        self.dropped_bytes = 0;
        self.older.extend(self.current.take().map(Current::into_older));
        self.index.segments.insert(number, file);
        let len = bytes.len() as u64;
        self.current = Some(Current { number, file, offset: 0, len, last_index: 0 });
        self.replay(&bytes, number, begins)
    }

    /// A segment without header or first record. They are synced before anything follows them, and
    /// before anything older goes: so either they were being written, and nothing is lost, or this
    /// is damage.
    fn take_unbegun(&mut self, bytes: &Bytes, number: u64, last: bool) -> Result<(), StorageError> {
        let expected = self.sequence.unwrap_or(1);
        let written = record::find(bytes, number, segment::HEADER_LEN, expected).is_some();
        let follows = number == 1 || self.current.is_some();
        if written || !last || !follows {
            return Err(corrupt(number, 0, "the beginning of the segment is damaged"));
        }
        self.unbegun = Some(number);
        Ok(())
    }

    fn replay(&mut self, bytes: &Bytes, number: u64, begins: Begins) -> Result<(), StorageError> {
        let mut expected = begins.sequence;
        let mut at = segment::HEADER_LEN;
        let mut from = 0;
        while let Some((sequence, payload)) = record::read(bytes, number, at) {
            if sequence != expected {
                return Err(corrupt(number, at as u64, "a record is out of order"));
            }
            let len = usize::try_from(record::framed_len(payload.len()));
            let len = len.expect("a segment fits memory");
            let Some(batch) = record::decode(payload) else {
                return Err(corrupt(number, at as u64, "a sound record says nothing sensible"));
            };
            self.take(&batch, at as u64, number)?;
            if expected == begins.sequence && self.older.is_empty() {
                self.index.miss_until(begins.last_index);
            }
            if expected > begins.sequence {
                from = at;
            }
            expected += 1;
            at += len;
        }
        if let Some((_, sequence)) = record::find(bytes, number, at, expected) {
            let what = format!(
                "record {expected} is damaged, but record {sequence} behind it is whole; \
                 restore this server's files, or remove it from the cluster and let it join \
                 again as a new one"
            );
            return Err(corrupt(number, at as u64, &what));
        }
        self.sequence = Some(expected);
        // The file may end within the padding of the last record.
        self.last_record = (from as u64, bytes.slice(from..at.min(bytes.len())));
        if let Some(current) = &mut self.current {
            current.offset = at as u64;
        }
        if let Some((sequence, len)) = record::claim(bytes, at)
            && sequence == expected
        {
            self.dropped_bytes = len.min((bytes.len() - at) as u64);
        }
        Ok(())
    }

    fn take(&mut self, batch: &WriteBatch, at: u64, number: u64) -> Result<(), StorageError> {
        let fits = batch.check(self.index.start - 1, self.index.last());
        fits.map_err(|_| corrupt(number, at, "a record does not follow on those before it"))?;
        self.facts.take(batch);
        self.index.take(batch, at, number);
        if let Some(current) = &mut self.current {
            current.take(batch);
        }
        if batch.reset_to.is_some() {
            self.older.iter_mut().for_each(Older::forget);
        }
        Ok(())
    }

    /// Where the log ends: segment and offset.
    fn end(&self) -> (u64, u64) {
        self.current.map_or((1, 0), |current| (current.number, current.offset))
    }

    /// Checks that what was found is one log without a hole.
    fn finish(&self) -> Result<Recovered, StorageError> {
        let first = self.index.start;
        if let Some(at) = self.index.places.iter().position(|place| place.segment == NOWHERE) {
            let what = format!("entry {} was in a segment that is missing", first + at as u64);
            return Err(corrupt(self.end().0, 0, &what));
        }
        let mut terms: Vec<LogId> = Vec::new();
        for (index, place) in (first..).zip(&self.index.places) {
            if terms.last().is_none_or(|run| run.term != place.term) {
                terms.push(LogId { term: place.term, index });
            }
        }
        let base = self.facts.base.clone();
        let last = self.index.places.back();
        let last =
            last.map_or(base.log_id, |place| LogId { term: place.term, index: self.index.last() });
        Ok(Recovered {
            identity: self.facts.identity,
            base,
            hard_state: self.facts.hard_state,
            last,
            terms,
            changes: Vec::new(),
            dropped_bytes: self.dropped_bytes,
        })
    }

    /// Makes durable what was found, before anybody relies on it, and removes the rest.
    ///
    /// The last record may have been written by a process that ended, or failed, before its sync:
    /// it can be read, but is not on the disk, and after a failure no sync would write it. So it is
    /// written again. Only the last one can be so.
    async fn repair(
        &mut self,
        files: &dyn Files,
        listed: &[(String, u64)],
    ) -> Result<(), StorageError> {
        let mut ops = Vec::new();
        if let Some(Current { file, .. }) = self.current
            && !Mutant::FoundNotRewritten.is_planted()
        {
            let (at, record) = std::mem::take(&mut self.last_record);
            let torn = usize::try_from(self.dropped_bytes).expect("a segment fits memory");
            ops.push(FileOp::Write { file, at, parts: vec![record, vec![0; torn].into()] });
            ops.push(FileOp::SyncData { file });
        }
        let spares = listed.iter().map(|(name, _)| name).filter(|name| name.starts_with("spare-"));
        let unbegun = self.unbegun.map(segment::name);
        ops.extend(spares.cloned().chain(unbegun).map(|name| FileOp::Remove { name }));
        ops.push(FileOp::SyncDir);
        files.run(ops).await.map_err(StorageError::io("repairing the log"))
    }
}

impl Index {
    /// Takes the entries up to `last` for missing until something says that they are not needed:
    /// they were in segments before the first that is left.
    fn miss_until(&mut self, last: u64) {
        let missing = Place { term: 0, segment: NOWHERE, offset: 0, len: 0, change: false };
        let count = (last + 1).saturating_sub(self.start);
        self.places.extend((0..count).map(|_| missing));
    }
}

async fn read_watermark(files: &dyn Files) -> Result<Option<u64>, StorageError> {
    let failed = StorageError::io("reading the watermark");
    let file = match files.open(WATERMARK_NAME, OpenMode::Read).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(StorageError::io("opening the watermark"))?,
    };
    let bytes = files.read(file, 0, record::WATERMARK_LEN).await;
    files.close(file);
    Ok(record::read_watermark(bytes.map_err(failed)?))
}

async fn open_or_create(files: &dyn Files, name: &str) -> io::Result<FileId> {
    match files.open(name, OpenMode::Write).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files.open(name, OpenMode::Create).await
        }
        opened => opened,
    }
}

async fn read_all(files: &dyn Files, file: FileId) -> io::Result<Bytes> {
    let mut all = Vec::new();
    loop {
        let chunk = files.read(file, all.len() as u64, READ_BYTES).await?;
        if chunk.is_empty() {
            return Ok(all.into());
        }
        all.extend_from_slice(&chunk);
    }
}

fn corrupt(segment: u64, offset: u64, what: &str) -> StorageError {
    StorageError::Corrupt { place: segment::name(segment), offset, what: what.to_owned() }
}

const WATERMARK_NAME: &str = "watermark";
const READ_BYTES: usize = 4 << 20;
/// The segment of an entry whose segment is not there; numbers begin at 1.
const NOWHERE: u64 = 0;

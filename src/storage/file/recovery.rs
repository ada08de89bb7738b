//! Reading a log again: what is whole is taken, a torn end is dropped, everything else that is
//! wrong is refused.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::segment::Header;
use super::{Current, Facts, FileLogStore, FileStoreConfig, Index, Shared, record, segment};
use crate::id::LogId;
use crate::runtime::{FileId, FileOp, Files, OpenMode};
use crate::storage::{LogReader as _, Recovered, StorageError, WriteBatch};

/// What is found while the segments are read, oldest first.
#[derive(Default)]
struct Found {
    facts: Facts,
    index: Index,
    older: VecDeque<(u64, u64)>,
    current: Option<Current>,
    /// The number of the next record; `None` before the first.
    sequence: Option<u64>,
    dropped_bytes: u64,
}

pub(super) async fn open(
    files: Arc<dyn Files>,
    config: FileStoreConfig,
) -> Result<FileLogStore, StorageError> {
    let listed = files.list().await.map_err(StorageError::io("listing the log"))?;
    let mut numbers: Vec<u64> =
        listed.iter().filter_map(|(name, _)| segment::parse_name(name)).collect();
    numbers.sort_unstable();
    remove_spares(&*files, &listed).await?;
    let mut found = Found::default();
    for (at, &number) in numbers.iter().enumerate() {
        let last = at + 1 == numbers.len();
        found.read(&*files, number, last).await?;
    }
    let (watermark, mark) = open_watermark(&*files).await?;
    let sequence = found.sequence.unwrap_or(1);
    if mark.is_some_and(|mark| mark >= sequence) {
        let last = numbers.last().copied().unwrap_or_default();
        return Err(corrupt(
            last,
            0,
            "the end of the log is missing: it was synced further than this",
        ));
    }
    let recovered = found.finish()?;
    let Found { facts, index, older, current, .. } = found;
    let shared = Arc::new(Shared { files: Arc::clone(&files), index: Mutex::new(index) });
    let mut store = FileLogStore {
        files,
        config,
        shared,
        facts,
        recovered: None,
        current: Current { number: 0, file: FileId(0), offset: 0, len: 0, last_index: 0 },
        spare: None,
        older,
        sequence,
        watermark,
        failed: false,
    };
    match current {
        Some(current) => store.current = current,
        None => store.begin_first(numbers.last().copied()).await?,
    }
    store.recovered = Some(store.with_changes(recovered).await?);
    Ok(store)
}

impl FileLogStore {
    /// The first segment; whatever a crash left of one before it was begun is written over.
    async fn begin_first(&mut self, torn: Option<u64>) -> Result<(), StorageError> {
        self.current.number = torn.unwrap_or(1) - 1;
        self.prepare(u64::MAX).await?;
        let Some(spare) = self.spare.take() else { return Ok(()) };
        let (number, facts) = (self.current.number + 1, WriteBatch::default());
        let begun = segment::begin(&*self.files, spare, number, self.sequence, &facts).await?;
        (self.current, self.sequence) = begun;
        self.shared.lock().segments.insert(number, self.current.file);
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
        let name = segment::name(number);
        let file = files.open(&name, OpenMode::Write).await;
        let file = file.map_err(StorageError::io("opening a segment"))?;
        let bytes = read_all(files, file).await.map_err(StorageError::io("reading a segment"))?;
        let first = match segment::read_header(&bytes, number) {
            Header::Begins(first) => first,
            Header::Version(version) => {
                let what = format!("version {version} of the format is not known");
                return Err(corrupt(number, 0, &what));
            }
            Header::Torn if last => return self.drop_unbegun(files, number, file).await,
            Header::Torn => return Err(corrupt(number, 0, "the segment's header is damaged")),
        };
        if self.sequence.is_some_and(|expected| expected != first) {
            let before = self.current.map_or(number, |current| current.number);
            let offset = self.current.map_or(0, |current| current.offset);
            return Err(corrupt(before, offset, "records before the next segment are missing"));
        }
        if let Some(before) = self.current.take() {
            self.older.push_back((before.number, before.last_index));
        }
        self.index.segments.insert(number, file);
        let len = bytes.len() as u64;
        self.current = Some(Current { number, file, offset: 0, len, last_index: 0 });
        self.replay(&bytes, number, first)
    }

    /// A segment that a crash kept from being begun: nothing in it was ever acknowledged.
    async fn drop_unbegun(
        &mut self,
        files: &dyn Files,
        number: u64,
        file: FileId,
    ) -> Result<(), StorageError> {
        files.close(file);
        let ops = vec![FileOp::Remove { name: segment::name(number) }, FileOp::SyncDir];
        files.run(ops).await.map_err(StorageError::io("removing a torn segment"))
    }

    fn replay(&mut self, bytes: &Bytes, number: u64, first: u64) -> Result<(), StorageError> {
        let mut expected = first;
        let mut at = segment::HEADER_LEN;
        let mut last_index = 0;
        while let Some((sequence, payload)) = record::read(bytes, number, at) {
            if sequence != expected {
                return Err(corrupt(number, at as u64, "a record is out of order"));
            }
            let len = record::framed_len(payload.len());
            let Some(batch) = record::decode(payload) else {
                return Err(corrupt(number, at as u64, "a sound record says nothing sensible"));
            };
            self.facts.take(&batch);
            self.index.take(&batch, at as u64, number);
            last_index =
                batch.entries.last().map_or(last_index, |e| last_index.max(e.log_id.index));
            expected += 1;
            at += usize::try_from(len).expect("a segment fits memory");
        }
        self.look_ahead(bytes, number, at, expected)?;
        self.sequence = Some(expected);
        if let Some(current) = &mut self.current {
            current.offset = at as u64;
            current.last_index = last_index;
        }
        if let Some((sequence, len)) = record::claim(bytes, at)
            && sequence == expected
        {
            self.dropped_bytes = len;
        }
        Ok(())
    }

    /// A sound record behind a bad one: the bad one was acknowledged, so this is damage and no torn
    /// end.
    fn look_ahead(
        &self,
        bytes: &Bytes,
        number: u64,
        from: usize,
        expected: u64,
    ) -> Result<(), StorageError> {
        let mut at = from + record::ALIGNMENT;
        while at + record::RECORD_HEAD <= bytes.len() {
            if let Some((sequence, _)) = record::claim(bytes, at)
                && (expected + 1..expected + SEQUENCES_AHEAD).contains(&sequence)
                && record::read(bytes, number, at).is_some()
            {
                let what = format!(
                    "record {expected} is damaged, but record {sequence} behind it is whole; \
                     restore this server's files, or remove it from the cluster and let it join \
                     again as a new one"
                );
                return Err(corrupt(number, from as u64, &what));
            }
            at += record::ALIGNMENT;
        }
        Ok(())
    }

    /// Checks that what was found is one log without a hole.
    fn finish(&mut self) -> Result<Recovered, StorageError> {
        let base = self.facts.base.clone();
        let first = base.log_id.index + 1;
        while self.index.start < first && self.index.places.pop_front().is_some() {
            self.index.start += 1;
        }
        if self.index.places.is_empty() {
            self.index.start = first;
        }
        if self.index.start != first {
            let what = format!("entries {first} to {} are missing", self.index.start - 1);
            return Err(corrupt(self.current.map_or(0, |current| current.number), 0, &what));
        }
        let mut terms: Vec<LogId> = Vec::new();
        for (index, place) in (first..).zip(&self.index.places) {
            if terms.last().is_none_or(|run| run.term != place.term) {
                terms.push(LogId { term: place.term, index });
            }
        }
        let count = self.index.places.len() as u64;
        let last = self.index.places.back();
        let last =
            last.map_or(base.log_id, |place| LogId { term: place.term, index: first + count - 1 });
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
}

async fn remove_spares(files: &dyn Files, listed: &[(String, u64)]) -> Result<(), StorageError> {
    let spares = listed.iter().filter(|(name, _)| name.starts_with("spare-"));
    let mut ops: Vec<_> = spares.map(|(name, _)| FileOp::Remove { name: name.clone() }).collect();
    if ops.is_empty() {
        return Ok(());
    }
    ops.push(FileOp::SyncDir);
    files.run(ops).await.map_err(StorageError::io("removing spare segments"))
}

async fn open_watermark(files: &dyn Files) -> Result<(FileId, Option<u64>), StorageError> {
    let opened = match files.open(WATERMARK_NAME, OpenMode::Write).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            files.open(WATERMARK_NAME, OpenMode::Create).await
        }
        opened => opened,
    };
    let file = opened.map_err(StorageError::io("opening the watermark"))?;
    let bytes = files.read(file, 0, record::WATERMARK_LEN).await;
    let bytes = bytes.map_err(StorageError::io("reading the watermark"))?;
    Ok((file, record::read_watermark(bytes)))
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
/// A record further ahead than this is taken for chance.
const SEQUENCES_AHEAD: u64 = 1 << 32;

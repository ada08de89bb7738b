//! A log as one writes it in an hour: records one behind the other, lengths of two bytes, no
//! checksum, no lock, nothing ever taken away.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use kontiki::conformance::log_store::CASES;
use kontiki::conformance::{LogOnDisk, LogStoreFixture};
use kontiki::runtime::{FileId, FileOp, Files, OpenMode};
use kontiki::storage::{
    Entry, HardState, LogReader, LogStore, Recovered, StorageError, WriteBatch,
};

struct NaiveLog {
    files: Arc<dyn Files>,
    file: FileId,
    end: u64,
    entries: BTreeMap<u64, Entry>,
    hard_state: HardState,
}

impl NaiveLog {
    async fn open(files: Arc<dyn Files>) -> io::Result<Self> {
        let file = match files.open("log", OpenMode::Write).await {
            Ok(file) => file,
            Err(_) => files.open("log", OpenMode::Create).await?,
        };
        let bytes = files.read(file, 0, 64 << 20).await?;
        let (end, entries) = (bytes.len() as u64, BTreeMap::new());
        let mut log = Self { files, file, end, entries, hard_state: HardState::default() };
        log.replay(bytes);
        Ok(log)
    }

    /// Takes what it can make sense of.
    fn replay(&mut self, mut bytes: Bytes) {
        while bytes.len() > 2 {
            let len = usize::from(bytes.get_u16_le()).min(bytes.len());
            let record = bytes.split_to(len);
            if let Ok(hard_state) = HardState::decode(&record) {
                self.hard_state = hard_state;
            } else if let Ok(entry) = Entry::decode(record) {
                self.entries.insert(entry.log_id().index, entry);
            }
        }
    }
}

#[async_trait]
impl LogStore for NaiveLog {
    async fn recover(&mut self) -> Result<Recovered, StorageError> {
        let last = self.entries.values().next_back().map(Entry::log_id).unwrap_or_default();
        let mut terms = Vec::new();
        terms.extend(self.entries.values().next().map(Entry::log_id));
        Ok(Recovered { hard_state: self.hard_state, last, terms, ..Recovered::default() })
    }

    async fn write(&mut self, batch: WriteBatch) -> Result<(), StorageError> {
        let mut records: Vec<Bytes> = batch.entries.iter().map(Entry::encode).collect();
        records.extend(batch.hard_state.map(|state| Bytes::copy_from_slice(&state.encode())));
        for record in records {
            let parts = [Bytes::copy_from_slice(&(record.len() as u16).to_le_bytes()), record];
            let bytes: Bytes = parts.concat().into();
            let (len, file) = (bytes.len() as u64, self.file);
            let write = FileOp::Write { file, at: self.end, parts: vec![bytes.clone()] };
            let written = self.files.run(vec![write, FileOp::SyncData { file }]).await;
            written.map_err(StorageError::io("writing"))?;
            self.end += len;
            self.replay(bytes);
        }
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(Copied(self.entries.clone()))
    }
}

/// What was there when the reader was made.
struct Copied(BTreeMap<u64, Entry>);

#[async_trait]
impl LogReader for Copied {
    async fn read(&self, indexes: Range<u64>, _: u64) -> Result<Vec<Entry>, StorageError> {
        Ok(self.0.range(indexes).map(|(_, entry)| entry.clone()).collect())
    }
}

#[test]
fn a_naive_log_breaks_most_promises() {
    let fixture = || {
        let open = |files| async move {
            let log = NaiveLog::open(files).await.map_err(StorageError::io("opening"))?;
            Ok(Box::new(log) as Box<dyn LogStore>)
        };
        Arc::new(LogOnDisk::new(move |files| Box::pin(open(files)))) as Arc<dyn LogStoreFixture>
    };
    let kept = CASES.iter().filter(|case| case.check(&fixture()).is_ok());
    let kept: Vec<&str> = kept.map(|case| case.name()).collect();
    // Where these can be broken is shown elsewhere.
    let wanted =
        ["a_new_store_is_empty", "the_last_hard_state_counts", "a_read_does_not_wait_for_a_write"];
    assert_eq!(kept, wanted);
}

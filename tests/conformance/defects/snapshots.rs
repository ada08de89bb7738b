//! Snapshot stores with a defect.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncWrite, Cursor};
use kontiki::LogId;
use kontiki::conformance::snapshot_store::CASES;
use kontiki::conformance::{SnapshotStoreFixture, SnapshotsOnDisk};
use kontiki::runtime::{ByteReader, FileOp, Files, OpenMode};
use kontiki::storage::{
    FileSnapshotStore, SnapshotMeta, SnapshotSink, SnapshotStore, StorageError,
};

use super::breaks;
use super::logs::{Lax, LaxHow};

fn lax(how: LaxHow) -> Arc<dyn SnapshotStoreFixture> {
    Arc::new(SnapshotsOnDisk::new(move |files| {
        Box::pin(async move {
            let files = Arc::new(Lax { files, how });
            Ok(Arc::new(FileSnapshotStore::open(files).await?) as Arc<dyn SnapshotStore>)
        })
    }))
}

#[test]
fn a_store_that_skips_a_sync() {
    for how in [LaxHow::SkipsData, LaxHow::SkipsNames] {
        let names = [
            ("a_commit_makes_it_visible_and_durable", ""),
            ("a_crash_at_any_step_leaves_whole_snapshots", ""),
        ];
        breaks(CASES, || lax(how), &names);
    }
}

#[test]
fn a_store_that_hides_what_fails() {
    let names = [("a_failing_disk_loses_nothing_that_was_committed", "")];
    breaks(CASES, || lax(LaxHow::HidesErrors), &names);
}

/// What one writes in an hour: a file for each snapshot, named by its place, and that is all.
struct Naive(Arc<dyn Files>);

impl fmt::Debug for Naive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Naive")
    }
}

struct NaiveSink {
    files: Arc<dyn Files>,
    meta: SnapshotMeta,
    bytes: Vec<u8>,
}

fn name(meta: &SnapshotMeta) -> String {
    format!("{}-{}", meta.log_id.term, meta.log_id.index)
}

async fn read(files: &dyn Files, name: &str) -> io::Result<Bytes> {
    let file = files.open(name, OpenMode::Read).await?;
    files.read(file, 0, 1 << 30).await
}

#[async_trait]
impl SnapshotStore for Naive {
    async fn create(&self, meta: SnapshotMeta) -> Result<Box<dyn SnapshotSink>, StorageError> {
        let made = self.0.open(&name(&meta), OpenMode::Create).await;
        made.map_err(StorageError::io("making"))?;
        Ok(Box::new(NaiveSink { files: Arc::clone(&self.0), meta, bytes: Vec::new() }))
    }

    async fn list(&self) -> Result<Vec<SnapshotMeta>, StorageError> {
        let listed = self.0.list().await.map_err(StorageError::io("listing"))?;
        let meta = |(name, len): (String, u64)| {
            let (term, index) = name.split_once('-')?;
            let log_id = LogId { term: term.parse().ok()?, index: index.parse().ok()? };
            Some(SnapshotMeta { log_id, system: Bytes::new(), size_bytes: len })
        };
        Ok(listed.into_iter().filter_map(meta).collect())
    }

    async fn open(&self, meta: &SnapshotMeta, from: u64) -> Result<ByteReader, StorageError> {
        let bytes = read(&*self.0, &name(meta)).await.map_err(StorageError::io("reading"))?;
        let _ = from;
        Ok(Box::pin(Cursor::new(bytes)))
    }

    async fn remove(&self, meta: &SnapshotMeta) -> Result<(), StorageError> {
        let removed = self.0.run(vec![FileOp::Remove { name: name(meta) }]).await;
        removed.map_err(StorageError::io("removing"))
    }
}

#[async_trait]
impl SnapshotSink for NaiveSink {
    async fn commit(self: Box<Self>) -> Result<SnapshotMeta, StorageError> {
        let file = self.files.open(&name(&self.meta), OpenMode::Write).await;
        let file = file.map_err(StorageError::io("opening"))?;
        let write = FileOp::Write { file, at: 0, parts: vec![Bytes::from(self.bytes)] };
        let ops = vec![write, FileOp::SyncData { file }, FileOp::SyncDir];
        self.files.run(ops).await.map_err(StorageError::io("writing"))?;
        Ok(self.meta)
    }
}

impl AsyncWrite for NaiveSink {
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

#[test]
fn a_naive_store_breaks_most_promises() {
    let fixture = || {
        let open = |files: Arc<dyn Files>| async move {
            Ok(Arc::new(Naive(files)) as Arc<dyn SnapshotStore>)
        };
        let store = SnapshotsOnDisk::new(move |files| Box::pin(open(files)));
        Arc::new(store) as Arc<dyn SnapshotStoreFixture>
    };
    let kept = CASES.iter().filter(|case| case.check(&fixture()).is_ok());
    let kept: Vec<&str> = kept.map(|case| case.name()).collect();
    assert_eq!(kept, ["a_new_store_lists_nothing"]);
}

//! Log stores with a defect.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kontiki::conformance::log_store::CASES;
use kontiki::conformance::{Fixture, LogOnDisk, LogStoreFixture};
use kontiki::runtime::{FileId, FileOp, Files, OpenMode};
use kontiki::storage::{
    Entry, FileLogStore, FileStoreConfig, HardState, Identity, LogReader, LogStore, MemoryLogStore,
    Recovered, StorageError, WriteBatch,
};
use kontiki::{ClusterId, GroupId};

use super::{breaks, breaks_only};

/// A disk that leaves something out.
#[derive(Debug)]
pub(super) struct Lax {
    pub(super) files: Arc<dyn Files>,
    pub(super) how: LaxHow,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum LaxHow {
    HidesErrors,
    SkipsData,
    SkipsNames,
}

#[async_trait]
impl Files for Lax {
    async fn lock(&self) -> io::Result<()> {
        self.files.lock().await
    }

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.files.list().await
    }

    async fn open(&self, name: &str, mode: OpenMode) -> io::Result<FileId> {
        self.files.open(name, mode).await
    }

    async fn run(&self, mut ops: Vec<FileOp>) -> io::Result<()> {
        match self.how {
            LaxHow::HidesErrors => {
                let _ = self.files.run(ops).await;
                return Ok(());
            }
            LaxHow::SkipsData => ops.retain(|op| !matches!(op, FileOp::SyncData { .. })),
            LaxHow::SkipsNames => ops.retain(|op| !matches!(op, FileOp::SyncDir)),
        }
        self.files.run(ops).await
    }

    async fn read(&self, file: FileId, at: u64, len: usize) -> io::Result<Bytes> {
        self.files.read(file, at, len).await
    }

    fn close(&self, file: FileId) {
        self.files.close(file);
    }
}

/// The log in files, each opening changed by `change`.
fn on_disk(
    lax: Option<LaxHow>,
    change: fn(FileLogStore) -> Box<dyn LogStore>,
) -> Arc<dyn LogStoreFixture> {
    Arc::new(LogOnDisk::new(move |files| {
        Box::pin(async move {
            let files = match lax {
                Some(how) => Arc::new(Lax { files, how }),
                None => files,
            };
            let mut config = FileStoreConfig::default();
            config.segment_bytes = 4_096;
            Ok(change(FileLogStore::open(files, config).await?))
        })
    }))
}

#[test]
fn a_store_that_skips_a_sync() {
    breaks(
        CASES,
        || on_disk(Some(LaxHow::SkipsData), |store| Box::new(store)),
        &[
            ("what_was_synced_survives_a_crash", ""),
            ("a_crash_leaves_whole_batches", ""),
            ("a_crash_at_any_step_loses_nothing_that_was_synced", "are lost that were acknowl"),
            ("a_read_does_not_wait_for_a_write", "did not wait for its sync"),
        ],
    );
}

#[test]
fn a_store_that_skips_the_sync_of_names() {
    breaks(
        CASES,
        || on_disk(Some(LaxHow::SkipsNames), |store| Box::new(store)),
        &[("a_crash_at_any_step_loses_nothing_that_was_synced", "")],
    );
}

#[test]
fn a_store_that_hides_what_fails() {
    breaks(
        CASES,
        || on_disk(Some(LaxHow::HidesErrors), |store| Box::new(store)),
        &[
            ("a_failing_disk_loses_nothing_that_was_acknowledged", ""),
            ("a_failed_write_is_final", "no write said a word"),
        ],
    );
}

/// Something that a store does otherwise than it should.
trait Defect: Send + 'static {
    fn recovered(recovered: &mut Recovered) {
        let _ = recovered;
    }

    /// What to write, one after the other.
    fn batches(batch: WriteBatch) -> Vec<WriteBatch> {
        vec![batch]
    }

    fn limit(bytes_max: u64) -> u64 {
        bytes_max
    }

    fn read(read: Result<Vec<Entry>, StorageError>) -> Result<Vec<Entry>, StorageError> {
        read
    }
}

struct Bent<D, S>(S, std::marker::PhantomData<fn() -> D>);

struct BentReader<D>(Arc<dyn LogReader>, std::marker::PhantomData<fn() -> D>);

#[async_trait]
impl<D: Defect, S: LogStore> LogStore for Bent<D, S> {
    async fn recover(&mut self) -> Result<Recovered, StorageError> {
        let mut recovered = self.0.recover().await?;
        D::recovered(&mut recovered);
        Ok(recovered)
    }

    async fn write(&mut self, batch: WriteBatch) -> Result<(), StorageError> {
        for batch in D::batches(batch) {
            self.0.write(batch).await?;
        }
        Ok(())
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(BentReader::<D>(self.0.reader(), std::marker::PhantomData))
    }
}

#[async_trait]
impl<D: Defect> LogReader for BentReader<D> {
    async fn read(&self, indexes: Range<u64>, bytes_max: u64) -> Result<Vec<Entry>, StorageError> {
        D::read(self.0.read(indexes, D::limit(bytes_max)).await)
    }
}

fn bent<D: Defect>(store: FileLogStore) -> Box<dyn LogStore> {
    Box::new(Bent::<D, _>(store, std::marker::PhantomData))
}

#[test]
fn a_store_that_writes_a_batch_in_two() {
    struct InTwo;
    impl Defect for InTwo {
        fn batches(batch: WriteBatch) -> Vec<WriteBatch> {
            let hard_state = WriteBatch {
                hard_state: batch.hard_state,
                sync: batch.sync,
                ..WriteBatch::default()
            };
            vec![WriteBatch { hard_state: None, ..batch }, hard_state]
        }
    }
    breaks_only(
        CASES,
        || on_disk(None, bent::<InTwo>),
        &[
            "a_crash_at_any_step_loses_nothing_that_was_synced",
            "a_crash_during_recovery_changes_nothing",
            "a_failing_disk_loses_nothing_that_was_acknowledged",
        ],
    );
}

#[test]
fn a_store_that_forgets_changes_of_the_membership() {
    struct Forgets;
    impl Defect for Forgets {
        fn recovered(recovered: &mut Recovered) {
            recovered.changes.truncate(1);
        }
    }
    breaks(CASES, || on_disk(None, bent::<Forgets>), &[("changes_are_reported", "its changes")]);
}

#[test]
fn a_store_that_reports_each_term_at_its_end() {
    struct AtItsEnd;
    impl Defect for AtItsEnd {
        fn recovered(recovered: &mut Recovered) {
            recovered.terms.iter_mut().for_each(|run| run.index += 1);
        }
    }
    breaks(
        CASES,
        || on_disk(None, bent::<AtItsEnd>),
        &[("runs_of_terms_are_reported", "its runs of terms")],
    );
}

#[test]
fn a_store_that_keeps_no_vote() {
    struct NoVote;
    impl Defect for NoVote {
        fn recovered(recovered: &mut Recovered) {
            let (term, commit) = (recovered.hard_state.term(), recovered.hard_state.commit());
            recovered.hard_state = HardState::new(term, None, commit);
        }
    }
    breaks(
        CASES,
        || on_disk(None, bent::<NoVote>),
        &[("the_last_hard_state_counts", "hard state")],
    );
}

#[test]
fn a_store_that_is_never_empty() {
    struct Filled;
    impl Defect for Filled {
        fn recovered(recovered: &mut Recovered) {
            let ours = Identity { cluster: ClusterId::NIL, node: 1.into(), group: GroupId(0) };
            recovered.identity.get_or_insert(ours);
        }
    }
    breaks(CASES, || on_disk(None, bent::<Filled>), &[("a_new_store_is_empty", "its identity")]);
}

#[test]
fn a_store_that_compacts_before_it_resets() {
    struct CompactsFirst;
    impl Defect for CompactsFirst {
        fn batches(batch: WriteBatch) -> Vec<WriteBatch> {
            // What is compacted first is forgotten by the reset.
            let compact_to = batch.compact_to.clone().filter(|_| batch.reset_to.is_none());
            vec![WriteBatch { compact_to, ..batch }]
        }
    }
    breaks_only(CASES, || on_disk(None, bent::<CompactsFirst>), &["a_batch_takes_effect_in_order"]);
}

#[test]
fn a_store_that_never_drops_what_is_behind() {
    struct Keeps;
    impl Defect for Keeps {
        fn batches(batch: WriteBatch) -> Vec<WriteBatch> {
            // Entries are only ever added, never replaced, as a store does that inserts by index.
            let compact_to = batch.compact_to.clone().filter(|_| batch.entries.is_empty());
            vec![WriteBatch { compact_to, ..batch }]
        }
    }
    breaks(
        CASES,
        || on_disk(None, bent::<Keeps>),
        &[("a_batch_takes_effect_in_order", "its base")],
    );
}

#[test]
fn a_reader_that_ignores_limits_and_compaction() {
    struct Ignores;
    impl Defect for Ignores {
        fn limit(_: u64) -> u64 {
            u64::MAX
        }

        fn read(read: Result<Vec<Entry>, StorageError>) -> Result<Vec<Entry>, StorageError> {
            Ok(read.unwrap_or_default())
        }
    }
    breaks_only(
        CASES,
        || on_disk(None, bent::<Ignores>),
        &["a_read_keeps_to_its_limits", "reading_what_is_compacted_says_so"],
    );
}

#[test]
fn a_store_that_two_can_open() {
    #[derive(Default)]
    struct Open(MemoryLogStore);
    impl Fixture for Open {}
    #[async_trait]
    impl LogStoreFixture for Open {
        async fn open(&self) -> Result<Box<dyn LogStore>, StorageError> {
            Ok(Box::new(self.0.clone()))
        }

        async fn crash(&self) {}
    }
    let fixture = || Arc::new(Open::default()) as Arc<dyn LogStoreFixture>;
    breaks(CASES, fixture, &[("two_openers_never_both_write", "the first still writes")]);
}

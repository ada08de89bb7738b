//! The kit for [`LogStore`]: the log, the hard state, the identity.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Broken, Disk, Fixture, Outcome, Promised as _};
use crate::runtime::{BoxFuture, Files};
use crate::storage::{LogStore, StorageError};

mod crashes;
mod faults;
mod model;
mod plain;

use self::model::Contents;

/// Makes a log store to be judged.
///
/// A fixture stands for one place where a log is kept, empty at first.
#[async_trait]
pub trait LogStoreFixture: Fixture {
    /// Opens the store as it is. What was opened before has been dropped, with its readers, except
    /// where the kit tries whether two can be open at once.
    async fn open(&self) -> Result<Box<dyn LogStore>, StorageError>;

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
    /// Mounts one test for each promise of a [`LogStore`](crate::storage::LogStore); takes an
    /// expression that makes a [`LogStoreFixture`](crate::conformance::LogStoreFixture).
    log_store_conformance, log_store, LogStoreFixture;

    plain {
        /// A store that was never written holds nothing, and says so.
        a_new_store_is_empty,
        /// What is written is found again after the store was opened anew, identity, hard state,
        /// base and entries.
        everything_is_found_again,
        /// An entry comes back byte for byte, however long it is.
        entries_come_back_byte_for_byte,
        /// The last hard state counts, and survives without entries.
        the_last_hard_state_counts,
        /// The identity is set once and stays.
        the_identity_stays,
        /// Entries replace what stands at their places and everything behind.
        entries_replace_what_is_behind_them,
        /// Compaction forgets the entries up to a place, keeps those behind, and remembers the
        /// base with its system state.
        compaction_forgets_what_is_before,
        /// A reset forgets the whole log; it begins behind the new base, wherever that is.
        a_reset_begins_anew,
        /// The fields of a batch take effect in their order: reset, compaction, entries.
        a_batch_takes_effect_in_order,
        /// The entries that change the membership are reported, in order, while they stand.
        changes_are_reported,
        /// The first entry of each run of terms is reported, in order, behind the base.
        runs_of_terms_are_reported,
        /// A read gives at least one entry, then as many as fit the limit, and none behind the
        /// range.
        a_read_keeps_to_its_limits,
        /// A reader that was taken before sees what is written later, and goes on beside writes.
        a_reader_sees_what_is_written_later,
        /// Reading what is compacted says from where on there is something.
        reading_what_is_compacted_says_so,
        /// A batch of ten thousand entries, and one of eight megabytes, are batches like others.
        large_batches_are_batches_like_others,
        /// A batch that leaves a hole, or brings back what was compacted, is refused, and nothing
        /// of it is there.
        a_batch_that_does_not_fit_is_refused,
        /// Two openers never write the same log: the second is refused, or the first is cut off.
        two_openers_never_both_write,
    }
    crashes {
        /// A batch that was written with `sync` survives a crash, and everything before it.
        what_was_synced_survives_a_crash,
        /// Whatever is written, in whatever order, a crash leaves whole batches, a beginning of
        /// what was written.
        a_crash_leaves_whole_batches,
        /// A crash at any step of the disk loses nothing that was synced, and leaves no part of a
        /// batch.
        a_crash_at_any_step_loses_nothing_that_was_synced,
        /// A crash while the store recovers from a crash changes nothing.
        a_crash_during_recovery_changes_nothing,
    }
    faults {
        /// When a step of the disk fails, the write fails or has its effect; what was acknowledged
        /// stays.
        a_failing_disk_loses_nothing_that_was_acknowledged,
        /// The first failure is final: no write after it succeeds.
        a_failed_write_is_final,
        /// A write whose future is dropped is there whole or not at all.
        a_write_that_is_let_go_of_is_whole_or_absent,
        /// A read does not wait for a write.
        a_read_does_not_wait_for_a_write,
        /// A flipped bit is found, or was in nothing that counts; only the last batch can be taken
        /// for torn.
        a_flipped_bit_is_found,
        /// A log that is cut off anywhere, or lacks a file, is refused, or shows nothing but what
        /// was written.
        a_cut_log_shows_nothing_that_was_not_written,
    }
}

async fn guarded(
    _: Arc<dyn LogStoreFixture>,
    case: impl Future<Output = Outcome> + Send,
) -> Outcome {
    case.await
}

/// How a store on [`Files`] is opened.
type Open = dyn Fn(Arc<dyn Files>) -> BoxFuture<'static, Opened> + Send + Sync;

type Opened = Result<Box<dyn LogStore>, StorageError>;

/// A fixture for a store on [`Files`]: everything but how it is opened is here.
///
/// ```
/// use kontiki::conformance::LogOnDisk;
/// use kontiki::storage::{FileLogStore, FileStoreConfig, LogStore};
///
/// fn fixture() -> LogOnDisk {
///     LogOnDisk::new(|files| Box::pin(async move {
///         let mut config = FileStoreConfig::default();
///         config.segment_bytes = 4096;
///         let store = FileLogStore::open(files, config).await?;
///         Ok(Box::new(store) as Box<dyn LogStore>)
///     }))
/// }
///
/// kontiki::log_store_conformance!(fixture());
/// ```
pub struct LogOnDisk {
    disk: Disk,
    open: Box<Open>,
}

impl LogOnDisk {
    /// A store on a new disk, which `open` opens.
    pub fn new(
        open: impl Fn(Arc<dyn Files>) -> BoxFuture<'static, Result<Box<dyn LogStore>, StorageError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self { disk: Disk::new(), open: Box::new(open) }
    }
}

impl std::fmt::Debug for LogOnDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogOnDisk").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl Fixture for LogOnDisk {}

#[async_trait]
impl LogStoreFixture for LogOnDisk {
    async fn open(&self) -> Result<Box<dyn LogStore>, StorageError> {
        (self.open)(self.disk.files()).await
    }

    async fn crash(&self) {
        self.disk.crash();
    }

    fn disk(&self) -> Option<Disk> {
        Some(self.disk.clone())
    }
}

/// Opens the store and looks at everything in it.
async fn look(fixture: &dyn LogStoreFixture) -> Result<(Box<dyn LogStore>, Contents), Broken> {
    let opened = try_look(fixture).await;
    opened.promised("opening the store and reading all of it")
}

async fn try_look(
    fixture: &dyn LogStoreFixture,
) -> Result<(Box<dyn LogStore>, Contents), StorageError> {
    let mut store = fixture.open().await?;
    let recovered = store.recover().await?;
    let (reader, mut entries) = (store.reader(), Vec::new());
    let mut next = recovered.base.log_id.index.saturating_add(1);
    let end = recovered.last.index.saturating_add(1);
    while next < end {
        let read = reader.read(next..end, 2_000).await?;
        let follows = read.first().is_some_and(|first| first.log_id().index == next);
        next += read.len() as u64;
        entries.extend(read);
        if !follows {
            // Whoever compares finds that something is missing; what comes may have no end.
            break;
        }
    }
    Ok((store, Contents::new(recovered, entries)))
}

/// Opens the store, and expects what a model holds.
async fn expect(
    fixture: &dyn LogStoreFixture,
    wanted: &model::Model,
    when: &str,
) -> Result<Box<dyn LogStore>, Broken> {
    let (store, found) = look(fixture).await?;
    let wanted = wanted.contents();
    ensure!(found == wanted, "{when}, the store shows {}", found.difference(&wanted));
    Ok(store)
}

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{FileLogStore, FileStoreConfig};
use crate::id::{ClusterId, GroupId, LogId};
use crate::runtime::sim::{Sim, SimFiles};
use crate::runtime::{FileOp, Files, OpenMode, OsFiles, Runtime as _};
use crate::storage::{
    Base, Entry, HardState, Identity, LogStore as _, MemoryLogStore, Recovered, StorageError,
    WriteBatch,
};

mod crash;
mod damage;
mod reads;
mod snapshots;

const HOUR: Duration = Duration::from_secs(3600);
const SMALL: FileStoreConfig = FileStoreConfig { segment_bytes: 4096 };

fn entry(term: u64, index: u64, len: usize) -> Entry {
    let fill = u8::try_from(index % 251).unwrap();
    Entry::application(LogId { term, index }, &vec![fill; len])
}

fn entries(all: Vec<Entry>) -> WriteBatch {
    WriteBatch { entries: all, sync: true, ..WriteBatch::default() }
}

fn base(term: u64, index: u64) -> Option<Base> {
    Some(Base { log_id: LogId { term, index }, system: Bytes::from_static(b"system") })
}

async fn open(files: &Arc<SimFiles>) -> Result<FileLogStore, StorageError> {
    FileLogStore::open(Arc::clone(files) as Arc<dyn Files>, SMALL).await
}

/// What a store says of itself, with all entries.
async fn contents<S: crate::storage::LogStore>(store: &mut S) -> (Recovered, Vec<Entry>) {
    let recovered = store.recover().await.unwrap();
    let first = recovered.base.log_id.index + 1;
    let mut all = Vec::new();
    while first + (all.len() as u64) <= recovered.last.index {
        let next = first + all.len() as u64;
        all.extend(store.reader().read(next..recovered.last.index + 1, 500).await.unwrap());
    }
    (recovered, all)
}

fn in_sim<T: Send + 'static>(sim: &Sim, test: impl Future<Output = T> + Send + 'static) -> T {
    sim.run_until(HOUR, test).unwrap()
}

/// A random batch that fits the log as it is.
fn random_batch(dice: &mut fastrand::Rng, term: &mut u64, log: &Recovered) -> WriteBatch {
    let (base_index, last) = (log.base.log_id.index, log.last.index);
    let mut batch = WriteBatch { sync: true, ..WriteBatch::default() };
    match dice.u8(..20) {
        0 => batch.reset_to = base(*term, last + dice.u64(..5)),
        1..=3 if last > base_index => {
            let to = dice.u64(base_index + 1..=last);
            let at = log.terms.partition_point(|run| run.index <= to) - 1;
            batch.compact_to = base(log.terms[at].term, to);
        }
        4 => {
            let identity = Identity {
                cluster: ClusterId::from_random(1, 2),
                node: 7.into(),
                group: GroupId(0),
            };
            batch.identity = Some(identity);
        }
        _ => {
            *term += dice.u64(..2);
            let replace =
                if dice.u8(..4) == 0 { dice.u64(..=(last - base_index).min(4)) } else { 0 };
            let first = last - replace + 1;
            let count = dice.u64(1..6);
            let len = if dice.u8(..30) == 0 { 6_000 } else { dice.usize(..300) };
            batch.entries = (first..first + count).map(|index| entry(*term, index, len)).collect();
        }
    }
    batch.hard_state = dice.bool().then(|| HardState::new(*term, Some(3.into()), last));
    batch
}

#[test]
fn whatever_is_written_is_found_again_after_crashes_at_any_moment() {
    for seed in 0..150 {
        let sim = Sim::new(seed);
        let mut dice = fastrand::Rng::with_seed(seed);
        let (model, mut term) = (MemoryLogStore::new(), 1);
        for _ in 0..6 {
            let files = sim.process(1).files("log");
            let (mut store, found, all) = in_sim(&sim, async move {
                let mut store = open(&files).await.unwrap();
                let (found, all) = contents(&mut store).await;
                (store, found, all)
            });
            let mut copy = model.clone();
            let (expected, expected_all) = in_sim(&sim, async move { contents(&mut copy).await });
            let found = Recovered { dropped_bytes: 0, ..found };
            assert_eq!(format!("{found:?}"), format!("{expected:?}"), "seed {seed}");
            assert_eq!(all, expected_all, "seed {seed}");
            for _ in 0..dice.usize(1..40) {
                let mut copy = model.clone();
                let now = in_sim(&sim, async move { copy.recover().await.unwrap() });
                let batch = random_batch(&mut dice, &mut term, &now);
                let same = batch.clone();
                store = in_sim(&sim, async move {
                    store.write(batch).await.unwrap();
                    store
                });
                let mut copy = model.clone();
                in_sim(&sim, async move { copy.write(same).await.unwrap() });
            }
            // One more, which the crash meets at a random moment: it is there whole, or not at all.
            let mut copy = model.clone();
            let now = in_sim(&sim, async move { copy.recover().await.unwrap() });
            let batch = random_batch(&mut dice, &mut term, &now);
            let same = batch.clone();
            sim.process(1).spawn(Box::pin(async move {
                let _ = store.write(batch).await;
            }));
            sim.run_for(Duration::from_micros(dice.u64(..6_000)));
            sim.kill(1);
            let files = sim.process(1).files("log");
            let after = in_sim(&sim, async move {
                let (found, all) = contents(&mut open(&files).await.unwrap()).await;
                format!("{:?}", (Recovered { dropped_bytes: 0, ..found }, all))
            });
            let mut copy = model.clone();
            let without = in_sim(&sim, async move { format!("{:?}", contents(&mut copy).await) });
            if after != without {
                let mut copy = model.clone();
                in_sim(&sim, async move { copy.write(same).await.unwrap() });
            }
        }
    }
}

#[test]
fn a_missing_end_that_was_synced_is_found_by_the_watermark() {
    let sim = Sim::new(3);
    let process = sim.process(1);
    let files = process.files("log");
    let outcome = in_sim(&sim, async move {
        let config = FileStoreConfig { segment_bytes: 1 << 20 };
        let mut store = FileLogStore::open(files.clone() as Arc<dyn Files>, config).await.unwrap();
        for index in 1..=70 {
            store.write(entries(vec![entry(1, index, 40)])).await.unwrap();
        }
        drop(store);
        let file = files.open("log-00000000000000000001.seg", OpenMode::Write).await.unwrap();
        let zeros = Bytes::from(vec![0; 6_000]);
        files.run(vec![FileOp::Write { file, at: 3_000, parts: vec![zeros] }]).await.unwrap();
        drop(files);
        let files = process.files("log");
        FileLogStore::open(files, config).await.map(|_| ())
    });
    assert!(matches!(outcome, Err(StorageError::Corrupt { .. })), "{outcome:?}");
}

#[test]
fn a_failed_sync_is_final_and_a_second_opener_is_refused() {
    let sim = Sim::new(4);
    let process = sim.process(1);
    in_sim(&sim, async move {
        let files = process.files("log");
        let mut store = open(&files).await.unwrap();
        let second = open(&process.files("log")).await;
        assert!(matches!(second, Err(StorageError::Busy { .. })));
        files.fail_next_sync();
        let failed = store.write(entries(vec![entry(1, 1, 10)])).await;
        assert!(matches!(failed, Err(StorageError::Io { .. })));
        let again = store.write(entries(vec![entry(1, 1, 10)])).await;
        assert!(matches!(again, Err(StorageError::Poisoned)));
    });
}

#[test]
fn a_full_disk_is_an_error_and_no_damage() {
    let sim = Sim::new(5);
    let files = sim.process(1).files("log");
    let kept = Arc::clone(&files);
    let last = in_sim(&sim, async move {
        let mut store = open(&kept).await.unwrap();
        kept.set_bytes_max(Some(20_000));
        let mut index = 1;
        while store.write(entries(vec![entry(1, index, 300)])).await.is_ok() {
            index += 1;
        }
        index - 1
    });
    sim.kill(1);
    let files = sim.process(1).files("log");
    files.set_bytes_max(None);
    let found =
        in_sim(
            &sim,
            async move { open(&files).await.unwrap().recover().await.unwrap().last.index },
        );
    assert!(last > 10 && (last..=last + 1).contains(&found), "{last} {found}");
}

#[test]
fn segments_that_are_compacted_away_are_recycled() {
    let sim = Sim::new(7);
    let files = sim.process(1).files("log");
    let names = in_sim(&sim, async move {
        let mut store = open(&files).await.unwrap();
        for index in 1..=200 {
            store.write(entries(vec![entry(1, index, 100)])).await.unwrap();
            if index % 20 == 0 {
                let compact = WriteBatch { compact_to: base(1, index - 5), ..entries(vec![]) };
                store.write(compact).await.unwrap();
            }
        }
        files.list().await.unwrap()
    });
    assert!(names.len() <= 5, "{names:?}");
}

#[test]
fn a_segment_for_a_long_batch_is_not_kept_as_a_spare() {
    let sim = Sim::new(7);
    let files = sim.process(1).files("log");
    let names = in_sim(&sim, async move {
        let mut store = open(&files).await.unwrap();
        let compact = |to| WriteBatch { compact_to: base(1, to), ..entries(vec![]) };
        store.write(entries(vec![entry(1, 1, 100)])).await.unwrap();
        store.write(entries(vec![entry(1, 2, 100_000)])).await.unwrap();
        // The first segment becomes the spare, and the spare the current one, so that another is
        // wanted when the long one goes.
        store.write(compact(1)).await.unwrap();
        store.write(entries(vec![entry(1, 3, 3_000)])).await.unwrap();
        store.write(entries(vec![entry(1, 4, 1_000)])).await.unwrap();
        assert_eq!(
            store.older.iter().map(|older| older.len > 4096).collect::<Vec<_>>(),
            [true, false]
        );
        assert!(store.spare.is_none());
        store.write(compact(2)).await.unwrap();
        files.list().await.unwrap()
    });
    assert!(names.iter().all(|(_, len)| *len <= SMALL.segment_bytes), "{names:?}");
}

#[test]
fn a_real_directory_keeps_a_log_and_refuses_a_second_opener() {
    futures::executor::block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let open = || FileLogStore::open(Arc::new(OsFiles::new(&path).unwrap()), SMALL);
        let mut store = open().await.unwrap();
        for index in 1..=100 {
            store.write(entries(vec![entry(1, index, 100)])).await.unwrap();
        }
        let refused = open().await.unwrap_err();
        assert!(matches!(refused, StorageError::Busy { .. }));
        let expected = format!("{} is in use by another process", path.display());
        assert_eq!(refused.to_string(), expected);
        drop(store);
        let mut store = open().await.unwrap();
        let (recovered, all) = contents(&mut store).await;
        assert_eq!((recovered.last.index, all.len()), (100, 100));
        let files = OsFiles::new(directory.path()).unwrap();
        let outside = files.open("../elsewhere", OpenMode::Create).await;
        assert_eq!(outside.unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_real_directory_is_free_as_soon_as_its_last_handle_is_gone() {
    futures::executor::block_on(async {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..300 {
            let files = OsFiles::new(directory.path()).unwrap();
            assert!(files.lock().await.is_ok(), "round {round}");
            files.list().await.unwrap();
        }
    });
}

//! Reading beside the one who writes, and what a store does not take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;

use super::crash::script;
use super::{base, entries, entry, in_sim, open};
use crate::id::LogId;
use crate::runtime::sim::{Sim, SimProcess};
use crate::runtime::{Files as _, Runtime as _};
use crate::storage::{Entry, LogReader, LogStore, MemoryLogStore, StorageError, WriteBatch};

/// Reads here and there until the writer is done: what is read was written at that place, in
/// order. Says how many entries it read, and how often they were gone.
async fn read_beside(
    process: Arc<SimProcess>,
    reader: Arc<dyn LogReader>,
    written: Arc<BTreeMap<LogId, Entry>>,
    done: Arc<AtomicBool>,
    mut dice: fastrand::Rng,
) -> (usize, usize) {
    let (mut read, mut gone, mut from) = (0, 0, 1);
    while !done.load(Ordering::Relaxed) {
        let end = from + dice.u64(1..30);
        match reader.read(from..end, dice.u64(..3_000)).await {
            Ok(entries) => {
                for (index, entry) in (from..).zip(&entries) {
                    assert_eq!(entry.log_id().index, index);
                    assert_eq!(Some(entry), written.get(&entry.log_id()));
                }
                read += entries.len();
                // At the end it waits for more, or for a log that has become shorter.
                from = if entries.is_empty() { from.saturating_sub(3).max(1) } else { from };
                from += dice.u64(..=entries.len() as u64 / 2);
            }
            Err(StorageError::Compacted { first }) => (gone, from) = (gone + 1, first),
            Err(error) => panic!("{error}"),
        }
        process.timer(process.now() + Duration::from_micros(dice.u64(1..500))).await;
    }
    (read, gone)
}

#[test]
fn what_is_read_beside_writes_is_the_old_or_the_new_or_compacted() {
    let script = Arc::new(script(100));
    let all = script.batches.iter().flat_map(|batch| batch.entries.clone());
    let written: Arc<BTreeMap<_, _>> = Arc::new(all.map(|entry| (entry.log_id(), entry)).collect());
    let (mut read, mut gone) = (0, 0);
    for seed in 0..60 {
        let sim = Sim::new(seed);
        let process = sim.process(1);
        let (script, written) = (Arc::clone(&script), Arc::clone(&written));
        let counts = in_sim(&sim, async move {
            let mut store = open(&process.files("log")).await.unwrap();
            let done = Arc::new(AtomicBool::new(false));
            let readers = (0..4).map(|number| {
                let dice = fastrand::Rng::with_seed(seed * 100 + number);
                let (written, done) = (Arc::clone(&written), Arc::clone(&done));
                read_beside(Arc::clone(&process), store.reader(), written, done, dice)
            });
            let readers = futures::future::join_all(readers);
            let writer = async move {
                for batch in &script.batches {
                    store.write(batch.clone()).await.unwrap();
                }
                done.store(true, Ordering::Relaxed);
            };
            futures::future::join(readers, writer).await.0
        });
        read += counts.iter().map(|(read, _)| read).sum::<usize>();
        gone += counts.iter().map(|(_, gone)| gone).sum::<usize>();
    }
    assert!(read > 1_000 && gone > 100, "{read} read, {gone} times gone");
}

#[test]
fn every_range_reads_as_from_memory() {
    let script = script(60);
    let sim = Sim::new(1);
    let files = sim.process(1).files("log");
    let compared = in_sim(&sim, async move {
        let (mut store, mut model) = (open(&files).await.unwrap(), MemoryLogStore::new());
        let mut compared = 0;
        for (number, batch) in script.batches.into_iter().enumerate() {
            store.write(batch.clone()).await.unwrap();
            model.write(batch).await.unwrap();
            let start = store.shared.lock().start;
            let last = store.shared.lock().last();
            if number % 6 != 5 {
                continue;
            }
            for from in start.saturating_sub(3)..last + 3 {
                for end in [from.saturating_sub(1), from, from + 1, last, last + 1, u64::MAX] {
                    for bytes_max in [0, 100, 700, u64::MAX] {
                        let ours = store.reader().read(from..end, bytes_max).await;
                        let theirs = model.reader().read(from..end, bytes_max).await;
                        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{from}..{end}");
                        compared += 1;
                    }
                }
            }
        }
        compared
    });
    assert!(compared > 1_000, "{compared}");
}

#[test]
fn a_log_that_was_reset_lets_go_of_all_that_was_before() {
    let sim = Sim::new(1);
    let files = sim.process(1).files("log");
    in_sim(&sim, async move {
        let segments = || async {
            let listed = files.list().await.unwrap();
            listed.iter().filter(|(name, _)| name.starts_with("log-")).count()
        };
        let mut store = open(&files).await.unwrap();
        for index in 1..=50 {
            store.write(entries(vec![entry(1, index, 500)])).await.unwrap();
        }
        // A snapshot of another history, behind which nothing of ours stands any more.
        let reset = WriteBatch { reset_to: base(2, 10), ..entries(vec![]) };
        store.write(reset).await.unwrap();
        assert_eq!(segments().await, 1);
        // Nor does anything in the segment that was current count as higher than what follows.
        while store.older.is_empty() {
            let next = store.shared.lock().last() + 1;
            store.write(entries(vec![entry(2, next, 500)])).await.unwrap();
        }
        let last = store.shared.lock().last() - 1;
        store.write(WriteBatch { compact_to: base(2, last), ..entries(vec![]) }).await.unwrap();
        assert_eq!(segments().await, 1);
    });
}

#[test]
fn what_a_reset_takes_away_while_it_is_read_is_compacted() {
    let sim = Sim::new(1);
    let files = sim.process(1).files("log");
    let read = in_sim(&sim, async move {
        let mut store = open(&files).await.unwrap();
        for index in 1..=50 {
            store.write(entries(vec![entry(1, index, 500)])).await.unwrap();
        }
        let reader = store.reader();
        let mut read = reader.read(30..31, 0);
        assert!(read.as_mut().now_or_never().is_none());
        // The new log begins before what is read.
        let all = (11..45).map(|index| entry(2, index, 500)).collect();
        store.write(WriteBatch { reset_to: base(2, 10), ..entries(all) }).await.unwrap();
        read.await
    });
    assert!(matches!(read, Err(StorageError::Compacted { first: 11 })), "{read:?}");
}

/// Batches that no log can take, and what is wrong with them, for one of entries 6 to 9 of term 2.
fn misfits() -> Vec<(WriteBatch, &'static str)> {
    let hole = vec![entry(2, 10, 1), entry(2, 12, 1)];
    let backwards = vec![entry(2, 10, 1), entry(2, 10, 1)];
    let no_end = vec![entry(2, u64::MAX, 1)];
    let reset = |index, all| WriteBatch { reset_to: base(3, index), ..entries(all) };
    vec![
        (entries(vec![entry(2, 11, 1)]), "a hole before its entries"),
        (entries(hole), "a hole in between"),
        (entries(backwards), "the same place twice"),
        (entries(vec![entry(2, 5, 1)]), "what was compacted"),
        (reset(20, vec![entry(3, 20, 1)]), "what a snapshot holds"),
        (reset(20, vec![entry(3, 10, 1)]), "what was before it"),
        (reset(u64::MAX, vec![]), "no place behind it"),
        (reset(u64::MAX - 1, no_end), "no place behind its entries"),
        (WriteBatch { compact_to: base(2, 4), ..entries(vec![]) }, "a base that goes back"),
    ]
}

async fn refuses_misfits(mut store: impl LogStore, batch: WriteBatch, what: &str) {
    store.write(entries((1..=9).map(|index| entry(2, index, 1)).collect())).await.unwrap();
    store.write(WriteBatch { compact_to: base(2, 5), ..entries(vec![]) }).await.unwrap();
    let refused = store.write(batch).await;
    assert!(matches!(refused, Err(StorageError::Io { .. })), "{what}: {refused:?}");
    let again = store.write(entries(vec![entry(2, 10, 1)])).await;
    assert!(matches!(again, Err(StorageError::Poisoned)), "{what}: final");
}

#[test]
fn a_batch_that_does_not_fit_the_log_is_refused() {
    for (batch, what) in misfits() {
        let sim = Sim::new(1);
        let process = sim.process(1);
        in_sim(&sim, async move {
            let store = open(&process.files("log")).await.unwrap();
            refuses_misfits(store, batch.clone(), what).await;
            refuses_misfits(MemoryLogStore::new(), batch, what).await;
            let found = open(&process.files("log")).await.unwrap().recover().await.unwrap();
            assert_eq!((found.base.log_id.index, found.last.index), (5, 9), "{what}");
        });
    }
}

#[test]
fn what_is_kept_of_a_segment_does_not_keep_all_of_it_in_memory() {
    let sim = Sim::new(1);
    let process = sim.process(1);
    in_sim(&sim, async move {
        let mut store = open(&process.files("log")).await.unwrap();
        store.write(WriteBatch { reset_to: base(1, 5), ..entries(vec![]) }).await.unwrap();
        drop(store);
        let mut store = open(&process.files("log")).await.unwrap();
        let system = store.recover().await.unwrap().base.system;
        drop(store);
        // The only handle left: of bytes of its own it can be made one that may be changed.
        assert!(system.try_into_mut().is_ok_and(|bytes| bytes.capacity() < 100));
    });
}

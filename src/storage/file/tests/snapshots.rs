//! Snapshots: there whole or not at all, whatever fails, and damage shows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::crash::{Fault, Faulty};
use super::in_sim;
use crate::id::LogId;
use crate::runtime::sim::{Sim, SimFiles};
use crate::runtime::{FileOp, Files, OpenMode, Runtime as _};
use crate::storage::{
    FileSnapshotStore, SnapshotMeta, SnapshotSink, SnapshotStore as _, StorageError,
};

const NAME: &str = "snapshot-00000000000000000001-00000000000000000009";

fn meta(index: u64) -> SnapshotMeta {
    let log_id = LogId { term: 1, index };
    SnapshotMeta { log_id, system: Bytes::from_static(b"system"), size_bytes: 0 }
}

/// Bytes that differ from chunk to chunk.
fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 253).unwrap() ^ seed).collect()
}

async fn store(files: &Arc<SimFiles>) -> FileSnapshotStore {
    FileSnapshotStore::open(Arc::clone(files) as Arc<dyn Files>).await.unwrap()
}

async fn write(
    store: &FileSnapshotStore,
    index: u64,
    bytes: &[u8],
) -> Result<Box<dyn SnapshotSink>, StorageError> {
    let mut sink = store.create(meta(index)).await?;
    sink.write_all(bytes).await.map_err(StorageError::io("writing a snapshot"))?;
    Ok(sink)
}

async fn snapshot(
    store: &FileSnapshotStore,
    index: u64,
    bytes: &[u8],
) -> Result<SnapshotMeta, StorageError> {
    write(store, index, bytes).await?.commit().await
}

async fn read(
    store: &FileSnapshotStore,
    meta: &SnapshotMeta,
    from: u64,
) -> std::io::Result<Vec<u8>> {
    let mut read = Vec::new();
    let mut reader = store.open(meta, from).await.map_err(std::io::Error::other)?;
    reader.read_to_end(&mut read).await?;
    Ok(read)
}

/// Every snapshot there is, read to its end.
type All = BTreeMap<u64, Vec<u8>>;

async fn all(store: &FileSnapshotStore) -> All {
    let mut all = All::new();
    for meta in store.list().await.unwrap() {
        assert_eq!(&meta.system[..], b"system");
        all.insert(meta.log_id.index, read(store, &meta, 0).await.unwrap());
    }
    all
}

#[test]
fn a_snapshot_is_read_from_anywhere_and_lists_are_newest_first() {
    let sim = Sim::new(8);
    let files = sim.process(1).files("snapshots");
    in_sim(&sim, async move {
        let store = store(&files).await;
        let bytes = bytes(0, 200_000);
        let meta = snapshot(&store, 9, &bytes).await.unwrap();
        assert_eq!(meta.size_bytes, 200_000);
        snapshot(&store, 5, b"old").await.unwrap();
        snapshot(&store, 7, b"").await.unwrap();
        let listed = store.list().await.unwrap();
        assert_eq!(listed.iter().map(|m| m.log_id.index).collect::<Vec<_>>(), [9, 7, 5]);
        for from in [0, 1, 65_535, 65_536, 100_000, 199_999, 200_000, 900_000] {
            let rest = bytes.get(usize::try_from(from).unwrap()..).unwrap_or_default();
            assert_eq!(read(&store, &meta, from).await.unwrap(), rest);
        }
        assert_eq!(read(&store, &listed[1], 0).await.unwrap(), b"");
        let mut reader = store.open(&meta, 0).await.unwrap();
        store.remove(&meta).await.unwrap();
        store.remove(&meta).await.unwrap();
        assert_eq!(store.list().await.unwrap().len(), 2);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, bytes, "its reader goes on");
        let gone = store.open(&meta, 0).await.map(|_| ());
        assert!(matches!(gone, Err(StorageError::Io { .. })), "{gone:?}");
    });
}

#[test]
fn a_snapshot_that_is_dropped_leaves_nothing() {
    let sim = Sim::new(1);
    let files = sim.process(1).files("snapshots");
    in_sim(&sim, async move {
        let store = store(&files).await;
        for index in 1..=5 {
            drop(write(&store, index, &bytes(1, 100_000)).await.unwrap());
            let listed = files.list().await.unwrap();
            assert!(listed.len() <= 1, "{listed:?}");
        }
        assert_eq!(store.list().await.unwrap(), []);
        assert_eq!(files.list().await.unwrap(), []);
    });
}

#[test]
fn two_snapshots_of_one_place_do_not_mix() {
    let sim = Sim::new(1);
    let files = sim.process(1).files("snapshots");
    in_sim(&sim, async move {
        let store = store(&files).await;
        // Whole chunks: the longer one begins with as many.
        let (ours, theirs) = (bytes(1, 2 << 16), bytes(2, 140_000));
        let mut first = write(&store, 9, &ours[..100_000]).await.unwrap();
        let mut second = write(&store, 9, &theirs[..70_000]).await.unwrap();
        first.write_all(&ours[100_000..]).await.unwrap();
        let old = first.commit().await.unwrap();
        assert_eq!(read(&store, &old, 0).await.unwrap(), ours);
        let mut reader = store.open(&old, 0).await.unwrap();
        second.write_all(&theirs[70_000..]).await.unwrap();
        let new = second.commit().await.unwrap();
        assert_eq!(all(&store).await, All::from([(9, theirs.clone())]));
        assert_eq!(read(&store, &new, 0).await.unwrap(), theirs);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, ours, "its reader goes on");
        // What is known of the one that was replaced does not fit the other.
        read(&store, &old, 0).await.unwrap_err();
    });
}

#[test]
fn a_snapshot_of_which_a_part_was_not_written_is_not_committed() {
    let sim = Sim::new(1);
    let files = sim.process(1).files("snapshots");
    in_sim(&sim, async move {
        // Listing, syncing, making the file, one chunk; the second fails.
        let faulty = Faulty::new(files, 4, Fault::Once);
        let store = FileSnapshotStore::open(faulty).await.unwrap();
        let mut sink = store.create(meta(9)).await.unwrap();
        let mut failed = 0;
        // Written by one who does not look.
        for chunk in bytes(1, 200_000).chunks(1_000) {
            failed += u32::from(sink.write_all(chunk).await.is_err());
        }
        assert!(failed > 0);
        let refused = sink.commit().await;
        assert!(matches!(refused, Err(StorageError::Io { .. })), "{refused:?}");
        assert_eq!(all(&store).await, All::new());
    });
}

#[test]
fn lists_hold_beside_those_who_write_and_remove() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let process = sim.process(1);
        in_sim(&sim, async move {
            let store = store(&process.files("snapshots")).await;
            let done = AtomicBool::new(false);
            let pause = || process.timer(process.now() + Duration::from_micros(5));
            let change = async {
                for index in 1..10_u64 {
                    let len = 100 * usize::try_from(index).unwrap();
                    let meta = snapshot(&store, index, &bytes(1, len)).await.unwrap();
                    // The first is replaced by longer ones; the others come and go.
                    snapshot(&store, 1, &bytes(1, len + 50)).await.unwrap();
                    store.remove(&meta).await.unwrap();
                }
                done.store(true, Ordering::Relaxed);
            };
            let list = async {
                while !done.load(Ordering::Relaxed) {
                    store.list().await.unwrap();
                    pause().await;
                }
            };
            futures::future::join(change, list).await;
        });
    }
}

/// Changes a snapshot's file and reads it again.
fn after(change: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>, String> {
    let sim = Sim::new(1);
    let files = sim.process(1).files("snapshots");
    let mut file = in_sim(&sim, async move {
        snapshot(&store(&files).await, 9, &bytes(3, 150_000)).await.unwrap();
        let file = files.open(NAME, OpenMode::Read).await.unwrap();
        files.read(file, 0, 1_000_000).await.unwrap().to_vec()
    });
    change(&mut file);
    let files = sim.process(1).files("snapshots");
    in_sim(&sim, async move {
        let id = files.open(NAME, OpenMode::Create).await.unwrap();
        files.run(vec![FileOp::Write { file: id, at: 0, parts: vec![file.into()] }]).await.unwrap();
        let store = store(&files).await;
        let listed = match store.list().await {
            Err(error @ StorageError::Corrupt { .. }) => return Err(error.to_string()),
            listed => listed.unwrap(),
        };
        assert_eq!(listed.len(), 1);
        assert_eq!(&listed[0].system[..], b"system");
        read(&store, &listed[0], 0).await.map_err(|error| error.to_string())
    })
}

#[test]
fn damage_is_an_error_and_never_other_bytes() {
    let len = 150_000 + 3 * 4 + 1 + 3 * 8 + 6 + 16;
    assert_eq!(after(|file| assert_eq!(file.len(), len)), Ok(bytes(3, 150_000)));
    let mut dice = fastrand::Rng::with_seed(1);
    let places = (0..len).filter(|at| *at > 150_000 || at % 1_009 == 0 || at % 65_540 < 8);
    for at in places {
        after(|file| file[at] ^= 1 << dice.u8(..8)).expect_err("a flipped bit");
    }
    for at in (0..len).filter(|at| *at > 149_900 || at % 5_003 == 0) {
        after(|file| file.truncate(at)).expect_err("a lost end");
        after(|file| file[at..].fill(0)).expect_err("an end of zeros");
    }
    let swapped = after(|file| {
        let (first, second) = file.split_at_mut(65_540);
        first.swap_with_slice(&mut second[..65_540]);
    });
    swapped.expect_err("two chunks in each other's place");
    let missing = after(|file| drop(file.drain(..65_540))).unwrap_err();
    let before = after(|file| file.splice(0..0, [0; 8]).for_each(drop)).unwrap_err();
    assert!(missing.contains(NAME) && before.contains(NAME), "{missing}, {before}: listed");
    let later = after(|file| *file.last_mut().unwrap() = 2).unwrap_err();
    assert!(later.contains("version 2"), "{later}");
    let endless = after(|file| file[len - 16..len - 12].fill(0xff)).unwrap_err();
    assert!(endless.contains(NAME), "{endless}");
}

#[test]
fn a_file_under_another_name_is_damage() {
    let sim = Sim::new(1);
    let files = sim.process(1).files("snapshots");
    let listed = in_sim(&sim, async move {
        let store = store(&files).await;
        snapshot(&store, 9, b"bytes").await.unwrap();
        let to = NAME.replace('9', "8");
        files.run(vec![FileOp::Rename { from: NAME.to_owned(), to }]).await.unwrap();
        store.list().await
    });
    assert!(matches!(listed, Err(StorageError::Corrupt { .. })), "{listed:?}");
}

/// What is done, and what snapshots there are before and after each step.
const STEPS: usize = 5;

async fn step(store: &FileSnapshotStore, number: usize) -> Result<(), StorageError> {
    match number {
        0 => snapshot(store, 9, &bytes(1, 150_000)).await.map(drop),
        1 => write(store, 20, &bytes(2, 70_000)).await.map(drop),
        2 => snapshot(store, 9, &bytes(3, 100)).await.map(drop),
        3 => snapshot(store, 30, &bytes(4, 70_000)).await.map(drop),
        _ => store.remove(&meta(9)).await,
    }
}

fn states() -> [All; STEPS + 1] {
    let (long, short, new) = (bytes(1, 150_000), bytes(3, 100), bytes(4, 70_000));
    let (first, second) = (All::from([(9, long)]), All::from([(9, short.clone())]));
    let both = All::from([(9, short), (30, new.clone())]);
    [All::new(), first.clone(), first, second, both, All::from([(30, new)])]
}

/// Does the steps until something fails, then whatever ends the process, and looks; says whether
/// it came to that.
fn judge(seed: u64, at: u64, fault: Fault, power: bool) -> bool {
    let sim = Sim::new(seed);
    let faulty = Faulty::new(sim.process(1).files("snapshots"), at, fault);
    let done = Arc::new(AtomicUsize::new(0));
    let (files, kept) = (Arc::clone(&faulty), Arc::clone(&done));
    in_sim(&sim, async move {
        let Ok(store) = FileSnapshotStore::open(files).await else { return };
        while kept.load(Ordering::Relaxed) < STEPS
            && step(&store, kept.load(Ordering::Relaxed)).await.is_ok()
        {
            kept.fetch_add(1, Ordering::Relaxed);
        }
    });
    let hit = faulty.done.load(Ordering::Relaxed) > at;
    drop(faulty);
    if power {
        sim.kill(1);
    }
    let look = || {
        let files = sim.process(1).files("snapshots");
        in_sim(&sim, async move {
            let store = store(&files).await;
            let listed = files.list().await.unwrap();
            assert!(listed.iter().all(|(name, _)| !name.starts_with("tmp-")), "{listed:?}");
            all(&store).await
        })
    };
    let (found, done) = (look(), done.load(Ordering::Relaxed));
    let expected = &states()[done..(done + 2).min(STEPS + 1)];
    assert!(expected.contains(&found), "seed {seed}, operation {at}: {done} steps");
    sim.kill(1);
    assert!(look() == found, "seed {seed}, operation {at}: found once is found again");
    hit
}

#[test]
fn a_snapshot_is_there_whole_or_not_at_all_whatever_fails() {
    for seed in 0..4 {
        for (fault, power) in [(Fault::Killed, true), (Fault::Killed, false), (Fault::Once, true)] {
            let last = (0..).find(|at| !judge(seed, *at, fault, power)).unwrap();
            assert!(last > 20, "{last} operations");
        }
    }
}

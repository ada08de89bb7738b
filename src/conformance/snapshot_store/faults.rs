//! What a snapshot store does when the power goes, or its disk fails or lies.

use std::sync::Arc;

use futures::io::AsyncReadExt as _;

use super::{SnapshotStoreFixture, begin, commit, list, meta, pattern, read};
use crate::conformance::disk::{Image, Survival};
use crate::conformance::{Broken, KEPT, Outcome, Promised as _, not_applicable};
use crate::storage::{SnapshotMeta, SnapshotStore};

type Fixture = Arc<dyn SnapshotStoreFixture>;

pub(super) async fn a_crash_at_any_step_leaves_whole_snapshots(fixture: Fixture) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    let store = fixture.open().await.promised("opening the store")?;
    // What there is from which step on: one, two, another one in the place of the first.
    let mut history = vec![(0, Vec::new())];
    for (index, seed, len) in [(1, 1, 150_000), (2, 2, 3_000), (1, 3, 70_000)] {
        let bytes = pattern(seed, len);
        let meta = commit(&*store, meta(1, index), &bytes).await?;
        let mut now: Vec<(SnapshotMeta, Vec<u8>)> = history[history.len() - 1].1.clone();
        now.retain(|(old, _)| old.log_id != meta.log_id);
        now.push((meta, bytes));
        now.sort_by_key(|(meta, _)| std::cmp::Reverse(meta.log_id));
        history.push((disk.steps(), now));
    }
    drop(store);
    let mut crashes = disk.crashes();
    while let Some((step, moment)) = crashes.next() {
        let certain = history.iter().rposition(|(at, _)| *at <= step).unwrap_or(0);
        let chances = (0..4).map(|n| Survival::Chance(4 * step as u64 + n));
        for survival in [Survival::Nothing, Survival::All].into_iter().chain(chances) {
            disk.insert(moment.crash(survival));
            let found = everything(&fixture).await?;
            let states = history[certain..].iter().take(2);
            let known = states.into_iter().any(|(_, state)| *state == found);
            let places: Vec<_> = found.iter().map(|(meta, _)| meta).collect();
            ensure!(known, "after a crash before step {step} of the disk there is {places:?}");
        }
    }
    KEPT
}

/// All snapshots with their bytes.
async fn everything(fixture: &Fixture) -> Result<Vec<(SnapshotMeta, Vec<u8>)>, Broken> {
    let store = fixture.open().await.promised("opening the store after a crash")?;
    let mut all = Vec::new();
    for meta in list(&*store).await? {
        let bytes = read(&*store, &meta, 0).await?;
        all.push((meta, bytes));
    }
    Ok(all)
}

pub(super) async fn a_failing_disk_loses_nothing_that_was_committed(fixture: Fixture) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    let store = fixture.open().await.promised("opening the store")?;
    let (old, new) = (pattern(1, 100_000), pattern(2, 150_000));
    commit(&*store, meta(1, 1), &old).await?;
    drop(store);
    let whole = disk.image();
    for step in 0.. {
        disk.insert(whole.clone());
        let store = fixture.open().await.promised("opening the store")?;
        disk.fail_at(disk.steps() + step);
        let committed = match begin(&*store, meta(1, 2), &new).await {
            Ok(sink) => sink.commit().await.is_ok(),
            Err(_) => false,
        };
        drop(store);
        let failed = disk.has_failed();
        disk.crash_by(step as u64);
        let found = everything(&fixture).await?;
        let wanted = |meta: &SnapshotMeta| if meta.log_id.index == 1 { &old } else { &new };
        let sound = found.iter().all(|(meta, bytes)| bytes == wanted(meta));
        ensure!(sound, "step {step} of the disk failed, and a snapshot has bytes nobody wrote");
        let kept = found.iter().any(|(meta, _)| meta.log_id.index == 1);
        ensure!(kept, "step {step} of the disk failed while one was written; another is gone");
        let there = found.len() == 2 || !committed;
        ensure!(there, "step {step} of the disk failed, the commit succeeded, and it is not there");
        if !failed {
            break;
        }
    }
    KEPT
}

pub(super) async fn damage_is_an_error(fixture: Fixture) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    let store = fixture.open().await.promised("opening the store")?;
    let bytes = pattern(1, 150_000);
    let committed = commit(&*store, meta(1, 1), &bytes).await?;
    drop(store);
    let whole = disk.image();
    for (name, len) in whole.list() {
        let places =
            (0..len.min(300)).chain((300..len).step_by(997)).chain(len.max(300) - 300..len);
        for at in places {
            for cut in [false, true] {
                let mut image = whole.clone();
                match cut {
                    true => image.cut(&name, at),
                    false => image.flip(&name, at, 1 << (at % 8)),
                }
                disk.insert(image);
                let found = damaged(&fixture, &committed).await;
                let what = if cut { "cut off" } else { "flipped" };
                let wrong = found.is_some_and(|found| found != bytes);
                ensure!(!wrong, "{name} is {what} at byte {at}, and other bytes are read");
            }
        }
    }
    KEPT
}

/// What can be read of a snapshot that may be damaged, to its end; `None` if that is an error.
async fn damaged(fixture: &Fixture, committed: &SnapshotMeta) -> Option<Vec<u8>> {
    let store = fixture.open().await.ok()?;
    let listed = store.list().await.ok()?;
    // One that is not listed is not read; a list that shows another one is wrong.
    let found = listed.first()?;
    if found != committed {
        return Some(b"a description that nobody wrote".to_vec());
    }
    let mut reader = store.open(found, 0).await.ok()?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.ok()?;
    Some(bytes)
}

pub(super) async fn what_was_never_committed_takes_no_room(fixture: Fixture) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    let store = fixture.open().await.promised("opening the store")?;
    commit(&*store, meta(1, 1), &pattern(1, 10_000)).await?;
    for index in 2..12 {
        drop(begin(&*store, meta(1, index), &pattern(index, 300_000)).await?);
    }
    settle(&*store).await?;
    let used = disk.image().used();
    ensure!(used < 400_000, "ten of 300,000 bytes each were dropped, and {used} bytes are used");
    let unfinished = begin(&*store, meta(1, 20), &pattern(20, 300_000)).await?;
    drop((unfinished, store));
    disk.insert(disk.image());
    let store = fixture.open().await.promised("opening the store after a crash")?;
    settle(&*store).await?;
    let used = disk.image().used();
    ensure!(used < 100_000, "of 20,000 bytes committed {used} are used after a crash");
    disk.insert(Image::default());
    KEPT
}

/// Another commit: at the latest then what was dropped before must be gone.
async fn settle(store: &dyn SnapshotStore) -> Result<(), Broken> {
    commit(store, meta(2, 1), &pattern(2, 10_000)).await.map(drop)
}

const NO_DISK: &str = "the store is not on `Files`";

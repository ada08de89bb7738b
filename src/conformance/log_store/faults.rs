//! What a log does when its disk fails, waits, or shows something else than was written.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::crashes::{History, NO_DISK, Written};
use super::model::{Model, Script, at, entries, entry};
use super::{LogStoreFixture, expect, look, try_look};
use crate::conformance::disk::{Disk, Image};
use crate::conformance::{Broken, KEPT, Outcome, Promised as _, not_applicable};
use crate::storage::StorageError;

type Fixture = Arc<dyn LogStoreFixture>;

pub(super) async fn a_failing_disk_loses_nothing_that_was_acknowledged(
    fixture: Fixture,
) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    let mut step = 0;
    loop {
        disk.insert(Image::default());
        disk.fail_at(step);
        let (history, acknowledged) = write_until_it_fails(&fixture).await;
        if !disk.has_failed() {
            return KEPT;
        }
        disk.crash_by(step as u64);
        let found = try_look(&*fixture).await;
        let (_, found) = found.promised(&format!("opening after a failure of step {step}"))?;
        let kept = history.find(&found, acknowledged, history.models.len() - 1);
        let say = |why| format!("step {step} of the disk failed, then the power; {why}");
        kept.map_err(|why| Broken::new(say(why)))?;
        step += 1;
    }
}

/// Everything that was tried, and how much of it must be there: what was acknowledged and synced.
async fn write_until_it_fails(fixture: &Fixture) -> (History, usize) {
    let mut history = History::new(Model::default());
    let mut script = Script::new(4, true);
    let Ok((mut store, _)) = try_look(&**fixture).await else { return (history, 0) };
    for count in 0..25 {
        let batch = script.batch();
        history.write(&batch);
        if store.write(batch).await.is_err() {
            return (history, count);
        }
    }
    (history, 25)
}

pub(super) async fn a_failed_write_is_final(fixture: Fixture) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    let mut failed = 0;
    for step in 0..40 {
        disk.insert(Image::default());
        let Ok((mut store, _)) = try_look(&*fixture).await else { continue };
        disk.fail_at(disk.steps() + step);
        for index in 1..=20 {
            if store.write(entries(1, index..=index)).await.is_err() {
                failed += 1;
                let again = store.write(entries(1, index..=index)).await;
                ensure!(again.is_err(), "a write succeeded after one that failed");
                let other = store.write(entries(1, index + 1..=index + 1)).await;
                ensure!(other.is_err(), "the second write succeeded after one that failed");
                break;
            }
        }
    }
    ensure!(failed > 0, "of 40 failures of the disk, no write said a word");
    KEPT
}

pub(super) async fn a_write_that_is_let_go_of_is_whole_or_absent(fixture: Fixture) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    let mut history = History::new(Model::default());
    let (mut store, _) = look(&*fixture).await?;
    history.write(&entries(1, 1..=5));
    store.write(entries(1, 1..=5)).await.promised("a write")?;
    disk.hold_syncs();
    let next = entries(2, 4..=9);
    history.write(&next);
    let mut writing = store.write(next);
    let poll = look_in(writing.as_mut());
    ensure!(poll.is_pending(), "a synced write was acknowledged while the disk held its sync back");
    drop(writing);
    disk.release_syncs();
    let later = entries(3, 7..=7);
    // Refused, or done: then the one that was let go of was done too.
    let done = store.write(later.clone()).await.is_ok();
    if done {
        history.write(&later);
    }
    drop(store);
    let (_, found) = look(&*fixture).await?;
    let (least, most) = if done { (3, 3) } else { (1, 2) };
    let kept = history.find(&found, least, most);
    kept.map_err(|why| Broken::new(format!("after a write was let go of, {why}")))?;
    KEPT
}

pub(super) async fn a_read_does_not_wait_for_a_write(fixture: Fixture) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    let (mut store, _) = look(&*fixture).await?;
    store.write(entries(1, 1..=5)).await.promised("a write")?;
    let reader = store.reader();
    disk.hold_syncs();
    let mut writing = store.write(entries(1, 6..=6));
    ensure!(look_in(writing.as_mut()).is_pending(), "a write did not wait for its sync");
    // Where it waits for the write, nothing wakes it.
    let read = reader.read(2..4, u64::MAX).await.promised("a read beside a write")?;
    disk.release_syncs();
    writing.await.promised("a write whose sync took long")?;
    ensure!(read == [entry(at(1, 2), 20), entry(at(1, 3), 20)], "a read beside a write is wrong");
    KEPT
}

pub(super) async fn a_flipped_bit_is_found(fixture: Fixture) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    let (written, whole) = closed(&fixture, &disk).await?;
    let count = written.history.models.len() - 1;
    let places: Vec<(String, usize)> = places(&whole).collect();
    for (number, (name, at)) in places.into_iter().enumerate() {
        let mut image = whole.clone();
        image.flip(&name, at, 1 << (number % 8));
        disk.insert(image);
        let Ok(found) = found(&fixture).await? else { continue };
        let kept = written.history.find(&found, count - 1, count);
        let say = |why| format!("a bit is flipped in byte {at} of {name}, and not found: {why}");
        kept.map_err(|why| Broken::new(say(why)))?;
    }
    KEPT
}

pub(super) async fn a_cut_log_shows_nothing_that_was_not_written(fixture: Fixture) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    let (written, whole) = closed(&fixture, &disk).await?;
    let missing = whole.list().into_iter().map(|(name, _)| (name, None));
    let cuts = places(&whole).map(|(name, at)| (name, Some(at)));
    for (name, cut) in missing.chain(cuts).collect::<Vec<_>>() {
        let mut image = whole.clone();
        match cut {
            None => image.remove(&name),
            Some(len) => image.cut(&name, len),
        }
        disk.insert(image);
        let Ok(found) = found(&fixture).await? else { continue };
        // Where the end is missing, older parts may be gone already, for what the end said; so this
        // need not be what was there at any one time.
        let what = cut.map_or_else(|| "gone".to_owned(), |len| format!("cut to {len} bytes"));
        let shown = written.history.invented(&found);
        ensure!(
            shown.is_none(),
            "{name} is {what}, and the log shows {}",
            shown.unwrap_or_default()
        );
    }
    KEPT
}

/// A log that was closed, and its disk.
async fn closed(fixture: &Fixture, disk: &Disk) -> Result<(Written, Image), Broken> {
    let written = Written::new(fixture, disk, 5, 20).await?;
    // Opened and closed once more, so that what recovery tidies up is tidy.
    let last = &written.history.models[written.history.models.len() - 1];
    drop(expect(&**fixture, last, "opened anew").await?);
    Ok((written, disk.image()))
}

/// What the store shows; a refusal is as good.
async fn found(fixture: &Fixture) -> Result<Result<super::model::Contents, StorageError>, Broken> {
    match try_look(&**fixture).await {
        Ok((_, found)) => Ok(Ok(found)),
        Err(StorageError::Compacted { first }) => {
            Err(Broken::new(format!("damage was taken for compaction to {first}")))
        }
        Err(refused) => Ok(Err(refused)),
    }
}

/// Polls once, for nobody.
fn look_in<T>(future: Pin<&mut (dyn Future<Output = T> + Send + '_)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Some bytes of each file: many near its beginning, and fewer further on.
fn places(image: &Image) -> impl Iterator<Item = (String, usize)> + use<> {
    image.list().into_iter().flat_map(|(name, len)| {
        let near = 0..len.min(200);
        let far = (200..len).step_by((len / 400).max(1));
        near.chain(far).map(move |at| (name.clone(), at)).collect::<Vec<_>>()
    })
}

//! What a crash may take from a log, and what not.

use std::sync::Arc;

use super::model::{Contents, Model, Script, entries};
use super::{LogStoreFixture, expect, look, try_look};
use crate::conformance::disk::{Disk, Image, Survival};
use crate::conformance::{Broken, KEPT, Outcome, Promised as _, not_applicable};
use crate::storage::WriteBatch;

type Fixture = Arc<dyn LogStoreFixture>;

pub(super) async fn what_was_synced_survives_a_crash(fixture: Fixture) -> Outcome {
    let mut model = Model::default();
    for round in 0..10 {
        let mut store = expect(&*fixture, &model, &format!("after {round} crashes")).await?;
        let last = model.last().index;
        let unsynced = WriteBatch { sync: false, ..entries(round + 1, last + 1..=last + 2) };
        let synced = entries(round + 1, last + 3..=last + 5);
        for batch in [unsynced, synced] {
            model.write(&batch);
            store.write(batch).await.promised("a write")?;
        }
        drop(store);
        fixture.crash().await;
    }
    expect(&*fixture, &model, "after ten crashes").await?;
    KEPT
}

pub(super) async fn a_crash_leaves_whole_batches(fixture: Fixture) -> Outcome {
    let (mut script, mut model) = (Script::new(1, false), Model::default());
    for round in 0..30 {
        let mut store = expect(&*fixture, &model, "after a crash and a look").await?;
        script.go_on_from(model.clone());
        let mut history = History::new(model);
        for _ in 0..script.number(25) {
            let batch = script.batch();
            history.write(&batch);
            store.write(batch).await.promised("a write")?;
        }
        drop(store);
        fixture.crash().await;
        let (store, found) = look(&*fixture).await?;
        drop(store);
        let kept = history.find(&found, history.synced, history.models.len() - 1);
        let kept = kept.map_err(|why| Broken::new(format!("after crash {round}, {why}")))?;
        model = history.models.swap_remove(kept);
    }
    KEPT
}

pub(super) async fn a_crash_at_any_step_loses_nothing_that_was_synced(fixture: Fixture) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    for seed in 0..2 {
        let written = Written::new(&fixture, &disk, seed, 25).await?;
        let mut crashes = disk.crashes();
        while let Some((step, moment)) = crashes.next() {
            let (least, most) = written.range(step);
            for (survival, how) in survivals(step) {
                disk.insert(moment.crash(survival));
                let found = try_look(&*fixture).await;
                let (_, found) = found.promised(&format!("opening after a crash {how}"))?;
                let kept = written.history.find(&found, least, most);
                let say =
                    |why| format!("after a crash before step {step} of the disk {how}, {why}");
                kept.map_err(|why| Broken::new(say(why)))?;
            }
        }
        disk.insert(Image::default());
    }
    KEPT
}

pub(super) async fn a_crash_during_recovery_changes_nothing(fixture: Fixture) -> Outcome {
    let Some(disk) = fixture.disk() else { return not_applicable(NO_DISK) };
    let written = Written::new(&fixture, &disk, 9, 30).await?;
    let mut crashes = disk.crashes();
    while let Some((step, moment)) = crashes.next() {
        if step % 5 != 0 {
            continue;
        }
        let (least, most) = written.range(step);
        disk.insert(moment.crash(Survival::Chance(step as u64)));
        drop(look(&*fixture).await?);
        let mut again = disk.crashes();
        while let Some((second, moment)) = again.next() {
            for (survival, how) in survivals(second) {
                disk.insert(moment.crash(survival));
                let (_, found) = look(&*fixture).await?;
                let kept = written.history.find(&found, least, most);
                let say = |why| {
                    format!(
                        "after crashes before step {step}, and {second} of recovery {how}, {why}"
                    )
                };
                kept.map_err(|why| Broken::new(say(why)))?;
            }
        }
    }
    KEPT
}

/// A log that was written on a disk from the beginning, and what it was after each batch.
pub(super) struct Written {
    pub(super) history: History,
    /// How many steps of the disk there were when each batch was acknowledged.
    acknowledged: Vec<usize>,
    /// How many batches were certainly durable then.
    synced: Vec<usize>,
}

impl Written {
    pub(super) async fn new(
        fixture: &Fixture,
        disk: &Disk,
        seed: u64,
        batches: usize,
    ) -> Result<Self, Broken> {
        let mut script = Script::new(seed, false);
        let mut history = History::new(Model::default());
        let mut store = expect(&**fixture, &Model::default(), "when it is new").await?;
        let (mut acknowledged, mut synced) = (Vec::new(), Vec::new());
        for _ in 0..batches {
            let batch = script.batch();
            history.write(&batch);
            store.write(batch).await.promised("a write")?;
            acknowledged.push(disk.steps());
            synced.push(history.synced);
        }
        Ok(Self { history, acknowledged, synced })
    }

    /// How many batches a crash before this step must leave at least, and may leave at most.
    fn range(&self, step: usize) -> (usize, usize) {
        let count = self.acknowledged.partition_point(|&at| at <= step);
        let least = count.checked_sub(1).map_or(0, |last| self.synced[last]);
        (least, (count + 1).min(self.acknowledged.len()))
    }
}

/// What a log is after each of some batches.
pub(super) struct History {
    pub(super) models: Vec<Model>,
    /// How many of them a crash must leave.
    pub(super) synced: usize,
}

impl History {
    pub(super) fn new(model: Model) -> Self {
        Self { models: vec![model], synced: 0 }
    }

    pub(super) fn write(&mut self, batch: &WriteBatch) {
        let mut model = self.models[self.models.len() - 1].clone();
        model.write(batch);
        self.models.push(model);
        if batch.sync {
            self.synced = self.models.len() - 1;
        }
    }

    /// After how many batches a log is as it was found, of `least` to `most`; or how it is not.
    pub(super) fn find(
        &self,
        found: &Contents,
        least: usize,
        most: usize,
    ) -> Result<usize, String> {
        // The latest counts: batches may have no effect.
        let is = |count: &usize| self.models[*count].contents() == *found;
        if let Some(count) = (least..=most).rev().find(is) {
            return Ok(count);
        }
        if let Some(count) = (0..least).rev().find(is) {
            let lost = least - count;
            return Err(format!("{lost} of {least} batches are lost that were acknowledged"));
        }
        let difference = found.difference(&self.models[most].contents());
        Err(format!(
            "the log is what it was after no whole batch; after {most} batches, {difference}"
        ))
    }
}

impl History {
    /// What a log shows that it never held.
    pub(super) fn invented(&self, found: &Contents) -> Option<String> {
        let all: Vec<Contents> = self.models.iter().map(Model::contents).collect();
        let known = |is: &dyn Fn(&Contents) -> bool| all.iter().any(is);
        if !known(&|then| then.base == found.base) {
            return Some(format!("a base that it never had: {:?}", found.base));
        }
        if !known(&|then| then.hard_state == found.hard_state) {
            return Some(format!("a hard state that it never had: {:?}", found.hard_state));
        }
        if !known(&|then| then.identity == found.identity) {
            return Some(format!("an identity that it never had: {:?}", found.identity));
        }
        let mut next = found.base.log_id.index + 1;
        for entry in &found.entries {
            if entry.log_id().index != next || !known(&|then| then.entries.contains(entry)) {
                return Some(format!("an entry {} in the place of {next}", entry.log_id()));
            }
            next += 1;
        }
        (found.last.index + 1 != next).then(|| format!("an end {} that is not there", found.last))
    }
}

/// Ways for a crash to go, and what they are called.
fn survivals(seed: usize) -> [(Survival, &'static str); 4] {
    let seed = seed as u64;
    [
        (Survival::Nothing, "that kept nothing that was not synced"),
        (Survival::All, "that kept everything"),
        (Survival::Chance(2 * seed), "that kept what chance had"),
        (Survival::Chance(2 * seed + 1), "that kept what chance had"),
    ]
}

pub(super) const NO_DISK: &str = "the store is not on `Files`";

//! What a run has to say in the end.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use kontiki_sim::history::{History, Outcome as Fate};
use serde_json::json;

use super::machine::Machine;
use super::nemesis::Tally;
use super::{KEPT, Options, Trouble};

/// What became of one cluster.
pub(crate) struct Outcome {
    pub(crate) size: usize,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) tally: Tally,
    pub(crate) longest_silence: Duration,
    /// Why it has passed, if it has.
    pub(crate) proof: String,
    pub(crate) trouble: Option<Trouble>,
    operations: usize,
    done: usize,
    not_applied: usize,
    unknown: usize,
}

impl Outcome {
    pub(crate) fn new(size: usize, seed: u64) -> Self {
        Self {
            size,
            seed,
            seconds: 0,
            tally: Tally::new(),
            longest_silence: Duration::ZERO,
            proof: String::new(),
            trouble: None,
            operations: 0,
            done: 0,
            not_applied: 0,
            unknown: 0,
        }
    }

    pub(crate) fn count(&mut self, history: &History) {
        let all = history.operations();
        let count = |fits: fn(&Fate) -> bool| all.iter().filter(|one| fits(&one.outcome)).count();
        self.operations = all.len();
        self.done = count(|fate| matches!(fate, Fate::Done { .. }));
        self.not_applied = count(|fate| matches!(fate, Fate::NotApplied { .. }));
        self.unknown = count(|fate| matches!(fate, Fate::Unknown));
    }

    fn verdict(&self) -> (&'static str, &str) {
        match &self.trouble {
            None => ("pass", &self.proof),
            Some(Trouble::Harness(why)) => ("unknown", why),
            Some(Trouble::Violation(what)) => ("FAIL", what),
        }
    }

    pub(crate) fn print(&self) {
        let (verdict, why) = self.verdict();
        println!(
            "   {} operations in {} s: {} answered, {} not applied, {} unknown",
            self.operations, self.seconds, self.done, self.not_applied, self.unknown
        );
        println!(
            "   after a step, writes were acknowledged again within {:.1} s at most",
            self.longest_silence.as_secs_f64()
        );
        println!("== {} servers: {verdict}: {why}", self.size);
    }

    fn json(&self) -> serde_json::Value {
        let (verdict, why) = self.verdict();
        let faults: BTreeMap<_, _> =
            self.tally.iter().map(|(kind, (times, _))| (*kind, *times)).collect();
        json!({
            "servers": self.size,
            "seed": self.seed,
            "seconds": self.seconds,
            "operations": self.operations,
            "done": self.done,
            "not_applied": self.not_applied,
            "unknown": self.unknown,
            "longest_silence_ms": self.longest_silence.as_millis() as u64,
            "faults": faults,
            "verdict": verdict,
            "why": why,
        })
    }
}

/// Prints what happened how often, keeps it as JSON, and says whether the run has passed: each
/// cluster has, and each kind that was chosen was seen to happen.
pub(crate) fn finish(
    options: &Options,
    kinds: &[&'static str],
    machine: &Machine,
    outcomes: &[Outcome],
) -> Result<(), String> {
    let mut tally = Tally::new();
    for (kind, (times, servers)) in outcomes.iter().flat_map(|outcome| &outcome.tally) {
        let (all_times, all_servers) = tally.entry(kind).or_default();
        *all_times += times;
        *all_servers += servers;
    }
    for kind in kinds {
        let (times, servers) = tally.get(kind).copied().unwrap_or_default();
        println!("   {kind:14} {times:4} times, {servers:4} servers");
    }
    let report = json!({
        "seed": options.seed,
        "skipped": machine.missing,
        "clusters": outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
    });
    let file = format!("{KEPT}/report.json");
    fs::write(&file, format!("{report:#}\n")).map_err(|error| format!("{file}: {error}"))?;
    if outcomes.iter().any(|outcome| outcome.trouble.is_some()) {
        return Err("not passed".to_owned());
    }
    let absent: Vec<_> =
        kinds.iter().filter(|kind| tally.get(*kind).is_none_or(|(times, _)| *times == 0)).collect();
    if !absent.is_empty() {
        return Err(format!("unknown: these never happened: {absent:?}"));
    }
    Ok(())
}

//! The part of a run that is inside the namespaces: one cluster after another.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::cluster::Cluster;
use super::freezer::Freezer;
use super::machine::{Machine, REQUIRED};
use super::nemesis::{Nemesis, Tally};
use super::plan::{self, Amounts, Step};
use super::report::{self, Outcome};
use super::shell::{sh, try_sh};
use super::workload::{Recorder, Workload};
use super::{BASE, KEPT, OWNER, Options, Trouble, judge, lab};
use crate::wall;

pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let options = Options::parse(words)?;
    wall::spawn(end_with_the_outside);
    sh(&format!("mount -t tmpfs -o size=3g tmpfs {BASE}"))?;
    lab::prepare()?;
    let base = Path::new(BASE).join(std::env::var(OWNER).unwrap_or_default());
    fs::create_dir(&base).map_err(|error| format!("{}: {error}", base.display()))?;
    let base = fs::canonicalize(base).map_err(|error| error.to_string())?;
    let machine = Machine::probe(&base)?;
    let kinds: Vec<_> =
        options.kinds.iter().copied().filter(|kind| machine.kinds().contains(kind)).collect();
    check_machine(&options, &machine)?;
    let mut outcomes = Vec::new();
    for (place, size) in options.sizes.iter().enumerate() {
        let seed = options.seed.wrapping_add(place as u64);
        let steps = plan::draw(seed, *size, &kinds, options.share(place));
        println!("== {size} servers, {} steps", steps.len());
        let limit = Duration::from_secs(180)
            + SECONDS_PER_STEP * u32::try_from(steps.len()).unwrap_or(u32::MAX);
        let watch = Watch::start(limit);
        let outcome = one_cluster(&base, &machine, *size, seed, &steps);
        drop(watch);
        let passed = outcome.trouble.is_none();
        outcomes.push(outcome);
        if !passed {
            break;
        }
    }
    report::finish(&options, &kinds, &machine, &outcomes)
}

/// What was chosen and cannot be done is counted; what is required and cannot be done fails.
fn check_machine(options: &Options, machine: &Machine) -> Result<(), String> {
    let skipped: Vec<_> =
        machine.missing.iter().filter(|(kind, _)| options.kinds.contains(kind)).collect();
    for (kind, why) in &skipped {
        println!("   skipped: {kind}: {why}");
    }
    println!("   {} of {} kinds are skipped", skipped.len(), options.kinds.len());
    let required = skipped.iter().find(|(kind, _)| REQUIRED.contains(kind));
    match required {
        Some((kind, _)) if !options.skips_missing => {
            Err(format!("{kind} is required (--skip-missing lets that pass)"))
        }
        _ => Ok(()),
    }
}

fn one_cluster(base: &Path, machine: &Machine, size: usize, seed: u64, steps: &[Step]) -> Outcome {
    let recorder = Arc::new(Recorder::new());
    let mut outcome = Outcome::new(size, seed);
    let formed = Cluster::form(base, machine, size);
    let done = formed.and_then(|mut cluster| {
        let run = under_plan(&mut cluster, machine, &recorder, steps, &mut outcome);
        let judged = run.and_then(|()| judge::judge(&mut cluster, &recorder));
        if judged.is_err() {
            keep(&mut cluster, &recorder, seed, steps);
        }
        judged
    });
    outcome.seconds = recorder.elapsed().as_secs();
    outcome.count(&recorder.history());
    match done {
        Ok(proof) => outcome.proof = proof,
        Err(trouble) => outcome.trouble = Some(trouble),
    }
    outcome.print();
    outcome
}

fn under_plan(
    cluster: &mut Cluster,
    machine: &Machine,
    recorder: &Arc<Recorder>,
    steps: &[Step],
    outcome: &mut Outcome,
) -> Result<(), Trouble> {
    let workload = Workload::start(recorder, &cluster.addresses(), outcome.seed);
    let dice = Rng::with_seed(outcome.seed ^ 0xd1ce);
    let tally = Tally::new();
    let longest_silence = Duration::ZERO;
    let mut nemesis = Nemesis { cluster, machine, recorder, dice, tally, longest_silence };
    let mut done = Ok(());
    for (number, step) in steps.iter().enumerate() {
        println!("   {:6.1} s, step {}: {step}", recorder.elapsed().as_secs_f64(), number + 1);
        done = nemesis.take(step);
        if done.is_err() {
            break;
        }
    }
    done = done.and_then(|()| make_up(&mut nemesis, steps, outcome.seed));
    (outcome.tally, outcome.longest_silence) = (nemesis.tally, nemesis.longest_silence);
    let finished = workload.finish().map_err(Trouble::Harness);
    done.and(finished)
}

/// Whether a full disk or a failing sync is met depends on what the victim was about to write. What
/// was planned and was not seen to happen is tried again.
fn make_up(nemesis: &mut Nemesis<'_>, steps: &[Step], seed: u64) -> Result<(), Trouble> {
    for round in 0..MAKE_UP_ROUNDS {
        let planned = steps.iter().flat_map(|step| &step.acts).map(|act| act.fault.kind());
        let mut absent: Vec<_> = planned.filter(|kind| !nemesis.has_seen(kind)).collect();
        absent.sort_unstable();
        absent.dedup();
        let amounts = Amounts { each: 1, kills: 0, power_cuts: 0 };
        let servers = nemesis.cluster.servers.len();
        for kind in absent {
            let again = plan::draw(seed.wrapping_add(100 + round), servers, &[kind], amounts);
            for step in &again {
                println!("   not seen yet: {step}");
                nemesis.take(step)?;
            }
        }
    }
    Ok(())
}

/// Keeps what somebody needs who wants to know why a run failed.
fn keep(cluster: &mut Cluster, recorder: &Recorder, seed: u64, steps: &[Step]) {
    for server in &mut cluster.servers {
        server.kill();
    }
    let place = format!("{KEPT}/failed-{seed}-{}", cluster.servers.len());
    let saved = || -> std::io::Result<()> {
        // An earlier run of the seed is of no more use.
        drop(fs::remove_dir_all(&place));
        fs::create_dir_all(&place)?;
        let plan: Vec<String> = steps.iter().map(Step::to_string).collect();
        fs::write(format!("{place}/plan.txt"), plan.join("\n"))?;
        fs::write(format!("{place}/history.json"), serde_json::to_vec(&recorder.history())?)
    };
    if let Err(error) = saved() {
        println!("   {place}: {error}");
    }
    try_sh(&format!("cp -a {} {place}/notes", cluster.notes.display()));
    for server in &cluster.servers {
        try_sh(&format!("cp -a {} {place}/{}", server.directory.display(), server.name));
    }
    println!("   plan, history, outputs and stores are in {place}");
}

/// Ends this process, and with it all the others here, when the outside has ended.
fn end_with_the_outside() {
    let mut nothing = [0];
    while matches!(std::io::stdin().read(&mut nothing), Ok(1)) {}
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if let Some(freezer) = Freezer::find(&mounts) {
        let owner = std::env::var(OWNER).unwrap_or_default();
        freezer.remove_groups(|found| found.to_string() == owner);
    }
    std::process::exit(130);
}

/// Ends the run if it takes too long.
struct Watch(std::sync::mpsc::Sender<()>);

impl Watch {
    fn start(limit: Duration) -> Self {
        let (alive, ended) = std::sync::mpsc::channel::<()>();
        wall::spawn(move || {
            let timeout = std::sync::mpsc::RecvTimeoutError::Timeout;
            if ended.recv_timeout(limit) == Err(timeout) {
                println!("== unknown: not finished after {} s", limit.as_secs());
                std::process::exit(1);
            }
        });
        Self(alive)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The watch may have ended the run already.
        let _ = self.0.send(());
    }
}

const SECONDS_PER_STEP: Duration = Duration::from_secs(8);
const MAKE_UP_ROUNDS: u64 = 3;

//! Many seeds, and the figures of all of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kontiki_sim::{
    Case, Counts, DiskKind, NetworkKind, Options, Plan, Report, SOMETIMES, run, run_traced,
};

use crate::{Failed, processor};

/// On what seeds run, if not on what each draws.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct World {
    /// Everything on simulated files and connections, with HTTP, whatever the seed says.
    #[arg(long)]
    bytes: bool,
    /// Everything on objects and messages, whatever the seed says.
    #[arg(long, conflicts_with = "bytes")]
    objects: bool,
    /// So many voters, whatever the seed says.
    #[arg(long)]
    voters: Option<u64>,
}

impl World {
    pub(crate) const BYTES: Self = Self { bytes: true, objects: false, voters: None };

    pub(crate) fn case(self, seed: u64) -> Case {
        let mut options = Options::from_seed(seed);
        options.voters = self.voters.unwrap_or(options.voters);
        if self.bytes || self.objects {
            let (disk, network) = match self.bytes {
                true => (DiskKind::Bytes, NetworkKind::Streams),
                false => (DiskKind::Objects, NetworkKind::Messages),
            };
            (options.disk, options.network, options.http) = (disk, network, self.bytes);
        }
        let plan = Plan::from_options(&options);
        Case { options, plan }
    }

    pub(crate) fn hash(self, seed: u64) -> u64 {
        let case = self.case(seed);
        run(&case.options, &case.plan).trace
    }
}

#[derive(clap::Args)]
pub(crate) struct Seeds {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Begin no new seed after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// How many seeds run at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    #[command(flatten)]
    world: World,
    /// Fail unless every remarkable thing came about.
    #[arg(long)]
    must_see: bool,
    /// Fail one seed in a hundred on purpose.
    #[arg(long)]
    canary: bool,
    /// Write all figures to this file, as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Where a failing case is left, with the end of what happened.
    #[arg(long, default_value = "target/sim-failures")]
    failures: PathBuf,
}

/// All figures of many runs.
#[derive(Default, serde::Serialize)]
struct Totals {
    seeds: u64,
    virtual_seconds: f64,
    processor_seconds: f64,
    times_real: f64,
    /// Virtual seconds in the time that the yardstick takes.
    per_yardstick: f64,
    counts: Counts,
    sometimes: BTreeMap<&'static str, u64>,
    /// What happened in one seed of a hundred, to be held against another process.
    hashes: BTreeMap<u64, String>,
    violations: Vec<String>,
    #[serde(skip)]
    yardsticks: Vec<Duration>,
}

impl Seeds {
    #[expect(clippy::disallowed_methods, reason = "the runs are in virtual time, the tool is not")]
    pub(crate) fn run(&self) -> Result<(), Failed> {
        let next = AtomicU64::new(self.first);
        let totals = Mutex::new(Totals::default());
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    let before = processor::yardstick();
                    self.work(&next, began, &totals);
                    let after = processor::yardstick();
                    if let Ok(mut totals) = totals.lock() {
                        totals.yardsticks.extend([before, after]);
                    }
                });
            }
        });
        let mut totals = totals.into_inner().map_err(|error| error.to_string())?;
        totals.times_real = totals.virtual_seconds / totals.processor_seconds.max(0.001);
        let sum: Duration = totals.yardsticks.iter().sum();
        let count = totals.yardsticks.len().max(1) as f64;
        totals.per_yardstick = totals.times_real * sum.as_secs_f64() / count;
        self.tell(&totals)
    }

    fn work(&self, next: &AtomicU64, began: Instant, totals: &Mutex<Totals>) {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let late = self.seconds.is_some_and(|s| began.elapsed() >= Duration::from_secs(s));
            let failed = totals.lock().is_ok_and(|totals| !totals.violations.is_empty());
            if seed >= self.first.saturating_add(self.count) || late || failed {
                return;
            }
            let mut case = self.world.case(seed);
            case.options.canary = self.canary;
            let started = processor::time();
            let report = run(&case.options, &case.plan);
            let took = processor::time().saturating_sub(started);
            if report.violation.is_some() {
                self.leave(&case);
            }
            if let Ok(mut totals) = totals.lock() {
                totals.take(&report, took);
            }
        }
    }

    /// Leaves what it takes to repeat a failure, and the last that happened in it.
    fn leave(&self, case: &Case) {
        let path = |ending| self.failures.join(format!("{}.{ending}", case.options.seed));
        let (_, mut lines) = run_traced(&case.options, &case.plan);
        lines.retain(|line| !line.starts_with("timer"));
        let last = lines[lines.len().saturating_sub(LINES_LEFT)..].join("\n");
        let written =
            serde_json::to_string_pretty(case).map_err(std::io::Error::from).and_then(|text| {
                std::fs::create_dir_all(&self.failures)?;
                std::fs::write(path("json"), text)?;
                std::fs::write(path("txt"), last)
            });
        match written {
            Ok(()) => eprintln!("repeat it with `replay {}`", path("json").display()),
            Err(error) => eprintln!("{}: {error}", self.failures.display()),
        }
    }

    fn tell(&self, totals: &Totals) -> Result<(), Failed> {
        let Totals { seeds, virtual_seconds, times_real, counts, .. } = totals;
        println!(
            "{seeds} seeds, {:.2} cluster-hours, {times_real:.0} times real, \
             {:.1} virtual seconds in the time of the yardstick",
            virtual_seconds / 3600.0,
            totals.per_yardstick
        );
        println!(
            "{} checks, {} crashes, {} partitions, {} disk faults, {} elections, \
             {} membership changes",
            counts.checks,
            counts.crashes,
            counts.partitions,
            counts.disk_faults,
            counts.elections,
            counts.membership_changes,
        );
        println!(
            "{} operations ({:.1} a virtual second), {} of unknown outcome, {} commands applied, \
             {} messages",
            counts.operations,
            counts.operations as f64 / virtual_seconds.max(1.0),
            counts.unknown,
            counts.applied,
            counts.messages
        );
        let seen = totals.sometimes.len();
        println!("{seen} of {} remarkable things came about", SOMETIMES.len());
        if let Some(path) = &self.report {
            let text = serde_json::to_string_pretty(totals).map_err(|error| error.to_string())?;
            std::fs::write(path, text).map_err(|error| error.to_string())?;
        }
        if let Some(violation) = totals.violations.first() {
            return Err(Failed::Violation(violation.clone()));
        }
        let names = SOMETIMES.iter().map(|one| one.name);
        let unseen: Vec<&str> = names.filter(|name| !totals.sometimes.contains_key(name)).collect();
        if !unseen.is_empty() {
            println!("never: {}", unseen.join(", "));
        }
        if self.must_see && !unseen.is_empty() {
            return Err(Failed::Unseen(format!("{} things never came about", unseen.len())));
        }
        Ok(())
    }
}

impl Totals {
    fn take(&mut self, report: &Report, took: Duration) {
        self.seeds += 1;
        self.virtual_seconds += report.virtual_time.as_secs_f64();
        self.processor_seconds += took.as_secs_f64();
        self.counts.add(&report.counts);
        if report.seed.is_multiple_of(100) {
            self.hashes.insert(report.seed, format!("{:016x}", report.trace));
        }
        for (name, count) in &report.sometimes {
            *self.sometimes.entry(name).or_default() += count;
        }
        if let Some(violation) = &report.violation {
            self.violations.push(format!("seed {}: {violation}", report.seed));
        }
    }
}

/// How much of what happened before a failure is left, in lines.
const LINES_LEFT: usize = 200;

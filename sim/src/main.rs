//! The simulator on the command line: run seeds, repeat one, make a failing one smaller.

#[cfg(feature = "mutants")]
mod mutants;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use kontiki_sim::{Case, Counts, DiskKind, NetworkKind, Report, run, shrink};

/// Whole clusters in virtual time, under faults.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plant every defect there is, and see each found.
    #[cfg(feature = "mutants")]
    Mutants,
    /// Run many seeds; stop at the first violation.
    Seeds(Seeds),
    /// Run one seed, or a saved case, and tell what happened.
    Replay {
        /// A seed, or a file that `shrink` or `show` has written.
        what: String,
        /// Write what happened, line by line, to this file.
        #[arg(long)]
        trace: Option<PathBuf>,
    },
    /// Print what a seed stands for, to be saved and edited.
    Show {
        /// The seed.
        seed: u64,
    },
    /// Make a failing seed or case smaller, and print it.
    Shrink {
        /// A seed, or a file.
        what: String,
        /// How many runs it may take.
        #[arg(long, default_value_t = 300)]
        runs: usize,
    },
}

#[derive(clap::Args)]
struct Seeds {
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
    /// Everything on simulated files and connections, whatever the seed says.
    #[arg(long)]
    bytes: bool,
    /// Everything on objects and messages, whatever the seed says.
    #[arg(long, conflicts_with = "bytes")]
    objects: bool,
    /// Fail unless each of these remarkable things came about, one a line.
    #[arg(long)]
    must_see: Option<PathBuf>,
    /// Write all figures to this file, as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        #[cfg(feature = "mutants")]
        Command::Mutants => mutants::hunt_all(),
        Command::Seeds(seeds) => seeds.run(),
        Command::Replay { what, trace } => replay(&what, trace.as_deref()),
        Command::Show { seed } => print_json(&Case::from_seed(seed)),
        Command::Shrink { what, runs } => smaller(&what, runs),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("kontiki-sim: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// All figures of many runs.
#[derive(Default, serde::Serialize)]
struct Totals {
    seeds: u64,
    virtual_seconds: f64,
    cpu_seconds: f64,
    times_real: f64,
    counts: Counts,
    sometimes: BTreeMap<&'static str, u64>,
    violations: Vec<String>,
}

impl Seeds {
    #[expect(clippy::disallowed_methods, reason = "the runs are in virtual time, the tool is not")]
    fn run(&self) -> Result<(), String> {
        let next = AtomicU64::new(self.first);
        let totals = Mutex::new(Totals::default());
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| self.work(&next, began, &totals));
            }
        });
        let mut totals = totals.into_inner().map_err(|error| error.to_string())?;
        totals.times_real = totals.virtual_seconds / totals.cpu_seconds.max(0.001);
        self.tell(&totals)
    }

    #[expect(clippy::disallowed_methods, reason = "the runs are in virtual time, the tool is not")]
    fn work(&self, next: &AtomicU64, began: Instant, totals: &Mutex<Totals>) {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let late = self.seconds.is_some_and(|s| began.elapsed() >= Duration::from_secs(s));
            let failed = totals.lock().is_ok_and(|totals| !totals.violations.is_empty());
            if seed >= self.first + self.count || late || failed {
                return;
            }
            let case = self.case(seed);
            let started = Instant::now();
            let report = run(&case.options, &case.plan);
            if let Ok(mut totals) = totals.lock() {
                totals.take(&report, started.elapsed());
            }
        }
    }

    fn case(&self, seed: u64) -> Case {
        let mut case = Case::from_seed(seed);
        if self.bytes {
            case.options.disk = DiskKind::Bytes;
            case.options.network = NetworkKind::Streams;
            case.options.http = true;
        }
        if self.objects {
            case.options.disk = DiskKind::Objects;
            case.options.network = NetworkKind::Messages;
            case.options.http = false;
        }
        case
    }

    fn tell(&self, totals: &Totals) -> Result<(), String> {
        let Totals { seeds, virtual_seconds, times_real, counts, .. } = totals;
        println!(
            "{seeds} seeds, {:.2} cluster-hours, {times_real:.0} times real",
            virtual_seconds / 3600.0
        );
        println!(
            "{} checks, {} crashes, {} partitions, {} disk faults, {} elections, {} membership changes",
            counts.checks,
            counts.crashes,
            counts.partitions,
            counts.disk_faults,
            counts.elections,
            counts.membership_changes,
        );
        println!(
            "{} operations, {} of unknown outcome, {} commands applied, {} messages",
            counts.operations, counts.unknown, counts.applied, counts.messages
        );
        for (name, count) in &totals.sometimes {
            println!("  {count:>8}  {name}");
        }
        if let Some(path) = &self.report {
            let text = serde_json::to_string_pretty(totals).map_err(|error| error.to_string())?;
            std::fs::write(path, text).map_err(|error| error.to_string())?;
        }
        if let Some(violation) = totals.violations.first() {
            return Err(violation.clone());
        }
        let Some(path) = &self.must_see else { return Ok(()) };
        let wanted = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let unseen: Vec<&str> = wanted
            .lines()
            .filter(|line| !line.is_empty() && !totals.sometimes.contains_key(line))
            .collect();
        if unseen.is_empty() { Ok(()) } else { Err(format!("never came about: {unseen:?}")) }
    }
}

impl Totals {
    fn take(&mut self, report: &Report, took: Duration) {
        self.seeds += 1;
        self.virtual_seconds += report.virtual_time.as_secs_f64();
        self.cpu_seconds += took.as_secs_f64();
        self.counts.add(&report.counts);
        for (name, count) in &report.sometimes {
            *self.sometimes.entry(name).or_default() += count;
        }
        if let Some(violation) = &report.violation {
            self.violations.push(format!("seed {}: {violation}", report.seed));
        }
    }
}

fn case(what: &str) -> Result<Case, String> {
    if let Ok(seed) = what.parse() {
        return Ok(Case::from_seed(seed));
    }
    let text = std::fs::read_to_string(what).map_err(|error| format!("{what}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{what}: {error}"))
}

fn replay(what: &str, trace: Option<&Path>) -> Result<(), String> {
    let case = case(what)?;
    let report = match trace {
        None => run(&case.options, &case.plan),
        Some(path) => {
            let (report, lines) = kontiki_sim::run_traced(&case.options, &case.plan);
            std::fs::write(path, lines.join("\n")).map_err(|error| error.to_string())?;
            report
        }
    };
    println!("trace {:016x}", report.trace);
    print_json(&report)?;
    report.violation.map_or(Ok(()), |violation| Err(violation.to_string()))
}

fn smaller(what: &str, runs: usize) -> Result<(), String> {
    let case = case(what)?;
    let report = run(&case.options, &case.plan);
    let violation = report.violation.ok_or("this case breaks nothing")?;
    eprintln!("{violation}");
    print_json(&shrink(&case, violation.invariant, runs))
}

fn print_json(value: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}

//! The simulator on the command line: run seeds, repeat one, make a failing one smaller.

mod dark;
#[cfg(feature = "mutants")]
mod hunts;
#[cfg(feature = "mutants")]
mod mutants;
mod processor;
mod seeds;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kontiki_sim::{Case, run, shrink};

use crate::seeds::{Seeds, World};

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
    Mutants(mutants::Mutants),
    /// Run every saved case in a folder: none may break anything.
    Cases {
        /// Where the files are.
        folder: PathBuf,
    },
    /// Switch the cause of each remarkable thing off, and see that it does not come about.
    Dark {
        /// How many seeds for each cause.
        #[arg(long, default_value_t = 30)]
        count: u64,
    },
    /// Print the hash of what happens in each of these seeds.
    Hashes {
        /// The seeds.
        seeds: Vec<u64>,
        #[command(flatten)]
        world: World,
    },
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

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        #[cfg(feature = "mutants")]
        Command::Mutants(mutants) => mutants.run().map_err(Failed::from),
        Command::Cases { folder } => cases(&folder),
        Command::Dark { count } => dark::see(count),
        Command::Hashes { seeds, world } => {
            seeds.iter().for_each(|&seed| println!("{seed} {:016x}", world.hash(seed)));
            Ok(())
        }
        Command::Seeds(seeds) => seeds.run(),
        Command::Replay { what, trace } => replay(&what, trace.as_deref()),
        Command::Show { seed } => print_json(&Case::from_seed(seed)).map_err(Failed::from),
        Command::Shrink { what, runs } => smaller(&what, runs),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("kontiki-sim: {failed}");
            failed.code()
        }
    }
}

/// Why a command does not end well.
#[derive(Debug)]
enum Failed {
    /// A promise was broken. The command ends with 1.
    Violation(String),
    /// The tool itself cannot go on. It ends with 2.
    Tool(String),
    /// What should have come about did not. It ends with 3.
    Unseen(String),
}

impl Failed {
    fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Violation(_) => 1,
            Self::Tool(_) => 2,
            Self::Unseen(_) => 3,
        })
    }
}

impl From<String> for Failed {
    fn from(reason: String) -> Self {
        Self::Tool(reason)
    }
}

impl From<&str> for Failed {
    fn from(reason: &str) -> Self {
        Self::Tool(reason.to_owned())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Violation(reason) | Self::Tool(reason) | Self::Unseen(reason)) = self;
        f.write_str(reason)
    }
}

fn case(what: &str) -> Result<Case, String> {
    if let Ok(seed) = what.parse() {
        return Ok(Case::from_seed(seed));
    }
    let text = std::fs::read_to_string(what).map_err(|error| format!("{what}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{what}: {error}"))
}

fn cases(folder: &Path) -> Result<(), Failed> {
    let listed = std::fs::read_dir(folder);
    let listed = listed.map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    paths.sort();
    if paths.is_empty() {
        return Err(format!("no case is in {}", folder.display()).into());
    }
    for path in &paths {
        let name = path.display().to_string();
        let case = case(&name)?;
        if let Some(violation) = run(&case.options, &case.plan).violation {
            return Err(Failed::Violation(format!("{name}: {violation}")));
        }
    }
    println!("{} cases of {} break nothing", paths.len(), folder.display());
    Ok(())
}

fn replay(what: &str, trace: Option<&Path>) -> Result<(), Failed> {
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
    let violation = report.violation.map(|violation| Failed::Violation(violation.to_string()));
    violation.map_or(Ok(()), Err)
}

fn smaller(what: &str, runs: usize) -> Result<(), Failed> {
    let case = case(what)?;
    let report = run(&case.options, &case.plan);
    let violation = report.violation.ok_or("this case breaks nothing")?;
    eprintln!("{violation}");
    Ok(print_json(&shrink(&case, violation.invariant, runs))?)
}

fn print_json(value: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}

//! The simulator, optimized: regressions, fresh seeds, and the same seed in two processes.

use std::process::Command;

use crate::steps::{cargo_command, output, run};

/// `cargo xtask sim …`: whatever the simulator's own command line takes.
pub(crate) fn pass_on(arguments: &[&str]) -> Result<(), String> {
    run(simulator().args(arguments))
}

/// What CI runs: fresh seeds for each commit, on both kinds of disk and network, then some of them
/// again in another process and another environment.
pub(crate) fn check() -> Result<(), String> {
    let first = first_seed()?.to_string();
    for kind in ["--objects", "--bytes"] {
        let seeds = ["seeds", "--first", &first, "--count", "100000", "--seconds", "90", kind];
        run(simulator().args(seeds))?;
    }
    for seed in [1, 2, 3, 4, 5, 6, 7, 8] {
        let seed = seed.to_string();
        let again = output(simulator().args(["replay", &seed]))?;
        let mut elsewhere = simulator();
        elsewhere.args(["replay", &seed]).env("LANG", "C").env("KONTIKI_ANYTHING", "1");
        if output(&mut elsewhere)? != again {
            return Err(format!("seed {seed} is another history in another process"));
        }
    }
    println!("   8 seeds: the same history in two processes");
    Ok(())
}

/// A function of the commit, so that each explores new ground and is repeatable.
fn first_seed() -> Result<u64, String> {
    let commit = output(Command::new("git").args(["rev-parse", "HEAD"]))?;
    let digits = commit.get(..8).ok_or("no commit")?;
    u64::from_str_radix(digits, 16).map_err(|error| error.to_string())
}

fn simulator() -> Command {
    cargo_command("run --quiet --profile sim -p kontiki-sim --features cli --")
}

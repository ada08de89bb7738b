//! The simulator, optimized: regressions, fresh seeds, and the same seed in two processes.

use std::process::Command;

use crate::steps::{cargo_command, output, run};

/// `cargo xtask sim …`: whatever the simulator's own command line takes.
pub(crate) fn pass_on(arguments: &[&str]) -> Result<(), String> {
    run(simulator().args(arguments))
}

/// What CI runs: the same seeds each time, on both kinds of disk and network, then some of them
/// again in another process and another environment. Fresh ones are `cargo xtask sim seeds …`.
pub(crate) fn check() -> Result<(), String> {
    for kind in ["--objects", "--bytes"] {
        run(simulator().args(["seeds", "--first", "1000", "--count", "300", kind]))?;
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

fn simulator() -> Command {
    cargo_command("run --quiet --profile sim -p kontiki-sim --features cli --")
}

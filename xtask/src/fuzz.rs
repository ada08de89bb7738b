//! Fuzzing: the committed corpora and mutations of them, with every assertion on.

use std::process::Command;

use crate::sim::first_seed;
use crate::steps::{cargo_command, run};

/// What CI runs: the corpora, and a minute of mutations that no other commit had.
pub(crate) fn check() -> Result<(), String> {
    run(fuzzer().args(["run", "--seconds", "60", "--seed", &first_seed()?.to_string()]))
}

/// `run [--seconds N] [--inputs N] [--seed N] [--target NAME]`, `replay TARGET FILE`, `seeds`.
pub(crate) fn pass_on(arguments: &[&str]) -> Result<(), String> {
    run(fuzzer().args(arguments))
}

fn fuzzer() -> Command {
    // The simulator's profile: optimized, with all assertions and overflow checks.
    cargo_command("run --quiet --profile sim --package kontiki-fuzz-targets --")
}

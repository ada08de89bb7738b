//! Fuzzing: the committed corpora and mutations of them, with every assertion on.

use std::process::Command;

use crate::steps::{cargo_command, run};

/// What CI runs: the corpora, and a minute of mutations, the same each time. Others are
/// `cargo xtask fuzz --seed N …`.
pub(crate) fn check() -> Result<(), String> {
    run(fuzzer().args(["run", "--seconds", "60"]))
}

/// `[run] [--seconds N] [--inputs N] [--seed N] [--target NAME]`, `replay TARGET FILE`, `seeds`.
pub(crate) fn pass_on(arguments: &[&str]) -> Result<(), String> {
    let mut fuzzer = fuzzer();
    if arguments.first().is_some_and(|first| first.starts_with("--")) {
        fuzzer.arg("run");
    }
    run(fuzzer.args(arguments))
}

fn fuzzer() -> Command {
    // The simulator's profile: optimized, with all assertions and overflow checks.
    cargo_command("run --quiet --profile sim --package kontiki-fuzz-targets --")
}

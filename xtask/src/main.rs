//! The one door: `cargo xtask check` is what CI runs, each step of it can be run alone.

#[cfg(target_os = "linux")]
mod chaos;
mod crash;
mod fuzz;
mod instructions;
mod kv;
mod nightly;
#[path = "../../tests/examples/ports.rs"]
mod ports;
mod server;
mod sim;
mod steps;
mod stores;
#[cfg(target_os = "linux")]
mod tools;
mod wall;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["check"] => steps::check(),
        ["bench", ref numbers @ ..] => steps::bench(numbers),
        #[cfg(target_os = "linux")]
        ["chaos", ref options @ ..] => chaos::run(options),
        #[cfg(target_os = "linux")]
        ["chaos-inside", ref options @ ..] => chaos::run_inside(options),
        ["crash", ref options @ ..] => crash::run(options),
        ["fuzz", ref options @ ..] if !options.is_empty() => fuzz::pass_on(options),
        ["mutants", ref options @ ..] if !options.is_empty() => sim::mutants(options),
        ["nightly", ref names @ ..] => nightly::run(names),
        ["sim", ref options @ ..] if !options.is_empty() => sim::pass_on(options),
        ["instructions", "--write"] => instructions::write(),
        [step] if steps::STEPS.iter().any(|(name, _)| *name == step) => steps::one(step),
        _ => Err(usage()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> String {
    let steps: Vec<&str> = steps::STEPS.iter().map(|(name, _)| *name).collect();
    let others = "check | nightly [PART …] | chaos [--seed N] … (Linux) | bench [ROUNDS [SECONDS]] \
                  | crash [--cycles N] [--seed N]";
    let sim = "sim seeds|replay|show|shrink … | mutants --fresh [--only NAME] [--record]";
    let fuzz = "fuzz [--seconds N] [--inputs N] [--seed N] [--target NAME] | fuzz replay|seeds …";
    format!("cargo xtask {others} | {fuzz} | {sim} | instructions --write | {}", steps.join(" | "))
}

//! The one door: `cargo xtask check` is what CI runs, each step of it can be run alone.

#[cfg(target_os = "linux")]
mod chaos;
mod crash;
mod instructions;
mod kv;
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
    let others = "check | chaos [--seed N] … (Linux) | bench [ROUNDS [SECONDS]] \
                  | crash [--cycles N] [--seed N]";
    let sim = "sim seeds|replay|show|shrink …";
    format!("cargo xtask {others} | {sim} | instructions --write | {}", steps.join(" | "))
}

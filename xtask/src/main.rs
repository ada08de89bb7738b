//! The one door: `cargo xtask check` is what CI runs, each step of it can be run alone.

mod crash;
mod kv;
mod server;
mod steps;
mod stores;
mod wall;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["check"] => steps::check(),
        ["crash", ref options @ ..] => crash::run(options),
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
    format!("cargo xtask check | crash [--cycles N] [--seed N] | {}", steps.join(" | "))
}

//! The one door: `cargo xtask check` is what CI runs, each step of it can be run alone.

#[cfg(target_os = "linux")]
mod chaos;
mod crash;
mod kv;
mod server;
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
        #[cfg(target_os = "linux")]
        ["chaos", ref options @ ..] => chaos::run(options),
        #[cfg(target_os = "linux")]
        ["chaos-inside", ref options @ ..] => chaos::run_inside(options),
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
    format!(
        "cargo xtask check | chaos [--seed N] … (Linux) | crash [--cycles N] [--seed N] | {}",
        steps.join(" | ")
    )
}

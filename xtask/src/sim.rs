//! The simulator, optimized: regressions, fresh seeds, and the same seed in two processes.

use std::process::Command;

use serde_json::Value;

use crate::steps::{cargo_command, output, run};

/// `cargo xtask sim …`: whatever the simulator's own command line takes.
pub(crate) fn pass_on(arguments: &[&str]) -> Result<(), String> {
    run(simulator().args(arguments))
}

/// What CI runs: saved cases first, then seeds that no other commit has run, on both kinds of disk
/// and network; a hundredth of them again in another process; and that a failure is told.
pub(crate) fn check() -> Result<(), String> {
    // Each of them broke something once, and does with the defect that is named so.
    run(simulator().args(["cases", "sim/mutants"]))?;
    canary()?;
    for world in ["objects", "bytes"] {
        let report = format!("target/sim-{world}.json");
        seeds(world, &["--count", "1000000", "--seconds", SECONDS, "--report", &report])?;
        let report = read(&report)?;
        is_as_fast_as(world, &report)?;
        same_elsewhere(world, &report)?;
    }
    Ok(())
}

/// What runs at night: as much as is promised, every remarkable thing seen, none of them seen
/// without its cause.
pub(crate) fn nightly() -> Result<(), String> {
    let mut done = vec![run(simulator().args(["dark", "--count", "60"]))];
    // What each seed draws for itself, where everything must come about; then either world alone.
    for (name, flags, count) in [
        ("sim", &["--must-see"][..], "4000"),
        ("sim-objects", &["--objects"], "5000"),
        ("sim-bytes", &["--bytes"], "3000"),
    ] {
        let report = format!("target/nightly/{name}.json");
        let figures = ["--count", count, "--report", &report];
        done.push(run(simulator()
            .args(["seeds", "--first", &tonight()])
            .args(flags)
            .args(figures)));
    }
    done.into_iter().collect()
}

/// Every night begins somewhere else.
#[expect(clippy::disallowed_methods, reason = "a tool for people, and the day is printed")]
pub(crate) fn tonight() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let day = since.map_or(0, |since| since.as_secs() / 86_400);
    println!("   seeds of day {day}");
    (day * 100_000).to_string()
}

fn seeds(world: &str, arguments: &[&str]) -> Result<(), String> {
    let world = format!("--{world}");
    run(simulator().args(["seeds", "--first", &first()?, &world]).args(arguments))
}

/// Every state of the sources begins somewhere else, and always there.
fn first() -> Result<String, String> {
    let tree = output(Command::new("git").args(["rev-parse", "HEAD^{tree}"]))?;
    let digits = tree.get(..8).ok_or("no tree")?;
    let number = u64::from_str_radix(digits, 16).map_err(|error| error.to_string())?;
    Ok((number * 1_000).to_string())
}

/// One seed of a hundred fails on purpose: it must be found, named, and left as a file.
fn canary() -> Result<(), String> {
    let folder = "target/sim-canary";
    let arguments = ["--count", "1000", "--jobs", "1", "--objects", "--canary"];
    let told = simulator()
        .args(["seeds", "--failures", folder])
        .args(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&told.stderr);
    let seed = said.split_once("seed ").and_then(|(_, rest)| rest.split(':').next());
    let left = seed.map(|seed| format!("{folder}/{seed}.json"));
    let named = told.status.code() == Some(1) && said.contains("Canary");
    let again = left.is_some_and(|left| {
        let again = simulator().args(["replay", &left]).output();
        again.is_ok_and(|again| again.status.code() == Some(1))
    });
    if named && again { Ok(()) } else { Err(format!("a failure on purpose was not told: {said}")) }
}

/// A hundredth of the seeds again, in another process, environment and folder.
fn same_elsewhere(world: &str, report: &Value) -> Result<(), String> {
    let hashes = report["hashes"].as_object().filter(|all| !all.is_empty());
    let hashes = hashes.ok_or("not one seed in a hundred was run")?;
    let mut elsewhere = Command::new(program()?);
    elsewhere.env_clear().env("LANG", "C").current_dir(std::env::temp_dir());
    elsewhere.args(["hashes", &format!("--{world}")]).args(hashes.keys());
    let again = output(&mut elsewhere)?;
    let expected: Vec<String> = hashes
        .iter()
        .map(|(seed, hash)| format!("{seed} {}", hash.as_str().unwrap_or_default()))
        .collect();
    for line in again.lines() {
        if !expected.iter().any(|one| one == line) {
            return Err(format!("another history in another process: {line}"));
        }
    }
    println!("   {} seeds: the same history in two processes", again.lines().count());
    if again.lines().count() == expected.len() { Ok(()) } else { Err("some are missing".into()) }
}

/// The simulator may not become slow unnoticed. The speed is held against a yardstick that is
/// measured in the same run, so that a slow machine does not count.
fn is_as_fast_as(world: &str, report: &Value) -> Result<(), String> {
    let kept = read("sim/speed.json")?;
    let kept = kept[world].as_f64().ok_or("no speed is kept")?;
    let now = report["per_yardstick"].as_f64().ok_or("no speed is told")?;
    let real = report["times_real"].as_f64().unwrap_or_default();
    println!("   {world}: {real:.0} times real; {now:.0} by the yardstick, {kept:.0} is kept");
    if now >= 0.7 * kept { Ok(()) } else { Err(format!("{world}: slower than is kept")) }
}

fn read(path: &str) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))
}

fn program() -> Result<std::path::PathBuf, String> {
    let folder = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let path = std::path::Path::new(&folder).join("sim/kontiki-sim");
    std::fs::canonicalize(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Every planted defect must break the case that was kept for it. `--fresh` hunts each afresh, and
/// other options are those of the simulator's own command.
pub(crate) fn mutants(options: &[&str]) -> Result<(), String> {
    let options = match options {
        [] => &["--recorded"],
        ["--fresh", others @ ..] => others,
        others => others,
    };
    run(cargo_command("run --quiet --profile sim -p kontiki-sim --features cli,mutants -- mutants")
        .args(options))
}

fn simulator() -> Command {
    cargo_command("run --quiet --profile sim -p kontiki-sim --features cli --")
}

/// How long fresh seeds run in CI on each kind of world.
const SECONDS: &str = "170";

//! The steps of CI.

use std::process::Command;
use std::time::Instant;

type Step = fn() -> Result<(), String>;

/// In the order in which they fail fastest.
pub(crate) const STEPS: &[(&str, Step)] = &[
    ("fmt", fmt),
    ("clippy", clippy),
    ("tree", tree),
    ("features", features),
    ("test", test),
    ("docs", docs),
    ("deny", deny),
    ("instructions", crate::instructions::compare),
    ("mutants", || crate::sim::mutants(&[])),
    ("fuzz", crate::fuzz::check),
    ("sim", crate::sim::check),
];

/// Steps that are run by name only: counts belong to one compiler.
const BY_NAME: [&str; 1] = ["instructions"];

#[expect(clippy::disallowed_methods, reason = "a tool for people tells how long it took")]
pub(crate) fn one(name: &str) -> Result<(), String> {
    let (_, step) = STEPS.iter().find(|(known, _)| *known == name).ok_or("no such step")?;
    let began = Instant::now();
    println!("== {name}");
    step().map_err(|reason| format!("{name}: {reason}"))?;
    println!("== {name}: ok after {} s", began.elapsed().as_secs());
    Ok(())
}

pub(crate) fn check() -> Result<(), String> {
    let mut now = STEPS.iter().filter(|(name, _)| !BY_NAME.contains(name));
    now.try_for_each(|(name, _)| one(name))?;
    crate::crash::run(&["--cycles", "20"])?;
    chaos(&["--kills", "10", "--power-cuts", "50"])
}

/// In CI the machine must be one that can do what is required; a person may have another.
#[cfg(target_os = "linux")]
pub(crate) fn chaos(options: &[&str]) -> Result<(), String> {
    let mut options = options.to_vec();
    if std::env::var_os("CI").is_none() {
        options.push("--skip-missing");
    }
    crate::chaos::run(&options)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn chaos(_: &[&str]) -> Result<(), String> {
    println!("== chaos: skipped: it needs Linux");
    Ok(())
}

fn fmt() -> Result<(), String> {
    cargo("fmt --all --check")
}

fn clippy() -> Result<(), String> {
    cargo("clippy --workspace --all-targets --all-features -- -D warnings")
}

fn test() -> Result<(), String> {
    cargo("test --workspace --all-features")
}

fn docs() -> Result<(), String> {
    let mut command =
        cargo_command("doc --workspace --all-features --no-deps --document-private-items");
    run(command.env("RUSTDOCFLAGS", "-D warnings"))
}

/// How many rounds, and how many seconds one run takes; see docs/performance.md.
pub(crate) fn bench(numbers: &[&str]) -> Result<(), String> {
    let mut command = cargo_command("run --profile bench --package peers --");
    run(command.args(numbers))
}

fn deny() -> Result<(), String> {
    if run(Command::new("cargo").args(["deny", "--version"])).is_err() {
        cargo("install --locked --debug cargo-deny")?;
    }
    cargo("deny check bans licenses sources")
}

/// The library alone brings no runtime with it.
fn tree() -> Result<(), String> {
    let mut command =
        cargo_command("tree -p kontiki -e normal --no-default-features --prefix none");
    let output = command.output().map_err(|error| error.to_string())?;
    let tree = String::from_utf8_lossy(&output.stdout);
    let banned = [
        "tokio",
        "smol",
        "async-std",
        "async-executor",
        "async-io",
        "async-net",
        "mio",
        "polling",
        "hyper",
        "socket2",
    ];
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let found: Vec<&str> = names.filter(|name| banned.contains(name)).collect();
    if !output.status.success() || !found.is_empty() {
        return Err(format!("found {found:?} in\n{tree}"));
    }
    Ok(())
}

/// Every feature alone, none, all, and the runtimes in pairs.
fn features() -> Result<(), String> {
    let mut command = cargo_command("metadata --format-version 1 --no-deps");
    let output = command.output().map_err(|error| error.to_string())?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let packages = metadata["packages"].as_array().ok_or("no packages")?;
    let library = packages.iter().find(|package| package["name"] == "kontiki");
    let features =
        library.and_then(|package| package["features"].as_object()).ok_or("no library")?;
    let alone = features.keys().filter(|name| *name != "default").cloned();
    let mut sets: Vec<String> = alone.collect();
    let runtimes: Vec<String> =
        sets.iter().filter(|name| name.starts_with("runtime-")).cloned().collect();
    for (at, first) in runtimes.iter().enumerate() {
        sets.extend(runtimes[at + 1..].iter().map(|second| format!("{first},{second}")));
    }
    sets.push(String::new());
    for set in sets {
        println!("   features: {}", if set.is_empty() { "none" } else { &set });
        let mut command = cargo_command("check --quiet -p kontiki --lib --no-default-features");
        run(command.args(["--features", &set]).env("RUSTFLAGS", "-D warnings"))?;
    }
    cargo("check --quiet -p kontiki --lib --all-features")
}

pub(crate) fn cargo(line: &str) -> Result<(), String> {
    run(&mut cargo_command(line))
}

pub(crate) fn cargo_command(line: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(line.split(' '));
    command
}

/// What a command prints, if it succeeds.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said) } else { Err(format!("{command:?}: {why}")) }
}

pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} ended with {status}")) }
}

//! What is too long for every commit: hours of simulated time, real servers killed and cut off from
//! power hundreds of times, millions of inputs.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

type Part = fn() -> Result<(), String>;

const PARTS: [(&str, Part); 5] = [
    ("sim", crate::sim::nightly),
    ("mutants", || crate::sim::mutants(&["--fresh"])),
    ("fuzz", || crate::fuzz::pass_on(&["--inputs", "5000000", "--seed", &crate::sim::tonight()])),
    ("crash", || crate::crash::run(&["--cycles", "150"])),
    ("chaos", || crate::steps::chaos(&["--kills", "20", "--power-cuts", "200"])),
];

/// All parts, or those that are named; all are tried, whatever becomes of one. What came of them
/// goes to `target/nightly/report.json`, next to the figures of the parts.
#[expect(clippy::disallowed_methods, reason = "a tool for people tells how long it took")]
pub(crate) fn run(names: &[&str]) -> Result<(), String> {
    let folder = Path::new("target/nightly");
    // No figure of another night stands under today's.
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    if let Some(name) = names.iter().find(|name| PARTS.iter().all(|(known, _)| known != *name)) {
        return Err(format!("no part is called {name}"));
    }
    let mut parts = Vec::new();
    for (name, part) in PARTS {
        if !names.is_empty() && !names.contains(&name) {
            continue;
        }
        println!("== {name}");
        let began = Instant::now();
        let done = part();
        let seconds = began.elapsed().as_secs();
        println!("== {name}: {done:?} after {seconds} s");
        let figures = figures(name);
        parts.push(json!({
            "part": name, "seconds": seconds, "failed": done.err(), "figures": figures,
        }));
    }
    let failed = parts.iter().filter(|part| !part["failed"].is_null()).count();
    let text = serde_json::to_string_pretty(&parts).map_err(|error| error.to_string())?;
    std::fs::write(folder.join("report.json"), text).map_err(|error| error.to_string())?;
    if failed == 0 { Ok(()) } else { Err(format!("{failed} parts failed")) }
}

/// What a part has written down.
fn figures(name: &str) -> Vec<Value> {
    let paths: &[&str] = match name {
        "sim" => &["nightly/sim.json", "nightly/sim-objects.json", "nightly/sim-bytes.json"],
        "chaos" => &["chaos/report.json"],
        _ => &[],
    };
    let read = |path: &&str| std::fs::read_to_string(Path::new("target").join(path)).ok();
    let texts = paths.iter().filter_map(read);
    texts.filter_map(|text| serde_json::from_str(&text).ok()).collect()
}

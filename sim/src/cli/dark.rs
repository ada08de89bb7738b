//! Each remarkable thing needs its cause: with that switched off it must not come about.

use std::collections::BTreeMap;

use kontiki_sim::{Case, Cause, Plan, SOMETIMES, run};

use crate::Failed;
use crate::seeds::World;

/// Runs `count` seeds without each cause.
pub(crate) fn see(count: u64) -> Result<(), Failed> {
    let mut by_cause: BTreeMap<Cause, Vec<&'static str>> = BTreeMap::new();
    for one in SOMETIMES {
        by_cause.entry(one.cause).or_default().push(one.name);
    }
    let mut wrong = Vec::new();
    for (cause, names) in by_cause {
        let mut seen = BTreeMap::new();
        for seed in 1..=count {
            let world = if seed.is_multiple_of(4) { World::BYTES } else { World::default() };
            let Case { mut options, .. } = world.case(seed);
            cause.switch_off(&mut options);
            let report = run(&options, &Plan::from_options(&options));
            if let Some(violation) = report.violation {
                return Err(Failed::Violation(format!("{cause:?}, seed {seed}: {violation}")));
            }
            seen.extend(report.sometimes.into_keys().map(|name| (name, seed)));
        }
        let lit = names.iter().filter_map(|name| seen.get_key_value(name));
        wrong.extend(lit.map(|(name, seed)| format!("{name}, seed {seed}, without {cause:?}")));
        println!("without {cause:?}: {count} seeds, {} things looked for", names.len());
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failed::Unseen(wrong.join("\n"))) }
}

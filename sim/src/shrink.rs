//! Making a failing run smaller: fewer faults, fewer kinds of trouble, fewer clients, as long as
//! the same invariant breaks.

use serde::{Deserialize, Serialize};

use crate::judge::Invariant;
use crate::options::Options;
use crate::plan::Plan;
use crate::run::run;

/// A run as it is saved: everything that decides it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "cases are edited by hand")]
pub struct Case {
    /// What it is made of.
    pub options: Options,
    /// What goes wrong.
    pub plan: Plan,
}

impl Case {
    /// The run of a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let options = Options::from_seed(seed);
        let plan = Plan::from_options(&options);
        Self { options, plan }
    }

    fn breaks(&self, invariant: Invariant) -> bool {
        let violation = run(&self.options, &self.plan).violation;
        violation.is_some_and(|violation| violation.invariant == invariant)
    }
}

/// The smallest case found, in at most `runs_max` runs, that breaks the same invariant.
///
/// A smaller plan is another history, so the search may fail to find what a person would.
#[must_use]
pub fn shrink(case: &Case, invariant: Invariant, runs_max: usize) -> Case {
    let mut best = case.clone();
    let mut left = runs_max;
    let mut better = |best: &mut Case, candidate: Case| {
        if left == 0 || candidate == *best {
            return false;
        }
        left -= 1;
        let breaks = candidate.breaks(invariant);
        if breaks {
            *best = candidate;
        }
        breaks
    };
    let mut part = best.plan.faults.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < best.plan.faults.len() {
            let mut candidate = best.clone();
            let to = (from + part).min(candidate.plan.faults.len());
            candidate.plan.faults.drain(from..to);
            if !better(&mut best, candidate) {
                from += part;
            }
        }
        part /= 2;
    }
    let simpler: [fn(&mut Options); 9] = [
        |o| (o.duplication_ppm, o.echo_ppm, o.misdelivery_ppm, o.flips_ppm) = (0, 0, 0, 0),
        |o| o.loss_ppm = 0,
        |o| o.http = false,
        |o| o.clients = 1,
        |o| o.keys = 1,
        |o| o.snapshot_after = 0,
        |o| o.appends_in_flight = 256,
        |o| o.append_bytes = 1 << 20,
        |o| o.faults_ms /= 2,
    ];
    for simplify in simpler {
        let mut candidate = best.clone();
        simplify(&mut candidate.options);
        better(&mut best, candidate);
    }
    best
}

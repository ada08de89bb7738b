//! The kit for your own state machine: a whole cluster of it in virtual time, under faults, with
//! every replica held against every other.

use std::fmt;

use bytes::Bytes;
use kontiki::StateMachine;

use crate::judge::Violation;
use crate::options::Options;
use crate::plan::Plan;
use crate::run::{Report, run_workload};

/// A state machine and what its clients ask of it.
pub trait Workload: Send + Sync + 'static {
    /// A new state machine, as every server starts with.
    fn machine(&self) -> Box<dyn StateMachine>;

    /// Some command; all chance comes from `dice`.
    fn command(&self, dice: &mut fastrand::Rng) -> Bytes;
}

/// What went wrong, and how to see it again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The seed that shows it.
    pub seed: u64,
    /// Which invariant did not hold, and what was seen.
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.violation)
    }
}

impl std::error::Error for Failure {}

/// Runs clusters of a state machine, one for each seed, a minute or two of virtual time each.
///
/// # Errors
///
/// The first violation; of [`Invariant::StateMachineSafety`](crate::Invariant::StateMachineSafety)
/// if two replicas answered one command differently.
pub fn check(
    workload: std::sync::Arc<dyn Workload>,
    seeds: std::ops::Range<u64>,
) -> Result<Vec<Report>, Failure> {
    let mut reports = Vec::new();
    for seed in seeds {
        let options = Options::from_seed(seed);
        let plan = Plan::from_options(&options);
        let report = run_workload(&options, &plan, Some(std::sync::Arc::clone(&workload)));
        if let Some(violation) = report.violation {
            return Err(Failure { seed, violation });
        }
        reports.push(report);
    }
    Ok(reports)
}

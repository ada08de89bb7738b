//! Runs of the simulator itself: clean ones, one that is repeated, one that a planted bug fails,
//! and one that shrinks.

use std::sync::Arc;

use kontiki_sim::kit;
use kontiki_sim::{Case, DiskKind, Invariant, NetworkKind, run};

/// A short run, so that the tests stay quick without optimization.
fn short(seed: u64, disk: DiskKind, network: NetworkKind) -> Case {
    let mut case = Case::from_seed(seed);
    (case.options.disk, case.options.network) = (disk, network);
    case.options.faults_ms = 20_000;
    case.plan.faults.retain(|timed| timed.at_ms < 20_000);
    case
}

#[test]
fn runs_on_objects_and_messages_break_nothing() {
    for seed in 1..=6 {
        let case = short(seed, DiskKind::Objects, NetworkKind::Messages);
        let report = run(&case.options, &case.plan);
        assert_eq!(report.violation, None, "seed {seed}");
        assert!(report.counts.operations > 0 && report.counts.elections > 0, "seed {seed}");
    }
}

#[test]
fn runs_on_files_and_connections_break_nothing() {
    for seed in 7..=10 {
        let mut case = short(seed, DiskKind::Bytes, NetworkKind::Streams);
        case.options.http = true;
        assert_eq!(run(&case.options, &case.plan).violation, None, "seed {seed}");
    }
}

#[test]
fn a_saved_case_is_the_same_run() {
    let case = short(11, DiskKind::Bytes, NetworkKind::Streams);
    let saved = serde_json::to_string(&case).unwrap();
    let read: Case = serde_json::from_str(&saved).unwrap();
    assert_eq!(read, case);
    let (a, b) = (run(&case.options, &case.plan), run(&read.options, &read.plan));
    assert_eq!((a.trace, a.virtual_time), (b.trace, b.virtual_time));
    let other = short(12, DiskKind::Bytes, NetworkKind::Streams);
    assert_ne!(run(&other.options, &other.plan).trace, a.trace);
}

/// What the kit's example shows.
#[path = "../examples/own_state_machine.rs"]
mod example;

#[test]
fn a_state_machine_that_is_no_function_of_its_commands_is_caught() {
    example::main();
    let failure = kit::check(Arc::new(example::Lottery { sound: false }), 1..6).unwrap_err();
    assert_eq!(failure.violation.invariant, Invariant::StateMachineSafety, "{failure}");
}

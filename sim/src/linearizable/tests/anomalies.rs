//! What must be found, what must not be taken for an error, each named by the promise.

use super::brute;
use super::generate::{history, moment};
use crate::history::{Answer, Call, History, Operation, Outcome, Request};
use crate::linearizable::{Budget, Counterexample, Verdict, Violation, check, witness};

const READ: Call = Call::Read;

fn write(value: u64) -> Call {
    Call::Write { value }
}

fn set(expected: u64, value: u64) -> Call {
    Call::CompareAndSet { expected: Some(expected), value }
}

fn found(value: u64) -> Answer {
    Answer::Found { value: Some(value) }
}

const NOTHING: Answer = Answer::Found { value: None };

fn done(ms: [u64; 2], call: Call, answer: Answer, index: u64) -> Operation {
    let outcome = Outcome::Done { at: moment(ms[1]), answer, index };
    Operation { outcome, ..unknown(ms[0], call) }
}

fn not_applied(ms: [u64; 2], call: Call) -> Operation {
    Operation { outcome: Outcome::NotApplied { at: moment(ms[1]) }, ..unknown(ms[0], call) }
}

fn unknown(ms: u64, call: Call) -> Operation {
    let request = Request { client: ms, key: 0, call };
    Operation { request, invoked: moment(ms), outcome: Outcome::Unknown }
}

fn assert_good<const N: usize>(operations: [Operation; N]) -> History {
    let history = history(operations.to_vec());
    assert!(brute::linearizable(&history));
    assert_eq!(check(&history, Budget::default()), Verdict::Linearizable);
    history
}

fn assert_bad<const N: usize>(operations: [Operation; N]) -> Counterexample {
    let history = history(operations.to_vec());
    assert!(!brute::linearizable(&history));
    assert!(witness(&history).is_err());
    match check(&history, Budget::default()) {
        Verdict::NotLinearizable(counterexample) => counterexample,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stale_read_is_found() {
    let counterexample = assert_bad([
        done([1, 2], write(7), Answer::Applied, 1),
        done([3, 4], write(8), Answer::Applied, 2),
        done([5, 6], write(9), Answer::Applied, 3),
        done([7, 8], READ, found(9), 3),
        done([7, 9], READ, found(8), 2),
    ]);
    assert_eq!(
        counterexample.to_string(),
        "no order explains key 0, nor these 3 of its 5 operations:\n  \
         client 3, at 3ms: write 8 at key 0 was applied, at 4ms, index 2\n  \
         client 5, at 5ms: write 9 at key 0 was applied, at 6ms, index 3\n  \
         client 7, at 7ms: read at key 0 found 8, at 9ms, index 2"
    );
}

#[test]
fn values_that_go_back_between_two_reads_are_found() {
    assert_bad([
        done([1, 9], write(7), Answer::Applied, 1),
        done([1, 9], write(8), Answer::Applied, 2),
        done([2, 3], READ, found(8), 2),
        done([4, 5], READ, found(7), 1),
        done([6, 7], READ, found(8), 2),
    ]);
}

#[test]
fn a_lost_acknowledged_write_is_found() {
    assert_bad([
        done([1, 2], write(7), Answer::Applied, 1),
        done([3, 4], write(8), NOTHING, 2),
        done([5, 6], READ, found(8), 2),
    ]);
    assert_bad([done([1, 2], write(7), Answer::Applied, 1), done([5, 6], READ, NOTHING, 1)]);
}

#[test]
fn a_write_that_is_applied_twice_is_found() {
    assert_bad([
        unknown(1, write(7)),
        done([2, 3], READ, found(7), 1),
        done([4, 5], write(8), Answer::Applied, 2),
        done([6, 7], READ, found(7), 3),
    ]);
}

#[test]
fn two_exchanges_of_one_value_are_found() {
    assert_bad([
        done([1, 2], write(7), Answer::Applied, 1),
        done([3, 9], set(7, 8), Answer::Applied, 2),
        done([3, 9], set(7, 9), Answer::Applied, 3),
    ]);
}

#[test]
fn a_refusal_without_reason_is_found() {
    assert_bad([
        done([1, 2], write(7), Answer::Applied, 1),
        done([3, 4], set(7, 8), Answer::Refused, 2),
    ]);
}

#[test]
fn a_value_that_was_not_applied_is_found_and_shown() {
    let counterexample = assert_bad([
        not_applied([1, 2], write(7)),
        done([3, 4], READ, found(7), 1),
        done([5, 6], READ, found(7), 1),
    ]);
    assert_eq!(counterexample.operations.len(), 2);
    assert_eq!(counterexample.operations[0].request.call, write(7));
}

#[test]
fn a_deleted_value_that_is_back_is_found() {
    assert_bad([
        done([1, 2], write(7), Answer::Applied, 1),
        done([3, 4], Call::Delete, found(7), 2),
        done([5, 6], READ, found(7), 2),
    ]);
}

#[test]
fn a_read_before_the_write_is_found() {
    assert_bad([unknown(5, write(7)), done([1, 4], READ, found(7), 1)]);
    assert_good([unknown(4, write(7)), done([1, 4], READ, found(7), 1)]);
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never() {
    let history = assert_good([
        unknown(1, write(7)),
        unknown(1, write(6)),
        done([2, 3], READ, NOTHING, 0),
        done([4, 5], write(8), NOTHING, 1),
        done([6, 7], READ, found(7), 2),
    ]);
    assert_eq!(witness(&history), Ok(()));
}

#[test]
fn unknown_exchanges_explain_each_other() {
    let history = assert_good([
        unknown(1, set(7, 8)),
        unknown(2, set(6, 7)),
        unknown(3, write(6)),
        done([4, 5], READ, NOTHING, 0),
        done([6, 7], READ, found(8), 3),
    ]);
    assert_eq!(witness(&history), Ok(()));
}

#[test]
fn an_unknown_write_explains_a_refusal() {
    assert_good([
        done([1, 2], write(7), Answer::Applied, 1),
        unknown(3, write(6)),
        done([3, 4], set(7, 8), Answer::Refused, 3),
    ]);
}

#[test]
fn what_was_not_applied_and_unanswered_reads_are_no_matter() {
    let history = assert_good([
        not_applied([1, 2], write(7)),
        unknown(3, READ),
        done([4, 5], READ, NOTHING, 0),
    ]);
    assert_eq!(witness(&history), Ok(()));
}

#[test]
fn the_witness_names_what_is_wrong() {
    let first = done([1, 2], write(7), Answer::Applied, 1);
    let second = done([3, 4], write(8), Answer::Applied, 1);
    let shared = witness(&history(vec![first, second])).unwrap_err();
    let boxes = (Box::new(first), Box::new(second));
    assert_eq!(shared, Violation::SharedIndex { first: boxes.0, second: boxes.1 });

    let early = done([1, 2], write(7), Answer::Applied, 2);
    let late = done([3, 4], write(8), Answer::Applied, 1);
    let order = witness(&history(vec![early, late])).unwrap_err();
    let boxes = (Box::new(late), Box::new(early));
    assert_eq!(order, Violation::Order { placed_first: boxes.0, over_first: boxes.1 });

    let read = done([3, 4], READ, NOTHING, 1);
    let answer = witness(&history(vec![first, read])).unwrap_err();
    assert_eq!(answer, Violation::Answer { operation: Box::new(read), state: Some(7) });
}

#[test]
fn a_read_that_looked_too_early_in_the_log_is_found_by_the_witness() {
    // Its answer is right by chance, so that only the indexes give it away.
    let history =
        assert_good([done([1, 2], Call::Delete, NOTHING, 1), done([3, 4], READ, NOTHING, 0)]);
    assert!(matches!(witness(&history), Err(Violation::Order { .. })));
}

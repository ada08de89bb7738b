//! The judges against every order by hand, against known anomalies, and against their budgets.

mod anomalies;
mod brute;
mod generate;

use fastrand::Rng;

use super::register::Register;
use super::search::{Progress, Search};
use super::{Budget, Limit, Undecided, Verdict, check, explain, witness};
use crate::history::{Answer, Call, History, Operation, Outcome, Request};
use generate::{Shape, Telling, chance, good, history, moment, spoil};

const TINY: u64 = 100_000;

#[test]
fn agrees_with_every_order_tried_by_hand_on_100_000_tiny_histories() {
    let (mut yes, mut no, mut proofs) = (0, 0, 0);
    for seed in 0..TINY {
        let mut rng = Rng::with_seed(seed);
        let shape = Shape::tiny(&mut rng);
        let is_good = seed % 4 == 0;
        let mut operations = match seed % 4 {
            3 => chance(&mut rng, shape),
            _ => good(&mut rng, shape),
        };
        if matches!(seed % 4, 1 | 2) {
            spoil(&mut rng, &mut operations);
            spoil(&mut rng, &mut operations);
        }
        let history = history(operations);
        let expected = brute::linearizable(&history);
        assert!(expected || !is_good, "seed {seed}: the generator is wrong");
        match check(&history, Budget::default()) {
            Verdict::Linearizable => assert!(expected, "seed {seed}: not linearizable"),
            Verdict::NotLinearizable(counterexample) => {
                assert!(!expected, "seed {seed}: linearizable, yet {counterexample}");
                let core = self::history(counterexample.operations);
                assert!(!brute::linearizable(&core), "seed {seed}: {core:?} explains nothing");
            }
            Verdict::Unknown(undecided) => panic!("seed {seed}: {undecided}"),
        }
        if witness(&history).is_ok() {
            assert!(expected, "seed {seed}: the witness is no proof");
            proofs += 1;
        } else if is_good && shape.values.is_none() && shape.telling == Telling::Found {
            panic!("seed {seed}: {:?}", witness(&history));
        }
        *(if expected { &mut yes } else { &mut no }) += 1;
    }
    // Neither verdict can hide behind the other.
    assert!(yes > TINY / 4 && no > TINY / 4, "{yes} yes, {no} no");
    assert!(proofs > TINY / 4, "{proofs} proofs");
}

/// The usual history of a run: long, one key, ten clients, some answers lost.
const USUAL: Shape = Shape {
    operations: 2000,
    clients: 10,
    keys: 1,
    unknown_one_in: 50,
    reads: 50,
    others: 20,
    values: None,
    telling: Telling::Found,
};

#[test]
fn both_judges_accept_long_good_histories() {
    for seed in 0..10 {
        let mut rng = Rng::with_seed(seed);
        let clients = [10, 50][seed as usize % 2];
        let history = history(good(&mut rng, Shape { clients, ..USUAL }));
        assert_eq!(check(&history, Budget::default()), Verdict::Linearizable, "seed {seed}");
        assert_eq!(witness(&history), Ok(()), "seed {seed}");
    }
}

#[test]
fn the_usual_history_costs_some_three_steps_an_operation() {
    for seed in 0..20 {
        let history = history(good(&mut Rng::with_seed(seed), USUAL));
        let budget = Budget { steps: 7_000, memory_bytes: 1 << 20 };
        assert_eq!(check(&history, budget), Verdict::Linearizable, "seed {seed}");
    }
}

#[test]
fn a_stale_read_is_found_at_once_however_many_clients_there_are() {
    for seed in 0..20 {
        let mut operations = good(&mut Rng::with_seed(seed), Shape { clients: 100, ..USUAL });
        let met = |operation: &Operation| {
            operation.request.call == Call::Read && operation.met().flatten().is_some()
        };
        let reads: Vec<usize> = (0..2000).filter(|at| met(&operations[*at])).collect();
        let early = operations[reads[reads.len() / 4]].outcome;
        let late = &mut operations[reads[reads.len() / 2]].outcome;
        let (Outcome::Done { answer: stale, .. }, Outcome::Done { answer, .. }) = (early, late)
        else {
            panic!("reads that met a value are done")
        };
        *answer = stale;
        let budget = Budget { steps: 1, memory_bytes: 1 << 20 };
        let verdict = check(&history(operations), budget);
        assert!(matches!(verdict, Verdict::NotLinearizable(_)), "seed {seed}: {verdict:?}");
    }
}

#[test]
fn spoilt_long_histories_are_explained_by_a_few_operations() {
    let (mut explained, mut refused) = (0, 0);
    for seed in 0..60 {
        let mut rng = Rng::with_seed(seed);
        let mut operations = good(&mut rng, Shape { operations: 400, ..USUAL });
        spoil(&mut rng, &mut operations);
        let history = history(operations);
        match check(&history, Budget::default()) {
            Verdict::Linearizable => {}
            Verdict::NotLinearizable(counterexample) => {
                refused += 1;
                assert!(witness(&history).is_err(), "seed {seed}");
                let few = counterexample.operations.len() <= 8;
                explained += u32::from(few);
                let core = self::history(counterexample.operations);
                assert!(!few || !brute::linearizable(&core), "seed {seed}: {core:?}");
            }
            Verdict::Unknown(undecided) => panic!("seed {seed}: {undecided}"),
        }
    }
    assert!(refused >= 20, "{refused} of 60");
    assert!(explained * 10 >= refused * 9, "{explained} of {refused}");
}

#[test]
fn what_is_left_out_of_a_good_history_leaves_a_good_one() {
    for seed in 0..20_000 {
        let mut rng = Rng::with_seed(seed);
        let operations = rng.choice([8, 12, 16]).unwrap();
        let shape = Shape { operations, keys: 1, ..Shape::tiny(&mut rng) };
        let history = history(good(&mut rng, shape));
        let Some(register) = Register::all(&history).remove(&0) else { continue };
        let mut parts = explain::parts(&register);
        let keep = rng.u32(1..=4);
        parts.retain(|_| rng.u32(0..5) < keep);
        let mut search = Search::new(explain::only(&register, &parts));
        let progress = search.run(&mut 1_000_000, 1_000_000, 1 << 20);
        assert_eq!(progress, Progress::Linearizable, "seed {seed}");
    }
}

/// With few values no answer says which write it saw.
fn hard() -> Vec<Operation> {
    let shape = Shape { clients: 30, values: Some(50), ..USUAL };
    good(&mut Rng::with_seed(1), shape)
}

#[test]
fn a_hard_history_is_unknown_when_a_budget_ends() {
    let history = history(hard());
    let cases = [
        (Budget { steps: 200_000, memory_bytes: 256 << 20 }, Limit::Steps),
        (Budget { steps: u64::MAX, memory_bytes: 1 << 20 }, Limit::Memory),
        (Budget { steps: u64::MAX, memory_bytes: 0 }, Limit::Memory),
        (Budget { steps: 0, memory_bytes: usize::MAX }, Limit::Steps),
    ];
    for (budget, limit) in cases {
        let undecided = Undecided { keys: vec![0], limit };
        assert_eq!(check(&history, budget), Verdict::Unknown(undecided), "{budget:?}");
    }
}

#[test]
fn a_hard_key_hides_neither_a_bad_one_nor_a_good_one() {
    let done = |ms: u64, call, answer, index| Operation {
        request: Request { client: 0, key: 1, call },
        invoked: moment(ms),
        outcome: Outcome::Done { at: moment(ms), answer, index },
    };
    let value = Some(7);
    let mut operations = hard();
    operations.extend([
        done(1, Call::Write { value: 7 }, Answer::Applied, 1),
        done(2, Call::Delete, Answer::Found { value }, 2),
        done(3, Call::Read, Answer::Found { value: None }, 2),
    ]);
    let mut bad = operations.clone();
    bad.push(done(4, Call::Read, Answer::Found { value }, 2));
    let (good, bad) = (history(operations), history(bad));

    let budgets = [
        Budget { steps: 200_000, memory_bytes: 256 << 20 },
        Budget { steps: u64::MAX, memory_bytes: 1 << 16 },
    ];
    for budget in budgets {
        let Verdict::Unknown(undecided) = check(&good, budget) else { panic!("{budget:?}") };
        assert_eq!(undecided.keys, [0]);
        let Verdict::NotLinearizable(found) = check(&bad, budget) else { panic!("{budget:?}") };
        assert_eq!((found.key, found.out_of), (1, 4));
    }
}

#[test]
fn all_keys_share_the_memory() {
    let shape = Shape { operations: 300, clients: 30, ..USUAL };
    let one = good(&mut Rng::with_seed(1), shape);
    let other = one.iter().map(|operation| {
        let request = Request { key: 1, ..operation.request };
        Operation { request, ..*operation }
    });
    let two = history(one.iter().copied().chain(other).collect());
    let one = history(one);

    let verdict = |history, memory_bytes| {
        check(history, Budget { memory_bytes, ..Budget::default() }) == Verdict::Linearizable
    };
    let enough = (10..28).map(|bits| 1 << bits).find(|bytes| verdict(&one, *bytes)).unwrap();
    assert!(enough > 10_000, "{enough} bytes: too easy");
    assert!(!verdict(&two, enough));
    assert!(verdict(&two, 2 * enough));
}

#[test]
fn an_empty_history_is_good() {
    assert_eq!(check(&History::default(), Budget::default()), Verdict::Linearizable);
    assert_eq!(witness(&History::default()), Ok(()));
}

//! What a history refuses, and what it keeps.

use super::*;

const WRITE: Request = Request { client: 1, key: 5, call: Call::Write { value: 7 } };
const READ: Request = Request { client: 2, key: 5, call: Call::Read };

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn done(at: Duration, answer: Answer) -> Done {
    Done { at, answer, index: 1 }
}

#[test]
fn events_of_one_instant_keep_the_order_in_which_they_were_recorded() {
    let mut history = History::default();
    let write = history.invoke(ms(3), WRITE);
    history.done(write, done(ms(3), Answer::Applied));
    history.invoke(ms(3), READ);

    let [write, read] = history.operations() else { panic!("two operations") };
    assert!(write.ended() < read.invoked);
    assert_eq!(read.outcome, Outcome::Unknown);
}

#[test]
fn a_saved_history_is_read_back_as_it_was_and_can_go_on() {
    let mut history = History::default();
    let write = history.invoke(ms(1), WRITE);
    history.invoke(ms(2), READ);
    history.not_applied(write, ms(4));

    let saved = serde_json::to_string(&history).unwrap();
    let mut read: History = serde_json::from_str(&saved).unwrap();
    assert_eq!(read, history);

    read.invoke(ms(4), READ);
    assert!(read.operations()[0].ended() < read.operations()[2].invoked);
}

#[test]
fn a_history_that_cannot_have_been_is_not_read() {
    let mut history = History::default();
    let write = history.invoke(ms(9), WRITE);
    history.done(write, done(ms(9), Answer::Applied));
    let [good] = history.operations() else { panic!("one operation") };

    let early = Moment { at: ms(8), step: 9 };
    let mut over_before_it_began = *good;
    over_before_it_began.outcome = Outcome::NotApplied { at: early };
    let mut read_without_value = *good;
    read_without_value.request.call = Call::Read;
    for operation in [over_before_it_began, read_without_value] {
        let error = History::try_from(vec![*good, operation]).unwrap_err();
        assert_eq!(*error.operation, operation);
        let saved = serde_json::to_string(&[operation]).unwrap();
        assert!(serde_json::from_str::<History>(&saved).is_err());
    }
}

#[test]
#[should_panic(expected = "an operation ends once")]
fn an_operation_ends_once() {
    let mut history = History::default();
    let write = history.invoke(ms(1), WRITE);
    history.not_applied(write, ms(2));
    history.done(write, done(ms(3), Answer::Applied));
}

#[test]
#[should_panic(expected = "no operation ends so")]
fn a_read_is_told_a_value() {
    let mut history = History::default();
    let read = history.invoke(ms(1), READ);
    history.done(read, done(ms(2), Answer::Applied));
}

//! State machines.

use bytes::Bytes;
use kontiki::conformance::{Fixture, StateMachineFixture};
use kontiki::typed::{self, State};
use kontiki::{LogId, StateMachine};

/// What the typed layer makes of a state.
mod typed_state {
    use super::*;

    #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
    struct Journal(Vec<String>);

    impl State for Journal {
        type Command = String;
        type Answer = (usize, Option<String>);

        fn apply(&mut self, at: LogId, line: String) -> Self::Answer {
            let before = self.0.last().cloned();
            self.0.push(format!("{at} {line}"));
            (self.0.len(), before)
        }
    }

    struct Journals;

    impl Fixture for Journals {}

    impl StateMachineFixture for Journals {
        fn new_state_machine(&self) -> Box<dyn StateMachine> {
            typed::machine(Journal::default()).0
        }

        fn command(&self, number: u64) -> Bytes {
            format!("\"line {number}\"").into()
        }
    }

    kontiki::state_machine_conformance!(Journals);
}

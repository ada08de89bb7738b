//! Your own state machine under the simulator's faults, with every replica held against every
//! other. The lines from `Lottery` down to `main` are all that it takes.
//!
//! This one draws a winner among those who have entered. Written with a map whose order is another
//! in every process, it draws another winner on every replica, which no test of one replica shows.
//!
//! ```sh
//! cargo run -p kontiki-sim --example own_state_machine
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use kontiki::runtime::ByteReader;
use kontiki::storage::SnapshotMeta;
use kontiki::{BoxError, Command, Snapshot, StateMachine};
use kontiki_sim::kit::{Workload, check};

/// What is checked: either machine, and clients that enter and draw.
pub(crate) struct Lottery {
    pub(crate) sound: bool,
}

impl Workload for Lottery {
    fn machine(&self) -> Box<dyn StateMachine> {
        Box::new(Entrants { sound: self.sound, names: BTreeSet::new() })
    }

    fn command(&self, dice: &mut fastrand::Rng) -> Bytes {
        // 0 draws; everything else is somebody's name.
        Bytes::from(vec![dice.u8(..10)])
    }
}

pub(crate) fn main() {
    let sound = check(Arc::new(Lottery { sound: true }), 1..6);
    println!("sound: {} runs, nothing broken", sound.expect("a function of the log").len());
    let failure = check(Arc::new(Lottery { sound: false }), 1..6).expect_err("it is no function");
    println!("unsound: {failure}");
}

/// The state machine: whoever has entered and not been drawn.
struct Entrants {
    sound: bool,
    names: BTreeSet<u8>,
}

impl Entrants {
    fn draw(&mut self) -> Option<u8> {
        let drawn = if self.sound {
            self.names.first().copied()
        } else {
            // The defect: this order is another on every replica.
            #[expect(clippy::disallowed_types, reason = "it is what this example warns of")]
            let shuffled: std::collections::HashSet<u8> = self.names.iter().copied().collect();
            shuffled.into_iter().next()
        };
        if let Some(name) = &drawn {
            self.names.remove(name);
        }
        drawn
    }
}

#[async_trait]
impl StateMachine for Entrants {
    async fn apply(&mut self, commands: Vec<Command>) -> Result<Vec<Bytes>, BoxError> {
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            let answer = match command.data.first() {
                None | Some(0) => self.draw(),
                Some(&name) => self.names.insert(name).then_some(name),
            };
            answers.push(answer.map_or_else(Bytes::new, |name| Bytes::from(vec![name])));
        }
        Ok(answers)
    }

    async fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, BoxError> {
        Ok(Box::new(Names(self.names.iter().copied().collect())))
    }

    async fn restore(&mut self, _: &SnapshotMeta, mut from: ByteReader) -> Result<(), BoxError> {
        let mut names = Vec::new();
        from.read_to_end(&mut names).await?;
        self.names = names.into_iter().collect();
        Ok(())
    }
}

struct Names(Vec<u8>);

#[async_trait]
impl Snapshot for Names {
    async fn write_to(
        self: Box<Self>,
        sink: &mut (dyn AsyncWrite + Send + Unpin),
    ) -> Result<(), BoxError> {
        Ok(sink.write_all(&self.0).await?)
    }
}

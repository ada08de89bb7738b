//! Clients that write and read through every server, and remember what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use futures::future::{Either, select};
use futures::pin_mut;
use kontiki::runtime::Runtime as _;
use kontiki::{Consistency, ProposeError, Raft};

use crate::cluster::Cluster;
use crate::history::{Answer, Call, Done, OperationId, Request};
use crate::judge::Settled;
use crate::machine::{Registers, Write, found, numbered};
use crate::options::{Stream, stream};

pub(crate) struct Client {
    cluster: Arc<Cluster>,
    number: u64,
    dice: Rng,
    commands: u64,
}

impl Client {
    pub(crate) fn new(cluster: &Arc<Cluster>, number: u64) -> Self {
        let dice = stream(cluster.options.seed ^ (number << 40), Stream::Workload);
        Self { cluster: Arc::clone(cluster), number, dice, commands: 0 }
    }

    /// Writes and reads until it is told to stop.
    pub(crate) async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let think = self.cluster.options.think_ms;
            let pause = self.dice.u64(..=2 * think);
            self.pause(pause).await;
            let servers = self.cluster.numbers(|_| true);
            let server = servers[self.dice.usize(..servers.len())];
            self.operate(server).await;
        }
    }

    /// One operation at one server; `true` if it was carried out.
    pub(crate) async fn operate(&mut self, server: u64) -> bool {
        let Some(raft) = self.cluster.raft(server) else { return false };
        let registers = self.cluster.registers(server);
        match self.dice.u8(..10) {
            0..=4 => self.write(&raft).await,
            _ => self.read(&raft, &registers).await,
        }
    }

    pub(crate) async fn write(&mut self, raft: &Raft) -> bool {
        self.commands += 1;
        let number = (self.number << 32) | self.commands;
        let (command, operation) = match &self.cluster.workload {
            Some(workload) => (workload.command(&mut self.dice), None),
            None => {
                let (key, write, call) = self.draw(number);
                (write.encode(), Some(self.invoke(key, call)))
            }
        };
        let told = self.patient(raft.propose(numbered(number, &command))).await;
        let (settled, answer) = match told {
            Some(Ok(applied)) => (Settled::Done(applied.log_id), Some(applied.answer)),
            Some(Err(ProposeError::Unknown)) | None => (Settled::Unknown, None),
            Some(Err(_)) => (Settled::NotApplied, None),
        };
        self.cluster.judge.settled(number, settled);
        let at = self.cluster.sim.elapsed();
        let mut history = self.history();
        match (settled, operation) {
            (Settled::Done(log_id), Some(operation)) => {
                let value = answer.as_deref().and_then(found);
                let answer = Answer::Found { value };
                history.done(operation, Done { at, answer, index: log_id.index });
            }
            (Settled::NotApplied, Some(operation)) => history.not_applied(operation, at),
            _ => {}
        }
        matches!(settled, Settled::Done(_))
    }

    pub(crate) async fn read(&mut self, raft: &Raft, registers: &Registers) -> bool {
        let key = self.key();
        let committed = self.cluster.judge.committed();
        let operation = self.invoke(key, Call::Read);
        let told = self.patient(raft.read(Consistency::Linearizable)).await;
        let Some(Ok(guarantee)) = told else { return false };
        self.cluster.judge.read(raft.id(), committed, guarantee.index);
        if self.cluster.workload.is_none() {
            let (value, index) = registers.read(key);
            let at = self.cluster.sim.elapsed();
            self.history().done(operation, Done { at, answer: Answer::Found { value }, index });
        }
        true
    }

    /// Some write of a value that no other writes.
    fn draw(&mut self, value: u64) -> (u64, Write, Call) {
        let key = self.key();
        match self.dice.u8(..8) {
            0 => (key, Write::Delete { key }, Call::Delete),
            1..=3 => {
                let expected = self.cluster.registers(1).read(key).0;
                let call = Call::CompareAndSet { expected, value };
                (key, Write::CompareAndSet { key, expected, value }, call)
            }
            _ => (key, Write::Put { key, value }, Call::Write { value }),
        }
    }

    fn key(&mut self) -> u64 {
        self.dice.u64(..self.cluster.options.keys)
    }

    fn invoke(&self, key: u64, call: Call) -> OperationId {
        let at = self.cluster.sim.elapsed();
        self.history().invoke(at, Request { client: self.number, key, call })
    }

    fn history(&self) -> std::sync::MutexGuard<'_, crate::history::History> {
        self.cluster.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits for an answer, but not for ever: the server may stand still.
    async fn patient<T>(&self, asked: impl Future<Output = T>) -> Option<T> {
        let process = self.cluster.sim.process(self.process());
        let timer = process.timer(process.now() + 8 * self.cluster.options.election_timeout());
        pin_mut!(asked);
        match select(asked, timer).await {
            Either::Left((answer, _)) => Some(answer),
            Either::Right(_) => None,
        }
    }

    pub(crate) async fn pause(&self, ms: u64) {
        let process = self.cluster.sim.process(self.process());
        process.timer(process.now() + Duration::from_millis(ms)).await;
    }

    pub(crate) fn process(&self) -> u64 {
        CLIENTS + self.number
    }
}

/// The number of the process of client 0.
pub(crate) const CLIENTS: u64 = 100;

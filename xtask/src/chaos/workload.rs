//! Clients that write, compare and set, read and delete through every server, and write down what
//! they were told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use kontiki_sim::history::{Answer as Told, Call, Done, History, Request};

use crate::kv::{Answer, Client, If};
use crate::wall;

/// The history of a run, written by all clients.
pub(crate) struct Recorder {
    began: Instant,
    history: Mutex<History>,
    acknowledged: AtomicU64,
    values: AtomicU64,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            began: wall::now(),
            history: Mutex::new(History::default()),
            acknowledged: AtomicU64::new(0),
            values: AtomicU64::new(0),
        }
    }

    /// How many writes were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn history(&self) -> History {
        self.lock().clone()
    }

    /// The keys that may have been written so far.
    pub(crate) fn keys(&self) -> std::ops::Range<u64> {
        0..(self.era() + 1) * KEYS_PER_ERA
    }

    /// Sends a request to one of `servers` and writes down what comes of it.
    fn ask(&self, kv: &Client, servers: &[String], target: Target, call: Call) -> Answer {
        let server = &servers[target.server];
        // The server is part of it: whoever looks into a history wants to know.
        let client = target.client * 10 + target.server as u64;
        let request = Request { client, key: target.key, call };
        let id = {
            let mut history = self.lock();
            history.invoke(self.elapsed(), request)
        };
        let key = format!("k{}", target.key);
        let answer = match call {
            Call::CompareAndSet { expected: None, value } => {
                kv.put(server, &key, &value.to_string(), &If::Nothing)
            }
            Call::CompareAndSet { expected: Some(expected), value } => {
                kv.put(server, &key, &value.to_string(), &If::Value(&expected.to_string()))
            }
            Call::Delete => kv.delete(server, &key),
            Call::Read => kv.get(server, &key),
            Call::Write { value } => kv.put(server, &key, &value.to_string(), &If::Always),
        };
        let mut history = self.lock();
        let at = self.elapsed();
        match told(&answer) {
            Some((answer, index)) => history.done(id, Done { at, answer, index }),
            None if matches!(answer, Answer::NotApplied(_)) => history.not_applied(id, at),
            None => {}
        }
        if matches!(answer, Answer::Done { .. }) {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// Reads a key until it gets an answer; `None` if there is none in time.
    pub(crate) fn read(&self, servers: &[String], server: usize, key: u64) -> Option<Option<u64>> {
        let kv = Client::new(wall::ms(5_000));
        (0..4).find_map(|_| {
            let target = Target { client: READER, server, key };
            match told(&self.ask(&kv, servers, target, Call::Read)) {
                Some((Told::Found { value }, _)) => Some(value),
                _ => None,
            }
        })
    }

    fn era(&self) -> u64 {
        self.elapsed().as_millis() as u64 / ERA_MS
    }

    fn new_value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        // A client that panicked fails the run in any case.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The definite answers, as the judges know them, with their place in the log.
fn told(answer: &Answer) -> Option<(Told, u64)> {
    match answer {
        Answer::Absent { applied } => Some((Told::Found { value: None }, *applied)),
        Answer::Done { index } => Some((Told::Applied, *index)),
        Answer::Found { value, applied, .. } => {
            // What is no number was never written, and is found out as such.
            let value = Some(value.parse().unwrap_or(u64::MAX));
            Some((Told::Found { value }, *applied))
        }
        Answer::NotApplied(_) | Answer::Unknown(_) => None,
        Answer::Refused { applied } => Some((Told::Refused, *applied)),
    }
}

#[derive(Clone, Copy)]
struct Target {
    client: u64,
    server: usize,
    key: u64,
}

/// Clients at work.
pub(crate) struct Workload {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Workload {
    pub(crate) fn start(recorder: &Arc<Recorder>, servers: &[String], seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS).map(|number| {
            let (recorder, stop) = (Arc::clone(recorder), Arc::clone(&stop));
            let (servers, dice) = (servers.to_vec(), Rng::with_seed(seed ^ (number + 1)));
            wall::spawn(move || work(number, &recorder, &servers, dice, &stop))
        });
        Self { clients: clients.collect(), stop }
    }

    /// Lets every client finish what it is at.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.clients.drain(..).map(JoinHandle::join);
        // All of them first.
        let ended: Vec<_> = ended.collect();
        ended.into_iter().collect::<Result<(), _>>().map_err(|_| "a client panicked".to_owned())
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn work(client: u64, recorder: &Recorder, servers: &[String], mut dice: Rng, stop: &AtomicBool) {
    let kv = Client::new(wall::ms(PATIENCE_MS));
    // What this client saw last, at each key of the era.
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    let mut era = 0;
    while !stop.load(Ordering::Relaxed) {
        if recorder.era() != era {
            era = recorder.era();
            seen.clear();
        }
        let key = era * KEYS_PER_ERA + dice.u64(..KEYS_PER_ERA);
        let target = Target { client, server: dice.usize(..servers.len()), key };
        let value = recorder.new_value();
        let (call, target) = match dice.u8(..100) {
            0..5 => (Call::Delete, target),
            5..10 => (Call::CompareAndSet { expected: None, value }, target),
            10..30 => (Call::CompareAndSet { expected: seen.get(&key).copied(), value }, target),
            30..60 => (Call::Write { value }, target),
            // What was acknowledged long ago must not have gone either.
            60..65 => (Call::Read, Target { key: dice.u64(..=key), ..target }),
            _ => (Call::Read, target),
        };
        match (recorder.ask(&kv, servers, target, call), call) {
            (Answer::Done { .. }, Call::Write { value } | Call::CompareAndSet { value, .. }) => {
                seen.insert(target.key, value);
            }
            (answer, _) => {
                if let Some((Told::Found { value: Some(value) }, _)) = told(&answer) {
                    seen.insert(target.key, value);
                }
            }
        }
        wall::pause(dice.u64(PAUSE_MS));
    }
}

/// So many clients with such pauses send at most some 200 requests a second.
pub(crate) const CLIENTS: u64 = 6;
const PAUSE_MS: std::ops::Range<u64> = 10..50;
/// How long a client waits for an answer.
const PATIENCE_MS: u64 = 1_500;
/// New keys now and then: histories of one key stay short enough to be searched.
const ERA_MS: u64 = 2_500;
const KEYS_PER_ERA: u64 = 5;
/// The number of the client that reads at the end.
const READER: u64 = 99;

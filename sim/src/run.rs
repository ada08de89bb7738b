//! One run: a cluster comes up, faults happen while clients work, everything is healed, and the
//! cluster must go on.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kontiki::runtime::Runtime as _;
use kontiki::{NodeId, RaftRole};
use serde::Serialize;

use crate::client::{CLIENTS, Client};
use crate::cluster::{Cluster, State};
use crate::judge::{Counts, Invariant, Violation};
use crate::kit::Workload;
use crate::options::{DiskKind, Options, Stream, stream};
use crate::plan::{Fault, Plan, Speech};

mod end;
mod faults;

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The first violation.
    pub violation: Option<Violation>,
    /// A hash of everything that happened; equal for equal seeds and plans.
    pub trace: u64,
    /// How much virtual time passed.
    pub virtual_time: Duration,
    /// What it did.
    pub counts: Counts,
    /// How often each remarkable thing came about.
    pub sometimes: BTreeMap<&'static str, u64>,
}

/// Runs a plan.
#[must_use]
pub fn run(options: &Options, plan: &Plan) -> Report {
    run_workload(options, plan, None)
}

/// Runs a plan, and keeps what happened as lines of text.
#[must_use]
pub fn run_traced(options: &Options, plan: &Plan) -> (Report, Vec<String>) {
    let cluster = Cluster::new(options.clone(), None);
    cluster.sim.keep_trace();
    let report = run_cluster(&cluster, plan);
    (report, cluster.sim.trace())
}

pub(crate) fn run_workload(
    options: &Options,
    plan: &Plan,
    workload: Option<Arc<dyn Workload>>,
) -> Report {
    run_cluster(&Cluster::new(options.clone(), workload), plan)
}

fn run_cluster(cluster: &Arc<Cluster>, plan: &Plan) -> Report {
    let mut run = Run::new(Arc::clone(cluster));
    let played = catch_unwind(AssertUnwindSafe(|| run.play(plan)));
    if let Err(panic) = played {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        cluster.judge.violated(Invariant::NoPanic, text.to_owned());
    }
    if cluster.options.canary && stream(cluster.options.seed, Stream::Canary).u8(..100) == 0 {
        cluster.judge.violated(Invariant::Canary, "as was asked for".to_owned());
    }
    let report = Report {
        seed: cluster.options.seed,
        violation: cluster.judge.violation(),
        trace: cluster.sim.trace_hash(),
        virtual_time: cluster.sim.elapsed(),
        counts: cluster.judge.counts(),
        sometimes: cluster.judge.all_sometimes(),
    };
    cluster.end();
    report
}

/// A run under way.
struct Run {
    cluster: Arc<Cluster>,
    /// What is to be done, by the millisecond.
    agenda: BTreeMap<(u64, u64), Action>,
    count: u64,
    /// How long a server stays down that dies by itself.
    outages: BTreeMap<u64, u64>,
    /// Servers that lost everything and are not back yet.
    lost: BTreeSet<u64>,
    /// A server that has gone to another address.
    moving: Option<(NodeId, String)>,
    stop: Arc<AtomicBool>,
}

enum Action {
    Crash { server: u64, back_ms: u64 },
    DiskGoesOn(u64),
    DiskHasRoom(u64),
    DiskIsFast(u64),
    Fault(Fault),
    Flap { a: u64, b: u64, period_ms: u64, until_ms: u64, cut: bool },
    Mend(Vec<(u64, u64)>),
    Resume(u64),
    Speak(u64, Speech),
    Start(u64),
}

impl Run {
    fn new(cluster: Arc<Cluster>) -> Self {
        Self {
            cluster,
            agenda: BTreeMap::new(),
            count: 0,
            outages: BTreeMap::new(),
            lost: BTreeSet::new(),
            moving: None,
            stop: Arc::default(),
        }
    }

    /// All of it; ends early at a violation.
    fn play(&mut self, plan: &Plan) {
        let options = self.cluster.options.clone();
        match options.voters {
            1 => self.cluster.judge.sometimes("a server was a cluster by itself"),
            even if even.is_multiple_of(2) => {
                self.cluster.judge.sometimes("an even number of voters")
            }
            _ => {}
        }
        (1..=options.voters).for_each(|n| self.cluster.start(n));
        let within = 50 * options.election_timeout();
        if !self.until(within, |run| run.cluster.leader().is_some()) {
            return self.violated(Invariant::Progress, "nobody was ever elected");
        }
        for number in 1..=options.clients {
            let (client, stop) = (Client::new(&self.cluster, number), Arc::clone(&self.stop));
            let process = self.cluster.sim.process(CLIENTS + number);
            process.spawn(Box::pin(client.run(stop)));
        }
        if options.http {
            let operator = Arc::clone(&self.cluster).operate_over_http();
            self.cluster.sim.process(crate::operator::OPERATOR).spawn(Box::pin(operator));
        }
        let began = self.now_ms();
        for timed in &plan.faults {
            self.later(began + timed.at_ms, Action::Fault(timed.fault.clone()));
        }
        let end = began + options.faults_ms;
        while self.now_ms() < end && !self.is_over() {
            self.step(end);
        }
        if !self.is_over() {
            self.finish();
        }
    }

    /// Goes on to the next thing that is to be done, or a little way.
    fn step(&mut self, end_ms: u64) {
        let now = self.now_ms();
        let next = self.agenda.first_key_value().map_or(u64::MAX, |((ms, _), _)| *ms);
        let until = next.min(end_ms).min(now + LOOK_EVERY_MS).max(now + 1);
        self.cluster.sim.run_for(Duration::from_millis(until - now));
        self.look_around();
        while let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= until
        {
            let action = entry.remove();
            self.act(action);
        }
    }

    /// Finds who has died or stopped, and what servers say of themselves.
    fn look_around(&mut self) {
        let cluster = Arc::clone(&self.cluster);
        for n in cluster.fallen() {
            cluster.bury(n);
            self.back_later(n);
        }
        for n in cluster.numbers(|state| state == State::Stopped) {
            cluster.kill(n);
            self.outages.entry(n).or_insert(500);
            self.back_later(n);
        }
        for n in cluster.numbers(|state| state == State::Lost) {
            self.cluster.sim.kill(n);
            self.replace(n);
        }
        cluster.look();
    }

    fn back_later(&mut self, n: u64) {
        let down = self.outages.remove(&n).unwrap_or(500);
        self.later(self.now_ms() + down, Action::Start(n));
    }

    /// A server's data are gone: it comes back under another identity.
    fn replace(&mut self, n: u64) {
        let old = self.cluster.id(n);
        self.cluster.wipe(n);
        self.lost.insert(n);
        self.cluster.operate(Arc::clone(&self.cluster).readmit(n, old));
    }

    fn later(&mut self, at_ms: u64, action: Action) {
        self.count += 1;
        self.agenda.insert((at_ms, self.count), action);
    }

    /// Goes on until `holds`; `false` if that takes longer than `within`.
    fn until(&mut self, within: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now_ms() + u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        while !self.is_over() {
            if holds(self) {
                return true;
            }
            if self.now_ms() >= end {
                return false;
            }
            self.step(end);
        }
        true
    }

    fn is_over(&self) -> bool {
        self.cluster.judge.violation().is_some()
    }

    fn violated(&self, invariant: Invariant, what: &str) {
        let seen = self.cluster.describe();
        self.cluster.judge.violated(invariant, format!("{what}\n{seen}"));
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.cluster.sim.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn has_files(&self) -> bool {
        self.cluster.options.disk == DiskKind::Bytes
    }
}

impl Cluster {
    /// The server that leads and can serve, and that no other member has overtaken.
    fn leader(&self) -> Option<u64> {
        let membership = self.judge.membership();
        let member = |n: &u64| membership.member(self.id(*n)).is_some();
        let up = self.numbers(|state| state == State::Up);
        let statuses = up.into_iter().filter(|n| membership.index() == 0 || member(n));
        let statuses = statuses.filter_map(|n| Some((n, self.raft(n)?.status())));
        let statuses: Vec<_> = statuses.filter(|(_, status)| status.stopped.is_none()).collect();
        let term = statuses.iter().map(|(_, status)| status.term).max()?;
        let leads = |status: &kontiki::Status| status.established && status.term == term;
        statuses.into_iter().find(|(_, status)| leads(status)).map(|(n, _)| n)
    }

    fn look(&self) {
        let mut leaders = 0;
        for n in self.numbers(|state| state == State::Up) {
            if let Some(raft) = self.raft(n) {
                let status = raft.status();
                leaders += usize::from(status.role == RaftRole::Leader);
                self.judge.status(&status, self.disk_failed(n));
            }
        }
        if leaders > 1 {
            self.judge.sometimes("two servers led at once, in different terms");
        }
    }

    fn describe(&self) -> String {
        let mut lines = vec![format!("membership {:?}", self.judge.membership())];
        for n in self.options.servers() {
            let state = self.state(n);
            let status = self.raft(n).map(|raft| raft.status());
            let line = status.map(|s| {
                format!(
                    "{:?} term {} leader {:?} last {} commit {} applied {} snapshot {} \
                     stopped {:?}",
                    s.role, s.term, s.leader, s.last, s.commit, s.applied, s.snapshot, s.stopped
                )
            });
            lines.push(format!(
                "server {n} ({}) {state:?} {}",
                self.id(n),
                line.unwrap_or_default()
            ));
        }
        lines.join("\n")
    }

    /// Lets go of every process, so that nothing of the run stays in memory.
    fn end(&self) {
        for n in self.options.servers() {
            self.sim.kill(n);
            self.bury(n);
        }
        let clients = (1..=self.options.clients).map(|number| CLIENTS + number);
        clients.chain([0, crate::operator::OPERATOR]).for_each(|n| self.sim.kill(n));
    }
}

/// How often it is looked whether somebody has died, in milliseconds.
const LOOK_EVERY_MS: u64 = 25;

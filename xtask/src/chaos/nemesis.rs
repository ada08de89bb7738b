//! Does what the plan says, and looks whether it happened.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};

use super::Trouble;
use super::cluster::Cluster;
use super::delay::{Delayer, QUEUE, Weather};
use super::filter;
use super::freezer::Frozen;
use super::lab;
use super::machine::Machine;
use super::plan::{Act, Fault, Step, Victims};
use super::tracer::Tracer;
use super::workload::Recorder;
use crate::kv::Client;
use crate::wall;

/// How often each kind was seen to have happened, and to how many servers in all.
pub(crate) type Tally = BTreeMap<&'static str, (usize, usize)>;

pub(crate) struct Nemesis<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) machine: &'a Machine,
    pub(crate) recorder: &'a Recorder,
    pub(crate) dice: Rng,
    pub(crate) tally: Tally,
    /// The longest time from when all was well to the next acknowledged writes.
    pub(crate) longest_silence: Duration,
}

/// What was begun and must be ended.
enum Begun {
    Clock { victim: usize, seconds: i64 },
    Down,
    Filter { kind: &'static str, delayer: Option<Delayer> },
    Frozen(Frozen),
    Full { victim: usize },
    SlowLink { victim: usize },
    Stopped { victim: usize },
    Traced { kind: &'static str, victim: usize, tracer: Tracer },
}

impl Nemesis<'_> {
    /// Goes through one step; afterwards all is well again, or it says what is not.
    pub(crate) fn take(&mut self, step: &Step) -> Result<(), Trouble> {
        wall::pause_for(step.rest);
        self.cluster.check_alive()?;
        let mut begun = Vec::new();
        let mut done = Ok(());
        for act in &step.acts {
            match self.begin(act) {
                Ok(act) => begun.push(act),
                Err(trouble) => done = Err(trouble),
            }
        }
        if done.is_ok() {
            wall::pause_for(step.hold);
        }
        while let Some(act) = begun.pop() {
            let ended = self.end(act);
            done = done.and(ended);
        }
        done?;
        self.cluster.check_alive()?;
        self.cluster.wait_until_all_answer()?;
        self.wait_for_progress()
    }

    pub(crate) fn has_seen(&self, kind: &str) -> bool {
        self.tally.get(kind).is_some_and(|(times, _)| *times > 0)
    }

    fn begin(&mut self, act: &Act) -> Result<Begun, Trouble> {
        let victims = self.victims(act.victims);
        let victim = victims[0];
        let kind = act.fault.kind();
        match act.fault {
            Fault::ClockJump { seconds } => {
                if let Some(clock) = &self.cluster.clocks[victim] {
                    clock.set(seconds)?;
                }
                Ok(Begun::Clock { victim, seconds })
            }
            Fault::Cut(_) | Fault::Delay { .. } | Fault::Loss { .. } => {
                self.filter(&act.fault, victim)
            }
            Fault::DiskFull => {
                self.cluster.disks[victim].fill()?;
                self.wait_for_death(victim);
                Ok(Begun::Full { victim })
            }
            Fault::Freeze => {
                let freezer = self.machine.freezer.as_ref();
                let freezer = freezer.ok_or_else(|| "no freezer".to_owned())?;
                let name = super::group(&self.cluster.servers[victim].name);
                let frozen = freezer.freeze(&name, self.process(victim)?)?;
                self.happened(kind, 1);
                Ok(Begun::Frozen(frozen))
            }
            Fault::Kill => {
                let killed = victims.iter().filter(|victim| self.kill(**victim)).count();
                self.happened(kind, killed);
                Ok(Begun::Down)
            }
            Fault::PowerCut { killed_first, disk_goes_first } => {
                let slow = if killed_first { self.restart_unsynced(&victims)? } else { Vec::new() };
                self.cut_power(&victims, disk_goes_first)?;
                drop(slow);
                Ok(Begun::Down)
            }
            Fault::SlowDisk { ms } => {
                let tracer = self.trace(victim, &format!("delay_enter={}", ms * 1_000))?;
                Ok(Begun::Traced { kind, victim, tracer })
            }
            Fault::SlowLink { kbit } => {
                self.cluster.lab.slow(victim, kbit)?;
                Ok(Begun::SlowLink { victim })
            }
            Fault::Stop => {
                let stopped = self.stop(victim)?;
                self.happened(kind, usize::from(stopped));
                Ok(Begun::Stopped { victim })
            }
            Fault::SyncFails { after } => {
                let tracer = self.trace(victim, &format!("error=EIO:when={after}+"))?;
                self.wait_for_death(victim);
                Ok(Begun::Traced { kind, victim, tracer })
            }
        }
    }

    /// What the packet filter does.
    fn filter(&mut self, fault: &Fault, victim: usize) -> Result<Begun, Trouble> {
        let kind = fault.kind();
        let count = self.cluster.servers.len();
        let (rules, delayer) = match *fault {
            Fault::Cut(cut) => {
                let addresses: Vec<String> = (0..count).map(lab::address).collect();
                (filter::cut_rules(&filter::ways(cut, victim, count), &addresses), None)
            }
            Fault::Delay { base_ms, jitter_ms, loss_percent } => {
                let (base, jitter) = (wall::ms(base_ms), wall::ms(jitter_ms));
                let weather = Weather { base, jitter, loss_percent };
                let delayer = Delayer::start(self.dice.u64(..), weather)?;
                (filter::queue_rules(QUEUE), Some(delayer))
            }
            Fault::Loss { percent } => (filter::loss_rules(percent), None),
            other => return Err(format!("{other:?} is not for the packet filter").into()),
        };
        filter::apply(&rules)?;
        Ok(Begun::Filter { kind, delayer })
    }

    fn end(&mut self, begun: Begun) -> Result<(), Trouble> {
        match begun {
            Begun::Clock { victim, seconds } => {
                let ahead = self.ahead(victim);
                let jumped = ahead.is_some_and(|ahead| ahead.abs_diff(seconds) < 5);
                let kind = Fault::ClockJump { seconds }.kind();
                self.happened(kind, usize::from(jumped));
                if let Some(clock) = &self.cluster.clocks[victim] {
                    clock.set(0)?;
                }
            }
            Begun::Down => self.start_all()?,
            Begun::Filter { kind, delayer } => {
                let packets = filter::packets()?;
                filter::apply(&[])?;
                let packets = delayer.map_or(Ok(packets), Delayer::finish)?;
                self.happened(kind, usize::from(packets > 0));
            }
            Begun::Frozen(frozen) => drop(frozen),
            Begun::Full { victim } => {
                // A start on a full disk may fail, but must do no harm.
                let ended = self.cluster.servers[victim].ended().is_some();
                if ended {
                    self.start_all()?;
                    wall::pause(300);
                }
                self.cluster.disks[victim].free()?;
                // A write that met the full disk just now may not have told yet.
                wall::pause(500);
                let met = ended || self.cluster.servers[victim].ended().is_some();
                self.happened("disk-full", usize::from(met));
                self.start_all()?;
            }
            Begun::SlowLink { victim } => {
                let waited = self.cluster.lab.unslow(victim)?;
                self.happened("slow-link", usize::from(waited > 0));
            }
            Begun::Stopped { victim } => self.signal(victim, Signal::CONT)?,
            Begun::Traced { kind, victim, tracer } => {
                let meddled = tracer.meddled();
                drop(tracer);
                if kind == "sync-fails" {
                    return self.after_failed_syncs(victim, meddled);
                }
                self.happened(kind, usize::from(meddled > 0));
            }
        }
        Ok(())
    }

    /// A server that met a failed sync must have ended: what is on its disk, nobody knows.
    fn after_failed_syncs(&mut self, victim: usize, failed: usize) -> Result<(), Trouble> {
        let died = self.cluster.servers[victim].ended().is_some();
        self.happened("sync-fails", usize::from(failed > 0 && died));
        if failed > 1 && !died {
            let name = &self.cluster.servers[victim].name;
            let what = format!("{name} goes on, {failed} syncs of which failed");
            return Err(Trouble::Violation(what));
        }
        self.cluster.servers[victim].kill();
        self.start_all()
    }

    fn victims(&mut self, victims: Victims) -> Vec<usize> {
        let count = self.cluster.servers.len();
        match victims {
            Victims::Everybody => (0..count).collect(),
            Victims::Follower(one) => {
                let leads = self.cluster.leader() == Some(one);
                vec![if leads { (one + 1) % count } else { one }]
            }
            Victims::Leader => {
                vec![self.cluster.leader().unwrap_or_else(|| self.dice.usize(..count))]
            }
            Victims::Minority(from) => {
                (0..count.div_ceil(2) - 1).map(|offset| (from + offset) % count).collect()
            }
            Victims::One(one) => vec![one],
        }
    }

    fn happened(&mut self, kind: &'static str, servers: usize) {
        let (times, all) = self.tally.entry(kind).or_default();
        *times += usize::from(servers > 0);
        *all += servers;
    }

    /// Whether it was this that ended it.
    fn kill(&mut self, victim: usize) -> bool {
        let status = self.cluster.servers[victim].kill();
        status.is_some_and(|status| status.signal() == Some(9))
    }

    /// Starts those that are down.
    fn start_all(&mut self) -> Result<(), Trouble> {
        for server in &mut self.cluster.servers {
            if server.ended().is_some() {
                server.kill();
            }
            if server.child.is_none() {
                server.start(None)?;
            }
        }
        Ok(())
    }

    /// Kills servers while they wait for a sync, and starts them: what is read back then was
    /// written and never synced, and a sync takes long again.
    fn restart_unsynced(&mut self, victims: &[usize]) -> Result<Vec<Tracer>, Trouble> {
        let traces = !self.machine.missing.contains_key("slow-disk");
        let slow = |nemesis: &Self| -> Result<Vec<Tracer>, Trouble> {
            let victims = victims.iter().filter(|_| traces);
            victims.map(|victim| nemesis.trace(*victim, "delay_enter=400000")).collect()
        };
        let tracers = slow(self)?;
        wall::pause(self.dice.u64(100..300));
        for victim in victims {
            self.kill(*victim);
        }
        drop(tracers);
        self.start_all()?;
        let tracers = slow(self)?;
        self.cluster.wait_until_all_answer()?;
        wall::pause(self.dice.u64(..400));
        Ok(tracers)
    }

    fn cut_power(&mut self, victims: &[usize], disk_goes_first: bool) -> Result<(), Trouble> {
        let disks = &self.cluster.disks;
        for victim in victims {
            let written = disks[*victim].write_unsynced();
            written.map_err(|error| format!("the file that must be lost: {error}"))?;
        }
        let cut = || victims.iter().try_for_each(|victim| disks[*victim].cut_power());
        if disk_goes_first {
            cut()?;
            // What it answers now, it must have synced before.
            wall::pause(self.dice.u64(..30));
        }
        for victim in victims {
            self.cluster.servers[*victim].kill();
        }
        if !disk_goes_first {
            cut()?;
        }
        let mut lost = 0;
        for victim in victims {
            let disk = &disks[*victim];
            disk.unmount()?;
            disk.mount()?;
            lost += usize::from(disk.has_lost_unsynced());
        }
        self.happened("power-cut", lost);
        Ok(())
    }

    fn trace(&self, victim: usize, inject: &str) -> Result<Tracer, Trouble> {
        let log = self.cluster.notes.join(format!("{}.trace", self.cluster.servers[victim].name));
        Ok(Tracer::attach(self.process(victim)?, inject, &log)?)
    }

    /// Gives a server the time to end that has met what it must not survive.
    fn wait_for_death(&mut self, victim: usize) {
        for _ in 0..250 {
            if self.cluster.servers[victim].ended().is_some() {
                return;
            }
            wall::pause(20);
        }
    }

    fn process(&self, victim: usize) -> Result<u32, Trouble> {
        let server = &self.cluster.servers[victim];
        let child = server.child.as_ref().ok_or_else(|| format!("{} is down", server.name))?;
        Ok(child.id())
    }

    /// Whether it has stopped.
    fn stop(&self, victim: usize) -> Result<bool, Trouble> {
        self.signal(victim, Signal::STOP)?;
        wall::pause(20);
        let status = format!("/proc/{}/status", self.process(victim)?);
        let status = fs::read_to_string(status).unwrap_or_default();
        Ok(status.contains("State:\tT"))
    }

    fn signal(&self, victim: usize, signal: Signal) -> Result<(), Trouble> {
        let process = i32::try_from(self.process(victim)?).ok().and_then(Pid::from_raw);
        let process = process.ok_or_else(|| "a process without a number".to_owned())?;
        kill_process(process, signal).map_err(|error| format!("{signal:?}: {error}").into())
    }

    /// How many seconds a server's wall clock is ahead, if it answers.
    fn ahead(&self, victim: usize) -> Option<i64> {
        let kv = Client::new(wall::ms(1_000));
        let asked = kv.ask(&self.cluster.servers[victim].http, "/v1/status/leader?stale");
        let date = httpdate::parse_http_date(&asked.ok()?.2).ok()?;
        let theirs = date.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
        let ours = wall::since_the_epoch().as_secs();
        Some(i64::try_from(theirs).ok()? - i64::try_from(ours).ok()?)
    }

    /// With everybody up and connected, writes are acknowledged again soon.
    fn wait_for_progress(&mut self) -> Result<(), Trouble> {
        let (began, before) = (wall::now(), self.recorder.acknowledged());
        while self.recorder.acknowledged() < before + WRITES_BETWEEN {
            if began.elapsed() > PROGRESS_WITHIN {
                let seconds = PROGRESS_WITHIN.as_secs();
                let what = format!("{seconds} s after all was healed, no write is acknowledged");
                return Err(Trouble::Violation(what));
            }
            self.cluster.check_alive()?;
            wall::pause(10);
        }
        self.longest_silence = self.longest_silence.max(began.elapsed());
        Ok(())
    }
}

/// How many writes must be acknowledged before the next step.
const WRITES_BETWEEN: u64 = 8;
const PROGRESS_WITHIN: Duration = Duration::from_secs(30);

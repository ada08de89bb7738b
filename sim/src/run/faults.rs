//! Doing what the plan says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kontiki::runtime::Runtime as _;
use kontiki::{Change, Role};

use super::{Action, Run};
use crate::cluster::{Cluster, State};
use crate::plan::{Fault, Target};

impl Run {
    pub(super) fn act(&mut self, action: Action) {
        let now = self.now_ms();
        let cluster = Arc::clone(&self.cluster);
        match action {
            Action::Crash { server, back_ms } => self.crash(server, back_ms),
            Action::DiskGoesOn(n) => cluster.set_stuck(n, false),
            Action::DiskHasRoom(n) => {
                cluster.set_full(n, false);
                cluster.judge.sometimes("a full disk had room again");
            }
            Action::DiskIsFast(n) => cluster.set_slowness(n, 1),
            Action::Fault(fault) => self.fault(fault, now),
            Action::Flap { a, b, period_ms, until_ms, cut } => {
                let done = now >= until_ms;
                for (from, to) in [(a, b), (b, a)] {
                    if cut && !done { cluster.cut(from, to) } else { cluster.mend(from, to) }
                }
                if !done {
                    let next = Action::Flap { a, b, period_ms, until_ms, cut: !cut };
                    self.later(now + period_ms, next);
                }
            }
            Action::Mend(cuts) => cuts.into_iter().for_each(|(from, to)| cluster.mend(from, to)),
            Action::Resume(n) => cluster.sim.resume(n),
            Action::Speak(n, speech) => cluster.links.speak(n, speech),
            Action::Start(n) if cluster.state(n) == State::Down => cluster.start(n),
            Action::Start(_) => {}
        }
    }

    fn fault(&mut self, fault: Fault, now: u64) {
        if fault.needs_bytes() && !self.has_files() {
            return;
        }
        self.cluster.sim.record(&format!("{fault:?}"));
        match fault {
            Fault::Crash { .. }
            | Fault::CrashAfter { .. }
            | Fault::CrashAll { .. }
            | Fault::CrashAtFileOperation { .. }
            | Fault::CrashLoop { .. }
            | Fault::Pause { .. }
            | Fault::RollingRestart { .. } => self.process_fault(&fault, now),
            Fault::Bridge { .. }
            | Fault::Flap { .. }
            | Fault::Isolate { .. }
            | Fault::OneWay { .. }
            | Fault::Ring { .. }
            | Fault::Split { .. } => self.network_fault(fault, now),
            Fault::Clog { .. } | Fault::Mute { .. } => self.message_fault(&fault, now),
            Fault::Drift { .. } | Fault::WallClock { .. } => self.clock_fault(&fault),
            Fault::BitFlip { .. } | Fault::FileVanishes { .. } | Fault::Misdirected { .. } => {
                self.damage(&fault, now);
            }
            Fault::DiskFull { .. }
            | Fault::DiskStuck { .. }
            | Fault::ReadFails { .. }
            | Fault::SlowDisk { .. }
            | Fault::SyncFails { .. }
            | Fault::Wipe { .. } => self.disk_fault(&fault, now),
            Fault::Add { .. }
            | Fault::Demote { .. }
            | Fault::Move { .. }
            | Fault::Promote { .. }
            | Fault::Remove { .. }
            | Fault::Replace { .. }
            | Fault::Transfer { .. } => self.operation(&fault),
        }
    }

    fn process_fault(&mut self, fault: &Fault, now: u64) {
        let all: Vec<u64> = self.cluster.options.servers().collect();
        match *fault {
            Fault::Crash { target, down_ms } => {
                if let Some(n) = self.whom(target) {
                    self.crash(n, now + down_ms);
                }
            }
            Fault::CrashAfter { server, moment, down_ms } => {
                self.outages.insert(server, down_ms);
                self.cluster.links.aim(server, moment);
            }
            Fault::CrashAll { down_ms } => {
                all.into_iter().for_each(|n| self.crash(n, now + down_ms));
                self.cluster.judge.sometimes("every server was down");
            }
            Fault::CrashAtFileOperation { server, count, down_ms } => {
                self.outages.insert(server, down_ms);
                self.cluster.sim.kill_at_file_operation(server, count);
            }
            Fault::CrashLoop { server, times, period_ms } => {
                self.cluster.judge.sometimes("a server died again and again");
                for turn in 0..times {
                    let at_ms = now + turn * period_ms;
                    let back_ms = at_ms + period_ms / 3;
                    self.later(at_ms, Action::Crash { server, back_ms });
                }
            }
            Fault::Pause { target, ms } => {
                let Some(n) = self.whom(target) else { return };
                if self.cluster.leader() == Some(n) {
                    self.cluster.judge.sometimes("a leader stood still");
                }
                self.cluster.judge.sometimes("a server stood still");
                self.cluster.sim.pause(n);
                self.later(now + ms, Action::Resume(n));
            }
            Fault::RollingRestart { pause_ms } => {
                for (turn, n) in (0..).zip(all) {
                    let crash = Fault::Crash { target: Target::Server(n), down_ms: pause_ms / 2 };
                    self.later(now + turn * pause_ms, Action::Fault(crash));
                }
            }
            _ => {}
        }
    }

    fn crash(&mut self, n: u64, back_ms: u64) {
        if self.cluster.kill(n) {
            self.later(back_ms, Action::Start(n));
        }
    }

    fn whom(&self, target: Target) -> Option<u64> {
        match target {
            Target::Leader => self.cluster.leader(),
            Target::Server(n) => Some(n),
        }
    }

    fn network_fault(&mut self, fault: Fault, now: u64) {
        let all: Vec<u64> = self.cluster.options.servers().collect();
        let both = |a: u64, b: u64| [(a, b), (b, a)];
        let (cuts, ms): (Vec<(u64, u64)>, u64) = match fault {
            Fault::Bridge { a, c, ms } => (both(a, c).to_vec(), ms),
            Fault::Isolate { target, ms } => {
                let Some(n) = self.whom(target) else { return };
                if target == Target::Leader {
                    self.cluster.judge.sometimes("a leader was cut off");
                }
                (all.iter().flat_map(|&other| both(n, other)).collect(), ms)
            }
            Fault::OneWay { from, to, ms } => {
                self.cluster.judge.sometimes("a link worked in one direction only");
                (vec![(from, to)], ms)
            }
            Fault::Ring { ms } => {
                self.cluster.judge.sometimes("servers saw only their neighbours");
                let far = |a: u64, b: u64| {
                    !matches!(a.abs_diff(b), 0 | 1) && a.abs_diff(b) + 1 != all.len() as u64
                };
                let pairs = all.iter().flat_map(|&a| all.iter().map(move |&b| (a, b)));
                (pairs.filter(|&(a, b)| far(a, b)).collect(), ms)
            }
            Fault::Split { side, ms } => {
                let others: Vec<u64> = all.into_iter().filter(|n| !side.contains(n)).collect();
                let pairs = side.iter().flat_map(|&a| others.iter().map(move |&b| (a, b)));
                (pairs.flat_map(|(a, b)| both(a, b)).collect(), ms)
            }
            Fault::Flap { a, b, period_ms, ms } if a != b => {
                let until_ms = now + ms;
                self.cluster.judge.sometimes("a link flapped");
                self.act(Action::Flap { a, b, period_ms, until_ms, cut: true });
                (Vec::new(), ms)
            }
            _ => return,
        };
        self.cluster.judge.count(|counts| counts.partitions += 1);
        let cuts: Vec<_> = cuts.into_iter().filter(|(from, to)| from != to).collect();
        cuts.iter().for_each(|&(from, to)| self.cluster.cut(from, to));
        self.later(now + ms, Action::Mend(cuts));
    }

    fn disk_fault(&mut self, fault: &Fault, now: u64) {
        let cluster = Arc::clone(&self.cluster);
        match *fault {
            Fault::DiskStuck { server, ms } => {
                cluster.judge.sometimes("a disk was stuck");
                cluster.set_stuck(server, true);
                self.later(now + ms, Action::DiskGoesOn(server));
            }
            Fault::DiskFull { server, ms } => {
                cluster.note_disk_failure(server);
                cluster.set_full(server, true);
                self.later(now + ms, Action::DiskHasRoom(server));
            }
            Fault::ReadFails { server, down_ms } if cluster.state(server) == State::Up => {
                cluster.note_disk_failure(server);
                self.outages.insert(server, down_ms);
                cluster.each_directory(server, kontiki::runtime::sim::SimFiles::fail_next_read);
            }
            Fault::SlowDisk { server, times, ms } => {
                cluster.judge.sometimes("a disk was slow");
                cluster.set_slowness(server, times);
                self.later(now + ms, Action::DiskIsFast(server));
            }
            Fault::SyncFails { server, down_ms } if cluster.state(server) == State::Up => {
                cluster.note_disk_failure(server);
                self.outages.insert(server, down_ms);
                cluster.fail_sync(server);
            }
            Fault::Wipe { server } if self.may_lose(server) => {
                cluster.kill(server);
                self.replace(server);
            }
            _ => {}
        }
    }

    /// What had been synced on a server's disk is not there any more.
    fn damage(&mut self, fault: &Fault, now: u64) {
        let (Fault::BitFlip { server }
        | Fault::FileVanishes { server }
        | Fault::Misdirected { server }) = *fault
        else {
            return;
        };
        if !self.may_lose(server) {
            return;
        }
        let cluster = Arc::clone(&self.cluster);
        cluster.kill(server);
        let process = cluster.sim.process(server);
        let mut directories = cluster.directories(server, &process);
        if process.random().is_multiple_of(4) {
            // The snapshots first, which are fewer.
            directories.reverse();
        }
        let mut each = directories.iter();
        let (damaged, what) = match fault {
            Fault::FileVanishes { .. } => (each.any(|files| files.lose_file()), "a file vanished"),
            Fault::Misdirected { .. } => {
                (each.any(|files| files.misdirect()), "a sector lay in the place of another")
            }
            _ => (each.any(|files| files.flip_bit("")), "a bit flipped on a disk"),
        };
        if damaged {
            cluster.judge.sometimes(what);
            cluster.note_disk_failure(server);
            cluster.judge.damaged(cluster.id(server));
            self.lost.insert(server);
        }
        self.later(now + 100, Action::Start(server));
    }

    fn message_fault(&mut self, fault: &Fault, now: u64) {
        let judge = &self.cluster.judge;
        judge.count(|counts| counts.partitions += 1);
        match *fault {
            Fault::Clog { from, to, ms } => {
                let until = self.cluster.sim.elapsed() + Duration::from_millis(ms);
                self.cluster.links.clog(from, to, until);
            }
            Fault::Mute { server, speech, ms } => {
                self.cluster.links.mute(server, speech);
                self.later(now + ms, Action::Speak(server, speech));
            }
            _ => {}
        }
    }

    fn clock_fault(&self, fault: &Fault) {
        let cluster = &self.cluster;
        match *fault {
            Fault::Drift { server, ppm } => {
                cluster.judge.sometimes("a clock ran fast or slow");
                cluster.sim.set_drift(server, ppm);
            }
            Fault::WallClock { server, ahead_ms } => {
                if ahead_ms < 0 {
                    cluster.judge.sometimes("a wall clock went back");
                }
                cluster.sim.set_wall_clock(server, ahead_ms);
            }
            _ => {}
        }
    }

    /// Whether the cluster is sure to survive that this server loses everything: the fault model
    /// has it that a quorum never does.
    fn may_lose(&mut self, n: u64) -> bool {
        let cluster = Arc::clone(&self.cluster);
        let membership = cluster.judge.membership();
        // Whoever is back as a voter is lost no more, unless its damage may show later.
        self.lost.retain(|&n| {
            if cluster.judge.is_damaged(cluster.id(n)) {
                return true;
            }
            let back = membership.member(cluster.id(n));
            back.is_none_or(|member| member.role != Role::Voter) || cluster.state(n) != State::Up
        });
        let known = matches!(cluster.state(n), State::Up | State::Down) && !self.is_moving();
        let settled = cluster.with_care.load(Ordering::Relaxed) == 0 && !membership.is_joint();
        known && settled && self.lost.is_empty() && membership.voters().count() >= 3
    }

    fn operation(&mut self, fault: &Fault) {
        let cluster = Arc::clone(&self.cluster);
        let membership = cluster.judge.membership();
        if self.is_moving() && !matches!(fault, Fault::Add { .. } | Fault::Transfer { .. }) {
            // Nobody reaches that server before the others have its address: it counts as lost.
            return;
        }
        let change = match *fault {
            Fault::Add { server } => return self.add(server),
            Fault::Move { server } => return self.relocate(server),
            Fault::Replace { old, by } => return self.put_in_place(old, by),
            Fault::Demote { server } => Change::Demote(cluster.id(server)),
            Fault::Promote { server } => Change::Promote(cluster.id(server)),
            Fault::Remove { server } if membership.voters().count() > 1 => {
                if cluster.leader() == Some(server) {
                    cluster.judge.sometimes("a leader was asked to remove itself");
                }
                Change::Remove(cluster.id(server))
            }
            Fault::Transfer { via, to } => {
                let to = cluster.id(to);
                let operators = Arc::clone(&cluster);
                return operators.operate(async move { cluster.transfer(via, to).await });
            }
            _ => return,
        };
        Arc::clone(&cluster).operate(async move { cluster.change_with_care(change).await });
    }

    fn add(&self, n: u64) {
        let cluster = Arc::clone(&self.cluster);
        if self.begin_blank(n) {
            Arc::clone(&cluster).operate(async move {
                cluster.admit(n).await;
            });
        }
    }

    fn put_in_place(&self, old: u64, by: u64) {
        let cluster = Arc::clone(&self.cluster);
        let member = cluster.judge.membership().member(cluster.id(by)).is_some();
        if old == by || !member && !self.begin_blank(by) {
            return;
        }
        let old = cluster.id(old);
        Arc::clone(&cluster).operate(async move { cluster.put_in_place(by, old).await });
    }

    /// A server goes to another address, if the others can do without it meanwhile.
    fn relocate(&mut self, n: u64) {
        let cluster = Arc::clone(&self.cluster);
        let membership = cluster.judge.membership();
        let settled = self.lost.is_empty() && !membership.is_joint();
        let up = cluster.state(n) == State::Up && membership.member(cluster.id(n)).is_some();
        if !settled || !up || membership.voters().count() < 4 {
            return;
        }
        cluster.kill(n);
        cluster.relocate(n);
        cluster.start(n);
        self.moving = Some((cluster.id(n), cluster.address(n)));
        Arc::clone(&cluster).operate(async move { cluster.readdress(n).await });
    }

    /// Whether a server has gone to an address which the others do not know yet.
    fn is_moving(&mut self) -> bool {
        let Some((id, address)) = &self.moving else { return false };
        let membership = self.cluster.judge.membership();
        let known = membership.member(*id).is_none_or(|member| member.address == *address);
        if known {
            self.moving = None;
        }
        !known
    }

    /// Starts a server that is no member on an empty disk; `false` if it is one.
    fn begin_blank(&self, n: u64) -> bool {
        let cluster = &self.cluster;
        let membership = cluster.judge.membership();
        // Whoever leaves by a joint configuration counts until that is left.
        if membership.is_joint() || membership.member(cluster.id(n)).is_some() {
            return false;
        }
        if cluster.state(n) != State::Absent {
            if !cluster.judge.was_member(cluster.id(n)) {
                // It is being taken in already, and nobody would ever take that back.
                return false;
            }
            // It was removed once: it comes as another.
            cluster.judge.sometimes("a server that was taken out came as another");
            cluster.kill(n);
            cluster.wipe(n);
        }
        cluster.start(n);
        true
    }
}

impl Cluster {
    pub(super) fn each_directory(&self, n: u64, act: impl Fn(&kontiki::runtime::sim::SimFiles)) {
        self.directories(n, &self.sim.process(n)).iter().for_each(|files| act(files));
    }

    pub(super) fn cut(&self, from: u64, to: u64) {
        self.sim.cut(from, to);
        self.links.cut(from, to);
    }

    pub(super) fn mend(&self, from: u64, to: u64) {
        self.sim.mend(from, to);
        self.links.mend(from, to);
    }
}

pub(super) fn spawn(
    process: &kontiki::runtime::sim::SimProcess,
    task: impl Future<Output = ()> + Send + 'static,
) {
    process.spawn(Box::pin(task));
}

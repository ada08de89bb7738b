//! What goes wrong, when and to whom: drawn from a seed before anything runs.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// Which connections are cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cut {
    /// Only the victim sees both halves of the others.
    Bridge,
    /// Nothing that others send to the victim, over connections of theirs, arrives.
    Deaf,
    /// Nobody sees anybody.
    Everybody,
    /// The victim and as many others as make a minority see only each other.
    Minority,
    /// Nothing that the victim sends to others, over connections of its own, arrives.
    Mute,
    /// The victim sees nobody.
    One,
    /// The victim sees nobody; its connections are reset, where they otherwise fall silent.
    Reset,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    ClockJump {
        seconds: i64,
    },
    Cut(Cut),
    Delay {
        base_ms: u64,
        jitter_ms: u64,
        loss_percent: u64,
    },
    DiskFull,
    Freeze,
    Kill,
    Loss {
        percent: u64,
    },
    /// With `killed_first`, the server is killed before, in the middle of a sync, and started
    /// again: what it reads back then can be read, but is not on the disk.
    PowerCut {
        killed_first: bool,
        disk_goes_first: bool,
    },
    SlowDisk {
        ms: u64,
    },
    SlowLink {
        kbit: u64,
    },
    Stop,
    SyncFails {
        after: u64,
    },
}

/// Whom it is done to; who that is, is known when it is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Victims {
    Everybody,
    /// One that does not lead.
    Follower(usize),
    Leader,
    /// As many as may fail without harm, from this one on.
    Minority(usize),
    One(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Act {
    pub(crate) fault: Fault,
    pub(crate) victims: Victims,
}

/// Acts that begin and end together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) acts: Vec<Act>,
    pub(crate) hold: Duration,
    /// How long all is well before.
    pub(crate) rest: Duration,
}

/// How much of what there shall be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amounts {
    /// Of every kind.
    pub(crate) each: usize,
    pub(crate) kills: usize,
    pub(crate) power_cuts: usize,
}

/// Every kind by its name.
pub(crate) const KINDS: [&str; 18] = [
    "kill",
    "stop",
    "freeze",
    "cut-one",
    "cut-minority",
    "cut-bridge",
    "cut-one-way",
    "cut-everybody",
    "cut-reset",
    "loss",
    "delay",
    "slow-link",
    "disk-full",
    "sync-fails",
    "slow-disk",
    "power-cut",
    "clock-forth",
    "clock-back",
];

impl Fault {
    fn draw(kind: &str, dice: &mut Rng) -> Self {
        match kind {
            "kill" => Self::Kill,
            "stop" => Self::Stop,
            "freeze" => Self::Freeze,
            "cut-one" => Self::Cut(Cut::One),
            "cut-minority" => Self::Cut(Cut::Minority),
            "cut-bridge" => Self::Cut(Cut::Bridge),
            "cut-one-way" => Self::Cut(if dice.bool() { Cut::Deaf } else { Cut::Mute }),
            "cut-everybody" => Self::Cut(Cut::Everybody),
            "cut-reset" => Self::Cut(Cut::Reset),
            "loss" => Self::Loss { percent: dice.u64(5..40) },
            "delay" => Self::Delay {
                base_ms: dice.u64(5..80),
                jitter_ms: dice.u64(1..80),
                loss_percent: dice.u64(0..10),
            },
            "slow-link" => Self::SlowLink { kbit: dice.u64(64..800) },
            "disk-full" => Self::DiskFull,
            "sync-fails" => Self::SyncFails { after: dice.u64(1..20) },
            "slow-disk" => Self::SlowDisk { ms: dice.u64(20..400) },
            "power-cut" => {
                Self::PowerCut { killed_first: dice.u8(..4) == 0, disk_goes_first: dice.bool() }
            }
            "clock-forth" => Self::ClockJump { seconds: dice.i64(10..100_000) },
            "clock-back" => Self::ClockJump { seconds: -dice.i64(10..100_000) },
            other => unreachable!("{other} is not among KINDS"),
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::ClockJump { seconds: ..0 } => "clock-back",
            Self::ClockJump { .. } => "clock-forth",
            Self::Cut(Cut::Bridge) => "cut-bridge",
            Self::Cut(Cut::Deaf | Cut::Mute) => "cut-one-way",
            Self::Cut(Cut::Everybody) => "cut-everybody",
            Self::Cut(Cut::Minority) => "cut-minority",
            Self::Cut(Cut::One) => "cut-one",
            Self::Cut(Cut::Reset) => "cut-reset",
            Self::Delay { .. } => "delay",
            Self::DiskFull => "disk-full",
            Self::Freeze => "freeze",
            Self::Kill => "kill",
            Self::Loss { .. } => "loss",
            Self::PowerCut { .. } => "power-cut",
            Self::SlowDisk { .. } => "slow-disk",
            Self::SlowLink { .. } => "slow-link",
            Self::Stop => "stop",
            Self::SyncFails { .. } => "sync-fails",
        }
    }

    /// Faults of one class would undo each other.
    fn class(&self) -> Class {
        match self {
            Self::ClockJump { .. } => Class::Clock,
            Self::Cut(_) | Self::Delay { .. } | Self::Loss { .. } | Self::SlowLink { .. } => {
                Class::Network
            }
            _ => Class::Server,
        }
    }

    /// It may be done to several at once.
    fn spreads(&self) -> bool {
        matches!(self, Self::Kill | Self::PowerCut { .. })
    }

    fn hold_ms(&self, dice: &mut Rng) -> u64 {
        match self {
            Self::Kill | Self::PowerCut { .. } => dice.u64(0..300),
            Self::ClockJump { .. } => dice.u64(1_200..2_000),
            Self::DiskFull | Self::SyncFails { .. } => dice.u64(300..1_000),
            // Long enough that those who are left elect another, and the one who is not falls
            // behind.
            _ => dice.u64(1_200..3_000),
        }
    }
}

#[derive(Eq, PartialEq)]
enum Class {
    Clock,
    Network,
    Server,
}

/// The same plan for the same seed, kinds and amounts.
pub(crate) fn draw(
    seed: u64,
    servers: usize,
    kinds: &[&'static str],
    amounts: Amounts,
) -> Vec<Step> {
    let mut dice = Rng::with_seed(seed);
    let mut list: Vec<&str> = kinds.iter().flat_map(|kind| vec![*kind; amounts.each]).collect();
    for (kind, wanted) in [("kill", amounts.kills), ("power-cut", amounts.power_cuts)] {
        if kinds.contains(&kind) {
            list.extend(vec![kind; wanted.saturating_sub(amounts.each)]);
        }
    }
    dice.shuffle(&mut list);
    list.into_iter().map(|kind| step(kind, servers, kinds, &mut dice)).collect()
}

fn step(kind: &str, servers: usize, kinds: &[&str], dice: &mut Rng) -> Step {
    let fault = Fault::draw(kind, dice);
    let mut acts = vec![Act { fault, victims: victims(&fault, servers, dice) }];
    let mut hold = fault.hold_ms(dice);
    // The cycles of which there are many stay alone, and quick.
    let alone = if fault.spreads() { dice.u8(..10) > 0 } else { dice.u8(..3) > 0 };
    let others: Vec<&&str> = kinds
        .iter()
        .filter(|other| Fault::draw(other, &mut Rng::with_seed(0)).class() != fault.class())
        .collect();
    if let Some(other) = dice.choice(others).filter(|_| !alone) {
        let second = Fault::draw(other, dice);
        hold = hold.max(second.hold_ms(dice));
        acts.push(Act { fault: second, victims: victims(&second, servers, dice) });
    }
    let rest = Duration::from_millis(dice.u64(50..500));
    Step { acts, hold: Duration::from_millis(hold), rest }
}

fn victims(fault: &Fault, servers: usize, dice: &mut Rng) -> Victims {
    let one = dice.usize(..servers);
    match dice.u8(..10) {
        // Nobody would miss the connections between two followers.
        _ if *fault == Fault::Cut(Cut::Bridge) => Victims::Follower(one),
        0 if fault.spreads() => Victims::Everybody,
        1 | 2 if fault.spreads() => Victims::Minority(one),
        3..=6 => Victims::Leader,
        _ => Victims::One(one),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} ms", self.rest.as_millis())?;
        for (at, act) in self.acts.iter().enumerate() {
            let joint = if at == 0 { ":" } else { " with" };
            write!(f, "{joint} {:?} on {:?}", act.fault, act.victims)?;
        }
        write!(f, " for {} ms", self.hold.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMOUNTS: Amounts = Amounts { each: 2, kills: 7, power_cuts: 9 };

    fn count(plan: &[Step], kind: &str) -> usize {
        plan.iter().filter(|step| step.acts[0].fault.kind() == kind).count()
    }

    #[test]
    fn one_seed_makes_one_plan_and_another_a_different_one() {
        let plan = draw(7, 5, &KINDS, AMOUNTS);
        assert_eq!(plan, draw(7, 5, &KINDS, AMOUNTS));
        assert_ne!(plan, draw(8, 5, &KINDS, AMOUNTS));
    }

    #[test]
    fn a_plan_holds_every_kind_that_was_chosen_as_often_as_was_asked() {
        let plan = draw(7, 3, &KINDS, AMOUNTS);
        for kind in KINDS {
            let wanted = [("kill", 7), ("power-cut", 9)];
            let wanted = wanted.iter().find(|(name, _)| *name == kind).map_or(2, |(_, n)| *n);
            assert_eq!(count(&plan, kind), wanted, "{kind}");
        }
        let few = draw(7, 3, &["stop", "loss"], AMOUNTS);
        assert_eq!((few.len(), count(&few, "stop"), count(&few, "loss")), (4, 2, 2));
    }

    #[test]
    fn what_happens_together_is_of_different_classes() {
        let plan = draw(3, 5, &KINDS, Amounts { each: 30, kills: 0, power_cuts: 0 });
        let pairs: Vec<_> = plan.iter().filter(|step| step.acts.len() == 2).collect();
        assert!(pairs.len() > 50, "only {} pairs", pairs.len());
        let class = |act: &Act| act.fault.class();
        assert!(pairs.iter().all(|step| class(&step.acts[0]) != class(&step.acts[1])));
    }
}

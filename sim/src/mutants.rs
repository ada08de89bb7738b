//! Each planted defect must be found, by an invariant that names it, within so many seeds.

use kontiki::Mutant;
use kontiki_sim::{Case, DiskKind, Invariant, Kind, NetworkKind, Plan, run};

/// What finds a defect, and where.
struct Hunt {
    mutant: Mutant,
    by: &'static [Invariant],
    on: DiskKind,
    kinds: &'static [Kind],
    seeds_max: u64,
}

use DiskKind::{Bytes, Objects};
use Invariant::{
    AtMostOnce, DamageFound, DurableBeforeAck, Linearizable, NoPanic, NotAppliedIsNot, Progress,
    ReadIndexFresh, VoteDurable,
};
use Kind::{
    AimedCrash, BitFlip, Crash, DiskFailure, Membership, Message, Partition, Pause, SlowDisk,
    Transfer, Wipe,
};

#[rustfmt::skip]
const HUNTS: [Hunt; 15] = [
    hunt(Mutant::AckBeforeSync, &[DurableBeforeAck, VoteDurable], Objects, &[Crash], 10),
    hunt(Mutant::ChecksumIgnored, &[DamageFound, NoPanic], Bytes, &[BitFlip, Crash], 300),
    hunt(Mutant::CommittedChangeForgotten, &[Progress], Bytes, &[Crash, Membership, Partition, AimedCrash], 3_000),
    hunt(Mutant::CopyCarriedOut, &[AtMostOnce], Objects, &[Message], 50),
    hunt(Mutant::FoundNotRewritten, &[DurableBeforeAck, VoteDurable, NoPanic], Bytes, &[DiskFailure, Crash], 300),
    hunt(Mutant::LeaderBeforeVote, &[VoteDurable], Objects, &[Crash], 50),
    hunt(Mutant::MisdirectedTakenIn, &[NoPanic, DurableBeforeAck, VoteDurable], Objects, &[Message, Crash, Partition], 300),
    hunt(Mutant::ReadBeforeApplied, &[Linearizable], Objects, &[Partition, Crash], 50),
    hunt(Mutant::ReadWithoutRound, &[ReadIndexFresh, Linearizable], Objects, &[Partition, Pause], 300),
    hunt(Mutant::ReplacedAcknowledged, &[DurableBeforeAck], Objects, &[AimedCrash, Crash, Message, Partition, Pause, SlowDisk, Transfer, Wipe], 3_000),
    hunt(Mutant::SnapshotLossUnreported, &[Progress], Objects, &[Partition, Crash, Message], 1_000),
    hunt(Mutant::SyncErrorIgnored, &[DurableBeforeAck, NoPanic], Bytes, &[DiskFailure, Crash], 100),
    hunt(Mutant::SyncSkipped, &[DurableBeforeAck, VoteDurable, NoPanic], Bytes, &[Crash], 20),
    hunt(Mutant::UnknownIsRefused, &[NotAppliedIsNot], Objects, &[Partition, Crash], 100),
    hunt(Mutant::VoteForgotten, &[VoteDurable], Objects, &[AimedCrash, Crash], 1_000),
];

const fn hunt(
    mutant: Mutant,
    by: &'static [Invariant],
    on: DiskKind,
    kinds: &'static [Kind],
    seeds_max: u64,
) -> Hunt {
    Hunt { mutant, by, on, kinds, seeds_max }
}

/// Hunts each of them, in a world with only its own kinds of fault.
pub(crate) fn hunt_all() -> Result<(), String> {
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        let hunt =
            HUNTS.iter().find(|hunt| hunt.mutant == mutant).ok_or("a mutant without hunt")?;
        mutant.plant();
        match hunt.first_seed() {
            Ok((seed, invariant)) => println!("{mutant:?}: found by {invariant:?}, seed {seed}"),
            Err(why) => {
                println!("{mutant:?}: {why}");
                survivors.push(mutant);
            }
        }
    }
    if survivors.is_empty() {
        Ok(())
    } else {
        Err(format!("not found as they must: {survivors:?}"))
    }
}

impl Hunt {
    fn first_seed(&self) -> Result<(u64, Invariant), String> {
        for seed in 1..=self.seeds_max {
            let Some(violation) = run_case(&self.case(seed)) else { continue };
            if self.by.contains(&violation.invariant) {
                return Ok((seed, violation.invariant));
            }
            return Err(format!("found at seed {seed}, but by another invariant: {violation}"));
        }
        Err(format!("survived {} seeds", self.seeds_max))
    }

    fn case(&self, seed: u64) -> Case {
        let mut case = Case::from_seed(seed);
        let options = &mut case.options;
        options.kinds = self.kinds.iter().copied().collect();
        options.disk = self.on;
        options.network = NetworkKind::Messages;
        options.faults_ms = 40_000;
        if options.kinds.contains(&Message) {
            (options.duplication_ppm, options.misdelivery_ppm) = (50_000, 2_000);
        }
        case.plan = Plan::from_options(options);
        case
    }
}

fn run_case(case: &Case) -> Option<kontiki_sim::Violation> {
    run(&case.options, &case.plan).violation
}

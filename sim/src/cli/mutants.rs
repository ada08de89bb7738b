//! Each planted defect must be found, by an invariant that names it: by a hunt through so many
//! seeds, and at once by a case that such a hunt has found before.

use std::path::PathBuf;

use kontiki::Mutant;
use kontiki_sim::{Case, Invariant, Kind, NetworkKind, Plan, Violation, run, shrink};

use crate::hunts::{HUNTS, Hunt};

/// What is done about the planted defects: without a flag each is hunted afresh.
#[derive(clap::Args)]
pub(crate) struct Mutants {
    /// Only this one.
    #[arg(long)]
    only: Option<String>,
    /// The first seed of the hunts.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Keep what the hunts find, made smaller.
    #[arg(long)]
    record: bool,
    /// Replay what was kept: it must break with the defect, and must not without.
    #[arg(long, conflicts_with = "record")]
    recorded: bool,
    /// Where the cases are kept.
    #[arg(long, default_value = "sim/mutants")]
    cases: PathBuf,
    /// How many runs it may take to make a case smaller.
    #[arg(long, default_value_t = 100)]
    runs: usize,
}

impl Mutants {
    /// Plants one after the other; all are tried, whatever becomes of one.
    pub(crate) fn run(&self) -> Result<(), String> {
        let names: Vec<String> = Mutant::ALL.iter().map(|one| format!("{one:?}")).collect();
        if let Some(only) = self.only.as_ref().filter(|only| !names.contains(only)) {
            return Err(format!("no defect is called {only}"));
        }
        let mut survivors = Vec::new();
        for mutant in Mutant::ALL {
            let name = format!("{mutant:?}");
            if self.only.as_ref().is_some_and(|only| *only != name) {
                continue;
            }
            let hunt = HUNTS.iter().find(|hunt| hunt.mutant == mutant);
            let hunt = hunt.ok_or_else(|| format!("nobody hunts {name}"))?;
            let done = if self.recorded { self.replay(hunt) } else { self.hunt(hunt) };
            match done {
                Ok(how) => println!("{name}: found by {how}"),
                Err(why) => {
                    println!("{name}: {why}");
                    survivors.push(name);
                }
            }
        }
        match survivors.is_empty() {
            true => Ok(()),
            false => Err(format!("not found as they must: {survivors:?}")),
        }
    }

    /// Goes through seeds, in a world with only the defect's own kinds of fault.
    fn hunt(&self, hunt: &Hunt) -> Result<String, String> {
        for seed in self.first..self.first + hunt.seeds_max {
            let case = hunt.case(seed);
            let Some(violation) = hunt.planted(&case) else { continue };
            let invariant = violation.invariant;
            if !hunt.by.contains(&invariant) {
                Mutant::pull_out();
                if let Some(other) = run(&case.options, &case.plan).violation {
                    return Err(format!("seed {seed} breaks without it: {other}"));
                }
                return Err(format!("found at seed {seed}, but by another invariant: {violation}"));
            }
            if self.record {
                self.keep(hunt, &case, invariant)?;
            }
            return Ok(format!("{invariant:?}, seed {seed}"));
        }
        Err(format!("survived {} seeds", hunt.seeds_max))
    }

    fn keep(&self, hunt: &Hunt, case: &Case, invariant: Invariant) -> Result<(), String> {
        hunt.mutant.plant();
        let smaller = shrink(case, invariant, self.runs);
        let both = [&smaller, case].into_iter();
        let sound: Vec<&Case> = both.filter(|case| hunt.told_apart(case).is_ok()).collect();
        // The smallest case may owe everything to the dice of its seed, and would not last.
        let lasting = sound.iter().copied().find(|case| hunt.breaks_with_other_dice(case));
        let sound = lasting.or_else(|| sound.first().copied());
        let sound = sound.ok_or("the case breaks without the defect too")?;
        let text = serde_json::to_string_pretty(sound).map_err(|error| error.to_string())?;
        std::fs::create_dir_all(&self.cases).map_err(|error| error.to_string())?;
        std::fs::write(self.path(hunt), text + "\n").map_err(|error| error.to_string())
    }

    fn replay(&self, hunt: &Hunt) -> Result<String, String> {
        let path = self.path(hunt);
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
        let case = serde_json::from_str(&text);
        let mut case: Case = case.map_err(|error| format!("{}: {error}", path.display()))?;
        // Any change to the library gives a case another history; the same faults a few times more
        // make up for that.
        for again in 0..NEIGHBOURS {
            if hunt.planted(&case).is_some() {
                let how = hunt.told_apart(&case)?;
                let place =
                    if again == 0 { "at once".to_owned() } else { format!("{again} seeds on") };
                return Ok(format!("{how:?}, {place}"));
            }
            case.options.seed += 1;
        }
        Err(format!("survived its case and {NEIGHBOURS} like it: record it again"))
    }

    fn path(&self, hunt: &Hunt) -> PathBuf {
        self.cases.join(format!("{:?}.json", hunt.mutant))
    }
}

impl Hunt {
    /// What a case breaks with the defect; the error says how it fails to prove it.
    fn told_apart(&self, case: &Case) -> Result<Invariant, String> {
        let violation = self.planted(case).ok_or("survived its case")?;
        if !self.by.contains(&violation.invariant) {
            return Err(format!("found by another invariant: {violation}"));
        }
        Mutant::pull_out();
        match run(&case.options, &case.plan).violation {
            None => Ok(violation.invariant),
            Some(other) => Err(format!("without the defect its case breaks {other}")),
        }
    }

    fn breaks_with_other_dice(&self, case: &Case) -> bool {
        let mut case = case.clone();
        (1..NEIGHBOURS / 2).any(|_| {
            case.options.seed += 1;
            self.planted(&case).is_some_and(|found| self.by.contains(&found.invariant))
        })
    }

    fn planted(&self, case: &Case) -> Option<Violation> {
        self.mutant.plant();
        run(&case.options, &case.plan).violation
    }

    fn case(&self, seed: u64) -> Case {
        let mut case = Case::from_seed(seed);
        let options = &mut case.options;
        options.kinds = self.kinds.iter().copied().collect();
        options.disk = self.on;
        options.network = NetworkKind::Messages;
        options.faults_ms = 40_000;
        if options.kinds.contains(&Kind::Message) {
            (options.duplication_ppm, options.misdelivery_ppm) = (50_000, 2_000);
            options.echo_ppm = 20_000;
        }
        case.plan = Plan::from_options(options);
        case
    }
}

/// How many seeds a kept case is tried with.
const NEIGHBOURS: u64 = 20;

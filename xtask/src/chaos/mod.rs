//! Real servers on a machine that goes wrong: in namespaces and on disks of their own, under a plan
//! that a seed decides, with every answer that a client got judged afterwards.
//!
//! The command runs itself again in fresh network, mount and process namespaces. All that a run
//! makes is in there and ends with it, however it ends: links, addresses, filters, mounts, loop
//! devices, processes. Only the control groups of the freezer are not; they carry the number of the
//! run, and are removed by it, or by the next.

mod clock;
mod cluster;
mod delay;
mod disk;
mod filter;
mod freezer;
mod inside;
mod judge;
mod lab;
mod machine;
mod nemesis;
mod outside;
mod plan;
mod report;
mod shell;
mod tracer;
mod workload;

pub(crate) use self::inside::run as run_inside;
pub(crate) use self::outside::run;
use self::plan::{Amounts, KINDS};
use crate::wall;

/// Why a run has not passed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The run itself went wrong, or could not be judged. That is no better than a violation, but
    /// says nothing of the servers.
    Harness(String),
    /// A promise was broken.
    Violation(String),
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Harness(why)
    }
}

#[derive(Clone, Debug)]
struct Options {
    seed: u64,
    /// How many servers, one cluster after another.
    sizes: Vec<usize>,
    amounts: Amounts,
    kinds: Vec<&'static str>,
    /// A machine that lacks what is required is no failure.
    skips_missing: bool,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self {
            seed: wall::new_seed(),
            sizes: vec![3, 5],
            amounts: Amounts { each: 1, kills: 10, power_cuts: 10 },
            kinds: KINDS.to_vec(),
            skips_missing: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if *word == "--skip-missing" {
                options.skips_missing = true;
                continue;
            }
            let value = words.next().ok_or_else(usage)?;
            let number = || value.parse::<usize>().map_err(|_| usage());
            match *word {
                "--each" => options.amounts.each = number()?,
                "--kills" => options.amounts.kills = number()?,
                "--only" => options.kinds = kinds(value)?,
                "--power-cuts" => options.amounts.power_cuts = number()?,
                "--seed" => options.seed = value.parse().map_err(|_| usage())?,
                "--servers" if matches!(*value, "3" | "5") => options.sizes = vec![number()?],
                _ => return Err(usage()),
            }
        }
        Ok(options)
    }

    /// The same, as words.
    fn words(&self) -> Vec<String> {
        let Amounts { each, kills, power_cuts } = self.amounts;
        let mut line = format!(
            "--seed {} --each {each} --kills {kills} --power-cuts {power_cuts} --only {}",
            self.seed,
            self.kinds.join(",")
        );
        if let [one] = self.sizes[..] {
            line += &format!(" --servers {one}");
        }
        if self.skips_missing {
            line += " --skip-missing";
        }
        line.split(' ').map(str::to_owned).collect()
    }

    /// What falls to the cluster at this place in the order of sizes.
    fn share(&self, place: usize) -> Amounts {
        let part = |all: usize| (all + self.sizes.len() - 1 - place) / self.sizes.len();
        let Amounts { each, kills, power_cuts } = self.amounts;
        Amounts { each, kills: part(kills), power_cuts: part(power_cuts) }
    }
}

fn kinds(list: &str) -> Result<Vec<&'static str>, String> {
    let find = |name: &str| {
        let known = KINDS.into_iter().find(|kind| *kind == name);
        known.ok_or_else(|| format!("{name} is none of {}", KINDS.join(", ")))
    };
    list.split(',').map(find).collect()
}

fn usage() -> String {
    "chaos [--seed N] [--servers 3|5] [--each N] [--kills N] [--power-cuts N] [--only KIND,KIND] \
     [--skip-missing]"
        .to_owned()
}

/// The name of a control group of this run.
fn group(name: &str) -> String {
    format!("{}{}-{name}", freezer::GROUP, std::env::var(OWNER).unwrap_or_default())
}

/// The variable that tells the inside by which number the run is known outside.
const OWNER: &str = "KONTIKI_CHAOS_OWNER";
/// Where a run has its images and outputs; inside, this is a file system of its own.
const BASE: &str = "target/chaos/run";
/// Where reports and what failed runs leave are kept.
const KEPT: &str = "target/chaos";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_being_passed_on() {
        let words = ["--seed", "7", "--servers", "5", "--only", "kill,stop", "--skip-missing"];
        let options = Options::parse(&words).unwrap();
        let passed = options.words();
        let again: Vec<&str> = passed.iter().map(String::as_str).collect();
        assert_eq!(format!("{options:?}"), format!("{:?}", Options::parse(&again).unwrap()));
        assert!(Options::parse(&["--only", "rain"]).unwrap_err().contains("rain is none of"));
        assert!(Options::parse(&["--servers", "4"]).is_err());
    }

    #[test]
    fn shares_add_up() {
        let options = Options::parse(&["--kills", "7", "--power-cuts", "50"]).unwrap();
        let shares = [options.share(0), options.share(1)];
        assert_eq!(shares.map(|share| share.kills), [4, 3]);
        assert_eq!(shares.map(|share| share.power_cuts), [25, 25]);
    }
}

//! Runs fuzz targets over their corpora and seeded mutations of them: `cargo xtask fuzz`.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use kontiki_fuzz_targets::{Mutator, TARGETS, Target, corpus, seeds, target};

/// What was asked for.
struct Options {
    targets: Vec<Target>,
    /// Without this and without a number of inputs, a minute.
    limit: Option<Duration>,
    inputs_max: Option<u64>,
    seed: u64,
}

/// What came of one target.
struct Run {
    target: Target,
    corpus: Vec<Vec<u8>>,
    mutator: Mutator,
    inputs: u64,
    busy: Duration,
    slowest: Duration,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["seeds"] => write_seeds(),
        ["replay", name, path] => replay(name, Path::new(path)),
        ["run", ref options @ ..] => parse(options).and_then(run),
        _ => Err("seeds | replay TARGET FILE | run [--seconds N] [--inputs N] [--seed N] \
                  [--target NAME]"
            .to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("fuzz: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[&str]) -> Result<Options, String> {
    let targets = TARGETS.to_vec();
    let mut options = Options { targets, limit: None, inputs_max: None, seed: 1 };
    for pair in words.chunks(2) {
        let text = pair.get(1).copied().unwrap_or_default();
        let number = text.parse::<u64>();
        match (pair[0], number) {
            ("--seconds", Ok(number)) => options.limit = Some(Duration::from_secs(number)),
            ("--inputs", Ok(number)) => options.inputs_max = Some(number),
            ("--seed", Ok(number)) => options.seed = number,
            ("--target", _) => {
                options.targets = vec![named(text)?];
            }
            (word, _) => return Err(format!("what is {word} {text}?")),
        }
    }
    Ok(options)
}

fn named(name: &str) -> Result<Target, String> {
    target(name).ok_or_else(|| format!("no target {name:?}"))
}

fn write_seeds() -> Result<(), String> {
    for target in TARGETS {
        let count = seeds(&target).map_err(|error| error.to_string())?;
        println!("{}: {count} seeds", target.name);
    }
    Ok(())
}

fn replay(name: &str, path: &Path) -> Result<(), String> {
    let target = named(name)?;
    let input = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    (target.run)(&input);
    println!("{name}: {} bytes, no promise broken", input.len());
    Ok(())
}

/// Goes round the targets, a slice of time each, until the time is over or each has had its share
/// of the inputs.
#[expect(clippy::disallowed_methods, reason = "a tool for people keeps to their time")]
fn run(options: Options) -> Result<(), String> {
    println!("seed {}", options.seed);
    let began = Instant::now();
    let limit = match (options.limit, options.inputs_max) {
        (Some(limit), _) => limit,
        (None, Some(_)) => Duration::MAX,
        (None, None) => Duration::from_secs(60),
    };
    let share = options.inputs_max.unwrap_or(u64::MAX).div_ceil(options.targets.len() as u64);
    let mut runs = Vec::new();
    for target in options.targets {
        let mut run = Run::new(target, options.seed);
        for input in run.corpus.clone() {
            run.one(&input)?;
        }
        runs.push(run);
    }
    while began.elapsed() < limit && runs.iter().any(|run| run.inputs < share) {
        for run in &mut runs {
            let slice = Instant::now();
            while run.inputs < share && slice.elapsed() < SLICE {
                let input = run.mutator.next(&run.corpus);
                run.one(&input)?;
            }
        }
    }
    runs.iter().for_each(Run::report);
    let total: u64 = runs.iter().map(|run| run.inputs).sum();
    println!("{:>12} {total:>10} inputs in {:.1} s", "all", began.elapsed().as_secs_f64());
    Ok(())
}

impl Run {
    fn new(target: Target, seed: u64) -> Self {
        let corpus = corpus(&target).into_iter().map(|(_, input)| input).collect();
        let mutator = Mutator::new(seed, target.words);
        let zero = Duration::ZERO;
        Self { target, corpus, mutator, inputs: 0, busy: zero, slowest: zero }
    }

    fn one(&mut self, input: &[u8]) -> Result<(), String> {
        let (mut outcome, mut took) = self.measure(input);
        // A busy machine may count its own pauses; an input that is slow is slow again.
        for _ in 0..2 {
            if outcome.is_ok() && took > INPUT_LIMIT {
                (outcome, took) = self.measure(input);
            }
        }
        self.inputs += 1;
        self.busy += took;
        self.slowest = self.slowest.max(took);
        let reason = match outcome {
            Err(_) => "breaks a promise".to_owned(),
            Ok(()) if took > INPUT_LIMIT => format!("takes {took:?}"),
            Ok(()) => return Ok(()),
        };
        let (name, number) = (self.target.name, self.inputs);
        let directory = format!("{}/../fuzz/artifacts/{name}", env!("CARGO_MANIFEST_DIR"));
        let path = format!("{directory}/{:016x}", digest(input));
        let kept = std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&path, input));
        kept.map_err(|error| format!("{path}: {error}"))?;
        Err(format!("{name}: input {number} {reason}; cargo xtask fuzz replay {name} {path}"))
    }

    fn measure(&self, input: &[u8]) -> (std::thread::Result<()>, Duration) {
        let began = ThreadTime::now();
        let outcome = std::panic::catch_unwind(|| (self.target.run)(input));
        (outcome, began.elapsed())
    }

    fn report(&self) {
        println!(
            "{:>12} {:>10} inputs {:>9.0} /s, slowest {:?}",
            self.target.name,
            self.inputs,
            self.inputs as f64 / self.busy.as_secs_f64().max(1e-9),
            self.slowest,
        );
    }
}

/// A name for an input (FNV-1a).
fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |digest, &byte| {
        (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

const SLICE: Duration = Duration::from_millis(100);
/// How much of a processor one input may take.
const INPUT_LIMIT: Duration = Duration::from_secs(2);

//! kontiki beside openraft and the bare engine: three nodes in one process, in memory.
//!
//! `cargo xtask bench` runs it; `docs/performance.md` has a table and how to read it. What is
//! compared takes turns, several rounds long, so that a noisy machine disturbs all alike.

use std::time::Duration;

mod engine;
mod load;
mod ours;
mod their_store;
mod theirs;
mod threads;

use self::load::{Load, Run};

/// Everything that was measured of one thing under one load, a run per round.
struct Row {
    what: &'static str,
    load: Load,
    runs: Vec<Run>,
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<f64>().expect("a number"));
    let rounds = numbers.next().unwrap_or(5.0);
    let time = Duration::from_secs_f64(numbers.next().unwrap_or(0.5));
    let mut rows = Vec::new();
    for round in 1..=rounds as usize {
        eprintln!("round {round} of {rounds}");
        for clients in CLIENTS {
            let [empty, full] = PAYLOADS.map(|bytes| Load { clients, bytes, time });
            add(&mut rows, ENGINE, empty, engine::run(empty));
            add(&mut rows, OPENRAFT, empty, undisturbed(|| theirs::run(empty)));
            add(&mut rows, ENGINE, full, engine::run(full));
            let both = [empty, full];
            for (load, run) in both.into_iter().zip(undisturbed(|| ours::on_smol(&both))) {
                add(&mut rows, ON_SMOL, load, run);
            }
            for (load, run) in both.into_iter().zip(undisturbed(|| ours::on_tokio(&both))) {
                add(&mut rows, ON_TOKIO, load, run);
            }
        }
    }
    print(&rows);
}

/// A run in which no leader was lost: on a busy machine that happens, and measures the machine.
fn undisturbed<T>(run: impl Fn() -> Option<T>) -> T {
    let runs = (0..TRIES_MAX).find_map(|_| {
        let done = run();
        if done.is_none() {
            eprintln!("a leader was lost, so this is run again");
        }
        done
    });
    runs.expect("the machine is too busy to measure anything")
}

fn add(rows: &mut Vec<Row>, what: &'static str, load: Load, run: Run) {
    match find(rows, what, load.clients, load.bytes) {
        Some(at) => rows[at].runs.push(run),
        None => rows.push(Row { what, load, runs: vec![run] }),
    }
}

fn find(rows: &[Row], what: &str, clients: usize, bytes: usize) -> Option<usize> {
    rows.iter()
        .position(|row| (row.what, row.load.clients, row.load.bytes) == (what, clients, bytes))
}

fn print(rows: &[Row]) {
    println!("| {} |", COLUMNS.join(" | "));
    println!("|{}", "---|".repeat(COLUMNS.len()));
    for bytes in PAYLOADS {
        for clients in CLIENTS {
            let row = |what, bytes| find(rows, what, clients, bytes).map(|at| &rows[at]);
            // openraft has only its own workload, of no bytes.
            let openraft = row(OPENRAFT, 0);
            let engine = row(ENGINE, bytes);
            for what in [ENGINE, OPENRAFT, ON_SMOL, ON_TOKIO] {
                if let Some(row) = row(what, bytes) {
                    println!("{}", line(row, openraft, engine));
                }
            }
        }
    }
}

fn line(row: &Row, openraft: Option<&Row>, engine: Option<&Row>) -> String {
    let of = |value: fn(&Run) -> f64| median(row.runs.iter().map(value).collect());
    let against = |other: Option<&Row>, value: fn(&Run) -> f64| {
        let pairs = other.into_iter().flat_map(|other| row.runs.iter().zip(&other.runs));
        median(pairs.map(|(run, other)| value(run) / value(other)).collect())
    };
    let number = |value: f64, digits: usize| match value.is_nan() {
        true => "–".to_owned(),
        false => format!("{value:.digits$}"),
    };
    let cells = [
        row.what.to_owned(),
        row.load.clients.to_string(),
        row.load.bytes.to_string(),
        number(of(|run| run.rate), 0),
        number(of(|run| run.p50_us), 0),
        number(of(|run| run.p99_us), 0),
        number(of(|run| run.cpu_us), 2),
        number(against(openraft, |run| run.rate), 2),
        number(against(openraft, |run| run.cpu_us), 2),
        number(against(engine, |run| run.cpu_us), 2),
    ];
    format!("| {} |", cells.join(" | "))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

const ENGINE: &str = "bare engine";
const OPENRAFT: &str = "openraft";
const ON_SMOL: &str = "kontiki on smol";
const ON_TOKIO: &str = "kontiki on tokio";
const TRIES_MAX: usize = 10;
const CLIENTS: [usize; 5] = [1, 64, 256, 1_024, 4_096];
const PAYLOADS: [usize; 2] = [0, 256];
const COLUMNS: [&str; 10] = [
    "what",
    "clients",
    "bytes",
    "commands/s",
    "p50 µs",
    "p99 µs",
    "CPU µs",
    "speed ÷ openraft",
    "CPU ÷ openraft",
    "CPU ÷ engine",
];

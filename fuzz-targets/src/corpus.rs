//! The committed inputs.

use std::path::{Path, PathBuf};

use crate::Target;

/// Where the inputs of a target are kept.
fn directory(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target.name)
}

/// The committed inputs of a target, with their names, in order of name.
///
/// # Panics
///
/// Panics if they cannot be read or there is none.
#[must_use]
pub fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let directory = directory(target);
    let listed = std::fs::read_dir(&directory);
    let listed = listed.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut all = Vec::new();
    for entry in listed {
        let path = entry.expect("the directory can be listed").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        all.push((name, std::fs::read(&path).expect("a committed file can be read")));
    }
    assert!(!all.is_empty(), "{} is empty", directory.display());
    all.sort();
    all
}

/// Writes the seeds of a target anew; gives how many there are.
///
/// # Errors
///
/// What the disk says.
pub fn seeds(target: &Target) -> std::io::Result<usize> {
    let directory = directory(target);
    std::fs::create_dir_all(&directory)?;
    let seeds = (target.seeds)();
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{number:03}")), seed)?;
    }
    Ok(seeds.len())
}

/// Inputs that are nothing but choices: `count` of them, up to `len_max` bytes, behind `head`.
pub(crate) fn choices(head: &[u8], count: u64, len_max: usize) -> Vec<Vec<u8>> {
    let one = |seed| {
        let mut dice = fastrand::Rng::with_seed(seed);
        let len = dice.usize(1..=len_max);
        head.iter().copied().chain((0..len).map(|_| dice.u8(..))).collect()
    };
    (0..count).map(one).collect()
}

//! Fuzz targets: functions of bytes that panic when a promise is broken.
//!
//! Each is run in two ways: by `cargo fuzz` (`fuzz/`), which looks for new ways through the code,
//! and by a plain test and `cargo xtask fuzz` over the committed corpus (`fuzz/corpus`) and
//! mutations of it that a seed decides. A target is a function of its input alone: no clock, no
//! chance, nothing kept between inputs, so that an input that fails fails always.

mod corpus;
mod disk;
mod engine;
mod frame;
mod handshake;
mod http;
mod input;
mod log;
mod membership;
mod message;
mod meter;
mod mutate;
mod server;
mod snapshot;
mod stub;
mod wire;

pub use self::corpus::{corpus, seeds};
pub use self::mutate::Mutator;

/// One target.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Target {
    /// Its name, which is also that of its corpus.
    pub name: &'static str,
    /// Runs one input; panics if a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs that are good to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Pieces that random bytes would hardly hit upon.
    pub words: &'static [&'static [u8]],
}

/// All targets, in the order of the specification (F1 to F8).
pub const TARGETS: [Target; 8] = [
    frame::TARGET,
    message::TARGET,
    handshake::TARGET,
    log::TARGET,
    snapshot::TARGET,
    http::TARGET,
    engine::TARGET,
    membership::TARGET,
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// Runs one input of the target of this name.
///
/// # Panics
///
/// Panics if a promise is broken, or if there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = target(name).unwrap_or_else(|| panic!("no target {name:?}"));
    (target.run)(bytes);
}

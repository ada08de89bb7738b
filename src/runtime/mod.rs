//! What the library needs from an async runtime: tasks, time, chance ([`Runtime`]); sockets
//! ([`Net`]); the disk ([`Files`]). Three traits, so that an embedder without sockets or disk need
//! not pretend.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::time::{Instant, SystemTime};

#[cfg(feature = "runtime-async-std")]
mod async_std;
#[cfg(any(feature = "runtime-async-std", feature = "runtime-smol"))]
mod blocking;
mod files;
mod net;
#[cfg(feature = "storage-file")]
mod os_files;
#[cfg(feature = "runtime-sim")]
pub mod sim;
#[cfg(feature = "runtime-smol")]
mod smol;
#[cfg(any(feature = "runtime-async-std", feature = "runtime-smol", feature = "runtime-tokio"))]
mod socket;
#[cfg(test)]
mod tests;
#[cfg(feature = "runtime-tokio")]
mod tokio;

#[cfg(feature = "runtime-async-std")]
pub use self::async_std::AsyncStd;
pub use self::files::{FileId, FileOp, Files, OpenMode};
pub use self::net::{BoxStream, ByteReader, Listener, Net, Stream};
#[cfg(feature = "storage-file")]
pub use self::os_files::OsFiles;
#[cfg(feature = "runtime-smol")]
pub use self::smol::Smol;
#[cfg(feature = "runtime-tokio")]
pub use self::tokio::Tokio;

/// A future on the heap that may move between threads.
pub type BoxFuture<'a, T = ()> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The environment a node runs in: tasks, time and chance.
///
/// # To implement
///
/// Forty lines on most runtimes: `docs/writing-a-runtime.md` has one, and the kit of the feature
/// `conformance` judges it. Nothing may block, except inside `spawn_blocking`. Every method may be
/// called from any thread, also one that the runtime does not know.
pub trait Runtime: Debug + Send + Sync + 'static {
    /// Drives `task` to completion in the background, never inside of this call; nobody waits for
    /// it, and it is never cancelled while the runtime lives.
    fn spawn(&self, task: BoxFuture<'static>);

    /// The current instant of the monotonic clock.
    fn now(&self) -> Instant;

    /// A timer that completes at `deadline`, never before, and at once if that has passed.
    fn timer(&self, deadline: Instant) -> Pin<Box<dyn Timer>>;

    /// Runs `work` where blocking is allowed, and begins at once, not only when the future is
    /// polled; the future ends when the work has ended.
    ///
    /// For short jobs only, never for a loop: a runtime may have few threads for it. Dropping the
    /// future does not stop what has begun. A panic of `work` may leave the future pending for ever
    /// or be passed on, but must not end the process.
    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static>;

    /// The current wall-clock time; only ever shown to people, never compared.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the ambient clock is the default"
    )]
    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    /// A random number, uniform over all of `u64`.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where ambient chance is the default"
    )]
    fn random(&self) -> u64 {
        fastrand::u64(..)
    }
}

/// A timer that can be moved without being built anew.
pub trait Timer: Future<Output = ()> + Send {
    /// Moves the timer to `deadline`, whether it has completed or not.
    fn reset(self: Pin<&mut Self>, deadline: Instant);
}

//! Kits that judge an implementation of one of the library's traits.
//!
//! A kit is a list of [`Case`]s, each named after the promise it checks, and a macro that makes one
//! `#[test]` of each. A fixture says how to make what is judged. A failure is a sentence about the
//! promise that was broken. Everything that the library ships passes the kits of its traits.
//!
//! ```
//! use std::sync::Arc;
//!
//! use kontiki::conformance::{Fixture, RuntimeFixture};
//! use kontiki::runtime::{Runtime, Smol};
//!
//! struct OnSmol;
//!
//! impl Fixture for OnSmol {}
//!
//! impl RuntimeFixture for OnSmol {
//!     fn runtime(&self) -> Arc<dyn Runtime> {
//!         Arc::new(Smol::new())
//!     }
//! }
//!
//! // Among tests, outside of functions: one test for each promise of a runtime.
//! kontiki::runtime_conformance!(OnSmol);
//! ```
//!
//! | judges a | made by a | as tests |
//! |---|---|---|
//! | [`Runtime`] | [`RuntimeFixture`] | [`runtime_conformance!`][runtimes] |
//! | [`Net`][net-trait] | [`NetFixture`] | [`net_conformance!`][nets] |
//! | [`Files`][files-trait] | [`FilesFixture`] | [`files_conformance!`][disks] |
//! | [`Transport`][transport-trait] | [`TransportFixture`] | [`transport_conformance!`][wires] |
//! | [`LogStore`][log-trait] | [`LogStoreFixture`] | [`log_store_conformance!`][logs] |
//! | [`SnapshotStore`][stills] | [`SnapshotStoreFixture`] | [`snapshot_store_conformance!`][s] |
//! | [`StateMachine`][machine] | [`StateMachineFixture`] | [`state_machine_conformance!`][m] |
//!
//! [net-trait]: crate::runtime::Net
//! [files-trait]: crate::runtime::Files
//! [transport-trait]: crate::transport::Transport
//! [log-trait]: crate::storage::LogStore
//! [stills]: crate::storage::SnapshotStore
//! [machine]: crate::StateMachine
//! [runtimes]: crate::runtime_conformance
//! [nets]: crate::net_conformance
//! [disks]: crate::files_conformance
//! [wires]: crate::transport_conformance
//! [logs]: crate::log_store_conformance
//! [s]: crate::snapshot_store_conformance
//! [m]: crate::state_machine_conformance
//!
//! The macro mounts tests under the names of the cases where it stands: give each fixture a module
//! of its own.

#![allow(
    rustdoc::redundant_explicit_links,
    reason = "the macros are shown at the root of the crate, where the names are not in scope"
)]

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::channel::oneshot;

use crate::runtime::{BoxFuture, Runtime};

/// Ends a case with a sentence unless something holds.
macro_rules! ensure {
    ($holds:expr, $($sentence:tt)+) => {
        if !$holds {
            return Err($crate::conformance::Broken::new(format!($($sentence)+)));
        }
    };
}

/// Makes the list of cases of a kit, and the macro that mounts them as tests.
///
/// The module of the kit has a function `guarded`, through which every case runs.
macro_rules! kit {
    (
        ($d:tt) $(#[$doc:meta])* $mount:ident, $kit:ident, $fixture:ident;
        $($module:ident { $($(#[doc = $promise:literal])+ $case:ident,)* })*
    ) => {
        /// Every promise, in the order in which they are best met.
        pub const CASES: &[$crate::conformance::Case<dyn $fixture>] = &[$($(
            $crate::conformance::Case {
                name: stringify!($case),
                promise: concat!($($promise),+),
                run: |fixture| {
                    let case = $module::$case(::std::sync::Arc::clone(&fixture));
                    Box::pin(guarded(fixture, case))
                },
            },
        )*)*];

        $(#[$doc])*
        #[macro_export]
        macro_rules! $mount {
            ($d fixture:expr) => {$($(
                #[test]
                fn $case() {
                    let fixture: ::std::sync::Arc<dyn $crate::conformance::$fixture> =
                        ::std::sync::Arc::new($d fixture);
                    $crate::conformance::judge(
                        $crate::conformance::$kit::CASES,
                        stringify!($case),
                        fixture,
                    );
                }
            )*)*};
        }
    };
}

pub mod disk;
pub mod files;
pub mod log_store;
pub mod net;
pub mod runtime;
pub mod snapshot_store;
pub mod state_machine;
pub mod transport;

pub use self::disk::Disk;
pub use self::files::FilesFixture;
pub use self::log_store::{LogOnDisk, LogStoreFixture};
pub use self::net::NetFixture;
pub use self::runtime::RuntimeFixture;
pub use self::snapshot_store::{SnapshotStoreFixture, SnapshotsOnDisk};
pub use self::state_machine::StateMachineFixture;
pub use self::transport::{Server, TransportFixture};

/// What every fixture can do: run a case.
pub trait Fixture: Send + Sync + 'static {
    /// Runs a case to its end.
    ///
    /// By default on this thread, with no runtime around it ([`block_on`]). Override it where what
    /// is judged must be polled by its own runtime: inside of `tokio::runtime::Runtime::block_on`,
    /// say.
    ///
    /// # Errors
    ///
    /// [`Broken`] where the case can never end.
    fn run(&self, case: BoxFuture<'static>) -> Result<(), Broken> {
        block_on(case)
    }
}

/// One promise, and how to find out whether it is kept.
pub struct Case<F: ?Sized> {
    name: &'static str,
    promise: &'static str,
    run: fn(Arc<F>) -> BoxFuture<'static, Outcome>,
}

impl<F: Fixture + ?Sized> Case<F> {
    /// What it is called, as a test and in lists.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The promise, as a sentence.
    #[must_use]
    pub fn promise(&self) -> &'static str {
        self.promise.trim()
    }

    /// Judges what a fixture makes.
    ///
    /// # Errors
    ///
    /// [`Broken`] says what happened instead of what was promised.
    pub fn check(&self, fixture: &Arc<F>) -> Outcome {
        let (sender, mut receiver) = oneshot::channel();
        let case = (self.run)(Arc::clone(fixture));
        fixture.run(Box::pin(async move {
            // The receiver is in this function.
            let _ = sender.send(case.await);
        }))?;
        let outcome = receiver.try_recv().ok().flatten();
        outcome.unwrap_or_else(|| Err(Broken::new("the fixture let go of the case before its end")))
    }
}

impl<F: ?Sized> fmt::Debug for Case<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What became of a case.
pub type Outcome = Result<Verdict, Broken>;

/// How a case ended where no promise was broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Verdict {
    /// The promise is kept.
    Kept,
    /// The promise is about something that what is judged does not have.
    NotApplicable {
        /// What it does not have.
        reason: &'static str,
    },
}

/// A promise that was broken, and how.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{sentence}")]
pub struct Broken {
    sentence: String,
}

impl Broken {
    /// Says what happened instead of what was promised.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into() }
    }
}

/// Checks one case of a kit, as the macros do in the tests that they make.
///
/// # Panics
///
/// Panics with the promise, and what happened instead, where it is broken.
pub fn judge<F: Fixture + ?Sized>(cases: &[Case<F>], name: &str, fixture: Arc<F>) {
    let case = cases.iter().find(|case| case.name == name).expect("the macro and the list agree");
    match case.check(&fixture) {
        Ok(Verdict::Kept) => {}
        Ok(Verdict::NotApplicable { reason }) => println!("{name}: does not apply, {reason}"),
        Err(broken) => panic!("{name}\n  promised: {}\n  but: {broken}", case.promise()),
    }
}

/// Runs a future on this thread, with no runtime around it.
///
/// # Errors
///
/// [`Broken`] if the future waits and nothing wakes it for two and a half minutes, which is longer
/// than any case waits for one thing: then not even the timers of the runtime wake it.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Broken> {
    block_on_unless_stuck(GUARD, future)
}

fn block_on_unless_stuck<T>(guard: Duration, future: impl Future<Output = T>) -> Result<T, Broken> {
    let mut future = pin!(future);
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return Ok(value);
        }
        let rung = lock(&bell.rung);
        let waited = bell.bell.wait_timeout_while(rung, guard, |rung| !*rung);
        let (mut rung, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            let what = AWAITED.take().unwrap_or_else(|| "something".to_owned());
            return Err(Broken::new(format!(
                "it waits for {what}, and nothing has woken it for {guard:?}, not even a timer"
            )));
        }
        *rung = false;
    }
}

#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *lock(&self.rung) = true;
        self.bell.notify_one();
    }
}

/// Waits for `future`, but not longer than a case may take.
async fn within<T>(
    runtime: &dyn Runtime,
    limit: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T, Broken> {
    let mut future = pin!(future);
    let mut timer = runtime.timer(runtime.now() + limit);
    poll_fn(|cx| {
        // What is inside of this comes behind it, and so the innermost is named.
        AWAITED.set(Some(what.to_owned()));
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            AWAITED.take();
            return Poll::Ready(Ok(value));
        }
        let late = |()| Err(Broken::new(format!("{what} has not come about after {limit:?}")));
        timer.as_mut().poll(cx).map(late)
    })
    .await
}

/// Makes a sentence of an error that must not be.
trait Promised<T> {
    fn promised(self, what: &str) -> Result<T, Broken>;
}

impl<T, E: fmt::Display> Promised<T> for Result<T, E> {
    fn promised(self, what: &str) -> Result<T, Broken> {
        self.map_err(|error| Broken::new(format!("{what} failed: {error}")))
    }
}

impl<T> Promised<T> for Option<T> {
    fn promised(self, what: &str) -> Result<T, Broken> {
        self.ok_or_else(|| Broken::new(what))
    }
}

/// Bytes that no other seed gives.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut dice = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| dice.u8(..)).take(len).collect()
}

fn not_applicable(reason: &'static str) -> Outcome {
    Ok(Verdict::NotApplicable { reason })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of others runs under these locks, so a poisoned one still holds a whole value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const KEPT: Outcome = Ok(Verdict::Kept);
/// How long a case waits for something to happen at all.
const HANG: Duration = Duration::from_secs(60);
/// When [`block_on`] gives up: behind every limit of a case, which says more than it can.
const GUARD: Duration = Duration::from_secs(150);
const _: () = assert!(GUARD.as_secs() > HANG.as_secs());
const _: () = assert!(GUARD.as_secs() > transport::WAIT_MAX.as_secs());

thread_local! {
    /// What the case that is polled on this thread waits for.
    static AWAITED: RefCell<Option<String>> = const { RefCell::new(None) };
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::runtime::sim::Sim;

    #[test]
    fn a_case_that_nothing_wakes_says_what_it_waits_for() {
        // Its clock stands still, and so no timer wakes the case.
        let runtime = Sim::new(1).process(0);
        let inner = async {
            within(&*runtime, HANG, "what has come", async {}).await?;
            within(&*runtime, HANG, "the arrival", pending::<()>()).await
        };
        let case = within(&*runtime, HANG, "the end of the case", inner);
        let broken = block_on_unless_stuck(Duration::ZERO, case).unwrap_err().to_string();
        assert!(broken.starts_with("it waits for the arrival, and nothing"), "{broken}");
    }
}

//! The kit for [`Runtime`]: tasks, time, chance.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::channel::oneshot;

use super::{Broken, Fixture, HANG, KEPT, Outcome, Promised as _, lock, not_applicable, within};
use crate::runtime::Runtime;

/// Makes a runtime to be judged.
pub trait RuntimeFixture: Fixture {
    /// The runtime; the same, or another of its kind, each time.
    fn runtime(&self) -> Arc<dyn Runtime>;

    /// Whether a panic of blocking work is passed on to whoever drives the runtime, as the
    /// simulated one does on purpose. Default: it is not.
    fn passes_panics_on(&self) -> bool {
        false
    }
}

kit! {
    ($)
    /// Mounts one test for each promise of a [`Runtime`](crate::runtime::Runtime); takes an
    /// expression that makes a [`RuntimeFixture`](crate::conformance::RuntimeFixture).
    runtime_conformance, runtime, RuntimeFixture;

    self {
        /// A task that was spawned runs to its end, and what it holds is let go of.
        a_spawned_task_runs,
        /// `spawn` returns at once: the task never runs inside of the call.
        a_task_does_not_run_inside_of_spawn,
        /// Every method works on a thread that the runtime does not know.
        every_method_works_on_a_foreign_thread,
        /// A task may be woken from any thread, and while it runs.
        a_wake_is_never_lost,
        /// A thousand tasks run at once and wake each other.
        many_tasks_run_at_once,
        /// A task that always goes on does not keep others from running.
        a_busy_task_starves_nobody,
        /// The clock never goes back, whichever thread asks.
        now_never_goes_back,
        /// A timer completes at its deadline, never before.
        a_timer_is_never_early,
        /// A timer whose deadline has passed completes at once.
        a_timer_in_the_past_ends_at_once,
        /// A timer may be set for a time that never comes.
        a_timer_may_be_set_for_centuries_ahead,
        /// A timer wakes a task that nothing else wakes.
        a_timer_wakes_its_task,
        /// A timer wakes whoever polled it last.
        a_timer_wakes_whoever_polled_it_last,
        /// A timer that waits can be moved to later, and then does not complete before that.
        a_waiting_timer_can_be_moved_to_later,
        /// A timer that waits can be moved to earlier, and whoever waits for it is woken then.
        a_waiting_timer_can_be_moved_to_earlier,
        /// A timer that has completed can be set again, and is as good as a new one.
        a_completed_timer_can_be_reset,
        /// When the future of blocking work ends, the work has ended.
        blocking_work_has_ended_when_its_future_ends,
        /// Blocking work is done, also if nobody waits for it, and never inside of the call.
        blocking_work_is_done_when_nobody_waits,
        /// A panic of blocking work ends neither the process nor anything else in the runtime.
        a_panic_of_blocking_work_harms_nobody_else,
        /// Random numbers are uniform over all of `u64`, and do not repeat.
        random_numbers_differ,
    }
}

async fn guarded(
    fixture: Arc<dyn RuntimeFixture>,
    case: impl Future<Output = Outcome> + Send,
) -> Outcome {
    within(&*fixture.runtime(), HANG, "the end of the case", case).await?
}

async fn a_spawned_task_runs(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    spawn_one(&*fixture.runtime()).await
}

async fn spawn_one(runtime: &dyn Runtime) -> Outcome {
    let (held, let_go) = oneshot::channel::<()>();
    let (sender, receiver) = oneshot::channel();
    runtime.spawn(Box::pin(async move {
        let _held = held;
        // The receiver is in the case.
        let _ = sender.send(7);
    }));
    let received = receiver.await;
    ensure!(received == Ok(7), "a task was dropped before it had run");
    // It ends by being dropped.
    let _ = let_go.await;
    KEPT
}

async fn a_task_does_not_run_inside_of_spawn(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let inside = Inside::default();
    let (sender, receiver) = oneshot::channel();
    let task = inside.clone();
    inside.during(|| {
        runtime.spawn(Box::pin(async move {
            let _ = sender.send(task.is_here());
        }));
    });
    ensure!(receiver.await == Ok(false), "the task ran before `spawn` returned");
    KEPT
}

async fn every_method_works_on_a_foreign_thread(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let there = Arc::clone(&runtime);
    let (sender, receiver) = oneshot::channel();
    let (worked, work) = oneshot::channel();
    let before = runtime.now();
    let (now, timer, blocking) = on_a_foreign_thread(move || {
        there.spawn(Box::pin(async move {
            let _ = sender.send(());
        }));
        let blocking = there.spawn_blocking(Box::new(move || {
            let _ = worked.send(());
        }));
        let _ = (there.random(), there.wall_clock());
        let now = there.now();
        (now, there.timer(now + Duration::from_millis(2)), blocking)
    })?;
    ensure!(now >= before, "the clock of another thread is {:?} behind", before - now);
    timer.await;
    ensure!(runtime.now() >= now + Duration::from_millis(2), "a timer made there was early");
    blocking.await;
    ensure!(work.await.is_ok(), "blocking work that was begun there was not done");
    ensure!(receiver.await.is_ok(), "a task that was spawned there was dropped");
    KEPT
}

async fn a_wake_is_never_lost(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let (sender, receiver) = oneshot::channel();
    let mut left = 1_000;
    let (passed, mut parked) = futures::channel::mpsc::unbounded::<Waker>();
    runtime.spawn(Box::pin(
        poll_fn(move |cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            match left % 10 {
                // The waker goes to another thread, which may use it while this is still running.
                0 if passed.unbounded_send(cx.waker().clone()).is_ok() => {}
                _ => cx.waker().wake_by_ref(),
            }
            Poll::Pending
        })
        .map(move |()| sender.send(()).unwrap_or(())),
    ));
    while let Some(waker) = futures::StreamExt::next(&mut parked).await {
        on_a_foreign_thread(move || waker.wake())?;
    }
    ensure!(receiver.await.is_ok(), "a task was dropped while it waited");
    KEPT
}

async fn many_tasks_run_at_once(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let (first, mut last) = oneshot::channel();
    for _ in 0..1_000 {
        let (sender, receiver) = oneshot::channel();
        let before = std::mem::replace(&mut last, receiver);
        runtime.spawn(Box::pin(async move {
            // Each waits for the one before it; a lost one breaks the chain.
            if let Ok(number) = before.await {
                let _ = sender.send(number + 1);
            }
        }));
    }
    let _ = first.send(0);
    let count = last.await;
    ensure!(count == Ok(1_000), "of a thousand tasks some were dropped before their end");
    KEPT
}

async fn a_busy_task_starves_nobody(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let (stop, busy) = (Arc::new(AtomicBool::new(false)), 8);
    let ended = Arc::new(AtomicUsize::new(0));
    let (all, done) = oneshot::channel();
    let all = Arc::new(Mutex::new(Some(all)));
    for _ in 0..busy {
        let (stop, ended, all) = (Arc::clone(&stop), Arc::clone(&ended), Arc::clone(&all));
        runtime.spawn(Box::pin(poll_fn(move |cx| {
            if !stop.load(Ordering::SeqCst) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if ended.fetch_add(1, Ordering::SeqCst) + 1 == busy
                && let Some(all) = lock(&all).take()
            {
                let _ = all.send(());
            }
            Poll::Ready(())
        })));
    }
    let mut turns = 0;
    runtime.spawn(Box::pin(poll_fn(move |cx| {
        turns += 1;
        if turns < 10 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        stop.store(true, Ordering::SeqCst);
        Poll::Ready(())
    })));
    ensure!(done.await.is_ok(), "a task was dropped before its end");
    KEPT
}

async fn now_never_goes_back(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let latest = Arc::new(Mutex::new(runtime.now()));
    let mut askers = Vec::new();
    for _ in 0..4 {
        let (there, latest) = (Arc::clone(&runtime), Arc::clone(&latest));
        askers.push(foreign_thread(move || go_on(&*there, &latest)));
    }
    for asker in askers {
        let back = asker.join().ok().promised("`now` panicked on another thread")?;
        ensure!(back.is_zero(), "the clock went back by {back:?}");
    }
    let before = runtime.now();
    runtime.timer(before + Duration::from_millis(5)).await;
    let passed = runtime.now().saturating_duration_since(before);
    ensure!(passed >= Duration::from_millis(5), "of 5 ms the clock showed {passed:?}");
    KEPT
}

/// How far the clock goes back between two looks, on whichever thread they are.
fn go_on(runtime: &dyn Runtime, latest: &Mutex<Instant>) -> Duration {
    let mut back = Duration::ZERO;
    for _ in 0..2_000 {
        let mut latest = lock(latest);
        let now = runtime.now();
        back = back.max(latest.saturating_duration_since(now));
        *latest = now;
    }
    back
}

async fn a_timer_is_never_early(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    for micros in [1, 300, 999, 1_000, 1_001, 2_500, 10_700] {
        let wait = Duration::from_micros(micros);
        let deadline = runtime.now() + wait;
        runtime.timer(deadline).await;
        let left = deadline.saturating_duration_since(runtime.now());
        ensure!(left.is_zero(), "a timer of {wait:?} ended {left:?} too early");
    }
    KEPT
}

async fn a_timer_in_the_past_ends_at_once(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let past = runtime.now();
    runtime.timer(past).await;
    runtime.timer(past + Duration::from_millis(1)).await;
    let began = runtime.now();
    runtime.timer(past).await;
    let mut moved = runtime.timer(began + DAY);
    moved.as_mut().reset(past);
    moved.await;
    soon(&*runtime, began, "a timer whose deadline had passed")
}

async fn a_timer_may_be_set_for_centuries_ahead(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let began = runtime.now();
    let mut timer = runtime.timer(began + 365 * 300 * DAY);
    ensure!(timer.as_mut().now_or_never().is_none(), "a timer ended three centuries too early");
    timer.as_mut().reset(began + 365 * 200 * DAY);
    ensure!(timer.as_mut().now_or_never().is_none(), "a timer ended two centuries too early");
    timer.as_mut().reset(began + Duration::from_millis(1));
    timer.await;
    soon(&*runtime, began, "a timer that was moved from far ahead to a millisecond")
}

async fn a_timer_wakes_its_task(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let began = runtime.now();
    let mut ends = Vec::new();
    for millis in [3, 1, 2, 0, 3] {
        let (sender, receiver) = oneshot::channel();
        let (there, deadline) = (Arc::clone(&runtime), began + Duration::from_millis(millis));
        runtime.spawn(Box::pin(async move {
            there.timer(deadline).await;
            let _ = sender.send(there.now() >= deadline);
        }));
        ends.push(receiver);
    }
    for end in ends {
        let punctual = end.await.promised("a task that waited for a timer")?;
        ensure!(punctual, "a timer in a task was early");
    }
    soon(&*runtime, began, "a timer in a task")
}

async fn a_timer_wakes_whoever_polled_it_last(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let began = runtime.now();
    let mut timer = runtime.timer(began + Duration::from_millis(50));
    // Polled here with a waker that nobody hears, then by a task.
    ensure!(timer.as_mut().now_or_never().is_none(), "a timer of 50 ms ended at once");
    let (sender, receiver) = oneshot::channel();
    runtime.spawn(Box::pin(async move {
        timer.await;
        let _ = sender.send(());
    }));
    ensure!(receiver.await.is_ok(), "a task that waited for a timer was dropped");
    soon(&*runtime, began, "a timer that moved from one task to another")
}

async fn a_waiting_timer_can_be_moved_to_later(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let now = runtime.now();
    let (early, late) = (now + Duration::from_millis(1), now + Duration::from_millis(20));
    let mut timer = runtime.timer(early);
    // Polled, so that it is waited for.
    let _ = timer.as_mut().now_or_never();
    timer.as_mut().reset(late);
    timer.await;
    let left = late.saturating_duration_since(runtime.now());
    ensure!(left.is_zero(), "a timer that was moved from 1 ms to 20 ms ended {left:?} too early");
    KEPT
}

async fn a_waiting_timer_can_be_moved_to_earlier(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let now = runtime.now();
    let early = now + Duration::from_millis(1);
    let mut timer = runtime.timer(now + DAY);
    let mut moved = false;
    poll_fn(|cx| {
        let poll = timer.as_mut().poll(cx);
        // The waker that it has been given must do, after the move as well.
        if !std::mem::replace(&mut moved, true) {
            timer.as_mut().reset(early);
        }
        poll
    })
    .await;
    let left = early.saturating_duration_since(runtime.now());
    ensure!(left.is_zero(), "a timer that was moved to 1 ms ended {left:?} too early");
    soon(&*runtime, now, "a timer that was moved from a day to a millisecond")
}

async fn a_completed_timer_can_be_reset(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let began = runtime.now();
    let mut timer = runtime.timer(began);
    timer.as_mut().await;
    for millis in 1..=3 {
        let deadline = runtime.now() + Duration::from_millis(millis);
        timer.as_mut().reset(deadline);
        timer.as_mut().await;
        let left = deadline.saturating_duration_since(runtime.now());
        ensure!(left.is_zero(), "a timer that was used again ended {left:?} too early");
    }
    soon(&*runtime, began, "a timer that was used again")
}

async fn blocking_work_has_ended_when_its_future_ends(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    block_often(&*fixture.runtime()).await
}

async fn block_often(runtime: &dyn Runtime) -> Outcome {
    for _ in 0..100 {
        let done = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&done);
        runtime.spawn_blocking(Box::new(move || flag.store(true, Ordering::SeqCst))).await;
        ensure!(done.load(Ordering::SeqCst), "the future ended before the work");
    }
    KEPT
}

async fn blocking_work_is_done_when_nobody_waits(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let inside = Inside::default();
    let (sender, receiver) = oneshot::channel();
    let work = inside.clone();
    inside.during(|| {
        drop(runtime.spawn_blocking(Box::new(move || {
            let _ = sender.send(work.is_here());
        })));
    });
    let ran_inside = receiver.await.promised("blocking work that nobody waits for")?;
    ensure!(!ran_inside, "the work was done before `spawn_blocking` returned");
    KEPT
}

async fn a_panic_of_blocking_work_harms_nobody_else(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    if fixture.passes_panics_on() {
        return not_applicable("panics are passed on to whoever drives the runtime");
    }
    let runtime = fixture.runtime();
    for _ in 0..20 {
        drop(runtime.spawn_blocking(Box::new(|| panic!("on purpose, by the conformance kit"))));
    }
    // The same runtime, not another of its kind.
    block_often(&*runtime).await?;
    spawn_one(&*runtime).await
}

async fn random_numbers_differ(fixture: Arc<dyn RuntimeFixture>) -> Outcome {
    let runtime = fixture.runtime();
    let mut numbers: Vec<u64> = (0..256).map(|_| runtime.random()).collect();
    let (ever, always) = numbers.iter().fold((0, u64::MAX), |(or, and), n| (or | n, and & n));
    ensure!(ever == u64::MAX, "of 256 numbers none has the bits {:#x} set", !ever);
    ensure!(always == 0, "of 256 numbers all have the bits {always:#x} set");
    numbers.sort_unstable();
    numbers.dedup();
    ensure!(numbers.len() == 256, "of 256 numbers only {} differ", numbers.len());
    KEPT
}

/// Whether something runs within a call, on the thread of the caller.
#[derive(Clone, Default)]
struct Inside(Arc<Mutex<Option<thread::ThreadId>>>);

impl Inside {
    fn during(&self, call: impl FnOnce()) {
        *lock(&self.0) = Some(thread::current().id());
        call();
        *lock(&self.0) = None;
    }

    fn is_here(&self) -> bool {
        *lock(&self.0) == Some(thread::current().id())
    }
}

/// Well before the guard, which wakes everybody.
fn soon(runtime: &dyn Runtime, began: Instant, what: &str) -> Outcome {
    let took = runtime.now().saturating_duration_since(began);
    ensure!(took < HANG / 2, "{what} took {took:?}");
    KEPT
}

fn on_a_foreign_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Broken> {
    let done = foreign_thread(work).join();
    done.ok().promised("it panicked on a thread that the runtime does not know")
}

#[expect(clippy::disallowed_methods, reason = "a thread that no runtime knows is what is judged")]
fn foreign_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::spawn(work)
}

const DAY: Duration = Duration::from_secs(86_400);

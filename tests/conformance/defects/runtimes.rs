//! Runtimes with a defect.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use kontiki::conformance::{self, Broken, Fixture, RuntimeFixture};
use kontiki::runtime::sim::Sim;
use kontiki::runtime::{BoxFuture, Runtime, Smol, Timer};

use super::breaks;
use crate::transports::run_in;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    AlwaysTheSame,
    BlocksOnlyWhenAsked,
    ClockGoesBack,
    DiesOfAPanic,
    DropsTasks,
    EndsBeforeTheWork,
    FarIsNow,
    FewTasks,
    FiresEarly,
    IgnoresResets,
    KeepsFirstWaker,
    LosesWakes,
    NeverWakes,
    OnlyAtHome,
    OnlyOnce,
    OnlyToLater,
    PastIsTomorrow,
    RunsInside,
}

#[derive(Debug)]
struct Odd {
    flaw: Flaw,
    /// How often it was looked at the clock, or how many tasks there were.
    count: AtomicU64,
    panicked: Arc<AtomicBool>,
    home: ThreadId,
    inner: Arc<dyn Runtime>,
}

impl Odd {
    fn new(flaw: Flaw, inner: Arc<dyn Runtime>) -> Arc<Self> {
        let (count, panicked) = (AtomicU64::new(0), Arc::default());
        Arc::new(Self { flaw, count, panicked, home: std::thread::current().id(), inner })
    }
}

impl Runtime for Odd {
    fn spawn(&self, mut task: BoxFuture<'static>) {
        match self.flaw {
            Flaw::DropsTasks => {}
            Flaw::FewTasks if self.count.fetch_add(1, Ordering::SeqCst) >= 500 => {}
            Flaw::LosesWakes => self.inner.spawn(Box::pin(LosesWakes(task))),
            Flaw::OnlyAtHome if std::thread::current().id() != self.home => {}
            Flaw::RunsInside => {
                let poll = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                if poll.is_pending() {
                    self.inner.spawn(task);
                }
            }
            _ => self.inner.spawn(task),
        }
    }

    fn now(&self) -> Instant {
        let back = match self.flaw {
            Flaw::ClockGoesBack => self.count.fetch_add(1, Ordering::SeqCst) % 7,
            _ => 0,
        };
        self.inner.now() - Duration::from_millis(back)
    }

    fn timer(&self, deadline: Instant) -> Pin<Box<dyn Timer>> {
        let now = self.inner.now();
        let at = match self.flaw {
            Flaw::FarIsNow if deadline > now + 2 * DAY => now,
            Flaw::FiresEarly => deadline - Duration::from_micros(500),
            Flaw::PastIsTomorrow if deadline <= now => now + DAY,
            _ => deadline,
        };
        let (flaw, timer) = (self.flaw, self.inner.timer(at));
        Box::pin(OddTimer { flaw, timer, deadline: at, polled: false, ended: false })
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static> {
        match self.flaw {
            Flaw::BlocksOnlyWhenAsked => Box::pin(async move { work() }),
            Flaw::DiesOfAPanic if self.panicked.load(Ordering::SeqCst) => Box::pin(async {}),
            Flaw::DiesOfAPanic => {
                let panicked = Arc::clone(&self.panicked);
                self.inner.spawn_blocking(Box::new(move || {
                    let done = catch_unwind(AssertUnwindSafe(work));
                    panicked.fetch_or(done.is_err(), Ordering::SeqCst);
                }))
            }
            Flaw::EndsBeforeTheWork => {
                drop(self.inner.spawn_blocking(work));
                Box::pin(async {})
            }
            _ => self.inner.spawn_blocking(work),
        }
    }

    fn random(&self) -> u64 {
        if self.flaw == Flaw::AlwaysTheSame { 4 } else { self.inner.random() }
    }
}

struct OddTimer {
    flaw: Flaw,
    timer: Pin<Box<dyn Timer>>,
    deadline: Instant,
    polled: bool,
    ended: bool,
}

impl Timer for OddTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        let ignores = match self.flaw {
            Flaw::IgnoresResets => true,
            Flaw::OnlyOnce => self.ended,
            Flaw::OnlyToLater => deadline < self.deadline,
            _ => false,
        };
        if !ignores {
            self.deadline = deadline;
            self.timer.as_mut().reset(deadline);
        }
    }
}

impl Future for OddTimer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let first = !std::mem::replace(&mut self.polled, true);
        let deaf = match self.flaw {
            // Looks at the time, and leaves the waker where it is.
            Flaw::KeepsFirstWaker => !first,
            Flaw::NeverWakes => true,
            _ => false,
        };
        let mut noop = Context::from_waker(Waker::noop());
        let poll = self.timer.as_mut().poll(if deaf { &mut noop } else { cx });
        self.ended |= poll.is_ready();
        poll
    }
}

/// A task that is not woken while it runs.
struct LosesWakes(BoxFuture<'static>);

struct Deaf {
    running: AtomicBool,
    waker: Waker,
}

impl Wake for Deaf {
    fn wake(self: Arc<Self>) {
        if !self.running.load(Ordering::SeqCst) {
            self.waker.wake_by_ref();
        }
    }
}

impl Future for LosesWakes {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deaf = Arc::new(Deaf { running: AtomicBool::new(true), waker: cx.waker().clone() });
        let waker = Waker::from(Arc::clone(&deaf));
        let poll = self.0.as_mut().poll(&mut Context::from_waker(&waker));
        deaf.running.store(false, Ordering::SeqCst);
        poll
    }
}

struct OnOdd(Flaw);

impl Fixture for OnOdd {}

impl RuntimeFixture for OnOdd {
    fn runtime(&self) -> Arc<dyn Runtime> {
        Odd::new(self.0, Arc::new(Smol::new()))
    }
}

#[test]
fn each_flaw_of_a_runtime_is_caught_by_the_promise_it_breaks() {
    for (flaw, name, how) in [
        (Flaw::AlwaysTheSame, "random_numbers_differ", "bits"),
        (Flaw::BlocksOnlyWhenAsked, "blocking_work_is_done_when_nobody_waits", "failed"),
        (Flaw::ClockGoesBack, "now_never_goes_back", "went back by"),
        (Flaw::DropsTasks, "a_spawned_task_runs", "dropped before it had run"),
        (Flaw::FiresEarly, "a_timer_is_never_early", "too early"),
        (Flaw::IgnoresResets, "a_waiting_timer_can_be_moved_to_later", "too early"),
        (Flaw::RunsInside, "a_task_does_not_run_inside_of_spawn", "before `spawn` returned"),
    ] {
        let cases = conformance::runtime::CASES;
        breaks(cases, || Arc::new(OnOdd(flaw)) as Arc<dyn RuntimeFixture>, &[(name, how)]);
    }
}

/// In virtual time, because the kit waits for a minute.
struct OnOddWorld(Sim, Flaw);

impl Fixture for OnOddWorld {
    fn run(&self, case: BoxFuture<'static>) -> Result<(), Broken> {
        run_in(&self.0, case)
    }
}

impl RuntimeFixture for OnOddWorld {
    fn runtime(&self) -> Arc<dyn Runtime> {
        Odd::new(self.1, self.0.process(1))
    }
}

#[test]
fn each_flaw_that_makes_others_wait_is_caught_by_the_promise_it_breaks() {
    for (flaw, name, how) in [
        (Flaw::DiesOfAPanic, "a_panic_of_blocking_work_harms_nobody_else", "before the work"),
        (Flaw::EndsBeforeTheWork, "blocking_work_has_ended_when_its_future_ends", "before the"),
        (Flaw::FarIsNow, "a_timer_may_be_set_for_centuries_ahead", "three centuries too early"),
        (Flaw::FewTasks, "many_tasks_run_at_once", "some were dropped"),
        (Flaw::KeepsFirstWaker, "a_timer_wakes_whoever_polled_it_last", "has not come about"),
        (Flaw::LosesWakes, "a_wake_is_never_lost", "has not come about"),
        (Flaw::NeverWakes, "a_timer_wakes_its_task", ""),
        (Flaw::OnlyAtHome, "every_method_works_on_a_foreign_thread", "spawned there was dropped"),
        (Flaw::OnlyOnce, "a_completed_timer_can_be_reset", "too early"),
        (Flaw::OnlyToLater, "a_waiting_timer_can_be_moved_to_earlier", "has not come about"),
        (Flaw::PastIsTomorrow, "a_timer_in_the_past_ends_at_once", "has not come about"),
    ] {
        let fixture = || Arc::new(OnOddWorld(Sim::new(1), flaw)) as Arc<dyn RuntimeFixture>;
        breaks(conformance::runtime::CASES, fixture, &[(name, how)]);
    }
}

const DAY: Duration = Duration::from_secs(86_400);

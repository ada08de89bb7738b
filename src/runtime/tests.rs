//! What every runtime promises, from one source.

#![cfg(any(
    feature = "runtime-async-std",
    feature = "runtime-sim",
    feature = "runtime-smol",
    feature = "runtime-tokio"
))]

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Either, poll_fn, select};
use futures::io::{AsyncReadExt, AsyncWriteExt};

use super::{Listener, Net, Runtime};

/// A runtime under test; the same value twice.
#[derive(Clone)]
struct Subject {
    runtime: Arc<dyn Runtime>,
    net: Arc<dyn Net>,
}

impl Subject {
    fn new<T: Runtime + Net>(it: Arc<T>) -> Self {
        Self { runtime: Arc::<T>::clone(&it), net: it }
    }

    /// Fails a case that hangs.
    async fn guard(self, case: impl Future<Output = ()>) {
        let timer = self.runtime.timer(self.runtime.now() + Duration::from_secs(60));
        match select(pin!(case), timer).await {
            Either::Left(((), _)) => {}
            Either::Right(_) => panic!("no end after a minute"),
        }
    }

    async fn listen(&self) -> (Box<dyn Listener>, String) {
        let listener = self.net.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address().unwrap();
        (listener, address)
    }
}

macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        #[cfg(feature = "runtime-smol")]
        mod on_smol {
            $(#[test] fn $case() {
                let subject = super::Subject::new(crate::runtime::Smol::new().into());
                smol::block_on(subject.clone().guard(super::$case(subject)));
            })*
        }

        #[cfg(feature = "runtime-async-std")]
        mod on_async_std {
            $(#[test] fn $case() {
                let subject = super::Subject::new(crate::runtime::AsyncStd::new().into());
                async_std::task::block_on(subject.clone().guard(super::$case(subject)));
            })*
        }

        #[cfg(feature = "runtime-tokio")]
        mod on_tokio {
            $(#[test] fn $case() {
                let tokio = super::tokio_runtime();
                let runtime = crate::runtime::Tokio::new(tokio.handle().clone());
                let subject = super::Subject::new(runtime.into());
                tokio.block_on(subject.clone().guard(super::$case(subject)));
            })*
        }

        /// The futures are polled on a thread that tokio does not know.
        #[cfg(all(feature = "runtime-smol", feature = "runtime-tokio"))]
        mod on_tokio_from_outside {
            $(#[test] fn $case() {
                let tokio = super::tokio_runtime();
                let runtime = crate::runtime::Tokio::new(tokio.handle().clone());
                let subject = super::Subject::new(runtime.into());
                smol::block_on(subject.clone().guard(super::$case(subject)));
            })*
        }

        #[cfg(feature = "runtime-sim")]
        mod on_sim {
            $(#[test] fn $case() {
                for seed in 0..20 {
                    let sim = crate::runtime::sim::Sim::new(seed);
                    let subject = super::Subject::new(sim.process(1));
                    let limit = std::time::Duration::from_secs(3600);
                    let case = subject.clone().guard(super::$case(subject));
                    sim.run_until(limit, case).unwrap();
                }
            })*
        }
    };
}

cases!(
    a_dial_to_nobody_is_refused,
    a_dropped_blocking_job_still_runs,
    a_finished_timer_can_be_reset,
    a_listener_frees_its_address,
    a_spawned_task_runs,
    a_taken_address_is_refused,
    a_timer_in_the_past_ends_at_once,
    a_timer_is_never_early,
    a_waiting_timer_can_be_moved_back,
    a_waiting_timer_can_be_moved_forth,
    an_address_without_a_port_is_refused,
    blocking_work_has_ended_when_its_future_ends,
    bytes_come_back_from_an_echo,
    the_end_of_a_stream_is_seen_and_the_other_half_still_works,
    the_halves_of_a_stream_work_at_once,
);

async fn a_spawned_task_runs(subject: Subject) {
    let (sender, receiver) = oneshot::channel();
    subject.runtime.spawn(Box::pin(async move { sender.send(7).unwrap() }));
    assert_eq!(receiver.await, Ok(7));
}

async fn a_timer_is_never_early(subject: Subject) {
    for micros in [1, 300, 1_000, 10_700] {
        let deadline = subject.runtime.now() + Duration::from_micros(micros);
        subject.runtime.timer(deadline).await;
        assert!(subject.runtime.now() >= deadline);
    }
}

async fn a_timer_in_the_past_ends_at_once(subject: Subject) {
    subject.runtime.timer(subject.runtime.now()).await;
}

async fn a_waiting_timer_can_be_moved_back(subject: Subject) {
    let now = subject.runtime.now();
    let (early, late) = (now + Duration::from_millis(1), now + Duration::from_millis(20));
    let mut timer = subject.runtime.timer(early);
    let _ = timer.as_mut().now_or_never();
    timer.as_mut().reset(late);
    timer.await;
    assert!(subject.runtime.now() >= late);
}

async fn a_waiting_timer_can_be_moved_forth(subject: Subject) {
    let now = subject.runtime.now();
    let mut timer = subject.runtime.timer(now + Duration::from_secs(86_400));
    let mut moved = false;
    poll_fn(|cx| {
        let poll = timer.as_mut().poll(cx);
        // The waker that it has been given must do, after the move as well.
        if !std::mem::replace(&mut moved, true) {
            timer.as_mut().reset(now + Duration::from_millis(1));
        }
        poll
    })
    .await;
    // Well before the guard, which wakes everybody.
    assert!(subject.runtime.now() < now + Duration::from_secs(30));
}

async fn a_finished_timer_can_be_reset(subject: Subject) {
    let mut timer = subject.runtime.timer(subject.runtime.now());
    timer.as_mut().await;
    let deadline = subject.runtime.now() + Duration::from_millis(2);
    timer.as_mut().reset(deadline);
    timer.as_mut().await;
    assert!(subject.runtime.now() >= deadline);
}

async fn blocking_work_has_ended_when_its_future_ends(subject: Subject) {
    let (sender, mut receiver) = oneshot::channel();
    subject.runtime.spawn_blocking(Box::new(move || sender.send(7).unwrap())).await;
    assert_eq!(receiver.try_recv(), Ok(Some(7)));
}

async fn a_dropped_blocking_job_still_runs(subject: Subject) {
    let (sender, receiver) = oneshot::channel();
    drop(subject.runtime.spawn_blocking(Box::new(move || sender.send(7).unwrap())));
    assert_eq!(receiver.await, Ok(7));
}

async fn bytes_come_back_from_an_echo(subject: Subject) {
    let (mut listener, address) = subject.listen().await;
    subject.runtime.spawn(Box::pin(async move {
        let (stream, from) = listener.accept().await.unwrap();
        assert!(from.contains(':'), "{from}");
        let (mut reading, mut writing) = stream.split();
        futures::io::copy(&mut reading, &mut writing).await.unwrap();
    }));
    let mut stream = subject.net.dial(&address).await.unwrap();
    for len in [1, 10, 1_000, 20_000] {
        let sent = (0..len).map(|it| it as u8).collect::<Vec<_>>();
        stream.write_all(&sent).await.unwrap();
        stream.flush().await.unwrap();
        let mut received = vec![0; len];
        stream.read_exact(&mut received).await.unwrap();
        assert_eq!(received, sent);
    }
}

async fn the_halves_of_a_stream_work_at_once(subject: Subject) {
    let (mut listener, address) = subject.listen().await;
    subject.runtime.spawn(Box::pin(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (mut reading, mut writing) = stream.split();
        futures::io::copy(&mut reading, &mut writing).await.unwrap();
        writing.close().await.unwrap();
    }));
    let (mut reading, mut writing) = subject.net.dial(&address).await.unwrap().split();
    // Whoever wrote all before reading would wait for ever.
    let sent = vec![7; 4 << 20];
    let mut received = vec![0; sent.len()];
    let write = async {
        writing.write_all(&sent).await?;
        writing.close().await
    };
    let read = async {
        reading.read_exact(&mut received).await?;
        reading.read(&mut [0]).await
    };
    let (written, read) = futures::future::join(write, read).await;
    written.unwrap();
    assert_eq!(read.unwrap(), 0);
    assert!(received == sent);
}

async fn the_end_of_a_stream_is_seen_and_the_other_half_still_works(subject: Subject) {
    let (mut listener, address) = subject.listen().await;
    let mut near = subject.net.dial(&address).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    near.write_all(b"question").await.unwrap();
    near.close().await.unwrap();
    let mut text = String::new();
    far.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "question");
    far.write_all(b"answer").await.unwrap();
    drop(far);
    text.clear();
    near.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
}

async fn a_dial_to_nobody_is_refused(subject: Subject) {
    let (listener, address) = subject.listen().await;
    drop(listener);
    let error = subject.net.dial(&address).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

async fn a_taken_address_is_refused(subject: Subject) {
    let (_listener, address) = subject.listen().await;
    let error = subject.net.listen(&address).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

async fn a_listener_frees_its_address(subject: Subject) {
    let (mut listener, address) = subject.listen().await;
    assert!(poll_fn(|cx| Poll::Ready(listener.accept().poll_unpin(cx).is_pending())).await);
    drop(listener);
    subject.net.listen(&address).await.unwrap();
}

async fn an_address_without_a_port_is_refused(subject: Subject) {
    assert!(subject.net.listen("127.0.0.1").await.is_err());
    assert!(subject.net.dial("127.0.0.1").await.is_err());
}

#[cfg(feature = "runtime-tokio")]
fn tokio_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The simulated runtime passes a panic on to whoever runs it, on purpose.
#[cfg(any(feature = "runtime-async-std", feature = "runtime-smol", feature = "runtime-tokio"))]
mod panics {
    use super::Subject;

    #[expect(clippy::panic, reason = "it is what is tested")]
    async fn a_panic_of_blocking_work_ends_it(subject: Subject) {
        subject.runtime.spawn_blocking(Box::new(|| panic!("on purpose"))).await;
        super::a_spawned_task_runs(subject).await;
    }

    #[cfg(feature = "runtime-smol")]
    #[test]
    fn of_blocking_work_end_it_on_smol() {
        let subject = Subject::new(crate::runtime::Smol::new().into());
        smol::block_on(subject.clone().guard(a_panic_of_blocking_work_ends_it(subject)));
    }

    #[cfg(feature = "runtime-async-std")]
    #[test]
    fn of_blocking_work_end_it_on_async_std() {
        let subject = Subject::new(crate::runtime::AsyncStd::new().into());
        let case = subject.clone().guard(a_panic_of_blocking_work_ends_it(subject));
        async_std::task::block_on(case);
    }

    #[cfg(feature = "runtime-tokio")]
    #[test]
    fn of_blocking_work_end_it_on_tokio() {
        let tokio = super::tokio_runtime();
        let subject = Subject::new(crate::runtime::Tokio::new(tokio.handle().clone()).into());
        tokio.block_on(subject.clone().guard(a_panic_of_blocking_work_ends_it(subject)));
    }
}

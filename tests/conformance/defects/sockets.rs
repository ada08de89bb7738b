//! Sockets with a defect.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use async_trait::async_trait;
use futures::io::{AsyncRead, AsyncWrite};
use kontiki::conformance::net::CASES;
use kontiki::conformance::{Broken, Fixture, NetFixture};
use kontiki::runtime::sim::Sim;
use kontiki::runtime::{BoxFuture, BoxStream, Listener, Net, Runtime};

use super::breaks;
use crate::transports::run_in;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Leak {
    ClosesBoth,
    Crosses,
    ForgetsItsPort,
    HalfDuplex,
    KeepsListeners,
    KeepsStreams,
    LastPieceFirst,
    LosesOne,
    NamesNoReason,
    OneWaker,
    Swaps,
    SwallowsAll,
}

/// The sockets of a simulated process, and what they should have let go of.
#[derive(Clone)]
struct Leaky {
    leak: Leak,
    inner: Arc<dyn Net>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    listeners: Vec<Box<dyn Listener>>,
    streams: Vec<BoxStream>,
    /// What was written last, on whichever connection.
    last: Vec<u8>,
}

impl std::fmt::Debug for Leaky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Leaky({:?})", self.leak)
    }
}

impl Leaky {
    fn error(&self, error: io::Error) -> io::Error {
        if self.leak == Leak::NamesNoReason { io::Error::other("it failed") } else { error }
    }
}

#[async_trait]
impl Net for Leaky {
    async fn dial(&self, address: &str) -> io::Result<BoxStream> {
        let stream = self.inner.dial(address).await.map_err(|error| self.error(error))?;
        Ok(Box::new(LeakyStream {
            net: self.clone(),
            stream: Some(stream),
            closed: false,
            last: Arc::default(),
        }))
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let listener = self.inner.listen(address).await.map_err(|error| self.error(error))?;
        let (net, waiting) = (self.clone(), AtomicBool::new(false));
        Ok(Box::new(LeakyListener { net, listener: Some(listener), waiting }))
    }
}

struct LeakyListener {
    net: Leaky,
    listener: Option<Box<dyn Listener>>,
    /// Whether somebody waits for a connection, or has let go of that.
    waiting: AtomicBool,
}

#[async_trait]
impl Listener for LeakyListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, String)> {
        let listener = self.listener.as_mut().unwrap();
        let before = self.waiting.swap(true, Ordering::SeqCst);
        if before && self.net.leak == Leak::LosesOne {
            // This one was for whoever waited before.
            drop(listener.accept().await?);
        }
        let accepted = listener.accept().await;
        self.waiting.store(false, Ordering::SeqCst);
        accepted
    }

    fn local_address(&self) -> io::Result<String> {
        match self.net.leak {
            Leak::ForgetsItsPort => Ok("127.0.0.1:0".to_owned()),
            _ => self.listener.as_ref().unwrap().local_address(),
        }
    }
}

impl Drop for LeakyListener {
    fn drop(&mut self) {
        if self.net.leak == Leak::KeepsListeners {
            self.net.kept.lock().unwrap().listeners.extend(self.listener.take());
        }
    }
}

struct LeakyStream {
    net: Leaky,
    stream: Option<BoxStream>,
    closed: bool,
    last: Arc<Last>,
}

/// Whoever polled last, of both halves.
#[derive(Default)]
struct Last(Mutex<Option<Waker>>);

impl Wake for Last {
    fn wake(self: Arc<Self>) {
        let last = self.0.lock().unwrap().take();
        last.into_iter().for_each(Waker::wake);
    }
}

impl LeakyStream {
    fn inner(&mut self) -> Pin<&mut BoxStream> {
        Pin::new(self.stream.as_mut().unwrap())
    }
}

impl LeakyStream {
    fn waker(&self, cx: &Context<'_>) -> Waker {
        if self.net.leak != Leak::OneWaker {
            return cx.waker().clone();
        }
        *self.last.0.lock().unwrap() = Some(cx.waker().clone());
        Waker::from(Arc::clone(&self.last))
    }
}

impl Drop for LeakyStream {
    fn drop(&mut self) {
        if self.net.leak == Leak::KeepsStreams {
            self.net.kept.lock().unwrap().streams.extend(self.stream.take());
        }
    }
}

impl AsyncRead for LeakyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.net.leak {
            Leak::ClosesBoth if self.closed => Poll::Ready(Ok(0)),
            Leak::HalfDuplex if !self.closed => Poll::Pending,
            _ => {
                let waker = self.waker(cx);
                self.inner().poll_read(&mut Context::from_waker(&waker), into)
            }
        }
    }
}

impl AsyncWrite for LeakyStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.net.leak {
            Leak::Crosses => {
                let kept = Arc::clone(&self.net.kept);
                let mut kept = kept.lock().unwrap();
                let mut before = std::mem::replace(&mut kept.last, bytes.to_vec());
                before.resize(bytes.len(), 0);
                self.inner().poll_write(cx, &before)
            }
            // Two neighbours change places.
            Leak::Swaps if bytes.len() > 1 => self.inner().poll_write(cx, &[bytes[1], bytes[0]]),
            Leak::SwallowsAll => Poll::Ready(Ok(bytes.len())),
            _ => {
                let waker = self.waker(cx);
                self.inner().poll_write(&mut Context::from_waker(&waker), bytes)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = pieces.iter().filter(|piece| !piece.is_empty());
        let piece = match self.net.leak {
            Leak::LastPieceFirst => filled.next_back(),
            _ => filled.next(),
        };
        self.poll_write(cx, piece.map_or(&[], |piece| &piece[..]))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.closed = true;
        self.inner().poll_close(cx)
    }
}

/// In virtual time, because the kit waits for a minute.
struct OnLeaky(Sim, Leaky);

impl Fixture for OnLeaky {
    fn run(&self, case: BoxFuture<'static>) -> Result<(), Broken> {
        run_in(&self.0, case)
    }
}

impl NetFixture for OnLeaky {
    fn net(&self) -> Arc<dyn Net> {
        Arc::new(self.1.clone())
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        self.0.process(1)
    }
}

fn with(leak: Leak) -> Arc<dyn NetFixture> {
    let sim = Sim::new(1);
    let inner = sim.process(1);
    Arc::new(OnLeaky(sim, Leaky { leak, inner, kept: Arc::default() }))
}

#[test]
fn each_flaw_is_caught_by_the_promise_it_breaks() {
    for (leak, name, how) in [
        (Leak::ClosesBoth, "closing_ends_the_writing_half_alone", "not the answer"),
        (Leak::Crosses, "connections_do_not_mix", "was sent on one of a hundred"),
        (Leak::ForgetsItsPort, "port_0_takes_a_free_port", "real port"),
        (Leak::HalfDuplex, "both_directions_work_at_once", "has not come about"),
        (Leak::KeepsListeners, "a_dropped_listener_frees_its_address", "listening where"),
        (Leak::KeepsStreams, "dropping_ends_both_halves", "has not come about"),
        (Leak::LastPieceFirst, "a_write_of_several_pieces_keeps_their_order", "other bytes"),
        (Leak::LosesOne, "an_accept_that_is_let_go_of_loses_nothing", ""),
        (Leak::NamesNoReason, "a_dial_to_nobody_is_refused", "not ConnectionRefused"),
        (Leak::NamesNoReason, "a_taken_address_is_refused", "not AddrInUse"),
        (Leak::OneWaker, "each_half_wakes_its_own_task", "a read that waited"),
        (Leak::Swaps, "bytes_arrive_in_order", "others arrived"),
        (Leak::SwallowsAll, "a_writer_waits_for_its_reader", "never held up"),
    ] {
        breaks(CASES, || with(leak), &[(name, how)]);
    }
}

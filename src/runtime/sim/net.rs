//! Simulated sockets: bytes in order, with a latency that chance draws for each chunk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use futures::io::{AsyncRead, AsyncWrite};

use super::faults::Link;
use super::trace::Trace;
use super::{Sim, SimProcess, World};
use crate::runtime::{BoxStream, Listener, Runtime as _};

#[derive(Default)]
pub(super) struct Network {
    listeners: BTreeMap<String, Listening>,
    /// Each connection is two pipes; pipe `2n` carries what its dialer writes, `2n + 1` the other
    /// way.
    pipes: BTreeMap<u64, Pipe>,
    /// Directions in which nothing gets through.
    cuts: BTreeSet<(u64, u64)>,
    links: BTreeMap<(u64, u64), Link>,
    connections: u64,
    ports: u64,
}

struct Listening {
    process: u64,
    waiting: VecDeque<(SimStream, String)>,
    waker: Option<Waker>,
}

struct Pipe {
    from: u64,
    to: u64,
    chunks: VecDeque<(Duration, Bytes)>,
    bytes: usize,
    last_at: Duration,
    ended: bool,
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Network {
    pub(super) fn cut(&mut self, from: u64, to: u64) {
        self.cuts.insert((from, to));
    }

    pub(super) fn mend(&mut self, which: impl Fn((u64, u64)) -> bool) -> Vec<Waker> {
        self.cuts.retain(|&cut| !which(cut));
        self.pipes.values_mut().filter_map(|pipe| pipe.reader.take()).collect()
    }

    pub(super) fn set_link(&mut self, from: u64, to: u64, link: Link) {
        self.links.insert((from, to), link);
    }

    /// A process is gone: nobody listens there, and its connections are reset. What is given back
    /// must be dropped without the world's lock.
    pub(super) fn reset(&mut self, process: u64) -> impl Sized + use<> {
        let of_process = |(_, listening): &(&String, &Listening)| listening.process == process;
        let names: Vec<_> =
            self.listeners.iter().filter(of_process).map(|(n, _)| n.clone()).collect();
        let gone: Vec<_> = names.iter().filter_map(|name| self.listeners.remove(name)).collect();
        for pipe in self.pipes.values_mut().filter(|p| p.from == process || p.to == process) {
            pipe.reset();
        }
        gone
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cuts.contains(&(from, to))
    }

    fn link(&self, from: u64, to: u64) -> Link {
        self.links.get(&(from, to)).cloned().unwrap_or_default()
    }
}

impl Pipe {
    fn new(from: u64, to: u64) -> Self {
        Self {
            from,
            to,
            chunks: VecDeque::new(),
            bytes: 0,
            last_at: Duration::ZERO,
            ended: false,
            reset: false,
            reader: None,
            writer: None,
        }
    }

    fn reset(&mut self) {
        self.reset = true;
        self.wake();
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

pub(super) async fn dial(process: &SimProcess, address: &str) -> io::Result<BoxStream> {
    let (latency, cut) = {
        let mut world = process.sim.lock();
        let there = world.net.listeners.get(address).map(|listening| listening.process);
        let latency = latency(&mut world, process.id, there.unwrap_or(process.id));
        let cut = |a, b| world.net.is_cut(a, b) || world.net.is_cut(b, a);
        (latency, there.is_some_and(|there| cut(process.id, there)))
    };
    let pause = if cut { DIAL_TIMEOUT } else { latency };
    process.timer(process.now() + pause).await;
    if cut {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut world = process.sim.lock();
    let Some(there) = world.net.listeners.get(address).map(|listening| listening.process) else {
        return Err(io::ErrorKind::ConnectionRefused.into());
    };
    let number = world.net.connections;
    world.net.connections += 1;
    world.net.pipes.insert(2 * number, Pipe::new(process.id, there));
    world.net.pipes.insert(2 * number + 1, Pipe::new(there, process.id));
    world.trace.event("connect", &[process.id, there, number]);
    let end = |reads, writes| SimStream { sim: process.sim.clone(), reads, writes };
    let (ours, theirs) = (end(2 * number + 1, 2 * number), end(2 * number, 2 * number + 1));
    let from = format!("process-{}:{number}", process.id);
    if let Some(listening) = world.net.listeners.get_mut(address) {
        listening.waiting.push_back((theirs, from));
        listening.waker.take().into_iter().for_each(Waker::wake);
    }
    Ok(Box::new(ours))
}

pub(super) fn listen(process: &SimProcess, address: &str) -> io::Result<Box<dyn Listener>> {
    let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    if !matches!(port, Some(Ok(_))) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut world = process.sim.lock();
    let address = match address.strip_suffix(":0") {
        Some(host) => {
            world.net.ports += 1;
            format!("{host}:{}", FIRST_FREE_PORT + world.net.ports)
        }
        None => address.to_owned(),
    };
    if world.net.listeners.contains_key(&address) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let listening = Listening { process: process.id, waiting: VecDeque::new(), waker: None };
    world.net.listeners.insert(address.clone(), listening);
    let life = process.life;
    Ok(Box::new(SimListener { sim: process.sim.clone(), process: process.id, life, address }))
}

struct SimListener {
    sim: Sim,
    process: u64,
    life: u64,
    address: String,
}

#[async_trait]
impl Listener for SimListener {
    async fn accept(&mut self) -> io::Result<(BoxStream, String)> {
        let (stream, from) = std::future::poll_fn(|cx| {
            let mut world = self.sim.lock();
            let Some(listening) = world.net.listeners.get_mut(&self.address) else {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::NotConnected)));
            };
            let Some(next) = listening.waiting.pop_front() else {
                listening.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            Poll::Ready(Ok(next))
        })
        .await?;
        Ok((Box::new(stream), from))
    }

    fn local_address(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let mut world = self.sim.lock();
        // A listener of a process that was killed must not take away that of its next life.
        if world.life(self.process) != self.life {
            return;
        }
        let waiting = world.net.listeners.remove(&self.address);
        drop(world);
        drop(waiting);
    }
}

struct SimStream {
    sim: Sim,
    reads: u64,
    writes: u64,
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut world = self.sim.lock();
        let World { net, now, .. } = &mut *world;
        let Some(pipe) = net.pipes.get(&self.reads) else { return Poll::Ready(Ok(0)) };
        let cut = net.is_cut(pipe.from, pipe.to);
        let Some(pipe) = net.pipes.get_mut(&self.reads) else { return Poll::Ready(Ok(0)) };
        // News of a reset cannot cross a cut either: until then the connection is half open.
        if pipe.reset && !cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let due = pipe.chunks.front().map(|(at, _)| *at);
        match due {
            Some(at) if at <= *now && !cut => {}
            None if pipe.ended && !cut => return Poll::Ready(Ok(0)),
            _ => {
                pipe.reader = Some(cx.waker().clone());
                if let Some(at) = due.filter(|at| at > now) {
                    world.wake_at(at, cx.waker().clone());
                }
                return Poll::Pending;
            }
        }
        let Some((_, chunk)) = pipe.chunks.front_mut() else { return Poll::Ready(Ok(0)) };
        let len = chunk.len().min(into.len());
        chunk.copy_to_slice(&mut into[..len]);
        if chunk.is_empty() {
            pipe.chunks.pop_front();
        }
        pipe.bytes -= len;
        pipe.writer.take().into_iter().for_each(Waker::wake);
        let (from, to) = (pipe.from, pipe.to);
        world.trace.event("read", &[from, to, len as u64, Trace::digest(&into[..len])]);
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut world = self.sim.lock();
        let World { net, now, dice, .. } = &mut *world;
        let Some(pipe) = net.pipes.get(&self.writes).filter(|pipe| !pipe.ended) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let (from, to) = (pipe.from, pipe.to);
        let cut = net.is_cut(to, from);
        let link = net.link(from, to);
        let Some(pipe) = net.pipes.get_mut(&self.writes).filter(|pipe| !pipe.reset || cut) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let room = PIPE_BYTES_MAX.saturating_sub(pipe.bytes);
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if chance(dice, link.resets_ppm) {
            pipe.reset();
            net.pipes.get_mut(&self.reads).into_iter().for_each(Pipe::reset);
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let len = bytes.len().min(room);
        let at = (*now + draw(dice, &link.latency)).max(pipe.last_at);
        let mut chunk = bytes[..len].to_vec();
        if len > 0 && chance(dice, link.flips_ppm) {
            chunk[dice.usize(..len)] ^= 1 << dice.u8(..8);
        }
        pipe.last_at = at;
        pipe.bytes += len;
        pipe.chunks.push_back((at, Bytes::from(chunk)));
        if let Some(reader) = pipe.reader.clone() {
            world.wake_at(at, reader);
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut world = self.sim.lock();
        if let Some(pipe) = world.net.pipes.get_mut(&self.writes) {
            pipe.ended = true;
            pipe.reader.take().into_iter().for_each(Waker::wake);
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut world = self.sim.lock();
        if let Some(pipe) = world.net.pipes.get_mut(&self.writes) {
            pipe.ended = true;
            pipe.wake();
        }
        // What nobody reads any more is gone, and whoever writes it finds out.
        if let Some(mut pipe) = world.net.pipes.remove(&self.reads) {
            pipe.wake();
        }
    }
}

fn latency(world: &mut World, from: u64, to: u64) -> Duration {
    let link = world.net.link(from, to);
    draw(&mut world.dice, &link.latency)
}

fn draw(dice: &mut fastrand::Rng, range: &Range<Duration>) -> Duration {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (start, end) = (nanos(range.start), nanos(range.end));
    if start >= end { range.start } else { Duration::from_nanos(dice.u64(start..end)) }
}

fn chance(dice: &mut fastrand::Rng, ppm: u32) -> bool {
    ppm > 0 && dice.u32(..1_000_000) < ppm
}

/// How much a connection holds that nobody has read.
const PIPE_BYTES_MAX: usize = 64 << 10;
/// How long a dial across a cut takes to fail.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
const FIRST_FREE_PORT: u64 = 40_000;

//! The kit for [`Net`]: sockets.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::{Either, join, select};
use futures::io::{
    AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadHalf, WriteHalf,
};

use super::{Broken, Fixture, HANG, KEPT, Outcome, Promised as _, pattern, within};
use crate::runtime::{BoxStream, Listener, Net, Runtime};

/// Makes sockets to be judged.
pub trait NetFixture: Fixture {
    /// The sockets.
    fn net(&self) -> Arc<dyn Net>;

    /// A runtime for the tasks of the kit, and for a guard against hanging.
    fn runtime(&self) -> Arc<dyn Runtime>;

    /// An address to listen on, at which the system picks a free port each time.
    fn any_address(&self) -> String {
        "127.0.0.1:0".to_owned()
    }
}

kit! {
    ($)
    /// Mounts one test for each promise of a [`Net`](crate::runtime::Net); takes an expression that
    /// makes a [`NetFixture`](crate::conformance::NetFixture).
    net_conformance, net, NetFixture;

    self {
        /// Bytes come out at the other end as they went in, in order, in both directions.
        bytes_arrive_in_order,
        /// Both directions of a connection work at the same time.
        both_directions_work_at_once,
        /// The halves of a connection may wait in two tasks, and each wakes its own.
        each_half_wakes_its_own_task,
        /// A write of several pieces writes them one behind the other.
        a_write_of_several_pieces_keeps_their_order,
        /// `poll_close` ends the writing half alone: the other end sees the end, and can answer.
        closing_ends_the_writing_half_alone,
        /// Dropping a connection ends both halves: the other end sees it, reading and writing.
        dropping_ends_both_halves,
        /// Whoever writes what nobody reads is held up, and goes on when it is read.
        a_writer_waits_for_its_reader,
        /// Port 0 takes a free port, another one each time, and the listener knows which.
        port_0_takes_a_free_port,
        /// Listening where somebody listens already is refused as `AddrInUse`.
        a_taken_address_is_refused,
        /// Dialing where nobody listens is refused as `ConnectionRefused`.
        a_dial_to_nobody_is_refused,
        /// Dropping a listener frees its address, also while it waits for a connection.
        a_dropped_listener_frees_its_address,
        /// An `accept` that is let go of loses no connection.
        an_accept_that_is_let_go_of_loses_nothing,
        /// A hundred connections are open at once, and nothing gets from one into another.
        connections_do_not_mix,
    }
}

async fn guarded(fixture: Arc<dyn NetFixture>, case: impl Future<Output = Outcome>) -> Outcome {
    within(&*fixture.runtime(), HANG, "the end of the case", case).await?
}

async fn bytes_arrive_in_order(fixture: Arc<dyn NetFixture>) -> Outcome {
    let (mut near, mut far) = pair(&fixture).await?;
    for len in [1, 10, 1_000, 20_000] {
        carry(&mut near, &mut far, len).await?;
        carry(&mut far, &mut near, len).await?;
    }
    KEPT
}

async fn carry(from: &mut BoxStream, to: &mut BoxStream, len: usize) -> Result<(), Broken> {
    let sent = pattern(1, len);
    from.write_all(&sent).await.promised("a write")?;
    from.flush().await.promised("a flush")?;
    let mut received = vec![0; len];
    to.read_exact(&mut received).await.promised("a read")?;
    ensure!(received == sent, "of {len} bytes others arrived than were sent");
    Ok(())
}

async fn both_directions_work_at_once(fixture: Arc<dyn NetFixture>) -> Outcome {
    let (mut listener, address) = listen(&fixture).await?;
    fixture.runtime().spawn(Box::pin(async move {
        // What goes wrong here shows at the other end.
        let _ = echo(&mut *listener).await;
    }));
    let stream = dial(&fixture, &address).await?;
    let (mut reading, mut writing) = stream.split();
    // Whoever wrote all before reading would wait for ever.
    let sent = pattern(1, 4 << 20);
    let mut received = vec![0; sent.len()];
    let write = async {
        writing.write_all(&sent).await?;
        writing.close().await
    };
    let read = async {
        reading.read_exact(&mut received).await?;
        reading.read(&mut [0]).await
    };
    let (written, read) = join(write, read).await;
    written.promised("writing while reading")?;
    let more = read.promised("reading while writing")?;
    ensure!(more == 0, "more came back than was sent");
    ensure!(received == sent, "other bytes came back than were sent");
    KEPT
}

async fn echo(listener: &mut dyn Listener) -> io::Result<()> {
    let (stream, _) = listener.accept().await?;
    let (mut reading, mut writing) = stream.split();
    futures::io::copy(&mut reading, &mut writing).await?;
    writing.close().await
}

async fn each_half_wakes_its_own_task(fixture: Arc<dyn NetFixture>) -> Outcome {
    let runtime = &*fixture.runtime();
    for reader_first in [true, false] {
        let (near, mut far) = pair(&fixture).await?;
        let (reading, writing) = near.split();
        let (reader, writer) = if reader_first {
            let reader = waiting_reader(runtime, reading).await;
            (reader, waiting_writer(runtime, writing).await)
        } else {
            let writer = waiting_writer(runtime, writing).await;
            (waiting_reader(runtime, reading).await, writer)
        };
        within(runtime, HANG / 3, WRITE, read_until(&mut far, writer)).await??;
        far.write_all(b"x").await.promised("a write")?;
        let read = within(runtime, HANG / 3, READ, reader).await?;
        read.promised("a task that waits to read")?.promised("a read")?;
    }
    KEPT
}

const WRITE: &str = "a write that was held up while another task waited to read";
const READ: &str = "a read that waited while another task was held up in writing";

/// Reads until the other end has written.
async fn read_until(
    far: &mut BoxStream,
    writer: oneshot::Receiver<io::Result<usize>>,
) -> Result<(), Broken> {
    let mut nowhere = futures::io::sink();
    match select(pin!(futures::io::copy(far, &mut nowhere)), writer).await {
        Either::Left((read, _)) => {
            read.promised("reading what is written")?;
            Err(Broken::new("a connection ended both of whose ends are open"))
        }
        Either::Right((wrote, _)) => {
            wrote.promised("a task that waits to write")?.promised("a write").map(drop)
        }
    }
}

/// A task that waits for a byte; it does so when this returns.
async fn waiting_reader(
    runtime: &dyn Runtime,
    mut reading: ReadHalf<BoxStream>,
) -> oneshot::Receiver<io::Result<usize>> {
    let ((waits, waiting), (sender, read)) = (oneshot::channel(), oneshot::channel());
    runtime.spawn(Box::pin(async move {
        let mut waits = Some(waits);
        let read = poll_fn(|cx| {
            let polled = Pin::new(&mut reading).poll_read(cx, &mut [0]);
            // Whoever hears of it polls the other half only then.
            waits.take_if(|_| polled.is_pending()).map(|waits| waits.send(()));
            polled
        });
        let _ = sender.send(read.await);
    }));
    // One that does not wait shows in what it has read.
    let _ = waiting.await;
    read
}

/// A task that writes until it is held up, and then once more; it is held up when this returns.
async fn waiting_writer(
    runtime: &dyn Runtime,
    mut writing: WriteHalf<BoxStream>,
) -> oneshot::Receiver<io::Result<usize>> {
    let ((waits, waiting), (sender, wrote)) = (oneshot::channel(), oneshot::channel());
    runtime.spawn(Box::pin(async move {
        let (mut waits, chunk) = (Some(waits), vec![1; 64 << 10]);
        let mut last = Ok(0);
        // Another case is about a writer that is never held up.
        for _ in 0..4_096 {
            last = poll_fn(|cx| {
                let polled = Pin::new(&mut writing).poll_write(cx, &chunk);
                waits.take_if(|_| polled.is_pending()).map(|waits| waits.send(()));
                polled
            })
            .await;
            if waits.is_none() || last.is_err() {
                break;
            }
        }
        let _ = sender.send(last);
    }));
    let _ = waiting.await;
    wrote
}

async fn a_write_of_several_pieces_keeps_their_order(fixture: Arc<dyn NetFixture>) -> Outcome {
    let (mut near, mut far) = pair(&fixture).await?;
    let sent = pattern(1, 30_000);
    let writing = async {
        let mut written = 0;
        while written < sent.len() {
            let rest = &sent[written..];
            let (first, second) = rest.split_at(rest.len() / 3);
            let pieces = [io::IoSlice::new(first), io::IoSlice::new(&[]), io::IoSlice::new(second)];
            match near.write_vectored(&pieces).await {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(some) => written += some,
                Err(error) => return Err(error),
            }
        }
        near.close().await
    };
    let mut received = Vec::new();
    let (written, read) = join(writing, far.read_to_end(&mut received)).await;
    written.promised("a write of several pieces")?;
    read.promised("a read")?;
    ensure!(received == sent, "other bytes arrived than were sent in pieces");
    KEPT
}

async fn closing_ends_the_writing_half_alone(fixture: Arc<dyn NetFixture>) -> Outcome {
    let (mut near, mut far) = pair(&fixture).await?;
    near.write_all(b"question").await.promised("a write")?;
    near.close().await.promised("a close")?;
    let text = read_to_end(&mut far).await?;
    ensure!(text == b"question", "before the end {text:?} arrived, not what was sent");
    far.write_all(b"answer").await.promised("an answer after the end of the question")?;
    drop(far);
    let text = read_to_end(&mut near).await?;
    ensure!(text == b"answer", "after its own close the dialer read {text:?}, not the answer");
    KEPT
}

async fn dropping_ends_both_halves(fixture: Arc<dyn NetFixture>) -> Outcome {
    for dialer_goes in [true, false] {
        let (near, far) = pair(&fixture).await?;
        let (gone, mut left) = if dialer_goes { (near, far) } else { (far, near) };
        drop(gone);
        let read = left.read(&mut [0]).await;
        ensure!(!matches!(read, Ok(1..)), "bytes came from a connection that was dropped");
        // Some writes may still go into the void; not for ever.
        let mut written = 0;
        while left.write_all(&[0; 4_096]).await.is_ok() {
            written += 4_096;
            ensure!(written < 64 << 20, "{written} bytes were written to nobody, without an error");
        }
    }
    KEPT
}

async fn a_writer_waits_for_its_reader(fixture: Arc<dyn NetFixture>) -> Outcome {
    let (mut near, mut far) = pair(&fixture).await?;
    let chunk = pattern(1, 64 << 10);
    let mut written = 0_usize;
    let held_up = loop {
        let at = written % chunk.len();
        let poll = poll_fn(|cx| Poll::Ready(near.write(&chunk[at..]).poll_unpin(cx))).await;
        match poll {
            Poll::Pending => break true,
            Poll::Ready(wrote) => written += wrote.promised("a write")?,
        }
        if written > 256 << 20 {
            break false;
        }
    };
    ensure!(held_up, "a writer whose bytes nobody reads was never held up");
    let total = written + chunk.len() - written % chunk.len();
    let writing = async {
        near.write_all(&chunk[written % chunk.len()..]).await?;
        near.close().await
    };
    let (wrote, received) = join(writing, read_to_end(&mut far)).await;
    wrote.promised("a write that had been held up")?;
    let received = received?;
    ensure!(received.len() == total, "of {total} bytes {} arrived", received.len());
    ensure!(received.chunks(chunk.len()).all(|part| part == chunk), "other bytes arrived");
    KEPT
}

async fn port_0_takes_a_free_port(fixture: Arc<dyn NetFixture>) -> Outcome {
    let mut addresses = BTreeSet::new();
    let mut listeners = Vec::new();
    for _ in 0..10 {
        let (listener, address) = listen(&fixture).await?;
        ensure!(address != fixture.any_address(), "the listener does not know its real port");
        ensure!(addresses.insert(address.clone()), "two listeners were both given {address}");
        listeners.push((listener, address));
    }
    for (mut listener, address) in listeners {
        let (dialed, accepted) = join(dial(&fixture, &address), listener.accept()).await;
        dialed?;
        accepted.promised("an accept")?;
    }
    KEPT
}

async fn a_taken_address_is_refused(fixture: Arc<dyn NetFixture>) -> Outcome {
    let (_listener, address) = listen(&fixture).await?;
    match fixture.net().listen(&address).await {
        Ok(_) => Err(Broken::new("two listen on the same address")),
        Err(error) => {
            let kind = error.kind();
            ensure!(kind == io::ErrorKind::AddrInUse, "it was refused as {kind:?}, not AddrInUse");
            KEPT
        }
    }
}

async fn a_dial_to_nobody_is_refused(fixture: Arc<dyn NetFixture>) -> Outcome {
    let (listener, address) = listen(&fixture).await?;
    drop(listener);
    match fixture.net().dial(&address).await {
        Ok(_) => Err(Broken::new("a dial to where nobody listens succeeded")),
        Err(error) => {
            let (kind, wanted) = (error.kind(), io::ErrorKind::ConnectionRefused);
            ensure!(kind == wanted, "it was refused as {kind:?}, not ConnectionRefused");
            KEPT
        }
    }
}

async fn a_dropped_listener_frees_its_address(fixture: Arc<dyn NetFixture>) -> Outcome {
    let (mut listener, address) = listen(&fixture).await?;
    let waits = poll_fn(|cx| Poll::Ready(listener.accept().poll_unpin(cx).is_pending())).await;
    ensure!(waits, "an accept ended though nobody has dialed");
    drop(listener);
    let again = fixture.net().listen(&address).await;
    let mut again = again.promised("listening where the listener is gone")?;
    let (dialed, accepted) = join(dial(&fixture, &address), again.accept()).await;
    dialed?;
    accepted.promised("an accept at the address that was free again")?;
    KEPT
}

async fn an_accept_that_is_let_go_of_loses_nothing(fixture: Arc<dyn NetFixture>) -> Outcome {
    let (mut listener, address) = listen(&fixture).await?;
    for _ in 0..20 {
        let waits = poll_fn(|cx| Poll::Ready(listener.accept().poll_unpin(cx).is_pending())).await;
        ensure!(waits, "an accept ended though nobody has dialed");
        let dialing = dial(&fixture, &address);
        let accepting = async { listener.accept().await.promised("an accept") };
        let (near, accepted) = join(dialing, accepting).await;
        let (mut near, (mut far, from)) = (near?, accepted?);
        ensure!(!from.is_empty(), "the listener does not say where a connection comes from");
        near.write_all(b"x").await.promised("a write")?;
        far.read_exact(&mut [0]).await.promised("a read at the end that was accepted")?;
    }
    KEPT
}

async fn connections_do_not_mix(fixture: Arc<dyn NetFixture>) -> Outcome {
    let (mut listener, address) = listen(&fixture).await?;
    let runtime = fixture.runtime();
    let tasks = Arc::clone(&runtime);
    runtime.spawn(Box::pin(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tasks.spawn(Box::pin(async move {
                let mut number = [0; 4];
                while stream.read_exact(&mut number).await.is_ok() {
                    if stream.write_all(&number).await.is_err() {
                        return;
                    }
                }
            }));
        }
    }));
    let mut all = Vec::new();
    for _ in 0..100 {
        all.push(dial(&fixture, &address).await?);
    }
    for round in 0..3_u32 {
        for (number, stream) in (0_u32..).zip(&mut all) {
            let sent = (1_000 * round + number).to_le_bytes();
            stream.write_all(&sent).await.promised("a write")?;
        }
        for (number, stream) in (0_u32..).zip(&mut all) {
            let mut back = [0; 4];
            stream.read_exact(&mut back).await.promised("a read")?;
            let (sent, back) = (1_000 * round + number, u32::from_le_bytes(back));
            ensure!(back == sent, "{sent} was sent on one of a hundred connections, {back} came");
        }
    }
    KEPT
}

async fn listen(fixture: &Arc<dyn NetFixture>) -> Result<(Box<dyn Listener>, String), Broken> {
    let listener = fixture.net().listen(&fixture.any_address()).await.promised("listening")?;
    let address = listener.local_address().promised("asking a listener for its address")?;
    Ok((listener, address))
}

async fn dial(fixture: &Arc<dyn NetFixture>, address: &str) -> Result<BoxStream, Broken> {
    fixture.net().dial(address).await.promised("dialing where somebody listens")
}

/// The two ends of a connection, the dialer's first.
async fn pair(fixture: &Arc<dyn NetFixture>) -> Result<(BoxStream, BoxStream), Broken> {
    let (mut listener, address) = listen(fixture).await?;
    let accepting = async { listener.accept().await.promised("an accept") };
    let (near, far) = join(dial(fixture, &address), accepting).await;
    Ok((near?, far?.0))
}

async fn read_to_end(stream: &mut BoxStream) -> Result<Vec<u8>, Broken> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.promised("reading to the end")?;
    Ok(bytes)
}

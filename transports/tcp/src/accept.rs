//! The way in: who may come in, and what it brings.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::TryStreamExt as _;
use futures::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use futures::stream;
use kontiki::runtime::{BoxStream, ByteReader, Listener};
use kontiki::transport::Inbox;

use crate::dial::CHUNK_BYTES;
use crate::frames::{Broken, next_frame, next_message, out_of_place};
use crate::handshake::{Hello, KIND_CHUNK, KIND_END, Purpose, Welcome};
use crate::signal::within;
use crate::{Counts, Member, Shared, TcpConfig, handshake};

pub(crate) async fn run(shared: Weak<Shared>, mut listener: Box<dyn Listener>) {
    loop {
        let accepted = listener.accept().await;
        let Some(shared) = shared.upgrade() else { return };
        match accepted {
            Ok((stream, from)) => admit(&shared, stream, from),
            Err(error) => {
                tracing::debug!(%error, "a connection failed before it began");
                shared.runtime.timer(shared.runtime.now() + ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: BoxStream, from: String) {
    let (open, others) = Counted::new(shared, |counts| &counts.open);
    let (shaking, strangers) = Counted::new(shared, |counts| &counts.shaking);
    let TcpConfig { connections_max, handshakes_max, .. } = shared.config;
    if others >= connections_max as u64 || strangers >= handshakes_max as u64 {
        Shared::count(&shared.counts.turned_away);
        tracing::debug!(%from, "too many connections");
        return;
    }
    let (shared, closed) = (Arc::clone(shared), shared.closed.clone());
    let runtime = Arc::clone(&shared.runtime);
    runtime.spawn(Box::pin(async move {
        let _open = open;
        closed.until(serve(&shared, stream, &from, shaking)).await;
    }));
}

/// Counts a connection for as long as it is what it is counted as.
struct Counted {
    shared: Arc<Shared>,
    gauge: fn(&Counts) -> &AtomicU64,
}

impl Counted {
    /// And how many there were before.
    fn new(shared: &Arc<Shared>, gauge: fn(&Counts) -> &AtomicU64) -> (Self, u64) {
        let before = gauge(&shared.counts).fetch_add(1, Ordering::Relaxed);
        (Self { shared: Arc::clone(shared), gauge }, before)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.gauge)(&self.shared.counts).fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(shared: &Arc<Shared>, stream: BoxStream, from: &str, shaking: Counted) {
    let mut stream = BufReader::with_capacity(READ_BYTES, stream);
    let greeting = Hello::read(&mut stream);
    let hello = match within(&shared.runtime, shared.config.handshake_timeout, greeting).await {
        Some(Ok(hello)) => hello,
        Some(Err(error)) => {
            Shared::count(&shared.counts.bad_handshakes);
            tracing::debug!(%from, %error, "a connection began with something else");
            return;
        }
        None => {
            Shared::count(&shared.counts.bad_handshakes);
            tracing::debug!(%from, "a connection said nothing in time");
            return;
        }
    };
    let judged = hello.and_then(|hello| judge(shared, &hello).map(|member| (hello, member)));
    let (hello, member) = match judged {
        Ok(judged) => judged,
        Err(refused) => {
            // Whoever does not hear it finds a closed connection.
            let _ = answer(shared, refused, &mut stream).await;
            Shared::count(&shared.counts.refused_handshakes);
            tracing::warn!(%from, ?refused, "refused a connection");
            return;
        }
    };
    let serving = async {
        if !answer(shared, Welcome::Accepted, &mut stream).await {
            return;
        }
        drop(shaking);
        match hello.purpose {
            Purpose::Messages => messages(shared, &*member.inbox, &hello, stream, from).await,
            Purpose::Stream => receive_stream(shared, &*member.inbox, &hello, stream, from).await,
        }
    };
    member.ended.until(serving).await;
}

/// Answers a handshake; whether that got through.
async fn answer(shared: &Arc<Shared>, welcome: Welcome, stream: &mut BufReader<BoxStream>) -> bool {
    let answering = welcome.write(stream.get_mut());
    let answered = within(&shared.runtime, shared.config.handshake_timeout, answering).await;
    matches!(answered, Some(Ok(())))
}

fn judge(shared: &Shared, hello: &Hello) -> Result<Member, Welcome> {
    let member = shared.enter(hello.group).ok_or(Welcome::NoSuchGroup)?;
    let local = member.inbox.local();
    if hello.wanted.is_some_and(|wanted| wanted != local.node) || hello.from == local.node {
        return Err(Welcome::WrongNode);
    }
    if !member.inbox.accepts(hello.cluster, hello.from) {
        return Err(Welcome::WrongCluster);
    }
    Ok(member)
}

async fn messages(
    shared: &Shared,
    inbox: &dyn Inbox,
    hello: &Hello,
    mut stream: BufReader<BoxStream>,
    from: &str,
) {
    loop {
        // A peer that has nothing to say may be silent; the system finds out when it is gone.
        let begun = stream.fill_buf().await.map(<[u8]>::len);
        let next = match begun {
            Ok(0) => Err(Broken::Closed),
            Ok(_) => next_message(shared, hello, &mut stream).await,
            Err(error) => Err(Broken::Lost(error)),
        };
        match next {
            Ok(message) => inbox.deliver(message),
            Err(broken) => return broken.report(shared, from),
        }
    }
}

async fn receive_stream(
    shared: &Arc<Shared>,
    inbox: &dyn Inbox,
    hello: &Hello,
    mut stream: BufReader<BoxStream>,
    from: &str,
) {
    let head = match next_message(shared, hello, &mut stream).await {
        Ok(head) => head,
        Err(broken) => return broken.report(shared, from),
    };
    let (read_half, mut write_half) = stream.split();
    let body = body(Arc::clone(shared), read_half, from.to_owned());
    let verdict = handshake::encode_verdict(&inbox.receive_stream(head, body).await);
    let answering = async {
        write_half.write_all(&verdict).await?;
        write_half.close().await
    };
    // If it does not get through, the sender knows no better than that it does not know.
    let _ = within(&shared.runtime, shared.config.stall_timeout, answering).await;
}

/// The body of a stream: chunks up to the frame that ends it. Anything else is an error of the
/// reader.
fn body(
    shared: Arc<Shared>,
    stream: impl AsyncRead + Send + Unpin + 'static,
    from: String,
) -> ByteReader {
    let chunks = stream::try_unfold(stream, move |mut stream| {
        let (shared, from) = (Arc::clone(&shared), from.clone());
        async move {
            let broken = match next_frame(&shared, &mut stream, CHUNK_BYTES as u64).await {
                Ok((KIND_CHUNK, bytes)) => return Ok(Some((bytes, stream))),
                Ok((KIND_END, _)) => return Ok(None),
                Ok((kind, _)) => out_of_place(kind),
                Err(broken) => broken,
            };
            broken.report(&shared, &from);
            Err(io::Error::other(format!("the stream broke off: {broken:?}")))
        }
    });
    Box::pin(Box::pin(chunks).into_async_read())
}

const READ_BYTES: usize = 64 << 10;
/// How long the listener rests after a failure: without descriptors, say, the next attempt would
/// fail at once too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

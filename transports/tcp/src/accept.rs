//! The way in: who may come in, and what it brings.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use futures::stream;
use kontiki::runtime::{BoxStream, ByteReader, Listener};
use kontiki::transport::Message;
use kontiki::transport::frame::{FrameError, read_frame};

use crate::dial::CHUNK_BYTES;
use crate::handshake::{Hello, KIND_CHUNK, KIND_END, KIND_MESSAGE, Purpose, Welcome};
use crate::signal::within;
use crate::{Group, Shared, handshake};

pub(crate) async fn run(shared: Weak<Shared>, mut listener: Box<dyn Listener>) {
    loop {
        let accepted = listener.accept().await;
        let Some(shared) = shared.upgrade() else { return };
        match accepted {
            Ok((stream, from)) => admit(&shared, stream, from),
            Err(error) => {
                tracing::debug!(%error, "a connection failed before it began");
                // Out of descriptors, say: the next attempt would fail at once too.
                let pause = shared.config.handshake_timeout / 30;
                shared.runtime.timer(shared.runtime.now() + pause).await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, stream: BoxStream, from: String) {
    let open = shared.counts.open.fetch_add(1, Ordering::Relaxed);
    let guard = Open(Arc::clone(shared));
    if open >= shared.config.connections_max as u64 {
        Shared::count(&shared.counts.turned_away);
        return;
    }
    let (shared, closed) = (Arc::clone(shared), shared.closed.clone());
    let runtime = Arc::clone(&shared.runtime);
    runtime.spawn(Box::pin(async move {
        let _open = guard;
        closed.until(serve(&shared, stream, &from)).await;
    }));
}

/// Counts a connection as open for as long as it is.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(shared: &Arc<Shared>, stream: BoxStream, from: &str) {
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
    let judged = hello.and_then(|hello| judge(shared, &hello).map(|group| (hello, group)));
    let welcome = judged.as_ref().map_or_else(|refused| *refused, |_| Welcome::Accepted);
    let answering = welcome.write(stream.get_mut());
    let answered = within(&shared.runtime, shared.config.handshake_timeout, answering).await;
    let (hello, group) = match judged {
        Ok(judged) => judged,
        Err(refused) => {
            Shared::count(&shared.counts.refused_handshakes);
            tracing::warn!(%from, ?refused, "refused a connection");
            return;
        }
    };
    if !matches!(answered, Some(Ok(()))) {
        return;
    }
    let serving = async {
        match hello.purpose {
            Purpose::Messages => messages(shared, &group, &hello, stream, from).await,
            Purpose::Stream => receive_stream(shared, &group, &hello, stream, from).await,
        }
    };
    group.ended.until(serving).await;
}

fn judge(shared: &Shared, hello: &Hello) -> Result<Group, Welcome> {
    let group = shared.group(hello.group).ok_or(Welcome::NoSuchGroup)?;
    let local = group.inbox.local();
    if hello.wanted.is_some_and(|wanted| wanted != local.node) || hello.from == local.node {
        return Err(Welcome::WrongNode);
    }
    if !group.inbox.accepts(hello.cluster, hello.from) {
        return Err(Welcome::WrongCluster);
    }
    Ok(group)
}

async fn messages(
    shared: &Arc<Shared>,
    group: &Group,
    hello: &Hello,
    mut stream: BufReader<BoxStream>,
    from: &str,
) {
    loop {
        match read_message(shared, hello, &mut stream, from).await {
            Some(message) => group.inbox.deliver(message),
            None => return,
        }
    }
}

/// The next message; `None` if the connection is of no more use.
async fn read_message(
    shared: &Arc<Shared>,
    hello: &Hello,
    stream: &mut (impl AsyncRead + Unpin),
    from: &str,
) -> Option<Message> {
    let message = match read_frame(stream, shared.config.message_bytes_max).await {
        Ok((KIND_MESSAGE, bytes)) => Message::decode(bytes).map_err(|error| error.to_string()),
        Ok((kind, _)) => Err(format!("a frame of kind {kind} is out of place")),
        Err(FrameError::Closed | FrameError::Io(_)) => return None,
        Err(error) => Err(error.to_string()),
    };
    let message = match message {
        Ok(message) => message,
        Err(error) => {
            Shared::count(&shared.counts.bad_frames);
            tracing::warn!(%from, %error, "a bad frame; the connection is closed");
            return None;
        }
    };
    if message.from() != hello.from || message.group() != hello.group {
        Shared::count(&shared.counts.forged_messages);
        tracing::warn!(%from, "a message in the name of another; the connection is closed");
        return None;
    }
    Some(message)
}

async fn receive_stream(
    shared: &Arc<Shared>,
    group: &Group,
    hello: &Hello,
    mut stream: BufReader<BoxStream>,
    from: &str,
) {
    let stall = shared.config.stall_timeout;
    let reading = read_message(shared, hello, &mut stream, from);
    let Some(Some(head)) = within(&shared.runtime, stall, reading).await else { return };
    let (read_half, mut write_half) = stream.split();
    let verdict = group.inbox.receive_stream(head, body(shared, read_half)).await;
    let verdict = handshake::encode_verdict(&verdict);
    let answering = async {
        write_half.write_all(&verdict).await?;
        write_half.close().await
    };
    // If it does not get through, the sender knows no better than that it does not know.
    let _ = within(&shared.runtime, stall, answering).await;
}

/// The body of a stream: chunks up to the frame that ends it. Anything else is an error of the
/// reader.
fn body(shared: &Arc<Shared>, stream: impl AsyncRead + Send + Unpin + 'static) -> ByteReader {
    let chunks = stream::try_unfold((Arc::clone(shared), stream), |(shared, mut stream)| async {
        let reading = read_frame(&mut stream, CHUNK_BYTES as u64);
        let read = within(&shared.runtime, shared.config.stall_timeout, reading).await;
        match read.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))? {
            Ok((KIND_CHUNK, bytes)) => Ok::<_, io::Error>(Some((bytes, (shared, stream)))),
            Ok((KIND_END, _)) => Ok(None),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(FrameError::Closed) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => {
                Shared::count(&shared.counts.bad_frames);
                Err(io::Error::other(error.to_string()))
            }
        }
    });
    Box::pin(Box::pin(chunks.map_ok(|bytes: Bytes| bytes)).into_async_read())
}

const READ_BYTES: usize = 64 << 10;

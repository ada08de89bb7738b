//! Frames of a peer: how long they may take to come, and what is done about bad ones.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::io::AsyncRead;
use kontiki::runtime::Timer;
use kontiki::transport::Message;
use kontiki::transport::frame::{FrameError, read_frame};

use crate::Shared;
use crate::handshake::{Hello, KIND_MESSAGE};

/// Why a connection is of no more use.
#[derive(Debug)]
pub(crate) enum Broken {
    Bad(String),
    /// By its peer, between two frames.
    Closed,
    Forged,
    Lost(io::Error),
    Stalled,
}

impl Broken {
    pub(crate) fn report(&self, shared: &Shared, from: &str) {
        match self {
            Self::Bad(error) => {
                Shared::count(&shared.counts.bad_frames);
                tracing::warn!(%from, %error, "a bad frame; the connection is closed");
            }
            Self::Closed => {}
            Self::Forged => {
                Shared::count(&shared.counts.forged_messages);
                tracing::warn!(%from, "a message in the name of another; the connection is closed");
            }
            Self::Lost(error) => tracing::debug!(%from, %error, "a connection was lost"),
            Self::Stalled => {
                Shared::count(&shared.counts.stalled);
                tracing::warn!(%from, "a connection brought nothing in time; it is closed");
            }
        }
    }
}

/// The next frame. Nothing may come for [`stall_timeout`](crate::TcpConfig::stall_timeout), no
/// longer; as long as something comes, it may take its time.
pub(crate) async fn next_frame(
    shared: &Shared,
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: u64,
) -> Result<(u8, Bytes), Broken> {
    let mut steady = Steady { stream, shared, waiting: false, timer: None };
    read_frame(&mut steady, bytes_max).await.map_err(|error| match error {
        FrameError::Closed => Broken::Closed,
        FrameError::Io(error) if error.kind() == io::ErrorKind::TimedOut => Broken::Stalled,
        FrameError::Io(error) => Broken::Lost(error),
        error => Broken::Bad(error.to_string()),
    })
}

pub(crate) async fn next_message(
    shared: &Shared,
    hello: &Hello,
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Message, Broken> {
    let (kind, bytes) = next_frame(shared, stream, shared.config.message_bytes_max).await?;
    if kind != KIND_MESSAGE {
        return Err(out_of_place(kind));
    }
    let message = Message::decode(bytes).map_err(|error| Broken::Bad(error.to_string()))?;
    if message.from() != hello.from || message.group() != hello.group {
        return Err(Broken::Forged);
    }
    Ok(message)
}

pub(crate) fn out_of_place(kind: u8) -> Broken {
    Broken::Bad(format!("a frame of kind {kind} is out of place"))
}

/// Reads, but does not wait for ever.
struct Steady<'a, S> {
    stream: &'a mut S,
    shared: &'a Shared,
    waiting: bool,
    timer: Option<Pin<Box<dyn Timer>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Steady<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, shared, waiting, timer } = self.get_mut();
        if let Poll::Ready(read) = Pin::new(stream).poll_read(cx, into) {
            *waiting = false;
            return Poll::Ready(read);
        }
        let deadline = || shared.runtime.now() + shared.config.stall_timeout;
        let timer = timer.get_or_insert_with(|| shared.runtime.timer(deadline()));
        if !std::mem::replace(waiting, true) {
            timer.as_mut().reset(deadline());
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

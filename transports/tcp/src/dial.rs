//! The way out: one task a peer, which connects, empties the peer's queue, and connects again.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use kontiki::runtime::{BoxStream, ByteReader};
use kontiki::transport::frame::{frame, frame_head, read_frame};
use kontiki::transport::{Inbox, Message, Peer, TransportError};

use crate::Shared;
use crate::handshake::{self, Hello, KIND_CHUNK, KIND_END, KIND_MESSAGE, Purpose, Welcome};
use crate::outbox::Outbox;
use crate::signal::within;

pub(crate) async fn run(
    shared: Arc<Shared>,
    inbox: &dyn Inbox,
    peer: Peer,
    outbox: Arc<Outbox>,
    mut dice: fastrand::Rng,
) {
    let mut failures = 0;
    // Nothing is dialed before there is something to say.
    while let Some(mut parts) = poll_fn(|cx| outbox.poll_take(cx)).await {
        match connect(&shared, inbox, &peer, Purpose::Messages).await {
            Ok(mut stream) => {
                failures = 0;
                Shared::count(&shared.counts.connected);
                let lost = loop {
                    if let Err(error) = write(&shared, &mut stream, parts).await {
                        break error;
                    }
                    match poll_fn(|cx| outbox.poll_take(cx)).await {
                        Some(next) => parts = next,
                        None => return,
                    }
                };
                tracing::debug!(peer = %peer.address, error = %lost, "connection lost");
            }
            Err(error) => tracing::debug!(peer = %peer.address, %error, "no connection"),
        }
        outbox.clear();
        if let Some(id) = peer.id {
            inbox.unreachable(id);
        }
        let pause = backoff(failures, &mut dice);
        failures += 1;
        shared.runtime.timer(shared.runtime.now() + pause).await;
    }
}

/// Doubles from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], and chance takes away up to half.
fn backoff(failures: u32, dice: &mut fastrand::Rng) -> Duration {
    let whole = BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    whole.mul_f64(0.5 + dice.f64() / 2.0)
}

async fn connect(
    shared: &Arc<Shared>,
    inbox: &dyn Inbox,
    peer: &Peer,
    purpose: Purpose,
) -> Result<BoxStream, TransportError> {
    let connecting = async {
        let unreachable = |error: io::Error| unreachable(error.to_string());
        let mut stream = shared.net.dial(&peer.address).await.map_err(unreachable)?;
        let hello = Hello::new(&inbox.local(), peer, purpose);
        hello.write(&mut stream).await.map_err(unreachable)?;
        let welcome = Welcome::read(&mut stream).await;
        match welcome.map_err(|error| self::unreachable(error.to_string()))? {
            Welcome::Accepted => Ok(stream),
            refused => {
                tracing::warn!(peer = %peer.address, ?refused, "the peer refused the handshake");
                Err(self::unreachable(format!("the peer refused: {refused:?}")))
            }
        }
    };
    let connected = within(&shared.runtime, shared.config.handshake_timeout, connecting).await;
    connected.unwrap_or_else(|| Err(unreachable("no answer in time".to_owned())))
}

async fn write(
    shared: &Arc<Shared>,
    stream: &mut (impl AsyncWrite + Unpin),
    parts: Vec<Bytes>,
) -> io::Result<()> {
    let mut parts: std::collections::VecDeque<Bytes> = parts.into();
    while !parts.is_empty() {
        let slices: Vec<IoSlice<'_>> =
            parts.iter().take(SLICES_MAX).map(|part| IoSlice::new(part)).collect();
        let writing = stream.write_vectored(&slices);
        let stalled = || io::Error::from(io::ErrorKind::TimedOut);
        let written = within(&shared.runtime, shared.config.stall_timeout, writing).await;
        let mut written = written.ok_or_else(stalled)??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = parts.front_mut() {
            if written < first.len() {
                bytes::Buf::advance(first, written);
                break;
            }
            written -= first.len();
            parts.pop_front();
        }
    }
    stream.flush().await
}

pub(crate) async fn send_stream(
    shared: &Arc<Shared>,
    inbox: &dyn Inbox,
    peer: &Peer,
    head: Message,
    body: ByteReader,
) -> Result<(), TransportError> {
    let mut stream = connect(shared, inbox, peer, Purpose::Stream).await?;
    let sent = send_all(shared, &mut stream, head, body).await;
    if sent.is_err() {
        // The receiver need not find out by waiting that no more comes.
        let _ = within(&shared.runtime, shared.config.stall_timeout, stream.close()).await;
    }
    // A receiver that refuses says so before all is sent, and stops reading.
    let reading = read_frame(&mut stream, 1 + handshake::VERDICT_TEXT_MAX as u64);
    let read = within(&shared.runtime, shared.config.verdict_timeout, reading).await;
    let verdict = match read {
        Some(Ok((kind, bytes))) => handshake::decode_verdict(kind, &bytes),
        _ => None,
    };
    match (verdict, sent) {
        (Some(verdict), _) => verdict.map_err(TransportError::Refused),
        (None, Err(error)) => Err(unreachable(error.to_string())),
        (None, Ok(())) => Err(unreachable("the stream was not acknowledged".to_owned())),
    }
}

async fn send_all(
    shared: &Arc<Shared>,
    stream: &mut BoxStream,
    head: Message,
    mut body: ByteReader,
) -> io::Result<()> {
    let encoded = head.encode().parts;
    let mut parts = vec![frame_head(KIND_MESSAGE, &encoded)];
    parts.extend(encoded);
    write(shared, stream, parts).await?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = body.read(&mut chunk).await?;
        if read == 0 {
            break;
        }
        write(shared, stream, vec![frame(KIND_CHUNK, &chunk[..read])]).await?;
    }
    write(shared, stream, vec![frame(KIND_END, &[])]).await
}

fn unreachable(reason: String) -> TransportError {
    TransportError::Unreachable { reason }
}

/// How long the first pause between two attempts to connect is, at most.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// How long a pause ever is.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// How many pieces one write gathers.
const SLICES_MAX: usize = 64;
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_chance_takes_up_to_half() {
        let mut dice = fastrand::Rng::with_seed(1);
        for (failures, most) in [(0, 50), (1, 100), (4, 800), (6, 2_000), (u32::MAX, 2_000)] {
            let most = Duration::from_millis(most);
            let pauses: Vec<_> = (0..100).map(|_| backoff(failures, &mut dice)).collect();
            let (least, longest) = (pauses.iter().min(), pauses.iter().max());
            let (Some(&least), Some(&longest)) = (least, longest) else { unreachable!() };
            assert!(least >= most / 2 && longest <= most, "{least:?} to {longest:?}");
            assert!(longest - least > most / 3, "they differ: {least:?} to {longest:?}");
        }
    }
}

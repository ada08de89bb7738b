//! What the adapters of real runtimes share: the options of a connection, and blocking work that nobody cancels.

use std::io;
use std::time::Duration;

use futures::channel::oneshot;
use socket2::{SockRef, TcpKeepalive};

use super::BoxFuture;

/// Makes small writes leave at once, and lets the system find out that a silent peer's machine is gone.
pub(super) fn tune(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE_IDLE);
    #[cfg(any(target_os = "linux", target_vendor = "apple", windows))]
    let keep_alive = keep_alive.with_interval(KEEP_ALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keep_alive)
}

/// Hands `work` to `start` and returns a future that ends when `work` has ended, by a panic too.
///
/// smol and async-std cancel a job whose handle is dropped, tokio does not; this way none does.
#[cfg(any(feature = "runtime-async-std", feature = "runtime-smol"))]
pub(super) fn detached(
    work: Box<dyn FnOnce() + Send>,
    start: impl FnOnce(Box<dyn FnOnce() + Send>),
) -> BoxFuture<'static> {
    let (ended, end) = oneshot::channel::<()>();
    start(Box::new(move || {
        // Dropped after the work, or by its panic.
        let _ended = ended;
        work();
    }));
    Box::pin(async move {
        let _ = end.await;
    })
}

/// How long a connection is silent before the system asks whether the peer is still there.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(15);

/// How long the system waits between two such questions.
#[cfg(any(target_os = "linux", target_vendor = "apple", windows))]
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

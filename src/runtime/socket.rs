//! The options that every adapter sets on a TCP connection.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Makes small writes leave at once, and lets the system find out that a silent peer's machine is
/// gone.
pub(super) fn tune(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE_IDLE);
    #[cfg(any(target_os = "linux", target_vendor = "apple", windows))]
    let keep_alive = keep_alive.with_interval(KEEP_ALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keep_alive)
}

/// How long a connection is silent before the system asks whether the peer is still there.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(15);

/// How long the system waits between two such questions.
#[cfg(any(target_os = "linux", target_vendor = "apple", windows))]
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_tuned_socket_does_not_delay_and_asks_silent_peers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        tune(SockRef::from(&stream)).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
    }
}

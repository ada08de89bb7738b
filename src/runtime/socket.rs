//! The options that every adapter sets on a TCP connection.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Makes small writes leave at once, and lets the system find out that a peer's machine is gone,
/// whether the connection is silent or not.
pub(super) fn tune(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // Otherwise what is under way when a network is cut is sent again at growing intervals, and the
    // connection is of no use for a minute after the network has come back.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
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

/// How long what was sent may remain unacknowledged.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

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
        #[cfg(any(target_os = "android", target_os = "linux"))]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_MAX));
    }
}

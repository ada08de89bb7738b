//! Sockets, as far as the library needs them.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;

use async_trait::async_trait;
use futures::io::{AsyncRead, AsyncWrite};

/// The stream sockets of a runtime.
///
/// Addresses are strings: what one means is the adapter's business. The adapters here take
/// `host:port` and resolve names.
#[async_trait]
pub trait Net: Debug + Send + Sync + 'static {
    /// Connects to `address`. Small writes leave at once (no Nagle delay).
    async fn dial(&self, address: &str) -> io::Result<BoxStream>;

    /// Listens on `address`; port 0 takes a free one.
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>>;
}

/// A socket that accepts connections; dropping it frees the address.
#[async_trait]
pub trait Listener: Send {
    /// Waits for a connection; says where it comes from.
    ///
    /// An error concerns one connection, not the listener: call again.
    async fn accept(&mut self) -> io::Result<(BoxStream, String)>;

    /// The address others can dial, with the real port.
    fn local_address(&self) -> io::Result<String>;
}

/// A connection: bytes in both directions, in order. `poll_close` ends the writing half; dropping
/// ends both.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection of any runtime.
pub type BoxStream = Box<dyn Stream>;

/// Bytes to be read, wherever they come from: a file, a connection, memory.
pub type ByteReader = Pin<Box<dyn AsyncRead + Send>>;
